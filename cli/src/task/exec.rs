//! `allot task exec`: one more program in a task's container, as if it ran here.

use std::io::Read as _;
use std::time::Duration;

use allotment_proto::allot::containers_client::ContainersClient;
use allotment_proto::allot::exec_input::Input;
use allotment_proto::allot::exec_output::Output;
use allotment_proto::allot::{
    CloseStdin, EnvironmentVariable, ExecExited, ExecInput, ExecOutput, ExecStart, Heartbeat,
    TaskView,
};
use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::terminal::{self, RawMode};
use super::writer::{self, To, Writer};
use crate::exit::Failure;
use crate::rpc::{self, Peer};

/// How often the agent hears that we are still here.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pieces of input that wait for the connection.
pub(super) const INPUTS_WAITING: usize = 8;

/// What to run and how.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The command runs beside the task: as its user, behind its walls, within its limits, with its
environment and in its sandbox. It ends with this command, and with the task.

Exit codes:
  N        the command's own exit code
  128 + N  signal N ended the command, or this one
  201      it could not be started, or its agent lost it
  202      wrong usage (2 when a flag is unknown or malformed)
  203      no such task, or it does not run
  204      master or agent cannot be reached")]
pub(super) struct Args {
    /// The task's id or the beginning of it
    pub(super) task: String,
    /// Pass standard input on
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal: this one, where there is one
    #[arg(long, short)]
    tty: bool,
    /// An environment variable; K alone takes its value from here (repeatable)
    #[arg(long, short, value_name = "K=V")]
    env: Vec<String>,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it; the exit code.
pub(super) async fn run(task: &TaskView, args: Args) -> anyhow::Result<u8> {
    let (interactive, tty) = (args.interactive, args.tty);
    let start = ExecStart {
        framework_id: task.framework_id.clone(),
        task_id: task.id.clone(),
        argv: args.command,
        environment: environment(args.env, tty)?,
        stdin: Some(interactive),
        terminal: tty.then(terminal::window),
        heartbeat_seconds: Some(HEARTBEAT.as_secs_f64()),
        user: None,
    };
    let channel = rpc::connect(Peer::Agent, &task.agent_url).await?;
    let refused = |status: tonic::Status| rpc::refused(Peer::Agent, &task.agent_url, &status);
    let (inputs, stream) = mpsc::channel(INPUTS_WAITING);
    say(&inputs, Input::Start(start)).await;
    let answer = ContainersClient::new(channel)
        .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX)
        .exec(ReceiverStream::new(stream))
        .await
        .map_err(refused)?;
    let (mut signals, mut resized) = (Signals::listen()?, signal(SignalKind::window_change())?);
    let raw = if tty && interactive {
        RawMode::begin().context("the terminal cannot be made raw")?
    } else {
        None
    };
    if interactive {
        pass_stdin_on(inputs.clone());
    }
    let (writer, mut written) = writer::start();
    let ended = {
        let told = copy(answer.into_inner(), writer);
        tokio::pin!(told);
        loop {
            tokio::select! {
                exited = &mut told => break exited.map_err(refused).map(code),
                code = signals.ended() => break Ok(code),
                Some(()) = resized.recv(), if tty => {
                    say(&inputs, Input::Window(terminal::window())).await;
                }
                () = tokio::time::sleep(HEARTBEAT) => {
                    // Whoever does not take it has our input to take first, and knows by that.
                    let heartbeat = ExecInput { input: Some(Input::Heartbeat(Heartbeat {})) };
                    let _ = inputs.try_send(heartbeat);
                }
                result = &mut written => break Err(closed(result)),
            }
        }
    };
    // All that came is written before the code is told; a signal does not wait for readers.
    let ended = match ended {
        Ok(code) => tokio::select! {
            result = &mut written => result.unwrap_or(Ok(())).map(|()| code),
            code = signals.ended() => Ok(code),
        },
        failed => failed,
    };
    drop(raw);
    ended
}

/// Why writing ended before the command did.
pub(super) fn closed(
    result: Result<anyhow::Result<()>, tokio::sync::oneshot::error::RecvError>,
) -> anyhow::Error {
    match result {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => anyhow::anyhow!("the output could not be written"),
    }
}

pub(super) async fn say(inputs: &mpsc::Sender<ExecInput>, input: Input) {
    let input = Some(input);
    // A call that has ended takes no more, and says itself how it ended.
    let _ = inputs.send(ExecInput { input }).await;
}

/// Writes what comes until the program has ended; how.
async fn copy(
    mut outputs: Streaming<ExecOutput>,
    writer: Writer,
) -> Result<ExecExited, tonic::Status> {
    while let Some(message) = outputs.message().await? {
        let (to, bytes) = match message.output {
            Some(Output::Stdout(bytes)) => (To::Stdout, bytes),
            Some(Output::Stderr(bytes)) => (To::Stderr, bytes),
            Some(Output::Exited(exited)) => return Ok(exited),
            Some(Output::Started(_)) | None => continue,
        };
        if !writer.write(to, bytes).await {
            // What that means is said by the writer.
            std::future::pending().await
        }
    }
    Err(tonic::Status::unavailable(
        "the agent ended the call without saying how the command ended",
    ))
}

/// As a shell counts.
fn code(exited: ExecExited) -> u8 {
    let code = match (exited.code, exited.signal) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    u8::try_from(code).unwrap_or(1)
}

/// Reads standard input in a thread of its own, which ends with this process at the latest.
fn pass_stdin_on(inputs: mpsc::Sender<ExecInput>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let input = match stdin.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    Input::Stdin(bytes::Bytes::copy_from_slice(bytes))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => Input::CloseStdin(CloseStdin {}),
            };
            let last = matches!(input, Input::CloseStdin(_));
            let input = Some(input);
            if inputs.blocking_send(ExecInput { input }).is_err() || last {
                return;
            }
        }
    });
}

/// The variables that were asked for, and with a terminal what kind it is.
fn environment(asked: Vec<String>, tty: bool) -> Result<Vec<EnvironmentVariable>, Failure> {
    let mut set = Vec::new();
    if tty && let Ok(kind) = std::env::var("TERM") {
        set.push(("TERM".to_owned(), kind));
    }
    for variable in asked {
        set.push(match variable.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = std::env::var(&variable).map_err(|error| {
                    Failure::Usage(format!("{variable:?} has no value here: {error}"))
                })?;
                (variable, value)
            }
        });
    }
    let variables = set.into_iter();
    Ok(variables
        .map(|(name, value)| EnvironmentVariable { name, value })
        .collect())
}

/// Signals that end us.
#[derive(Debug)]
pub(super) struct Signals {
    ends: [(u8, tokio::signal::unix::Signal); 3],
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            ends: [
                (1, signal(SignalKind::hangup())?),
                (2, signal(SignalKind::interrupt())?),
                (15, signal(SignalKind::terminate())?),
            ],
        })
    }

    /// Waits for a signal that ends us; the exit code that tells of it.
    pub(super) async fn ended(&mut self) -> u8 {
        let [(hangup, first), (interrupt, second), (terminate, third)] = &mut self.ends;
        let number = tokio::select! {
            _ = first.recv() => *hangup,
            _ = second.recv() => *interrupt,
            _ = third.recv() => *terminate,
        };
        128 + number
    }
}
