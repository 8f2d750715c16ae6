//! Sums of scalars, and exact ratios of them.
//!
//! Nothing here is rounded: two shares are compared by multiplying out, so that equal loads are
//! equal and ties fall to names, on every machine alike.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use allotment_types::{Fixed, Name};

use crate::{Amounts, Share};

/// A dense number for the name of a scalar; a name keeps its number.
pub(crate) type Kind = u32;

/// Amounts of one bundle, by kind in ascending order, in thousandths.
///
/// Wider than one lot's amount, so that no sum over lots or agents saturates and every addition
/// can be taken back exactly.
pub(crate) type Scalars = [(Kind, u128)];

/// The numbers of names.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    by_name: BTreeMap<Name, Kind>,
    names: Vec<Name>,
}

impl Kinds {
    /// The number of `name`; given to it when it is new.
    pub(crate) fn number(&mut self, name: &Name) -> Kind {
        if let Some(kind) = self.by_name.get(name) {
            return *kind;
        }
        let kind = Kind::try_from(self.names.len()).unwrap_or(Kind::MAX);
        self.names.push(name.clone());
        self.by_name.insert(name.clone(), kind);
        kind
    }

    /// The number of `name`, when it has one.
    pub(crate) fn find(&self, name: &Name) -> Option<Kind> {
        self.by_name.get(name).copied()
    }

    /// The name behind a number.
    pub(crate) fn name(&self, kind: Kind) -> Option<&Name> {
        self.names.get(kind as usize)
    }

    /// Amounts by number, ascending, without zeros.
    pub(crate) fn numbered(&mut self, amounts: &Amounts) -> Vec<(Kind, u128)> {
        let mut numbered: Vec<(Kind, u128)> = amounts
            .iter()
            .map(|(name, amount)| (self.number(name), u128::from(amount.thousandths())))
            .collect();
        numbered.sort_unstable();
        numbered
    }

    /// Amounts by name, for the outside; what is more than an amount can say is cut.
    pub(crate) fn named(&self, sums: &Scalars) -> Amounts {
        sums.iter()
            .filter(|(_, sum)| *sum > 0)
            .filter_map(|(kind, sum)| Some((self.name(*kind)?.clone(), fixed(*sum))))
            .collect()
    }
}

/// An amount for the outside; what is more than it can say is cut.
pub(crate) fn fixed(sum: u128) -> Fixed {
    Fixed::from_thousandths(u64::try_from(sum).unwrap_or(u64::MAX))
}

/// What there is of `kind`.
pub(crate) fn amount(scalars: &Scalars, kind: Kind) -> u128 {
    scalars
        .iter()
        .find(|(found, _)| *found == kind)
        .map_or(0, |(_, sum)| *sum)
}

/// A sum over many bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sums(Vec<(Kind, u128)>);

impl Sums {
    pub(crate) fn add(&mut self, scalars: &Scalars) {
        for (hint, (kind, more)) in scalars.iter().enumerate() {
            let sum = self.entry(*kind, hint);
            *sum = sum.saturating_add(*more);
        }
    }

    /// Takes away what was added before.
    pub(crate) fn subtract(&mut self, scalars: &Scalars) {
        for (hint, (kind, less)) in scalars.iter().enumerate() {
            let sum = self.entry(*kind, hint);
            *sum = sum.saturating_sub(*less);
        }
    }

    pub(crate) fn set(&mut self, kind: Kind, sum: u128) {
        *self.entry(kind, 0) = sum;
    }

