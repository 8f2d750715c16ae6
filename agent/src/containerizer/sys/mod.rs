//! The few system calls that safe wrappers do not offer; all `unsafe` code of the agent is here,
//! in `spawn`, which starts a task, `harden`, which takes powers from it, `mounts` and `pidfd`.
//!
//! What makes the blocks sound is said beside each. Two facts hold for all of them: the launcher
//! and every container init have exactly one thread, so no lock can be held by somebody else at
//! a fork, and every pointer handed to the kernel points into memory that outlives the call.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

mod harden;
mod mounts;
mod pidfd;
mod spawn;

pub(super) use harden::{Capabilities, Hardening, Instruction, try_filter};
pub(super) use mounts::{Refuses, attach, clone_tree, restrict, restrict_path};
pub(super) use pidfd::{began_by, pidfd_getfd, pidfd_kill, pidfd_open, since_boot};
pub(super) use spawn::{ChildStack, Credentials, Entrance, Stage, Streams, TaskPlan, spawn_task};

/// Takes ownership of a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` when it is not open.
#[expect(unsafe_code, reason = "descriptors arrive as numbers across exec")]
pub(super) fn adopt_fd(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_GETFD) only looks the number up.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and nothing else in this process knows the number: it was named by
    // whoever executed us, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Borrows a descriptor that the caller knows to be open for as long as the process lives.
#[expect(unsafe_code, reason = "report pipe and journal have fixed numbers")]
pub(super) fn borrow_fd(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: only called with the numbers that the launcher parked the report pipe and the
    // journal on, which are never closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Moves `fd` to the number `to`, closed on exec, replacing what was there.
#[expect(
    unsafe_code,
    reason = "descriptor numbers are fixed for container inits"
)]
pub(super) fn park_fd(fd: OwnedFd, to: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == to {
        let _ = fd.into_raw_fd();
        return Ok(());
    }
    // SAFETY: dup3 has no memory arguments; `to` is not owned by any `OwnedFd` of this process:
    // the launcher takes these numbers before it opens other descriptors and keeps them, and an
    // init, a fork that never returns, is done with what it has inherited under them.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) })?;
    Ok(())
}

/// Duplicates `fd` to a number of at least `least`, closed on exec.
#[expect(unsafe_code, reason = "F_DUPFD_CLOEXEC returns a bare number")]
pub(super) fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) has no memory arguments.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes every descriptor from `first` up.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(super) fn close_from(first: RawFd) {
    // SAFETY: only forks of the launcher call this, at once; they never return to code that owns
    // the descriptors, and they end with `_exit`, so nothing is closed twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

/// Lets the runtime tell when a descriptor can be read or written.
#[expect(unsafe_code, reason = "the runtime cannot know who closes the number")]
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file for as long as it lives, and the runtime lets
    // go of it before it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Closes every descriptor that is not listed.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(super) fn close_all_but(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if first < fd {
            // SAFETY: as in `close_from`: only called in a fork that never returns to the
            // descriptors' owners.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = first.max(fd + 1);
    }
    close_from(first);
}

/// Gives every signal its default action again: one that whoever started this process ignores,
/// and SIGPIPE, which Rust ignores, would stay ignored in every task.
///
/// Only for a process that blocks all signals, as the launcher does: nothing can arrive.
#[expect(
    unsafe_code,
    reason = "sigaction has no safe wrapper for all numbers at once"
)]
pub(super) fn default_signals() {
    // Numbers that are no signal, or cannot be changed, are refused, harmlessly.
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub(super) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks, the child in new namespaces as `namespaces` says.
#[expect(unsafe_code, reason = "fork and clone have no safe wrapper")]
pub(super) fn fork_into(namespaces: CloneFlags) -> Result<Fork, Errno> {
    let pid = if namespaces.is_empty() {
        // SAFETY: the launcher has one thread, so the child may use every function, allocating
        // ones included.
        unsafe { libc::fork() }
    } else {
        // The C library offers no fork with flags. The bare call skips its fork handlers, of
        // which a single-threaded process has none that matter.
        let flags = namespaces.bits() | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and with a null stack the child continues on its own copy of
        // this stack, exactly as after fork(); the launcher has one thread.
        let raw =
            unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
        c_int::try_from(raw).unwrap_or(-1)
    };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid))),
    }
}

