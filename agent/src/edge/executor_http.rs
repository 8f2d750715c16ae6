//! Mesos' executor API: `POST /api/v1/executor`, JSON or protobuf, events as RecordIO.

use std::convert::Infallible;

use allotment_proto::executor::{Call, Event, call};
use allotment_proto::{json, recordio};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use prost::Message;

use super::executors::{CALL_LEN_MAX, CallError, ExecutorDoor};
use crate::core::CallRefusal;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

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
        .layer(DefaultBodyLimit::max(CALL_LEN_MAX))
        .with_state(door)
}

async fn executor(
    State(door): State<ExecutorDoor>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(&door, &headers, body).await {
        Ok(response) => response,
        Err((status, text)) => (status, format!("{text}\n")).into_response(),
    }
}

async fn answer(
    door: &ExecutorDoor,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let body = body.map_err(|rejection| {
        let status = rejection.status();
        let text = if status == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the call is too large; at most {CALL_LEN_MAX} bytes are taken")
        } else {
            rejection.body_text()
        };
        (status, text)
    })?;
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
