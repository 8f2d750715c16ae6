//! The containerizer: one small launcher process that starts, watches and ends containers.
//!
//! - [`launcher`](launcher_main): that process; it forks an `init` for each container, which puts
//!   up the walls of `isolators`, starts the task and reports through a pipe and to the `journal`.
//! - `logs`: bounded stdout and stderr, moved by the init.
//! - `adopt`: containers that an earlier launcher began.
//! - `handle`: the agent's side; `supervisor` keeps a launcher (`process`) alive; `live`: its
//!   books.
//! - `disk`: measures sandboxes.
//! - `prepare`: sandboxes before a container starts and after it ended.
//! - `wire`: what agent and launcher say to each other.
//! - `sys`: all unsafe code. `floor`: what benchmarks compare with.
//!
//! What is started and ended, and when, is decided by [`crate::core`].

mod adopt;
mod disk;
mod floor;
pub(crate) mod handle;
mod init;
mod isolators;
mod journal;
mod launcher;
mod live;
mod logs;
mod plan;
pub(crate) mod prepare;
mod process;
mod report;
mod supervisor;
mod sys;
mod tree;
mod wire;

pub use floor::run_floor;
pub use launcher::launcher_main;
pub use process::LauncherError;
pub(crate) use sys::act_as;
