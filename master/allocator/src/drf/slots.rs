//! Ids interned to dense numbers, so that the hot path follows no strings.

use std::collections::BTreeMap;

/// Values by id and by slot; the slot of a removed id is used again.
#[derive(Debug)]
pub(super) struct Slots<K, V> {
    index: BTreeMap<K, usize>,
    slots: Vec<Option<(K, V)>>,
    vacant: Vec<usize>,
}

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Self {
            index: BTreeMap::new(),
            slots: Vec::new(),
            vacant: Vec::new(),
        }
    }
}

impl<K: Ord + Clone, V: Default> Slots<K, V> {
    /// The slot of a known id.
    pub(super) fn find(&self, id: &K) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// The slot of `id`, made when it is new.
    pub(super) fn intern(&mut self, id: &K) -> usize {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        let entry = Some((id.clone(), V::default()));
        let slot = if let Some(slot) = self.vacant.pop() {
            self.slots[slot] = entry;
            slot
        } else {
            self.slots.push(entry);
            self.slots.len() - 1
        };
        self.index.insert(id.clone(), slot);
        slot
    }

    /// Forgets the id of `slot`.
    pub(super) fn remove(&mut self, slot: usize) {
        if let Some((id, _)) = self.slots[slot].take() {
            self.index.remove(&id);
            self.vacant.push(slot);
        }
    }

    /// The id in a slot.
    ///
    /// # Panics
    /// When the slot is vacant: whoever holds slots lets go of them before the removal.
    pub(super) fn id(&self, slot: usize) -> &K {
        &self.entry(slot).0
    }

    /// The value in a slot. Panics as [`Self::id`].
    pub(super) fn get(&self, slot: usize) -> &V {
        &self.entry(slot).1
    }

    /// The value in a slot. Panics as [`Self::id`].
    pub(super) fn get_mut(&mut self, slot: usize) -> &mut V {
        match self.slots[slot].as_mut() {
            Some((_, value)) => value,
            None => panic!("slot {slot} is vacant"),
        }
    }

    /// The slots in use, in the order of their ids.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.index.values().copied()
    }

    fn entry(&self, slot: usize) -> &(K, V) {
        match self.slots[slot].as_ref() {
            Some(entry) => entry,
            None => panic!("slot {slot} is vacant"),
        }
    }
}
