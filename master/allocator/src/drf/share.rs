//! Shares as exact ratios, and the sums of scalars they are made of.
//!
//! Nothing here is rounded: two shares are compared by multiplying out, so that equal loads are
//! equal and ties fall to names, on every machine alike.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use allotment_types::{Name, Resources};

use crate::Share;

/// Dense numbers for the names of scalar resources; a name keeps its number.
#[derive(Debug, Default)]
pub(super) struct Kinds(BTreeMap<Name, usize>);

impl Kinds {
    fn number(&mut self, name: &Name) -> usize {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len();
        self.0.insert(name.clone(), number);
        number
    }
}

/// Amounts of every scalar kind, in thousandths.
///
/// Wider than one agent's amounts, so that no sum over a cluster saturates and every addition can
/// be taken back exactly.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantities(Vec<u128>);

impl Quantities {
    /// Adds the scalars of `resources`.
    pub(super) fn add(&mut self, kinds: &mut Kinds, resources: &Resources) {
        for (name, amount) in resources.scalars() {
            let kind = kinds.number(name);
            if kind >= self.0.len() {
                self.0.resize(kind + 1, 0);
            }
            if let Some(sum) = self.0.get_mut(kind) {
                *sum += u128::from(amount.thousandths());
            }
        }
    }

    /// Takes the scalars of `resources` away; they were added before.
    pub(super) fn subtract(&mut self, kinds: &mut Kinds, resources: &Resources) {
        for (name, amount) in resources.scalars() {
            if let Some(sum) = self.0.get_mut(kinds.number(name)) {
                *sum = sum.saturating_sub(u128::from(amount.thousandths()));
            }
        }
    }

    /// Adds another sum.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// The largest part of `total` that is held here, over all kinds of which there is any (DRF:
    /// Ghodsi et al., NSDI 2011, section 4).
    pub(super) fn dominant(&self, total: &Self) -> Share {
        let narrow = |amount: u128| u64::try_from(amount).unwrap_or(u64::MAX);
        let mut dominant = Share {
            numerator: 0,
            denominator: total.0.first().copied().map_or(0, narrow),
        };
        for (held, total) in self.0.iter().zip(&total.0) {
            let share = Share {
                numerator: narrow(*held),
                denominator: narrow(*total),
            };
            if share.denominator > 0 && compare(share, 1, dominant, 1) == Ordering::Greater {
                dominant = share;
            }
        }
        dominant
    }
}

/// A share divided by a weight, ordered exactly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighted {
    pub(super) share: Share,
    /// In thousandths, above 0.
    pub(super) weight: u64,
}

impl Ord for Weighted {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.share, self.weight, other.share, other.weight)
    }
}

impl PartialOrd for Weighted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Weighted {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Weighted {}

/// Compares `a / weight_a` with `b / weight_b`; a share of nothing is zero.
fn compare(a: Share, weight_a: u64, b: Share, weight_b: u64) -> Ordering {
    let ratio = |share: Share| {
        if share.denominator == 0 {
            (0, 1)
        } else {
            (share.numerator, share.denominator)
        }
    };
    let ((num_a, den_a), (num_b, den_b)) = (ratio(a), ratio(b));
    product(num_a, den_b, weight_b).cmp(&product(num_b, den_a, weight_a))
}

/// `a * b * c` in 192 bits, high part first.
fn product(a: u64, b: u64, c: u64) -> (u128, u64) {
    let c = u128::from(c);
    let ab = u128::from(a) * u128::from(b);
    let (high, low) = (ab >> 64, ab & u128::from(u64::MAX));
    let low = low * c;
    #[expect(clippy::cast_possible_truncation, reason = "the low 64 bits are meant")]
    let rest = low as u64;
    (high * c + (low >> 64), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(numerator: u64, denominator: u64, weight: u64) -> Weighted {
        let share = Share {
            numerator,
            denominator,
        };
        Weighted { share, weight }
    }

    #[test]
    fn equal_ratios_are_equal_however_they_are_written() {
        assert_eq!(weighted(1, 3, 1000), weighted(333, 999, 1000));
        assert_eq!(weighted(2, 3, 2000), weighted(1, 3, 1000));
    }

    #[test]
    fn ratios_that_floats_cannot_tell_apart_are_ordered() {
        let (small, large) = (
            weighted(u64::MAX - 2, u64::MAX - 1, u64::MAX),
            weighted(u64::MAX - 1, u64::MAX, u64::MAX),
        );
        assert!(small < large);
        assert!(weighted(u64::MAX, 1, 1) > weighted(u64::MAX, 1, 2));
    }

    #[test]
    fn kinds_the_cluster_has_none_of_do_not_count() {
        let mut kinds = Kinds::default();
        let mut total = Quantities::default();
        let mut held = Quantities::default();
        total.add(&mut kinds, &"cpus:10; mem:100".parse().unwrap());
        held.add(&mut kinds, &"cpus:1; mem:20; gpus:4".parse().unwrap());
        let share = held.dominant(&total);
        assert_eq!((share.numerator, share.denominator), (20_000, 100_000));
    }
}
