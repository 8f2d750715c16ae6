//! The process around the core: HTTP, the session with the master, the store, probes.
//!
//! - `http`: the doors; `proxy`: the way on to the process that leads.
//! - `reign`: leading, following and what lies between.
//! - `driver`: the one loop that owns the core, while this process leads.
//! - `state`: the way into the masters' store.
//! - `probe`, `metrics`: what their names say.

mod driver;
mod http;
mod metrics;
mod probe;
mod proxy;
mod reign;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use allotment_framework_sdk::cluster::Cluster;
use allotment_framework_sdk::{Store, Terms};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::error;

use self::http::{Door, Phase};
use crate::config::{Config, ConfigError};
use crate::core::answer::Answer;
use crate::core::why::AgentRoom;
use crate::core::{Request, Settings, Stats};

/// Requests that wait for the loop; further ones wait in their connections.
const MESSAGES_MAX: usize = 1024;

/// What reaches the loop beside the master's events.
#[derive(Debug)]
enum Message {
    Request {
        request: Request,
        reply: oneshot::Sender<Answer>,
    },
    Agents(Vec<AgentRoom>),
    /// Another process is to lead.
    Abdicate(oneshot::Sender<Answer>),
    Stats(oneshot::Sender<Snapshot>),
}

/// What `/metrics` and `/v2/info` ask the loop for.
#[derive(Debug)]
struct Snapshot {
    stats: Stats,
    framework: Option<String>,
}

/// Why the role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port cannot be had.
    #[error(
        "cannot listen on {address}: {source}; stop what uses it, or give another port (0 picks a \
         free one)"
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The SDK refused the settings.
    #[error("the settings do not describe a framework")]
    Framework(#[source] allotment_framework_sdk::ConfigError),
}

/// A services process that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
    stop: watch::Sender<bool>,
    phase: watch::Receiver<Phase>,
    main: JoinHandle<anyhow::Result<()>>,
    server: JoinHandle<()>,
}

/// Starts to serve; returns once HTTP is answered. The master may still be away: until it is
/// reached, requests for apps are answered 503.
///
/// # Errors
/// [`StartError`] when the settings cannot work or the port is taken.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate()?;
    let masters: Vec<String> = config.master.split(',').map(str::to_owned).collect();
    let store = Store::new(&masters, &config.name).map_err(StartError::Framework)?;
    let cluster = Cluster::new(&masters).map_err(StartError::Framework)?;
    let address = SocketAddr::new(config.ip, config.port);
    let listen = |source| StartError::Listen { address, source };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let url = format!("http://{local}");
    let advertised = config.advertised_url.as_deref().unwrap_or(&url);
    let advertised = advertised.trim_end_matches('/').to_owned();

    let (stop, stopped) = watch::channel(false);
    let (phase, phases) =
        watch::channel(Phase::Waiting("the masters were not asked yet".to_owned()));
    let (sender, messages) = mpsc::channel(MESSAGES_MAX);
    let metrics = metrics::Metrics::default();
    let door = Arc::new(Door {
        messages: sender,
        phase: phases.clone(),
        cluster: Some(cluster),
        metrics: metrics.clone(),
        settings: Settings::from(&config),
        address: proxy::place(&advertised).to_owned(),
        proxy: proxy::Proxy::new(),
    });
    let mut server_stop = stopped.clone();
    let server = tokio::spawn(async move {
        let served = axum::serve(listener, http::router(door)).with_graceful_shutdown(async move {
            let _ = server_stop.wait_for(|stop| *stop).await;
        });
        if let Err(error) = served.await {
            error!(%error, "HTTP is no longer served");
        }
    });
    let subscription = allotment_framework_sdk::Config {
        masters,
        name: config.name.clone(),
        user: config.user.clone(),
        roles: vec![config.role.clone()],
        failover_timeout: config.failover_timeout,
        webui_url: Some(advertised.clone()),
        suppressed: true,
        ..Default::default()
    };
    subscription.validate().map_err(StartError::Framework)?;
    let terms = Terms {
        key: state::LEADER.to_owned(),
        lease: config.leader_lease,
        url: advertised,
        alone: config.alone,
    };
    let main = tokio::spawn(async move {
        let process = reign::Process {
            settings: Settings::from(&config),
            store,
            subscription,
        };
        let doors = driver::Doors {
            messages,
            phase: phase.clone(),
            metrics,
        };
        let ended = process.run(terms, doors, stopped).await;
        if let Err(error) = &ended {
            error!(error = format!("{error:#}"), "the services framework ends");
            let _ = phase.send(Phase::Dead(format!(
                "the services framework ended: {error:#}"
            )));
        }
        ended
    });
    Ok(Running {
        url,
        stop,
        phase: phases,
        main,
        server,
    })
}

impl Running {
    /// Where it serves, for example `http://127.0.0.1:8080`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until requests for apps are answered, by this process or by the one that leads; both
    /// take a master. False when the role died before that, and [`Self::wait`] says why.
    pub async fn serves(&mut self) -> bool {
        let phase = self
            .phase
            .wait_for(|phase| !matches!(phase, Phase::Waiting(_)));
        phase
            .await
            .is_ok_and(|phase| !matches!(*phase, Phase::Dead(_)))
    }

    /// Stops serving and gives leadership up; apps keep running and the next process takes them
    /// over.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.main.await;
        let _ = self.server.await;
    }

    /// Waits until the role dies by itself, and says why.
    pub async fn wait(&mut self) -> anyhow::Error {
        match (&mut self.main).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => anyhow::anyhow!("the services framework was stopped"),
            Err(error) => anyhow::anyhow!("the services framework ended unexpectedly: {error}"),
        }
    }
}
