//! The module `drf` once more, slow and obviously right, written from `docs/design/allocation.md`
//! alone: no index, no cache, no news. Every question is answered by walking over plain lists.
//!
//! - here: the facts, and what each of them ends.
//! - [`round`]: a round, and what of an agent a client may be granted.
//! - [`order`]: shares and the order of clients.
//! - [`quota`]: consumption, limits, headroom.
//! - [`holes`]: holes that are kept for large tasks.
//! - [`ratio`]: ratios that no amount or weight can overflow.

mod holes;
mod order;
mod quota;
mod ratio;
mod round;

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::{
    AgentSpec, Allocator, Amounts, Capabilities, ConvertError, Demand, FrameworkSpec, Grant, Hole,
    Quota, Recovery, RoleSpec, Round, Settings, Share, Unavailability, Unoffered,
};
use allotment_types::{AgentId, FrameworkId, Name, Resources, Role, Timestamp};

use self::holes::Kept;

/// A framework in one of its roles.
pub(crate) type Client = (FrameworkId, Role);

/// The most returned bundles that are remembered of a client.
const RETURNED_MAX: usize = 16;

/// The most filters of a client on one agent.
const FILTERS_MAX: usize = 16;

#[derive(Debug, Clone, Default)]
struct ClientState {
    spec: RoleSpec,
    /// Its `count` is what is left.
    demand: Option<Demand>,
    grants: u64,
    /// Fruitless returns in a row.
    fruitless: u32,
    counted_since_round: bool,
    /// What it returned in the row, and until when it steps aside from that; in order of time.
    returned: Vec<(BTreeMap<Name, u128>, Timestamp)>,
    cooling_until: Option<Timestamp>,
}

impl ClientState {
    /// The row of fruitless returns ends, and stepping aside with it.
    fn end_row(&mut self) {
        self.fruitless = 0;
        self.returned.clear();
    }

