//! The durable queue: one redb database in the data folder, one transaction per turn.
//!
//! Event-log text is durable here, with the length the log file had, before it is appended to the
//! file; after a crash each text is looked for at its place and appended only when it is missing
//! or torn. So the database and the log never disagree on whether a job is complete.
//!
//! - `logs`: the files of event logs.
//! - `reader`: the history for those who ask.

mod logs;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allotment_types::FrameworkId;
use prost::Message as _;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, WriteTransaction,
};

use crate::core::job::JobKey;
use crate::core::record::{Durable, Record, StoredEnd, StoredJob};
use logs::{Logs, OutboxText, restore_text};

pub use reader::{Past, Reader};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const CLUSTERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("clusters");
/// Clusters with unfinished jobs.
const LIVE: TableDefinition<'_, u32, ()> = TableDefinition::new("live");
const JOBS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("jobs");
const HISTORY: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("history");
/// The history by the order of the ends.
const ORDER: TableDefinition<'_, u64, (u32, u32)> = TableDefinition::new("order");
/// Event-log text that may not be in its file yet.
const OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("outbox");

const FRAMEWORK: &str = "framework";
const NEXT_CLUSTER: &str = "next_cluster";

/// What redb may keep in memory: the queue itself is in ours.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Log text that is synced to its files and taken out of the outbox in one go.
const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the data folder cannot be used, or a write failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{} is in use by another process; stop it or choose another folder", .0.display())]
    InUse(PathBuf),
    /// The system refuses.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried: "cannot open".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database refuses.
    #[error("{what}: {source}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// What it says.
        source: Box<redb::Error>,
    },
    /// A record that cannot be read.
    #[error("the database holds a {kind} that cannot be read ({source}); restore it from a backup")]
    Damaged {
        /// What kind of record.
        kind: &'static str,
        /// Why.
        source: prost::DecodeError,
    },
}

impl StoreError {
    /// Whether another process has the database open, which may end.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::InUse(_) => true,
            Self::Database { source, .. } => matches!(**source, redb::Error::DatabaseAlreadyOpen),
            Self::Io { .. } | Self::Damaged { .. } => false,
        }
    }
}

fn database<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Database {
        what,
        source: Box::new(error.into()),
    }
}

const WRITE: &str = "cannot write to the queue's database";
const READ: &str = "cannot read the queue's database";

/// The writing side; one per process.
#[derive(Debug)]
pub struct Store {
    db: Arc<Database>,
    history_max: u64,
    history_len: u64,
    live: BTreeSet<u32>,
    logs: Logs,
    next_text: u64,
    /// Texts that are in their files but maybe not on disk.
    unsynced: Vec<u64>,
    unsynced_bytes: usize,
    /// Held as long as the process uses the folder.
    _lock: File,
}

