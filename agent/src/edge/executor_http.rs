//! Mesos' executor API: `POST /api/v1/executor`, JSON or protobuf, events as RecordIO.

use std::convert::Infallible;
use std::time::Duration;

use allotment_proto::executor::{Call, Event, call};
use allotment_proto::{json, recordio};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use prost::Message;

use super::executors::{CALL_LEN_MAX, CallError, ExecutorDoor};
use crate::core::CallRefusal;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// How long one call may take to arrive.
const READING_MAX: Duration = Duration::from_secs(60);

type Refusal = (StatusCode, String);

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

pub(super) fn router(door: ExecutorDoor) -> Router {
    Router::new()
        .route("/api/v1/executor", post(executor))
        // As libprocess names the actor of Mesos' agent.
        .route("/slave(1)/api/v1/executor", post(executor))
        .with_state(door)
}

async fn executor(State(door): State<ExecutorDoor>, request: Request) -> Response {
    match answer(&door, request).await {
        Ok(response) => response,
        Err((status, text)) => (status, format!("{text}\n")).into_response(),
    }
}

async fn answer(door: &ExecutorDoor, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    if door.authenticate && token(headers).is_none() {
        let text = "send `Authorization: Bearer TOKEN` with MESOS_EXECUTOR_AUTHENTICATION_TOKEN of \
                    the environment; for executors that cannot, run the agent with \
                    --authenticate-http-executors=false";
        return Err((StatusCode::UNAUTHORIZED, text.to_owned()));
    }
    let body = read(door, headers, body).await?;
    let call: Call = match content_type(headers)? {
        Format::Json => json::decode(&body),
        Format::Protobuf => json::decode_protobuf(&body),
    }
    .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let subscribes = call.r#type() == call::Type::Subscribe;
    let format = if subscribes {
        accepted(headers)?
    } else {
        Format::Json
    };
    let events = door.call(token(headers), call).await.map_err(refused)?;
    let Some(events) = events else {
        return Ok(StatusCode::ACCEPTED.into_response());
    };
    let records = stream::unfold(events, move |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(record(format, &event)), events))
    });
    let kind = match format {
        Format::Json => JSON,
        Format::Protobuf => PROTOBUF,
    };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(records)).into_response())
}

/// The whole body of a call, within bounds of size, time and company.
async fn read(door: &ExecutorDoor, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let too_large = || {
        let text = format!("the call is too large; at most {CALL_LEN_MAX} bytes are taken");
        (StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|len| len > CALL_LEN_MAX) {
        return Err(too_large());
    }
    let reading = async {
        let _permit = door.reading.acquire().await;
        axum::body::to_bytes(body, CALL_LEN_MAX).await
    };
    match tokio::time::timeout(READING_MAX, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let error = error.into_inner();
            if error.is::<http_body_util::LengthLimitError>() {
                return Err(too_large());
            }
            let text = format!("the call ended before it was whole: {error}");
            Err((StatusCode::BAD_REQUEST, text))
        }
        Err(_) => {
            let text = "the call did not come in time; send it again".to_owned();
            Err((StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}

/// Length and bytes in one piece: some clients rely on it.
fn record(format: Format, event: &Event) -> Vec<u8> {
    match format {
        Format::Json => recordio::frame(&json::encode(event)),
        Format::Protobuf => recordio::frame(&event.encode_to_vec()),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Format, Refusal> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        let text = format!("the Content-Type is missing; send {JSON} or {PROTOBUF}");
        return Err((StatusCode::BAD_REQUEST, text));
    };
    let kind = kind.to_str().unwrap_or_default();
    format_of(kind).ok_or_else(|| {
        let text = format!("the Content-Type {kind:?} is not known; send {JSON} or {PROTOBUF}");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
    })
}

/// JSON unless the client wants protobuf alone.
fn accepted(headers: &HeaderMap) -> Result<Format, Refusal> {
    let accepts = headers.get_all(header::ACCEPT).iter();
    let accepts: Vec<&str> = accepts.filter_map(|value| value.to_str().ok()).collect();
    let accepts = accepts.join(",");
    let mut kinds = accepts
        .split(',')
        .map(str::trim)
        .filter(|kind| !kind.is_empty());
    if accepts.trim().is_empty() {
        return Ok(Format::Json);
    }
    let any = |kind: &str| matches!(essence(kind), "*/*" | "application/*");
    if kinds
        .clone()
        .any(|kind| any(kind) || format_of(kind) == Some(Format::Json))
    {
        return Ok(Format::Json);
    }
    if kinds.any(|kind| format_of(kind) == Some(Format::Protobuf)) {
        return Ok(Format::Protobuf);
    }
    let text = format!("events are {JSON} or {PROTOBUF}, but the client accepts {accepts:?}");
    Err((StatusCode::NOT_ACCEPTABLE, text))
}

fn essence(kind: &str) -> &str {
    kind.split(';').next().unwrap_or_default().trim()
}

fn format_of(kind: &str) -> Option<Format> {
    match essence(kind) {
        JSON => Some(Format::Json),
        PROTOBUF => Some(Format::Protobuf),
        _ => None,
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    bearer(value)
}

/// The token of an `authorization` header; other schemes say nothing about executors.
pub(super) fn bearer(value: &str) -> Option<String> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

fn refused(error: CallError) -> Refusal {
    let status = match &error {
        CallError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        CallError::Refused(refusal) => match refusal {
            CallRefusal::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            CallRefusal::Invalid(_) => StatusCode::BAD_REQUEST,
            CallRefusal::Forbidden(_) => StatusCode::FORBIDDEN,
            CallRefusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        },
    };
    (status, error.to_string())
}
