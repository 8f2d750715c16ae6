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
use super::proxy::{self, Proxy, Unanswered};
use crate::core::answer::Answer;
use crate::core::json::BODY_LEN_MAX;
use crate::core::{Request, Settings, request, why};

/// How far the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody is known to lead, or the state is not loaded, and why.
    Waiting(String),
    /// Another process leads, at this URL: requests go on to it.
    Standby(String),
    /// This process leads, and requests are answered.
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
    /// `host:port` by which others reach this process.
    pub(super) address: String,
    pub(super) proxy: Proxy,
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
            let leads = *door.phase.borrow() == Phase::Serving;
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            text(StatusCode::OK, kind, door.metrics.text(stats, leads))
        }
        _ => match (&method, uri.path().trim_matches('/')) {
            // Each process answers these for itself.
            (&Method::GET, "v2/info") => to_http(info(&door).await),
            (&Method::GET, "v2/leader") => to_http(leader(&door)),
            _ => dispatch(&door, method, &uri, headers, body)
                .await
                .unwrap_or_else(to_http),
        },
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
        Phase::Standby(leader) => (200, json!({ "healthy": true, "leader": leader })),
        // It answers and will work once there is a master: alive.
        Phase::Waiting(reason) => (200, json!({ "healthy": true, "waiting": reason })),
        Phase::Dead(reason) => (503, json!({ "healthy": false, "message": reason })),
    };
    to_http(Answer::json(status, body))
}

/// Answers here, or where the leader is.
///
/// # Errors
/// What to say when nobody answers.
async fn dispatch(
    door: &Door,
    method: Method,
    uri: &http::Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Answer> {
    let body = read_body(&headers, body).await?;
    let mut unreached: Option<(String, Answer)> = None;
    loop {
        match lead(door).await {
            Lead::Here => {
                let answer = answer(door, &method, uri, &body).await;
                let mut response = to_http(answer.unwrap_or_else(|refused| refused));
                if let Ok(here) = format!("http://{}", door.address).parse() {
                    response.headers_mut().insert(proxy::LEADER, here);
                }
                return Ok(response);
            }
            Lead::There(leader) if uri.path().trim_matches('/') == "v2/events" => {
                return Ok(proxy::redirect(&leader, uri));
            }
            Lead::There(leader) => {
                // Once for each leader: one that just died is replaced in a moment.
                if let Some((_, answer)) = unreached.take_if(|(dead, _)| *dead == leader) {
                    return Err(answer);
                }
                let asked = (method.clone(), uri, headers.clone());
                let (here, body) = (&door.address, body.clone());
                match door.proxy.forward(here, &leader, asked, body).await {
                    Ok(response) => return Ok(response),
                    Err(Unanswered::Refused(answer)) => return Err(answer),
                    Err(Unanswered::NotReached(answer)) => {
                        let mut phases = door.phase.clone();
                        let other = phases.wait_for(
                            |phase| !matches!(phase, Phase::Standby(now) if *now == leader),
                        );
                        let _ = tokio::time::timeout(START_PATIENCE, other).await;
                        unreached = Some((leader, answer));
                    }
                }
            }
            Lead::Nowhere(answer) => return Err(answer),
        }
    }
}

async fn answer(
    door: &Door,
    method: &Method,
    uri: &http::Uri,
    body: &[u8],
) -> Result<Answer, Answer> {
    if *method == Method::DELETE && uri.path().trim_matches('/') == "v2/leader" {
        return send(door, Message::Abdicate).await;
    }
    let query = uri.query().unwrap_or_default();
    let request = request::read(method.as_str(), uri.path(), query, body)?;
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

/// Who answers a request.
enum Lead {
    Here,
    /// Another process, at this URL.
    There(String),
    /// Nobody, and what to say instead.
    Nowhere(Answer),
}

/// Who leads. A request that comes while the process starts, right after a master, or while
/// another process takes over, waits a little.
async fn lead(door: &Door) -> Lead {
    let mut phases = door.phase.clone();
    let known = phases.wait_for(|phase| !matches!(phase, Phase::Waiting(_)));
    let _ = tokio::time::timeout(START_PATIENCE, known).await;
    let phase = door.phase.borrow().clone();
    match phase {
        Phase::Serving => Lead::Here,
        Phase::Standby(leader) => Lead::There(leader),
        Phase::Waiting(reason) => Lead::Nowhere(Answer::refuse(
            503,
            format!(
                "no services process is known to lead (masters: {}): {reason}",
                door.settings.master
            ),
        )),
        Phase::Dead(reason) => Lead::Nowhere(Answer::refuse(503, reason)),
    }
}

/// Puts a request to the core and waits for its answer.
async fn ask(door: &Door, request: Request) -> Result<Answer, Answer> {
    send(door, |reply| Message::Request { request, reply }).await
}

/// Sends the loop a message and waits for its answer.
async fn send(
    door: &Door,
    message: impl FnOnce(oneshot::Sender<Answer>) -> Message,
) -> Result<Answer, Answer> {
    let (reply, answer) = oneshot::channel();
    let message = message(reply);
    let asked = async {
        door.messages.send(message).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Answer::refuse(
            503,
            "this services process leads no more; what was asked may have happened, look before \
             you ask again",
        )),
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
        "elected": *door.phase.borrow() == Phase::Serving,
        "leader": leader_place(door),
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

/// `host:port` of the process that leads.
fn leader_place(door: &Door) -> Option<String> {
    match &*door.phase.borrow() {
        Phase::Serving => Some(door.address.clone()),
        Phase::Standby(leader) => Some(proxy::place(leader).to_owned()),
        Phase::Waiting(_) | Phase::Dead(_) => None,
    }
}

fn leader(door: &Door) -> Answer {
    match leader_place(door) {
        Some(leader) => Answer::ok(json!({ "leader": leader })),
        None => Answer::refuse(404, "There is no leader"),
    }
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
