//! A batch framework that serves: how it starts, stops and dies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use allotment_framework_sdk::Scheduler;
use allotment_framework_sdk::cluster::Cluster;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::clock;
use crate::config::{Config, ConfigError, FAILOVER_TIMEOUT};
use crate::core::{Core, Settings};
use crate::edge::serve::Server;
use crate::edge::spool::Spool;
use crate::edge::transfer::Transfers;
use crate::edge::{self, Edge};
use crate::metrics::Metrics;
use crate::store::Store;

/// Why a batch framework did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("the batch framework is set up wrongly: {0}")]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error("the batch framework cannot use its data folder {}: {reason}", folder.display())]
    Data {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Somebody else has the port.
    #[error(
        "the batch framework cannot serve on {listen}: {reason}; stop what uses the port or \
         choose another (--port 0 takes a free one)"
    )]
    Listen {
        /// Where it was to serve.
        listen: SocketAddr,
        /// What the system says.
        reason: String,
    },
}

/// Why a running batch framework ended by itself.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the batch framework ended: {reason}")]
pub struct Died {
    /// What happened and what to do.
    pub reason: String,
}

/// A batch framework that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Died>>,
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it: what is durable stays, running jobs run on.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
        let _died = (&mut self.task).await;
    }

    /// Waits until it dies by itself and says why.
    pub async fn wait(&mut self) -> Died {
        match (&mut self.task).await {
            Ok(Err(died)) => died,
            Ok(Ok(())) => Died {
                reason: "it was stopped".to_owned(),
            },
            Err(error) => Died {
                reason: format!("a bug: {error}"),
            },
        }
    }
}

/// Starts a batch framework; returns once it serves.
///
/// # Errors
/// [`StartError`]: a wrong configuration, a data folder or a port that somebody else uses.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate()?;
    let refused = |error: std::io::Error| StartError::Listen {
        listen: config.listen,
        reason: error.to_string(),
    };
    let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
    let url = format!("http://{}", listener.local_addr().map_err(refused)?);

    let folder = config.data_dir.clone();
    let history_max = config.history_max;
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder, history_max));
    let data = |reason: String| StartError::Data {
        folder: config.data_dir.clone(),
        reason,
    };
    let (store, durable) = opened
        .await
        .map_err(|error| data(error.to_string()))?
        .map_err(|error| data(error.to_string()))?;
    let framework = Arc::new(Mutex::new(durable.framework.clone()));
    let advertised = config.advertised_url.clone().unwrap_or_else(|| url.clone());
    let sdk = allotment_framework_sdk::Config {
        masters: config.masters.clone(),
        name: config.name.clone(),
        user: config.user.clone(),
        roles: vec![config.role.clone()],
        framework_id: durable.framework.clone(),
        failover_timeout: FAILOVER_TIMEOUT,
        webui_url: Some(advertised.clone()),
        suppressed: true,
        // A turn acknowledges and launches thousands of tasks without waiting for room.
        calls_max: 65_536,
        ..allotment_framework_sdk::Config::default()
    };
    let wrong = |error: allotment_framework_sdk::ConfigError| {
        StartError::Config(ConfigError::Framework(error.to_string()))
    };
    let cluster = Cluster::new(&config.masters).map_err(wrong)?;
    let settings = Settings {
        hostname: config.hostname.clone(),
        default_memory_mib: config.default_memory_mib,
        queue_max: config.queue_max,
        zone: jiff::tz::TimeZone::system(),
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
        role: config.role.clone(),
    };
    let core = Core::recover(settings, durable, clock::now());
    let scheduler = Scheduler::connect(sdk).map_err(wrong)?;
    let (requests, received) = edge::requests();
    let metrics = Arc::new(Metrics::new());
    metrics.update(&core);
    let spool = Arc::new(Spool::new(advertised.trim_end_matches('/').to_owned()));
    let server = Server {
        requests,
        reader: store.reader(),
        framework: Arc::clone(&framework),
        cluster: Arc::new(cluster),
        spool: Arc::clone(&spool),
        metrics: Arc::clone(&metrics),
        default_memory_mib: config.default_memory_mib,
    };
    let edge = Edge {
        core,
        store,
        scheduler,
        requests: received,
        transfers: Transfers::new(Arc::clone(&framework)),
        framework,
        spool,
        metrics,
    };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, server.router(), edge, stopped));
    Ok(Running {
        url,
        stop: Some(stop),
        task,
    })
}

/// Serves as long as the loop runs.
async fn serve(
    listener: TcpListener,
    router: axum::Router,
    edge: Edge,
    stopped: oneshot::Receiver<()>,
) -> Result<(), Died> {
    let mut loop_ = std::pin::pin!(edge.run(stopped));
    let server = axum::serve(listener, router);
    tokio::select! {
        // Dropping the server closes its connections; callers see that it stopped.
        ended = &mut loop_ => ended,
        served = std::future::IntoFuture::into_future(server) => Err(Died {
            reason: match served {
                Ok(()) => "its port was closed".to_owned(),
                Err(error) => error.to_string(),
            },
        }),
    }
}
