//! The containerizer as the agent's loop sees it: orders in, facts out.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::live::Live;
use super::prepare::User;
use super::process::{Launcher, LauncherError};
use super::session::{Entering, Sessions};
use super::supervisor::Supervisor;
use crate::config::{Isolation, Isolator, IsolatorSettings, LauncherCommand};
use crate::core::{ContainerId, Earlier, Input, Launch};
use crate::fetcher::Fetcher;

/// Orders that may wait. The core's loop waits when they fill the queue; the launcher is always
/// read.
const QUEUE_LEN: usize = 1024;

/// How containers are made on this agent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) launcher: LauncherCommand,
    pub(crate) isolation: Isolation,
    /// The agent's own part of cgroup paths.
    pub(crate) cgroup: String,
    pub(crate) work_dir: PathBuf,
    pub(crate) switch_user: bool,
    pub(crate) pids_max: u64,
    pub(crate) isolators: IsolatorSettings,
    pub(crate) fetches_max: usize,
    pub(crate) fetcher: Fetcher,
    pub(crate) tasks_outlive_agent: bool,
}

impl Settings {
    /// Whether sandboxes are measured and tasks ended that hold too much.
    pub(super) fn limits_disk(&self) -> bool {
        self.isolation.wanted().contains(&Isolator::DiskDu) && self.isolators.enforce_disk_quota
    }
}

/// What the core asks of the containerizer.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Box<Launch>),
    Terminate(ContainerId),
    Destroy(ContainerId),
    /// Its end is written down.
    Release(ContainerId),
    /// It is to hold this much from now on.
    Resize(Resize),
    /// Files are there, or not.
    Fetched(Box<Prepared>, Result<(), String>),
    /// Start one more program in a running container.
    Enter(Box<Entering>),
    /// Nobody listens to this session any more.
    Eject(u64),
    /// Send the terminal of this container's task through the socket.
    Attach(ContainerId, OwnedFd),
}

/// What a running container is to hold.
#[derive(Debug)]
pub(crate) struct Resize {
    pub(crate) container: ContainerId,
    pub(crate) cpus_milli: u64,
    pub(crate) memory_bytes: u64,
    /// `None`: its sandbox is not measured.
    pub(crate) disk_limit_bytes: Option<u64>,
}

/// A container with its sandbox.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) launch: Launch,
    pub(super) user: User,
    pub(super) sandbox: PathBuf,
    /// Of a nested one: the sandbox, for files to be made in.
    pub(super) folder: Option<OwnedFd>,
}

/// A running containerizer.
#[derive(Debug)]
pub(crate) struct Containerizer {
    orders: mpsc::Sender<Order>,
    switch_user: bool,
    /// Dropped or used, it ends the supervisor.
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
    /// The walls that tasks get.
    pub(crate) isolation: Vec<Isolator>,
    /// Of everything that was wished for: what it enforces, or why it cannot be had.
    pub(crate) found: Vec<(Isolator, Result<String, String>)>,
}

impl Containerizer {
    /// Starts a launcher, which takes up the containers of an earlier run; what happens to
    /// containers arrives at `inputs`.
    pub(crate) async fn start(
        settings: Settings,
        earlier: Vec<Earlier>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, LauncherError> {
        let mut live = Live::default();
        for container in earlier {
            let mut sandbox = settings.work_dir.join(&container.sandbox);
            if let Some(nesting) = &container.nested {
                sandbox.push(nesting.folder());
            }
            let within = (container.run.as_ref(), container.nested.as_ref());
            live.add(&container.container, sandbox, true, within);
            if let Some((_, adopted)) = live.get(&container.container) {
                adopted.disk_limit_bytes = container
                    .disk_limit_bytes
                    .filter(|_| settings.limits_disk());
            }
        }
        let wanted: Vec<Isolator> = settings.isolation.wanted().into_iter().collect();
        let (launcher, mut found) = Launcher::start(&settings, &wanted, live.to_adopt()).await?;
        found.extend(agents_own(&wanted));
        let missing: Vec<(Isolator, String)> = found
            .iter()
            .filter_map(|(isolator, said)| Some((*isolator, said.clone().err()?)))
            .collect();
        let insisted = missing
            .iter()
            .find(|(i, _)| settings.isolation.insists_on(*i));
        if let Some((isolator, reason)) = insisted {
            let (isolator, reason) = (*isolator, reason.clone());
            launcher.end().await;
            return Err(LauncherError::Isolation {
                wanted: settings.isolation.clone(),
                isolator,
                reason,
            });
        }
        for (isolator, said) in &found {
            match said {
                Ok(enforces) => tracing::info!(%isolator, %enforces, "wall stands"),
                Err(reason) => tracing::info!(%isolator, %reason, "wall cannot be had"),
            }
        }
        let isolation: Vec<Isolator> = found
            .iter()
            .filter_map(|(isolator, said)| said.is_ok().then_some(*isolator))
            .collect();
        let (orders, order_queue) = mpsc::channel(QUEUE_LEN);
        let (stop, stopped) = oneshot::channel();
        let switch_user = settings.switch_user;
        let supervisor = Supervisor::new(settings, isolation.clone(), live, inputs, orders.clone());
        Ok(Self {
            orders,
            switch_user,
            stop,
            supervisor: tokio::spawn(supervisor.run(launcher, order_queue, stopped)),
            isolation,
            found,
        })
    }

    /// Hands an order over.
    pub(crate) async fn order(&self, order: Order) {
        // Only a supervisor that is gone refuses, and then the agent is stopping.
        let _ = self.orders.send(order).await;
    }

    /// What starts further programs in running containers.
    pub(crate) fn sessions(&self) -> Sessions {
        Sessions {
            orders: self.orders.clone(),
            switch_user: self.switch_user,
        }
    }

    /// Ends the launcher, and with it every container that is not to outlive the agent.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.supervisor.await;
    }
}

/// Isolators that work in the agent itself and need nothing of the machine.
fn agents_own(wanted: &[Isolator]) -> Vec<(Isolator, Result<String, String>)> {
    wanted
        .iter()
        .filter(|isolator| **isolator == Isolator::DiskDu)
        .map(|isolator| {
            (
                *isolator,
                Ok("sandboxes are measured and limited".to_owned()),
            )
        })
        .collect()
}