/// Ends this process at once, running nothing.
#[expect(
    unsafe_code,
    reason = "a forked child must not run the parent's exit handlers"
)]
pub(super) fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// A child that ended, and what it and its reaped descendants used.
#[derive(Debug)]
pub(super) struct Reaped {
    pub(super) pid: Pid,
    /// As `wait` returns it.
    pub(super) status: c_int,
    pub(super) usage: Usage,
}

/// CPU time and peak resident size.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) user: Duration,
    pub(super) system: Duration,
    pub(super) max_rss_bytes: u64,
}

impl Usage {
    fn from_raw(raw: &libc::rusage) -> Self {
        let duration = |time: libc::timeval| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        Self {
            user: duration(raw.ru_utime),
            system: duration(raw.ru_stime),
            max_rss_bytes: u64::try_from(raw.ru_maxrss)
                .unwrap_or(0)
                .saturating_mul(1024),
        }
    }

    /// What another process used beside this.
    pub(super) fn add(&mut self, other: &Self) {
        self.user += other.user;
        self.system += other.system;
        self.max_rss_bytes = self.max_rss_bytes.max(other.max_rss_bytes);
    }

    /// What the reaped children of this process used.
    #[expect(unsafe_code, reason = "getrusage fills a C struct")]
    pub(super) fn of_children() -> Self {
        // SAFETY: a zeroed rusage is a valid one, and getrusage only writes into it.
        let raw = unsafe {
            let mut raw: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut raw);
            raw
        };
        Self::from_raw(&raw)
    }
}

/// Whether waiting may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Block,
    Poll,
}

/// Reaps one ended child; `None` when there is none now, `ECHILD` when there are no children.
#[expect(unsafe_code, reason = "wait4 has no safe wrapper")]
pub(super) fn reap(wait: Wait) -> Result<Option<Reaped>, Errno> {
    let options = match wait {
        Wait::Block => 0,
        Wait::Poll => libc::WNOHANG,
    };
    let mut status: c_int = 0;
    // SAFETY: a zeroed rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = loop {
        // SAFETY: both pointers are to live locals that wait4 only writes to.
        let pid = Errno::result(unsafe {
            libc::wait4(-1, &raw mut status, options | libc::__WALL, &raw mut usage)
        });
        if pid != Err(Errno::EINTR) {
            break pid?;
        }
    };
    Ok((pid != 0).then(|| Reaped {
        pid: Pid::from_raw(pid),
        status,
        usage: Usage::from_raw(&usage),
    }))
}

/// Waits for one of the blocked signals of `set`; also says who sent it (0: from outside this
/// pid namespace, or the kernel).
#[expect(unsafe_code, reason = "sigwaitinfo has no safe wrapper")]
pub(super) fn wait_signal(set: &SigSet) -> Result<(c_int, libc::pid_t), Errno> {
    // SAFETY: a zeroed siginfo_t is a valid one; both pointers outlive the call.
    let (signal, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::sigwaitinfo(set.as_ref(), &raw mut info), info)
    };
    let signal = Errno::result(signal)?;
    // SAFETY: si_pid is plain data in the zeroed union, filled in or not.
    Ok((signal, unsafe { info.si_pid() }))
}

/// Makes this thread, and no other, touch files as another user; for good.
///
/// # Errors
/// `EPERM` when this process may not.
#[expect(
    unsafe_code,
    reason = "the safe wrappers change every thread of the process"
)]
pub(crate) fn act_as(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the bare calls change the calling thread only; the pointer is to a live slice. The
    // caller lets the thread end, so nobody else meets its changed credentials.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They return the former id; asking again tells whether the change took place.
        let (now_gid, now_uid) = (
            libc::syscall(libc::SYS_setfsgid, u32::MAX),
            libc::syscall(libc::SYS_setfsuid, u32::MAX),
        );
        if (now_gid, now_uid) != (i64::from(gid), i64::from(uid)) {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}
