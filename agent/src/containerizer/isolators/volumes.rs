//! `volume/host_path` and `volume/sandbox_path`.
//!
//! A volume is opened and checked before the container exists, and what was opened is what gets
//! mounted: swapping a link afterwards changes nothing (runc's CVE-2021-30465). Host paths must
//! lie below a folder that the operator has opened to tasks, links included. Without mounts of
//! its own a container gets sandbox volumes as links, and no others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs,
};
use nix::unistd::{Gid, Uid, fchownat};

use super::super::sys::{self, Refuses};
use super::walls::{Mounted, Target};
use super::{Host, Isolate, Walls};
use crate::containerizer::wire::{Launch, SetUp};
use crate::core::confinement::{Source, Volume};
use crate::isolation::Isolator;

/// The volumes of one kind.
#[derive(Debug)]
pub(super) struct Volumes {
    isolator: Isolator,
    /// Folders that tasks may mount from.
    host_paths: Vec<PathBuf>,
    mounts: bool,
}

impl Volumes {
    pub(super) fn new(isolator: Isolator, set_up: &SetUp) -> Self {
        Self {
            isolator,
            host_paths: set_up.host_path_volumes.iter().map(PathBuf::from).collect(),
            mounts: false,
        }
    }

    fn is_mine(&self, volume: &Volume) -> bool {
        match volume.source {
            Some(Source::Host(_)) => self.isolator == Isolator::VolumeHostPath,
            Some(Source::Sandbox(_) | Source::Parent(_) | Source::Persistent(_)) => {
                self.isolator == Isolator::VolumeSandboxPath
            }
            None => false,
        }
    }

    fn add(&self, launch: &Launch, volume: &Volume, walls: &mut Walls) -> Result<(), String> {
        let owner = Owner::of(launch);
        let sandbox_path = bytes_to_path(&launch.directory);
        let sandbox = folder(&sandbox_path)
            .map_err(|errno| format!("the sandbox cannot be opened: {}", errno.desc()))?;
        let (source, path) = self.open_source(volume, sandbox.as_fd(), &sandbox_path, owner)?;
        let Some(mounts) = &mut walls.mounts else {
            return link(volume, sandbox.as_fd(), &path, owner);
        };
        let target = Path::new(&volume.container_path);
        let target = if target.is_absolute() {
            check_machine_target(target)?;
            Target::Machine(target.to_owned())
        } else {
            let directory = is_directory(source.as_fd());
            make_below(sandbox.as_fd(), target, directory, owner).map_err(|errno| {
                format!(
                    "no place for the volume at {}: {}",
                    target.display(),
                    errno.desc()
                )
            })?;
            Target::Sandbox {
                sandbox: sandbox_path,
                path: target.to_owned(),
            }
        };
        let refuses = if volume.read_only {
            Refuses::WritesAndPowers
        } else {
            Refuses::Powers
        };
        let tree = sys::clone_tree(source.as_fd())
            .and_then(|tree| sys::restrict(tree.as_fd(), refuses).map(|()| tree))
            .map_err(|errno| format!("{} cannot be mounted: {}", path.display(), errno.desc()))?;
        mounts.volumes.push(Mounted { tree, target });
        // What lies deeper is mounted later.
        mounts.volumes.sort_by_key(|mounted| mounted.target.depth());
        Ok(())
    }

    fn open_source(
        &self,
        volume: &Volume,
        sandbox: BorrowedFd<'_>,
        sandbox_path: &Path,
        owner: Owner,
    ) -> Result<(OwnedFd, PathBuf), String> {
        match &volume.source {
            Some(Source::Host(path)) => {
                let path = Path::new(path);
                Ok((self.open_host(path)?, path.to_owned()))
            }
            Some(Source::Sandbox(path)) => open_in_sandbox(sandbox, sandbox_path, path, owner),
            Some(Source::Parent(path)) => {
                // `<executor's sandbox>/containers/<container>`.
                let executors = sandbox_path.ancestors().nth(2).unwrap_or(sandbox_path);
                let parent = folder(executors).map_err(|errno| {
                    format!("the executor's sandbox cannot be opened: {}", errno.desc())
                })?;
                open_in_sandbox(parent.as_fd(), executors, path, owner)
            }
            Some(Source::Persistent(path)) => {
                let path = Path::new(path);
                let opened = folder(path).map_err(|errno| {
                    format!("the persistent volume cannot be opened: {}", errno.desc())
                })?;
                Ok((opened, path.to_owned()))
            }
            None => Err("a volume comes from nowhere".to_owned()),
        }
    }

