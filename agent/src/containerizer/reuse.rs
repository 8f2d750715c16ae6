//! Inits that serve one container after another.
//!
//! Forking an init and taking its memory down again costs about a fifth of a short task. An init
//! that has nothing of its container's about it, no namespace, no mounts, no group, may take the
//! next container when its own is over: it then waits for it on a socket of its own, for a
//! moment, and ends when that is closed.
//!
//! An init that was ever sent a signal for its container is not used again: the signal may still
//! be on its way.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::Pid;
use prost::Message;

use super::isolators::Walls;
use super::sys;
use super::wire::Launch;

/// A larger launch gets an init of its own: its memory goes with it.
const LAUNCH_LEN_MAX: usize = 16 * 1024;
/// How many wait at most.
const IDLE_MAX: usize = 64;
/// How many retries of the launcher each of them waits: about a second.
const PATIENCE: u32 = 20;

/// The launcher's end of the socket of an init that may serve again.
pub(super) type Orders = OwnedFd;

/// Whether an init behind these walls may serve containers behind other such walls.
pub(super) fn is_possible(walls: &Walls, has_group: bool) -> bool {
    walls.namespaces.is_empty() && walls.mounts.is_none() && !has_group && walls.hardening.is_none()
}

/// The two ends of the socket between launcher and init; `None` where there is none to be had:
/// then the init serves once.
pub(super) fn orders() -> Option<(Orders, OwnedFd)> {
    // Whole messages: an order comes with its descriptors or not at all.
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).ok()
}

/// Inits that wait for a container.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The one that waits for the shortest time last, each with how often it was looked at.
    waiting: Vec<(Pid, Orders, u32)>,
}

impl Idle {
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.waiting.iter().map(|(pid, ..)| pid.as_raw())
    }

    /// An init has nothing to do any more; whether it waits, or ends because there are enough.
    pub(super) fn add(&mut self, init: Pid, orders: Orders) -> bool {
        let waits = self.waiting.len() < IDLE_MAX;
        if waits {
            self.waiting.push((init, orders, 0));
        }
        waits
    }

    /// Hands a container to one of them, with the journal that it is to be entered in and the
    /// launcher's lock, which is held until it is.
    pub(super) fn give(&mut self, launch: &Launch, passed: [RawFd; 2]) -> Option<(Pid, Orders)> {
        if self.waiting.is_empty() || launch.encoded_len() > LAUNCH_LEN_MAX {
            return None;
        }
        let bytes = launch.encode_to_vec();
        while let Some((pid, orders, n_looks)) = self.waiting.pop() {
            let parts = [IoSlice::new(&bytes)];
            let control = [ControlMessage::ScmRights(&passed)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(orders.as_raw_fd(), &parts, &control, flags, None) {
                Ok(_) => return Some((pid, orders)),
                // It was killed; its end is reaped as any other's.
                Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                Err(_) => {
                    self.waiting.push((pid, orders, n_looks));
                    return None;
                }
            }
        }
        None
    }

    /// Lets those go that have waited long enough.
    pub(super) fn trim(&mut self) {
        self.waiting.retain_mut(|(_, _, n_looks)| {
            *n_looks += 1;
            *n_looks < PATIENCE
        });
    }

    /// An init has ended.
    pub(super) fn forget(&mut self, pid: i32) {
        self.waiting.retain(|(idle, ..)| idle.as_raw() != pid);
    }

    /// Lets all go.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// In an init: waits for the next container; with the journal and the lock. `None`: it is not
/// needed any more.
pub(super) fn next(orders: RawFd) -> Option<(Launch, OwnedFd, OwnedFd)> {
    let mut buffer = vec![0; LAUNCH_LEN_MAX];
    let mut control = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    // All signals are blocked: nothing interrupts this but the launcher's end.
    let received = recvmsg::<()>(orders, &mut parts, Some(&mut control), flags).ok()?;
    let mut passed = Vec::with_capacity(2);
    for control in received.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            let adopted = numbers.into_iter().map(sys::adopt_fd);
            passed.extend(adopted.filter_map(Result::ok));
        }
    }
    let n = received.bytes;
    let lock = passed.pop()?;
    let journal = passed.pop()?;
    let launch = Launch::decode(buffer.get(..n)?).ok()?;
    Some((launch, journal, lock))
}
