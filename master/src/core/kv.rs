//! The key-value store of the registry: compare-and-swap commits, bounded in size, and keys that
//! go away unless they are written again.
//!
//! When a lease is over is kept in [`super::leases`]; who watches is left to the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use allotment_proto::allot;
use allotment_types::Timestamp;

use super::io::Refusal;
use super::leases::Leases;
use super::registry::{Namespace, StoreChange, StoreRecord, StoredEntry};

/// The largest value, in bytes; the contract of `store.proto`.
pub(super) const VALUE_MAX: usize = 1024 * 1024;
/// The most that the keys and values of one namespace may add up to, in bytes.
pub(super) const NAMESPACE_MAX: usize = 64 * 1024 * 1024;
/// The longest namespace name or key, in bytes.
pub(super) const KEY_MAX: usize = 1024;
/// How many namespaces there may be: one per framework name, so a few; this bounds the whole.
pub(super) const NAMESPACES_MAX: usize = 64;
/// The shortest lease, in milliseconds: a renewal is a registry write and has to arrive in time.
const LEASE_MS_MIN: u64 = 100;
/// The longest lease, in milliseconds: a day. What should stay longer needs no lease.
const LEASE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Entries in key order.
type Present = Vec<(Arc<str>, StoredEntry)>;

#[derive(Debug, Default)]
struct Space {
    entries: Namespace,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    spaces: BTreeMap<Arc<str>, Space>,
    leases: Leases,
    version: u64,
}

fn size(key: &str, value: &[u8]) -> usize {
    key.len() + value.len()
}

impl Store {
    /// The store that an earlier reign left, from `now` on: every lease has its whole time again,
    /// because its holder could not renew it while nobody led.
    pub(super) fn new(
        namespaces: BTreeMap<Arc<str>, Namespace>,
        version: u64,
        now: Timestamp,
    ) -> Self {
        let mut leases = Leases::default();
        for (namespace, entries) in &namespaces {
            for (key, entry) in entries {
                leases.set(namespace, key, entry.lease_ms, now);
            }
        }
        let spaces = namespaces
            .into_iter()
            .map(|(name, entries)| {
                let bytes = entries.iter().map(|(k, e)| size(k, &e.value)).sum();
                (name, Space { entries, bytes })
            })
            .collect();
        Self {
            spaces,
            leases,
            version,
        }
    }

    /// All operations or none; the record must be durable before the version is told.
    pub(super) fn commit(
        &mut self,
        now: Timestamp,
        request: allot::StoreCommitRequest,
    ) -> Result<(u64, Option<StoreRecord>), Refusal> {
        let namespace = request.namespace;
        check_name("namespace", &namespace)?;
        let space = self.spaces.get(namespace.as_str());
        let mut keys = BTreeSet::new();
        let mut bytes = space.map_or(0, |space| space.bytes);
        for operation in &request.operations {
            let key = operation.key.as_str();
            check_name("key", key)?;
            if !keys.insert(key) {
                return Err(Refusal::Invalid(format!(
                    "key {key:?} appears twice in one commit; name each key once"
                )));
            }
            let held = space.and_then(|space| space.entries.get(key));
            let version = held.map_or(0, |entry| entry.version);
            if let Some(expected) = operation.expected_version
                && expected != version
            {
                return Err(Refusal::Conflict(allot::StoreConflict {
                    key: key.to_owned(),
                    expected_version: expected,
                    found_version: version,
                }));
            }
            check_lease(operation)?;
            bytes -= held.map_or(0, |entry| size(key, &entry.value));
            if let Some(value) = &operation.value {
                if value.len() > VALUE_MAX {
                    return Err(Refusal::Exhausted(format!(
                        "the value of key {key:?} has {} bytes; at most {VALUE_MAX} are accepted",
                        value.len()
                    )));
                }
                bytes += size(key, value);
            }
        }
        if bytes > NAMESPACE_MAX {
            return Err(Refusal::Exhausted(format!(
                "namespace {namespace:?} would hold {bytes} bytes; at most {NAMESPACE_MAX} are \
                 accepted, so delete keys first"
            )));
        }
        if space.is_none() && self.spaces.len() >= NAMESPACES_MAX {
            return Err(Refusal::Exhausted(format!(
                "there are {NAMESPACES_MAX} namespaces already; empty one before opening \
                 {namespace:?}"
            )));
        }
        if request.operations.is_empty() {
            return Ok((self.version, None));
        }
        self.version += 1;
        let changes = request.operations.into_iter().map(|operation| StoreChange {
            key: operation.key,
            value: operation.value,
            lease_ms: operation.lease_ms,
        });
        let record = StoreRecord {
            namespace,
            version: self.version,
            changes: changes.collect(),
        };
        self.apply(now, &record, bytes);
        Ok((self.version, Some(record)))
    }

