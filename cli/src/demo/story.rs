//! Tells what happens in the cluster while something is awaited.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use allotment_proto::allot::{ClusterEvent, EventsRequest};
use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::screen::Screen;
use crate::context::Context;
use crate::events;

/// As long as a slow machine may take for one step of the story.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at a state that is asked for again and again.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// What the story hears beside the step it awaits.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Something happened in the cluster.
    Event(ClusterEvent),
    /// A count went on.
    Progress {
        what: &'static str,
        done: u64,
        total: u64,
    },
}

/// The cluster, the screen, and where the examples are.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) ctx: Context,
    pub(crate) screen: Screen,
    /// Whether each task's events are told; with hundreds of tasks their count is, beside offers.
    pub(crate) tells_tasks: bool,
    /// Where the app's instances answer.
    pub(crate) instances: Vec<String>,
    folder: PathBuf,
    heard: mpsc::Receiver<Heard>,
    teller: mpsc::Sender<Heard>,
}

impl Story {
    /// Begins to listen to the master's events.
    pub(crate) async fn begin(
        ctx: &Context,
        screen: Screen,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        // When the screen is slow the listener waits, and the master drops it if that lasts: the
        // demo then goes on without events.
        let (teller, heard) = mpsc::channel(1024);
        let request = EventsRequest {
            replay: true,
            follow: Some(true),
        };
        let mut stream = ctx.operator().await?.events(request).await?.into_inner();
        let events = teller.clone();
        tokio::spawn(async move {
            while let Ok(Some(event)) = stream.message().await {
                if events.send(Heard::Event(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            ctx: ctx.clone(),
            screen,
            tells_tasks: true,
            instances: Vec::new(),
            folder: folder.to_owned(),
            heard,
            teller,
        })
    }

    /// Where the examples are, and where commands run.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets a task report what the story should tell.
    pub(crate) fn teller(&self) -> mpsc::Sender<Heard> {
        self.teller.clone()
    }

    /// Awaits a step, telling what is heard meanwhile.
    ///
    /// # Errors
    /// Those of the step, and one that says `what` did not come in time.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        step: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut step = std::pin::pin!(tokio::time::timeout(PATIENCE, step));
        let outcome = loop {
            tokio::select! {
                outcome = &mut step => break outcome,
                Some(heard) = self.heard.recv() => self.tell(heard),
            }
        };
        while let Ok(heard) = self.heard.try_recv() {
            self.tell(heard);
        }
        self.screen.progress_ends();
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => bail!("waited {} s in vain for {what}", PATIENCE.as_secs()),
        }
    }

    /// Runs `allot ARGS` as the user would, and returns what it printed.
    pub(crate) async fn command(&mut self, args: &[&str]) -> anyhow::Result<String> {
        self.screen.command(&format!("allot {}", args.join(" ")));
        let program = std::env::current_exe().context("cannot find the running program")?;
        let command = tokio::process::Command::new(program)
            .args(args)
            .current_dir(&self.folder)
            .env("ALLOT_MASTER", &self.ctx.master)
            .env("ALLOT_SERVICES", self.ctx.services_url().await?)
            .env("ALLOT_BATCH", self.ctx.batch_url().await?)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = self.until("the command to end", async { Ok(command.await?) });
        let ended = ended.await?;
        let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
        for line in printed.lines().take(10) {
            self.screen.printed(line);
        }
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            bail!("`allot {}` failed: {}", args.join(" "), said.trim());
        }
        Ok(printed)
    }

    fn tell(&mut self, heard: Heard) {
        match heard {
            Heard::Event(event) if self.tells_tasks || event.task_id.is_none() => {
                let tone = events::tone(&event.kind);
                self.screen.event(&event.kind, tone, &event.message);
            }
            Heard::Event(_) => {}
            Heard::Progress { what, done, total } => self.screen.progress(what, done, total),
        }
    }
}
