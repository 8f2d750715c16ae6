//! What a task loses right before its program runs: capabilities, privileges to gain, system
//! calls. Called between clone and exec: bare system calls, nothing allocated.

use std::ffi::c_ulong;
use std::rc::Rc;

use nix::errno::Errno;

use super::mounts::{MountAttr, Refuses};

/// One instruction of a system call filter, as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Instruction {
    pub(in super::super) code: u16,
    pub(in super::super) jt: u8,
    pub(in super::super) jf: u8,
    pub(in super::super) k: u32,
}

/// What is taken from a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Hardening {
    /// `/sys` cannot be written, its control groups above all.
    pub(in super::super) sys_read_only: bool,
    /// Kind, soft and hard limit, as `setrlimit` takes them.
    pub(in super::super) rlimits: Vec<(u32, u64, u64)>,
    pub(in super::super) capabilities: Option<Capabilities>,
    pub(in super::super) no_new_privs: bool,
    pub(in super::super) seccomp: Option<Rc<[Instruction]>>,
}

/// Capabilities of a task, one bit each by Linux' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Capabilities {
    /// What it may ever gain.
    pub(in super::super) bounding: u64,
    /// What it starts with.
    pub(in super::super) effective: u64,
    /// Whether it keeps them across exec although it is not root, or although root would get all
    /// of `bounding`.
    pub(in super::super) ambient: bool,
    /// The highest capability of this kernel.
    pub(in super::super) last: u32,
    /// What bounded this process so far.
    pub(in super::super) inherited: u64,
}

/// `struct __user_cap_header_struct` with version 3.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;
/// Root gets no capabilities by being root.
const SECBIT_NOROOT: c_ulong = 1;

#[expect(unsafe_code, reason = "prctl has no safe wrapper for these")]
fn prctl(option: libc::c_int, a: c_ulong, b: c_ulong) -> Result<(), Errno> {
    // SAFETY: none of the options used here takes a pointer.
    Errno::result(unsafe { libc::prctl(option, a, b, 0 as c_ulong, 0 as c_ulong) }).map(drop)
}

/// Makes `/sys` and everything below it read-only in this mount namespace.
#[expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]
pub(super) fn make_sys_read_only() -> Result<(), Errno> {
    static ATTR: MountAttr = MountAttr::new(Refuses::Writes);
    // SAFETY: the path and the attributes are constants; the size is the true one.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/sys".as_ptr(),
            libc::AT_RECURSIVE,
            &raw const ATTR,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Sets one POSIX limit of this process.
#[expect(unsafe_code, reason = "the kind is a bare number")]
pub(super) fn set_rlimit(kind: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the pointer is to a live local that the kernel only reads.
    Errno::result(unsafe { libc::setrlimit(kind, &raw const limit) }).map(drop)
}

impl Capabilities {
    /// Before the user changes: bounds what can be gained, and arranges to keep what must stay.
    pub(in super::super) fn bound(&self) -> Result<(), Errno> {
        if self.ambient {
            prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT, 0)?;
            prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        }
        for capability in 0..=self.last {
            if self.inherited & !self.bounding & (1 << capability) != 0 {
                prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0)?;
            }
        }
        Ok(())
    }

    /// After it changed: the sets themselves. A user who is not root has lost everything by then
    /// unless it is kept.
    #[expect(unsafe_code, reason = "capset has no safe wrapper")]
    pub(super) fn settle(&self, root: bool) -> Result<(), Errno> {
        if !root && !self.ambient {
            return Ok(());
        }
        let header = CapHeader {
            version: CAP_VERSION_3,
            pid: 0,
        };
        let part = |shift: u32| {
            let bits = u32::try_from(self.effective >> shift & 0xffff_ffff).unwrap_or(0);
            CapData {
                effective: bits,
                permitted: bits,
                inheritable: if self.ambient { bits } else { 0 },
            }
        };
        let data = [part(0), part(32)];
        // SAFETY: version 3 takes two data structs; both pointers are to live locals.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr())
        })?;
        if self.ambient {
            for capability in 0..=self.last {
                if self.effective & (1 << capability) != 0 {
                    let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
                    prctl(libc::PR_CAP_AMBIENT, raise, c_ulong::from(capability))?;
                }
            }
        }
        Ok(())
    }
}

/// No program that this process runs gives it more rights than it has.
pub(super) fn forbid_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Installs a system call filter for good; needs [`forbid_new_privileges`] before.
#[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
pub(in super::super) fn install_filter(filter: &[Instruction]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program points to `filter`, whose layout is that of `sock_filter`; the kernel
    // only reads and copies it.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
    .map(drop)
}

/// Whether this process may do what `linux/nnp` and `linux/seccomp` need; for a trial in a fork.
pub(in super::super) fn try_filter(filter: Option<&[Instruction]>) -> Result<(), Errno> {
    forbid_new_privileges()?;
    filter.map_or(Ok(()), install_filter)
}
