//! Everything around the core that touches the world: sockets, disk, processes and clock.
//!
//! - [`start`] and [`Running`]: an agent's life in this process.
//! - `driver`: the loop that owns the core. `link`: one connection to a master.
//! - `files`, `http`: what the agent serves. `store`: its work folder. `detect`: its machine.

mod detect;
mod driver;
mod files;
mod http;
mod link;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{Config, ConfigError, Isolator};
use crate::containerizer::LauncherError;
use crate::containerizer::handle::{Containerizer, Settings as ContainerSettings};
use crate::core::{Core, Input, Settings};
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
}

/// Why a running agent ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the agent ended: {reason}")]
pub struct RunError {
    reason: String,
}

/// An agent that serves. Dropping it ends its tasks as well, without a farewell.
#[derive(Debug)]
pub struct Running {
    url: String,
    missing_walls: Vec<(Isolator, String)>,
    inputs: mpsc::Sender<Input>,
    driver: JoinHandle<Result<(), String>>,
    server: JoinHandle<()>,
    collector: JoinHandle<()>,
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
    let agent = store.agent_id()?;
    let work_dir = store.folder().to_owned();
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
        fetches_max: config.fetches_max,
        fetcher: Fetcher {
            size_max: config.fetch_size_max,
        },
    };
    let containerizer = Containerizer::start(container_settings, inputs.clone()).await?;
    let settings = settings(&config, address, &containerizer, &work_dir);
    tracing::info!(
        url = %settings.url(),
        resources = %settings.resources,
        work_dir = %work_dir.display(),
        "the agent serves"
    );
    let missing_walls = containerizer.missing.clone();
    let (url, boot_id) = (settings.url(), settings.boot_id.clone());
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let core = Core::new(settings, agent, seed, clock::now());
    let (garbage, garbage_queue) = mpsc::unbounded_channel();
    let collector = tokio::spawn(driver::collect(work_dir.clone(), garbage_queue));
    let router = http::router(files::Files {
        work_dir: work_dir.clone(),
        queries,
    });
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
        inputs: inputs.clone(),
        garbage,
        link: None,
        waiting: BTreeMap::new(),
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
        let ended = driver.run(input_queue, query_queue).await;
        // The lock on the work folder goes last.
        drop(looking.await);
        ended
    });
    Ok(Running {
        url,
        missing_walls,
        inputs,
        driver,
        server,
        collector,
    })
}

fn settings(
    config: &Config,
    address: SocketAddr,
    containerizer: &Containerizer,
    work_dir: &std::path::Path,
) -> Settings {
    let hostname = config.hostname.clone().unwrap_or_else(detect::hostname);
    let host = match &config.advertise {
        Some(host) => host.clone(),
        None if address.ip().is_unspecified() => hostname.clone(),
        None if address.is_ipv6() => format!("[{}]", address.ip()),
        None => address.ip().to_string(),
    };
    let names: Vec<&str> = containerizer.isolation.iter().map(|i| i.name()).collect();
    let isolation = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    };
    let mut attributes = config.attributes.clone();
    attributes.push_text(Config::ISOLATION_ATTRIBUTE, &isolation);
    Settings {
        hostname,
        address: (host, address.port()),
        boot_id: detect::boot_id(),
        resources: config
            .resources
            .clone()
            .unwrap_or_else(|| detect::resources(work_dir)),
        attributes: attributes.to_wire(),
        n_masters: config.masters.len(),
        reconnect_min: config.reconnect_min,
        reconnect_max: config.reconnect_max,
        kill_grace: config.kill_grace,
        gc_delay: config.gc_delay,
        work_dir: work_dir.to_string_lossy().into_owned(),
        environment: detect::environment(),
    }
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The walls that tasks do without because this machine cannot give them, and why. Empty
    /// when all were given that were wanted.
    pub fn missing_walls(&self) -> &[(Isolator, String)] {
        &self.missing_walls
    }

    /// Stops cleanly: every task is killed and reported, the master is told that this agent
    /// leaves, and nothing is left but sandboxes.
    pub async fn stop(mut self) {
        let _ = self.inputs.send(Input::Stop).await;
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
        self.driver.abort();
    }
}
