//! The key-value store of the registry: compare-and-swap commits, bounded in size.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use allotment_proto::allot;

use super::io::Refusal;
use super::registry::{Namespace, Record, StoreChange, StoreRecord, StoredEntry};

/// The largest value, in bytes; the contract of `store.proto`.
pub(super) const VALUE_MAX: usize = 1024 * 1024;
/// The most that the keys and values of one namespace may add up to, in bytes.
pub(super) const NAMESPACE_MAX: usize = 64 * 1024 * 1024;
/// The longest namespace name or key, in bytes.
pub(super) const KEY_MAX: usize = 1024;
/// How many namespaces there may be: one per framework name, so a few; this bounds the whole.
pub(super) const NAMESPACES_MAX: usize = 64;

#[derive(Debug, Default)]
struct Space {
    entries: Namespace,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    spaces: BTreeMap<Arc<str>, Space>,
    version: u64,
}

fn size(key: &str, value: &[u8]) -> usize {
    key.len() + value.len()
}

impl Store {
    pub(super) fn new(namespaces: BTreeMap<Arc<str>, Namespace>, version: u64) -> Self {
        let spaces = namespaces
            .into_iter()
            .map(|(name, entries)| {
                let bytes = entries.iter().map(|(k, e)| size(k, &e.value)).sum();
                (name, Space { entries, bytes })
            })
            .collect();
        Self { spaces, version }
    }

    /// All operations or none; the record must be durable before the version is told.
    pub(super) fn commit(
        &mut self,
        request: allot::StoreCommitRequest,
    ) -> Result<(u64, Option<Record>), Refusal> {
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
        let version = self.version;
        let space = self.spaces.entry(namespace.as_str().into()).or_default();
        space.bytes = bytes;
        let mut changes = Vec::with_capacity(request.operations.len());
        for operation in request.operations {
            match &operation.value {
                Some(value) => {
                    let value = value.clone();
                    let entry = StoredEntry { version, value };
                    space.entries.insert(operation.key.as_str().into(), entry);
                }
                None => {
                    space.entries.remove(operation.key.as_str());
                }
            }
            changes.push(StoreChange {
                key: operation.key,
                value: operation.value,
            });
        }
        if space.entries.is_empty() {
            self.spaces.remove(namespace.as_str());
        }
        let record = Record::Store(StoreRecord {
            namespace,
            version,
            changes,
        });
        Ok((version, Some(record)))
    }

    pub(super) fn list(&self, request: &allot::StoreListRequest) -> Vec<(Arc<str>, StoredEntry)> {
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
        }
    }

    fn commit(store: &mut Store, operations: Vec<allot::StoreOperation>) -> Result<u64, Refusal> {
        let namespace = "services".to_owned();
        store
            .commit(allot::StoreCommitRequest {
                namespace,
                operations,
            })
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
        let mut store = Store::new(BTreeMap::new(), 0);
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
        let mut store = Store::new(BTreeMap::new(), 0);
        commit(&mut store, vec![put("a", b"1", None)]).unwrap();
        let delete = allot::StoreOperation {
            key: "a".to_owned(),
            value: None,
            expected_version: Some(1),
        };
        commit(&mut store, vec![delete]).unwrap();
        assert_eq!(list(&store, ""), []);
        assert_eq!(commit(&mut store, vec![put("a", b"1", Some(0))]), Ok(3));
    }

    #[test]
    fn sizes_and_names_are_bounded() {
        let mut store = Store::new(BTreeMap::new(), 0);
        let huge = allot::StoreOperation {
            key: "a".to_owned(),
            value: Some(vec![0; VALUE_MAX + 1].into()),
            expected_version: None,
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
