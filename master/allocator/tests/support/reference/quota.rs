//! Consumption, limits and headroom (contract: "Bundles").

use std::collections::BTreeSet;

use allotment_allocator::{Amounts, Quota};
use allotment_types::{Fixed, Lot, Name, Resources, Role, Value};

use super::Reference;

/// A scalar that is neither reserved nor revocable, and no shared volume.
pub(super) fn is_unreserved_amount(lot: &Lot, value: &Value) -> bool {
    matches!(value, Value::Scalar(_))
        && lot.reservations().is_empty()
        && !lot.is_revocable()
        && !lot.is_shared()
}

/// How much of `name` there is in `resources` in those of its scalars that `counts` picks.
pub(super) fn sum(
    resources: &Resources,
    name: &Name,
    counts: impl Fn(&Lot, &Value) -> bool,
) -> u128 {
    let parts = resources.iter().filter(|(n, _, _)| *n == name);
    parts
        .filter(|(_, lot, value)| counts(lot, value))
        .map(|(_, _, value)| match value {
            Value::Scalar(amount) => u128::from(amount.thousandths()),
            Value::Ranges(_) | Value::Set(_) => 0,
        })
        .sum()
}

impl Reference {
    /// How much of `name` counts against the quota of `role`.
    fn consumed_of(&self, role: &Role, name: &Name) -> u128 {
        let below = |other: &Role| other == role || role.is_ancestor_of(other);
        let agents = self.agents.iter();
        agents
            .map(|agent| {
                let reserved = sum(&agent.spec.total, name, |lot, _| {
                    lot.reserved_for().is_some_and(below) && !lot.is_revocable()
                });
                let held = agent.held.iter().filter(|((_, role), _)| below(role));
                let unreserved: u128 = held
                    .map(|(_, held)| sum(held, name, is_unreserved_amount))
                    .sum();
                reserved + unreserved
            })
            .sum()
    }

    pub(super) fn consumed_amounts(&self, role: &Role) -> Amounts {
        let totals = self.agents.iter().flat_map(|a| a.spec.total.scalars());
        let names: BTreeSet<&Name> = totals.map(|(name, _)| name).collect();
        let fixed = |n: u128| Fixed::from_thousandths(u64::try_from(n).unwrap_or(u64::MAX));
        names
            .into_iter()
            .map(|name| (name.clone(), fixed(self.consumed_of(role, name))))
            .filter(|(_, amount)| !amount.is_zero())
            .collect()
    }

    /// How much more of `name` the limits of the role and its ancestors allow; `None`: any.
    pub(super) fn limit_room(&self, role: &Role, name: &Name) -> Option<u128> {
        let limited = role.path().filter_map(|role| {
            let limit = u128::from(self.quotas.get(&role)?.limits.get(name)?.thousandths());
            Some(limit.saturating_sub(self.consumed_of(&role, name)))
        });
        limited.min()
    }

    fn unsatisfied(&self, role: &Role, name: &Name) -> u128 {
        let guarantee = |quota: &Quota| Some(quota.guarantees.get(name)?.thousandths());
        match self.quotas.get(role).and_then(guarantee) {
            Some(guarantee) => u128::from(guarantee).saturating_sub(self.consumed_of(role, name)),
            None => 0,
        }
    }

    pub(super) fn any_guarantee_unsatisfied(&self) -> bool {
        self.quotas.iter().any(|(role, quota)| {
            let mut names = quota.guarantees.keys();
            names.any(|name| self.unsatisfied(role, name) > 0)
        })
    }

    /// The largest unsatisfied guarantee of the role and its ancestors.
    pub(super) fn promised(&self, role: &Role, name: &Name) -> u128 {
        let path = role.path();
        path.map(|role| self.unsatisfied(&role, name))
            .max()
            .unwrap_or(0)
    }

    /// What must stay available of `name` for guarantees.
    fn required(&self, name: &Name) -> u128 {
        let with_quota: BTreeSet<Role> = self.quotas.keys().flat_map(Role::path).collect();
        let top = with_quota.iter().filter(|role| role.parent().is_none());
        top.map(|role| self.need(&with_quota, role, name)).sum()
    }

    fn need(&self, with_quota: &BTreeSet<Role>, role: &Role, name: &Name) -> u128 {
        let children = with_quota
            .iter()
            .filter(|child| child.parent().as_ref() == Some(role));
        let of_children = children
            .map(|child| self.need(with_quota, child, name))
            .sum();
        self.unsatisfied(role, name).max(of_children)
    }

    /// What is available of `name` beyond what must stay so; whatever there is, when nothing
    /// must.
    pub(super) fn spare(&self, name: &Name) -> u128 {
        let required = self.required(name);
        if required == 0 {
            return u128::MAX;
        }
        let active = self.agents.iter().filter(|agent| agent.active);
        let available: u128 = active
            .map(|agent| sum(&agent.free(), name, is_unreserved_amount))
            .sum();
        available.saturating_sub(required)
    }
}
