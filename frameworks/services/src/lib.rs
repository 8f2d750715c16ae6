//! The services framework: Marathon's REST API over long-running apps.
//!
//! - [`core`]: everything that is decided, pure: apps, versions, deployments, instances, offers,
//!   backoff, health and the reasons why an app waits.
//! - [`Config`], [`start`], [`Running`]: the process around it (HTTP, the session with the
//!   master, the replicated store, probes, the clock).
//!
//! The process keeps nothing on disk: its state lives in the masters' store under the
//! framework's name, so that another process can take over: several run, one leads, and the others
//! pass on to it what they are asked. Groups, pods, events, volumes,
//! secrets and container images are not here yet; apps that ask for them are refused.

pub mod config;
pub mod core;

mod clock;
mod edge;

pub use config::{Config, ConfigError};
pub use edge::{Running, StartError, start};
