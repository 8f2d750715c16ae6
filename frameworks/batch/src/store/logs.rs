//! Event-log files: appended to behind the database, and made complete after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// How many log files stay open.
const OPEN_LOGS_MAX: usize = 64;

/// Text on its way into a log file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OutboxText {
    #[prost(string, tag = "1")]
    pub(super) path: String,
    /// The length of the file before this text.
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
    #[prost(string, tag = "3")]
    pub(super) text: String,
}

/// Open event logs.
#[derive(Debug, Default)]
pub(super) struct Logs {
    files: BTreeMap<String, File>,
    dirty: BTreeSet<String>,
}

impl Logs {
    fn open(&mut self, path: &str) -> std::io::Result<&mut File> {
        if !self.files.contains_key(path) {
            if self.files.len() >= OPEN_LOGS_MAX {
                self.sync();
                self.files.clear();
            }
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            self.files.insert(path.to_owned(), file);
        }
        self.files
            .get_mut(path)
            .ok_or_else(|| std::io::Error::other("the log was closed"))
    }

    /// The length of the file now; 0 when it cannot be had, which appending will tell.
    pub(super) fn length(&mut self, path: &str) -> u64 {
        // A log that was deleted or rotated is begun anew.
        if !Path::new(path).exists() {
            self.files.remove(path);
        }
        let length = self.open(path).and_then(|file| file.metadata());
        length.map_or(0, |found| found.len())
    }

    pub(super) fn append(&mut self, row: &OutboxText) {
        let written = self
            .open(&row.path)
            .and_then(|file| file.write_all(row.text.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(path = row.path, %error, "the event log cannot be written");
        }
        self.dirty.insert(row.path.clone());
    }

    pub(super) fn sync(&mut self) {
        for path in std::mem::take(&mut self.dirty) {
            if let Some(file) = self.files.get(&path)
                && let Err(error) = file.sync_data()
            {
                tracing::warn!(path, %error, "the event log cannot be synced");
            }
        }
    }
}

/// Puts a text into its file unless it is there.
pub(super) fn restore_text(row: &OutboxText) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&row.path)?;
    let length = file.metadata()?.len();
    let text = row.text.as_bytes();
    if length >= row.offset.saturating_add(text.len() as u64) {
        let mut there = vec![0; text.len()];
        file.seek(SeekFrom::Start(row.offset))?;
        file.read_exact(&mut there)?;
        if there == text {
            return Ok(());
        }
    }
    // Torn, or somebody else wrote in between.
    if length >= row.offset {
        file.seek(SeekFrom::Start(row.offset))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let there = tail.windows(text.len().max(1)).any(|part| part == text);
        if there {
            return Ok(());
        }
        // Torn: only the beginning arrived.
        if text.starts_with(&tail) {
            file.seek(SeekFrom::Start(row.offset))?;
            return file.write_all(text);
        }
    }
    file.seek(SeekFrom::End(0))?;
    file.write_all(text)
}