impl Store {
    /// The name of the queue in `folder`, for those who agree on who serves it; made with the
    /// folder when there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn name(folder: &Path) -> Result<String, StoreError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("cannot make", folder))?;
        let path = folder.join("name");
        if !path.exists() {
            // Whole or not at all, and the first of several processes wins, also over NFS.
            let name = uuid::Uuid::new_v4().to_string();
            let draft = folder.join(format!("name-{name}"));
            std::fs::write(&draft, &name).map_err(io("cannot write", &draft))?;
            let linked = std::fs::hard_link(&draft, &path);
            std::fs::remove_file(&draft).map_err(io("cannot remove", &draft))?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(io("cannot write", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let name = std::fs::read_to_string(&path).map_err(io("cannot read", &path))?;
        Ok(name.trim().to_owned())
    }

    /// Opens the database of `folder`, makes the event logs complete and loads the queue.
    ///
    /// # Errors
    /// [`StoreError`]: in use, not writable, damaged.
    pub fn open(folder: &Path, history_max: u64) -> Result<(Self, Durable), StoreError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("cannot make", folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io("cannot open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io("cannot lock", &path)(source)),
        }
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(folder.join("queue.redb"))
            .map_err(database("cannot open the queue's database"))?;
        let mut store = Self {
            db: Arc::new(db),
            history_max,
            history_len: 0,
            live: BTreeSet::new(),
            logs: Logs::default(),
            next_text: 0,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            _lock: lock,
        };
        store.make_tables()?;
        store.finish_logs()?;
        let durable = store.load()?;
        Ok((store, durable))
    }

    /// The reading side.
    pub fn reader(&self) -> Reader {
        Reader {
            db: Arc::clone(&self.db),
        }
    }

    /// Makes `records` durable, all or none, and appends their event-log text.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the records counts then.
    pub fn commit(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut txn = self.db.begin_write().map_err(database(WRITE))?;
        // One fsync per turn: what is told to anybody follows it.
        txn.set_durability(Durability::Immediate)
            .map_err(database(WRITE))?;
        let mut ended = Vec::new();
        let written: Result<(), redb::Error> = (|| {
            let mut meta = txn.open_table(META)?;
            let mut clusters = txn.open_table(CLUSTERS)?;
            let mut live = txn.open_table(LIVE)?;
            let mut jobs = txn.open_table(JOBS)?;
            let mut history = txn.open_table(HISTORY)?;
            let mut order = txn.open_table(ORDER)?;
            for record in records {
                match record {
                    Record::NextCluster(next) => {
                        meta.insert(NEXT_CLUSTER, next.to_be_bytes().as_slice())?;
                    }
                    Record::Framework(Some(id)) => {
                        meta.insert(FRAMEWORK, id.as_str().as_bytes())?;
                    }
                    Record::Framework(None) => {
                        meta.remove(FRAMEWORK)?;
                    }
                    Record::Cluster(id, stored) => {
                        clusters.insert(id, stored.encode_to_vec().as_slice())?;
                        live.insert(id, ())?;
                        self.live.insert(id);
                    }
                    Record::Job(key, stored) => {
                        jobs.insert(pair(key), stored.encode_to_vec().as_slice())?;
                    }
                    Record::Ended(key, stored) => {
                        jobs.remove(pair(key))?;
                        history.insert(pair(key), stored.encode_to_vec().as_slice())?;
                        order.insert(stored.sequence, pair(key))?;
                        self.history_len += 1;
                    }
                    Record::ClusterEnded(id) => {
                        live.remove(id)?;
                        ended.push(id);
                    }
                    Record::Log { path, text } => {
                        texts.entry(path).or_default().push_str(&text);
                    }
                }
            }
            Ok(())
        })();
        written.map_err(database(WRITE))?;
        for id in ended {
            self.live.remove(&id);
        }
        self.prune(&txn).map_err(database(WRITE))?;
        let synced = self.forget_synced(&txn).map_err(database(WRITE))?;
        let texts = self.put_outbox(&txn, texts).map_err(database(WRITE))?;
        txn.commit().map_err(database(WRITE))?;
        if synced {
            self.unsynced.clear();
            self.unsynced_bytes = 0;
        }
        for (sequence, text) in texts {
            self.logs.append(&text);
            self.unsynced.push(sequence);
            self.unsynced_bytes += text.text.len();
        }
        Ok(())
    }

    fn put_outbox(
        &mut self,
        txn: &WriteTransaction,
        texts: BTreeMap<String, String>,
    ) -> Result<Vec<(u64, OutboxText)>, redb::Error> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let mut outbox = txn.open_table(OUTBOX)?;
        let mut out = Vec::with_capacity(texts.len());
        for (path, text) in texts {
            let offset = self.logs.length(&path);
            let row = OutboxText { path, offset, text };
            outbox.insert(self.next_text, row.encode_to_vec().as_slice())?;
            out.push((self.next_text, row));
            self.next_text += 1;
        }
        Ok(out)
    }

    /// Once in a while: puts the log files on disk, so that their texts need not be kept here.
    fn forget_synced(&mut self, txn: &WriteTransaction) -> Result<bool, redb::Error> {
        if self.unsynced_bytes < OUTBOX_BYTES_MAX {
            return Ok(false);
        }
        self.logs.sync();
        let mut outbox = txn.open_table(OUTBOX)?;
        for sequence in &self.unsynced {
            outbox.remove(sequence)?;
        }
        Ok(true)
    }

    /// Forgets the oldest ends beyond the bound; ends of clusters with unfinished jobs stay,
    /// because they say which jobs are done.
    fn prune(&mut self, txn: &WriteTransaction) -> Result<(), redb::Error> {
        const PRUNED_PER_TURN: usize = 2000;
        if self.history_len <= self.history_max {
            return Ok(());
        }
        let mut clusters = txn.open_table(CLUSTERS)?;
        let mut history = txn.open_table(HISTORY)?;
        let mut order = txn.open_table(ORDER)?;
        let mut touched = BTreeSet::new();
        for _ in 0..PRUNED_PER_TURN {
            if self.history_len <= self.history_max {
                break;
            }
            let Some((sequence, key)) = order.first()?.map(|(k, v)| (k.value(), v.value())) else {
                break;
            };
            if self.live.contains(&key.0) {
                break;
            }
            order.remove(sequence)?;
            history.remove(key)?;
            touched.insert(key.0);
            self.history_len -= 1;
        }
        for cluster in touched {
            let range = (cluster, 0)..=(cluster, u32::MAX);
            if history.range(range)?.next().is_none() {
                clusters.remove(cluster)?;
            }
        }
        Ok(())
    }

    fn make_tables(&mut self) -> Result<(), StoreError> {
        let made: Result<u64, redb::Error> = (|| {
            let txn = self.db.begin_write()?;
            txn.open_table(META)?;
            txn.open_table(CLUSTERS)?;
            txn.open_table(LIVE)?;
            txn.open_table(JOBS)?;
            let history = txn.open_table(HISTORY)?.len()?;
            txn.open_table(ORDER)?;
            txn.open_table(OUTBOX)?;
            txn.commit()?;
            Ok(history)
        })();
        self.history_len = made.map_err(database(WRITE))?;
        Ok(())
    }

    /// After a crash: each text of the outbox is put where it belongs unless it is there.
    fn finish_logs(&mut self) -> Result<(), StoreError> {
        let rows: Result<Vec<Vec<u8>>, redb::Error> = (|| {
            let txn = self.db.begin_read()?;
            let outbox = txn.open_table(OUTBOX)?;
            let mut rows = Vec::new();
            for row in outbox.iter()? {
                rows.push(row?.1.value().to_vec());
            }
            Ok(rows)
        })();
        let rows = rows.map_err(database(READ))?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            let row = OutboxText::decode(row.as_slice()).map_err(|source| StoreError::Damaged {
                kind: "log text",
                source,
            })?;
            if let Err(error) = restore_text(&row) {
                tracing::warn!(path = row.path, %error, "the event log cannot be completed");
            }
        }
        let cleared: Result<(), redb::Error> = (|| {
            let txn = self.db.begin_write()?;
            txn.open_table(OUTBOX)?.retain(|_, _| false)?;
            txn.commit()?;
            Ok(())
        })();
        cleared.map_err(database(WRITE))
    }

