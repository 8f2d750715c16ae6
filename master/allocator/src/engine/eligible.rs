//! What of an agent a client may be granted: the rules of `docs/design/allocation.md`, "Bundles".
//!
//! The same code decides and explains: a refusal says which rule it was.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use allotment_types::{Fixed, Lot, Name, Ranges, Resources, Role, Timestamp, Value};

use super::agents::Agent;
use super::books::Books;
use super::bundle::is_unreserved;
use super::clients::{Asked, Client, Wish};
use super::roles::Appetite;
use super::slab::Slot;
use super::sums::{Kind, Scalars, amount, fixed};
use crate::{Amounts, Capabilities};

/// Which part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Guarantees,
    FairShare,
}

/// What a client may be granted.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Everything that is free, shared lots aside.
    Whole,
    /// This, and how many bundles of a demand it is.
    Part(Resources, u32),
}

/// The rule that left nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum No {
    Constraints,
    Gpus,
    Region,
    /// Everything free is of lots that the client may not have.
    Lots,
    /// Limits of its role or one above it.
    Limit,
    /// Guarantees of others.
    Headroom,
    /// A hole is kept for somebody else.
    Hole,
    /// Not even one bundle of its demand.
    Demand,
    /// Less than the smallest bundle that it takes.
    TooSmall,
    Filtered(Timestamp),
    /// Phase 1: nothing of it is guaranteed.
    NotGuaranteed,
}

/// What made a difference on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    pub(crate) by_limit: bool,
    pub(crate) by_headroom: bool,
}

/// A client on an agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) now: Timestamp,
    pub(crate) phase: Phase,
    pub(crate) agent_slot: Slot,
    pub(crate) agent: &'a Agent,
    pub(crate) client_slot: Slot,
    pub(crate) client: &'a Client,
    pub(crate) wish: &'a Wish,
    pub(crate) role: &'a Role,
    pub(crate) capabilities: Capabilities,
}

