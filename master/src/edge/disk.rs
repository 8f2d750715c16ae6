//! The registry on disk: one redb file, one lock file, one write per turn of the loop.

use std::fs::{File, TryLockError};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use allotment_types::{AgentId, FrameworkId};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::core::registry::{
    AgentRecord, FORMAT, FrameworkRecord, QuotaRecord, Record, Registry, StoredEntry, WeightRecord,
    WishRecord,
};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("agents");
const FRAMEWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("frameworks");
const STORE: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("store");
const WEIGHTS: TableDefinition<'_, &str, u64> = TableDefinition::new("weights");
const QUOTAS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("quotas");
const WISHES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("wishes");

const FORMAT_KEY: &str = "format";
const STORE_VERSION_KEY: &str = "store_version";

/// The registry is small and read once; redb's default of 1 GiB would only keep it twice.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folder cannot be made or opened.
    #[error("cannot use the data folder {}; create it or choose another", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error(
        "another master is running on the data folder {}; stop it or choose another folder",
        folder.display()
    )]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// The bytes are not what a master wrote.
    #[error(
        "the registry {} is damaged: {what}; restore it from a backup, or move it away to begin \
         with an empty cluster",
        file.display()
    )]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later version wrote it.
    #[error(
        "the registry {} has format {found}, this master reads up to {FORMAT}; start the newer \
         version again",
        file.display()
    )]
    Newer {
        /// Which file.
        file: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Reading or writing failed.
    #[error("cannot read or write the registry {}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
}

/// The open registry. The folder stays locked as long as it lives.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
    file: PathBuf,
    _lock: File,
}