    fn load(&mut self) -> Result<Durable, StoreError> {
        let read: Result<Raw, redb::Error> = (|| {
            let txn = self.db.begin_read()?;
            let meta = txn.open_table(META)?;
            let clusters = txn.open_table(CLUSTERS)?;
            let (jobs, history) = (txn.open_table(JOBS)?, txn.open_table(HISTORY)?);
            let mut raw = Raw::default();
            if let Some(id) = meta.get(FRAMEWORK)? {
                raw.framework = String::from_utf8_lossy(id.value()).into_owned();
            }
            if let Some(next) = meta.get(NEXT_CLUSTER)?
                && let Ok(bytes) = next.value().try_into()
            {
                raw.next_cluster = u32::from_be_bytes(bytes);
            }
            if let Some((last, _)) = txn.open_table(ORDER)?.last()? {
                raw.next_sequence = last.value() + 1;
            }
            for row in txn.open_table(LIVE)?.iter()? {
                let id = row?.0.value();
                if let Some(cluster) = clusters.get(id)? {
                    raw.clusters.push((id, cluster.value().to_vec()));
                }
                let range = (id, 0)..=(id, u32::MAX);
                for row in jobs.range(range.clone())? {
                    let (key, value) = row?;
                    raw.jobs.push((key.value(), value.value().to_vec()));
                }
                for row in history.range(range)? {
                    let (key, value) = row?;
                    raw.ended.push((key.value(), value.value().to_vec()));
                }
            }
            Ok(raw)
        })();
        let raw = read.map_err(database(READ))?;
        let mut durable = Durable {
            framework: FrameworkId::parse(&raw.framework).ok(),
            next_cluster: raw.next_cluster,
            next_sequence: raw.next_sequence,
            ..Durable::default()
        };
        for (id, bytes) in raw.clusters {
            self.live.insert(id);
            durable.clusters.push((id, decode("cluster", &bytes)?));
        }
        for (key, bytes) in raw.jobs {
            let stored: StoredJob = decode("job", &bytes)?;
            durable.jobs.insert(key_of(key), stored);
        }
        for (key, bytes) in raw.ended {
            let stored: StoredEnd = decode("job of the history", &bytes)?;
            let end = (stored.removed, stored.success);
            durable.ended.insert(key_of(key), end);
        }
        Ok(durable)
    }
}

#[derive(Default)]
struct Raw {
    framework: String,
    next_cluster: u32,
    next_sequence: u64,
    clusters: Vec<(u32, Vec<u8>)>,
    jobs: Vec<((u32, u32), Vec<u8>)>,
    ended: Vec<((u32, u32), Vec<u8>)>,
}

fn decode<T: prost::Message + Default>(kind: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|source| StoreError::Damaged { kind, source })
}

fn pair(key: JobKey) -> (u32, u32) {
    (key.cluster, key.proc)
}

fn key_of((cluster, proc): (u32, u32)) -> JobKey {
    JobKey { cluster, proc }
}
