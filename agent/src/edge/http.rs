//! The agent's port: the Sandbox, Containers and Executor services, Mesos' `/files`, `/api/v1` and
//! executor API, `/metrics` and `/health`.

use allotment_proto::MESSAGE_LEN_MAX;
use allotment_proto::allot::containers_server::ContainersServer;
use allotment_proto::allot::executor_server::ExecutorServer;
use allotment_proto::allot::sandbox_server::SandboxServer;
use allotment_types::{Name, Resources, Timestamp};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};

use super::driver::Query;
use super::exec::Doors;
use super::executors::{CALL_LEN_MAX, ExecutorDoor};
use super::files::Files;
use super::nested::Nested;
use crate::clock;
use crate::core::Overview;

#[derive(Debug, Clone)]
struct Served {
    queries: mpsc::Sender<Query>,
    started: Timestamp,
}

/// Everything that is served.
pub(super) fn router(files: Files, doors: Doors, executors: ExecutorDoor) -> Router {
    let served = Served {
        queries: files.queries.clone(),
        started: clock::now(),
    };
    let mesos = super::mesos_files::router(files.work_dir.clone());
    let service = SandboxServer::new(files).max_decoding_message_size(MESSAGE_LEN_MAX);
    let api = super::mesos_api::router(Nested::new(doors.clone()));
    let containers = ContainersServer::new(doors).max_decoding_message_size(MESSAGE_LEN_MAX);
    let calls = ExecutorServer::new(executors.clone()).max_decoding_message_size(CALL_LEN_MAX);
    tonic::service::Routes::new(service)
        .add_service(containers)
        .add_service(calls)
        .into_axum_router()
        .merge(
            Router::new()
                .route("/metrics", get(metrics))
                .route("/health", get(health))
                .with_state(served),
        )
        .merge(mesos)
        .merge(api)
        .merge(super::executor_http::router(executors))
        .fallback(nothing_here)
}

async fn nothing_here(request: axum::extract::Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let message = format!("{} is no method of this agent", request.uri().path());
        return tonic::Status::unimplemented(message).into_http();
    }
    let text = "the agent serves /metrics, /health, /files, /api/v1, /api/v1/executor and its \
                gRPC services here\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

impl Served {
    async fn overview(&self) -> Option<Overview> {
        let (reply, answer) = oneshot::channel();
        self.queries.send(Query::Overview(reply)).await.ok()?;
        answer.await.ok()
    }
}

const STOPPING: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");

async fn health(State(served): State<Served>) -> Response {
    let Some(overview) = served.overview().await else {
        return STOPPING.into_response();
    };
    axum::Json(serde_json::json!({
        "healthy": true,
        "registered": overview.registered,
        "agent_id": overview.agent.map(|agent| agent.to_string()),
    }))
    .into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let Some(overview) = served.overview().await else {
        return STOPPING.into_response();
    };
    let uptime = clock::now().since(served.started).as_secs_f64();
    let registry = registry(&overview, uptime);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Mesos' names with `_` for `/`; counters end in `_total`, as the text format asks.
fn registry(overview: &Overview, uptime: f64) -> Registry {
    let mut registry = Registry::default();
    let mut gauge = |name: &str, help: &str, value: f64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
    let count = |n: usize| n as f64;
    gauge(
        "slave_uptime_secs",
        "Seconds since the agent started",
        uptime,
    );
    let registered = if overview.registered { 1.0 } else { 0.0 };
    gauge(
        "slave_registered",
        "Whether a master knows this agent",
        registered,
    );
    gauge(
        "slave_tasks_starting",
        "Tasks being prepared",
        count(overview.tasks_starting),
    );
    gauge(
        "slave_tasks_running",
        "Tasks that run",
        count(overview.tasks_running),
    );
    gauge(
        "slave_tasks_killing",
        "Tasks being killed",
        count(overview.tasks_killing),
    );
    gauge(
        "slave_tasks_recovering",
        "Tasks of an earlier run whose containers were not heard of yet",
        count(overview.tasks_recovering),
    );
    gauge(
        "slave_executors",
        "Custom executors, and default ones with tasks",
        count(overview.executors),
    );
    gauge(
        "slave_status_updates_pending",
        "Updates that no framework has acknowledged",
        count(overview.updates_pending),
    );
    gauge(
        "slave_sandboxes_kept",
        "Sandboxes of ended tasks that are not collected yet",
        count(overview.sandboxes_kept),
    );
    let used = overview.total.minus(&overview.free);
    for name in [Name::CPUS, Name::MEM, Name::DISK] {
        let amount = |resources: &Resources| resources.scalar(&name).as_f64();
        let (total, used) = (amount(&overview.total), amount(&used));
        gauge(&format!("slave_{name}_total"), "What this agent has", total);
        gauge(&format!("slave_{name}_used"), "What tasks hold", used);
        let part = if total > 0.0 { used / total } else { 0.0 };
        let help = "The part that tasks hold";
        gauge(&format!("slave_{name}_percent"), help, part);
    }
    let counts = overview.counts;
    for (name, help, value) in [
        (
            "slave_tasks_finished",
            "Tasks that finished",
            counts.finished,
        ),
        ("slave_tasks_failed", "Tasks that failed", counts.failed),
        (
            "slave_tasks_killed",
            "Tasks that were killed",
            counts.killed,
        ),
        (
            "slave_tasks_lost",
            "Tasks that ended in any other way",
            counts.other,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(value));
    }
    registry
}
