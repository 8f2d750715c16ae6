//! What isolators have gathered for one container, for its init and its task to put up.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sched::CloneFlags;

use super::super::sys::Hardening;
use super::cgroups::Controller;
use super::filesystem::OwnTmp;

/// A file to write in a new group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Setting {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Not there on every kernel (swap accounting); its absence is no failure.
    pub(super) optional: bool,
}

impl Setting {
    /// One that must be there.
    pub(super) fn must(controller: Controller, file: &'static str, value: impl ToString) -> Self {
        Self {
            controller,
            file,
            value: value.to_string(),
            optional: false,
        }
    }

    /// One that some kernels lack.
    pub(super) fn may(controller: Controller, file: &'static str, value: impl ToString) -> Self {
        Self {
            optional: true,
            ..Self::must(controller, file, value)
        }
    }
}

/// Everything that stands around one container.
#[derive(Debug)]
pub(in super::super) struct Walls {
    /// What the container gets of its own.
    pub(in super::super) namespaces: CloneFlags,
    /// What is written in its cgroups, in this order within each controller.
    pub(super) settings: Vec<Setting>,
    /// Bytes of memory past which it ends; `None` where nothing watches.
    pub(super) memory_limit_bytes: Option<u64>,
    /// What its init mounts; `None` where it has the machine's mounts.
    pub(in super::super) mounts: Option<Mounts>,
    /// What its task loses right before it runs.
    pub(in super::super) hardening: Hardening,
}

impl Default for Walls {
    fn default() -> Self {
        Self {
            namespaces: CloneFlags::empty(),
            settings: Vec::new(),
            memory_limit_bytes: None,
            mounts: None,
            hardening: Hardening::default(),
        }
    }
}

/// What the init of a container mounts before its task runs.
#[derive(Debug)]
pub(in super::super) struct Mounts {
    pub(super) own_proc: bool,
    pub(super) protect_proc: bool,
    pub(super) shm_bytes: Option<u64>,
    pub(super) tmp: Option<OwnTmp>,
    pub(super) volumes: Vec<Mounted>,
}

/// A volume that is open and checked, and where it goes.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) tree: OwnedFd,
    pub(super) target: Target,
}

/// Where a volume goes.
#[derive(Debug)]
pub(super) enum Target {
    /// A path relative to the sandbox.
    Sandbox { sandbox: PathBuf, path: PathBuf },
    /// An absolute path.
    Machine(PathBuf),
}