    fn open_host(&self, path: &Path) -> Result<OwnedFd, String> {
        let allowed = self.host_paths.iter().filter_map(|root| {
            let below = path.strip_prefix(root).ok()?;
            Some((root, below))
        });
        // The innermost of nested ones has the last word on links.
        let (root, below) = allowed
            .max_by_key(|(root, _)| root.components().count())
            .ok_or_else(|| {
                let folders: Vec<String> = self
                    .host_paths
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect();
                let folders = if folders.is_empty() {
                    "no folder is".to_owned()
                } else {
                    format!("{} are", folders.join(", "))
                };
                format!(
                    "the host path {} is not open to tasks ({folders}); the operator may open it \
                     with --host-path-volumes",
                    path.display()
                )
            })?;
        let opened = folder(root).and_then(|root| open_below(root.as_fd(), below));
        let opened = opened.map_err(|errno| match errno {
            Errno::EXDEV | Errno::ELOOP => format!(
                "the host path {} leads out of {}, which is what tasks may mount from",
                path.display(),
                root.display()
            ),
            other => format!("the host path {}: {}", path.display(), other.desc()),
        })?;
        if is_kernels(opened.as_fd()) {
            return Err(format!(
                "the host path {} belongs to the kernel",
                path.display()
            ));
        }
        Ok(opened)
    }
}

impl Isolate for Volumes {
    fn isolator(&self) -> Isolator {
        self.isolator
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        self.mounts = host.own_mounts;
        match (self.isolator, self.mounts) {
            (Isolator::VolumeHostPath, false) => Err("it needs filesystem/linux".to_owned()),
            (Isolator::VolumeHostPath, true) if self.host_paths.is_empty() => {
                Ok("no folder of this machine is open to tasks".to_owned())
            }
            (Isolator::VolumeHostPath, true) => {
                for root in &self.host_paths {
                    folder(root)
                        .map_err(|errno| format!("{}: {}", root.display(), errno.desc()))?;
                }
                let folders: Vec<String> = self
                    .host_paths
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect();
                Ok(format!("from below {}", folders.join(", ")))
            }
            (_, true) => Ok("folders of the sandbox at other places".to_owned()),
            (_, false) => Ok("folders of the sandbox as links, not read-only".to_owned()),
        }
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let volumes = launch.confinement.iter().flat_map(|c| &c.volumes);
        for volume in volumes.filter(|volume| self.is_mine(volume)) {
            self.add(launch, volume, walls)?;
        }
        Ok(())
    }
}

impl Target {
    fn depth(&self) -> usize {
        match self {
            Self::Sandbox { path, .. } | Self::Machine(path) => path.components().count(),
        }
    }
}

/// Whom new folders belong to.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of(launch: &Launch) -> Self {
        Self(launch.user.as_ref().map(|user| (user.uid, user.gid)))
    }

    fn take(self, folder: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
        let Some((uid, gid)) = self.0 else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(
            folder,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

fn folder(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(AT_FDCWD, path, OpenHow::new().flags(flags))
}

/// Opens what is there, links followed as long as they stay below.
fn open_below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Makes a path step by step and follows no link; folders, and a file at its end unless
/// `directory`.
fn make_below(
    root: BorrowedFd<'_>,
    path: &Path,
    directory: bool,
    owner: Owner,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let open = |at: BorrowedFd<'_>, name: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        openat2(at, name, OpenHow::new().flags(flags).resolve(resolve))
    };
    let mut at = open(root, Path::new("."))?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let name = Path::new(part.as_os_str());
        if directory || parts.peek().is_some() {
            match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => {}
                other => {
                    other?;
                    owner.take(at.as_fd(), name)?;
                }
            }
        } else {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let how = OpenHow::new()
                .flags(flags)
                .mode(Mode::from_bits_truncate(0o644))
                .resolve(resolve);
            match openat2(&at, name, how) {
                Err(Errno::EEXIST) => {}
                other => {
                    other?;
                    owner.take(at.as_fd(), name)?;
                }
            }
        }
        at = open(at.as_fd(), name)?;
    }
    Ok(at)
}

fn is_directory(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
    })
}

/// Whether this is no file of a disk but a door to the kernel (runc's CVE-2025-31133 and kin).
fn is_kernels(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fstatfs(fd) else {
        return true;
    };
    [
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
    ]
    .contains(&stat.filesystem_type())
}

