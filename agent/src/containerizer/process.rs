//! One launcher process and the socket to it, from the agent's side.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::handle::Settings;
use super::wire::{self, Inbox, News, news, order, put};
use crate::config::{Isolation, Isolator, LauncherCommand};

/// The folder of the journal in the work folder.
const JOURNAL: &str = "meta/containers";
/// How long the launcher may take to find out what the machine can do, leftovers included.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a launcher may take to end its containers when the agent stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Why no launcher could be started.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The program does not start.
    #[error("cannot start the launcher {}; check that this binary still exists", program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It said nothing, or nonsense.
    #[error("the launcher {} did not come up: {reason}", program.display())]
    NotReady {
        /// Which program.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// The operator insists on a wall that this machine cannot give.
    #[error(
        "isolation {wanted} is asked for, but {isolator} cannot be had: {reason}; run as root on \
         a machine that has it, or use isolation auto or none"
    )]
    Isolation {
        /// What was asked.
        wanted: Isolation,
        /// Which is missing.
        isolator: Isolator,
        /// Why.
        reason: String,
    },
}

/// A launcher process and the way to it.
#[derive(Debug)]
pub(super) struct Launcher {
    child: Child,
    pub(super) read: OwnedReadHalf,
    pub(super) write: OwnedWriteHalf,
    pub(super) inbox: Inbox,
}

/// What came of each isolator: what it enforces, or why it cannot be had.
pub(super) type Found = Vec<(Isolator, Result<String, String>)>;

impl Launcher {
    /// Starts one and waits until it is ready; it begins with the containers in `adopt`.
    pub(super) async fn start(
        settings: &Settings,
        isolation: &[Isolator],
        adopt: Vec<wire::Adopt>,
    ) -> Result<(Self, Found), LauncherError> {
        let LauncherCommand { program, args } = &settings.launcher;
        let spawn_error = |source| LauncherError::Spawn {
            program: program.clone(),
            source,
        };
        let not_ready = |reason: String| LauncherError::NotReady {
            program: program.clone(),
            reason,
        };
        // As standard input the socket reaches the launcher and no other child of this process.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        let child = Command::new(program)
            .args(args)
            .args(["--socket-fd", "0"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(spawn_error)?;
        ours.set_nonblocking(true).map_err(spawn_error)?;
        let (read, write) = tokio::net::UnixStream::from_std(ours)
            .map_err(spawn_error)?
            .into_split();
        let mut launcher = Self {
            child,
            read,
            write,
            inbox: Inbox::default(),
        };
        let set_up = wire::SetUp {
            agent: settings.cgroup.clone(),
            isolators: isolation.iter().map(|i| i.name().to_owned()).collect(),
            cfs_quota: settings.isolators.cgroups_enable_cfs,
            host_path_volumes: settings.isolators.host_path_volumes.clone(),
            bounding_capabilities: settings.isolators.bounding_capabilities.bits(),
            effective_capabilities: settings.isolators.effective_capabilities.bits(),
            own_tmp: settings.isolators.own_tmp,
            journal: settings
                .work_dir
                .join(JOURNAL)
                .into_os_string()
                .into_encoded_bytes(),
            outlive: settings.tasks_outlive_agent,
            adopt,
        };
        let mut bytes = Vec::new();
        put(
            &wire::Order {
                kind: Some(order::Kind::SetUp(set_up)),
            },
            &mut bytes,
        );
        let handshake = async {
            launcher
                .write
                .write_all(&bytes)
                .await
                .map_err(|error| error.to_string())?;
            match launcher.next().await? {
                Some(news::Kind::Ready(ready)) => Ok(ready),
                Some(_) | None => Err("it did not say that it is ready".to_owned()),
            }
        };
        let ready = tokio::time::timeout(SET_UP_TIMEOUT, handshake)
            .await
            .map_err(|_| not_ready(format!("it said nothing for {SET_UP_TIMEOUT:?}")))?
            .map_err(not_ready)?;
        if let Some(clause) = ready.refused {
            launcher.end().await;
            return Err(not_ready(clause));
        }
        if ready.n_strays > 0 {
            tracing::warn!(
                containers = ready.n_strays,
                "containers of an earlier run that this agent has no record of are ended"
            );
        }
        if ready.n_damaged > 0 {
            tracing::error!(
                records = ready.n_damaged,
                "the journal of containers is damaged; what is missing from it counts as lost"
            );
        }
        let found = ready.isolators.into_iter().filter_map(|isolating| {
            let isolator = Isolator::ALL
                .into_iter()
                .find(|isolator| isolator.name() == isolating.name)?;
            let said = match (isolating.enforces, isolating.missing) {
                (Some(enforces), _) => Ok(enforces),
                (None, missing) => Err(missing.unwrap_or_default()),
            };
            Some((isolator, said))
        });
        Ok((launcher, found.collect()))
    }

    /// The next piece of news.
    async fn next(&mut self) -> Result<Option<news::Kind>, String> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let news: Option<News> = self.inbox.next().map_err(|error| error.to_string())?;
            if let Some(news) = news {
                return Ok(news.kind);
            }
            match self.read.read(&mut buffer).await {
                Ok(0) => return Err("it ended".to_owned()),
                Ok(n) => self.inbox.extend(buffer.get(..n).unwrap_or_default()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Closes the socket, which ends the launcher, and waits for that.
    pub(super) async fn end(self) {
        let Self {
            mut child,
            read,
            write,
            ..
        } = self;
        drop((read, write));
        if tokio::time::timeout(STOP_TIMEOUT, child.wait())
            .await
            .is_err()
        {
            let _ = child.kill().await;
        }
    }

    /// How it ended; one that does not end is killed, so that another can take its place.
    pub(super) async fn how_it_ended(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                let _ = self.child.kill().await;
                "it was killed".to_owned()
            }
        }
    }
}
