//! `filesystem/linux`: own mounts. A container sees its own `/proc`, cannot change the kernel's
//! settings through `/proc` or its limits through `/sys/fs/cgroup`, and finds its volumes.
//!
//! The launcher itself gets a mount namespace first, which receives new mounts of the machine
//! and gives none back: what isolators mount there for all containers is seen by nobody else.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::sys::{self, Refuses, Stage};
use super::walls::{Mounts, Walls};
use super::{Host, Isolate, namespaces};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

/// Kernel settings that root could change without any capability: with them a task escapes its
/// walls (`/proc/sys/kernel/core_pattern` names a program that the kernel runs as root).
const READ_ONLY_IN_PROC: [&CStr; 5] = [
    c"/proc/sys",
    c"/proc/sysrq-trigger",
    c"/proc/irq",
    c"/proc/bus",
    c"/proc/fs",
];

/// The folder of a sandbox that a task finds as `/tmp`.
const TMP: &str = ".tmp";

#[derive(Debug)]
pub(super) struct Filesystem {
    /// Every container gets a `/tmp` of its own.
    own_tmp: bool,
}

impl Filesystem {
    pub(super) const fn new(own_tmp: bool) -> Self {
        Self { own_tmp }
    }
}

impl Isolate for Filesystem {
    fn isolator(&self) -> Isolator {
        Isolator::FilesystemLinux
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
        let trial = || {
            let put_up = take_mounts()
                .and_then(|()| own_proc())
                .and_then(|()| protect_proc());
            put_up.map_or_else(|errno| errno as i32, |()| 0)
        };
        namespaces::try_once(flags, trial).map_err(|(clause, status)| match status {
            Some(errno) => format!(
                "mounting a container's own /proc fails: {} (Linux 5.12 and root are needed)",
                Errno::from_raw(errno).desc()
            ),
            None => clause,
        })?;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| take_mounts())
            .map_err(|errno| format!("no mounts of its own: {}", errno.desc()))?;
        host.own_mounts = true;
        Ok(if self.own_tmp {
            "own /proc and /tmp, read-only /proc/sys and /sys, volumes".to_owned()
        } else {
            "own /proc, read-only /proc/sys and /sys, volumes".to_owned()
        })
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        walls.namespaces |= CloneFlags::CLONE_NEWNS;
        let root = launch.user.as_ref().is_none_or(|user| user.uid == 0);
        walls.hardening.sys_read_only = root;
        let shm_bytes = launch.confinement.as_ref().and_then(|c| c.shm_bytes);
        let tmp = if self.own_tmp {
            Some(own_tmp(launch)?)
        } else {
            None
        };
        walls.mounts = Some(Mounts {
            own_proc: walls.namespaces.contains(CloneFlags::CLONE_NEWPID) || launch.pod.is_some(),
            protect_proc: root,
            shm_bytes,
            tmp,
            volumes: Vec::new(),
        });
        Ok(())
    }
}

/// Gives this process mounts of its own with a `/proc` of the pid namespace that it is in.
pub(in super::super) fn see_own_processes() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    take_mounts()?;
    own_proc()
}

/// Mounts of the machine still arrive; ours stay ours.
fn take_mounts() -> Result<(), Errno> {
    let nothing: Option<&str> = None;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        nothing,
    )
}

fn own_proc() -> Result<(), Errno> {
    let nothing: Option<&str> = None;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        nothing,
    )
}

fn protect_proc() -> Result<(), Errno> {
    let nothing: Option<&str> = None;
    for path in READ_ONLY_IN_PROC {
        match mount(Some(path), path, nothing, MsFlags::MS_BIND, nothing) {
            // Not every kernel has all of them.
            Err(Errno::ENOENT) => continue,
            other => other?,
        }
        sys::restrict_path(path, Refuses::Writes)?;
    }
    Ok(())
}

/// The folder that becomes `/tmp`, and the sandbox where that lies below `/tmp` itself.
fn own_tmp(launch: &Launch) -> Result<OwnTmp, String> {
    let sandbox = sandbox_path(launch);
    let folder = sandbox.join(TMP);
    let made = (|| -> io::Result<OwnTmp> {
        if let Err(error) = fs::create_dir(&folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777))?;
        let tree =
            |path: &Path| -> io::Result<_> { Ok(sys::clone_tree(File::open(path)?.as_fd())?) };
        let below = sandbox.strip_prefix("/tmp").ok();
        Ok(OwnTmp {
            tree: tree(&folder)?,
            sandbox: match below {
                Some(_) => Some((tree(sandbox)?, sandbox.to_owned())),
                None => None,
            },
        })
    })();
    made.map_err(|error| format!("cannot make the task's own /tmp: {error}"))
}

