//! Ranks: numbers that stand in the order of names.
//!
//! Shares are often equal on a cluster of equal machines, and ties fall to names. Comparing ranks
//! instead costs no look at the names, and keeps them out of the lists that are ordered by them.
//! A rank lasts until more names come between two others than there is room for; then all are
//! given anew, by [`spread`], in the same order.

/// The place of a name among all of its kind: above 0 and below [`MOST`].
pub(crate) type Rank = u64;

/// No rank is as large: what a bit above it says comes first.
const MOST: Rank = 1 << 62;

/// Ids count up, so that most new names come behind all others: at this distance there is room
/// for a billion of them, and for thirty that halve it between any two.
const STEP: Rank = 1 << 32;

/// A rank for a name between two neighbours; `None`: there is no room.
pub(crate) fn between(below: Option<Rank>, above: Option<Rank>) -> Option<Rank> {
    let (low, high) = (below.unwrap_or(0), above.unwrap_or(MOST));
    let half = high.checked_sub(low)? / 2;
    let rank = match (below, above) {
        (Some(_), None) => low + half.min(STEP),
        (None, Some(_)) => high - half.min(STEP),
        _ => low + half,
    };
    (low < rank && rank < high).then_some(rank)
}

/// Ranks for so many names, in their order and with as much room between any two.
pub(crate) fn spread(n: usize) -> impl Iterator<Item = Rank> {
    let n = n as u64;
    let step = STEP.min(MOST / (n + 1));
    let first = (MOST - n * step) / 2;
    (1..=n).map(move |at| first + at * step)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    /// Names with their ranks, and how often all were given anew.
    #[derive(Default)]
    struct Ranked {
        names: BTreeMap<u32, Rank>,
        spread: usize,
    }

    impl Ranked {
        fn insert(&mut self, name: u32) {
            let below = self.names.range(..name).next_back();
            let above = self
                .names
                .range((Bound::Excluded(name), Bound::Unbounded))
                .next();
            let rank = between(below.map(|(_, rank)| *rank), above.map(|(_, rank)| *rank));
            self.names.insert(name, rank.unwrap_or_default());
            if rank.is_none() {
                self.spread += 1;
                let ranks = spread(self.names.len());
                self.names
                    .values_mut()
                    .zip(ranks)
                    .for_each(|(old, new)| *old = new);
            }
        }

        fn is_in_order(&self) -> bool {
            let ranks: Vec<Rank> = self.names.values().copied().collect();
            ranks.is_sorted_by(|a, b| a < b) && ranks.iter().all(|rank| (1..MOST).contains(rank))
        }
    }

    proptest! {
        #[test]
        fn ranks_stand_in_the_order_of_names(names in prop::collection::vec(0_u32..500, 0..300)) {
            let mut ranked = Ranked::default();
            for name in names {
                if !ranked.names.contains_key(&name) {
                    ranked.insert(name);
                }
                prop_assert!(ranked.is_in_order());
            }
        }
    }

    #[test]
    fn names_that_count_up_never_run_out_of_room_and_those_that_crowd_get_it() {
        let mut ranked = Ranked::default();
        (0..100_000).for_each(|name| ranked.insert(name));
        assert_eq!((ranked.spread, ranked.is_in_order()), (0, true));
        let mut crowded = Ranked::default();
        crowded.insert(u32::MAX);
        (0..1000).for_each(|name| crowded.insert(2 * name));
        (0..1000)
            .rev()
            .for_each(|name| crowded.insert(2 * name + 1));
        assert!(crowded.spread > 0 && crowded.is_in_order());
    }
}
