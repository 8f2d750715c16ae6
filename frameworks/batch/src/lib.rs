//! The batch framework: HTCondor's submit files over a durable queue.
//!
//! - [`submit`]: submit files, on the submitting side.
//! - [`core`]: the queue as a pure state machine.
//! - [`store`]: what is durable, and the event logs.
//! - [`config`]: how it is set up; [`running`]: one that serves, from [`start`] to its end; `reign`:
//!   having the queue or standing by for another process that has it.
//! - `edge`: the loop, gRPC and HTTP, output coming home; `clock`, `metrics`.

mod clock;
pub mod config;
pub mod core;
mod edge;
mod metrics;
mod reign;
pub mod running;
pub mod store;
pub mod submit;

pub use config::{Config, ConfigError};
pub use running::{Died, Running, StartError, start};
