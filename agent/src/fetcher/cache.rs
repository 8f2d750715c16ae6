//! Fetched files that several tasks share: one download, a bounded size, the longest unused go
//! first.
//!
//! The cache starts empty with every run of the agent, as in Mesos: what it holds can be brought
//! again, and so no record of it can be wrong.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Whose file it is, and where it came from: what one user may read, another may not.
pub(super) type Key = (Option<u32>, String);

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Its size, once it is whole. Whoever comes first brings it, all others wait here.
    size: Arc<OnceCell<u64>>,
    n_holders: usize,
    /// The higher, the later it was used.
    used: u64,
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<Key, Entry>,
    clock: u64,
}

impl Index {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Files that must go so that the rest fits; those in use stay.
    fn evict(&mut self, size_max: u64) -> Vec<u64> {
        let size = |entry: &Entry| entry.size.get().copied().unwrap_or(0);
        let mut total: u64 = self.entries.values().map(size).sum();
        let mut gone = Vec::new();
        // A file that never became whole goes at once.
        let half: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.n_holders == 0 && entry.size.get().is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in half {
            gone.extend(self.entries.remove(&key).map(|entry| entry.number));
        }
        while total > size_max {
            let oldest = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.n_holders == 0)
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| key.clone());
            let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) else {
                break;
            };
            total = total.saturating_sub(size(&entry));
            gone.push(entry.number);
        }
        gone
    }
}

/// The cache of one agent.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    size_max: u64,
    index: Mutex<Index>,
}

/// A file of the cache, which stays at least as long as this.
#[derive(Debug)]
pub(super) struct Held {
    cache: Arc<Cache>,
    key: Key,
    pub(super) path: PathBuf,
    pub(super) size: Arc<OnceCell<u64>>,
}

impl Cache {
    /// An empty one, of at most `size_max` bytes beside the files in use.
    ///
    /// # Errors
    /// What the folder could not be emptied or made for.
    pub(super) fn new(folder: &Path, size_max: u64) -> io::Result<Self> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(folder)?;
        let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(folder, only_ours)?;
        Ok(Self {
            folder: folder.to_owned(),
            size_max,
            index: Mutex::default(),
        })
    }

    /// Holds the file of a key, there or not.
    pub(super) fn hold(self: &Arc<Self>, key: Key) -> Held {
        let mut index = self.lock();
        let used = index.tick();
        let entry = index.entries.entry(key.clone()).or_insert_with(|| Entry {
            number: used,
            size: Arc::default(),
            n_holders: 0,
            used,
        });
        entry.n_holders += 1;
        entry.used = used;
        Held {
            path: self.folder.join(entry.number.to_string()),
            size: Arc::clone(&entry.size),
            cache: Arc::clone(self),
            key,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        // Nothing panics while it is held; if something did, the index would still be whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let gone = {
            let mut index = self.cache.lock();
            if let Some(entry) = index.entries.get_mut(&self.key) {
                entry.n_holders = entry.n_holders.saturating_sub(1);
            }
            index.evict(self.cache.size_max)
        };
        for number in gone {
            let _ = fs::remove_file(self.cache.folder.join(number.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uri: &str) -> Key {
        (None, uri.to_owned())
    }

    fn bring(cache: &Arc<Cache>, uri: &str, len: usize) -> Held {
        let held = cache.hold(key(uri));
        if held.size.get().is_none() {
            fs::write(&held.path, vec![0; len]).unwrap();
            held.size.set(len as u64).unwrap();
        }
        held
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::new(folder.path(), 10).unwrap());
        drop(bring(&cache, "a", 4));
        drop(bring(&cache, "b", 4));
        // Used again: `b` is the oldest now.
        drop(bring(&cache, "a", 4));
        let held = bring(&cache, "c", 4);
        drop(bring(&cache, "d", 1));
        assert!(cache.hold(key("b")).size.get().is_none());
        assert!(cache.hold(key("a")).size.get().is_some());
        let big = bring(&cache, "big", 100);
        drop(big);
        assert!(cache.hold(key("c")).size.get().is_some());
        drop(held);
        assert!(files(folder.path()) <= 3);
    }

    #[test]
    fn what_never_became_whole_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::new(folder.path(), 10).unwrap());
        let half = cache.hold(key("a"));
        fs::write(&half.path, "half").unwrap();
        drop(half);
        assert_eq!(files(folder.path()), 0);
        // Another user has another file.
        let other = cache.hold((Some(7), "a".to_owned()));
        assert_ne!(other.path, cache.hold(key("a")).path);
    }
}