impl Books {
    /// A subscribed client on an agent.
    pub(crate) fn case(
        &self,
        now: Timestamp,
        phase: Phase,
        agent_slot: Slot,
        client_slot: Slot,
    ) -> Option<Case<'_>> {
        let client = &self.clients[client_slot];
        Some(Case {
            now,
            phase,
            agent_slot,
            agent: &self.agents[agent_slot],
            client_slot,
            client,
            wish: client.wish.as_deref()?,
            role: self.roles.node(client.role).role.as_ref()?,
            capabilities: self.frameworks[client.framework].capabilities,
        })
    }

    /// What the client may be granted of the agent, or why nothing.
    pub(crate) fn judge(&self, case: &Case<'_>, cut: &mut Cut) -> Result<Offer, No> {
        self.is_for(case)?;
        let free = &case.agent.free;
        let whole = free.plain
            && !self.roles.any_quota()
            && case.agent.hole.is_none()
            && case.wish.demand.is_none();
        if whole {
            self.settle(case, &free.resources, free.scalars())?;
            return Ok(Offer::Whole);
        }
        let (mut rest, mut why) = (free.resources.clone(), No::TooSmall);
        if !free.plain {
            rest = rest.filter(|_, lot| is_open(lot, case));
            if rest.is_empty() {
                return Err(No::Lots);
            }
        }
        if let Some(allowed) = self.allowed(case, &rest, cut) {
            rest = chop(&rest, &allowed, |name| self.bundles.kinds.find(name));
            why = if cut.by_limit {
                No::Limit
            } else {
                No::Headroom
            };
        }
        if case
            .agent
            .hole
            .is_some_and(|client| client != case.client_slot)
        {
            rest = unreserved_left_out(&rest);
            why = No::Hole;
        }
        if rest.is_empty() {
            return Err(why);
        }
        let mut bundles = 0;
        if let Some(asked) = &case.wish.demand {
            let before = rest;
            (rest, bundles) = fill(&before, asked).ok_or(match why {
                No::TooSmall => No::Demand,
                other => other,
            })?;
        }
        let sums;
        let scalars = if rest.is_same(&free.resources) {
            free.scalars()
        } else {
            sums = self.sum_where(&rest, |_| true);
            &sums
        };
        self.settle(case, &rest, scalars)
            .map_err(|no| if no == No::TooSmall { why } else { no })?;
        if case.phase == Phase::Guarantees && !self.is_guaranteed(case, &rest) {
            return Err(No::NotGuaranteed);
        }
        Ok(Offer::Part(rest, bundles))
    }

    /// Rule 1: the agent is for the client at all.
    pub(crate) fn is_for(&self, case: &Case<'_>) -> Result<(), No> {
        let common = &self.settings.common;
        if let Some(constraints) = &case.wish.constraints
            && !constraints.wants(case.agent_slot, case.agent)
        {
            return Err(No::Constraints);
        }
        if common.filter_gpus && case.agent.total.gpus && !case.capabilities.gpu {
            return Err(No::Gpus);
        }
        if let (Some(here), Some(there)) = (&common.domain, &case.agent.about.domain)
            && here.region != there.region
            && !case.capabilities.region_aware
        {
            return Err(No::Region);
        }
        Ok(())
    }

    /// Rules 6 and 7: enough, and not declined.
    fn settle(&self, case: &Case<'_>, what: &Resources, scalars: &Scalars) -> Result<(), No> {
        if !is_enough(&case.wish.least, scalars) {
            return Err(No::TooSmall);
        }
        let filters = &case.agent.filters;
        if filters.is_empty() {
            return Ok(());
        }
        match filters.blocked_until(case.now, case.client_slot, what) {
            Some(until) => Err(No::Filtered(until)),
            None => Ok(()),
        }
    }

    /// Rule 3: how much of each unreserved amount is permitted, where that is less than there is.
    fn allowed(
        &self,
        case: &Case<'_>,
        open: &Resources,
        cut: &mut Cut,
    ) -> Option<Vec<(Kind, u128)>> {
        if !self.roles.any_quota() {
            return None;
        }
        let role = case.client.role;
        let mut allowed = Vec::new();
        for (kind, there) in self.unreserved_of(case, open) {
            let room = self.roles.room(role, kind).unwrap_or(u128::MAX);
            let headroom = self.headroom(case, kind);
            cut.by_limit |= room < there;
            cut.by_headroom |= headroom < there;
            if room.min(headroom) < there {
                allowed.push((kind, room.min(headroom)));
            }
        }
        (!allowed.is_empty()).then_some(allowed)
    }

    /// What headroom permits of a kind.
    fn headroom(&self, case: &Case<'_>, kind: Kind) -> u128 {
        if self.roles.n_guaranteed == 0 {
            return u128::MAX;
        }
        let spare = self.spare(kind);
        match case.phase {
            Phase::FairShare => spare,
            Phase::Guarantees => spare.max(self.roles.promised(case.client.role, kind)),
        }
    }

    /// What is unreserved of `open`, a part of what is free on the agent. Unreserved lots are
    /// open to everybody, so it is all of it unless something unreserved is revocable or shared.
    fn unreserved_of(&self, case: &Case<'_>, open: &Resources) -> Vec<(Kind, u128)> {
        if open.is_same(&case.agent.free.resources) {
            return case.agent.free.unreserved().to_vec();
        }
        self.sum_where(open, is_unreserved)
    }

    /// The scalars of a part of an agent's resources.
    pub(crate) fn scalars_of(&self, resources: &Resources) -> Vec<(Kind, u128)> {
        self.sum_where(resources, |_| true)
    }

    fn sum_where(&self, resources: &Resources, counts: impl Fn(&Lot) -> bool) -> Vec<(Kind, u128)> {
        let mut sums: BTreeMap<Kind, u128> = BTreeMap::new();
        for (name, lot, value) in resources.iter() {
            if let Value::Scalar(amount) = value
                && counts(lot)
                && let Some(kind) = self.bundles.kinds.find(name)
            {
                *sums.entry(kind).or_default() += u128::from(amount.thousandths());
            }
        }
        sums.into_iter().collect()
    }

    /// Whether phase 1 may grant this: it holds something of what is promised.
    fn is_guaranteed(&self, case: &Case<'_>, what: &Resources) -> bool {
        self.sum_where(what, is_unreserved)
            .iter()
            .any(|(kind, held)| *held > 0 && self.roles.promised(case.client.role, *kind) > 0)
    }

    /// Of a part of the agent's resources what rules 1 and 2 leave of amounts that a hole can be
    /// made of.
    pub(crate) fn kept_for_hole(&self, case: &Case<'_>, of: &Resources) -> Resources {
        of.filter(|_, lot| {
            is_open(lot, case) && !lot.is_unchoppable() && !lot.is_revocable() && !lot.is_shared()
        })
    }

    /// The same with the unreserved part cut to what limits leave.
    pub(crate) fn within_limits(&self, case: &Case<'_>, of: &Resources) -> Resources {
        let cut: Vec<(Kind, u128)> = self
            .sum_where(of, is_unreserved)
            .into_iter()
            .filter_map(|(kind, there)| {
                let room = self.roles.room(case.client.role, kind)?;
                (room < there).then_some((kind, room))
            })
            .collect();
        if cut.is_empty() {
            return of.clone();
        }
        chop(of, &cut, |name| self.bundles.kinds.find(name))
    }

    /// Whether rules 1 to 4 leave a whole bundle of the demand free on the agent.
    pub(crate) fn is_bundle_free(&self, case: &Case<'_>, asked: &Asked) -> bool {
        let mut rest = case
            .agent
            .free
            .resources
            .filter(|_, lot| is_open(lot, case));
        if let Some(allowed) = self.allowed(case, &rest, &mut Cut::default()) {
            rest = chop(&rest, &allowed, |name| self.bundles.kinds.find(name));
        }
        if case
            .agent
            .hole
            .is_some_and(|client| client != case.client_slot)
        {
            rest = unreserved_left_out(&rest);
        }
        holds_bundle(&rest, &asked.demand.bundle)
    }
}

