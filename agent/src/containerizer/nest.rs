//! Programs beside a task that nobody listens to (Mesos' nested containers): each has a sandbox of
//! its own in that of its parent, where it works and what it writes stays.
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
use tokio::task::spawn_blocking;

use super::prepare::{CONTAINERS, User};
use super::session::{SessionOutput, Sessions};
use crate::core::Launch;

/// Where a nested container lives.
#[derive(Debug, Clone)]
pub(crate) struct Nest {
    /// The sandbox of its parent.
    pub(crate) parent: PathBuf,
    /// Its name there: one that is no path.
    pub(crate) name: String,
}

impl Nest {
    fn path(&self) -> PathBuf {
        self.parent.join(CONTAINERS).join(&self.name)
    }

    fn containers(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = openat2(AT_FDCWD, &self.parent, OpenHow::new().flags(flags))?;
        match mkdirat(&parent, CONTAINERS, Mode::from_bits_truncate(0o755)) {
            Err(Errno::EEXIST) => {}
            other => other?,
        }
        beneath(&parent, CONTAINERS, flags, Mode::empty())
    }

    /// Makes its sandbox; what its program reads and writes.
    fn make(&self, user: &User) -> Result<[OwnedFd; 3], Errno> {
        let containers = self.containers()?;
        let owner = user.switch.as_ref();
        let own = |folder: &OwnedFd, name: &str| match owner {
            None => Ok(()),
            Some((uid, gid, _)) => fchownat(
                folder,
                name,
                Some(Uid::from_raw(*uid)),
                Some(Gid::from_raw(*gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            ),
        };
        let name = self.name.as_str();
        mkdirat(&containers, name, Mode::from_bits_truncate(0o755))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = beneath(&containers, name, flags, Mode::empty())?;
        let file = |name: &str| {
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_APPEND
                | OFlag::O_CLOEXEC;
            let file = beneath(&folder, name, flags, Mode::from_bits_truncate(0o644))?;
            own(&folder, name)?;
            Ok(file)
        };
        let (out, err) = (file("stdout")?, file("stderr")?);
        // Last: until now it was nobody's to change.
        own(&containers, name)?;
        let nothing = fs::File::open("/dev/null").map_err(|_| Errno::EIO)?;
        Ok([nothing.into(), out, err])
    }

    /// Removes its sandbox.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let containers = self.containers()?;
        let own = format!("/proc/self/fd/{}", containers.as_raw_fd());
        match fs::remove_dir_all(Path::new(&own).join(&self.name)) {
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

impl Sessions {
    /// Starts the program of `launch` in its container, which must be running, in a sandbox of its
    /// own.
    ///
    /// # Errors
    /// A sentence when the sandbox cannot be made or the user is unknown; all else is an event.
    pub(crate) async fn nest(
        &self,
        mut launch: Launch,
        nest: Nest,
    ) -> Result<SessionOutput, String> {
        let directory = nest.path();
        for (name, value) in &mut launch.environment {
            if matches!(name.as_str(), "MESOS_SANDBOX" | "MESOS_DIRECTORY") {
                directory.to_string_lossy().as_ref().clone_into(value);
            }
        }
        let (name, switch_user) = (launch.user.clone(), self.switch_user);
        let made = spawn_blocking(move || {
            let user = User::find(name.as_deref(), switch_user)?;
            let streams = nest.make(&user).map_err(|errno| {
                format!(
                    "cannot make the sandbox {}: {}",
                    nest.path().display(),
                    errno.desc()
                )
            })?;
            Ok::<_, String>((user, streams))
        });
        let (user, streams) = made.await.map_err(|error| error.to_string())??;
        self.enter_in(launch, user, streams, directory).await
    }
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
        let nest = Nest {
            parent: parent.clone(),
            name: "n".to_owned(),
        };
        nest.make(&nobody()).unwrap();
        assert!(parent.join("containers/n/stdout").is_file());
        assert_eq!(nest.make(&nobody()).unwrap_err(), Errno::EEXIST);
        nest.remove().unwrap();
        nest.remove().unwrap();
        assert!(!parent.join("containers/n").exists());
        // A task may put links in the way.
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, parent.join("containers/n")).unwrap();
        assert!(nest.make(&nobody()).is_err());
        nest.remove().unwrap();
        assert!(outside.join("kept").exists());
        fs::remove_dir(parent.join("containers")).unwrap();
        symlink(&outside, parent.join("containers")).unwrap();
        assert_eq!(nest.make(&nobody()).unwrap_err(), Errno::ELOOP);
        assert!(nest.remove().is_err());
        assert!(outside.join("kept").exists());
    }
}
