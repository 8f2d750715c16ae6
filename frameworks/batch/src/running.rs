//! A batch framework that serves: how it starts, stops and dies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::{Cluster, Election, Standing, Terms};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::{Config, ConfigError};
use crate::edge::standby::{Door, Stage};
use crate::reign::Process;
use crate::store::Store;

/// How long the masters are asked who has the queue before they count as out of reach.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);

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
    stages: watch::Receiver<Stage>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Died>>,
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until requests are answered, by this process or by the one that has the queue; false
    /// when it died before, and [`Self::wait`] says why.
    pub async fn serves(&mut self) -> bool {
        let waits = |stage: &Stage| matches!(stage, Stage::Waiting(_));
        self.stages.wait_for(|stage| !waits(stage)).await.is_ok()
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

/// Starts a batch framework; returns once it is known whether this process serves the queue or
/// stands by for another one with the same folder.
///
/// # Errors
/// [`StartError`]: a wrong configuration, a data folder that cannot be used, or a port that somebody
/// else uses.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate()?;
    let refused = |error: std::io::Error| StartError::Listen {
        listen: config.listen,
        reason: error.to_string(),
    };
    let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
    let url = format!("http://{}", listener.local_addr().map_err(refused)?);
    let advertised = config.advertised_url.as_deref().unwrap_or(&url);
    let advertised = advertised.trim_end_matches('/').to_owned();
    let data = |reason: String| StartError::Data {
        folder: config.data_dir.clone(),
        reason,
    };
    let folder = config.data_dir.clone();
    let name = tokio::task::spawn_blocking(move || Store::name(&folder)).await;
    let name = name
        .map_err(|error| data(error.to_string()))?
        .map_err(|error| data(error.to_string()))?;
    let wrong = |error: allotment_framework_sdk::ConfigError| {
        StartError::Config(ConfigError::Framework(error.to_string()))
    };
    let shared = allotment_framework_sdk::Store::new(&config.masters, &config.name);
    let cluster = Cluster::new(&config.masters).map_err(wrong)?;
    let terms = Terms {
        key: format!("leader/{name}"),
        lease: config.leader_lease,
        url: advertised.clone(),
        alone: config.alone,
    };
    let waiting = Stage::Waiting("it is about to start".to_owned());
    let (stage, stages) = watch::channel(waiting);
    let process = Process {
        config: config.clone(),
        cluster: Arc::new(cluster),
        advertised: advertised.clone(),
        stage,
    };
    process.subscription(None).validate().map_err(wrong)?;
    let mut election = Election::start(shared.map_err(wrong)?, terms);
    // Whoever stands by for another must not touch the database. Without a master nothing is known
    // of others, and the lock of the folder decides alone.
    let _ = tokio::time::timeout(VERDICT_TIMEOUT, election.changed()).await;
    let opened = match election.standing() {
        Standing::Follows(_) => None,
        Standing::Leads | Standing::Unknown(_) => match process.open().await {
            Ok(opened) => Some(opened),
            Err(error) if error.is_in_use() => None,
            Err(error) => {
                election.leave().await;
                return Err(data(error.to_string()));
            }
        },
    };
    let (stop, stopped) = oneshot::channel();
    let door = Door::new(stages.clone(), &advertised);
    let task = tokio::spawn(serve(listener, door, async move {
        process.live(election, opened, stopped).await
    }));
    Ok(Running {
        url,
        stages,
        stop: Some(stop),
        task,
    })
}

/// Serves as long as the process lives.
async fn serve(
    listener: TcpListener,
    door: Door,
    life: impl Future<Output = Result<(), Died>>,
) -> Result<(), Died> {
    let server = axum::serve(listener, door.router());
    tokio::select! {
        // Dropping the server closes its connections; callers see that it stopped.
        ended = life => ended,
        served = std::future::IntoFuture::into_future(server) => Err(Died {
            reason: match served {
                Ok(()) => "its port was closed".to_owned(),
                Err(error) => error.to_string(),
            },
        }),
    }
}
