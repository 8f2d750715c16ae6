//! The Containers service: programs beside tasks, with pipes or a terminal to whoever asked.
//!
//! What nobody takes is not read: a caller that is slow slows the program, and one that is gone
//! ends it.

use std::time::Duration;

use allotment_proto::allot::containers_server::Containers;
use allotment_proto::allot::exec_input::Input;
use allotment_proto::allot::exec_output::Output;
use allotment_proto::allot::{
    ExecExited, ExecInput, ExecOutput, ExecStart, ExecStarted, SandboxChunk, WindowSize as WireSize,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::attach::Attached;
use super::driver::{Beside, Query};
use super::files::{Files, ids};
use super::inner::Inner;
use crate::containerizer::session::{
    Heard, Session, SessionInput, SessionOutput, Sessions, Source, Stdio, WindowSize,
    code_or_signal,
};
use crate::core::{Command, Launch, NoEntry};

/// Chunks that may wait for a slow reader, who then holds up his own program only.
const CHUNKS_WAITING: usize = 4;
/// How many heartbeats may be missed.
const MISSED_MAX: u32 = 4;
/// No caller has to speak more often than this, nor less.
const HEARTBEAT: (f64, f64) = (0.1, 3600.0);

/// Runs programs in the containers of one agent.
#[derive(Debug, Clone)]
pub(super) struct Doors {
    pub(super) sessions: Sessions,
    pub(super) files: Files,
    pub(super) inner: Inner,
}

/// What comes out of a session: messages, and at last perhaps an error.
type Chunks = mpsc::Sender<Result<ExecOutput, Status>>;

impl Doors {
    /// What it takes to run a program beside a task.
    pub(super) async fn entrance(
        &self,
        beside: Beside,
        command: Command,
    ) -> Result<Launch, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        let (reply, answer) = oneshot::channel();
        let query = Query::Enter(beside, command, reply);
        let sent = self.files.queries.send(query).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map_err(refused)
    }

    /// Starts a session; returns once its program runs.
    pub(super) async fn start(&self, launch: Launch, stdio: Stdio) -> Result<Session, Status> {
        let entered = self.sessions.enter(launch, stdio).await;
        let mut session = entered.map_err(Status::failed_precondition)?;
        started(&mut session.output).await?;
        Ok(session)
    }
}

async fn started(output: &mut SessionOutput) -> Result<(), Status> {
    match output.started().await {
        Ok(()) => Ok(()),
        Err(Heard::Refused(why)) => Err(Status::failed_precondition(why)),
        Err(_) => Err(lost()),
    }
}

pub(super) fn refused(error: NoEntry) -> Status {
    match error {
        NoEntry::Unknown { .. } => Status::not_found(error.to_string()),
        NoEntry::OtherUser { .. } => Status::permission_denied(error.to_string()),
        NoEntry::NotRunning { .. }
        | NoEntry::NoTerminal { .. }
        | NoEntry::NoExecutor { .. }
        | NoEntry::Crowded { .. }
        | NoEntry::StillRuns { .. }
        | NoEntry::Unplannable { .. } => Status::failed_precondition(error.to_string()),
    }
}

pub(super) fn lost() -> Status {
    Status::unavailable(
        "the agent lost the program, which was ended; the task goes on, and it can be run again",
    )
}

