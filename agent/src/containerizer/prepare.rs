//! What is done for a container outside it: its sandbox before, the count of its files after.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use allotment_proto::allot;
use nix::sys::statvfs::statvfs;
use nix::unistd::{Gid, Uid, chown, geteuid, getgrouplist};

use crate::core::{Launch, Owner};

/// The most files that a summary lists.
const FILES_MAX: usize = 100;

/// A user as tasks need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) home: String,
    /// Set when the task has to change to it.
    pub(crate) switch: Option<(u32, u32, Vec<u32>)>,
}

impl User {
    /// Looks up who a task runs as. Without `switch_user` or root that is always the agent's own
    /// user.
    ///
    /// # Errors
    /// A sentence when there is no such user here.
    pub(crate) fn find(name: Option<&str>, switch_user: bool) -> Result<Self, String> {
        let own = geteuid();
        let named = match name {
            Some(name) if switch_user && own.is_root() => {
                let found = nix::unistd::User::from_name(name)
                    .map_err(|errno| format!("cannot look up user {name:?}: {}", errno.desc()))?;
                Some(found.ok_or_else(|| {
                    format!(
                        "user {name:?} does not exist on this agent; create it there, or name \
                         another in the task's or framework's `user`"
                    )
                })?)
            }
            _ => nix::unistd::User::from_uid(own).ok().flatten(),
        };
        let Some(user) = named else {
            // No entry for our own number: a container without a passwd file.
            return Ok(Self {
                name: own.to_string(),
                home: "/".to_owned(),
                switch: None,
            });
        };
        let switch = if user.uid == own {
            None
        } else {
            let name = std::ffi::CString::new(user.name.clone()).unwrap_or_default();
            let groups = getgrouplist(&name, user.gid).map_err(|errno| {
                format!("cannot list groups of {:?}: {}", user.name, errno.desc())
            })?;
            let groups = groups.into_iter().map(Gid::as_raw).collect();
            Some((user.uid.as_raw(), user.gid.as_raw(), groups))
        };
        Ok(Self {
            name: user.name,
            home: user.dir.to_string_lossy().into_owned(),
            switch,
        })
    }
}

/// Makes the sandbox of a launch; its path.
///
/// # Errors
/// A sentence.
pub(crate) fn make_sandbox(
    work_dir: &Path,
    launch: &Launch,
    user: &User,
) -> Result<PathBuf, String> {
    let task = work_dir.join(launch.sandbox.runs_below(&launch.agent));
    let sandbox = work_dir.join(launch.sandbox.folder(&launch.agent));
    let make = || -> io::Result<()> {
        let runs = task.join("runs");
        // Usually the framework's folder is there and the task's is not.
        if let Err(error) = fs::create_dir(&task) {
            match error.kind() {
                ErrorKind::NotFound => fs::create_dir_all(&task)?,
                ErrorKind::AlreadyExists => {}
                _ => return Err(error),
            }
        }
        make_dir(&runs)?;
        if let Owner::Nested { parent, .. } = &launch.sandbox.owner {
            // Stays the agent's own: no task may put a link where folders are made next.
            let executors = runs.join(parent.as_str());
            make_dir(&executors)?;
            make_dir(&executors.join(CONTAINERS))?;
            make_dir(&executors.join(TASKS))?;
            name_latest(&runs, parent.as_str())?;
        }
        fs::create_dir(&sandbox)?;
        own(&sandbox, user)?;
        for volume in &launch.volumes {
            link_volume(
                &work_dir.join(&volume.folder),
                &sandbox.join(&volume.path),
                user,
            )?;
        }
        if let Owner::Nested { task, parent, .. } = &launch.sandbox.owner {
            let name = runs.join(parent.as_str()).join(TASKS).join(task.as_str());
            return link_anew(&format!("../{CONTAINERS}/{}", launch.container), &name);
        }
        name_latest(&runs, launch.container.as_str())
    };
    // The collector may take away a folder that is empty just between two steps.
    let made = match make() {
        Err(error) if error.kind() == ErrorKind::NotFound => make(),
        other => other,
    };
    match made {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "; free space on the agent's disk or choose another work folder"
                }
                ErrorKind::InvalidFilename => "; shorten the task's id or the work folder's path",
                _ => "",
            };
            Err(format!(
                "cannot make the sandbox {}: {error}{advice}",
                sandbox.display()
            ))
        }
    }
}

/// The folder of an executor's sandbox that names the sandboxes of its tasks, as Mesos does.
pub(crate) const TASKS: &str = "tasks";

/// The folder of an executor's sandbox that holds them.
pub(crate) const CONTAINERS: &str = "containers";

/// Makes a folder unless it is there.
fn make_dir(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Gives a folder to the user that a container runs as.
fn own(folder: &Path, user: &User) -> io::Result<()> {
    if let Some((uid, gid, _)) = &user.switch {
        chown(folder, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
    }
    Ok(())
}

fn name_latest(runs: &Path, run: &str) -> io::Result<()> {
    link_anew(run, &runs.join("latest"))
}

/// Makes a link, in the place of one that is there.
fn link_anew(target: &str, link: &Path) -> io::Result<()> {
    match symlink(target, link) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match fs::remove_file(link) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(target, link)
        }
        other => other,
    }
}

