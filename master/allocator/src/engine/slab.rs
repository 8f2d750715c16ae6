//! Things in slots: small numbers that are given again when they are free.

use std::ops::{Index, IndexMut};

/// Where a thing is.
pub(crate) type Slot = u32;

/// Things by slot.
///
/// Whoever keeps a slot keeps the thing alive: indexing a free slot is a bug of this crate.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    things: Vec<Option<T>>,
    free: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            things: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Puts a thing into a free slot.
    pub(crate) fn insert(&mut self, thing: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.things[slot as usize] = Some(thing);
            return slot;
        }
        let slot = Slot::try_from(self.things.len()).unwrap_or(Slot::MAX);
        self.things.push(Some(thing));
        slot
    }

    /// Takes a thing out.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let thing = self.things.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        self.things.get(slot as usize)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..)
            .zip(&self.things)
            .filter_map(|(slot, thing)| Some((slot, thing.as_ref()?)))
    }

    /// How many slots there are, free ones included.
    pub(crate) fn slots(&self) -> usize {
        self.things.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.things.len() == self.free.len()
    }
}

impl<T> Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        self.things[slot as usize]
            .as_ref()
            .expect("a kept slot holds something")
    }
}

impl<T> IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        self.things[slot as usize]
            .as_mut()
            .expect("a kept slot holds something")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_slot_is_given_again() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert("c"), a);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(a, &"c"), (b, &"b")]);
        assert_eq!((slab.is_empty(), slab.slots()), (false, 2));
    }
}
