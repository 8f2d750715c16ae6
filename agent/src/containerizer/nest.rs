//! Nested containers on the agent's disk: each has a sandbox of its own in that of its parent,
//! where it works and what it writes stays.
//!
//! The parent's sandbox is its task's, which may put anything there at any time: no link in it is
//! followed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use super::prepare::{CONTAINERS, User};
use crate::core::{Launch, Nesting};

/// Where a nested container lives.
#[derive(Debug, Clone)]
pub(crate) struct Nest {
    /// The sandbox of the topmost container above it, whose folder is the agent's own.
    root: PathBuf,
    /// Names from there down to its own: each one that is no path.
    path: Vec<String>,
}

/// Makes the sandbox of a nested container; its path, and itself, for files to be made in.
///
/// # Errors
/// A sentence.
pub(super) fn make(
    work_dir: &Path,
    launch: &Launch,
    user: &User,
) -> Result<(PathBuf, OwnedFd), String> {
    let root = work_dir.join(launch.sandbox.folder(&launch.agent));
    let path = launch.nested.as_ref().map(|nesting| nesting.path.clone());
    let nest = Nest {
        root,
        path: path.unwrap_or_default(),
    };
    let made = nest.make(user).map_err(|errno| {
        let sandbox = nest.sandbox();
        format!(
            "cannot make the sandbox {}: {}",
            sandbox.display(),
            errno.desc()
        )
    });
    Ok((nest.sandbox(), made?))
}

impl Nest {
    /// The place of a nested container, whose topmost one has this sandbox.
    pub(crate) fn of(work_dir: &Path, sandbox: &str, nesting: &Nesting) -> Self {
        Self {
            root: work_dir.join(sandbox),
            path: nesting.path.clone(),
        }
    }

    fn sandbox(&self) -> PathBuf {
        let mut sandbox = self.root.clone();
        for name in &self.path {
            sandbox.extend([CONTAINERS, name]);
        }
        sandbox
    }

    /// Its own name, and the folder that it is made in.
    fn place(&self) -> Result<(&str, OwnedFd), Errno> {
        let (name, above) = self.path.split_last().ok_or(Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut parent = openat2(AT_FDCWD, &self.root, OpenHow::new().flags(flags))?;
        for name in above {
            let containers = beneath(&parent, CONTAINERS, flags, Mode::empty())?;
            parent = beneath(&containers, name, flags, Mode::empty())?;
        }
        match mkdirat(&parent, CONTAINERS, Mode::from_bits_truncate(0o755)) {
            Err(Errno::EEXIST) => {}
            other => other?,
        }
        let containers = beneath(&parent, CONTAINERS, flags, Mode::empty())?;
        Ok((name, containers))
    }

    /// Makes its sandbox.
    fn make(&self, user: &User) -> Result<OwnedFd, Errno> {
        let (name, containers) = self.place()?;
        mkdirat(&containers, name, Mode::from_bits_truncate(0o755))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = beneath(&containers, name, flags, Mode::empty())?;
        if let Some((uid, gid, _)) = &user.switch {
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            let flags = AtFlags::AT_EMPTY_PATH;
            fchownat(&folder, "", Some(uid), Some(gid), flags)?;
        }
        Ok(folder)
    }

    /// Removes its sandbox.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (name, containers) = match self.place() {
            // With the sandbox of its parent.
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        let own = format!("/proc/self/fd/{}", containers.as_raw_fd());
        match fs::remove_dir_all(Path::new(&own).join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn beneath(folder: &OwnedFd, name: &str, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    openat2(folder, name, how)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn nobody() -> User {
        User {
            name: "root".to_owned(),
            home: "/".to_owned(),
            switch: None,
        }
    }

    #[test]
    fn a_nested_sandbox_lies_in_its_parents_and_no_link_leads_out_of_there() {
        let folder = tempfile::tempdir().unwrap();
        let (parent, outside) = (folder.path().join("sandbox"), folder.path().join("outside"));
        fs::create_dir(&parent).unwrap();
        fs::create_dir(&outside).unwrap();
        let nest = |path: &[&str]| Nest {
            root: parent.clone(),
            path: path.iter().map(|&name| name.to_owned()).collect(),
        };
        let inner = nest(&["n", "inner"]);
        assert_eq!(inner.make(&nobody()).unwrap_err(), Errno::ENOENT);
        inner.remove().unwrap();
        let nest = nest(&["n"]);
        nest.make(&nobody()).unwrap();
        assert!(parent.join("containers/n").is_dir());
        assert_eq!(nest.make(&nobody()).unwrap_err(), Errno::EEXIST);
        inner.make(&nobody()).unwrap();
        assert!(parent.join("containers/n/containers/inner").is_dir());
        nest.remove().unwrap();
        nest.remove().unwrap();
        assert!(!parent.join("containers/n").exists());
        // A task may put links in the way.
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, parent.join("containers/n")).unwrap();
        assert!(nest.make(&nobody()).is_err());
        assert_eq!(inner.make(&nobody()).unwrap_err(), Errno::ELOOP);
        assert!(inner.remove().is_err());
        nest.remove().unwrap();
        assert!(outside.join("kept").exists());
        fs::remove_dir(parent.join("containers")).unwrap();
        symlink(&outside, parent.join("containers")).unwrap();
        assert_eq!(nest.make(&nobody()).unwrap_err(), Errno::ELOOP);
        assert!(nest.remove().is_err());
        assert!(outside.join("kept").exists());
    }
}
