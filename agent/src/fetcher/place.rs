//! Where a fetched file goes, and files that are there only once they are whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::{Switch, disk};
use crate::core::launch::Uri;

/// Where a file goes, relative to the sandbox.
pub(super) fn output_name(uri: &Uri) -> Result<PathBuf, String> {
    let name = uri
        .output_file
        .as_deref()
        .unwrap_or_else(|| base_name(&uri.value));
    let relative = Path::new(name);
    if !is_inside(relative) {
        return Err(format!(
            "its output file {name:?} is no path inside the sandbox; give a relative one \
             without `..`"
        ));
    }
    if is_output(relative) {
        return Err(format!(
            "its output file {name:?} is the task's own output; rename it"
        ));
    }
    Ok(relative.to_owned())
}

/// The last part of a URI's path.
pub(super) fn base_name(uri: &str) -> &str {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// Whether a path names something below where it starts.
pub(super) fn is_inside(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::Normal(_));
    !path.as_os_str().is_empty()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path.components().all(plain)
}

/// Whether the task's own output is written there.
pub(super) fn is_output(path: &Path) -> bool {
    path == Path::new("stdout") || path == Path::new("stderr")
}

/// A file that disappears unless it is finished.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
    finished: bool,
}

impl Partial {
    /// Makes the file and the folders above it, all of them the user's.
    pub(super) fn create(path: &Path, user: Option<&Switch>) -> Result<Self, String> {
        let own = |path: &Path| match user {
            Some((uid, gid, _)) => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid)),
            None => Ok(()),
        };
        let made = (|| {
            if let Some(folder) = path.parent()
                && !folder.exists()
            {
                fs::create_dir_all(folder)?;
                own(folder)?;
            }
            // Nothing runs in this sandbox yet, but an archive before this file may have left a
            // link in the way.
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(path)?;
            own(path)?;
            Ok(file)
        })();
        Ok(Self {
            file: made.map_err(|error: io::Error| disk(&error))?,
            path: path.to_owned(),
            finished: false,
        })
    }

    /// It is whole and stays.
    pub(super) fn finish(mut self, mode: u32) -> Result<(), String> {
        self.file
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(|error| disk(&error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(value: &str, output_file: Option<&str>) -> Uri {
        Uri {
            value: value.to_owned(),
            executable: false,
            extract: false,
            cache: false,
            output_file: output_file.map(str::to_owned),
        }
    }

    #[test]
    fn an_output_file_cannot_leave_the_sandbox() {
        for output in ["../x", "/etc/x", "a/../../x", "", ".", "stdout"] {
            let error = output_name(&uri("/data/x", Some(output))).unwrap_err();
            assert!(error.contains(&format!("{output:?}")), "{error}");
        }
        let named = output_name(&uri("http://h/a/b.txt?x=/../y", None)).unwrap();
        assert_eq!(named, Path::new("b.txt"));
    }
}
