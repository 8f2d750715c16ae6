//! Processes that are not our children, held by descriptor so that their numbers cannot be
//! mistaken; and the clock by which the kernel dates processes.

use std::ffi::c_int;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

/// Time since the machine was started, sleep included.
#[expect(unsafe_code, reason = "clock_gettime fills a C struct")]
pub(in super::super) fn since_boot() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live local that the call only writes to.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// A handle on the process of this number; readable once it has ended.
#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
pub(in super::super) fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call has no memory arguments. Such descriptors are closed on exec.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly that process.
#[expect(unsafe_code, reason = "pidfd_send_signal has no safe wrapper")]
pub(in super::super) fn pidfd_kill(process: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    // SAFETY: without a siginfo the call has no memory arguments.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal as c_int,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(sent).map(drop)
}

/// Whether the process of this number was there already at `instant`, by [`since_boot`].
pub(in super::super) fn began_by(pid: i32, instant: Duration) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let Ok(Some(ticks_per_second)) = sysconf(SysconfVar::CLK_TCK) else {
        return false;
    };
    // The name in parentheses may hold anything; the state, field 3, follows the last one.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse::<u64>().ok());
    let ticks_per_second = u64::try_from(ticks_per_second).unwrap_or(100).max(1);
    start.is_some_and(|ticks| {
        // The kernel rounds down to ticks, and so must what it is compared with.
        let at = instant.as_nanos() * u128::from(ticks_per_second) / 1_000_000_000;
        u128::from(ticks) <= at
    })
}

/// A copy of the descriptor that another process has under this number.
///
/// # Errors
/// `EBADF` when it has none, `EPERM` when this process may not look into that one, `ENOSYS` before
/// Linux 5.6.
#[expect(unsafe_code, reason = "pidfd_getfd has no safe wrapper")]
pub(in super::super) fn pidfd_getfd(
    process: BorrowedFd<'_>,
    number: c_int,
) -> Result<OwnedFd, Errno> {
    // SAFETY: the call has no memory arguments.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0)
    })?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
