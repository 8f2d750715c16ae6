//! The suite's own books: what a module was told, and what it must therefore know.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp, Value};

use super::world::{Fact, Told};
use crate::{
    AgentSpec, Allocation, Amounts, Demand, FrameworkSpec, Grant, Quota, Recovery, Unavailability,
};

/// A framework in one of its roles.
pub(super) type Client = (FrameworkId, Role);

#[derive(Debug)]
pub(super) struct Framework {
    pub(super) active: bool,
    pub(super) spec: FrameworkSpec,
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) active: bool,
    /// Its total as it is now; `used` is empty.
    pub(super) spec: AgentSpec,
    pub(super) held: BTreeMap<Client, Resources>,
    pub(super) unavailability: Option<Unavailability>,
    /// Who was asked to leave, and from when each may be asked again; `None`: not answered.
    pub(super) asked: BTreeMap<FrameworkId, Option<Timestamp>>,
}

#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) client: Client,
    pub(super) agent: AgentId,
    pub(super) refused: Resources,
    pub(super) until: Timestamp,
}

/// Beyond so many per client and agent a module may forget one; so do these books.
const FILTERS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) frameworks: BTreeMap<FrameworkId, Framework>,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    pub(super) filters: Vec<Filter>,
    /// With what is left of them.
    pub(super) demands: BTreeMap<Client, Demand>,
    pub(super) quotas: BTreeMap<Role, Quota>,
    pub(super) paused: bool,
    last: Vec<Allocation>,
    /// The last call ended before its round did.
    pub(super) unfinished: bool,
    /// No fact since the last round, which was at that time.
    pub(super) quiet_since: Option<Timestamp>,
}

impl Agent {
    pub(super) fn free(&self) -> Resources {
        let mut free = self.spec.total.clone();
        for held in self.held.values() {
            free.subtract(&held.filter(|_, lot| !lot.is_shared()));
        }
        free
    }

    pub(super) fn hold(&mut self, client: Client, resources: &Resources) {
        if !resources.is_empty() {
            self.held.entry(client).or_default().add(resources);
        }
    }

    fn take_back(&mut self, client: &Client, resources: &Resources) -> Resources {
        let Some(held) = self.held.get_mut(client) else {
            return Resources::EMPTY;
        };
        let back = in_both(held, resources);
        held.subtract(&back);
        if held.is_empty() {
            self.held.remove(client);
        }
        back
    }
}

pub(super) fn in_both(a: &Resources, b: &Resources) -> Resources {
    a.minus(&a.minus(b))
}

