//! Mesos' agent API, `POST /api/v1`, as far as it is about programs in running containers.
//!
//! Bodies are JSON or protobuf; streams are RecordIO of either (`Message-Content-Type`,
//! `Message-Accept`). Statuses and their order follow Mesos' `slave/http.cpp`.

use std::convert::Infallible;

use allotment_proto::agent::call::{Type, attach_container_input};
use allotment_proto::agent::{Call, Response as Answer, response};
use allotment_proto::json::{self, BodyError};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::recordio::{self, Reader};
use allotment_proto::{MESSAGE_LEN_MAX, mesos};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::nested::{Attached, Nested, Pieces, Refusal, bad};
use crate::core::{Done, NestedEnd};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";
const RECORDIO: &str = "application/recordio";
const MESSAGE_CONTENT_TYPE: &str = "message-content-type";
const MESSAGE_ACCEPT: &str = "message-accept";
/// The most that one record of input may hold.
const RECORD_MAX: usize = 1 << 20;

/// Every spelling that Mesos serves it under.
pub(super) fn router(nested: Nested) -> Router {
    let mut router = Router::new();
    for path in ["/api/v1", "/slave(1)/api/v1"] {
        router = router.route(path, post(call));
    }
    router.with_state(nested)
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Json,
    Protobuf,
}

impl Codec {
    fn of(kind: &str) -> Option<Self> {
        // Parameters such as `; charset=utf-8` change nothing.
        match kind.split(';').next().unwrap_or_default().trim() {
            JSON => Some(Self::Json),
            PROTOBUF => Some(Self::Protobuf),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Protobuf => PROTOBUF,
        }
    }

    fn read(self, bytes: &[u8]) -> Result<Call, BodyError> {
        match self {
            Self::Json => json::decode(bytes),
            Self::Protobuf => json::decode_protobuf(bytes),
        }
    }

    fn write<M: prost::Message + prost::Name>(self, message: &M) -> Vec<u8> {
        match self {
            Self::Json => json::encode(message),
            Self::Protobuf => message.encode_to_vec(),
        }
    }
}

/// What the caller takes for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Accepted {
    codec: Codec,
    /// Streams are to be called RecordIO.
    recordio: bool,
}

