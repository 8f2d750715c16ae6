//! The registry as versions before replication kept it: one redb file. It is read once, when the
//! master that goes on from it begins its log, and then set aside.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use allotment_types::{AgentId, FrameworkId};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::folder::RegistryError;
use crate::core::registry::{AgentRecord, FORMAT, FrameworkRecord, Registry, StoredEntry};

const FILE: &str = "registry.redb";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const AGENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("agents");
const FRAMEWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("frameworks");
const STORE: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("store");

/// Such a registry in `folder`, if there is one.
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>, RegistryError> {
    let file = folder.join(FILE);
    match file.try_exists() {
        Ok(there) => Ok(there.then_some(file)),
        Err(source) => Err(RegistryError::Folder {
            folder: file,
            source,
        }),
    }
}

/// All of it.
pub(super) fn read(file: &Path) -> Result<Registry, RegistryError> {
    // redb may panic on pages that were damaged behind its back.
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| read_all(file)));
    let read = read.unwrap_or_else(|_| Err("its pages contradict each other".to_owned()));
    read.map_err(|what| RegistryError::Earlier {
        file: file.to_owned(),
        what: format!(
            "{what}; restore it from a backup, or move it away to begin with an empty cluster"
        ),
    })
}

/// Renames it: nobody reads it any more, and nothing is lost.
pub(super) fn set_aside(file: &Path) -> Result<(), RegistryError> {
    let aside = file.with_extension("redb.imported");
    std::fs::rename(file, aside).map_err(|source| RegistryError::Folder {
        folder: file.to_owned(),
        source,
    })
}

fn text(error: impl Into<redb::Error>) -> String {
    error.into().to_string()
}

fn read_all(file: &Path) -> Result<Registry, String> {
    let database = Database::builder()
        .set_check_integrity_on_open(true)
        .open(file)
        .map_err(text)?;
    let transaction = database.begin_read().map_err(text)?;
    let mut registry = Registry::default();
    let meta = transaction.open_table(META).map_err(text)?;
    let number = |key| {
        let value = meta.get(key).map_err(text)?;
        Ok::<_, String>(value.map_or(0, |value| value.value()))
    };
    let found = number("format")?;
    if found > FORMAT {
        return Err(format!(
            "it has format {found}, this master reads up to {FORMAT}"
        ));
    }
    registry.store_version = number("store_version")?;
    let table = transaction.open_table(AGENTS).map_err(text)?;
    for row in table.iter().map_err(text)? {
        let (key, value) = row.map_err(text)?;
        let id = AgentId::parse(key.value()).map_err(|e| e.to_string())?;
        let record = AgentRecord::decode(value.value())
            .map_err(|e| format!("the record of agent {id} is unreadable: {e}"))?;
        registry.agents.insert(id, record);
    }
    let table = transaction.open_table(FRAMEWORKS).map_err(text)?;
    for row in table.iter().map_err(text)? {
        let (key, value) = row.map_err(text)?;
        let id = FrameworkId::parse(key.value()).map_err(|e| e.to_string())?;
        let record = FrameworkRecord::decode(value.value())
            .map_err(|e| format!("the record of framework {id} is unreadable: {e}"))?;
        registry.frameworks.insert(id, record);
    }
    let table = transaction.open_table(STORE).map_err(text)?;
    for row in table.iter().map_err(text)? {
        let (key, value) = row.map_err(text)?;
        let (namespace, key) = key.value();
        let entry = StoredEntry::decode(value.value())
            .map_err(|e| format!("the value of {namespace}/{key} is unreadable: {e}"))?;
        let namespace = registry.store.entry(namespace.into()).or_default();
        namespace.insert(key.into(), entry);
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_registry_is_read_whole_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(find(folder.path()).unwrap(), None);
        let database = Database::create(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert("format", FORMAT).unwrap();
            meta.insert("store_version", 4).unwrap();
            transaction.open_table(AGENTS).unwrap();
            transaction.open_table(FRAMEWORKS).unwrap();
            let mut store = transaction.open_table(STORE).unwrap();
            let entry = StoredEntry {
                version: 3,
                value: "v".into(),
                lease_ms: None,
            };
            store.insert(("web", "k"), &*entry.encode_to_vec()).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let registry = read(&find(folder.path()).unwrap().unwrap()).unwrap();
        assert_eq!(registry.store["web"]["k"].version, 3);
        assert_eq!(registry.store_version, 4);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[..64].fill(7);
        std::fs::write(&file, bytes).unwrap();
        assert!(
            read(&file)
                .unwrap_err()
                .to_string()
                .contains("registry.redb")
        );
        set_aside(&file).unwrap();
        assert_eq!(find(folder.path()).unwrap(), None);
    }
}
