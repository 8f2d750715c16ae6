//! The order among siblings: roles below a role, and frameworks in a role.

use std::collections::BTreeSet;
use std::iter::Peekable;

use allotment_types::Role;

use super::ranks::Rank;
use super::slab::Slot;
use super::sums::Ratio;

/// The virtual leaf among the roles below a role: it stands for the clients of the role itself.
pub(crate) const LEAF: &str = ".";

/// The rank of the virtual leaf. Those of roles whose names come behind it have this bit too.
pub(crate) const LEAF_RANK: Rank = 1 << 63;

/// The name of a role among its siblings.
pub(crate) fn name(role: &Role) -> &str {
    let path = role.as_str();
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// How well somebody is served: the lowest share comes first, then the lowest count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    pub(crate) share: Ratio,
    pub(crate) count: u64,
}

/// A place among siblings: ties between those who are served equally fall to the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) standing: Standing,
    /// Of the name.
    pub(crate) rank: Rank,
    /// Of the role or the client.
    pub(crate) slot: Slot,
}

impl Key {
    pub(crate) const fn is_leaf(&self) -> bool {
        self.rank == LEAF_RANK
    }
}

/// A child's place, and what can be said of all that is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
                // Whoever is granted something is the first more often than not.
                if keys.first() == Some(key) {
                    keys.pop_first();
                } else {
                    keys.remove(key);
                }
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
                self.guaranteed.insert(new.key);
            }
            self.home(new.starved).insert(new.key);
        }
    }

    /// Children in any order, all at once.
    pub(crate) fn fill(&mut self, places: &[Place]) {
        let keys = |pick: &dyn Fn(&Place) -> bool| -> Vec<Key> {
            let picked = places.iter().filter(|place| pick(place));
            picked.map(|place| place.key).collect()
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
    pub(crate) fn view(&self, view: View) -> Siblings<'_> {
        match view {
            View::All if !self.starved.is_empty() => {
                Siblings::Merged(self.fed.iter().peekable(), self.starved.iter().peekable())
            }
            View::All | View::Fed => Siblings::Plain(self.fed.iter()),
            View::Guaranteed => Siblings::Plain(self.guaranteed.iter()),
        }
    }
}

/// Children in order: of one list, or of two that are each in order.
#[derive(Debug)]
pub(crate) enum Siblings<'a> {
    Plain(Keys<'a>),
    Merged(Peekable<Keys<'a>>, Peekable<Keys<'a>>),
}

impl<'a> Iterator for Siblings<'a> {
    type Item = &'a Key;

    fn next(&mut self) -> Option<&'a Key> {
        match self {
            Self::Plain(keys) => keys.next(),
            Self::Merged(left, right) => match (left.peek(), right.peek()) {
                (Some(first), Some(second)) if second < first => right.next(),
                (Some(_), _) => left.next(),
                (None, _) => right.next(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rank: Rank, share: u128, count: u64) -> Place {
        let share = Ratio::new(share, 10, 1);
        Place {
            key: Key {
                standing: Standing { share, count },
                rank,
                slot: 0,
            },
            guaranteed: false,
            starved: false,
        }
    }

    #[test]
    fn a_role_is_named_by_the_last_part_of_its_path() {
        let name = |path| name(&Role::parse(path).unwrap()).to_owned();
        assert_eq!([name("eng"), name("eng/web")], ["eng", "web"]);
    }

    #[test]
    fn siblings_come_by_share_then_count_then_rank() {
        let mut children = Children::default();
        let mut starved = place(2, 1, 0);
        starved.starved = true;
        let places = [
            place(3, 1, 1),
            place(1, 2, 0),
            place(LEAF_RANK, 1, 0),
            place(LEAF_RANK | 1, 1, 0),
            starved,
        ];
        for place in &places {
            children.replace(None, Some(place));
        }
        let ranks = |keys: &mut dyn Iterator<Item = &Key>| -> Vec<Rank> {
            keys.map(|key| key.rank).collect()
        };
        let behind = LEAF_RANK | 1;
        let all = ranks(&mut children.view(View::All));
        assert_eq!(all, [2, LEAF_RANK, behind, 3, 1]);
        let fed = ranks(&mut children.view(View::Fed));
        assert_eq!(fed, [LEAF_RANK, behind, 3, 1]);
        children.replace(Some(&places[2]), None);
        let all = ranks(&mut children.view(View::All));
        assert_eq!(all, [2, behind, 3, 1]);
    }
}
