//! When keys of the store go away unless they are written again.
//!
//! What a key holds, and that it is deleted, is left to [`super::kv`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use allotment_types::Timestamp;

type Name = (Arc<str>, Arc<str>);

/// The deadlines of leased keys, by namespace and key and by time.
#[derive(Debug, Default)]
pub(super) struct Leases {
    until: BTreeMap<Name, Timestamp>,
    due: BTreeSet<(Timestamp, Name)>,
}

impl Leases {
    /// A key was written or deleted at `now`; without `lease_ms` it has no lease any more.
    pub(super) fn set(
        &mut self,
        namespace: &Arc<str>,
        key: &Arc<str>,
        lease_ms: Option<u64>,
        now: Timestamp,
    ) {
        let name = (Arc::clone(namespace), Arc::clone(key));
        if let Some(until) = self.until.remove(&name) {
            self.due.remove(&(until, name.clone()));
        }
        if let Some(lease_ms) = lease_ms {
            let until = now + Duration::from_millis(lease_ms);
            self.due.insert((until, name.clone()));
            self.until.insert(name, until);
        }
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out what is over at `now`, by namespace and key.
    pub(super) fn over(&mut self, now: Timestamp) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
        let mut over: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        while self.next().is_some_and(|at| at <= now) {
            let Some((_, (namespace, key))) = self.due.pop_first() else {
                break;
            };
            self.until
                .remove(&(Arc::clone(&namespace), Arc::clone(&key)));
            over.entry(namespace).or_default().insert(key);
        }
        over
    }
}