/// What a container needs for a `/tmp` of its own.
#[derive(Debug)]
pub(super) struct OwnTmp {
    tree: OwnedFd,
    sandbox: Option<(OwnedFd, PathBuf)>,
}

fn sandbox_path(launch: &Launch) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(&launch.directory))
}

impl Mounts {
    /// Mounts what the next container of this init finds as well; called by the init in its own
    /// mount namespace, before any program of a task runs in it.
    ///
    /// # Errors
    /// The stage and the kernel's reason.
    pub(in super::super) fn put_up_lasting(&self) -> Result<(), (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        if self.own_proc {
            own_proc().map_err(at(Stage::Mount))?;
        }
        if self.protect_proc {
            protect_proc().map_err(at(Stage::Mount))?;
        }
        Ok(())
    }

    /// Mounts what one container alone finds.
    ///
    /// # Errors
    /// The stage and the kernel's reason.
    pub(in super::super) fn put_up_own(&self) -> Result<(), (Stage, Errno)> {
        let at = |stage| move |errno| (stage, errno);
        if let Some(bytes) = self.shm_bytes {
            own_shm(bytes).map_err(at(Stage::Mount))?;
        }
        if let Some(tmp) = &self.tmp {
            tmp.put_up().map_err(at(Stage::Mount))?;
        }
        for volume in &self.volumes {
            let target = open_target(&volume.target).map_err(at(Stage::Volume))?;
            sys::attach(volume.tree.as_fd(), target.as_fd()).map_err(at(Stage::Volume))?;
        }
        Ok(())
    }

    /// Closes what was mounted.
    pub(in super::super) fn let_go(&mut self) {
        self.tmp = None;
        self.volumes.clear();
    }

    /// What an init has to do in the same way for every container that it serves; `None` where a
    /// container has mounts that no other has.
    pub(in super::super) fn shape(&self) -> Option<Shape> {
        self.volumes.is_empty().then_some(Shape {
            own_proc: self.own_proc,
            protect_proc: self.protect_proc,
            shm_bytes: self.shm_bytes,
            own_tmp: self.tmp.is_some(),
        })
    }

    /// What another process needs to mount the same `/tmp`: that folder, and the sandbox where
    /// that lies below `/tmp` itself.
    pub(in super::super) fn trees(&self) -> impl Iterator<Item = RawFd> {
        self.tmp.iter().flat_map(|tmp| {
            let sandbox = tmp.sandbox.iter().map(|(tree, _)| tree.as_raw_fd());
            std::iter::once(tmp.tree.as_raw_fd()).chain(sandbox)
        })
    }

    /// Takes [`trees`](Self::trees) from another process, for the container in `sandbox`.
    pub(in super::super) fn take(
        &mut self,
        mut trees: impl Iterator<Item = OwnedFd>,
        sandbox: &Path,
    ) {
        self.tmp = trees.next().map(|tree| OwnTmp {
            tree,
            sandbox: trees.next().map(|tree| (tree, sandbox.to_owned())),
        });
    }
}

/// How the mounts of containers are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Shape {
    own_proc: bool,
    protect_proc: bool,
    shm_bytes: Option<u64>,
    own_tmp: bool,
}

impl OwnTmp {
    fn put_up(&self) -> Result<(), Errno> {
        let place = |path: &Path| {
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
            openat2(AT_FDCWD, path, how)
        };
        sys::attach(self.tree.as_fd(), place(Path::new("/tmp"))?.as_fd())?;
        if let Some((tree, path)) = &self.sandbox {
            fs::create_dir_all(path)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))?;
            sys::attach(tree.as_fd(), place(path)?.as_fd())?;
        }
        Ok(())
    }
}

fn own_shm(bytes: u64) -> Result<(), Errno> {
    let size = if bytes == 0 {
        String::new()
    } else {
        format!(",size={bytes}")
    };
    mount(
        Some("shm"),
        "/dev/shm",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(format!("mode=1777{size}").as_str()),
    )
}

/// Where a volume goes, as this namespace knows it. No link is followed in what a task could
/// have prepared, so the place is the one that was checked (runc's CVE-2021-30465).
fn open_target(target: &super::walls::Target) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    match target {
        super::walls::Target::Sandbox { sandbox, path } => {
            let root = openat2(
                AT_FDCWD,
                sandbox,
                OpenHow::new().flags(flags | OFlag::O_DIRECTORY),
            )?;
            let resolve = resolve | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
            openat2(&root, path, OpenHow::new().flags(flags).resolve(resolve))
        }
        super::walls::Target::Machine(path) => {
            openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(resolve))
        }
    }
}