impl Books {
    pub(super) fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.keys()
    }

    pub(super) fn last_round(&self) -> &[Allocation] {
        &self.last
    }

    /// Everything held anywhere.
    pub(super) fn all_held(&self) -> Vec<(AgentId, Grant)> {
        let agents = self.agents.iter();
        let held = agents.flat_map(|(id, agent)| agent.held.iter().map(move |held| (id, held)));
        held.map(|(id, ((framework, role), resources))| {
            let grant = Grant {
                framework: framework.clone(),
                role: role.clone(),
                resources: resources.clone(),
            };
            (id.clone(), grant)
        })
        .collect()
    }

    pub(super) fn held_on(&self, agent: &AgentId) -> Vec<(Client, Resources)> {
        let agent = self.agents.get(agent);
        let held = agent.into_iter().flat_map(|agent| agent.held.clone());
        held.collect()
    }

    pub(super) fn free_on(&self, agent: &AgentId) -> Option<Resources> {
        self.agents.get(agent).map(Agent::free)
    }

    /// Who was sent an inverse offer and has not answered.
    pub(super) fn inverse_waiting(&self) -> Vec<(AgentId, FrameworkId)> {
        let agents = self.agents.iter();
        agents
            .flat_map(|(id, agent)| {
                let waiting = agent.asked.iter().filter(|(_, again)| again.is_none());
                waiting.map(move |(framework, _)| (id.clone(), framework.clone()))
            })
            .collect()
    }

    /// Whether a conversion would pull a shared volume from under somebody.
    pub(super) fn copies_elsewhere(
        &self,
        agent: &AgentId,
        holder: Option<&Client>,
        from: &Resources,
    ) -> bool {
        let Some(agent) = self.agents.get(agent) else {
            return false;
        };
        // A new volume with the id of one that is shared already, or only some of its copies.
        let made_before = agent.spec.total.iter().any(|(_, lot, _)| lot.is_shared())
            && from.iter().any(|(_, lot, _)| lot.volume().is_none());
        let others = agent
            .held
            .iter()
            .filter(|(client, _)| Some(*client) != holder);
        let shared = from.filter(|_, lot| lot.is_shared());
        let with_others = shared.iter().any(|(name, lot, _)| {
            let mut others = others.clone();
            others.any(|(_, held)| held.get(name, lot).is_some())
        });
        made_before || with_others || !agent.spec.total.contains(&shared)
    }

    /// What counts against the quota of a role, by name.
    pub(super) fn consumed(&self, role: &Role) -> Amounts {
        let below = |other: &Role| other == role || role.is_ancestor_of(other);
        let mut consumed = Amounts::new();
        let mut add = |resources: &Resources| {
            for (name, amount) in resources.scalars() {
                let sum = consumed.entry(name.clone()).or_default();
                *sum = sum.saturating_add(amount);
            }
        };
        for agent in self.agents.values() {
            add(&agent
                .spec
                .total
                .filter(|_, lot| lot.reserved_for().is_some_and(below) && !lot.is_revocable()));
            for (_, held) in agent.held.iter().filter(|((_, role), _)| below(role)) {
                add(&held.filter(|_, lot| lot.reservations().is_empty() && !lot.is_revocable()));
            }
        }
        consumed
    }

    pub(super) fn takes_offers(&self, (framework, role): &Client) -> bool {
        let framework = self.frameworks.get(framework);
        framework.is_some_and(|f| {
            f.active && f.spec.roles.get(role).is_some_and(|spec| !spec.suppressed)
        })
    }

    /// Writes down a fact and what was answered.
    pub(super) fn note(&mut self, fact: &Fact, told: &Told) {
        self.quiet_since = None;
        match fact {
            Fact::AddFramework(id, spec) => self.add_framework(id, spec),
            Fact::DeactivateFramework(id) => {
                if let Some(framework) = self.frameworks.get_mut(id) {
                    framework.active = false;
                    self.forget_wishes(|(framework, _)| framework == id);
                    self.demands.retain(|(framework, _), _| framework != id);
                }
            }
            Fact::RemoveFramework(id) => {
                self.frameworks.remove(id);
                self.forget_wishes(|(framework, _)| framework == id);
                self.demands.retain(|(framework, _), _| framework != id);
                for agent in self.agents.values_mut() {
                    agent.held.retain(|(framework, _), _| framework != id);
                    agent.asked.remove(id);
                }
            }
            Fact::AddAgent(id, spec) => self.add_agent(id, spec),
            Fact::SetAgentActive(id, active) => {
                if let Some(agent) = self.agents.get_mut(id) {
                    agent.active = *active;
                }
            }
            Fact::SetUnavailability(id, unavailability) => {
                if let Some(agent) = self.agents.get_mut(id)
                    && agent.unavailability != *unavailability
                {
                    agent.unavailability = *unavailability;
                    agent.asked.clear();
                }
            }
            Fact::AnswerInverse(agent, framework, until) => {
                if let Some(agent) = self.agents.get_mut(agent)
                    && agent.asked.remove(framework).is_some()
                    && let Some(until) = until
                {
                    agent.asked.insert(framework.clone(), Some(*until));
                }
            }
            Fact::RemoveAgent(id) => {
                self.agents.remove(id);
                self.filters.retain(|filter| filter.agent != *id);
            }
            Fact::Recover(now, agent, grant, recovery) => {
                self.recover(*now, agent, grant, *recovery);
            }
            Fact::Convert {
                agent,
                holder,
                from,
                to,
            } => {
                if *told == Told::Converted(Ok(()))
                    && let Some(agent) = self.agents.get_mut(agent)
                {
                    agent.spec.total = agent.spec.total.minus(from).plus(to);
                    if let Some(client) = holder {
                        agent.take_back(client, from);
                        agent.hold(client.clone(), to);
                    }
                }
            }
            Fact::Suppress(id, roles) => self.set_suppressed(id, roles, true),
            Fact::Revive(id, roles) => {
                self.set_suppressed(id, roles, false);
                self.forget_wishes(|(framework, role)| {
                    framework == id && (roles.is_empty() || roles.contains(role))
                });
            }
            Fact::SetDemand(id, role, demand) => self.set_demand(id, role, demand.as_ref()),
            Fact::SetWeight(..) => {}
            Fact::SetQuota(role, quota) => {
                if *quota == Quota::default() {
                    self.quotas.remove(role);
                } else {
                    self.quotas.insert(role.clone(), quota.clone());
                }
            }
            Fact::Pause => self.paused = true,
            Fact::Resume => self.paused = false,
            Fact::Allocate(now) => self.note_round(*now, told),
        }
    }

    fn add_framework(&mut self, id: &FrameworkId, spec: &FrameworkSpec) {
        let before = self.frameworks.get(id).map(|f| f.spec.roles.clone());
        let before = before.unwrap_or_default();
        self.forget_wishes(|(framework, role)| {
            let was_suppressed = before.get(role).is_some_and(|spec| spec.suppressed);
            let stays = spec.roles.get(role);
            framework == id && stays.is_none_or(|spec| was_suppressed && !spec.suppressed)
        });
        self.demands
            .retain(|(framework, role), _| framework != id || spec.roles.contains_key(role));
        let framework = Framework {
            active: true,
            spec: spec.clone(),
        };
        self.frameworks.insert(id.clone(), framework);
    }

    /// Filters of these clients end.
    fn forget_wishes(&mut self, of: impl Fn(&Client) -> bool) {
        self.filters.retain(|filter| !of(&filter.client));
    }

    fn add_agent(&mut self, id: &AgentId, spec: &AgentSpec) {
        self.filters.retain(|filter| filter.agent != *id);
        let mut agent = Agent {
            active: true,
            spec: AgentSpec {
                used: Vec::new(),
                ..spec.clone()
            },
            held: BTreeMap::new(),
            unavailability: None,
            asked: BTreeMap::new(),
        };
        for grant in &spec.used {
            let total = &spec.total;
            let mut there = in_both(
                &agent.free(),
                &grant.resources.filter(|_, lot| !lot.is_shared()),
            );
            let copies = |name: &_, lot: &_| total.get(name, lot).is_some();
            let shared = grant.resources.filter(|_, lot| lot.is_shared());
            there.add(&shared.filter(copies));
            agent.hold((grant.framework.clone(), grant.role.clone()), &there);
        }
        self.agents.insert(id.clone(), agent);
    }

    fn recover(&mut self, now: Timestamp, id: &AgentId, grant: &Grant, recovery: Recovery) {
        let client = (grant.framework.clone(), grant.role.clone());
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        let refused = agent.take_back(&client, &grant.resources);
        let subscribed = self
            .frameworks
            .get(&client.0)
            .is_some_and(|f| f.active && f.spec.roles.contains_key(&client.1));
        if let Recovery::Declined { refuse_for, .. } = recovery
            && !refuse_for.is_zero()
            && !refused.is_empty()
            && subscribed
        {
            self.filters.push(Filter {
                client: client.clone(),
                agent: id.clone(),
                refused,
                until: now + refuse_for,
            });
            let ours = |f: &Filter| f.client == client && f.agent == *id;
            let same = self.filters.iter().filter(|f| ours(f));
            let soonest = same.clone().map(|f| f.until).min();
            if same.count() > FILTERS_MAX {
                let at = self
                    .filters
                    .iter()
                    .position(|f| ours(f) && Some(f.until) == soonest);
                at.map(|at| self.filters.remove(at));
            }
        }
    }

    fn set_suppressed(&mut self, id: &FrameworkId, roles: &BTreeSet<Role>, suppressed: bool) {
        let Some(framework) = self.frameworks.get_mut(id) else {
            return;
        };
        for (role, spec) in &mut framework.spec.roles {
            if roles.is_empty() || roles.contains(role) {
                spec.suppressed = suppressed;
            }
        }
    }

    fn set_demand(&mut self, id: &FrameworkId, role: &Role, demand: Option<&Demand>) {
        let framework = self.frameworks.get(id);
        if !framework.is_some_and(|f| f.active && f.spec.roles.contains_key(role)) {
            return;
        }
        let client = (id.clone(), role.clone());
        match demand {
            Some(demand) => {
                self.demands.insert(client, demand.clone());
            }
            None => {
                self.demands.remove(&client);
            }
        }
    }

    fn note_round(&mut self, now: Timestamp, told: &Told) {
        self.filters.retain(|filter| now < filter.until);
        let Told::Decided(round) = told else {
            return;
        };
        self.unfinished = round.unfinished;
        self.quiet_since = (!round.unfinished).then_some(now);
        for allocation in &round.allocations {
            let client = (allocation.framework.clone(), allocation.role.clone());
            if let Some(demand) = self.demands.get_mut(&client) {
                let bundles = bundles_of(&allocation.resources, &demand.bundle);
                demand.count = demand.count.saturating_sub(bundles.unwrap_or(0));
            }
            if let Some(agent) = self.agents.get_mut(&allocation.agent) {
                agent.hold(client, &allocation.resources);
            }
        }
        for inverse in &round.inverse {
            if let Some(agent) = self.agents.get_mut(&inverse.agent) {
                agent.asked.insert(inverse.framework.clone(), None);
            }
        }
        self.last.clone_from(&round.allocations);
    }
}

/// How many bundles the resources are, when they are bundles and nothing else.
pub(super) fn bundles_of(resources: &Resources, bundle: &Amounts) -> Option<u32> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, _, value) in resources.iter() {
        *sums.entry(name.as_str()).or_default() += match value {
            Value::Scalar(amount) => amount.thousandths(),
            Value::Ranges(ranges) => ranges.count().saturating_mul(1000),
            Value::Set(_) => return None,
        };
    }
    let asked = bundle.iter().filter(|(_, each)| !each.is_zero());
    let asked: BTreeMap<&str, u64> = asked
        .map(|(n, each)| (n.as_str(), each.thousandths()))
        .collect();
    let (first, each) = asked.iter().next()?;
    let bundles = sums.get(first)? / each;
    let product = |each: &u64| each.checked_mul(bundles);
    let whole = sums.len() == asked.len()
        && sums
            .iter()
            .all(|(name, sum)| asked.get(name).and_then(product) == Some(*sum));
    u32::try_from(bundles).ok().filter(|_| whole)
}
