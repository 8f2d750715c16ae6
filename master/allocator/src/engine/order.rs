//! The order among siblings: roles below a role, and frameworks in a role.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::iter::Peekable;

use allotment_types::{FrameworkId, Role};

use super::slab::Slot;
use super::sums::Ratio;

/// Who competes, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// The virtual leaf: the clients of the role itself.
    Leaf,
    /// A role below, and where the last part of its path begins. Names are compared far more
    /// often than they are made, so that the path is not searched each time.
    Role(Role, usize),
    /// A framework in the role.
    Framework(FrameworkId),
}

impl Name {
    /// The name of a role among its siblings.
    pub(crate) fn role(role: &Role) -> Self {
        let begin = role.as_str().rfind('/').map_or(0, |slash| slash + 1);
        Self::Role(role.clone(), begin)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Leaf => b".",
            Self::Role(role, begin) => role.as_str().as_bytes().get(*begin..).unwrap_or_default(),
            Self::Framework(framework) => framework.as_str().as_bytes(),
        }
    }
}

/// A place among siblings: the lowest share comes first, then the lowest count, then the name.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) share: Ratio,
    pub(crate) count: u64,
    pub(crate) name: Name,
    /// Of the role or the client.
    pub(crate) slot: Slot,
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.share
            .cmp(&other.share)
            .then_with(|| self.count.cmp(&other.count))
            .then_with(|| self.name.bytes().cmp(other.name.bytes()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

/// A child's place, and what can be said of all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Key,
    /// Some guarantee at it or below it is unsatisfied.
    pub(crate) guaranteed: bool,
    /// Its limits leave too little for any offer of plain resources.
    pub(crate) starved: bool,
}

/// Keys in their order. Most roles have one child or one client: those cost no tree.
#[derive(Debug)]
pub(crate) enum Line {
    Few(Vec<Key>),
    Many(BTreeSet<Key>),
}

/// Beyond this many keys a tree is faster than moving them.
const FEW: usize = 8;

impl Default for Line {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Line {
    pub(crate) fn insert(&mut self, key: Key) {
        match self {
            Self::Few(keys) => {
                let at = keys.partition_point(|other| *other < key);
                keys.insert(at, key);
                if keys.len() > FEW {
                    *self = Self::Many(std::mem::take(keys).into_iter().collect());
                }
            }
            Self::Many(keys) => {
                keys.insert(key);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        match self {
            Self::Few(keys) => {
                if let Ok(at) = keys.binary_search(key) {
                    keys.remove(at);
                }
            }
            Self::Many(keys) => {
                keys.remove(key);
                if keys.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }

    /// Keys in any order, all at once.
    pub(crate) fn fill(&mut self, keys: Vec<Key>) {
        *self = if keys.len() > FEW {
            Self::Many(keys.into_iter().collect())
        } else {
            let mut keys = keys;
            keys.sort();
            Self::Few(keys)
        };
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(keys) => keys.len(),
            Self::Many(keys) => keys.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The only key.
    pub(crate) fn lone(&self) -> Option<&Key> {
        let mut keys = self.iter();
        keys.next().filter(|_| keys.next().is_none())
    }

    pub(crate) fn iter(&self) -> Keys<'_> {
        match self {
            Self::Few(keys) => Keys::Few(keys.iter()),
            Self::Many(keys) => Keys::Many(keys.iter()),
        }
    }
}

/// Keys of one [`Line`], in order.
#[derive(Debug)]
pub(crate) enum Keys<'a> {
    Few(std::slice::Iter<'a, Key>),
    Many(std::collections::btree_set::Iter<'a, Key>),
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a Key;

    fn next(&mut self) -> Option<&'a Key> {
        match self {
            Self::Few(keys) => keys.next(),
            Self::Many(keys) => keys.next(),
        }
    }
}

/// Which children are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    All,
    /// Without those whose limits leave too little of plain resources.
    Fed,
    /// Only those with an unsatisfied guarantee at them, below or above.
    Guaranteed,
}

/// The children of a role that have clients which take offers.
///
/// Thousands of roles at their limit, or with their guarantee met, must cost nothing on the way
/// to the few that matter: those are kept apart.
#[derive(Debug, Default)]
pub(crate) struct Children {
    fed: Line,
    starved: Line,
    guaranteed: Line,
}

impl Children {
    /// Moves a child from one place to another.
    pub(crate) fn replace(&mut self, old: Option<&Place>, new: Option<&Place>) {
        if let Some(old) = old {
            self.home(old.starved).remove(&old.key);
            if old.guaranteed {
                self.guaranteed.remove(&old.key);
            }
        }
        if let Some(new) = new {
            if new.guaranteed {
                self.guaranteed.insert(new.key.clone());
            }
            self.home(new.starved).insert(new.key.clone());
        }
    }

    /// Children in any order, all at once.
    pub(crate) fn fill(&mut self, places: &[Place]) {
        let keys = |pick: &dyn Fn(&Place) -> bool| -> Vec<Key> {
            let picked = places.iter().filter(|place| pick(place));
            picked.map(|place| place.key.clone()).collect()
        };
        self.fed.fill(keys(&|place| !place.starved));
        self.starved.fill(keys(&|place| place.starved));
        self.guaranteed.fill(keys(&|place| place.guaranteed));
    }

    const fn home(&mut self, starved: bool) -> &mut Line {
        if starved {
            &mut self.starved
        } else {
            &mut self.fed
        }
    }

    /// The only child: its place among siblings does not matter until there is another.
    pub(crate) fn lone(&self) -> Option<&Key> {
        match (self.fed.len(), self.starved.len()) {
            (1, 0) => self.fed.lone(),
            (0, 1) => self.starved.lone(),
            _ => None,
        }
    }

    pub(crate) fn any_fed(&self) -> bool {
        !self.fed.is_empty()
    }

    pub(crate) fn any_guaranteed(&self) -> bool {
        !self.guaranteed.is_empty()
    }

    /// The children of a view, in order.
    pub(crate) fn view(&self, view: View) -> impl Iterator<Item = &Key> {
        let nothing = || Keys::Few([].iter());
        let (left, right) = match view {
            View::All => (self.fed.iter(), self.starved.iter()),
            View::Fed => (self.fed.iter(), nothing()),
            View::Guaranteed => (self.guaranteed.iter(), nothing()),
        };
        Merged {
            left: left.peekable(),
            right: right.peekable(),
        }
    }
}

/// Two sorted lists as one.
struct Merged<'a> {
    left: Peekable<Keys<'a>>,
    right: Peekable<Keys<'a>>,
}

impl<'a> Iterator for Merged<'a> {
    type Item = &'a Key;

    fn next(&mut self) -> Option<&'a Key> {
        match (self.left.peek(), self.right.peek()) {
            (Some(left), Some(right)) if right < left => self.right.next(),
            (Some(_), _) => self.left.next(),
            (None, _) => self.right.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: Name, share: u128, count: u64) -> Place {
        Place {
            key: Key {
                share: Ratio::new(share, 10, 1),
                count,
                name,
                slot: 0,
            },
            guaranteed: false,
            starved: false,
        }
    }

    fn role(path: &str) -> Name {
        Name::role(&Role::parse(path).unwrap())
    }

    #[test]
    fn siblings_come_by_share_then_count_then_name() {
        let mut children = Children::default();
        let mut starved = place(role("eng/b"), 1, 0);
        starved.starved = true;
        let places = [
            place(role("eng/c"), 1, 1),
            place(role("eng/a"), 2, 0),
            place(Name::Leaf, 1, 0),
            starved,
        ];
        for place in &places {
            children.replace(None, Some(place));
        }
        let names = |keys: &mut dyn Iterator<Item = &Key>| -> Vec<String> {
            keys.map(|key| String::from_utf8_lossy(key.name.bytes()).into_owned())
                .collect()
        };
        assert_eq!(names(&mut children.view(View::All)), [".", "b", "c", "a"]);
        assert_eq!(names(&mut children.view(View::Fed)), [".", "c", "a"]);
        children.replace(Some(&places[2]), None);
        assert_eq!(names(&mut children.view(View::All)), ["b", "c", "a"]);
    }
}
