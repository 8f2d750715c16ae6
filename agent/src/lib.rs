//! The agent: runs tasks in isolated containers and reports on them.
//!
//! - [`config`] and [`attributes`]: what an operator may set, with units and checks.
//! - `isolation`: the isolators by name and the operator's wish.
//! - [`core`]: what is decided, without sockets, clocks or processes.
//! - [`containerizer`]: the launcher process and the containers; [`launcher_main`].
//! - [`edge`]: sockets, disk and clock around the core; [`start`] and [`Running`].

pub mod attributes;
mod clock;
pub mod config;
pub mod containerizer;
pub mod core;
pub mod edge;
mod fetcher;
mod isolation;

pub use attributes::Attributes;
pub use config::{Config, ConfigError, Isolation, Isolator, LauncherCommand};
pub use containerizer::{launcher_main, run_floor};
pub use edge::{RunError, Running, StartError, cgroup_name, start};
pub use fetcher::FetcherSettings;
pub use isolation::{Capabilities, IsolatorSettings};
