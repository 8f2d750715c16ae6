//! What tasks leave in their sandboxes, read from their agents, while they write it.

use std::time::Duration;

use allotment_proto::allot::sandbox_client::SandboxClient;
use allotment_proto::{MESSAGE_LEN_MAX, allot};
use allotment_types::{FrameworkId, TaskId};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::channel;

pub use allotment_proto::allot::SandboxEntry;

/// How long an agent may take to answer; the bytes of a followed file come whenever they come.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a sandbox could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The agent cannot be reached, or the connection broke; retry from where it stopped.
    #[error("{0}")]
    Unavailable(String),
    /// No such task or file there.
    #[error("{0}")]
    NotFound(String),
    /// The agent refuses this request, whenever it is made.
    #[error("{0}")]
    Refused(String),
}

/// Reads the sandboxes of one agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandbox {
    place: String,
    client: SandboxClient<Channel>,
}

/// Which bytes of a file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// From this byte on.
    pub offset: u64,
    /// This many at most; `None`: to the end.
    pub length: Option<u64>,
    /// Go on as the file grows, until the task has ended.
    pub follow: bool,
}

/// A byte of a file, to read on from after a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Which file, as [`SandboxEntry::file`] or an earlier [`Piece`] named it; `None`: the one
    /// that has the name now.
    pub file: Option<u64>,
    /// The byte in it.
    pub offset: u64,
}

/// A part of a followed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What was written.
    pub bytes: Bytes,
    /// Where the next piece begins, unless the file is put aside.
    pub next: Position,
    /// Something before it may be missing: it was put aside and deleted before it was read.
    pub gap: bool,
}

impl Sandbox {
    /// Connects to an agent: [`crate::Offer::agent_url`].
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] with the address and what to check.
    pub async fn connect(agent_url: &str) -> Result<Self, SandboxError> {
        let channel = channel::connect(agent_url, "agent", "allot agent")
            .await
            .map_err(SandboxError::Unavailable)?;
        Ok(Self {
            place: agent_url
                .strip_prefix("http://")
                .unwrap_or(agent_url)
                .to_owned(),
            client: SandboxClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX),
        })
    }

    /// Streams `window` of the file `path` ("stdout", "out/result.txt") of a task's sandbox, piece
    /// by piece and without gaps. Dropping the stream ends the reading.
    ///
    /// # Errors
    /// [`SandboxError`], here or as the last item of the stream.
    pub async fn read(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
        path: &str,
        window: Window,
    ) -> Result<impl Stream<Item = Result<Bytes, SandboxError>> + Send + Unpin + use<>, SandboxError>
    {
        let request = allot::SandboxReadRequest {
            framework_id: framework.to_string(),
            task_id: task.to_string(),
            path: path.to_owned(),
            offset: window.offset,
            length: window.length,
            follow: window.follow,
            file: None,
        };
        let from = Position {
            file: None,
            offset: window.offset,
        };
        let pieces = self.pieces(request, from).await?;
        Ok(pieces.map(|piece| piece.map(|piece| piece.bytes)))
    }

    /// Streams the file `path` from a byte on, as it grows and in those that take its name when it
    /// is put aside ("stdout" becomes "stdout.1"), until the task has ended.
    ///
    /// # Errors
    /// [`SandboxError`], here or as the last item of the stream; after
    /// [`SandboxError::Unavailable`] go on from [`Piece::next`] of the last piece.
    pub async fn follow(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
        path: &str,
        from: Position,
    ) -> Result<impl Stream<Item = Result<Piece, SandboxError>> + Send + Unpin + use<>, SandboxError>
    {
        let request = allot::SandboxReadRequest {
            framework_id: framework.to_string(),
            task_id: task.to_string(),
            path: path.to_owned(),
            offset: from.offset,
            length: None,
            follow: true,
            file: from.file,
        };
        self.pieces(request, from).await
    }

    async fn pieces(
        &self,
        request: allot::SandboxReadRequest,
        from: Position,
    ) -> Result<impl Stream<Item = Result<Piece, SandboxError>> + Send + Unpin + use<>, SandboxError>
    {
        let mut client = self.client.clone();
        let stream = answered(&self.place, client.read(request))
            .await?
            .into_inner();
        let place = self.place.clone();
        let mut at = from;
        Ok(stream.map(move |chunk| {
            let chunk = chunk.map_err(|status| error(&place, &status))?;
            // Another file, or one that was cut off, begins at its beginning.
            let anew = chunk.gap() || at.file.is_some_and(|file| chunk.file != Some(file));
            let due = if anew { 0 } else { at.offset };
            if chunk.offset != due {
                return Err(SandboxError::Unavailable(format!(
                    "agent {place} sent byte {} where byte {due} was due; read on from there",
                    chunk.offset
                )));
            }
            at = Position {
                file: chunk.file,
                offset: due + chunk.data.len() as u64,
            };
            Ok(Piece {
                gap: chunk.gap(),
                bytes: chunk.data,
                next: at,
            })
        }))
    }

    /// The entries of a directory of a task's sandbox; "" is its root.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub async fn list(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
        path: &str,
    ) -> Result<Vec<SandboxEntry>, SandboxError> {
        let request = allot::SandboxListRequest {
            framework_id: framework.to_string(),
            task_id: task.to_string(),
            path: path.to_owned(),
        };
        let mut client = self.client.clone();
        let response = answered(&self.place, client.list(request)).await?;
        Ok(response.into_inner().entries)
    }
}

/// Connects to `agent_url` and reads; see [`Sandbox::read`].
///
/// # Errors
/// [`SandboxError`].
pub async fn read(
    agent_url: &str,
    framework: &FrameworkId,
    task: &TaskId,
    path: &str,
    window: Window,
) -> Result<impl Stream<Item = Result<Bytes, SandboxError>> + Send + Unpin + use<>, SandboxError> {
    Sandbox::connect(agent_url)
        .await?
        .read(framework, task, path, window)
        .await
}

/// Connects to `agent_url` and lists; see [`Sandbox::list`].
///
/// # Errors
/// [`SandboxError`].
pub async fn list(
    agent_url: &str,
    framework: &FrameworkId,
    task: &TaskId,
    path: &str,
) -> Result<Vec<SandboxEntry>, SandboxError> {
    Sandbox::connect(agent_url)
        .await?
        .list(framework, task, path)
        .await
}

/// The beginning of a file as text, `len_max` bytes at most; what is not UTF-8 is replaced.
///
/// # Errors
/// [`SandboxError`].
pub async fn read_text(
    agent_url: &str,
    framework: &FrameworkId,
    task: &TaskId,
    path: &str,
    len_max: u64,
) -> Result<String, SandboxError> {
    let window = Window {
        length: Some(len_max),
        ..Window::default()
    };
    let mut stream = read(agent_url, framework, task, path, window).await?;
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await {
        text.extend_from_slice(&piece?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn answered<T>(
    place: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<tonic::Response<T>, SandboxError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|status| error(place, &status)),
        Err(_) => Err(SandboxError::Unavailable(format!(
            "agent {place} did not answer within {} s; check its log",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}

fn error(place: &str, status: &Status) -> SandboxError {
    let text = format!("agent {place}: {}", channel::status_text(status));
    match status.code() {
        Code::NotFound => SandboxError::NotFound(text),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => {
            SandboxError::Refused(text)
        }
        _ => SandboxError::Unavailable(text),
    }
}
