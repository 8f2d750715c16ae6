//! A round, and what of an agent a client may be granted (contract: "A round", "Bundles").

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::constraint::Described;
use allotment_allocator::{Allocation, Amounts, Demand, InverseAllocation, Placement, Round};
use allotment_types::{AgentId, Fixed, Lot, Name, Ranges, Resources, Role, Timestamp, Value};

use super::quota::{is_unreserved_amount, sum};
use super::ratio::Ratio;
use super::{Agent, Client, Reference};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Guarantees,
    FairShare,
}

/// What happened in this round so far.
#[derive(Debug, Default)]
struct Progress {
    allocations: Vec<Allocation>,
    shared: BTreeSet<(AgentId, Name, Lot)>,
    /// A hole ended, so that others may have what it kept.
    hole_ended: bool,
}

/// What a client is granted of an agent, and how many bundles of its demand that is.
#[derive(Debug)]
struct Bundle {
    resources: Resources,
    of_demand: u32,
}

impl Reference {
    pub(super) fn round(&mut self, now: Timestamp) -> Round {
        self.rounds += 1;
        self.end_by_time(now);
        if self.paused {
            return Round::default();
        }
        let order = self.candidates();
        let mut progress = Progress::default();
        loop {
            progress.hole_ended = false;
            if self.any_guarantee_unsatisfied() {
                self.phase(Phase::Guarantees, &order, &mut progress);
            }
            self.phase(Phase::FairShare, &order, &mut progress);
            if !progress.hole_ended {
                break;
            }
        }
        let granted = progress.allocations.iter();
        let granted = granted.map(|x| (x.framework.clone(), x.role.clone()));
        self.keep_holes(now, &granted.collect());
        Round {
            allocations: progress.allocations,
            inverse: self.inverse(now),
            ..Round::default()
        }
    }

    /// The agents to visit, as places in `agents`.
    fn candidates(&self) -> Vec<usize> {
        let mut candidates: Vec<usize> = (0..self.agents.len())
            .filter(|at| self.agents[*at].active && !self.agents[*at].free().is_empty())
            .collect();
        let agent = |at: &usize| &self.agents[*at];
        match self.settings.placement {
            Placement::Rotate => candidates.sort_by_key(|at| agent(at).registration < self.turn),
            Placement::Spread => candidates.sort_by(|a, b| used(agent(a)).cmp(used(agent(b)))),
            Placement::Pack => candidates.sort_by(|a, b| used(agent(b)).cmp(used(agent(a)))),
            Placement::Random => candidates.sort_by_key(|at| {
                mix(self.settings.seed ^ mix(self.rounds ^ mix(agent(at).registration)))
            }),
        }
        candidates
    }

    fn phase(&mut self, phase: Phase, order: &[usize], progress: &mut Progress) {
        let mut clients = self.clients_in_order();
        for at in order {
            while let Some((client, bundle)) = self.next_grant(phase, *at, &clients, progress) {
                self.grant(*at, &client, bundle, progress);
                // Only a grant changes the order.
                clients = self.clients_in_order();
            }
        }
    }

    fn next_grant(
        &self,
        phase: Phase,
        at: usize,
        clients: &[Client],
        progress: &Progress,
    ) -> Option<(Client, Bundle)> {
        let agent = &self.agents[at];
        let mut last = None;
        for client in clients {
            let Some(bundle) = self.bundle(phase, agent, client, progress) else {
                continue;
            };
            if !self.steps_aside(client, &bundle.resources) {
                return Some((client.clone(), bundle));
            }
            last = last.or_else(|| Some((client.clone(), bundle)));
        }
        last
    }

    /// Contract: "Stepping aside".
    fn steps_aside(&self, client: &Client, bundle: &Resources) -> bool {
        let amounts = super::scalars(bundle);
        self.client(client).is_some_and(|state| {
            let mut returned = state.returned.iter();
            state.fruitless >= self.settings.decline_patience
                && returned.any(|(returned, _)| super::holds(returned, &amounts))
        })
    }

    fn grant(&mut self, at: usize, client: &Client, bundle: Bundle, progress: &mut Progress) {
        let agent = &mut self.agents[at];
        agent.hold(client, &bundle.resources);
        let id = agent.id.clone();
        self.turn = agent.registration + 1;
        for (name, lot, _) in bundle
            .resources
            .iter()
            .filter(|(_, lot, _)| lot.is_shared())
        {
            progress
                .shared
                .insert((id.clone(), name.clone(), lot.clone()));
        }
        if let Some(state) = self.client_mut(client) {
            state.grants += 1;
            if let Some(demand) = &mut state.demand {
                demand.count -= bundle.of_demand;
            }
        }
        for role in client.1.path() {
            self.nodes.entry(role).or_default().subtree += 1;
        }
        self.nodes.entry(client.1.clone()).or_default().itself += 1;
        let before = self.holes.len();
        self.holes
            .retain(|hole| hole.client != *client || hole.agent != id);
        self.end_holes();
        progress.hole_ended |= self.holes.len() < before;
        progress.allocations.push(Allocation {
            framework: client.0.clone(),
            role: client.1.clone(),
            agent: id,
            resources: bundle.resources,
        });
    }

