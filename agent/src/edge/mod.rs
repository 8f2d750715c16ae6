//! Everything around the core that touches the world: sockets, disk, processes and clock.

use crate::config::{Config, ConfigError};

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the agent's settings do not go together")]
    Config(#[source] ConfigError),
    /// This build cannot serve yet.
    #[error("the agent cannot serve yet: its network edge is not built")]
    NotBuilt,
}

/// Why a running agent ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the agent ended: {reason}")]
pub struct RunError {
    reason: String,
}

/// An agent that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
}

/// Starts an agent; returns once it serves. It registers with a master by itself, as soon as one
/// answers.
///
/// # Errors
/// [`StartError`] when the settings contradict each other, the port is taken, the work folder
/// cannot be used or a wanted isolation cannot be given.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.validate().map_err(StartError::Config)?;
    Err(StartError::NotBuilt)
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops cleanly: every task is killed, nothing of them is left but their sandboxes.
    pub async fn stop(self) {}

    /// Returns only when the agent ends by itself, with the reason.
    pub async fn wait(&mut self) -> RunError {
        RunError {
            reason: "it never ran".to_owned(),
        }
    }
}
