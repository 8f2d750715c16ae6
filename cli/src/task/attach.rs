//! `allot task attach`: what a task says from now on, its terminal where it has one, and how it
//! ends.

use std::io::{IsTerminal as _, Read as _};

use allotment_framework_sdk::sandbox::{Position, Sandbox, SandboxError};
use allotment_proto::allot::containers_client::ContainersClient;
use allotment_proto::allot::exec_input::Input;
use allotment_proto::allot::exec_output::Output;
use allotment_proto::allot::{AttachStart, ExecInput, ExecOutput, Heartbeat, TaskView};
use allotment_types::{FrameworkId, TaskId};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::exec::{HEARTBEAT, INPUTS_WAITING, Signals, closed, say};
use super::terminal::{self, RawMode};
use super::writer::{self, To, Writer};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;
use crate::rpc::{self, Peer};

/// What to attach to.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Prints what the task writes from now on, until it ends; `allot task logs` prints what it wrote
before. Ctrl-C ends this command and not the task.

A task that was started at a terminal (`allot run --tty`, `tty_info` in its TaskInfo) is typed to:
every key goes there, Ctrl-C too, and its window is as large as this one. Ctrl-P Ctrl-Q leaves it
alone again.

Exit codes: those of `allot run`, with the task as its command; 128 + N when signal N ended this
command.")]
pub(super) struct Args {
    /// The task's id or the beginning of it
    pub(super) task: String,
}

/// The keys that leave the task alone: Ctrl-P and Ctrl-Q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Copies its output, and to its terminal what is typed, until it ends; the exit code.
pub(super) async fn run(ctx: &Context, task: &TaskView) -> anyhow::Result<u8> {
    match at_terminal(ctx, task).await? {
        Some(code) => Ok(code),
        None => copy_files(ctx, task).await,
    }
}

/// The same for a task that has a terminal; `None` when it has none.
async fn at_terminal(ctx: &Context, task: &TaskView) -> anyhow::Result<Option<u8>> {
    let channel = rpc::connect(Peer::Agent, &task.agent_url).await?;
    let refused = |status: tonic::Status| rpc::refused(Peer::Agent, &task.agent_url, &status);
    let (inputs, stream) = mpsc::channel(INPUTS_WAITING);
    let start = AttachStart {
        framework_id: task.framework_id.clone(),
        task_id: task.id.clone(),
        terminal: std::io::stdin().is_terminal().then(terminal::window),
        heartbeat_seconds: Some(HEARTBEAT.as_secs_f64()),
    };
    say(&inputs, Input::Attach(start)).await;
    let answer = ContainersClient::new(channel)
        .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX)
        .attach(ReceiverStream::new(stream))
        .await;
    let outputs = match answer {
        Ok(answer) => answer.into_inner(),
        // No terminal, or it does not run; or an agent that knows nothing of terminals.
        Err(status)
            if matches!(
                status.code(),
                Code::FailedPrecondition | Code::Unimplemented
            ) =>
        {
            return Ok(None);
        }
        Err(status) => return Err(refused(status)),
    };
    let (mut signals, mut resized) = (Signals::listen()?, signal(SignalKind::window_change())?);
    let raw = RawMode::begin().context("the terminal cannot be made raw")?;
    let (detach, mut detached) = oneshot::channel();
    pass_keys_on(inputs.clone(), detach);
    let (writer, mut written) = writer::start();
    let told = show(outputs, writer);
    tokio::pin!(told);
    let ended = loop {
        tokio::select! {
            ended = &mut told => break ended.map_err(refused),
            Ok(()) = &mut detached => {
                drop(raw);
                output::note(&format!("task {} goes on", task.id));
                return Ok(Some(0));
            }
            code = signals.ended() => return Ok(Some(code)),
            Some(()) = resized.recv() => say(&inputs, Input::Window(terminal::window())).await,
            () = tokio::time::sleep(HEARTBEAT) => {
                // Whoever does not take it has our input to take first, and knows by that.
                let input = Some(Input::Heartbeat(Heartbeat {}));
                let _ = inputs.try_send(ExecInput { input });
            }
            result = &mut written => break Err(closed(result)),
        }
    };
    ended?;
    tokio::select! {
        result = &mut written => result.unwrap_or(Ok(()))?,
        code = signals.ended() => return Ok(Some(code)),
    }
    drop(raw);
    tokio::select! {
        code = how_it_ended(ctx, task) => code.map(Some),
        code = signals.ended() => Ok(Some(code)),
    }
}

/// Writes what comes until the task has ended.
async fn show(mut outputs: Streaming<ExecOutput>, writer: Writer) -> Result<(), tonic::Status> {
    while let Some(message) = outputs.message().await? {
        if let Some(Output::Stdout(bytes)) = message.output
            && !writer.write(To::Stdout, bytes).await
        {
            // What that means is said by the writer.
            std::future::pending().await
        }
    }
    Ok(())
}

/// Reads standard input in a thread of its own, which ends with this process at the latest.
fn pass_keys_on(inputs: mpsc::Sender<ExecInput>, detach: oneshot::Sender<()>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 16 * 1024];
        let mut keys = Keys::default();
        loop {
            let typed = match stdin.read(&mut buffer) {
                Ok(n) if n > 0 => keys.of(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // Nobody types any more: it is still looked at.
                Ok(_) | Err(_) => return,
            };
            let Some(typed) = typed else {
                let _ = detach.send(());
                return;
            };
            let input = Some(Input::Stdin(typed.into()));
            if inputs.blocking_send(ExecInput { input }).is_err() {
                return;
            }
        }
    });
}