    /// Rules 1 to 7; the numbers are the contract's.
    fn bundle(
        &self,
        phase: Phase,
        agent: &Agent,
        client: &Client,
        progress: &Progress,
    ) -> Option<Bundle> {
        let (shared, mut some): (Resources, Resources) = {
            let open = self.open_to(client, agent, &agent.free())?;
            (
                open.filter(|_, lot| lot.is_shared()),
                open.filter(|_, lot| !lot.is_shared()),
            )
        };
        some = self.cut(phase, agent, client, &some);
        let state = self.client(client)?;
        let mut of_demand = 0;
        if let Some(demand) = &state.demand {
            of_demand = bundles_in(&some, demand);
            some = taken_of(&some, &demand.bundle, of_demand);
        }
        if phase == Phase::Guarantees && !self.keeps_a_promise(&client.1, &some) {
            return None;
        }
        let min = &self.settings.common.min_allocatable;
        let min = state.spec.min_allocatable.as_ref().unwrap_or(min);
        if some.is_empty() || !(min.is_empty() || min.iter().any(|min| has(&some, min))) {
            return None;
        }
        let filters = self.filters.iter();
        let mut ours = filters.filter(|f| f.client == *client && f.agent == agent.id);
        if ours.any(|filter| filter.refused.contains(&some)) {
            return None;
        }
        if state.demand.is_none() {
            some.add(&shared.filter(|name, lot| {
                let given = (agent.id.clone(), name.clone(), lot.clone());
                !progress.shared.contains(&given)
            }));
        }
        Some(Bundle {
            resources: some,
            of_demand,
        })
    }

    /// Rules 1 and 2: what of `resources` the client can have at all; `None`: nothing of this
    /// agent.
    pub(super) fn open_to(
        &self,
        client: &Client,
        agent: &Agent,
        resources: &Resources,
    ) -> Option<Resources> {
        let framework = self.frameworks.get(&client.0)?;
        let can = framework.capabilities;
        let described = Described {
            hostname: &agent.spec.hostname,
            attributes: &agent.spec.attributes,
            domain: agent.spec.domain.as_ref(),
        };
        let constraints = &framework.clients.get(&client.1)?.spec.constraints;
        if let Some(constraints) = constraints
            && constraints.failing(described).is_some()
        {
            return None;
        }
        let gpus = !agent.spec.total.scalar(&Name::GPUS).is_zero();
        if gpus && !can.gpu && self.settings.common.filter_gpus {
            return None;
        }
        if let (Some(ours), Some(theirs)) = (&self.settings.common.domain, &agent.spec.domain)
            && ours.region != theirs.region
            && !can.region_aware
        {
            return None;
        }
        Some(resources.filter(|_, lot| {
            lot.is_open_to(&client.1)
                && (lot.reservations().len() < 2 || can.reservation_refinement)
                && (!lot.is_revocable() || can.revocable)
                && (!lot.is_shared() || can.shared)
        }))
    }

    /// What phase 1 asks of a bundle.
    fn keeps_a_promise(&self, role: &Role, bundle: &Resources) -> bool {
        let unreserved = bundle
            .iter()
            .filter(|(_, lot, value)| is_unreserved_amount(lot, value));
        unreserved
            .map(|(name, _, _)| self.promised(role, name))
            .any(|promised| promised > 0)
    }

    /// Rules 3 and 4.
    pub(super) fn cut(
        &self,
        phase: Phase,
        agent: &Agent,
        client: &Client,
        some: &Resources,
    ) -> Resources {
        let kept_for_another =
            |hole: &super::Kept| hole.agent == agent.id && hole.client != *client;
        if self.holes.iter().any(kept_for_another) {
            let reserved_or_revocable = some.iter().filter(|(_, lot, value)| {
                !is_unreserved_amount(lot, value)
                    && (matches!(value, Value::Scalar(_)) || !lot.reservations().is_empty())
            });
            return collect(reserved_or_revocable);
        }
        let mut left = collect(
            some.iter()
                .filter(|(_, lot, value)| !is_unreserved_amount(lot, value)),
        );
        let names: BTreeSet<&Name> = some.iter().map(|(name, _, _)| name).collect();
        for name in names {
            let spare = self.spare(name);
            let permitted = match phase {
                Phase::Guarantees => spare.max(self.promised(&client.1, name)),
                Phase::FairShare => spare,
            };
            let room = self.limit_room(&client.1, name).unwrap_or(u128::MAX);
            let unreserved = some
                .iter()
                .filter(|(n, lot, value)| *n == name && is_unreserved_amount(lot, value));
            left.add(&fill(unreserved, permitted.min(room)));
        }
        left
    }

