//! HTTP: bytes to requests, answers to bytes. What is decided lies elsewhere.

use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::cluster::Cluster;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::Message;
use super::metrics::Metrics;
use crate::core::answer::Answer;
use crate::core::json::BODY_LEN_MAX;
use crate::core::{Request, Settings, request, why};

/// How far the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// The state is not loaded, and why.
    Waiting(String),
    /// Requests are answered.
    Serving,
    /// The process has ended by itself.
    Dead(String),
}

/// What every request needs.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) cluster: Option<Cluster>,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    /// `host:port`, for `/v2/info`.
    pub(super) address: String,
}

/// A request that is not answered by then is answered 503; the masters' store answers within
/// milliseconds, and clients give up sooner than this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a request waits for the state to be loaded: a start takes some milliseconds, and
/// whoever asks should hear soon when there is no master at all.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Marathon's version, whose API this is: clients read it to know what they may use.
const MARATHON_VERSION: &str = "1.11.24";

/// Everything that is served.
pub(super) fn router(door: Arc<Door>) -> Router {
    Router::new().fallback(serve).with_state(door)
}

async fn serve(
    State(door): State<Arc<Door>>,
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let response = match uri.path().trim_end_matches('/') {
        "/ping" => text(StatusCode::OK, "text/plain", "pong".to_owned()),
        "/health" => health(&door),
        "/metrics" | "/metrics/prometheus" => {
            let stats = stats(&door).await;
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            text(StatusCode::OK, kind, door.metrics.text(stats))
        }
        _ => {
            let answer = match answer(&door, &method, &uri, &headers, body).await {
                Ok(answer) | Err(answer) => answer,
            };
            to_http(answer)
        }
    };
    door.metrics.requests.inc();
    if response.status().as_u16() >= 400 {
        door.metrics.refusals.inc();
    }
    response
}

fn health(door: &Door) -> Response<Body> {
    let phase = door.phase.borrow().clone();
    let (status, body) = match phase {
        Phase::Serving => (200, json!({ "healthy": true })),
        // It answers and will work once there is a master: alive.
        Phase::Waiting(reason) => (200, json!({ "healthy": true, "waiting": reason })),
        Phase::Dead(reason) => (503, json!({ "healthy": false, "message": reason })),
    };
    to_http(Answer::json(status, body))
}

async fn answer(
    door: &Door,
    method: &Method,
    uri: &http::Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, Answer> {
    let trimmed: Vec<&str> = uri.path().split('/').filter(|p| !p.is_empty()).collect();
    match (method, trimmed.as_slice()) {
        (&Method::GET, ["v2", "info"]) => return Ok(info(door).await),
        (&Method::GET, ["v2", "leader"]) => return Ok(leader(door)),
        _ => {}
    }
    let body = read_body(headers, body).await?;
    let query = uri.query().unwrap_or_default();
    let request = request::read(method.as_str(), uri.path(), query, &body)?;
    if let Request::Why { .. } = request
        && let Some(cluster) = &door.cluster
        && let Ok(agents) = cluster.agents().await
    {
        let rooms = agents.into_iter().map(room).collect();
        // Without them the answer says so.
        let _ = door.messages.send(Message::Agents(rooms)).await;
    }
    ask(door, request).await
}

fn room(agent: allotment_framework_sdk::cluster::Agent) -> why::AgentRoom {
    why::AgentRoom {
        place: crate::core::constraint::Place::from_texts(&agent.hostname, &agent.attributes),
        id: agent.id,
        hostname: agent.hostname,
        active: agent.active,
        total: agent.total,
        free: agent.unused,
    }
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, Answer> {
    let too_large = || {
        Answer::refuse(
            413,
            format!("the body is larger than {BODY_LEN_MAX} bytes; send less at once"),
        )
    };
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|len| len > BODY_LEN_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_LEN_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Answer::refuse(400, format!("the body broke off: {error}"))),
    }
}

/// Puts a request to the core and waits for its answer.
pub(super) async fn ask(door: &Door, request: Request) -> Result<Answer, Answer> {
    let mut phases = door.phase.clone();
    // A request that comes while the process starts, or right after a master, waits a little.
    let loaded = phases.wait_for(|phase| !matches!(phase, Phase::Waiting(_)));
    let _ = tokio::time::timeout(START_PATIENCE, loaded).await;
    let phase = door.phase.borrow().clone();
    match phase {
        Phase::Serving => {}
        Phase::Waiting(reason) => {
            return Err(Answer::refuse(
                503,
                format!(
                    "no master is reachable at {}, so the apps are not known yet: {reason}",
                    door.settings.master
                ),
            ));
        }
        Phase::Dead(reason) => return Err(Answer::refuse(503, reason)),
    }
    let (reply, answer) = oneshot::channel();
    let message = Message::Request { request, reply };
    let asked = async {
        door.messages.send(message).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Answer::refuse(503, "the services framework is stopping")),
        Err(_) => Err(Answer::refuse(
            503,
            format!(
                "the masters' store at {} did not answer within {} s; what was asked may still \
                 happen, look before you ask again",
                door.settings.master,
                ANSWER_TIMEOUT.as_secs()
            ),
        )),
    }
}

async fn stats(door: &Door) -> Option<crate::core::Stats> {
    if *door.phase.borrow() != Phase::Serving {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    door.messages.send(Message::Stats(reply)).await.ok()?;
    Some(answer.await.ok()?.stats)
}

async fn info(door: &Door) -> Answer {
    let framework = {
        let serving = *door.phase.borrow() == Phase::Serving;
        let (reply, answer) = oneshot::channel();
        let sent = serving && door.messages.send(Message::Stats(reply)).await.is_ok();
        if sent {
            answer.await.ok().and_then(|s| s.framework)
        } else {
            None
        }
    };
    let port = door
        .address
        .rsplit(':')
        .next()
        .and_then(|p| p.parse::<u16>().ok());
    let settings = &door.settings;
    let (min, max) = settings.service_ports;
    Answer::ok(json!({
        "name": settings.name,
        "version": MARATHON_VERSION,
        "buildref": format!("allotment-{}", env!("CARGO_PKG_VERSION")),
        "elected": true,
        "leader": door.address,
        "frameworkId": framework,
        "marathon_config": {
            "master": settings.master,
            "framework_name": settings.name,
            "mesos_role": settings.role.as_str(),
            "ha": true,
            "local_port_min": min,
            "local_port_max": max,
            "decline_offer_duration": u64::try_from(settings.decline_for.as_millis()).ok(),
            "reconciliation_interval": u64::try_from(settings.reconcile_interval.as_millis()).ok(),
            "task_launch_timeout": u64::try_from(settings.launch_timeout.as_millis()).ok(),
            "features": [],
        },
        "zookeeper_config": {},
        "http_config": { "http_port": port, "https_port": Value::Null },
    }))
}

fn leader(door: &Door) -> Answer {
    Answer::ok(json!({ "leader": door.address }))
}

fn to_http(answer: Answer) -> Response<Body> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match answer.body {
        Some(body) => text(status, "application/json", body.to_string()),
        None => text(status, "application/json", String::new()),
    };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.and_then(|v| v.parse().ok()) {
            headers.insert(name, value);
        }
    };
    set("marathon-deployment-id", answer.deployment);
    set("location", answer.location);
    if answer.status == 503 {
        set("retry-after", Some("1".to_owned()));
    }
    response
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        (header::EXPIRES, "0"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}
