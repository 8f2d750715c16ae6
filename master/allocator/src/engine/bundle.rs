//! Bundles of resources, each kept once with what the rules ask of it.
//!
//! Clusters are made of equal machines and equal tasks. Each different bundle is kept once, so
//! that an agent costs pointers, and what is derived from a bundle is derived once.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_types::{Lot, Name, Resources, Value};

use super::sums::{Kinds, Scalars};

/// Sweeping earlier would cost more than the few bundles are worth.
const SWEEP_AT_LEAST: usize = 1024;

/// A bundle that is kept once.
pub(crate) type Bundle = Arc<BundleInfo>;

/// A bundle and what the rules ask of it.
#[derive(Debug, Default)]
pub(crate) struct BundleInfo {
    pub(crate) resources: Resources,
    /// All scalars, shared lots left out.
    scalars: Box<Scalars>,
    /// Those that are unreserved and not revocable; `None`: all of them.
    unreserved: Option<Box<Scalars>>,
    /// Every lot is plain.
    pub(crate) plain: bool,
    /// Some lot is shared.
    pub(crate) shared: bool,
    /// Some lot is revocable.
    pub(crate) revocable: bool,
    /// Some unreserved amount can only be given whole.
    pub(crate) unchoppable: bool,
    /// There are GPUs.
    pub(crate) gpus: bool,
    /// Lots, and the runs of numbers that ranges are made of.
    pieces: u64,
}

/// So many pieces of a bundle are looked at in the time of one look at a usual agent, which has
/// about four.
const PIECES_PER_LOOK: u64 = 16;

impl BundleInfo {
    fn new(resources: Resources, kinds: &mut Kinds) -> Self {
        let mut info = Self {
            plain: true,
            ..Self::default()
        };
        let mut scalars = BTreeMap::new();
        let mut unreserved = BTreeMap::new();
        for (name, lot, value) in resources.iter() {
            info.plain &= lot.is_plain();
            info.shared |= lot.is_shared();
            info.revocable |= lot.is_revocable();
            info.pieces += match value {
                Value::Scalar(_) => 1,
                Value::Ranges(ranges) => ranges.iter().count() as u64,
                Value::Set(set) => set.len() as u64,
            };
            let Value::Scalar(amount) = value else {
                continue;
            };
            info.gpus |= *name == Name::GPUS;
            let (kind, amount) = (kinds.number(name), u128::from(amount.thousandths()));
            if !lot.is_shared() {
                *scalars.entry(kind).or_default() += amount;
            }
            if is_unreserved(lot) {
                *unreserved.entry(kind).or_default() += amount;
                info.unchoppable |= lot.is_unchoppable();
            }
        }
        info.unreserved = (scalars != unreserved).then(|| unreserved.into_iter().collect());
        info.scalars = scalars.into_iter().collect();
        info.resources = resources;
        info
    }

    /// All scalars, shared lots left out.
    pub(crate) fn scalars(&self) -> &Scalars {
        &self.scalars
    }

    /// The scalars that are neither reserved nor revocable nor shared: what quotas are about.
    pub(crate) fn unreserved(&self) -> &Scalars {
        self.unreserved.as_ref().unwrap_or(&self.scalars)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// What a look at it costs beyond one: shredded bundles count by their pieces.
    pub(crate) const fn extra_looks(&self) -> u64 {
        self.pieces / PIECES_PER_LOOK
    }

    /// Whether all of `other` is here.
    pub(crate) fn contains(&self, other: &Resources) -> bool {
        self.resources.contains(other)
    }
}

/// Whether amounts of this lot count against quotas when they are held.
pub(crate) fn is_unreserved(lot: &Lot) -> bool {
    lot.is_plain() || (lot.reservations().is_empty() && !lot.is_revocable() && !lot.is_shared())
}

/// All bundles that somebody refers to.
#[derive(Debug)]
pub(crate) struct Bundles {
    pub(crate) kinds: Kinds,
    known: BTreeMap<Resources, Bundle>,
    /// The last ones asked for: what comes next is mostly one of them.
    recent: [Bundle; 4],
    turn: usize,
    sweep_at: usize,
    empty: Bundle,
}

impl Default for Bundles {
    fn default() -> Self {
        let mut kinds = Kinds::default();
        let empty = Arc::new(BundleInfo::new(Resources::EMPTY, &mut kinds));
        Self {
            kinds,
            known: BTreeMap::new(),
            recent: std::array::from_fn(|_| Arc::clone(&empty)),
            turn: 0,
            sweep_at: SWEEP_AT_LEAST,
            empty,
        }
    }
}

impl Bundles {
    pub(crate) fn empty(&self) -> Bundle {
        Arc::clone(&self.empty)
    }

