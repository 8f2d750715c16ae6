//! Everything around the core that touches the world: sockets, disk and clock.

use std::path::PathBuf;

use crate::config::{Config, ConfigError};

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the master's settings do not go together")]
    Config(#[source] ConfigError),
    /// Another process uses the data folder.
    #[error(
        "another master is running on the data folder {}; stop it, or choose another folder",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// This build cannot serve yet.
    #[error("the master cannot serve yet: its network edge is not built")]
    NotBuilt,
}

/// Why a running master ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the master ended: {reason}")]
pub struct RunError {
    reason: String,
}

/// A master that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
}

/// Starts a master; returns once it serves.
///
/// # Errors
/// [`StartError`] when the settings contradict each other, the port is taken or the data folder
/// cannot be used.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate().map_err(StartError::Config)?;
    Err(StartError::NotBuilt)
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops cleanly: frameworks and agents see their streams end and keep their state.
    pub async fn stop(self) {}

    /// Returns only when the master ends by itself, with the reason.
    pub async fn wait(&mut self) -> RunError {
        RunError {
            reason: "it never ran".to_owned(),
        }
    }
}