impl Disk {
    /// Opens or creates the registry of `folder` and reads all of it. Blocks.
    pub(super) fn open(folder: &Path) -> Result<(Self, Registry), RegistryError> {
        let lock = lock(folder)?;
        let file = folder.join("registry.redb");
        // redb may panic on pages that were damaged behind its back.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create(&file)
                .map_err(|e| refuse(&file, e.into()))?;
            prepare(&database).map_err(|e| refuse(&file, e))?;
            let registry = read(&database, &file)?;
            Ok((database, registry))
        }));
        let (database, registry) = opened.unwrap_or_else(|_| {
            Err(RegistryError::Corrupt {
                file: file.clone(),
                what: "its pages contradict each other".to_owned(),
            })
        })?;
        let disk = Self {
            database,
            file,
            _lock: lock,
        };
        Ok((disk, registry))
    }

    /// Makes all records durable, or none. Blocks until the disk says so.
    pub(super) fn commit(&self, records: &[Record]) -> Result<(), RegistryError> {
        self.write(records).map_err(|e| refuse(&self.file, e))
    }

    fn write(&self, records: &[Record]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let mut agents = transaction.open_table(AGENTS)?;
            let mut frameworks = transaction.open_table(FRAMEWORKS)?;
            let mut store = transaction.open_table(STORE)?;
            let mut weights = transaction.open_table(WEIGHTS)?;
            let mut quotas = transaction.open_table(QUOTAS)?;
            let mut wishes = transaction.open_table(WISHES)?;
            for record in records {
                match record {
                    Record::Agent(agent) => {
                        if let Some(id) = &agent.info.id {
                            agents.insert(id.value.as_str(), &*agent.encode_to_vec())?;
                        }
                    }
                    Record::AgentRemoved(id) => {
                        agents.remove(id.as_str())?;
                        wishes.remove(id.as_str())?;
                    }
                    Record::Framework(framework) => {
                        if let Some(id) = &framework.info.id {
                            frameworks.insert(id.value.as_str(), &*framework.encode_to_vec())?;
                        }
                    }
                    Record::FrameworkForgotten(id) => {
                        frameworks.remove(id.as_str())?;
                    }
                    Record::Weight(weight) => {
                        weights.insert(weight.role.as_str(), weight.thousandths)?;
                    }
                    Record::Quota(quota) => {
                        quotas.insert(quota.role.as_str(), &*quota.encode_to_vec())?;
                    }
                    Record::Wish(wish) => {
                        wishes.insert(wish.agent.as_str(), &*wish.encode_to_vec())?;
                    }
                    Record::Store(commit) => {
                        meta.insert(STORE_VERSION_KEY, commit.version)?;
                        for change in &commit.changes {
                            let key = (commit.namespace.as_str(), change.key.as_str());
                            match &change.value {
                                Some(value) => {
                                    let entry = StoredEntry {
                                        version: commit.version,
                                        value: value.clone(),
                                    };
                                    store.insert(key, &*entry.encode_to_vec())?;
                                }
                                None => {
                                    store.remove(key)?;
                                }
                            }
                        }
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn lock(folder: &Path) -> Result<File, RegistryError> {
    let refuse = |source| RegistryError::Folder {
        folder: folder.to_owned(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(refuse)?;
    let file = File::create(folder.join("master.lock")).map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RegistryError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(refuse(source)),
    }
}

fn refuse(file: &Path, error: redb::Error) -> RegistryError {
    let file = file.to_owned();
    match error {
        redb::Error::Corrupted(what) => RegistryError::Corrupt { file, what },
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            let what = io.to_string();
            RegistryError::Corrupt { file, what }
        }
        other => RegistryError::Io {
            file,
            source: Box::new(other),
        },
    }
}

/// Creates the tables of an empty file.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        if meta.get(FORMAT_KEY)?.is_none() {
            meta.insert(FORMAT_KEY, FORMAT)?;
        }
        transaction.open_table(AGENTS)?;
        transaction.open_table(FRAMEWORKS)?;
        transaction.open_table(STORE)?;
        transaction.open_table(WEIGHTS)?;
        transaction.open_table(QUOTAS)?;
        transaction.open_table(WISHES)?;
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database, file: &Path) -> Result<Registry, RegistryError> {
    let io = |e: redb::Error| refuse(file, e);
    let corrupt = |what: String| RegistryError::Corrupt {
        file: file.to_owned(),
        what,
    };
    let transaction = database.begin_read().map_err(|e| io(e.into()))?;
    let mut registry = Registry::default();
    let meta = transaction.open_table(META).map_err(|e| io(e.into()))?;
    let number = |key| {
        let value = meta.get(key).map_err(|e| io(e.into()))?;
        Ok(value.map_or(0, |value| value.value()))
    };
    let found = number(FORMAT_KEY)?;
    if found > FORMAT {
        let file = file.to_owned();
        return Err(RegistryError::Newer { file, found });
    }
    registry.store_version = number(STORE_VERSION_KEY)?;
    let table = transaction.open_table(AGENTS).map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        let id = AgentId::parse(key.value()).map_err(|e| corrupt(e.to_string()))?;
        let record = AgentRecord::decode(value.value())
            .map_err(|e| corrupt(format!("the record of agent {id} is unreadable: {e}")))?;
        registry.agents.insert(id, record);
    }
    let table = transaction
        .open_table(FRAMEWORKS)
        .map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        let id = FrameworkId::parse(key.value()).map_err(|e| corrupt(e.to_string()))?;
        let record = FrameworkRecord::decode(value.value())
            .map_err(|e| corrupt(format!("the record of framework {id} is unreadable: {e}")))?;
        registry.frameworks.insert(id, record);
    }
    read_allocation(&transaction, file, &mut registry)?;
    let table = transaction.open_table(STORE).map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        let (namespace, key) = key.value();
        let entry = StoredEntry::decode(value.value())
            .map_err(|e| corrupt(format!("the value of {namespace}/{key} is unreadable: {e}")))?;
        registry
            .store
            .entry(namespace.into())
            .or_default()
            .insert(key.into(), entry);
    }
    Ok(registry)
}

/// What operators set of roles and agents; what was set back to the usual is left out.
fn read_allocation(
    transaction: &redb::ReadTransaction,
    file: &Path,
    registry: &mut Registry,
) -> Result<(), RegistryError> {
    let io = |e: redb::Error| refuse(file, e);
    let corrupt = |what: String| RegistryError::Corrupt {
        file: file.to_owned(),
        what,
    };
    let table = transaction.open_table(WEIGHTS).map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        registry.apply(Record::Weight(WeightRecord {
            role: key.value().to_owned(),
            thousandths: value.value(),
        }));
    }
    let table = transaction.open_table(QUOTAS).map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        let record = QuotaRecord::decode(value.value()).map_err(|e| {
            let role = key.value();
            corrupt(format!("the quota of role {role} is unreadable: {e}"))
        })?;
        registry.apply(Record::Quota(record));
    }
    let table = transaction.open_table(WISHES).map_err(|e| io(e.into()))?;
    for row in table.iter().map_err(|e| io(e.into()))? {
        let (key, value) = row.map_err(|e| io(e.into()))?;
        let record = WishRecord::decode(value.value()).map_err(|e| {
            let agent = key.value();
            corrupt(format!(
                "what is wanted of agent {agent} is unreadable: {e}"
            ))
        })?;
        registry.apply(Record::Wish(record));
    }
    Ok(())
}