fn check_machine_target(path: &Path) -> Result<(), String> {
    let refuse = |why: &str| {
        Err(format!(
            "no place for the volume at {}: {why}; without an image of its own a task finds \
             volumes at relative paths, or on top of what the machine has",
            path.display()
        ))
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    if path == Path::new("/") || path.starts_with("/dev") {
        return refuse("that is the machine's own");
    }
    match openat2(AT_FDCWD, path, how) {
        Err(errno) => refuse(errno.desc()),
        Ok(place) if is_kernels(place.as_fd()) => refuse("that belongs to the kernel"),
        Ok(_) => Ok(()),
    }
}

/// A volume of a container without mounts of its own.
fn open_in_sandbox(
    sandbox: BorrowedFd<'_>,
    sandbox_path: &Path,
    path: &str,
    owner: Owner,
) -> Result<(OwnedFd, PathBuf), String> {
    let path = Path::new(path);
    let opened = open_below(sandbox, path).or_else(|_| make_below(sandbox, path, true, owner));
    let opened = opened.map_err(|errno| {
        format!(
            "the sandbox path {} cannot be used: {}",
            path.display(),
            errno.desc()
        )
    })?;
    Ok((opened, sandbox_path.join(path)))
}

fn link(
    volume: &Volume,
    sandbox: BorrowedFd<'_>,
    source: &Path,
    owner: Owner,
) -> Result<(), String> {
    let target = Path::new(&volume.container_path);
    if volume.read_only || target.is_absolute() {
        return Err(format!(
            "the volume at {} is read-only or at an absolute path, which takes the isolator \
             filesystem/linux on this agent",
            target.display()
        ));
    }
    let placed = (|| -> Result<(), Errno> {
        let (parent, name) = match (target.parent(), target.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => return Err(Errno::EINVAL),
        };
        let parent = make_below(sandbox, parent, true, owner)?;
        nix::unistd::symlinkat(source, &parent, Path::new(name))?;
        owner.take(parent.as_fd(), Path::new(name))
    })();
    placed.map_err(|errno| {
        format!(
            "no place for the volume at {}: {}",
            target.display(),
            errno.desc()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn volumes(roots: &[&Path]) -> Volumes {
        Volumes {
            isolator: Isolator::VolumeHostPath,
            host_paths: roots.iter().map(|root| (*root).to_owned()).collect(),
            mounts: false,
        }
    }

    #[test]
    fn only_what_lies_below_an_open_folder_can_be_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::create_dir(folder.path().join("closed")).unwrap();
        symlink("../closed", open.join("out")).unwrap();
        symlink("/etc", open.join("etc")).unwrap();
        fs::create_dir(open.join("in")).unwrap();
        symlink("in", open.join("link")).unwrap();
        let volumes = volumes(&[&open]);
        for good in ["", "in", "link"] {
            volumes.open_host(&open.join(good)).unwrap();
        }
        for (bad, why) in [
            (open.join("out"), "leads out of"),
            (open.join("etc"), "leads out of"),
            (folder.path().join("closed"), "--host-path-volumes"),
            (PathBuf::from("/etc"), "--host-path-volumes"),
        ] {
            let error = volumes.open_host(&bad).unwrap_err();
            assert!(error.contains(why), "{}: {error}", bad.display());
        }
    }

    #[test]
    fn the_kernels_own_files_are_no_volumes() {
        let error = volumes(&[Path::new("/")])
            .open_host(Path::new("/proc/sys"))
            .unwrap_err();
        assert!(error.contains("kernel"), "{error}");
    }

    #[test]
    fn without_mounts_a_volume_is_a_link_that_cannot_be_read_only() {
        let sandbox = tempfile::tempdir().unwrap();
        let root = folder(sandbox.path()).unwrap();
        let mut volume = Volume {
            container_path: "deep/data".to_owned(),
            read_only: false,
            source: Some(Source::Sandbox("kept".to_owned())),
        };
        let volumes = volumes(&[]);
        let (_, path) = volumes
            .open_source(&volume, root.as_fd(), sandbox.path(), Owner(None))
            .unwrap();
        fs::write(path.join("file"), "").unwrap();
        link(&volume, root.as_fd(), &path, Owner(None)).unwrap();
        assert!(sandbox.path().join("deep/data/file").exists());
        volume.read_only = true;
        let refused = link(&volume, root.as_fd(), &path, Owner(None)).unwrap_err();
        assert!(refused.contains("filesystem/linux"), "{refused}");
    }

    #[test]
    fn a_place_is_made_without_following_links() {
        let sandbox = tempfile::tempdir().unwrap();
        let root = folder(sandbox.path()).unwrap();
        symlink("/etc", sandbox.path().join("link")).unwrap();
        let make = |path| make_below(root.as_fd(), Path::new(path), true, Owner(None));
        make("a/b").unwrap();
        assert!(sandbox.path().join("a/b").is_dir());
        assert_eq!(make("link/x").unwrap_err(), Errno::ELOOP);
        assert!(!Path::new("/etc/x").exists());
        let file = make_below(root.as_fd(), Path::new("c/d"), false, Owner(None));
        assert!(!is_directory(file.unwrap().as_fd()));
    }
}
