//! `namespaces/pid`, `namespaces/ipc`, `namespaces/uts`: own processes, IPC objects, host name.
//!
//! The network stays the host's: tasks are offered host ports. A network isolator would be one
//! more of these, with `CLONE_NEWNET` and an interface in it.

use nix::sched::CloneFlags;

use super::super::sys::{self, Fork};
use super::{Host, Isolate, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

#[derive(Debug)]
pub(super) struct Namespace {
    isolator: Isolator,
    flag: CloneFlags,
    enforces: &'static str,
}

pub(super) const PID: Namespace = Namespace {
    isolator: Isolator::NamespacesPid,
    flag: CloneFlags::CLONE_NEWPID,
    enforces: "a container ends as a whole, and sees no process but its own",
};

pub(super) const IPC: Namespace = Namespace {
    isolator: Isolator::NamespacesIpc,
    flag: CloneFlags::CLONE_NEWIPC,
    enforces: "own System V IPC and message queues",
};

pub(super) const UTS: Namespace = Namespace {
    isolator: Isolator::NamespacesUts,
    flag: CloneFlags::CLONE_NEWUTS,
    enforces: "own host name",
};

impl Isolate for Namespace {
    fn isolator(&self) -> Isolator {
        self.isolator
    }

    fn probe(&mut self, _host: &mut Host) -> Result<String, String> {
        try_once(self.flag, || 0).map_err(|(clause, _)| clause)?;
        Ok(self.enforces.to_owned())
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let shared = match self.isolator {
            Isolator::NamespacesIpc => launch.confinement.as_ref().is_some_and(|c| c.host_ipc),
            // That of its pod, which is there already.
            Isolator::NamespacesPid => launch.pod.is_some(),
            _ => false,
        };
        if !shared {
            walls.namespaces |= self.flag;
        }
        Ok(())
    }
}

/// Forks into these namespaces once and runs `trial` there; its status must be 0.
///
/// # Errors
/// Why the kernel refuses, as a clause, and the status of the trial when it ran.
pub(super) fn try_once(
    flags: CloneFlags,
    trial: impl FnOnce() -> i32,
) -> Result<(), (String, Option<i32>)> {
    let vanished = || ("the trial container vanished".to_owned(), None);
    match sys::fork_into(flags) {
        Err(errno) => Err((
            format!("the kernel refuses new namespaces: {}", errno.desc()),
            None,
        )),
        Ok(Fork::Child) => sys::exit_now(trial()),
        Ok(Fork::Parent(_)) => match sys::reap(sys::Wait::Block) {
            Ok(Some(reaped)) if reaped.status == 0 => Ok(()),
            Ok(Some(reaped)) => Err((vanished().0, Some(reaped.status >> 8))),
            Ok(None) | Err(_) => Err(vanished()),
        },
    }
}