#[tonic::async_trait]
impl Containers for Doors {
    type ExecStream = ReceiverStream<Result<ExecOutput, Status>>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|message| message.input);
        let Some(Input::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "the first message says what to start: set `start`",
            ));
        };
        let (framework, task) = ids(&start.framework_id, &start.task_id)?;
        let stdio = stdio(&start)?;
        let patience = patience(start.heartbeat_seconds)?;
        let beside = Beside::Task(framework, task);
        let launch = self.entrance(beside, command(start)?).await?;
        let session = self.start(launch, stdio).await?;
        let (chunks, stream) = mpsc::channel(CHUNKS_WAITING);
        tokio::spawn(serve(session, inputs, patience, chunks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type AttachStream = ReceiverStream<Result<ExecOutput, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|message| message.input);
        let Some(Input::Attach(start)) = first else {
            return Err(Status::invalid_argument(
                "the first message says what to attach to: set `attach`",
            ));
        };
        let (framework, task) = ids(&start.framework_id, &start.task_id)?;
        let patience = patience(start.heartbeat_seconds)?;
        let size = start.terminal.as_ref().map(window).transpose()?;
        let attached = self.attach_to(Beside::Task(framework, task)).await?;
        if let Some(size) = size {
            attached.input.resize(size);
        }
        let (chunks, stream) = mpsc::channel(CHUNKS_WAITING);
        tokio::spawn(serve_attached(attached, inputs, patience, chunks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn command(start: ExecStart) -> Result<Command, Status> {
    let program = start.argv.first().cloned().unwrap_or_default();
    let variables = start.environment.into_iter();
    let info = allotment_proto::mesos::CommandInfo {
        shell: Some(false),
        value: Some(program),
        arguments: start.argv,
        user: start.user,
        environment: Some(allotment_proto::mesos::Environment {
            variables: variables
                .map(|variable| allotment_proto::mesos::environment::Variable {
                    name: variable.name,
                    value: Some(variable.value),
                    ..Default::default()
                })
                .collect(),
        }),
        ..Default::default()
    };
    Command::of(&info).map_err(|what| Status::invalid_argument(format!("the command {what}")))
}

fn stdio(start: &ExecStart) -> Result<Stdio, Status> {
    Ok(match &start.terminal {
        Some(size) => Stdio::Terminal(window(size)?),
        None => Stdio::Pipes {
            stdin: start.stdin(),
        },
    })
}

fn window(size: &WireSize) -> Result<WindowSize, Status> {
    let side = |n: u32| {
        u16::try_from(n).map_err(|_| {
            Status::invalid_argument(format!("a window of {n} characters; at most 65535 are"))
        })
    };
    Ok(WindowSize {
        rows: side(size.rows)?,
        columns: side(size.columns)?,
    })
}

/// How long the caller may be silent.
fn patience(heartbeat_seconds: Option<f64>) -> Result<Option<Duration>, Status> {
    let (min, max) = HEARTBEAT;
    match heartbeat_seconds {
        None => Ok(None),
        Some(seconds) if (min..=max).contains(&seconds) => {
            Ok(Some(Duration::from_secs_f64(seconds) * MISSED_MAX))
        }
        Some(seconds) => Err(Status::invalid_argument(format!(
            "heartbeat_seconds is {seconds}; it must be between {min} and {max}"
        ))),
    }
}

/// Carries bytes both ways until the program has ended or the caller is gone.
async fn serve(
    session: Session,
    inputs: Streaming<ExecInput>,
    patience: Option<Duration>,
    chunks: Chunks,
) {
    let Session { input, output } = session;
    let fed = feed(inputs, input, patience, AtEnd::Close);
    // Whatever made it end, the program ends too: nobody listens to it any more.
    both_ways(fed, carry(output, &chunks), &chunks).await;
}

/// The same for the task itself, which goes on afterwards.
async fn serve_attached(
    attached: Attached,
    inputs: Streaming<ExecInput>,
    patience: Option<Duration>,
    chunks: Chunks,
) {
    let Attached { input, output } = attached;
    let fed = feed(inputs, input, patience, AtEnd::Leave);
    both_ways(fed, show(output, &chunks), &chunks).await;
}

/// Says that it begins, and goes on until either way has ended or the caller is gone.
async fn both_ways(
    fed: impl Future<Output = Status>,
    shown: impl Future<Output = Option<Status>>,
    chunks: &Chunks,
) {
    let started = Output::Started(ExecStarted {});
    if say(chunks, started).await.is_err() {
        return;
    }
    let over = tokio::select! {
        status = fed => Some(status),
        status = shown => status,
        () = chunks.closed() => None,
    };
    if let Some(status) = over {
        let _ = chunks.send(Err(status)).await;
    }
}

/// Passes on what the task writes until it has ended.
async fn show(
    mut output: mpsc::Receiver<Result<SandboxChunk, Status>>,
    chunks: &Chunks,
) -> Option<Status> {
    while let Some(chunk) = output.recv().await {
        match chunk {
            Ok(chunk) => say(chunks, Output::Stdout(chunk.data)).await.ok()?,
            Err(status) => return Some(status),
        }
    }
    None
}

async fn say(chunks: &Chunks, output: Output) -> Result<(), ()> {
    let output = Some(output);
    chunks.send(Ok(ExecOutput { output })).await.map_err(|_| ())
}

/// What a program finds when its caller has said everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    /// The end of its input.
    Close,
    /// Nothing: somebody else may go on.
    Leave,
}

impl AtEnd {
    async fn reached(self, input: &mut SessionInput) {
        match self {
            Self::Close => input.close().await,
            Self::Leave => {}
        }
    }
}

/// Passes on what the caller says; returns only when that makes no sense or stops.
async fn feed(
    mut inputs: Streaming<ExecInput>,
    mut input: SessionInput,
    patience: Option<Duration>,
    at_end: AtEnd,
) -> Status {
    loop {
        let message = match patience {
            None => inputs.message().await,
            Some(patience) => match tokio::time::timeout(patience, inputs.message()).await {
                Ok(message) => message,
                Err(_) => {
                    return Status::cancelled(format!("the caller said nothing for {patience:?}"));
                }
            },
        };
        match message {
            Ok(Some(message)) => match message.input {
                // What the program does not read any more is gone, as in a shell's pipe.
                Some(Input::Stdin(bytes)) => drop(input.write_all(&bytes).await),
                Some(Input::CloseStdin(_)) => at_end.reached(&mut input).await,
                Some(Input::Window(size)) => match window(&size) {
                    Ok(size) => input.resize(size),
                    Err(status) => return status,
                },
                Some(Input::Start(_) | Input::Attach(_)) => {
                    return Status::invalid_argument("`start` or `attach` comes once, and first");
                }
                Some(Input::Heartbeat(_)) | None => {}
            },
            Ok(None) => {
                at_end.reached(&mut input).await;
                return std::future::pending().await;
            }
            Err(status) => return status,
        }
    }
}

/// Passes on what the program writes until it has ended; an error when it was lost.
async fn carry(mut output: SessionOutput, chunks: &Chunks) -> Option<Status> {
    loop {
        match output.next().await {
            Heard::Wrote(Source::Stdout, bytes) => say(chunks, Output::Stdout(bytes)).await.ok()?,
            Heard::Wrote(Source::Stderr, bytes) => say(chunks, Output::Stderr(bytes)).await.ok()?,
            Heard::Left(status) => {
                let (code, signal) = code_or_signal(status);
                let exited = Output::Exited(ExecExited { code, signal });
                say(chunks, exited).await.ok()?;
                return None;
            }
            Heard::Refused(_) | Heard::Lost => return Some(lost()),
        }
    }
}
