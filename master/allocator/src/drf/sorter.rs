//! Who comes first: an order by weighted share, then by id, that is kept rather than recomputed.

use std::collections::BTreeSet;

use super::share::Weighted;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<K> {
    share: Weighted,
    id: K,
    slot: usize,
}

/// Those who take offers, lowest share first. Moving one costs O(log n).
#[derive(Debug)]
pub(super) struct Sorter<K>(BTreeSet<Entry<K>>);

impl<K> Default for Sorter<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord + Clone> Sorter<K> {
    /// Moves `id` from its place at share `from` to its place at share `to`; `None` is outside.
    pub(super) fn place(
        &mut self,
        id: &K,
        slot: usize,
        from: Option<Weighted>,
        to: Option<Weighted>,
    ) {
        let entry = |share| Entry {
            share,
            id: id.clone(),
            slot,
        };
        if let Some(share) = from {
            self.0.remove(&entry(share));
        }
        if let Some(share) = to {
            self.0.insert(entry(share));
        }
    }

    /// Slots in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|entry| entry.slot)
    }

    /// Nobody takes offers.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
