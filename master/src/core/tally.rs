//! Sums of scalars over many agents, where ranges and sets have no meaningful sum.

use std::collections::BTreeMap;

use allotment_types::{Fixed, Name, Resources};

/// A running sum of scalars.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(BTreeMap<Name, u64>);

impl Tally {
    pub(super) fn add(&mut self, resources: &Resources) {
        for (name, amount) in resources.scalars() {
            match self.0.get_mut(name) {
                Some(sum) => *sum = sum.saturating_add(amount.thousandths()),
                None => {
                    self.0.insert(name.clone(), amount.thousandths());
                }
            }
        }
    }

    pub(super) fn subtract(&mut self, resources: &Resources) {
        for (name, amount) in resources.scalars() {
            if let Some(sum) = self.0.get_mut(name) {
                *sum = sum.saturating_sub(amount.thousandths());
                if *sum == 0 {
                    self.0.remove(name);
                }
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &Name) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(super) fn to_resources(&self) -> Resources {
        self.0.iter().fold(Resources::EMPTY, |sum, (name, amount)| {
            sum.with_scalar(name.clone(), Fixed::from_thousandths(*amount))
        })
    }
}
