//! A small disk that can be full: a tmpfs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

/// Unmounted when it is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    at: PathBuf,
}

impl Disk {
    pub(super) fn mount(at: &Path, mib: u32) -> anyhow::Result<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "allot-faults"])
            .arg(at)
            .output()?;
        ensure!(
            mounted.status.success(),
            "cannot mount a disk at {}, which takes root: {}",
            at.display(),
            String::from_utf8_lossy(&mounted.stderr)
        );
        Ok(Self { at: at.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let mut filler = std::fs::File::create(self.filler())?;
        let zeros = vec![0; 1 << 16];
        // Smaller and smaller pieces, until not a page is left.
        for len in [1 << 16, 4096, 1] {
            while filler
                .write_all(zeros.get(..len).unwrap_or_default())
                .is_ok()
            {}
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have files there.
        let _gone = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
