//! A batch framework that serves: how it starts, stops and dies.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{Config, ConfigError};

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
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(refused)?;
    let url = format!("http://{}", listener.local_addr().map_err(refused)?);
    let (stop, stopped) = oneshot::channel();
    let router = axum::Router::new().route(
        "/health",
        axum::routing::get(|| async { axum::Json(serde_json::json!({"healthy": true})) }),
    );
    let task = tokio::spawn(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                let _dropped = stopped.await;
            })
            .await
            .map_err(|error| Died {
                reason: error.to_string(),
            })
    });
    Ok(Running {
        url,
        stop: Some(stop),
        task,
    })
}