/// Puts a volume into a sandbox. The first user that is not the agent's own becomes its owner, as
/// in Mesos.
fn link_volume(volume: &Path, link: &Path, user: &User) -> io::Result<()> {
    fs::create_dir_all(volume)?;
    if let Some((uid, gid, _)) = &user.switch
        && fs::metadata(volume)?.uid() == geteuid().as_raw()
    {
        chown(volume, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(volume, link)
}

/// Makes an empty folder for a volume; what lies there was left by one that is gone.
pub(crate) fn make_volume(work_dir: &Path, folder: &str) -> io::Result<()> {
    destroy_volume(work_dir, folder)?;
    fs::create_dir_all(work_dir.join(folder))
}

/// Does away with a volume. It is out of the way before this returns an error or not, so that
/// another of its name never finds its files.
pub(crate) fn destroy_volume(work_dir: &Path, folder: &str) -> io::Result<()> {
    let volume = work_dir.join(folder);
    let mut doomed = volume.clone().into_os_string();
    doomed.push(".destroyed");
    let doomed = PathBuf::from(doomed);
    // Left by a run that ended while it deleted.
    remove_all(&doomed)?;
    match fs::rename(&volume, &doomed) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    remove_all(&doomed)
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a task left in its sandbox.
pub(crate) fn summary(sandbox: &Path) -> allot::SandboxSummary {
    let mut summary = allot::SandboxSummary::default();
    let Ok(entries) = fs::read_dir(sandbox) else {
        return summary;
    };
    for entry in entries.flatten() {
        // Links are not followed: what they point to is not the task's.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let size_bytes = metadata.len();
        match name.as_str() {
            "stdout" => summary.stdout_bytes = size_bytes,
            "stderr" => summary.stderr_bytes = size_bytes,
            _ => summary.files.push(allot::SandboxFile { name, size_bytes }),
        }
        if summary.files.len() > 10_000 {
            // A task may leave millions; the first that the disk gives must do.
            break;
        }
    }
    summary.files.sort_by(|a, b| a.name.cmp(&b.name));
    summary.truncated = summary.files.len() > FILES_MAX;
    summary.files.truncate(FILES_MAX);
    summary
}

/// Whether nothing can be written any more where the sandbox lies.
pub(crate) fn disk_is_full(sandbox: &Path) -> bool {
    statvfs(sandbox).is_ok_and(|stat| {
        let no_inodes = stat.files() > 0 && stat.files_available() == 0;
        stat.blocks() > 0 && stat.blocks_available() == 0 || no_inodes
    })
}

/// Deletes a sandbox and the folders above it that have become empty.
pub(crate) fn remove_sandbox(work_dir: &Path, folder: &str) -> io::Result<()> {
    let sandbox = work_dir.join(folder);
    if let Err(error) = fs::remove_dir_all(&sandbox)
        && error.kind() != ErrorKind::NotFound
    {
        // A task may have taken its own permissions away, which stops all but root.
        open_up(&sandbox);
        fs::remove_dir_all(&sandbox)?;
    }
    if let Some(runs) = sandbox.parent() {
        let latest = runs.join("latest");
        if fs::metadata(&latest).is_err() {
            let _ = fs::remove_file(&latest);
        }
        // Up to the task's and the framework's folder; refused where something is left.
        for folder in runs.ancestors().take(4) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Makes every folder below one accessible to its owner; no link is followed.
fn open_up(folder: &Path) {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&folder) else {
            continue;
        };
        let mode = metadata.mode() | 0o700;
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(mode));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        open.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_made_again_under_its_name_is_empty() {
        let work_dir = tempfile::tempdir().unwrap();
        let file = work_dir.path().join("volumes/roles/eng web/data/file");
        make_volume(work_dir.path(), "volumes/roles/eng web/data").unwrap();
        fs::write(&file, "kept").unwrap();
        destroy_volume(work_dir.path(), "volumes/roles/eng web/data").unwrap();
        assert!(!file.exists());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "of an earlier one").unwrap();
        make_volume(work_dir.path(), "volumes/roles/eng web/data").unwrap();
        assert!(file.parent().unwrap().exists() && !file.exists());
    }

    #[test]
    fn a_summary_names_top_level_files_in_order_and_follows_no_links() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("stdout", "12345");
        write("stderr", "");
        write("b", "22");
        write("a", "1");
        fs::create_dir(folder.path().join("sub")).unwrap();
        symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let summary = summary(folder.path());
        let files: Vec<(&str, u64)> = summary
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.size_bytes))
            .collect();
        assert_eq!((summary.stdout_bytes, summary.stderr_bytes), (5, 0));
        assert_eq!(files, [("a", 1), ("b", 2)]);
        assert!(!summary.truncated);
    }

    #[test]
    fn removing_the_last_sandbox_of_a_task_removes_its_folder_too() {
        let work_dir = tempfile::tempdir().unwrap();
        let task = work_dir.path().join("slaves/A/frameworks/F/executors/t");
        fs::create_dir_all(task.join("runs/c1")).unwrap();
        fs::create_dir_all(task.join("runs/c2")).unwrap();
        symlink("c2", task.join("runs/latest")).unwrap();
        let folder = "slaves/A/frameworks/F/executors/t/runs";
        remove_sandbox(work_dir.path(), &format!("{folder}/c1")).unwrap();
        assert!(task.join("runs/latest").exists());
        remove_sandbox(work_dir.path(), &format!("{folder}/c2")).unwrap();
        assert!(!task.exists());
    }
}
