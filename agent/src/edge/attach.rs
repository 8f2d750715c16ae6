//! Typing into the terminal that a task was started with, and seeing what it says.
//!
//! What it says its init writes to `stdout` in its sandbox, and that is where everybody reads it
//! from: many may watch, and nobody who does holds the task up.

use std::time::Duration;

use allotment_proto::allot::SandboxChunk;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::driver::{Beside, Query};
use super::exec::{Doors, refused};
use super::follow::{Pace, Reader};
use crate::containerizer::session::SessionInput;
use crate::core::Attachable;

/// Chunks that may wait for a slow watcher.
const CHUNKS_WAITING: usize = 4;
/// How late at most something typed is seen: soon enough for people.
const PACE: Pace = (Duration::from_millis(5), Duration::from_millis(20));

/// The terminal of a task.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) input: SessionInput,
    /// What it says from now on, until the task has ended.
    pub(super) output: mpsc::Receiver<Result<SandboxChunk, Status>>,
}

impl Doors {
    /// Attaches to the terminal of a task that runs.
    pub(super) async fn attach_to(&self, beside: Beside) -> Result<Attached, Status> {
        let task = self.terminal(beside).await?;
        let input = self.attach_input_to(&task).await?;
        let output = self.watch(task).await?;
        Ok(Attached { input, output })
    }

    /// Finds a task that was started with a terminal.
    pub(super) async fn terminal(&self, beside: Beside) -> Result<Attachable, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        let (reply, answer) = oneshot::channel();
        let query = Query::Terminal(beside, reply);
        let sent = self.files.queries.send(query).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map_err(refused)
    }

    /// Where it reads what is typed.
    pub(super) async fn attach_input_to(&self, task: &Attachable) -> Result<SessionInput, Status> {
        let attached = self.sessions.attach(task.container.clone()).await;
        attached.map_err(Status::failed_precondition)
    }

    /// Resolves when nothing of it runs any more, or the agent stops.
    pub(super) async fn end_of(&self, task: Attachable) {
        let (reply, answer) = oneshot::channel();
        let query = Query::Ended(task.framework, task.task, reply);
        let _ = self.files.queries.send(query).await;
        let _ = answer.await;
    }

    /// What it says from now on.
    pub(super) async fn watch(
        &self,
        task: Attachable,
    ) -> Result<mpsc::Receiver<Result<SandboxChunk, Status>>, Status> {
        let reader = Reader {
            files: self.files.clone(),
            framework: task.framework,
            task: task.task,
            path: "stdout".to_owned(),
            left: u64::MAX,
            follow: true,
            pace: PACE,
        };
        let opened = reader.open_at_end().await?;
        let (chunks, output) = mpsc::channel(CHUNKS_WAITING);
        tokio::spawn(async move {
            if let Err(status) = reader.run(opened, &chunks).await {
                let _ = chunks.send(Err(status)).await;
            }
        });
        Ok(output)
    }
}
