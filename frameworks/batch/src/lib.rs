//! The batch framework: HTCondor's submit files over a durable queue.
//!
//! - [`config`]: how it is set up.
//! - [`core`]: the queue as a pure state machine.
//! - [`running`]: a framework that serves, from [`start`] to its end.
//! - [`submit`]: submit files, on the submitting side.

pub mod config;
pub mod core;
pub mod running;
pub mod store;
pub mod submit;

pub use config::{Config, ConfigError};
pub use running::{Died, Running, StartError, start};
