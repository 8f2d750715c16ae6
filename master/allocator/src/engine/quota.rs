//! Quotas: what roles consume, what limits leave, what guarantees still need.
//!
//! A role's consumption covers everything reserved for it or below it, and what clients there
//! hold of the rest (Mesos: `quota.md`).

use super::roles::{Node, ROOT, Roles};
use super::slab::Slot;
use super::sums::{Kind, Kinds, Scalars, Sums, amount};
use crate::Quota;

/// The quota of a role.
#[derive(Debug)]
pub(crate) struct NodeQuota {
    pub(crate) quota: Quota,
    limits: Vec<(Kind, u128)>,
    guarantees: Vec<(Kind, u128)>,
}

impl Node {
    pub(crate) fn limits(&self) -> &Scalars {
        self.quota.as_ref().map_or(&[], |quota| &quota.limits)
    }

    pub(crate) fn guarantees(&self) -> &Scalars {
        self.quota.as_ref().map_or(&[], |quota| &quota.guarantees)
    }

    /// What of its own guarantee is not satisfied yet.
    pub(crate) fn unsatisfied(&self, kind: Kind) -> u128 {
        amount(self.guarantees(), kind).saturating_sub(self.consumed.get(kind))
    }

    /// Whether anything of its own guarantee is not satisfied yet.
    pub(crate) fn is_unsatisfied(&self) -> bool {
        let mut guarantees = self.guarantees().iter();
        guarantees.any(|(kind, guarantee)| *guarantee > self.consumed.get(*kind))
    }

    /// What its own limit leaves; `None`: no limit.
    pub(crate) fn own_room(&self, kind: Kind) -> Option<u128> {
        let (_, limit) = self.limits().iter().find(|(limited, _)| *limited == kind)?;
        Some(limit.saturating_sub(self.consumed.get(kind)))
    }

    /// Whether its own limits leave every taker below without something it cannot do without.
    pub(crate) fn is_starved(&self) -> bool {
        if self.limits().is_empty() {
            return false;
        }
        let used_up = |(kind, _): &(Kind, u128)| self.own_room(*kind) == Some(0);
        self.appetites().all(|appetite| {
            !appetite.is_empty() && appetite.iter().all(|kinds| kinds.iter().any(used_up))
        })
    }
}

impl Roles {
    /// What the limits of the role and those above it leave; `None`: no limit.
    pub(crate) fn room(&self, slot: Slot, kind: Kind) -> Option<u128> {
        if self.n_limited == 0 {
            return None;
        }
        self.path(slot)
            .filter_map(|at| self.nodes[at].own_room(kind))
            .min()
    }

    /// The largest unsatisfied guarantee of the role and those above it.
    pub(crate) fn promised(&self, slot: Slot, kind: Kind) -> u128 {
        if self.n_guaranteed == 0 {
            return 0;
        }
        let path = self.path(slot);
        path.map(|at| self.nodes[at].unsatisfied(kind))
            .max()
            .unwrap_or(0)
    }

    /// What must be kept available for guarantees.
    pub(crate) fn required(&self) -> &Sums {
        &self.nodes[ROOT].need_below
    }

    /// Whether there are quotas at all.
    pub(crate) const fn any_quota(&self) -> bool {
        self.n_guaranteed > 0 || self.n_limited > 0
    }

    /// The role consumes more, or less.
    pub(crate) fn consume(&mut self, slot: Slot, amounts: &Scalars, more: bool) {
        if amounts.is_empty() {
            return;
        }
        self.changes += 1;
        let change = if more { Sums::add } else { Sums::subtract };
        let mut at = slot;
        while at != ROOT {
            if !more {
                self.note_room(at);
            }
            let node = &mut self.nodes[at];
            change(&mut node.consumed, amounts);
            at = node.parent;
        }
        self.refresh_need(slot);
    }

    /// More room below a limit that was felt is news for everybody below it.
    fn note_room(&mut self, slot: Slot) {
        let felt = self.nodes[slot].cut || self.was_starved(slot);
        let node = &mut self.nodes[slot];
        self.promised_more |= !node.guarantees().is_empty();
        if felt && !node.limits().is_empty() {
            node.cut = false;
            self.loosened.push(slot);
        }
    }

    /// The limits of the role and those above it made a difference to an offer.
    pub(crate) fn mark_cut(&mut self, slot: Slot) {
        let mut at = slot;
        while at != ROOT {
            let node = &mut self.nodes[at];
            node.cut = !node.limits().is_empty();
            at = node.parent;
        }
    }

    /// Works out again what the role and those above it need.
    fn refresh_need(&mut self, slot: Slot) {
        if self.n_guaranteed == 0 && self.nodes[ROOT].need_below.is_zero() {
            return;
        }
        let mut at = slot;
        while at != ROOT {
            let node = &mut self.nodes[at];
            let kinds: Vec<Kind> = node
                .guarantees()
                .iter()
                .chain(node.need_below.as_scalars())
                .chain(node.need.as_scalars())
                .map(|(kind, _)| *kind)
                .collect();
            let parent = node.parent;
            for kind in kinds {
                let node = &mut self.nodes[at];
                let need = node.unsatisfied(kind).max(node.need_below.get(kind));
                let old = node.need.get(kind);
                node.need.set(kind, need);
                let above = &mut self.nodes[parent].need_below;
                above.add(&[(kind, need)]);
                above.subtract(&[(kind, old)]);
            }
            at = parent;
        }
    }

    /// The default quota ends what was set. The caller places and tidies the node.
    pub(crate) fn set_quota(&mut self, slot: Slot, quota: Quota, kinds: &mut Kinds) {
        self.changes += 1;
        let new = (quota != Quota::default()).then(|| {
            Box::new(NodeQuota {
                limits: kinds.numbered(&quota.limits),
                guarantees: kinds.numbered(&quota.guarantees),
                quota,
            })
        });
        let is_set = new.is_some();
        let old = std::mem::replace(&mut self.nodes[slot].quota, new);
        if let Some(old) = &old {
            self.n_limited -= usize::from(!old.limits.is_empty());
            self.n_guaranteed -= usize::from(!old.guarantees.is_empty());
        }
        let node = &self.nodes[slot];
        let (limited, guaranteed) = (!node.limits().is_empty(), !node.guarantees().is_empty());
        self.n_limited += usize::from(limited);
        self.n_guaranteed += usize::from(guaranteed);
        self.refresh_need(slot);
        match (old.is_some(), is_set) {
            (false, true) => self.refer(slot),
            (true, false) => self.release(slot),
            _ => {}
        }
    }
}