    /// The sum of `kind`, which is likely to stand at `hint`: most sums are of the same kinds.
    fn entry(&mut self, kind: Kind, hint: usize) -> &mut u128 {
        let at = match self.find(kind, hint) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (kind, 0));
                at
            }
        };
        &mut self.0[at].1
    }

    fn find(&self, kind: Kind, hint: usize) -> Result<usize, usize> {
        match self.0.get(hint) {
            Some((found, _)) if *found == kind => Ok(hint),
            _ => self.0.binary_search_by_key(&kind, |(kind, _)| *kind),
        }
    }

    pub(crate) fn get(&self, kind: Kind) -> u128 {
        self.get_at(kind, 0)
    }

    fn get_at(&self, kind: Kind, hint: usize) -> u128 {
        self.find(kind, hint).map_or(0, |at| self.0[at].1)
    }

    pub(crate) fn as_scalars(&self) -> &Scalars {
        &self.0
    }

    /// Nothing of any kind.
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|(_, sum)| *sum == 0)
    }

    /// The largest part of `totals` that this is, of kinds that count, divided by a weight; 0 of
    /// nothing.
    pub(crate) fn dominant(&self, totals: &Totals, weight: u64) -> Ratio {
        let mut dominant = Ratio::ZERO;
        for (hint, (kind, sum)) in self.0.iter().enumerate() {
            if *sum > 0
                && let Some(total) = totals.counted(*kind, hint)
            {
                let ratio = Ratio::new(*sum, total, weight);
                if ratio > dominant {
                    dominant = ratio;
                }
            }
        }
        dominant
    }
}

/// What the whole cluster has.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    sums: Sums,
    excluded: Vec<Kind>,
}

impl Totals {
    pub(crate) fn new(excluded: Vec<Kind>) -> Self {
        Self {
            sums: Sums::default(),
            excluded,
        }
    }

    pub(crate) fn sums_mut(&mut self) -> &mut Sums {
        &mut self.sums
    }

    /// The total of a kind that counts in shares, and that is likely to stand at `hint`.
    fn counted(&self, kind: Kind, hint: usize) -> Option<u128> {
        let total = self.sums.get_at(kind, hint);
        (total > 0 && !self.excluded.contains(&kind)).then_some(total)
    }
}

/// `numerator / (denominator * weight)`, compared exactly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    /// Close to the value: settles most comparisons at once.
    approximate: f64,
    weight: u64,
    numerator: u128,
    denominator: u128,
}

/// Beyond this part of the sum of two approximations neither can be wrong: each carries the error
/// of five roundings of 2^-53.
const CERTAIN: f64 = 1e-14;

impl Ratio {
    /// Nothing of something.
    pub(crate) const ZERO: Self = Self {
        approximate: 0.0,
        numerator: 0,
        denominator: 1,
        weight: 1,
    };

    /// `denominator` and `weight` are above 0.
    #[expect(
        clippy::cast_precision_loss,
        reason = "what the approximation leaves open is compared exactly"
    )]
    pub(crate) fn new(numerator: u128, denominator: u128, weight: u64) -> Self {
        Self {
            approximate: to_f64(numerator) / (to_f64(denominator) * weight as f64),
            weight,
            numerator,
            denominator,
        }
    }

    /// For the outside, before weights.
    pub(crate) fn share(self) -> Share {
        let (mut numerator, mut denominator) = (self.numerator, self.denominator);
        while let (Err(_), _) | (_, Err(_)) = (u64::try_from(numerator), u64::try_from(denominator))
        {
            numerator >>= 1;
            denominator >>= 1;
        }
        Share {
            numerator: u64::try_from(numerator).unwrap_or(u64::MAX),
            denominator: u64::try_from(denominator).unwrap_or(u64::MAX),
        }
    }

    /// Numerator and weighted denominator, when products of two such are no overflow: nearly
    /// always.
    fn small(&self) -> Option<(u128, u128)> {
        let denominator = u64::try_from(self.denominator).ok()?;
        let numerator = u64::try_from(self.numerator).ok()?;
        let weighted = denominator.checked_mul(self.weight)?;
        Some((numerator.into(), weighted.into()))
    }

    fn exactly(&self, other: &Self) -> Ordering {
        if let (Some((n, d)), Some((m, e))) = (self.small(), other.small()) {
            return (n * e).cmp(&(m * d));
        }
        let left = product([self.numerator, other.denominator, other.weight.into()]);
        let right = product([other.numerator, self.denominator, self.weight.into()]);
        left.cmp(&right)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what the approximation leaves open is compared exactly"
)]
fn to_f64(n: u128) -> f64 {
    u64::try_from(n).map_or_else(|_| large_to_f64(n), |small| small as f64)
}