/// Finds the keys that detach among others.
#[derive(Debug, Default)]
struct Keys {
    /// The first of them was typed, and is passed on unless the second follows.
    first: bool,
}

impl Keys {
    /// What is to be passed on; `None` to detach.
    fn of(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let [first, second] = DETACH;
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for key in typed {
            if std::mem::take(&mut self.first) {
                if *key == second {
                    return None;
                }
                passed.push(first);
            }
            if *key == first {
                self.first = true;
            } else {
                passed.push(*key);
            }
        }
        Some(passed)
    }
}

/// Copies the files that a task without a terminal writes to.
async fn copy_files(ctx: &Context, task: &TaskView) -> anyhow::Result<u8> {
    let place = Place::of(task)?;
    let sandbox = Sandbox::connect(&task.agent_url)
        .await
        .map_err(|e| place.failed(e))?;
    let (writer, mut written) = writer::start();
    let mut signals = Signals::listen()?;
    let ends = place.ends(&sandbox).await?;
    let copied = async {
        let stdout = place.copy(&sandbox, "stdout", ends.0, To::Stdout, writer.clone());
        let stderr = place.copy(&sandbox, "stderr", ends.1, To::Stderr, writer);
        tokio::try_join!(stdout, stderr).map(|_| ())
    };
    tokio::select! {
        done = copied => done?,
        code = signals.ended() => return Ok(code),
        result = &mut written => return result.unwrap_or(Ok(())).map(|()| 1),
    }
    tokio::select! {
        result = &mut written => result.unwrap_or(Ok(()))?,
        code = signals.ended() => return Ok(code),
        // The task has ended; the master hears of it in its time.
    }
    tokio::select! {
        code = how_it_ended(ctx, task) => code,
        code = signals.ended() => Ok(code),
    }
}

#[derive(Debug)]
struct Place {
    url: String,
    framework: FrameworkId,
    task: TaskId,
}

impl Place {
    fn of(task: &TaskView) -> Result<Self, Failure> {
        let odd = |error: &dyn std::error::Error| {
            Failure::NotFound(format!("the master named a task that cannot be: {error}"))
        };
        Ok(Self {
            url: task.agent_url.clone(),
            framework: FrameworkId::parse(&task.framework_id).map_err(|e| odd(&e))?,
            task: TaskId::parse(&task.id).map_err(|e| odd(&e))?,
        })
    }

    fn failed(&self, error: SandboxError) -> anyhow::Error {
        match error {
            SandboxError::Unavailable(why) => Peer::Agent.unreachable(&self.url, &why).into(),
            SandboxError::NotFound(why) => Failure::NotFound(why).into(),
            SandboxError::Refused(why) => anyhow::anyhow!(why),
        }
    }

    /// Where stdout and stderr end now.
    async fn ends(&self, sandbox: &Sandbox) -> anyhow::Result<(Position, Position)> {
        let listed = sandbox.list(&self.framework, &self.task, "").await;
        let files = listed.map_err(|error| self.failed(error))?;
        let end = |name: &str| {
            let file = files.iter().find(|file| file.name == name);
            file.map_or_else(Position::default, |file| Position {
                file: file.file,
                offset: file.size_bytes,
            })
        };
        Ok((end("stdout"), end("stderr")))
    }

    /// Copies a file from a position on until the task has ended.
    async fn copy(
        &self,
        sandbox: &Sandbox,
        name: &str,
        from: Position,
        to: To,
        writer: Writer,
    ) -> anyhow::Result<()> {
        let pieces = sandbox
            .follow(&self.framework, &self.task, name, from)
            .await;
        let mut pieces = pieces.map_err(|error| self.failed(error))?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.failed(error))?;
            if !writer.write(to, piece.bytes).await {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }
}

/// Asks the master until it knows that the task has ended.
async fn how_it_ended(ctx: &Context, task: &TaskView) -> anyhow::Result<u8> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    loop {
        let runs = super::list(ctx, Some(&task.id), true).await?;
        let run = runs.into_iter().find(|run| {
            run.id == task.id
                && run.framework_id == task.framework_id
                && run.launched_at == task.launched_at
        });
        let Some(run) = run else {
            anyhow::bail!("task {} has ended, and the master forgot how", task.id);
        };
        match (run.exit_code, run.exit_signal) {
            (Some(code), _) => return Ok(u8::try_from(code).unwrap_or(1)),
            (None, Some(signal)) => return Ok(u8::try_from(128 + signal).unwrap_or(1)),
            (None, None) if is_over(&run.state) => anyhow::bail!(
                "task {} ended as {} without an exit code: {}",
                task.id,
                run.state,
                run.message.as_deref().unwrap_or("no reason was given")
            ),
            (None, None) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn is_over(state: &str) -> bool {
    use allotment_proto::{convert::is_terminal, mesos::TaskState};
    TaskState::from_str_name(state).is_some_and(is_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_keys_detach_together_and_are_passed_on_alone() {
        let mut keys = Keys::default();
        assert_eq!(keys.of(b"ab\x11").unwrap(), b"ab\x11");
        assert_eq!(keys.of(b"c\x10").unwrap(), b"c");
        assert_eq!(keys.of(b"d\x10\x10").unwrap(), b"\x10d\x10");
        assert_eq!(keys.of(b"\x11"), None);
    }
}
