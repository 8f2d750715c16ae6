//! The way of records into the masters' store, fenced: of several services processes with one
//! name only the one that took over last writes.
//!
//! Every commit rewrites the key `epoch` and expects the version that the process itself wrote
//! last. A process that was replaced learns so from the first commit it tries. Who is to take over
//! is decided by an election over the key `leader`; this fence makes it safe.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_framework_sdk::store::{Entry, Expected, Store, StoreError, StoreOp};
use tracing::warn;

use crate::core::Record;

/// The key of the fence.
pub(super) const EPOCH: &str = "epoch";
/// The key of the election.
pub(super) const LEADER: &str = "leader";

/// One commit stays well below the largest message.
const COMMIT_LEN_MAX: usize = 8 * 1024 * 1024;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Why nothing more can be made durable by this process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// Somebody else writes under this name.
    #[error("another services process took over the state of this name")]
    Replaced,
    /// The store will never take it.
    #[error("the masters' store refused what must be kept")]
    Store(#[source] StoreError),
}

/// This process' right to write.
#[derive(Debug)]
pub(super) struct State {
    store: Store,
    process: String,
    count: u64,
    version: u64,
}

impl State {
    /// Reads everything and takes the fence over; tries until a master answers and tells
    /// `on_wait` why it waits.
    pub(super) async fn open(
        store: Store,
        on_wait: impl Fn(&str),
    ) -> Result<(Self, Vec<(String, Vec<u8>)>), StateError> {
        let process = uuid::Uuid::new_v4().to_string();
        let mut pause = RETRY_FIRST;
        loop {
            let attempt = take_over(&store, &process).await;
            match attempt {
                Ok((version, entries)) => {
                    let state = Self {
                        store,
                        process,
                        count: 0,
                        version,
                    };
                    return Ok((state, entries));
                }
                // Another process took over between our reading and our writing: read again.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) if error.is_temporary() => on_wait(&error.to_string()),
                Err(error) => return Err(StateError::Store(error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Makes records durable; of several of one key the last. Tries for ever while no master
    /// answers: what follows from these records must not happen before.
    pub(super) async fn write(mut self, records: Vec<Record>) -> Result<Self, StateError> {
        let mut merged: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for record in records {
            merged.insert(record.key, record.value);
        }
        let mut ops = Vec::new();
        let mut len = 0;
        for (key, value) in merged {
            len += key.len() + value.as_ref().map_or(0, Vec::len);
            ops.push(match value {
                Some(value) => StoreOp::put(key, value),
                None => StoreOp::delete(key),
            });
            if len > COMMIT_LEN_MAX {
                self.commit(std::mem::take(&mut ops)).await?;
                len = 0;
            }
        }
        if !ops.is_empty() {
            self.commit(ops).await?;
        }
        Ok(self)
    }

    async fn commit(&mut self, ops: Vec<StoreOp>) -> Result<(), StateError> {
        self.count += 1;
        let mine = epoch(&self.process, self.count);
        let mut ops = ops;
        ops.push(StoreOp::put(EPOCH, mine.clone()));
        let mut pause = RETRY_FIRST;
        loop {
            if let Some(last) = ops.last_mut() {
                last.expected = Expected::Version(self.version);
            }
            match self.store.commit(&ops).await {
                Ok(version) => {
                    self.version = version;
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => {
                    // An answer that was lost looks like this too: then the fence is ours.
                    match self.store.list(EPOCH).await {
                        Ok(entries) => {
                            let found = entries.into_iter().find(|e| e.key == EPOCH);
                            let found = found.filter(|e| self.wrote(e));
                            let Some(found) = found else {
                                return Err(StateError::Replaced);
                            };
                            self.version = found.version;
                            if found.value == mine {
                                return Ok(());
                            }
                        }
                        Err(error) if error.is_temporary() => {}
                        Err(error) => return Err(StateError::Store(error)),
                    }
                }
                Err(error) if error.is_temporary() => {
                    warn!(%error, "the state cannot be written; trying again");
                }
                Err(error) => return Err(StateError::Store(error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn wrote(&self, entry: &Entry) -> bool {
        entry.value.starts_with(self.process.as_bytes())
    }
}

fn epoch(process: &str, count: u64) -> String {
    format!("{process} {count}")
}

async fn take_over(
    store: &Store,
    process: &str,
) -> Result<(u64, Vec<(String, Vec<u8>)>), StoreError> {
    let entries = store.list("").await?;
    let fence = entries.iter().find(|entry| entry.key == EPOCH);
    let expected = fence.map_or(Expected::Absent, |entry| Expected::Version(entry.version));
    let op = StoreOp::put(EPOCH, epoch(process, 0)).expecting(expected);
    let version = store.commit(&[op]).await?;
    let entries = entries
        .into_iter()
        .filter(|entry| entry.key != EPOCH && entry.key != LEADER);
    let entries = entries.map(|entry| (entry.key, entry.value.to_vec()));
    Ok((version, entries.collect()))
}