/// A call of its own, or every small number would be converted as a large one too.
#[cold]
#[inline(never)]
#[expect(
    clippy::cast_precision_loss,
    reason = "what the approximation leaves open is compared exactly"
)]
const fn large_to_f64(n: u128) -> f64 {
    n as f64
}

/// The product in limbs, the highest first, so that lists compare as numbers do.
fn product(factors: [u128; 3]) -> [u64; 6] {
    let mut limbs = [0_u64; 6];
    limbs[5] = 1;
    let halves = factors.iter().map(|f| (low(f >> 64), low(*f)));
    for (high, low) in halves {
        let shifted = if high == 0 {
            [0; 6]
        } else {
            let mut times_high = multiplied(limbs, high);
            times_high.rotate_left(1);
            times_high[5] = 0;
            times_high
        };
        limbs = sum(multiplied(limbs, low), shifted);
    }
    limbs
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(n: u128) -> u64 {
    n as u64
}

fn multiplied(mut limbs: [u64; 6], factor: u64) -> [u64; 6] {
    let mut carry = 0_u128;
    for limb in limbs.iter_mut().rev() {
        let wide = u128::from(*limb) * u128::from(factor) + carry;
        *limb = low(wide);
        carry = wide >> 64;
    }
    limbs
}

fn sum(mut left: [u64; 6], right: [u64; 6]) -> [u64; 6] {
    let mut carry = 0_u128;
    for (limb, more) in left.iter_mut().zip(right).rev() {
        let wide = u128::from(*limb) + u128::from(more) + carry;
        *limb = low(wide);
        carry = wide >> 64;
    }
    left
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ratio {}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let apart = self.approximate - other.approximate;
        let certain = CERTAIN * (self.approximate + other.approximate);
        if apart > certain {
            return Ordering::Greater;
        }
        if apart < -certain {
            return Ordering::Less;
        }
        if self.denominator == other.denominator && self.weight == other.weight {
            return self.numerator.cmp(&other.numerator);
        }
        self.exactly(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ratios_compare_as_fractions_do(
            a in 0_u128..50, b in 1_u128..50, v in 1_u64..9,
            c in 0_u128..50, d in 1_u128..50, w in 1_u64..9,
            scale in 0_u32..60,
        ) {
            let exact = (a * d * u128::from(w)).cmp(&(c * b * u128::from(v)));
            let (left, right) = (Ratio::new(a << scale, b << scale, v), Ratio::new(c, d, w));
            prop_assert_eq!(left.cmp(&right), exact);
        }
    }

    #[test]
    fn the_largest_numbers_compare_exactly() {
        let max = u128::MAX;
        let ratio = |n, d| Ratio::new(n, d, u64::MAX);
        assert!(ratio(max - 1, max) < ratio(max, max));
        assert!(ratio(max - 2, max - 1) < ratio(max - 1, max));
        assert_eq!(ratio(max, max), ratio(1, 1));
        assert!(Ratio::new(1, max, u64::MAX) > Ratio::ZERO);
    }

    #[test]
    fn a_share_beyond_64_bits_keeps_its_proportion() {
        let share = Ratio::new(u128::MAX / 4, u128::MAX / 2, 1).share();
        assert!((share.as_f64() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn sums_are_taken_back_exactly() {
        let mut sums = Sums::default();
        let large = [(0, u128::from(u64::MAX)), (3, 1)];
        sums.add(&large);
        sums.add(&large);
        sums.subtract(&large);
        assert_eq!(sums.as_scalars(), &large);
        assert_eq!(sums.get(2), 0);
        sums.subtract(&large);
        assert!(sums.is_zero());
    }
}
