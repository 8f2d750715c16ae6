//! Dominant resource fairness over roles, then over the frameworks of a role.
//!
//! The share of a client is the largest part of the cluster that it holds of any scalar, offered
//! or used, divided by its role's weight (Ghodsi et al., NSDI 2011; Mesos: `sorter/drf`). Totals
//! count every agent. The role with the lowest share comes first, and in it the framework with
//! the lowest share in that role; ties fall to the role's name and the framework's id.
//!
//! Allocation is coarse-grained as in Mesos: the first framework that has not declined it gets
//! everything free on an agent, and shares change before the next agent is looked at.
//!
//! Agents take turns in the order of their registration, and each round goes on behind the agent
//! that was granted last. That is as deterministic as an order by id, but no agent is preferred
//! for being old: a lightly loaded cluster fills evenly. Most-free-first would also spread the
//! load, at the price of a sort per change and of breaking up the machines that large tasks need.
//!
//! A round visits only agents with news: more is free there, a filter ended, or a framework began
//! to take offers since everybody there said no. A round without news costs the same whatever the
//! size of the cluster.
//!
//! Not here: quota, reservations, revocable resources, hierarchy among roles (`eng/web` is a name
//! like any other), and offers sized to a demand.

mod books;
mod filters;
mod members;
mod share;
mod slots;
mod sorter;
mod why;

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{AgentId, Fixed, FrameworkId, Resources, Role, Timestamp};

use self::filters::Filters;
use self::members::membership_mut;
use self::share::{Kinds, Quantities, Weighted};
use self::slots::Slots;
use self::sorter::Sorter;
use crate::{
    AgentSpec, Allocation, Allocator, Amounts, ConvertError, Demand, FrameworkSpec, Grant, Hole,
    Quota, Recovery, Round, Settings, Share, Unavailability, Unoffered,
};

/// The weight of a role that was given none, in thousandths.
const WEIGHT_DEFAULT: u64 = 1000;

/// Below this much of both, an agent is not worth an offer (Mesos: `min_allocatable_resources`).
const ALLOCATABLE_CPUS: Fixed = Fixed::from_thousandths(10);
/// MiB; see [`ALLOCATABLE_CPUS`].
const ALLOCATABLE_MEM: Fixed = Fixed::units(32);

fn allocatable(free: &Resources) -> bool {
    free.cpus() >= ALLOCATABLE_CPUS || free.mem() >= ALLOCATABLE_MEM
}

/// Counts registrations; never used twice.
type AgentNumber = u64;

/// One framework in one of its roles, by their slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Client {
    framework: usize,
    role: usize,
}

/// The default module.
#[derive(Debug, Default)]
pub struct Drf {
    kinds: Kinds,
    total: Quantities,
    /// The totals changed, so every share did; the orders are rebuilt by the next round.
    stale: bool,
    frameworks: Slots<FrameworkId, FrameworkState>,
    roles: Slots<Role, RoleState>,
    /// Roles with a framework that takes offers.
    order: Sorter<Role>,
    agents: BTreeMap<AgentNumber, AgentState>,
    agent_numbers: BTreeMap<AgentId, AgentNumber>,
    agent_next: AgentNumber,
    /// Where the next round begins.
    turn: AgentNumber,
    /// Active agents on which enough is free.
    open: BTreeSet<AgentNumber>,
    /// Those of them that a round must look at.
    news: BTreeSet<AgentNumber>,
    /// All of `open` is news: somebody new takes offers.
    newcomer: bool,
    filters: Filters,
}

#[derive(Debug, Default)]
struct FrameworkState {
    /// Subscribed once; others are known only from what agents say they run.
    known: bool,
    active: bool,
    /// By role. A role that was left stays until what is held in it is free.
    memberships: BTreeMap<usize, Membership>,
}

/// What a framework has in one role.
#[derive(Debug, Default)]
struct Membership {
    subscribed: bool,
    suppressed: bool,
    allocated: Quantities,
    /// On how many agents it holds something.
    holds: usize,
    /// Its share in the role's order, when it takes offers.
    place: Option<Weighted>,
}

#[derive(Debug, Default)]
struct RoleState {
    weight: Option<u64>,
    members: usize,
    allocated: Quantities,
    /// Members that take offers.
    order: Sorter<FrameworkId>,
    /// Its share in the order of roles, when a member takes offers.
    place: Option<Weighted>,
}

#[derive(Debug)]
struct AgentState {
    id: AgentId,
    active: bool,
    total: Resources,
    /// `total` less everything in `held`, exactly.
    free: Resources,
    held: Vec<(Client, Resources)>,
}

impl Drf {
    /// A module with these settings.
    pub fn new(_: Settings) -> Self {
        Self::default()
    }
}

