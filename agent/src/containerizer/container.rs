//! What a launcher knows of one container.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::isolators::cgroups::Group;
use super::reuse::Orders;
use super::sys::{self, Usage};

/// One container, from its launch until it is over.
pub(super) struct Container {
    pub(super) init: Pid,
    pub(super) uuid: u128,
    /// Its init is the first process of its own pid namespace.
    pub(super) pid_namespace: bool,
    /// The executor's run whose process namespace it is in.
    pub(super) pod: Option<u128>,
    /// The container that it is in.
    pub(super) beside: Option<u128>,
    /// Its init may serve again afterwards, and this is how it is told.
    pub(super) orders: Option<Orders>,
    /// Set when an earlier launcher began it: a handle on its init, while that lives.
    pub(super) adopted: Option<Option<OwnedFd>>,
    /// Its file of the journal.
    pub(super) file: u64,
    /// The agent does not know it.
    pub(super) disowned: bool,
    pub(super) group: Option<Group>,
    pub(super) memory_watch: MemoryWatch,
    /// The kernel said so before it killed, or we killed first.
    pub(super) memory_exceeded: bool,
    pub(super) program: String,
    pub(super) started: bool,
    pub(super) failure: Option<(i32, i32)>,
    pub(super) ended: Option<(i32, Usage)>,
    /// Set when it is being destroyed: how often that was retried.
    pub(super) destroying: Option<u32>,
}

/// How it is noticed that a container hits its memory limit.
pub(super) enum MemoryWatch {
    /// By nobody, or by the kernel.
    Off,
    /// Not yet, after so many retries. Most containers end before; what became of their limit
    /// shows in their groups.
    Later(u32),
    /// Readable when the limit is hit, for as long as it is open.
    On(#[expect(dead_code, reason = "the poll set holds its number")] EventFd),
}

impl Container {
    pub(super) const fn is_unwatched(&self) -> bool {
        matches!(self.memory_watch, MemoryWatch::Later(_))
    }

    pub(super) const fn is_starting_adopted(&self) -> bool {
        self.adopted.is_some() && !self.started && self.failure.is_none()
    }

    /// Sends a signal to its first process and to no other that may have the same number.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), Errno> {
        // It could come when the init already serves another container.
        self.orders = None;
        match &self.adopted {
            // Our child keeps its number until we have reaped it.
            None => kill(self.init, signal),
            Some(Some(process)) => sys::pidfd_kill(process.as_fd(), signal),
            Some(None) => Err(Errno::ESRCH),
        }
    }
}

/// Watches the memory limit of a container. Without a descriptor to do it with, the kernel still
/// keeps the limit, and the container's end says so.
pub(super) fn watch(epoll: &Epoll, group: &Group, id: u64) -> MemoryWatch {
    let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
    match group.watch_memory() {
        Ok(Some(watch)) if epoll.add(&watch, event).is_ok() => MemoryWatch::On(watch),
        _ => MemoryWatch::Off,
    }
}
