//! A client of Mesos' agent API, `POST /api/v1`, and its calls.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::convert::Infallible;

use allotment_proto::agent::{Call, call};
use allotment_proto::json;
use allotment_proto::mesos::{self, ContainerId};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Cluster, Mode, shell};

/// How a test's messages are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Codec {
    Json,
    Protobuf,
}

impl Codec {
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }

    pub fn write(self, call: &Call) -> Vec<u8> {
        match self {
            Self::Json => json::encode(call),
            Self::Protobuf => call.encode_to_vec(),
        }
    }
}

pub type Pieces = mpsc::Sender<Bytes>;

/// A request whose body is fed by the sender; the answer comes when its head does.
pub async fn request(
    url: &str,
    headers: &[(&str, &str)],
) -> (
    Pieces,
    impl Future<Output = http::Response<Incoming>> + use<>,
) {
    let address = url.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (pieces, queue) = mpsc::channel::<Bytes>(16);
    let frames = tokio_stream::StreamExt::map(ReceiverStream::new(queue), |bytes| {
        Ok::<_, Infallible>(Frame::data(bytes))
    });
    let mut request = Request::post("/api/v1").header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(StreamBody::new(frames)).unwrap();
    let answer = async move { sender.send_request(request).await.unwrap() };
    (pieces, answer)
}

/// One call with its answer's head.
pub async fn send(url: &str, codec: Codec, call: &Call) -> http::Response<Incoming> {
    let headers = [
        ("content-type", codec.name()),
        ("accept", "application/recordio, application/json;q=0.5"),
        ("message-accept", codec.name()),
    ];
    let (pieces, answer) = request(url, &headers).await;
    pieces.send(codec.write(call).into()).await.unwrap();
    drop(pieces);
    answer.await
}

pub async fn text(answer: http::Response<Incoming>) -> (StatusCode, String) {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// One call with its whole answer.
pub async fn ask(url: &str, call: &Call) -> (StatusCode, String) {
    text(send(url, Codec::Json, call).await).await
}

pub fn of(kind: call::Type) -> Call {
    Call {
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

pub fn line(text: &str) -> mesos::CommandInfo {
    mesos::CommandInfo {
        value: Some(text.to_owned()),
        ..Default::default()
    }
}

pub fn launch_alone(id: &ContainerId, command: mesos::CommandInfo) -> Call {
    Call {
        launch_nested_container: Some(call::LaunchNestedContainer {
            container_id: id.clone(),
            command: Some(command),
            container: None,
        }),
        ..of(call::Type::LaunchNestedContainer)
    }
}

pub fn wait(id: &ContainerId) -> Call {
    Call {
        wait_nested_container: Some(call::WaitNestedContainer {
            container_id: id.clone(),
        }),
        ..of(call::Type::WaitNestedContainer)
    }
}

pub fn remove(id: &ContainerId) -> Call {
    Call {
        remove_nested_container: Some(call::RemoveNestedContainer {
            container_id: id.clone(),
        }),
        ..of(call::Type::RemoveNestedContainer)
    }
}

/// The wait status in an answer.
pub async fn waited(answer: http::Response<Incoming>) -> i64 {
    let (status, body) = text(answer).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let said: serde_json::Value = serde_json::from_str(&body).unwrap();
    said["wait_nested_container"]["exit_status"]
        .as_i64()
        .unwrap()
}

pub fn kill(id: &ContainerId, signal: Option<i32>) -> Call {
    Call {
        kill_container: Some(call::KillContainer {
            container_id: id.clone(),
            signal,
        }),
        ..of(call::Type::KillContainer)
    }
}

/// A running task, and an id in its container.
pub async fn running(mode: Mode) -> (Cluster, ContainerId) {
    let mut cluster = Cluster::start(mode).await;
    cluster.master.launch(vec![shell("t", "sleep 1000")]).await;
    let status = cluster.master.running("t").await;
    let parent = status.container_status.unwrap().container_id;
    let id = ContainerId {
        value: "session".to_owned(),
        parent: parent.map(Box::new),
    };
    (cluster, id)
}