impl Allocator for Drf {
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec) {
        let slot = self.frameworks.intern(framework);
        let state = self.frameworks.get_mut(slot);
        state.known = true;
        state.active = true;
        for membership in state.memberships.values_mut() {
            membership.subscribed = false;
        }
        for (role, wanted) in &spec.roles {
            let client = self.client(slot, role);
            let membership = self.membership_mut(client);
            membership.subscribed = true;
            membership.suppressed = wanted.suppressed;
        }
        for client in self.clients(slot) {
            if !self.membership(client).subscribed {
                self.filters.forget_client(client);
            }
            self.place(client);
            self.tidy(client);
        }
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        let Some(slot) = self.frameworks.find(framework) else {
            return;
        };
        self.frameworks.get_mut(slot).active = false;
        for client in self.clients(slot) {
            self.filters.forget_client(client);
            self.place(client);
        }
    }

    fn remove_framework(&mut self, framework: &FrameworkId) {
        self.deactivate_framework(framework);
        let Some(slot) = self.frameworks.find(framework) else {
            return;
        };
        // A scan, because it is rare: an index of holders would cost every grant instead.
        let holding: Vec<AgentNumber> = self
            .agents
            .iter()
            .filter(|(_, a)| a.held.iter().any(|(c, _)| c.framework == slot))
            .map(|(number, _)| *number)
            .collect();
        for number in holding {
            let held = match self.agents.get(&number) {
                Some(agent) => agent.held.clone(),
                None => continue,
            };
            for (client, resources) in held.iter().filter(|(c, _)| c.framework == slot) {
                self.release(number, *client, resources);
            }
            self.settle(number);
        }
        self.frameworks.get_mut(slot).known = false;
        for client in self.clients(slot) {
            self.membership_mut(client).subscribed = false;
            self.tidy(client);
        }
        self.forget_if_idle(slot);
    }

    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec) {
        self.remove_agent(agent);
        let number = self.agent_next;
        self.agent_next += 1;
        self.agent_numbers.insert(agent.clone(), number);
        self.agents.insert(
            number,
            AgentState {
                id: agent.clone(),
                active: true,
                free: spec.total.clone(),
                held: Vec::new(),
                total: spec.total.clone(),
            },
        );
        self.total.add(&mut self.kinds, &spec.total);
        self.stale = true;
        for grant in &spec.used {
            let slot = self.frameworks.intern(&grant.framework);
            let client = self.client(slot, &grant.role);
            self.charge(number, client, &grant.resources);
            self.tidy(client);
            self.forget_if_idle(slot);
        }
        self.settle(number);
    }

    fn set_agent_active(&mut self, agent: &AgentId, active: bool) {
        if let Some(number) = self.agent_numbers.get(agent).copied()
            && let Some(state) = self.agents.get_mut(&number)
            && state.active != active
        {
            state.active = active;
            self.settle(number);
        }
    }

    fn remove_agent(&mut self, agent: &AgentId) {
        let Some(number) = self.agent_numbers.get(agent).copied() else {
            return;
        };
        let held = match self.agents.get_mut(&number) {
            Some(state) => {
                state.active = false;
                state.held.clone()
            }
            None => return,
        };
        for (client, resources) in &held {
            self.release(number, *client, resources);
            self.tidy(*client);
            self.forget_if_idle(client.framework);
        }
        self.settle(number);
        self.filters.forget_agent(number);
        self.agent_numbers.remove(agent);
        if let Some(state) = self.agents.remove(&number) {
            self.total.subtract(&mut self.kinds, &state.total);
            self.stale = true;
        }
    }

    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        let refuse_for = match recovery {
            Recovery::Declined { refuse_for, .. } => Some(refuse_for),
            Recovery::Rescinded | Recovery::Ended => None,
        };
        let (Some(number), Some(slot), Some(role)) = (
            self.agent_numbers.get(agent).copied(),
            self.frameworks.find(&grant.framework),
            self.roles.find(&grant.role),
        ) else {
            return;
        };
        let client = Client {
            framework: slot,
            role,
        };
        if !self
            .frameworks
            .get(slot)
            .memberships
            .contains_key(&client.role)
        {
            return;
        }
        self.release(number, client, &grant.resources);
        if let Some(refuse_for) = refuse_for
            && !refuse_for.is_zero()
            && self.frameworks.get(slot).active
            && self.membership(client).subscribed
        {
            self.filters
                .add(number, client, &grant.resources, now + refuse_for);
        }
        self.settle(number);
        self.tidy(client);
        self.forget_if_idle(slot);
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        for client in self.named_clients(framework, roles) {
            self.membership_mut(client).suppressed = true;
            self.place(client);
        }
    }

    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        for client in self.named_clients(framework, roles) {
            self.membership_mut(client).suppressed = false;
            for agent in self.filters.forget_client(client) {
                if self.open.contains(&agent) {
                    self.news.insert(agent);
                }
            }
            self.place(client);
        }
    }

    fn set_unavailability(&mut self, _: &AgentId, _: Option<Unavailability>) {}

    fn answer_inverse(&mut self, _: &AgentId, _: &FrameworkId, _: Option<Timestamp>) {}

    fn convert(
        &mut self,
        agent: &AgentId,
        _: Option<(&FrameworkId, &Role)>,
        asked: &Resources,
        _: &Resources,
    ) -> Result<(), ConvertError> {
        Err(ConvertError::NotThere {
            agent: agent.clone(),
            asked: asked.clone(),
            held: Resources::EMPTY,
        })
    }

    fn set_demand(&mut self, _: &FrameworkId, _: &Role, _: Option<Demand>) {}

    fn set_quota(&mut self, _: &Role, _: Quota) {}

    fn pause(&mut self) {}

    fn resume(&mut self) {}

    fn quota(&self, _: &Role) -> Quota {
        Quota::default()
    }

    fn consumed(&self, _: &Role) -> Amounts {
        Amounts::new()
    }

    fn holes(&self) -> Vec<Hole> {
        Vec::new()
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        let slot = self.roles.intern(role);
        self.roles.get_mut(slot).weight = Some(weight_thousandths.max(1));
        self.place_role(slot);
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        for agent in self.filters.expire(now) {
            if self.open.contains(&agent) {
                self.news.insert(agent);
            }
        }
        if std::mem::take(&mut self.newcomer) {
            self.news.clone_from(&self.open);
        }
        if self.news.is_empty() {
            return Round::default();
        }
        if std::mem::take(&mut self.stale) {
            self.rebuild_orders();
        }
        let news = std::mem::take(&mut self.news);
        let turns = news.range(self.turn..).chain(news.range(..self.turn));
        let mut allocations = Vec::new();
        for number in turns {
            let Some(client) = self.first_taker(now, *number) else {
                continue;
            };
            allocations.extend(self.grant(*number, client));
            self.turn = number + 1;
        }
        Round {
            allocations,
            inverse: Vec::new(),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.filters.next_deadline()
    }

    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered> {
        why::explain(self, now, framework)
    }

    fn role_share(&self, role: &Role) -> Share {
        match self.roles.find(role) {
            Some(slot) => self.roles.get(slot).allocated.dominant(&self.total),
            None => Quantities::default().dominant(&self.total),
        }
    }

    fn framework_share(&self, framework: &FrameworkId) -> Share {
        let mut sum = Quantities::default();
        if let Some(slot) = self.frameworks.find(framework) {
            for membership in self.frameworks.get(slot).memberships.values() {
                sum.merge(&membership.allocated);
            }
        }
        sum.dominant(&self.total)
    }

    fn weight(&self, role: &Role) -> u64 {
        self.roles
            .find(role)
            .and_then(|slot| self.roles.get(slot).weight)
            .unwrap_or(WEIGHT_DEFAULT)
    }

    fn free(&self, agent: &AgentId) -> Resources {
        self.agent(agent)
            .map(|a| a.free.clone())
            .unwrap_or_default()
    }

    fn held(&self, agent: &AgentId) -> Vec<Grant> {
        let held = self.agent(agent).map_or(&[][..], |a| &a.held);
        let mut grants: Vec<Grant> = held
            .iter()
            .map(|(client, resources)| Grant {
                framework: self.frameworks.id(client.framework).clone(),
                role: self.roles.id(client.role).clone(),
                resources: resources.clone(),
            })
            .collect();
        grants.sort_by(|a, b| (&a.framework, &a.role).cmp(&(&b.framework, &b.role)));
        grants
    }
}

/// Deciding.
impl Drf {
    /// Who is offered an agent: the first in the order whom no filter keeps from it.
    fn first_taker(&self, now: Timestamp, number: AgentNumber) -> Option<Client> {
        let free = &self.agents.get(&number)?.free;
        let filters = self.filters.on(number);
        self.order.iter().find_map(|role| {
            self.roles.get(role).order.iter().find_map(|framework| {
                let client = Client { framework, role };
                let blocked = filters.blocked_until(now, client, free);
                blocked.is_none().then_some(client)
            })
        })
    }

    /// Gives everything free on an agent to `client`.
    fn grant(&mut self, number: AgentNumber, client: Client) -> Option<Allocation> {
        let agent = self.agents.get_mut(&number)?;
        let resources = std::mem::take(&mut agent.free);
        let allocation = Allocation {
            framework: self.frameworks.id(client.framework).clone(),
            role: self.roles.id(client.role).clone(),
            agent: agent.id.clone(),
            resources: resources.clone(),
        };
        self.hold(number, client, resources);
        self.open.remove(&number);
        Some(allocation)
    }
}