    fn remember(&mut self, back: BTreeMap<Name, u128>, until: Timestamp) {
        let covered = |(bundle, end): &(_, Timestamp)| until <= *end && holds(bundle, &back);
        if back.is_empty() || self.returned.iter().any(covered) {
            return;
        }
        self.returned
            .retain(|(bundle, end)| until < *end || !holds(&back, bundle));
        self.returned.push((back, until));
        if self.returned.len() > RETURNED_MAX {
            let ends = self.returned.iter().map(|(_, end)| *end);
            let first = ends.enumerate().min_by_key(|(at, end)| (*end, *at));
            self.returned.remove(first.expect("there are some").0);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Framework {
    active: bool,
    capabilities: Capabilities,
    clients: BTreeMap<Role, ClientState>,
}

#[derive(Debug, Clone)]
struct Agent {
    id: AgentId,
    registration: u64,
    active: bool,
    /// Its `used` is empty; `held` goes on from there.
    spec: AgentSpec,
    held: BTreeMap<Client, Resources>,
    unavailability: Option<Unavailability>,
    /// Who was asked to leave, and when each may be asked again; `None`: not answered yet.
    asked: BTreeMap<FrameworkId, Option<Timestamp>>,
}

impl Agent {
    fn free(&self) -> Resources {
        let mut free = self.spec.total.clone();
        for held in self.held.values() {
            free.subtract(&held.filter(|_, lot| !lot.is_shared()));
        }
        free
    }

    fn hold(&mut self, client: &Client, resources: &Resources) {
        if !resources.is_empty() {
            self.held.entry(client.clone()).or_default().add(resources);
        }
    }

    /// Takes back what is held of it, and says what that was.
    fn take_back(&mut self, client: &Client, resources: &Resources) -> Resources {
        let Some(held) = self.held.get_mut(client) else {
            return Resources::EMPTY;
        };
        let back = in_both(held, resources);
        held.subtract(&back);
        self.held.retain(|_, held| !held.is_empty());
        back
    }
}

/// Whether there is as much of everything in `all` as in `some`.
fn holds(all: &BTreeMap<Name, u128>, some: &BTreeMap<Name, u128>) -> bool {
    some.iter()
        .all(|(name, amount)| all.get(name).is_some_and(|most| most >= amount))
}

/// The scalars by name over all lots that are not shared.
fn scalars(resources: &Resources) -> BTreeMap<Name, u128> {
    let mut sums = BTreeMap::new();
    for (name, amount) in resources.filter(|_, lot| !lot.is_shared()).scalars() {
        *sums.entry(name.clone()).or_default() += u128::from(amount.thousandths());
    }
    sums
}

fn in_both(a: &Resources, b: &Resources) -> Resources {
    a.minus(&a.minus(b))
}

#[derive(Debug, Clone)]
struct Filter {
    client: Client,
    agent: AgentId,
    refused: Resources,
    until: Timestamp,
}

/// How many grants a role received since its node came to be.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    subtree: u64,
    itself: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    settings: Settings,
    frameworks: BTreeMap<FrameworkId, Framework>,
    /// By registration.
    agents: Vec<Agent>,
    registrations: u64,
    /// Behind the agent that was granted last.
    turn: u64,
    rounds: u64,
    paused: bool,
    /// In the order in which they were set.
    filters: Vec<Filter>,
    weights: BTreeMap<Role, u64>,
    quotas: BTreeMap<Role, Quota>,
    nodes: BTreeMap<Role, Node>,
    holes: Vec<Kept>,
}

impl Reference {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    fn client(&self, (framework, role): &Client) -> Option<&ClientState> {
        self.frameworks.get(framework)?.clients.get(role)
    }

    fn client_mut(&mut self, (framework, role): &Client) -> Option<&mut ClientState> {
        self.frameworks.get_mut(framework)?.clients.get_mut(role)
    }

    /// The client, if its framework is active and subscribed to the role.
    fn active_client_mut(&mut self, client: &Client) -> Option<&mut ClientState> {
        let active = self.frameworks.get(&client.0).is_some_and(|f| f.active);
        self.client_mut(client).filter(|_| active)
    }

    fn takes_offers(&self, client: &Client) -> bool {
        let active = self.frameworks.get(&client.0).is_some_and(|f| f.active);
        active
            && self.client(client).is_some_and(|state| {
                !state.spec.suppressed && state.demand.as_ref().is_none_or(|d| d.count > 0)
            })
    }

    /// Everybody subscribed to anything.
    fn clients(&self) -> Vec<Client> {
        let frameworks = self.frameworks.iter();
        frameworks
            .flat_map(|(id, f)| f.clients.keys().map(|role| (id.clone(), role.clone())))
            .collect()
    }

    fn agent_mut(&mut self, id: &AgentId) -> Option<&mut Agent> {
        self.agents.iter_mut().find(|agent| agent.id == *id)
    }

    /// What every fact may have ended or begun: nodes of the role tree, and holes.
    fn settle(&mut self) {
        let held = self.agents.iter().flat_map(|agent| agent.held.keys());
        let referring: BTreeSet<Role> = self
            .clients()
            .into_iter()
            .map(|(_, role)| role)
            .chain(held.map(|(_, role)| role.clone()))
            .chain(self.weights.keys().cloned())
            .chain(self.quotas.keys().cloned())
            .collect();
        let existing: BTreeSet<Role> = referring.iter().flat_map(Role::path).collect();
        self.nodes.retain(|role, _| existing.contains(role));
        for role in existing {
            self.nodes.entry(role).or_default();
        }
        self.end_holes();
    }

    /// `roles`, or all of the framework's when there are none.
    fn named(&self, framework: &FrameworkId, roles: &BTreeSet<Role>) -> BTreeSet<Role> {
        match self.frameworks.get(framework) {
            Some(framework) if roles.is_empty() => framework.clients.keys().cloned().collect(),
            _ => roles.clone(),
        }
    }

    fn fruitless_return(&mut self, now: Timestamp, client: &Client, back: &Resources) {
        let until = now + self.settings.aside_for;
        let Some(state) = self.active_client_mut(client) else {
            return;
        };
        state.remember(scalars(back), until);
        if !state.counted_since_round {
            state.counted_since_round = true;
            state.fruitless += 1;
        }
    }

    fn fruitful(&mut self, client: &Client) {
        if let Some(state) = self.client_mut(client) {
            state.end_row();
        }
    }

    fn set_filter(&mut self, filter: Filter) {
        let (client, agent) = (filter.client.clone(), filter.agent.clone());
        self.filters.push(filter);
        let of_pair = |f: &Filter| f.client == client && f.agent == agent;
        let ours = self.filters.iter().filter(|f| of_pair(f));
        if ours.clone().count() > FILTERS_MAX
            && let Some(soonest) = ours.map(|f| f.until).min()
            && let Some(at) = self
                .filters
                .iter()
                .position(|f| of_pair(f) && f.until == soonest)
        {
            self.filters.remove(at);
        }
    }
}

impl Allocator for Reference {
    fn add_framework(&mut self, id: &FrameworkId, spec: FrameworkSpec) {
        let framework = self.frameworks.entry(id.clone()).or_default();
        framework.active = true;
        framework.capabilities = spec.capabilities;
        framework
            .clients
            .retain(|role, _| spec.roles.contains_key(role));
        let mut revived = BTreeSet::new();
        for (role, spec) in &spec.roles {
            let state = framework.clients.entry(role.clone()).or_default();
            if state.spec.suppressed && !spec.suppressed {
                revived.insert(role.clone());
            }
            state.spec = spec.clone();
            state.end_row();
        }
        self.filters.retain(|filter| {
            let (framework, role) = &filter.client;
            framework != id || (spec.roles.contains_key(role) && !revived.contains(role))
        });
        self.settle();
    }

    fn deactivate_framework(&mut self, id: &FrameworkId) {
        let Some(framework) = self.frameworks.get_mut(id) else {
            return;
        };
        framework.active = false;
        for state in framework.clients.values_mut() {
            state.demand = None;
            state.end_row();
        }
        self.filters.retain(|filter| filter.client.0 != *id);
        self.settle();
    }

    fn remove_framework(&mut self, id: &FrameworkId) {
        self.frameworks.remove(id);
        self.filters.retain(|filter| filter.client.0 != *id);
        for agent in &mut self.agents {
            agent.held.retain(|(framework, _), _| framework != id);
            agent.asked.remove(id);
        }
        self.settle();
    }

    fn add_agent(&mut self, id: &AgentId, mut spec: AgentSpec) {
        self.forget_agent(id);
        let used = std::mem::take(&mut spec.used);
        let mut agent = Agent {
            id: id.clone(),
            registration: self.registrations,
            active: true,
            spec,
            held: BTreeMap::new(),
            unavailability: None,
            asked: BTreeMap::new(),
        };
        self.registrations += 1;
        for grant in used {
            let total = &agent.spec.total;
            let shared = grant
                .resources
                .filter(|name, lot| lot.is_shared() && total.get(name, lot).is_some());
            let own = grant.resources.filter(|_, lot| !lot.is_shared());
            let mut there = in_both(&agent.free(), &own);
            there.add(&shared);
            agent.hold(&(grant.framework, grant.role), &there);
        }
        self.agents.push(agent);
        for state in self
            .frameworks
            .values_mut()
            .flat_map(|f| f.clients.values_mut())
        {
            state.returned.clear();
        }
        self.settle();
    }

    fn set_agent_active(&mut self, id: &AgentId, active: bool) {
        if let Some(agent) = self.agent_mut(id) {
            agent.active = active;
        }
        self.settle();
    }

    fn set_unavailability(&mut self, id: &AgentId, unavailability: Option<Unavailability>) {
        if let Some(agent) = self.agent_mut(id)
            && agent.unavailability != unavailability
        {
            agent.unavailability = unavailability;
            agent.asked.clear();
        }
    }

    fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    ) {
        if let Some(agent) = self.agent_mut(agent) {
            match (agent.asked.get_mut(framework), until) {
                (Some(again), Some(until)) => *again = Some(until),
                (Some(_), None) => {
                    agent.asked.remove(framework);
                }
                (None, _) => {}
            }
        }
    }

    fn remove_agent(&mut self, id: &AgentId) {
        self.forget_agent(id);
        self.settle();
    }

    fn recover(&mut self, now: Timestamp, id: &AgentId, grant: &Grant, recovery: Recovery) {
        let client = (grant.framework.clone(), grant.role.clone());
        let Some(agent) = self.agent_mut(id) else {
            return;
        };
        let back = agent.take_back(&client, &grant.resources);
        if let Recovery::Declined {
            refuse_for,
            used_some,
        } = recovery
        {
            if used_some {
                self.fruitful(&client);
            } else {
                self.fruitless_return(now, &client, &back);
            }
            if !refuse_for.is_zero()
                && !back.is_empty()
                && self.active_client_mut(&client).is_some()
            {
                self.set_filter(Filter {
                    client: client.clone(),
                    agent: id.clone(),
                    refused: back,
                    until: now + refuse_for,
                });
            }
        }
        self.settle();
    }

    fn convert(
        &mut self,
        id: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError> {
        let holder = holder.map(|(framework, role)| (framework.clone(), role.clone()));
        let agent = self
            .agent_mut(id)
            .ok_or_else(|| ConvertError::UnknownAgent { agent: id.clone() })?;
        let there = match &holder {
            Some(client) => agent.held.get(client).cloned().unwrap_or_default(),
            None => agent.free(),
        };
        if !there.contains(from) {
            return Err(ConvertError::NotThere {
                agent: id.clone(),
                asked: from.clone(),
                held: there,
            });
        }
        agent.spec.total = agent.spec.total.minus(from).plus(to);
        if let Some(client) = &holder {
            agent.take_back(client, from);
            agent.hold(client, to);
        }
        self.settle();
        Ok(())
    }

    fn suppress(&mut self, id: &FrameworkId, roles: &BTreeSet<Role>) {
        for role in self.named(id, roles) {
            if let Some(state) = self.client_mut(&(id.clone(), role)) {
                state.spec.suppressed = true;
            }
        }
        self.settle();
    }

    fn revive(&mut self, id: &FrameworkId, roles: &BTreeSet<Role>) {
        for role in self.named(id, roles) {
            let client = (id.clone(), role);
            if let Some(state) = self.client_mut(&client) {
                state.spec.suppressed = false;
            }
            self.fruitful(&client);
            self.filters.retain(|filter| filter.client != client);
        }
        self.settle();
    }

    fn set_demand(&mut self, id: &FrameworkId, role: &Role, demand: Option<Demand>) {
        let client = (id.clone(), role.clone());
        let Some(state) = self.active_client_mut(&client) else {
            return;
        };
        state.demand.clone_from(&demand);
        self.fruitful(&client);
        let same_hole = |bundle: &Amounts| {
            let stated = demand.as_ref().filter(|demand| demand.hole);
            stated.is_some_and(|demand| demand.bundle == *bundle)
        };
        self.holes
            .retain(|hole| hole.client != client || same_hole(&hole.bundle));
        self.settle();
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        if weight_thousandths == 1000 {
            self.weights.remove(role);
        } else {
            self.weights.insert(role.clone(), weight_thousandths);
        }
        self.settle();
    }

    fn set_quota(&mut self, role: &Role, quota: Quota) {
        if quota == Quota::default() {
            self.quotas.remove(role);
        } else {
            self.quotas.insert(role.clone(), quota);
        }
        self.settle();
    }

    fn pause(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        self.round(now)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines().first().copied()
    }

    fn explain(&self, _now: Timestamp, _framework: &FrameworkId) -> Vec<Unoffered> {
        Vec::new()
    }

    fn role_share(&self, role: &Role) -> Share {
        self.share_of(|(_, r)| r == role || role.is_ancestor_of(r))
            .as_share()
    }

    fn framework_share(&self, framework: &FrameworkId) -> Share {
        self.share_of(|(f, _)| f == framework).as_share()
    }

    fn weight(&self, role: &Role) -> u64 {
        self.weights.get(role).copied().unwrap_or(1000)
    }

    fn quota(&self, role: &Role) -> Quota {
        self.quotas.get(role).cloned().unwrap_or_default()
    }

    fn consumed(&self, role: &Role) -> Amounts {
        self.consumed_amounts(role)
    }

    fn holes(&self) -> Vec<Hole> {
        self.holes.iter().map(Kept::told).collect()
    }

    fn free(&self, agent: &AgentId) -> Resources {
        let agent = self.agents.iter().find(|a| a.id == *agent);
        agent.map(Agent::free).unwrap_or_default()
    }

    fn held(&self, agent: &AgentId) -> Vec<Grant> {
        let agent = self.agents.iter().find(|a| a.id == *agent);
        let held = agent.into_iter().flat_map(|agent| &agent.held);
        held.map(|((framework, role), resources)| Grant {
            framework: framework.clone(),
            role: role.clone(),
            resources: resources.clone(),
        })
        .collect()
    }
}

impl Reference {
    fn forget_agent(&mut self, id: &AgentId) {
        self.agents.retain(|agent| agent.id != *id);
        self.filters.retain(|filter| filter.agent != *id);
        self.holes.retain(|hole| hole.agent != *id);
    }

    /// Every instant at which something ends by time, the first one first.
    pub(crate) fn deadlines(&self) -> Vec<Timestamp> {
        let clients = self.frameworks.values().flat_map(|f| f.clients.values());
        let again = self.agents.iter().flat_map(|agent| agent.asked.values());
        let mut deadlines: Vec<Timestamp> = self
            .filters
            .iter()
            .map(|filter| filter.until)
            .chain(clients.flat_map(|c| {
                let ends = c.returned.iter().map(|(_, until)| *until);
                ends.chain(c.cooling_until)
            }))
            .chain(again.filter_map(|again| *again))
            .chain(self.holes.iter().map(|hole| hole.until))
            .collect();
        deadlines.sort();
        deadlines.dedup();
        deadlines
    }

    fn end_by_time(&mut self, now: Timestamp) {
        self.filters.retain(|filter| now < filter.until);
        self.end_holes_by_time(now);
        let running = |until: &Timestamp| now < *until;
        for agent in &mut self.agents {
            // Who may be asked again is as one who was never asked.
            agent
                .asked
                .retain(|_, again| again.as_ref().is_none_or(running));
        }
        for framework in self.frameworks.values_mut() {
            for state in framework.clients.values_mut() {
                state.returned.retain(|(_, until)| running(until));
                state.cooling_until = state.cooling_until.filter(running);
                state.counted_since_round = false;
            }
        }
    }
}
