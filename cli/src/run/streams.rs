//! The task's output, copied to ours as it grows.

use std::time::Duration;

use allotment_framework_sdk::sandbox::{Piece, Position, Sandbox, SandboxError};
use allotment_proto::allot::SandboxSummary;
use allotment_types::{FrameworkId, TaskId};
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::output;

/// How long an agent that cannot be reached is tried again once the task has ended.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// For tasks that ended without a summary: their agent is gone, or never ran them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is known of the sizes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sizes {
    /// The task still runs.
    Growing,
    /// It ended and left this many bytes.
    Final { stdout: u64, stderr: u64 },
    /// It ended and nobody knows.
    Unknown,
}

/// Copies stdout and stderr of one task.
#[derive(Debug)]
pub(super) struct Streams {
    sizes: watch::Sender<Sizes>,
    copying: tokio::task::JoinHandle<anyhow::Result<()>>,
    /// `copying` was awaited and has ended well.
    ended: bool,
}

#[derive(Debug, Clone)]
struct Place {
    agent_url: String,
    framework: FrameworkId,
    task: TaskId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Stdout,
    Stderr,
}

impl Streams {
    /// Starts copying from the sandbox at `agent_url`.
    pub(super) fn start(agent_url: String, framework: FrameworkId, task: TaskId) -> Self {
        let (sizes, _) = watch::channel(Sizes::Growing);
        let place = Place {
            agent_url,
            framework,
            task,
        };
        let (out, err) = (sizes.subscribe(), sizes.subscribe());
        let copying = tokio::spawn(async move {
            let stdout = copy(&place, File::Stdout, out);
            let stderr = copy(&place, File::Stderr, err);
            tokio::try_join!(stdout, stderr).map(|_| ())
        });
        Self {
            sizes,
            copying,
            ended: false,
        }
    }

    /// Waits until copying fails, which means that our own stdout is gone.
    pub(super) async fn failed(&mut self) -> anyhow::Result<()> {
        if !self.ended {
            let copied = (&mut self.copying)
                .await
                .context("copying the output failed");
            self.ended = true;
            copied??;
        }
        std::future::pending().await
    }

    /// Waits until everything that the ended task left was copied.
    pub(super) async fn finish(self, summary: Option<&SandboxSummary>) -> anyhow::Result<()> {
        let sizes = summary.map_or(Sizes::Unknown, |summary| Sizes::Final {
            stdout: summary.stdout_bytes,
            stderr: summary.stderr_bytes,
        });
        // Nobody listens when copying failed, which the next line tells.
        let _ = self.sizes.send(sizes);
        if self.ended {
            return Ok(());
        }
        self.copying.await.context("copying the output failed")?
    }
}

impl Sizes {
    /// How many bytes `file` will have; `None` while that is open.
    const fn of(self, file: File) -> Option<u64> {
        match (self, file) {
            (Self::Growing | Self::Unknown, _) => None,
            (Self::Final { stdout, .. }, File::Stdout) => Some(stdout),
            (Self::Final { stderr, .. }, File::Stderr) => Some(stderr),
        }
    }

    /// How long no byte may come before the rest is given up.
    const fn patience(self) -> Duration {
        match self {
            Self::Growing => Duration::MAX,
            Self::Final { .. } => GIVE_UP_AFTER,
            Self::Unknown => LAST_WORDS,
        }
    }
}

/// How far the copying of one file came.
#[derive(Debug, Default)]
struct Copied {
    /// Where to read on.
    next: Position,
    /// Over all files that had the name.
    n_bytes: u64,
    /// The file was put aside at least once: its final size is not that of all that was written.
    rotated: bool,
}

impl Copied {
    fn add(&mut self, piece: &Piece) {
        let before = self.next.file;
        self.rotated |= before.is_some() && before != piece.next.file;
        self.next = piece.next;
        self.n_bytes += piece.bytes.len() as u64;
    }

    /// Everything is here, as far as the final size tells.
    fn is_whole(&self, file: File, known: Sizes) -> bool {
        !self.rotated && known.of(file) == Some(self.n_bytes)
    }
}

async fn copy(place: &Place, file: File, mut sizes: watch::Receiver<Sizes>) -> anyhow::Result<()> {
    let mut copied = Copied::default();
    let mut last_piece = Instant::now();
    loop {
        let before = copied.n_bytes;
        let ended = follow(place, file, &mut copied, &mut sizes).await?;
        if copied.n_bytes > before {
            last_piece = Instant::now();
        }
        let known = *sizes.borrow_and_update();
        if copied.is_whole(file, known) {
            return Ok(());
        }
        let reason = match (ended, known) {
            // The agent knows that the task has ended before the framework does.
            (Ended::Whole, Sizes::Growing) => {
                if sizes.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            (Ended::Whole, Sizes::Unknown) => return Ok(()),
            (Ended::Whole, Sizes::Final { .. }) if copied.rotated => return Ok(()),
            (Ended::Whole, Sizes::Final { .. }) => "its agent ended the stream early".to_owned(),
            (Ended::Broken(error), _) => error.to_string(),
        };
        if last_piece.elapsed() > known.patience() {
            let name = file.name();
            output::complain(&format!(
                "{name} may lack its end ({} bytes came): {reason}",
                copied.n_bytes
            ));
            return Ok(());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// How one reading ended.
enum Ended {
    /// Everything was copied, as far as the agent or `sizes` know.
    Whole,
    /// Read on from where it stopped.
    Broken(SandboxError),
}

/// Copies from where `copied` is on until the end of the file or of the connection.
async fn follow(
    place: &Place,
    file: File,
    copied: &mut Copied,
    sizes: &mut watch::Receiver<Sizes>,
) -> anyhow::Result<Ended> {
    let from = copied.next;
    let reading = async {
        let sandbox = Sandbox::connect(&place.agent_url).await?;
        let name = file.name();
        sandbox
            .follow(&place.framework, &place.task, name, from)
            .await
    };
    let mut pieces = match reading.await {
        Ok(pieces) => pieces,
        Err(error) => return Ok(Ended::Broken(error)),
    };
    loop {
        let known = *sizes.borrow_and_update();
        tokio::select! {
            biased;
            piece = pieces.next() => match piece {
                Some(Ok(piece)) => {
                    copied.add(&piece);
                    file.write(piece.bytes).await?;
                }
                Some(Err(error)) => return Ok(Ended::Broken(error)),
                None => return Ok(Ended::Whole),
            },
            Ok(()) = sizes.changed() => {}
            () = tokio::time::sleep(known.patience()), if known != Sizes::Growing => {
                let silence = known.patience().as_secs();
                let text = format!("agent {} sent nothing for {silence} s", place.agent_url);
                return Ok(Ended::Broken(SandboxError::Unavailable(text)));
            }
        }
    }
}

impl File {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Writes to our own file of this name. A reader that is slow holds the copying back, and so
    /// the agent, but neither signals nor the master's heartbeats.
    async fn write(self, piece: Bytes) -> anyhow::Result<()> {
        let (done, written) = oneshot::channel();
        // A thread that nobody waits for: a reader that never reads must not keep us from ending,
        // as a thread of the runtime would.
        std::thread::spawn(move || {
            let result = match self {
                Self::Stdout => output::bytes(&piece),
                Self::Stderr => {
                    output::error_bytes(&piece);
                    Ok(())
                }
            };
            // Nobody listens when the copying was called off.
            let _ = done.send(result);
        });
        written.await.context("the writing thread failed")?
    }
}
