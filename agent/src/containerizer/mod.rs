//! The containerizer: one small launcher process that starts, watches and ends containers.
//!
//! - [`launcher`](launcher_main): that process; it forks an `init` for each container, which puts
//!   up the walls of `isolators`, starts the task and reports through a pipe.
//! - `wire`: what agent and launcher say to each other.
//! - `sys`: all unsafe code.
//!
//! What is started and ended, and when, is decided by [`crate::core`].

mod init;
mod isolators;
mod launcher;
mod report;
mod sys;
mod tree;
mod wire;

pub use launcher::launcher_main;