    fn inverse(&mut self, now: Timestamp) -> Vec<InverseAllocation> {
        let mut inverse = Vec::new();
        for agent in &mut self.agents {
            let Some(unavailability) = agent.unavailability else {
                continue;
            };
            let holders: BTreeSet<_> = agent.held.keys().map(|(f, _)| f.clone()).collect();
            for framework in holders {
                let active = self.frameworks.get(&framework).is_some_and(|f| f.active);
                let due = match agent.asked.get(&framework) {
                    None => true,
                    Some(None) => false,
                    Some(Some(again)) => now >= *again,
                };
                if active && due {
                    agent.asked.insert(framework.clone(), None);
                    inverse.push(InverseAllocation {
                        framework,
                        agent: agent.id.clone(),
                        unavailability,
                    });
                }
            }
        }
        inverse
    }
}

fn collect<'a>(parts: impl Iterator<Item = (&'a Name, &'a Lot, &'a Value)>) -> Resources {
    parts.fold(Resources::EMPTY, |sum, (name, lot, value)| {
        sum.with(name.clone(), lot.clone(), value.clone())
    })
}

/// Fills scalars in their order up to `most`; what cannot be chopped is taken whole or left.
fn fill<'a>(parts: impl Iterator<Item = (&'a Name, &'a Lot, &'a Value)>, most: u128) -> Resources {
    let mut left = most;
    let mut filled = Resources::EMPTY;
    for (name, lot, value) in parts {
        let Value::Scalar(amount) = value else {
            continue;
        };
        let all = u128::from(amount.thousandths());
        let taken = if lot.is_unchoppable() && all > left {
            0
        } else {
            all.min(left)
        };
        left -= taken;
        filled = filled.with(name.clone(), lot.clone(), Value::Scalar(fixed(taken)));
    }
    filled
}

fn fixed(thousandths: u128) -> Fixed {
    Fixed::from_thousandths(u64::try_from(thousandths).expect("no more than an agent has"))
}

fn has(resources: &Resources, min: &Amounts) -> bool {
    let mut min = min.iter();
    min.all(|(name, amount)| sum(resources, name, |_, _| true) >= u128::from(amount.thousandths()))
}

/// Lots that a demand is met from.
pub(super) fn counts_for_demand(lot: &Lot) -> bool {
    !lot.is_unchoppable() && !lot.is_shared()
}

/// How much of `name` there is for demands: thousandths of a scalar, or of ports.
pub(super) fn amount_for_demand(resources: &Resources, name: &Name) -> u128 {
    let usable = resources.filter(|n, lot| n == name && counts_for_demand(lot));
    let scalars = sum(&usable, name, |_, _| true);
    let ports = if *name == Name::PORTS {
        u128::from(usable.ports().count()) * 1000
    } else {
        0
    };
    scalars + ports
}

/// How many bundles of the demand fit, and no more than are left of it.
fn bundles_in(resources: &Resources, demand: &Demand) -> u32 {
    let asked = demand.bundle.iter().filter(|(_, each)| !each.is_zero());
    let fitting = asked
        .map(|(name, each)| amount_for_demand(resources, name) / u128::from(each.thousandths()));
    let most = fitting.min().unwrap_or(0).min(demand.count.into());
    u32::try_from(most).expect("no more than the count")
}

/// `count` bundles taken of `resources`, which hold them.
fn taken_of(resources: &Resources, bundle: &Amounts, count: u32) -> Resources {
    let mut taken = Resources::EMPTY;
    for (name, each) in bundle {
        let mut left = u128::from(each.thousandths()) * u128::from(count);
        let mut lots: Vec<(&Lot, &Value)> = resources
            .iter()
            .filter(|(n, lot, _)| *n == name && counts_for_demand(lot))
            .map(|(_, lot, value)| (lot, value))
            .collect();
        lots.sort_by_key(|(lot, _)| (lot.is_revocable(), usize::MAX - lot.reservations().len()));
        for (lot, value) in lots {
            let part = match value {
                Value::Scalar(amount) => {
                    let part = left.min(amount.thousandths().into());
                    left -= part;
                    Value::Scalar(fixed(part))
                }
                Value::Ranges(ranges) => {
                    let wanted = usize::try_from(left.div_ceil(1000)).expect("few ports");
                    let numbers: Vec<u64> = ranges.numbers().take(wanted).collect();
                    left = left.saturating_sub(numbers.len() as u128 * 1000);
                    Value::Ranges(Ranges::new(numbers.into_iter().map(|n| (n, n))))
                }
                Value::Set(_) => continue,
            };
            taken = taken.with(name.clone(), lot.clone(), part);
        }
    }
    taken
}

/// The largest part of a scalar of the agent that is not free.
fn used(agent: &Agent) -> Ratio {
    let free = agent.free();
    let mut totals: BTreeMap<&Name, u128> = BTreeMap::new();
    for (name, amount) in agent.spec.total.scalars() {
        *totals.entry(name).or_default() += u128::from(amount.thousandths());
    }
    let parts = totals.into_iter().map(|(name, total)| Ratio {
        numerator: total - sum(&free, name, |_, _| true),
        denominator: total,
    });
    parts.fold(Ratio::ZERO, |most, part| {
        if part.cmp(most).is_gt() { part } else { most }
    })
}

/// splitmix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
