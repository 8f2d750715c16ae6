//! The log in memory: what `raft` reads while it decides.
//!
//! Holds what is, or is about to be, durable since the last snapshot and a little before it, so
//! that a member that lags a little needs no snapshot.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

#[derive(Debug)]
pub(crate) struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    /// The entry before the first one here.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The snapshot to hand to members that are too far behind.
    snapshot: Option<Snapshot>,
    /// Somebody wants a snapshot and there is none.
    wanted: Cell<bool>,
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 32
}

impl Log {
    /// `base` and `conf_state` are the snapshot's.
    pub(crate) fn new(
        mut hard_state: HardState,
        conf_state: ConfState,
        base: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let last = base.0 + u64::try_from(entries.len()).unwrap_or(u64::MAX);
        // Only raised with entries, so it may lag behind the snapshot.
        hard_state.commit = hard_state.commit.clamp(base.0, last);
        Self {
            hard_state,
            conf_state,
            base,
            bytes: entries.iter().map(size).sum(),
            entries: entries.into(),
            snapshot: None,
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.back().map_or(self.base.0, |e| e.index)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where in `entries` an index is.
    fn place(&self, index: u64) -> Option<usize> {
        let place = index.checked_sub(self.base.0 + 1)?;
        usize::try_from(place).ok()
    }

    /// Appends; an entry replaces one of its index and all after it.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let keep = self.place(entry.index).unwrap_or(0);
            while self.entries.len() > keep {
                if let Some(gone) = self.entries.pop_back() {
                    self.bytes -= size(&gone);
                }
            }
            self.bytes += size(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// The entries after `index`.
    pub(crate) fn after(&self, index: u64) -> Vec<Entry> {
        let from = self.place(index + 1).unwrap_or(0);
        self.entries.iter().skip(from).cloned().collect()
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn forget(&mut self, index: u64) {
        while let Some(first) = self.entries.front() {
            if first.index > index {
                break;
            }
            self.base = (first.index, first.term);
            self.bytes -= size(first);
            self.entries.pop_front();
        }
    }

    /// Forgets entries up to `index`, but keeps the newest `keep_bytes` of them.
    pub(crate) fn compact(&mut self, index: u64, keep_bytes: usize) {
        let mut excess = self.bytes.saturating_sub(keep_bytes);
        let mut upto = self.base.0;
        for entry in &self.entries {
            if entry.index > index || excess == 0 {
                break;
            }
            excess = excess.saturating_sub(size(entry));
            upto = entry.index;
        }
        self.forget(upto);
    }

    /// A snapshot from the leader replaces everything.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        self.base = (meta.index, meta.term);
        self.conf_state = meta.get_conf_state().clone();
        self.entries.clear();
        self.bytes = 0;
        self.snapshot = None;
    }

    /// Keeps a snapshot for members that are too far behind.
    pub(crate) fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    pub(crate) fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Whether a snapshot was asked for since the last time.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let (Some(from), Some(to)) = (self.place(low), self.place(high)) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        if to > self.entries.len() || from > to {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut sum = 0u64;
        let mut found = Vec::with_capacity((to - from).min(1024));
        for entry in self.entries.range(from..to) {
            sum = sum.saturating_add(u64::try_from(size(entry)).unwrap_or(u64::MAX));
            if sum > max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let place = self
            .place(index)
            .ok_or(Error::Store(StorageError::Compacted))?;
        self.entries
            .get(place)
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index.max(self.base.0) => {
                Ok(snapshot.clone())
            }
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            data: vec![0; 100].into(),
            ..Entry::default()
        }
    }

    fn terms(log: &Log) -> Vec<(u64, u64)> {
        log.entries.iter().map(|e| (e.index, e.term)).collect()
    }

    #[test]
    fn a_conflicting_entry_replaces_all_that_follow() {
        let mut log = Log::new(HardState::default(), ConfState::default(), (1, 1), vec![]);
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.append(&[entry(3, 2)]);
        assert_eq!(terms(&log), [(2, 1), (3, 2)]);
        assert_eq!(log.bytes(), 2 * 132);
        assert_eq!((log.last(), log.term(1).unwrap()), (3, 1));
    }

    #[test]
    fn compaction_keeps_a_little_for_those_who_lag() {
        let mut log = Log::new(HardState::default(), ConfState::default(), (1, 1), vec![]);
        log.append(&(2..=9).map(|i| entry(i, 1)).collect::<Vec<_>>());
        log.compact(7, 4 * 132);
        assert_eq!(terms(&log), [(6, 1), (7, 1), (8, 1), (9, 1)]);
        assert!(log.term(4).is_err());
        assert!(
            log.entries(5, 7, None, GetEntriesContext::empty(false))
                .is_err()
        );
        assert_eq!(log.after(8).len(), 1);
    }
}
