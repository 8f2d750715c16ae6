//! The plain HTTP pages: `/metrics`, `/health`, `/version`, `/redirect`.
//!
//! A master that does not lead answers these itself and sends everything else to the leader, in
//! Mesos' shape: 307 with a `Location` that has no scheme.

use allotment_proto::VERSION;
use axum::extract::{Request as HttpRequest, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{StatusCode, Uri, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::grpc::Door;
use super::masters::Desk;
use crate::core::{Counters, Metrics, Reply, Request};

pub(super) fn router(door: Door, desk: Desk) -> Router {
    let grpc = door.clone().routes(desk).into_axum_router();
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/health",
            get(|| async { Json(json!({ "healthy": true })) }),
        )
        .route("/version", get(version))
        .route("/redirect", any(redirect))
        .with_state(door.clone());
    // gRPC services refuse by themselves, with the leader's address in the status.
    let to_leader = axum::middleware::from_fn_with_state(door, to_leader);
    grpc.merge(pages)
        .fallback_service(any(nothing_here).layer(to_leader))
}

fn is_grpc(request: &HttpRequest) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn to_leader(State(door): State<Door>, request: HttpRequest, next: Next) -> Response {
    if is_grpc(&request) {
        return next.run(request).await;
    }
    match door.leader_elsewhere() {
        None => next.run(request).await,
        Some(leader) => elsewhere(leader.as_deref(), request.uri()),
    }
}

fn elsewhere(leader: Option<&str>, uri: &Uri) -> Response {
    let Some(leader) = leader else {
        let message = "this master does not lead, and no leader is known right now\n";
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let location = format!("//{leader}{path}");
    (
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, location)],
    )
        .into_response()
}

/// Mesos' `/redirect`: whoever asks any master ends at the leader.
async fn redirect(State(door): State<Door>) -> Response {
    match door.leader_elsewhere() {
        Some(leader) => elsewhere(leader.as_deref(), &Uri::from_static("/")),
        None => (StatusCode::OK, "this master leads\n").into_response(),
    }
}

async fn version() -> Json<serde_json::Value> {
    Json(json!({ "name": "allotment-master", "version": VERSION }))
}

async fn nothing_here(request: HttpRequest) -> Response {
    if is_grpc(&request) {
        let message = format!("{} is no method of this master", request.uri().path());
        return tonic::Status::unimplemented(message).into_http();
    }
    let message =
        "the master serves /metrics, /health, /version, /redirect and its gRPC services here\n";
    (StatusCode::NOT_FOUND, message).into_response()
}

async fn metrics(State(door): State<Door>) -> Response {
    if door.leader_elsewhere().is_some() {
        return page(render_follower());
    }
    let reading = match door.ask(Request::Metrics).await {
        Ok(Reply::Metrics(reading)) => reading,
        Ok(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(status) => {
            let message = status.message().to_owned();
            return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
        }
    };
    page(render(&reading))
}

fn page(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All that a master knows which does not lead.
fn render_follower() -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let help = "Whether this master leads";
    registry.register("master_elected", help, ConstGauge::new(0.0));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Mesos' names with `_` for `/`; counters end in `_total`, as the text format asks.
fn render(metrics: &Metrics) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let mut gauge = |name: String, help: &str, value: f64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    gauge(
        "master_elected".to_owned(),
        "Whether this master leads",
        1.0,
    );
    gauge(
        "master_uptime_secs".to_owned(),
        "Seconds since the start",
        metrics.uptime_secs,
    );
    let counts = [
        (
            "master_slaves_active",
            "Agents with a session",
            metrics.agents_active,
        ),
        (
            "master_slaves_inactive",
            "Agents without a session, not given up",
            metrics.agents_inactive,
        ),
        (
            "master_slaves_unreachable",
            "Agents given up for now",
            metrics.agents_unreachable,
        ),
        (
            "master_frameworks_active",
            "Frameworks with a stream",
            metrics.frameworks_active,
        ),
        (
            "master_frameworks_inactive",
            "Frameworks without a stream, not removed",
            metrics.frameworks_inactive,
        ),
        (
            "master_outstanding_offers",
            "Offers that await an answer",
            metrics.outstanding_offers,
        ),
    ];
    for (name, help, value) in counts {
        gauge(name.to_owned(), help, number(value));
    }
    for (state, count) in &metrics.tasks {
        gauge(
            format!("master_tasks_{state}"),
            "Live tasks in this state",
            number(*count),
        );
    }
    for (name, total, used) in &metrics.resources {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        gauge(format!("master_{name}_total"), "What agents have", *total);
        gauge(format!("master_{name}_used"), "What tasks hold", *used);
        let share = if *total > 0.0 { used / total } else { 0.0 };
        gauge(
            format!("master_{name}_percent"),
            "Used of total, 0 to 1",
            share,
        );
    }
    let Counters {
        tasks_launched,
        tasks_finished,
        tasks_failed,
        tasks_killed,
        tasks_error,
        tasks_lost,
        tasks_dropped,
        tasks_gone,
        calls,
        calls_rejected,
        agent_messages,
        updates_received,
        updates_invalid,
        updates_sent,
        acknowledgements,
        offers_sent,
        offers_expired,
        allocation_runs,
        allocation_runs_unfinished,
        allocation_looks,
        agent_registrations,
        agent_reregistrations,
        agents_unreachable,
    } = metrics.counters;
    let counters = [
        ("master_tasks_launched", "Tasks launched", tasks_launched),
        ("master_tasks_finished", "Tasks finished", tasks_finished),
        ("master_tasks_failed", "Tasks failed", tasks_failed),
        ("master_tasks_killed", "Tasks killed", tasks_killed),
        ("master_tasks_error", "Tasks refused", tasks_error),
        ("master_tasks_lost", "Tasks lost", tasks_lost),
        ("master_tasks_dropped", "Tasks dropped", tasks_dropped),
        ("master_tasks_gone", "Tasks gone", tasks_gone),
        ("master_calls", "Calls from frameworks", calls),
        ("master_calls_rejected", "Calls refused", calls_rejected),
        (
            "master_agent_messages",
            "Messages from agents",
            agent_messages,
        ),
        (
            "master_messages_status_update",
            "Status updates from agents",
            updates_received,
        ),
        (
            "master_invalid_status_updates",
            "Status updates that made no sense",
            updates_invalid,
        ),
        (
            "master_status_updates_sent",
            "Status updates sent to frameworks",
            updates_sent,
        ),
        (
            "master_messages_status_update_acknowledgement",
            "Acknowledgements forwarded to agents",
            acknowledgements,
        ),
        ("master_offers_sent", "Offers sent", offers_sent),
        (
            "master_offers_expired",
            "Offers taken back after their time",
            offers_expired,
        ),
        (
            "allocator_mesos_allocation_runs",
            "Allocation rounds",
            allocation_runs,
        ),
        (
            "allocator_allocation_runs_unfinished",
            "Allocation rounds that reached round_looks and went on at once",
            allocation_runs_unfinished,
        ),
        (
            "allocator_looks",
            "How often a framework was considered on an agent",
            allocation_looks,
        ),
        (
            "master_slave_registrations",
            "Agents that registered",
            agent_registrations,
        ),
        (
            "master_slave_reregistrations",
            "Agents that came back",
            agent_reregistrations,
        ),
        (
            "master_slave_unreachable_completed",
            "Agents marked unreachable",
            agents_unreachable,
        ),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