    /// The one bundle with these resources.
    pub(crate) fn keep(&mut self, resources: &Resources) -> Bundle {
        if resources.is_empty() {
            return self.empty();
        }
        let same = |bundle: &&Bundle| bundle.resources.is_same(resources);
        let equal = |bundle: &&Bundle| bundle.resources == *resources;
        let recent = self.recent.iter();
        if let Some(bundle) = recent
            .clone()
            .find(same)
            .or_else(|| recent.clone().find(equal))
        {
            return Arc::clone(bundle);
        }
        let bundle = match self.known.get(resources) {
            Some(bundle) => Arc::clone(bundle),
            None => self.add(resources),
        };
        self.turn = (self.turn + 1) % self.recent.len();
        self.recent[self.turn] = Arc::clone(&bundle);
        bundle
    }

    fn add(&mut self, resources: &Resources) -> Bundle {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, bundle| Arc::strong_count(bundle) > 1);
            self.sweep_at = SWEEP_AT_LEAST.max(2 * self.known.len());
        }
        let bundle = Arc::new(BundleInfo::new(resources.clone(), &mut self.kinds));
        self.known.insert(resources.clone(), Arc::clone(&bundle));
        bundle
    }

    /// The sum of two bundles.
    pub(crate) fn plus(&mut self, left: &Bundle, right: &Bundle) -> Bundle {
        if left.is_empty() {
            return Arc::clone(right);
        }
        if right.is_empty() {
            return Arc::clone(left);
        }
        self.keep(&left.resources.plus(&right.resources))
    }

    /// What is left of a bundle.
    pub(crate) fn minus(&mut self, left: &Bundle, right: &Bundle) -> Bundle {
        if right.is_empty() {
            return Arc::clone(left);
        }
        if Arc::ptr_eq(left, right) {
            return self.empty();
        }
        self.keep(&left.resources.minus(&right.resources))
    }

    /// What is in both, lot by lot.
    pub(crate) fn common(&mut self, left: &Bundle, right: &Bundle) -> Bundle {
        if Arc::ptr_eq(left, right) || right.contains(&left.resources) {
            return Arc::clone(left);
        }
        let missing = left.resources.minus(&right.resources);
        self.keep(&left.resources.minus(&missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_types::Role;

    fn resources(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn equal_bundles_are_kept_once_and_forgotten_when_unused() {
        let mut bundles = Bundles::default();
        let one = bundles.keep(&resources("cpus:1"));
        assert!(Arc::ptr_eq(&one, &bundles.keep(&resources("cpus:1"))));
        for i in 0..5000 {
            bundles.keep(&resources(&format!("mem:{}", i + 1)));
        }
        assert!(bundles.known.len() <= SWEEP_AT_LEAST);
        assert!(Arc::ptr_eq(&one, &bundles.keep(&resources("cpus:1"))));
    }

    #[test]
    fn only_plain_and_whole_disks_count_as_unreserved() {
        let mut bundles = Bundles::default();
        let web = Lot::reserved_statically(Role::parse("web").unwrap());
        let amount = |n| Value::Scalar(allotment_types::Fixed::units(n));
        let mixed = resources("cpus:4; mem:64")
            .with(Name::CPUS, web, amount(2))
            .with(
                Name::CPUS,
                Lot::PLAIN.with(|info| info.revocable = true),
                amount(8),
            );
        let bundle = bundles.keep(&mixed);
        let cpus = bundles.kinds.number(&Name::CPUS);
        assert_eq!(super::super::sums::amount(bundle.unreserved(), cpus), 4000);
        assert_eq!(super::super::sums::amount(bundle.scalars(), cpus), 14_000);
        assert!(!bundle.plain && bundle.revocable);
    }

    #[test]
    fn what_two_bundles_have_in_common_is_found_by_lot() {
        let mut bundles = Bundles::default();
        let left = bundles.keep(&resources("cpus:4; ports:[1-10]"));
        let right = bundles.keep(&resources("cpus:6; ports:[8-20]; mem:5"));
        let common = bundles.common(&left, &right);
        assert_eq!(common.resources, resources("cpus:4; ports:[8-10]"));
    }
}