async fn call(State(nested): State<Nested>, headers: HeaderMap, body: Body) -> Response {
    match try_call(&nested, &headers, body).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn try_call(nested: &Nested, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let kind = text(headers, header::CONTENT_TYPE.as_str())
        .ok_or_else(|| bad("Content-Type is missing".to_owned()))?;
    let unsupported = |kind: &str| {
        (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("{kind:?} is not understood here; send {JSON} or {PROTOBUF}"),
        )
    };
    if kind.starts_with(RECORDIO) {
        let kind = text(headers, MESSAGE_CONTENT_TYPE)
            .ok_or_else(|| bad(format!("{RECORDIO} needs a Message-Content-Type")))?;
        let codec = Codec::of(kind).ok_or_else(|| unsupported(kind))?;
        return attach_input(nested, codec, body).await;
    }
    let codec = Codec::of(kind).ok_or_else(|| unsupported(kind))?;
    let accepted = accepted(headers)?;
    let bytes = axum::body::to_bytes(body, MESSAGE_LEN_MAX)
        .await
        .map_err(|_| bad(format!("the body is larger than {MESSAGE_LEN_MAX} bytes")))?;
    let call = codec.read(&bytes).map_err(|error| bad(error.to_string()))?;
    obey(nested, call, accepted).await
}

async fn obey(nested: &Nested, call: Call, accepted: Accepted) -> Result<Response, Refusal> {
    match call.r#type() {
        Type::LaunchNestedContainer => {
            let launch = part(call.launch_nested_container, "launch_nested_container")?;
            let command = part(launch.command, "launch_nested_container.command")?;
            let (id, container) = (launch.container_id, launch.container);
            launch_alone(nested, &id, &command, container.as_ref()).await
        }
        Type::LaunchContainer => {
            let launch = part(call.launch_container, "launch_container")?;
            let command = part(launch.command, "launch_container.command")?;
            if !launch.resources.is_empty() || !launch.limits.is_empty() {
                return Err(bad(
                    "a nested container shares the resources and limits of its parent: leave \
                     `resources` and `limits` out, or launch a task group"
                        .to_owned(),
                ));
            }
            let (id, container) = (launch.container_id, launch.container);
            launch_alone(nested, &id, &command, container.as_ref()).await
        }
        Type::LaunchNestedContainerSession => {
            let launch = part(
                call.launch_nested_container_session,
                "launch_nested_container_session",
            )?;
            let command = part(launch.command, "launch_nested_container_session.command")?;
            let id = launch.container_id;
            let pieces = nested.launch(&id, &command, launch.container.as_ref());
            Ok(stream(pieces.await?, accepted))
        }
        Type::AttachContainerOutput => {
            let attach = part(call.attach_container_output, "attach_container_output")?;
            Ok(stream(
                nested.attach_output(&attach.container_id).await?,
                accepted,
            ))
        }
        Type::AttachContainerInput => Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("ATTACH_CONTAINER_INPUT is a stream; send it as {RECORDIO}"),
        )),
        Type::WaitNestedContainer => {
            let wait = part(call.wait_nested_container, "wait_nested_container")?;
            let end = Ended::of(nested.wait(&wait.container_id).await?);
            let said = response::WaitNestedContainer {
                exit_status: end.status,
                state: end.state,
                reason: end.reason,
                message: end.message,
            };
            let answer = Answer {
                r#type: Some(response::Type::WaitNestedContainer.into()),
                wait_nested_container: Some(said),
                ..Default::default()
            };
            Ok(said_in(accepted, &answer))
        }
        Type::WaitContainer => {
            let wait = part(call.wait_container, "wait_container")?;
            let end = Ended::of(nested.wait(&wait.container_id).await?);
            let said = response::WaitContainer {
                exit_status: end.status,
                state: end.state,
                reason: end.reason,
                message: end.message,
            };
            let answer = Answer {
                r#type: Some(response::Type::WaitContainer.into()),
                wait_container: Some(said),
                ..Default::default()
            };
            Ok(said_in(accepted, &answer))
        }
        Type::KillNestedContainer => {
            let kill = part(call.kill_nested_container, "kill_nested_container")?;
            nested.kill(&kill.container_id, kill.signal).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::KillContainer => {
            let kill = part(call.kill_container, "kill_container")?;
            nested.kill(&kill.container_id, kill.signal).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::RemoveNestedContainer => {
            let remove = part(call.remove_nested_container, "remove_nested_container")?;
            nested.remove(&remove.container_id).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::RemoveContainer => {
            let remove = part(call.remove_container, "remove_container")?;
            nested.remove(&remove.container_id).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::Unknown => Err((
            StatusCode::NOT_IMPLEMENTED,
            "this agent serves only the calls about programs in running containers here".to_owned(),
        )),
    }
}

async fn launch_alone(
    nested: &Nested,
    id: &mesos::ContainerId,
    command: &mesos::CommandInfo,
    container: Option<&mesos::ContainerInfo>,
) -> Result<Response, Refusal> {
    let launched = nested.launch_alone(id, command, container).await?;
    Ok(match launched {
        Done::Now => StatusCode::OK,
        Done::Already => StatusCode::ACCEPTED,
    }
    .into_response())
}

/// How a container ended, as both answers tell it.
struct Ended {
    status: Option<i32>,
    state: Option<i32>,
    reason: Option<i32>,
    message: Option<String>,
}

impl Ended {
    fn of(end: NestedEnd) -> Self {
        let failed = end.message.is_some();
        Self {
            status: end.status,
            state: failed.then_some(TaskState::TaskFailed.into()),
            reason: end.refused.then_some(Reason::ContainerLaunchFailed.into()),
            message: end.message,
        }
    }
}

fn said_in(accepted: Accepted, answer: &Answer) -> Response {
    let kind = [(header::CONTENT_TYPE, accepted.codec.name())];
    (kind, accepted.codec.write(answer)).into_response()
}

/// Feeds a session with what the body of the request brings.
async fn attach_input(nested: &Nested, codec: Codec, body: Body) -> Result<Response, Refusal> {
    let mut records = Records {
        body: body.into_data_stream(),
        reader: Reader::new(RECORD_MAX),
        codec,
    };
    let first = records
        .next()
        .await?
        .ok_or_else(|| bad("the stream ended before its first record".to_owned()))?;
    let id = container_of(first)?;
    let mut attached = nested.attach_input(&id).await?;
    // A session that ends takes no more; what is still coming is not read.
    let over = attached.watch();
    tokio::select! {
        fed = feed(&mut records, &mut attached) => fed?,
        () = over => {}
    }
    Ok(StatusCode::OK.into_response())
}

async fn feed(
    records: &mut Records<impl Incoming>,
    attached: &mut Attached,
) -> Result<(), Refusal> {
    while let Some(call) = records.next().await? {
        let input = part(call.attach_container_input, "attach_container_input")?;
        if input.r#type() != attach_container_input::Type::ProcessIo {
            return Err(bad("after the first record all are PROCESS_IO".to_owned()));
        }
        let message = part(input.process_io, "attach_container_input.process_io")?;
        attached.take(message).await?;
    }
    Ok(())
}

fn container_of(first: Call) -> Result<mesos::ContainerId, Refusal> {
    let input = part(first.attach_container_input, "attach_container_input")?;
    if input.r#type() != attach_container_input::Type::ContainerId {
        return Err(bad(
            "the first record must be of type CONTAINER_ID".to_owned()
        ));
    }
    part(input.container_id, "attach_container_input.container_id")
}