/// Rule 2: whether the client may have this lot.
pub(crate) fn is_open(lot: &Lot, case: &Case<'_>) -> bool {
    lot.is_plain()
        || lot.is_open_to(case.role)
            && (lot.reservations().len() < 2 || case.capabilities.reservation_refinement)
            && (!lot.is_revocable() || case.capabilities.revocable)
            && (!lot.is_shared() || case.capabilities.shared)
}

/// Rule 6: whether there is as much as any of the smallest bundles.
pub(crate) fn is_enough(least: &Appetite, scalars: &Scalars) -> bool {
    least.is_empty()
        || least.iter().any(|amounts| {
            amounts
                .iter()
                .all(|(kind, least)| amount(scalars, *kind) >= *least)
        })
}

/// Rule 4: without unreserved amounts and unreserved non-scalars.
fn unreserved_left_out(resources: &Resources) -> Resources {
    let mut left = Resources::EMPTY;
    for (name, lot, value) in resources.iter() {
        let is_amount = matches!(value, Value::Scalar(_));
        if !lot.reservations().is_empty() || (is_amount && lot.is_revocable()) {
            left = left.with(name.clone(), lot.clone(), value.clone());
        }
    }
    left
}

/// Cuts unreserved amounts, name by name: lots in their order are filled until the cut is
/// reached; one that can only be given whole is given whole or left.
fn chop(
    resources: &Resources,
    allowed: &[(Kind, u128)],
    kind_of: impl Fn(&Name) -> Option<Kind>,
) -> Resources {
    let mut left: BTreeMap<Kind, u128> = allowed.iter().copied().collect();
    let mut chopped = resources.clone();
    for (name, lot, value) in resources.iter() {
        let Value::Scalar(there) = value else {
            continue;
        };
        let Some(left) = kind_of(name).and_then(|kind| left.get_mut(&kind)) else {
            continue;
        };
        if !is_unreserved(lot) {
            continue;
        }
        let there = u128::from(there.thousandths());
        let taken = if there <= *left {
            there
        } else if lot.is_unchoppable() {
            0
        } else {
            *left
        };
        *left -= taken;
        if taken < there {
            chopped = chopped.with(name.clone(), lot.clone(), Value::Scalar(fixed(taken)));
        }
    }
    chopped
}

