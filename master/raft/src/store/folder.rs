//! The few things a store does with files, so that a simulator can lose and tear them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A folder of files. Nothing is durable before it is synced; creating is.
pub trait Folder: std::fmt::Debug + Send {
    /// The names in it.
    ///
    /// # Errors
    /// The system's.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// A file's bytes.
    ///
    /// # Errors
    /// The system's.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes a file with these bytes, durably: after a crash it is there whole, or not at all.
    ///
    /// # Errors
    /// The system's.
    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Appends to a file.
    ///
    /// # Errors
    /// The system's.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Cuts a file to `len` bytes, durably.
    ///
    /// # Errors
    /// The system's.
    fn truncate(&mut self, name: &str, len: usize) -> io::Result<()>;
    /// Removes a file; a crash may bring it back.
    ///
    /// # Errors
    /// The system's.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A folder on a disk.
#[derive(Debug)]
pub struct DiskFolder {
    path: PathBuf,
    open: Option<(String, File)>,
}

impl DiskFolder {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
            open: None,
        })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some((open, file)) if open == name => file,
            _ => OpenOptions::new().append(true).open(self.path.join(name))?,
        };
        Ok(&mut self.open.insert((name.to_owned(), file)).1)
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Folder for DiskFolder {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path.join(name))?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(format!("{name}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, self.path.join(name))?;
        self.sync_folder()
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn truncate(&mut self, name: &str, len: usize) -> io::Result<()> {
        let file = self.file(name)?;
        file.set_len(u64::try_from(len).unwrap_or(u64::MAX))?;
        file.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| open == name) {
            self.open = None;
        }
        std::fs::remove_file(self.path.join(name))
    }
}

/// A folder in memory that can lose what was not synced. Clones share the files.
#[derive(Debug, Clone, Default)]
pub struct MemoryFolder {
    shared: Arc<Mutex<Files>>,
}

#[derive(Debug, Default)]
struct Files {
    /// Bytes, and how many of them are synced.
    files: BTreeMap<String, (Vec<u8>, usize)>,
    /// No sync succeeds any more.
    broken: bool,
}

impl MemoryFolder {
    fn files(&self) -> MutexGuard<'_, Files> {
        // Nothing here panics while it holds the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on bytes are appended but never synced, until [`Self::crash`].
    pub fn break_sync(&self) {
        self.files().broken = true;
    }

    /// What is left after a crash that kept `keep` of the bytes that were not synced, with a hole
    /// of zeros in the middle of them when `torn`.
    pub fn crash(&self, keep: usize, torn: bool) {
        let mut all = self.files();
        all.broken = false;
        for (bytes, synced) in all.files.values_mut() {
            let len = bytes.len().min(*synced + keep);
            bytes.truncate(len);
            let hole = (*synced + (len - *synced) / 2).next_multiple_of(512);
            if torn && let Some(lost) = bytes.get_mut(hole..) {
                let end = lost.len().min(512);
                lost.iter_mut().take(end).for_each(|byte| *byte = 0);
            }
            *synced = bytes.len();
        }
    }

    /// Flips a bit, as an ageing disk does; whether there was such a byte.
    pub fn flip(&self, name: &str, at: usize) -> bool {
        let mut all = self.files();
        let byte = all.files.get_mut(name).and_then(|f| f.0.get_mut(at));
        byte.map(|byte| *byte ^= 1).is_some()
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name}"))
}

impl Folder for MemoryFolder {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.files().files.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let all = self.files();
        let file = all.files.get(name).ok_or_else(|| missing(name))?;
        Ok(file.0.clone())
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.files();
        if all.broken {
            return Err(io::Error::other("the power went out"));
        }
        let file = (bytes.to_vec(), bytes.len());
        all.files.insert(name.to_owned(), file);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.files();
        let file = all.files.get_mut(name).ok_or_else(|| missing(name))?;
        file.0.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut all = self.files();
        if all.broken {
            return Err(io::Error::other("the power went out"));
        }
        let file = all.files.get_mut(name).ok_or_else(|| missing(name))?;
        file.1 = file.0.len();
        Ok(())
    }

    fn truncate(&mut self, name: &str, len: usize) -> io::Result<()> {
        let mut all = self.files();
        let file = all.files.get_mut(name).ok_or_else(|| missing(name))?;
        file.0.truncate(len);
        file.1 = file.0.len();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let found = self.files().files.remove(name).map(drop);
        found.ok_or_else(|| missing(name))
    }
}
