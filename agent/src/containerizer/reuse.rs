//! Inits that serve one container after another.
//!
//! Forking an init, giving it namespaces and a `/proc`, and taking all that down again costs a
//! third of a short task. An init may take the next container when its own is over and nothing
//! is left of it: all its processes are reaped, and the init goes back to the mounts it began
//! with and takes new ones from there, a new IPC and a new host name's namespace. It waits for
//! the order on a socket of its own, for a moment, and ends when that is closed.
//!
//! Only a container of the same framework and user, behind the same walls, may follow: a task of
//! root can change a few properties of its init that its followers inherit (`prlimit`,
//! `sched_setaffinity`), and could do the same to them directly.
//!
//! An init that was ever sent a signal for its container, or whose container somebody else
//! entered, is not used again: the signal, or the program, may still be on its way.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::unistd::Pid;
use prost::Message;

use super::isolators::{Shape, Walls};
use super::sys::{self, Entrance, Hardening};
use super::wire::{Launch, Next, User};

/// A larger order gets an init of its own: its memory goes with it.
const NEXT_LEN_MAX: usize = 16 * 1024;
/// How many wait at most.
const IDLE_MAX: usize = 64;
/// How many retries of the launcher each of them waits: about a second.
const PATIENCE: u32 = 20;
/// Journal, lock, `/tmp` and sandbox.
const PASSED_MAX: usize = 4;

/// What the containers of one init have in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kind {
    framework: String,
    user: Option<User>,
    namespaces: CloneFlags,
    mounts: Option<Shape>,
    hardening: Hardening,
}

impl Kind {
    /// That of a container; `None` where no other may have its init.
    pub(super) fn of(launch: &Launch, walls: &Walls) -> Option<Self> {
        let terminal = launch.confinement.as_ref().and_then(|c| c.terminal);
        if terminal.is_some() || launch.pod.is_some() {
            return None;
        }
        let mounts = match &walls.mounts {
            Some(mounts) => Some(mounts.shape()?),
            None => None,
        };
        Some(Self {
            framework: launch.framework.clone(),
            user: launch.user.clone(),
            namespaces: walls.namespaces,
            mounts,
            hardening: walls.hardening.clone(),
        })
    }
}

/// The launcher's end of the socket of an init that may serve again.
#[derive(Debug)]
pub(super) struct Orders {
    socket: OwnedFd,
    kind: Kind,
}

impl Orders {
    /// The two ends of the socket between launcher and init; `None` where there is none to be
    /// had: then the init serves once.
    pub(super) fn new(kind: Kind) -> Option<(Self, OwnedFd)> {
        // Whole messages: an order comes with its descriptors or not at all.
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).ok()?;
        Some((Self { socket, kind }, theirs))
    }
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

    /// An init has nothing to do any more; the one that has waited longest goes where there are
    /// enough.
    pub(super) fn add(&mut self, init: Pid, orders: Orders) {
        if self.waiting.len() >= IDLE_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push((init, orders, 0));
    }

    /// Hands a container to one of them, with the descriptors that [`Next`] names. The launcher's
    /// lock is held until the container is entered in the journal.
    pub(super) fn give(
        &mut self,
        kind: &Kind,
        next: &Next,
        passed: &[RawFd],
    ) -> Option<(Pid, Orders)> {
        if self.waiting.is_empty() || next.encoded_len() > NEXT_LEN_MAX {
            return None;
        }
        let bytes = next.encode_to_vec();
        let of_kind = |(_, orders, _): &(Pid, Orders, u32)| orders.kind == *kind;
        while let Some(found) = self.waiting.iter().rposition(of_kind) {
            let (pid, orders, n_looks) = self.waiting.remove(found);
            let parts = [IoSlice::new(&bytes)];
            let control = [ControlMessage::ScmRights(passed)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(orders.socket.as_raw_fd(), &parts, &control, flags, None) {
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

/// The next container of an init, as it arrives there.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) launch: Launch,
    pub(super) entrances: Vec<Entrance>,
    pub(super) journal: OwnedFd,
    pub(super) lock: OwnedFd,
    pub(super) trees: Vec<OwnedFd>,
}

/// In an init: waits for the next container. `None`: it is not needed any more.
pub(super) fn next(orders: RawFd) -> Option<Arrived> {
    let mut buffer = vec![0; NEXT_LEN_MAX];
    let mut control = nix::cmsg_space!([RawFd; PASSED_MAX]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    // All signals are blocked: nothing interrupts this but the launcher's end.
    let received = recvmsg::<()>(orders, &mut parts, Some(&mut control), flags).ok()?;
    let mut passed = Vec::with_capacity(PASSED_MAX);
    for control in received.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            let adopted = numbers.into_iter().map(sys::adopt_fd);
            passed.extend(adopted.filter_map(Result::ok));
        }
    }
    let n = received.bytes;
    let mut passed = passed.into_iter();
    let (journal, lock) = (passed.next()?, passed.next()?);
    let Next { launch, entrances } = Next::decode(buffer.get(..n)?).ok()?;
    let entrance = |path| CString::new(path).map(Entrance::Path);
    Some(Arrived {
        launch,
        entrances: entrances
            .into_iter()
            .map(entrance)
            .collect::<Result<_, _>>()
            .ok()?,
        journal,
        lock,
        trees: passed.collect(),
    })
}
