//! Files of this machine: copied as the task's user, who may have no more fetched than read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::place::Partial;
use super::{Switch, become_user, disk, too_large};

/// Copies `source` and returns its length. Takes on `user` for good, so it needs a thread of its
/// own.
pub(super) fn copy(
    source: &Path,
    partial: Partial,
    executable: bool,
    size_max: u64,
    user: Option<&Switch>,
) -> Result<u64, String> {
    become_user(user)?;
    // Not blocking: opening a pipe by mistake must not hold a fetch for ever.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(source)
        .map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file; name a file, or an archive of the folder".to_owned());
    }
    let mode = metadata.mode() & 0o777 | if executable { 0o111 } else { 0 };
    copy_open(file, partial, mode | 0o400, size_max)
}

/// Copies an open file and returns its length.
pub(super) fn copy_open(
    mut file: File,
    mut partial: Partial,
    mode: u32,
    size_max: u64,
) -> Result<u64, String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > size_max {
        return Err(too_large(size, size_max));
    }
    let copied = io::copy(&mut (&mut file).take(size_max), &mut partial.file)
        .map_err(|error| disk(&error))?;
    if copied < size {
        return Err(format!("only {copied} of {size} bytes could be read"));
    }
    partial.finish(mode)?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn to(source: &Path, target: &Path, executable: bool, size_max: u64) -> Result<u64, String> {
        let partial = Partial::create(target, None)?;
        copy(source, partial, executable, size_max, None)
    }

    #[test]
    fn a_copy_keeps_its_mode_and_gains_the_executable_bit_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("s"), folder.path().join("t"));
        fs::write(&source, "x").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).unwrap();
        let mode = |executable| {
            to(&source, &target, executable, 10).unwrap();
            fs::metadata(&target).unwrap().mode() & 0o777
        };
        assert_eq!(mode(false), 0o640);
        assert_eq!(mode(true), 0o751);
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("s"), folder.path().join("t"));
        fs::write(&source, "12345").unwrap();
        let error = to(&source, &target, false, 4).unwrap_err();
        assert!(error.contains("5 bytes") && error.contains('4'), "{error}");
        let error = to(folder.path(), &target, false, 4).unwrap_err();
        assert!(error.contains("no regular file"), "{error}");
        assert!(!target.exists());
    }
}
