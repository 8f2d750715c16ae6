//! The kernel's newer mount calls, which take descriptors instead of paths: what was looked up
//! and checked is what gets mounted, however names change meanwhile.

use std::ffi::{CStr, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `MOUNT_ATTR_RDONLY` of `mount_setattr`.
const READ_ONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
const NO_SETUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
const NO_DEVICES: u64 = 0x4;

/// What a mount refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Refuses {
    /// Changes.
    Writes,
    /// Set-user-id programs and device files to work.
    Powers,
    /// All of these.
    WritesAndPowers,
}

/// As the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

impl MountAttr {
    pub(super) const fn new(refuses: Refuses) -> Self {
        let set = match refuses {
            Refuses::Writes => READ_ONLY,
            Refuses::Powers => NO_SETUID | NO_DEVICES,
            Refuses::WritesAndPowers => READ_ONLY | NO_SETUID | NO_DEVICES,
        };
        Self {
            set,
            clear: 0,
            propagation: 0,
            userns_fd: 0,
        }
    }
}

/// A copy of the mounts at and below `place`, attached nowhere yet.
///
/// # Errors
/// `EPERM` without rights, `ENOSYS` before Linux 5.2.
#[expect(unsafe_code, reason = "open_tree has no safe wrapper")]
pub(in super::super) fn clone_tree(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as libc::c_uint;
    // SAFETY: the path is a static string; the kernel only reads it.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags)
    })?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a tree of mounts refuse something, all mounts below it too.
#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
pub(in super::super) fn restrict(tree: BorrowedFd<'_>, refuses: Refuses) -> Result<(), Errno> {
    let attr = MountAttr::new(refuses);
    // SAFETY: `attr` outlives the call and its true size is passed with it.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// The same for whatever is mounted at `path`, alone.
#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
pub(in super::super) fn restrict_path(path: &CStr, refuses: Refuses) -> Result<(), Errno> {
    let attr = MountAttr::new(refuses);
    // SAFETY: both pointers are to live values; the size is the true one.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Attaches a tree from [`clone_tree`] on top of `target`.
#[expect(unsafe_code, reason = "move_mount has no safe wrapper")]
pub(in super::super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are static strings.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}