    /// Deletes what was not written again in time: a record for each namespace.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<StoreRecord> {
        let mut records = Vec::new();
        for (namespace, keys) in self.leases.over(now) {
            self.version += 1;
            let mut bytes = self.spaces.get(&namespace).map_or(0, |space| space.bytes);
            let mut changes = Vec::with_capacity(keys.len());
            for key in keys {
                let space = self.spaces.get(&namespace);
                let entry = space.and_then(|space| space.entries.get(&key));
                bytes -= entry.map_or(0, |entry| size(&key, &entry.value));
                changes.push(StoreChange {
                    key: key.to_string(),
                    value: None,
                    lease_ms: None,
                });
            }
            let record = StoreRecord {
                namespace: namespace.to_string(),
                version: self.version,
                changes,
            };
            self.apply(now, &record, bytes);
            records.push(record);
        }
        records
    }

    /// When [`Self::expire`] next matters.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.leases.next()
    }

    /// Takes a checked record in, after which the namespace holds `bytes`.
    fn apply(&mut self, now: Timestamp, record: &StoreRecord, bytes: usize) {
        let namespace = record.namespace.as_str();
        let name = match self.spaces.get_key_value(namespace) {
            Some((name, _)) => Arc::clone(name),
            None => namespace.into(),
        };
        let space = self.spaces.entry(Arc::clone(&name)).or_default();
        space.bytes = bytes;
        for change in &record.changes {
            let key: Arc<str> = change.key.as_str().into();
            self.leases.set(&name, &key, change.lease_ms, now);
            match &change.value {
                Some(value) => {
                    let entry = StoredEntry {
                        version: record.version,
                        value: value.clone(),
                        lease_ms: change.lease_ms,
                    };
                    space.entries.insert(key, entry);
                }
                None => {
                    space.entries.remove(&key);
                }
            }
        }
        if space.entries.is_empty() {
            self.spaces.remove(&name);
        }
    }

    /// The entries that a watcher begins with, and the version they are from.
    pub(super) fn watch(
        &self,
        request: allot::StoreWatchRequest,
    ) -> Result<(Present, u64), Refusal> {
        check_name("namespace", &request.namespace)?;
        let entries = self.list(&allot::StoreListRequest {
            namespace: request.namespace,
            prefix: request.prefix,
        });
        Ok((entries, self.version))
    }

    pub(super) fn list(&self, request: &allot::StoreListRequest) -> Present {
        let Some(space) = self.spaces.get(request.namespace.as_str()) else {
            return Vec::new();
        };
        let from = Bound::Included(request.prefix.as_str());
        space
            .entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&request.prefix))
            .map(|(key, entry)| (Arc::clone(key), entry.clone()))
            .collect()
    }
}

