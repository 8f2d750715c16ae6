//! The walls around a task, found out from the machine and put up by the launcher.
//!
//! - [`cgroups`]: finds hierarchies and makes, fills and removes the group of one container.
//! - [`cpu`], [`memory`], [`pids`]: what one controller is told and what it tells, for both
//!   versions of cgroups.
//! - [`namespaces`]: own processes, mounts, IPC and host name.
//!
//! The set is closed, so an enum and plain functions carry it; root file systems, volumes and
//! networks get files of their own when they come.

pub(super) mod cgroups;
mod cpu;
mod memory;
pub(super) mod namespaces;
mod pids;

/// What one task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Thousandths of a core; a share of what is contended, no ceiling.
    pub(super) cpus_milli: u64,
    /// Bytes of memory; more ends the task.
    pub(super) memory_bytes: u64,
    /// Processes and threads; more cannot be forked.
    pub(super) pids_max: u64,
}

/// Which generation of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A file to write in a new group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Not there on every kernel (swap accounting); its absence is no failure.
    pub(super) optional: bool,
}
