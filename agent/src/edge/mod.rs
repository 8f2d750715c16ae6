//! Everything around the core that touches the world: sockets, disk, processes and clock.
//!
//! - [`start`] and [`Running`]: an agent's life in this process.
//! - `driver`: the loop that owns the core. `link`: one connection to a master.
//! - `probe`: checks of tasks. `exec`: programs beside them; `attach`: their own terminals; `inner`: nested
//!   containers; `nested`, `mesos_api`: all of them as Mesos names them. `files`, `follow`, `mesos_files`, `http`: what the agent
//!   serves.
//! - `executors`: connections of custom executors; `executor_http`, `executor_grpc`: their two
//!   doors.
//! - `store`: its work folder. `checkpoint`: what it
//!   writes down there. `detect`: its machine.

mod attach;
mod checkpoint;
mod detect;
mod driver;
mod exec;
mod executor_grpc;
mod executor_http;
mod executors;
mod files;
mod follow;
mod held;
mod http;
mod inner;
mod leader;
mod link;
mod mesos_api;
mod mesos_files;
mod nested;
mod probe;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use allotment_types::Resources;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{Config, ConfigError, Isolator};
use crate::containerizer::LauncherError;
use crate::containerizer::handle::{Containerizer, Settings as ContainerSettings};
use crate::core::{Checkpoint, Core, ExecutorSettings, Input, LogBound, Settings, Shrunk};
use crate::fetcher::Fetcher;
pub use store::{StoreError, cgroup_name};

