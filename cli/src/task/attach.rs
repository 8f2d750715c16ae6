//! `allot task attach`: what a task says from now on, and how it ends.

use allotment_framework_sdk::sandbox::{Sandbox, SandboxError, Window};
use allotment_proto::allot::TaskView;
use allotment_types::{FrameworkId, TaskId};
use futures_util::StreamExt as _;

use super::exec::Signals;
use super::writer::{self, To, Writer};
use crate::context::Context;
use crate::exit::Failure;
use crate::rpc::Peer;

/// What to attach to.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Prints what the task writes from now on, until it ends; `allot task logs` prints what it wrote
before. Ctrl-C ends this command and not the task.

Exit codes: those of `allot run`, with the task as its command; 128 + N when signal N ended this
command.")]
pub(super) struct Args {
    /// The task's id or the beginning of it
    pub(super) task: String,
}

/// Copies its output until it ends; the exit code.
pub(super) async fn run(ctx: &Context, task: &TaskView) -> anyhow::Result<u8> {
    let place = Place::of(task)?;
    let sandbox = Sandbox::connect(&task.agent_url)
        .await
        .map_err(|e| place.failed(e))?;
    let (writer, mut written) = writer::start();
    let mut signals = Signals::listen()?;
    let sizes = place.sizes(&sandbox).await?;
    let copied = async {
        let stdout = place.copy(&sandbox, "stdout", sizes.0, To::Stdout, writer.clone());
        let stderr = place.copy(&sandbox, "stderr", sizes.1, To::Stderr, writer);
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

    /// How much it wrote so far to stdout and stderr.
    async fn sizes(&self, sandbox: &Sandbox) -> anyhow::Result<(u64, u64)> {
        let listed = sandbox.list(&self.framework, &self.task, "").await;
        let files = listed.map_err(|error| self.failed(error))?;
        let size = |name: &str| {
            let file = files.iter().find(|file| file.name == name);
            file.map_or(0, |file| file.size_bytes)
        };
        Ok((size("stdout"), size("stderr")))
    }

    /// Copies a file from `offset` on until the task has ended.
    async fn copy(
        &self,
        sandbox: &Sandbox,
        name: &str,
        offset: u64,
        to: To,
        writer: Writer,
    ) -> anyhow::Result<()> {
        let window = Window {
            offset,
            length: None,
            follow: true,
        };
        let pieces = sandbox
            .read(&self.framework, &self.task, name, window)
            .await;
        let mut pieces = pieces.map_err(|error| self.failed(error))?;
        while let Some(piece) = pieces.next().await {
            if !writer
                .write(to, piece.map_err(|error| self.failed(error))?)
                .await
            {
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