/// Rule 5: as many bundles of the demand as there are, and how many; `None`: not even one.
fn fill(resources: &Resources, asked: &Asked) -> Option<(Resources, u32)> {
    let bundle = &asked.demand.bundle;
    let n = bundle
        .iter()
        .map(|(name, amount)| bundles_in(resources, name, *amount))
        .min()?
        .min(u128::from(asked.left));
    let n = u32::try_from(n).ok().filter(|n| *n > 0)?;
    let mut filled = Resources::EMPTY;
    for (name, amount) in bundle {
        let mut wanted = u128::from(amount.thousandths()) * u128::from(n);
        for (lot, value) in lots_in_turn(resources, name) {
            if wanted == 0 {
                break;
            }
            let (taken, amount) = take(value, wanted);
            wanted = wanted.saturating_sub(amount);
            filled = filled.with(name.clone(), lot.clone(), taken);
        }
    }
    Some((filled, n))
}

/// Whether one bundle is there.
pub(crate) fn holds_bundle(resources: &Resources, bundle: &Amounts) -> bool {
    bundle
        .iter()
        .all(|(name, amount)| bundles_in(resources, name, *amount) > 0)
}

/// How many times `amount` of a name is there, in lots that can be cut.
fn bundles_in(resources: &Resources, name: &Name, amount: Fixed) -> u128 {
    measure(resources, name) / u128::from(amount.thousandths()).max(1)
}

/// How much of a name is there, in lots that can be cut: thousandths, and a thousand per port.
pub(crate) fn measure(resources: &Resources, name: &Name) -> u128 {
    lots_in_turn(resources, name)
        .iter()
        .map(|(_, value)| match value {
            Value::Scalar(amount) => u128::from(amount.thousandths()),
            Value::Ranges(ranges) => u128::from(ranges.count()) * 1000,
            Value::Set(_) => 0,
        })
        .sum()
}

/// The lots of a name in the order in which demands take from them.
fn lots_in_turn<'a>(resources: &'a Resources, name: &Name) -> Vec<(&'a Lot, &'a Value)> {
    let is_ports = *name == Name::PORTS;
    let mut lots: Vec<(&Lot, &Value)> = resources
        .iter()
        .filter(|(found, lot, _)| *found == name && !lot.is_unchoppable() && !lot.is_shared())
        .map(|(_, lot, value)| (lot, value))
        .filter(|(_, value)| matches!(value, Value::Ranges(_)) == is_ports)
        .collect();
    lots.sort_by_key(|(lot, _)| (lot.is_revocable(), Reverse(lot.reservations().len())));
    lots
}

/// Takes `wanted` thousandths of a value, whole ports, and says how much that is.
fn take(value: &Value, wanted: u128) -> (Value, u128) {
    match value {
        Value::Scalar(there) => {
            let taken = wanted.min(u128::from(there.thousandths()));
            (Value::Scalar(fixed(taken)), taken)
        }
        Value::Ranges(ranges) => {
            let ports = wanted.div_ceil(1000);
            let (taken, n) = lowest(ranges, ports);
            (Value::Ranges(taken), n * 1000)
        }
        Value::Set(_) => (Value::Set(std::collections::BTreeSet::new()), 0),
    }
}

/// The lowest `n` numbers, or all, and how many they are.
fn lowest(ranges: &Ranges, n: u128) -> (Ranges, u128) {
    let mut left = n;
    let mut taken = Vec::new();
    for (begin, end) in ranges.iter() {
        if left == 0 {
            break;
        }
        let here = u128::from(end - begin) + 1;
        let cut = here.min(left);
        let last = u128::from(begin) + cut - 1;
        taken.push((begin, u64::try_from(last).unwrap_or(end)));
        left -= cut;
    }
    (Ranges::new(taken), n - left)
}