/// Facts that may wait for the loop; whoever brings more waits.
const INPUTS_WAITING: usize = 4096;
const QUERIES_WAITING: usize = 64;

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the agent's settings do not go together")]
    Config(#[source] ConfigError),
    /// The work folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The port cannot be served on.
    #[error("the agent cannot serve on {address}; choose a free port with --port, or 0 for any")]
    Listen {
        /// What was asked.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing can be started on this machine.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// Live tasks hold more than the settings offer.
    #[error(transparent)]
    Shrunk(#[from] Shrunk),
}

/// Why a running agent ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the agent ended: {reason}")]
pub struct RunError {
    reason: String,
}

/// An agent that serves. Dropping it is as [`Running::leave`], at once.
#[derive(Debug)]
pub struct Running {
    url: String,
    tasks_outlive_agent: bool,
    walls: Vec<(Isolator, Result<String, String>)>,
    inputs: mpsc::Sender<Input>,
    driver: JoinHandle<Result<(), String>>,
    server: JoinHandle<()>,
    collector: JoinHandle<()>,
    disk_watch: JoinHandle<()>,
}

/// Starts an agent; returns once it serves. It registers with a master by itself, as soon as one
/// answers.
///
/// # Errors
/// [`StartError`] when the settings contradict each other, the port is taken, the work folder
/// cannot be used or a wanted isolation cannot be given.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate().map_err(StartError::Config)?;
    let store = store::Store::open(&config.work_dir)?;
    let work_dir = store.folder().to_owned();
    let unusable = |source| StoreError::Folder {
        folder: work_dir.clone(),
        source,
    };
    let mut found = checkpoint::read(&work_dir).map_err(unusable)?;
    match store.agent_id() {
        Ok(agent) => found.checkpoint.or_agent(agent),
        Err(damage) => found.damage.push(damage),
    }
    report(&found, &work_dir);
    let earlier = std::mem::take(&mut found.checkpoint);
    let listen_error = |source| StartError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let (inputs, input_queue) = mpsc::channel(INPUTS_WAITING);
    let (queries, query_queue) = mpsc::channel(QUERIES_WAITING);
    let container_settings = ContainerSettings {
        launcher: config.launcher.clone(),
        isolation: config.isolation.clone(),
        cgroup: cgroup_name(&work_dir),
        work_dir: work_dir.clone(),
        switch_user: config.switch_user,
        pids_max: config.pids_max,
        isolators: config.isolators.clone(),
        fetches_max: config.fetches_max,
        fetcher: Fetcher::new(config.fetcher.clone(), &work_dir).map_err(unusable)?,
        tasks_outlive_agent: config.tasks_outlive_agent,
    };
    let adopted = if config.tasks_outlive_agent {
        earlier.containers()
    } else {
        Vec::new()
    };
    let containerizer = Containerizer::start(container_settings, adopted, inputs.clone()).await?;
    let settings = settings(&config, address, &containerizer, &work_dir, &earlier);
    tracing::info!(
        url = %settings.url(),
        resources = %settings.resources,
        work_dir = %work_dir.display(),
        "the agent serves"
    );
    let walls = containerizer.found.clone();
    let (url, boot_id) = (settings.url(), settings.boot_id.clone());
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let (core, recovery) = match Core::recover(settings, earlier, seed, clock::now()) {
        Ok(recovered) => recovered,
        Err(shrunk) => {
            containerizer.stop().await;
            return Err(shrunk.into());
        }
    };
    let log = checkpoint::Log::begin(&work_dir, &found, &core.snapshot()).map_err(unusable)?;
    let (garbage, garbage_queue) = mpsc::unbounded_channel();
    let collector = tokio::spawn(driver::collect(work_dir.clone(), garbage_queue));
    let disk_watch = tokio::spawn(watch_disk(
        work_dir.clone(),
        config.disk_watch_interval,
        inputs.clone(),
    ));
    let executors =
        executors::ExecutorDoor::new(inputs.clone(), config.authenticate_http_executors);
    let files = files::Files {
        work_dir: work_dir.clone(),
        queries,
    };
    let inner = inner::Inner::new(files.queries.clone(), inputs.clone(), work_dir.clone());
    let doors = exec::Doors {
        sessions: containerizer.sessions(),
        files: files.clone(),
        inner: inner.clone(),
    };
    let router = http::router(files, doors, executors.clone());
    let server = tokio::spawn(async move {
        // Ends with the task; accept errors are retried inside.
        let _ = axum::serve(listener, router).await;
    });
    let driver = driver::Driver {
        core,
        containerizer,
        masters: config.masters,
        work_dir,
        boot_id,
        log,
        inputs: inputs.clone(),
        garbage,
        link: None,
        fence: leader::Fence::default(),
        waiting: BTreeMap::new(),
        watchers: Vec::new(),
        held: held::Held::default(),
        inner,
        executors,
    };
    let found = inputs.clone();
    let driver = tokio::spawn(async move {
        let looking = tokio::task::spawn_blocking(move || {
            for input in store.sandboxes() {
                if found.blocking_send(input).is_err() {
                    break;
                }
            }
            store
        });
        // What recovery changed is in the snapshot that the log begins with.
        let ended = driver.run(recovery.then, input_queue, query_queue).await;
        // The lock on the work folder goes last.
        drop(looking.await);
        ended
    });
    Ok(Running {
        url,
        tasks_outlive_agent: config.tasks_outlive_agent,
        walls,
        inputs,
        driver,
        server,
        collector,
        disk_watch,
    })
}

/// Says what of an earlier run is lost. Tasks among it come to a terminal update through the
/// master, which finds them missing in the registration.
fn report(found: &checkpoint::Found, work_dir: &Path) {
    for what in &found.damage {
        tracing::error!(%what, "something that this agent wrote down is lost");
    }
    let (held, n) = (found.checkpoint.held(), found.checkpoint.containers().len());
    if n > 0 {
        tracing::info!(work_dir = %work_dir.display(), tasks = n, %held, "recovering");
    }
}

fn settings(
    config: &Config,
    address: SocketAddr,
    containerizer: &Containerizer,
    work_dir: &Path,
    earlier: &Checkpoint,
) -> Settings {
    let hostname = config.hostname.clone().unwrap_or_else(detect::hostname);
    let host = match &config.advertise {
        Some(host) => host.clone(),
        None if address.ip().is_unspecified() => hostname.clone(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    };
    let isolation = Isolator::summary(&containerizer.isolation.iter().copied().collect());
    let mut attributes = config.attributes.clone();
    attributes.push_text(Config::ISOLATION_ATTRIBUTE, &isolation);
    Settings {
        hostname,
        address: (host, address.port()),
        boot_id: detect::boot_id(),
        resources: config
            .resources
            .clone()
            .unwrap_or_else(|| detected(work_dir, earlier)),
        attributes: attributes.to_wire(),
        domain: config.domain.clone(),
        n_masters: config.masters.len(),
        reconnect_min: config.reconnect_min,
        reconnect_max: config.reconnect_max,
        kill_grace: config.kill_grace,
        gc_delay: config.gc_delay,
        gc_headroom_permille: permille(config.gc_disk_headroom),
        work_dir: work_dir.to_string_lossy().into_owned(),
        environment: detect::environment(),
        tasks_outlive_agent: config.tasks_outlive_agent,
        log_bound: LogBound {
            size_max: config.log_size_max,
            files_max: config.log_files_max,
        },
        executors: ExecutorSettings {
            registration_timeout: config.executor_registration_timeout,
            reregistration_timeout: config.executor_reregistration_timeout,
            shutdown_grace: config.executor_shutdown_grace,
            recovery_timeout: config.recovery_timeout,
            authenticate: config.authenticate_http_executors,
            secret: secret(),
        },
    }
}

/// 244 bits that nobody can guess, from the kernel.
fn secret() -> [u8; 32] {
    let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let mut secret = [0; 32];
    for (to, from) in secret
        .iter_mut()
        .zip(halves.iter().flat_map(uuid::Uuid::as_bytes))
    {
        *to = *from;
    }
    secret
}

/// What this machine has. What tasks wrote makes its free disk less; neither they nor volumes are
/// refused for that what they were given.
fn detected(work_dir: &Path, earlier: &Checkpoint) -> Resources {
    let now = detect::resources(work_dir);
    let Some(before) = earlier.resources() else {
        return now;
    };
    if now.contains(&earlier.held().declared()) && before.reapplied_to(&now).is_ok() {
        now
    } else {
        before.declared()
    }
}

/// A part of a whole, checked before, in thousandths.
fn permille(part: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    let thousandths = (part * 1000.0).round() as u32;
    thousandths
}

/// Tells the core how full the disk is, now and then.
async fn watch_disk(work_dir: PathBuf, interval: Duration, inputs: mpsc::Sender<Input>) {
    loop {
        let folder = work_dir.clone();
        let used = tokio::task::spawn_blocking(move || detect::disk_used_permille(&folder)).await;
        if let Ok(Some(used_permille)) = used
            && inputs
                .send(Input::DiskUsage { used_permille })
                .await
                .is_err()
        {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every wall that was wanted: what it enforces, or why this machine cannot give it.
    pub fn walls(&self) -> &[(Isolator, Result<String, String>)] {
        &self.walls
    }

    /// The essential walls that tasks do without because this machine cannot give them, and
    /// why. Empty when all were given that were wanted.
    pub fn missing_walls(&self) -> Vec<(Isolator, &str)> {
        let missing = self.walls.iter().filter_map(|(isolator, said)| {
            let reason = said.as_ref().err()?;
            isolator
                .is_essential()
                .then_some((*isolator, reason.as_str()))
        });
        missing.collect()
    }

    /// Ends this agent for good: every task is killed and reported, the master is told that it
    /// leaves, and nothing is left but sandboxes and what is not acknowledged.
    pub async fn stop(mut self) {
        let _ = self.inputs.send(Input::Stop).await;
        let _ = (&mut self.driver).await;
    }

    /// Ends this process and leaves the tasks to the next agent on the same work folder, which
    /// finds them again; where tasks do not outlive their agent, the same as [`Self::stop`].
    pub async fn leave(mut self) {
        if !self.tasks_outlive_agent {
            return self.stop().await;
        }
        let _ = self.inputs.send(Input::Leave).await;
        let _ = (&mut self.driver).await;
    }

    /// Returns only when the agent ends by itself, with the reason.
    pub async fn wait(&mut self) -> RunError {
        let reason = match (&mut self.driver).await {
            Ok(Ok(())) => "it was stopped".to_owned(),
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        RunError { reason }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
        self.collector.abort();
        self.disk_watch.abort();
        self.driver.abort();
    }
}