fn check_lease(operation: &allot::StoreOperation) -> Result<(), Refusal> {
    let Some(lease_ms) = operation.lease_ms else {
        return Ok(());
    };
    let key = &operation.key;
    if operation.value.is_none() {
        return Err(Refusal::Invalid(format!(
            "key {key:?} is to be deleted and to have a lease; leave the lease out"
        )));
    }
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
        return Err(Refusal::Invalid(format!(
            "the lease of key {key:?} is {lease_ms} ms but must be between {LEASE_MS_MIN} and \
             {LEASE_MS_MAX} ms (a day)"
        )));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::Invalid(format!(
            "the {what} is empty; give it at least one character"
        )));
    }
    if name.len() > KEY_MAX {
        return Err(Refusal::Invalid(format!(
            "the {what} has {} bytes; at most {KEY_MAX} are accepted",
            name.len()
        )));
    }
    if name.contains('\0') {
        return Err(Refusal::Invalid(format!(
            "the {what} {name:?} holds a NUL character; leave it out"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static [u8], expected: Option<u64>) -> allot::StoreOperation {
        allot::StoreOperation {
            key: key.to_owned(),
            value: Some(value.into()),
            expected_version: expected,
            lease_ms: None,
        }
    }

    fn commit(store: &mut Store, operations: Vec<allot::StoreOperation>) -> Result<u64, Refusal> {
        let namespace = "services".to_owned();
        store
            .commit(
                Timestamp::ZERO,
                allot::StoreCommitRequest {
                    namespace,
                    operations,
                },
            )
            .map(|(version, _)| version)
    }

    fn list(store: &Store, prefix: &str) -> Vec<(String, u64)> {
        store
            .list(&allot::StoreListRequest {
                namespace: "services".to_owned(),
                prefix: prefix.to_owned(),
            })
            .into_iter()
            .map(|(key, entry)| (key.to_string(), entry.version))
            .collect()
    }

    #[test]
    fn a_commit_happens_whole_or_not_at_all() {
        let mut store = Store::new(BTreeMap::new(), 0, Timestamp::ZERO);
        assert_eq!(commit(&mut store, vec![put("a", b"1", Some(0))]), Ok(1));
        let refused = commit(
            &mut store,
            vec![put("b", b"1", None), put("a", b"2", Some(0))],
        );
        assert_eq!(
            refused.unwrap_err().to_string(),
            "key \"a\" was expected at version 0 but is at version 1; read it again and retry"
        );
        assert_eq!(list(&store, ""), [("a".to_owned(), 1)]);
        assert_eq!(
            commit(
                &mut store,
                vec![put("b", b"1", None), put("a", b"2", Some(1))]
            ),
            Ok(2)
        );
        assert_eq!(list(&store, "a"), [("a".to_owned(), 2)]);
    }

    #[test]
    fn a_deleted_key_never_returns_to_an_old_version() {
        let mut store = Store::new(BTreeMap::new(), 0, Timestamp::ZERO);
        commit(&mut store, vec![put("a", b"1", None)]).unwrap();
        let delete = allot::StoreOperation {
            key: "a".to_owned(),
            value: None,
            expected_version: Some(1),
            lease_ms: None,
        };
        commit(&mut store, vec![delete]).unwrap();
        assert_eq!(list(&store, ""), []);
        assert_eq!(commit(&mut store, vec![put("a", b"1", Some(0))]), Ok(3));
    }

    #[test]
    fn sizes_and_names_are_bounded() {
        let mut store = Store::new(BTreeMap::new(), 0, Timestamp::ZERO);
        let huge = allot::StoreOperation {
            key: "a".to_owned(),
            value: Some(vec![0; VALUE_MAX + 1].into()),
            expected_version: None,
            lease_ms: None,
        };
        assert!(matches!(
            commit(&mut store, vec![huge]),
            Err(Refusal::Exhausted(_))
        ));
        let megabyte = bytes::Bytes::from(vec![0; VALUE_MAX]);
        let many = (0..65).map(|i| allot::StoreOperation {
            key: i.to_string(),
            value: Some(megabyte.clone()),
            expected_version: None,
            lease_ms: None,
        });
        assert!(matches!(
            commit(&mut store, many.collect()),
            Err(Refusal::Exhausted(_))
        ));
        for key in ["", "a\0b", &"k".repeat(KEY_MAX + 1)] {
            let refused = commit(&mut store, vec![put(key, b"1", None)]);
            assert!(matches!(refused, Err(Refusal::Invalid(_))), "{key:?}");
        }
    }
}