/// The body of a request as it comes.
trait Incoming: futures_util::Stream<Item = Result<Bytes, axum::Error>> + Unpin {}
impl<S: futures_util::Stream<Item = Result<Bytes, axum::Error>> + Unpin> Incoming for S {}

/// Calls in a body.
struct Records<S> {
    body: S,
    reader: Reader,
    codec: Codec,
}

impl<S: Incoming> Records<S> {
    async fn next(&mut self) -> Result<Option<Call>, Refusal> {
        loop {
            let record = self.reader.take().map_err(|error| bad(error.to_string()))?;
            if let Some(record) = record {
                let call = self.codec.read(&record);
                let call = call.map_err(|error| bad(error.to_string()))?;
                if call.r#type() != Type::AttachContainerInput {
                    return Err(bad("records are of type ATTACH_CONTAINER_INPUT".to_owned()));
                }
                return Ok(Some(call));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.reader.extend(&bytes),
                Some(Err(error)) => return Err(bad(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

/// A part of a message that its type asks for.
fn part<T>(part: Option<T>, name: &str) -> Result<T, Refusal> {
    part.ok_or_else(|| bad(format!("field `{name}` is missing")))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn accepted(headers: &HeaderMap) -> Result<Accepted, Refusal> {
    let refuse = |what: &str| {
        let text = format!("{what:?} is not spoken here; accept {JSON}, {PROTOBUF} or {RECORDIO}");
        (StatusCode::NOT_ACCEPTABLE, text)
    };
    let asked = text(headers, header::ACCEPT.as_str()).unwrap_or("*/*");
    let kinds = || {
        asked
            .split(',')
            .map(|kind| kind.split(';').next().unwrap_or_default().trim())
    };
    if kinds().any(|kind| kind == RECORDIO) {
        let message = text(headers, MESSAGE_ACCEPT).unwrap_or(JSON);
        let codec = if message.contains("*/*") {
            Some(Codec::Json)
        } else {
            message.split(',').find_map(Codec::of)
        };
        let codec = codec.ok_or_else(|| refuse(message))?;
        return Ok(Accepted {
            codec,
            recordio: true,
        });
    }
    let json = kinds().any(|kind| matches!(kind, JSON | "*/*" | "application/*"));
    let codec = if json {
        Codec::Json
    } else {
        kinds().find_map(Codec::of).ok_or_else(|| refuse(asked))?
    };
    Ok(Accepted {
        codec,
        recordio: false,
    })
}

/// Records as they come, each in one chunk.
fn stream(pieces: Pieces, accepted: Accepted) -> Response {
    let Accepted { codec, recordio } = accepted;
    let records = ReceiverStream::new(pieces)
        .map(move |piece| Ok::<_, Infallible>(Bytes::from(recordio::frame(&codec.write(&piece)))));
    let kind = if recordio { RECORDIO } else { codec.name() };
    let headers = [
        (header::CONTENT_TYPE.as_str(), kind),
        (MESSAGE_CONTENT_TYPE, codec.name()),
    ];
    (headers, Body::from_stream(records)).into_response()
}
