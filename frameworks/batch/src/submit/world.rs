//! What a submit file may look at on the submitting machine.

use std::io;
use std::path::{Path, PathBuf};

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, or anything else that can be read.
    File,
    /// A directory.
    Directory,
}

/// A machine as submit files see it; tests make one up.
pub trait World {
    /// The folder that relative paths start in, absolute.
    fn folder(&self) -> &Path;
    /// One environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// All environment variables, sorted by name.
    fn variables(&self) -> Vec<(String, String)>;
    /// The text of a file.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// What a path names; `None` when there is nothing.
    fn kind(&self, path: &Path) -> Option<Kind>;
    /// The names in a folder.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Seconds since the Unix epoch at submission.
    fn time(&self) -> i64;
    /// Year, month and day at submission, local time.
    fn date(&self) -> (i16, i8, i8);
    /// A number below `bound`, for `$RANDOM_CHOICE` and `$RANDOM_INTEGER`.
    fn random(&self, bound: u64) -> u64;
}

/// The machine this process runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    folder: PathBuf,
    now: jiff::Timestamp,
}

impl Machine {
    /// With relative paths starting in `folder`, which must be absolute.
    pub fn new(folder: PathBuf, now: jiff::Timestamp) -> Self {
        Self { folder, now }
    }
}

impl World for Machine {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn variables(&self) -> Vec<(String, String)> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut all: Vec<_> = std::env::vars_os().filter_map(text).collect();
        all.sort();
        all
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let size = std::fs::metadata(path)?.len();
        if size > super::TEXT_MAX as u64 {
            return Err(io::Error::other(format!(
                "it has {size} bytes; at most {} are read",
                super::TEXT_MAX
            )));
        }
        std::fs::read_to_string(path)
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        let found = std::fs::metadata(path).ok()?;
        Some(if found.is_dir() {
            Kind::Directory
        } else {
            Kind::File
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn time(&self) -> i64 {
        self.now.as_second()
    }

    fn date(&self) -> (i16, i8, i8) {
        let local = self.now.to_zoned(jiff::tz::TimeZone::system());
        (local.year(), local.month(), local.day())
    }

    fn random(&self, bound: u64) -> u64 {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        (high ^ low).checked_rem(bound).unwrap_or(0)
    }
}
