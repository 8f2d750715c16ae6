//! The containerizer: one small launcher process that starts, watches and ends containers.
//!
//! - [`launcher`](launcher_main): that process; it gives each container an `init` (`launching`),
//!   which puts up the walls of `isolators`, starts the task and reports through a pipe and to the
//!   `journal`; `ending`: what follows from that.
//! - `container`: the launcher's books of one; `reuse`: inits that serve one after another.
//! - `logs`: bounded stdout and stderr, moved by the init.
//! - `adopt`: containers that an earlier launcher began.
//! - `enter`: further programs in running containers, each with a `keeper`; `session`: their
//!   streams, in the agent. `attach`: the `terminal` that a task was started with.
//! - `nest`: such programs with a sandbox of their own, that nobody listens to.
//! - `pods`: process namespaces that several containers share.
//! - `handle`: the agent's side; `supervisor` keeps a launcher (`process`) alive; `live`: its
//!   books.
//! - `disk`: measures sandboxes.
//! - `prepare`: sandboxes before a container starts and after it ended.
//! - `outgoing`: bytes to the launcher, with descriptors.
//! - `wire`: what agent and launcher say to each other.
//! - `sys`: all unsafe code. `floor`: what benchmarks compare with.
//!
//! What is started and ended, and when, is decided by [`crate::core`].

mod adopt;
mod attach;
mod container;
mod disk;
mod ending;
mod enter;
mod floor;
pub(crate) mod handle;
mod init;
mod isolators;
mod journal;
mod keeper;
mod launcher;
mod launching;
mod live;
mod logs;
pub(crate) mod nest;
mod outgoing;
mod plan;
mod pods;
pub(crate) mod prepare;
mod process;
mod report;
mod reuse;
pub(crate) mod session;
mod supervisor;
mod sys;
mod terminal;
mod tree;
mod wire;

pub use floor::run_floor;
pub use launcher::launcher_main;
pub use process::LauncherError;
pub(crate) use sys::act_as;
