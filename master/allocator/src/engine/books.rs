//! The books: who holds what, and everything that follows from it.
//!
//! Every fact ends here. What is derived (shares, consumption, the order of clients, what a round
//! must look at) is kept up to date at once, in time that does not depend on how much else there
//! is.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Value};
use fixedbitset::FixedBitSet;

use super::agents::Agent;
use super::bundle::{Bundle, Bundles};
use super::clients::{Client, Framework, Wish, least};
use super::filters::Expiries;
use super::news::News;
use super::order::{Key, Standing};
use super::ranks::{between, spread};
use super::roles::{Appetite, Roles, WEIGHT_DEFAULT};
use super::slab::{Slab, Slot};
use super::sums::{Kind, Sums, Totals};
use crate::{Capabilities, Settings};

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) settings: Settings,
    /// The configured smallest bundles.
    pub(crate) least: Appetite,
    pub(crate) bundles: Bundles,
    pub(crate) totals: Totals,
    /// Unreserved and free on active agents.
    pub(crate) available: Sums,
    /// The totals changed, so every share did.
    stale: bool,
    /// Some framework was given no rank of its own: there was no room among the others.
    crowded: bool,
    pub(crate) frameworks: Slab<Framework>,
    pub(crate) framework_slots: BTreeMap<FrameworkId, Slot>,
    pub(crate) clients: Slab<Client>,
    /// Clients that take offers.
    pub(crate) takers: FixedBitSet,
    pub(crate) roles: Roles,
    pub(crate) agents: Slab<Agent>,
    pub(crate) agent_slots: BTreeMap<AgentId, Slot>,
    pub(crate) registrations: u64,
    pub(crate) expiries: Expiries,
    /// Clients that step aside from what they declined.
    pub(crate) aside: super::patience::Aside,
    pub(crate) news: News,
    /// Rounds begun, or asked for in a pause.
    pub(crate) rounds: u64,
    /// Calls of `allocate`.
    pub(crate) calls: u64,
    /// A round that the last call did not bring to its end.
    pub(crate) under_way: Option<Box<super::progress::Progress>>,
    pub(crate) paused: bool,
    /// The registration behind the agent that was granted last.
    pub(crate) turn: u64,
    /// Grants so far, and demands.
    pub(crate) grants: u64,
    pub(crate) demands: u64,
    pub(crate) holes: super::holes::Holes,
    pub(crate) maintenance: super::maintenance::Maintenance,
    /// As of the end of the last round.
    pub(crate) spare_seen: Sums,
    pub(crate) changes_seen: u64,
}

impl Books {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut bundles = Bundles::default();
        let excluded = settings.common.share_excluded.iter();
        let excluded = excluded.map(|name| bundles.kinds.number(name)).collect();
        Self {
            least: least(&settings.common.min_allocatable, &mut bundles.kinds),
            settings,
            totals: Totals::new(excluded),
            bundles,
            available: Sums::default(),
            stale: false,
            crowded: false,
            frameworks: Slab::default(),
            framework_slots: BTreeMap::new(),
            clients: Slab::default(),
            takers: FixedBitSet::new(),
            roles: Roles::default(),
            agents: Slab::default(),
            agent_slots: BTreeMap::new(),
            registrations: 0,
            expiries: Expiries::default(),
            aside: super::patience::Aside::default(),
            news: News::default(),
            rounds: 0,
            calls: 0,
            under_way: None,
            paused: false,
            turn: 0,
            grants: 0,
            demands: 0,
            holes: super::holes::Holes::default(),
            maintenance: super::maintenance::Maintenance::default(),
            spare_seen: Sums::default(),
            changes_seen: 0,
        }
    }

    pub(crate) fn framework(&self, id: &FrameworkId) -> Option<Slot> {
        self.framework_slots.get(id).copied()
    }

    pub(crate) fn agent(&self, id: &AgentId) -> Option<Slot> {
        self.agent_slots.get(id).copied()
    }

    /// The client of a framework in a role.
    pub(crate) fn client(&self, framework: Slot, role: &Role) -> Option<Slot> {
        self.frameworks[framework].clients.get(role).copied()
    }

    pub(crate) fn role_of(&self, client: Slot) -> Option<&Role> {
        self.roles.node(self.clients[client].role).role.as_ref()
    }

    /// Whether the client takes offers.
    pub(crate) fn takes_offers(&self, client: &Client) -> bool {
        let framework = &self.frameworks[client.framework];
        framework.known
            && framework.active
            && client.wish.as_ref().is_some_and(|wish| {
                !wish.suppressed && wish.demand.as_ref().is_none_or(|asked| asked.left > 0)
            })
    }
}

/// Frameworks and clients come and go.
impl Books {
    /// The framework with this id; unknown until it subscribes.
    pub(crate) fn ensure_framework(&mut self, id: &FrameworkId) -> Slot {
        if let Some(slot) = self.framework(id) {
            return slot;
        }
        let rank = |at: Option<(_, &Slot)>| at.map(|(_, slot)| self.frameworks[*slot].rank);
        let below = rank(self.framework_slots.range(..id).next_back());
        let above = rank(self.framework_slots.range(id..).next());
        let rank = between(below, above);
        self.crowded |= rank.is_none();
        let slot = self.frameworks.insert(Framework {
            id: id.clone(),
            rank: rank.unwrap_or_default(),
            known: false,
            active: false,
            capabilities: Capabilities::default(),
            clients: BTreeMap::new(),
        });
        self.framework_slots.insert(id.clone(), slot);
        slot
    }

    /// The client of a framework in a role; it wants nothing until it subscribes.
    pub(crate) fn ensure_client(&mut self, framework: Slot, role: &Role) -> Slot {
        if let Some(slot) = self.client(framework, role) {
            return slot;
        }
        let node = self.roles.ensure(role);
        self.roles.refer(node);
        let slot = self.clients.insert(Client {
            framework,
            role: node,
            held: Sums::default(),
            holds: 0,
            place: None,
            listed: None,
            filters: super::filters::ClientFilters::default(),
            wish: None,
        });
        let clients = &mut self.frameworks[framework].clients;
        clients.insert(role.clone(), slot);
        slot
    }

    /// Forgets a client that wants and holds nothing, and its framework when it was the last.
    pub(crate) fn tidy(&mut self, client: Slot) {
        let Client {
            framework,
            role,
            holds,
            ref wish,
            ..
        } = self.clients[client];
        if holds == 0 && wish.is_none() {
            if let Some(role) = self.role_of(client).cloned() {
                self.frameworks[framework].clients.remove(&role);
            }
            self.clients.remove(client);
            self.news.forget_client(client);
            self.roles.release(role);
            self.place_role(role);
            self.roles.tidy(role);
        }
        self.tidy_framework(framework);
    }

    pub(crate) fn tidy_framework(&mut self, slot: Slot) {
        let framework = &self.frameworks[slot];
        if !framework.known && framework.clients.is_empty() {
            self.framework_slots.remove(&framework.id);
            self.frameworks.remove(slot);
        }
    }
}

/// Places in the order.
impl Books {
    /// Whether places are worth nothing until the next [`Self::sort`].
    pub(crate) const fn is_stale(&self) -> bool {
        self.stale || self.crowded || self.roles.crowded
    }

    /// How well a client is served, from the sums as they are.
    pub(crate) fn standing(&self, client: &Client) -> Standing {
        let wish = client.wish.as_ref();
        Standing {
            share: client.held.dominant(&self.totals, WEIGHT_DEFAULT),
            count: wish.map_or(0, |wish| wish.count),
        }
    }

    /// The place of a client among those of its role.
    fn key(&self, slot: Slot) -> Key {
        let client = &self.clients[slot];
        Key {
            standing: self.standing(client),
            rank: self.frameworks[client.framework].rank,
            slot,
        }
    }

    /// Puts a client, and the roles above it, where they belong now.
    pub(crate) fn place(&mut self, slot: Slot) {
        let takes = self.takes_offers(&self.clients[slot]);
        let role = self.clients[slot].role;
        let sorted = !self.is_stale();
        if takes && sorted && self.clients[slot].place.is_none() {
            self.refresh_lone(role);
        }
        let new = takes.then(|| self.key_unless_lone(slot));
        let client = &mut self.clients[slot];
        let old = std::mem::replace(&mut client.place, new);
        let wish = client.wish.as_ref().filter(|_| takes);
        let appetite = wish.map(|wish| wish.appetite());
        if client.listed.as_ref() != appetite {
            let appetite = appetite.cloned();
            let listed = std::mem::replace(&mut client.listed, appetite.clone());
            if let Some(listed) = listed {
                self.roles.change_appetite(role, &listed, false);
            }
            if let Some(appetite) = appetite {
                self.roles.change_appetite(role, &appetite, true);
            }
        }
        if old.is_some() != takes {
            self.takers.grow(slot as usize + 1);
            self.takers.set(slot as usize, takes);
        }
        self.roles
            .replace_client(role, old.as_ref(), new.as_ref(), sorted);
        self.place_role(role);
    }

    /// The place of a client; among no others it is as good where it was.
    fn key_unless_lone(&self, slot: Slot) -> Key {
        let client = &self.clients[slot];
        match &client.place {
            Some(place)
                if !self.is_stale() && self.roles.lone_client(client.role) == Some(slot) =>
            {
                *place
            }
            _ => self.key(slot),
        }
    }

    /// Before it gets company an only client is put where it belongs.
    fn refresh_lone(&mut self, role: Slot) {
        if let Some(lone) = self.roles.lone_client(role) {
            let new = self.key(lone);
            let old = self.clients[lone].place.replace(new);
            self.roles
                .replace_client(role, old.as_ref(), Some(&new), true);
        }
    }

    /// Puts a role, and those above it, where they belong now.
    pub(crate) fn place_role(&mut self, role: Slot) {
        if !self.is_stale() {
            self.roles.place_up(role, &self.totals);
        }
    }

    /// Orders everything anew, when the totals or ranks changed.
    pub(crate) fn sort(&mut self) {
        if !self.is_stale() {
            return;
        }
        self.stale = false;
        self.roles.make_room();
        if std::mem::take(&mut self.crowded) {
            let ranks = spread(self.framework_slots.len());
            for (slot, rank) in self.framework_slots.values().zip(ranks) {
                self.frameworks[*slot].rank = rank;
            }
        }
        let mut by_role: BTreeMap<Slot, Vec<Key>> = BTreeMap::new();
        for index in self.takers.ones().collect::<Vec<_>>() {
            let slot = super::news::slot(index);
            let key = self.key(slot);
            let client = &mut self.clients[slot];
            client.place = Some(key);
            by_role.entry(client.role).or_default().push(key);
        }
        self.roles.rebuild(by_role, &self.totals);
    }
}

/// What is held.
impl Books {
    /// The client holds `what` of the agent from here on; it is free there, or shared.
    pub(crate) fn hold(&mut self, agent: Slot, client: Slot, what: &Bundle) {
        self.move_held(agent, client, what, true);
    }

    /// The client holds `what` of the agent no longer. Returns what it really held of it.
    pub(crate) fn release(&mut self, agent: Slot, client: Slot, what: &Bundle) -> Bundle {
        let Some(held) = self.agents[agent].held_by(client).cloned() else {
            return self.bundles.empty();
        };
        let back = self.bundles.common(what, &held);
        if !back.is_empty() {
            self.move_held(agent, client, &back, false);
        }
        back
    }

    fn move_held(&mut self, agent_slot: Slot, client: Slot, what: &Bundle, more: bool) {
        let bundles = &mut self.bundles;
        let agent = &mut self.agents[agent_slot];
        let at = agent.held.iter().position(|(holder, _)| *holder == client);
        let before = at.map_or_else(|| bundles.empty(), |at| Arc::clone(&agent.held[at].1));
        let (after, alone) = if more {
            (bundles.plus(&before, what), without_shared(bundles, what))
        } else {
            (bundles.minus(&before, what), without_shared(bundles, what))
        };
        agent.free = if more {
            bundles.minus(&agent.free, &alone)
        } else {
            bundles.plus(&agent.free, &alone)
        };
        match (at, after.is_empty()) {
            (Some(at), true) => {
                agent.held.swap_remove(at);
                self.clients[client].holds -= 1;
            }
            (Some(at), false) => agent.held[at].1 = Arc::clone(&after),
            (None, _) => {
                agent.held.push((client, Arc::clone(&after)));
                self.clients[client].holds += 1;
            }
        }
        if agent.leaving.is_some() {
            self.maintenance.news = true;
        }
        let active = agent.active;
        let open = agent.is_open();
        self.news.set_open(agent_slot, open);
        self.news.holes = true;
        self.charge(agent_slot, client, (&before, &after), what, more);
        if active {
            let change = if more { Sums::subtract } else { Sums::add };
            change(&mut self.available, alone.unreserved());
        }
    }

    /// Shares and consumption follow what is held.
    fn charge(
        &mut self,
        agent: Slot,
        client: Slot,
        (before, after): (&Bundle, &Bundle),
        what: &Bundle,
        more: bool,
    ) {
        let role = self.clients[client].role;
        if what.shared {
            let agent = &self.agents[agent];
            let before = agent.counted(before, &self.bundles.kinds);
            let after = agent.counted(after, &self.bundles.kinds);
            for (counted, more) in [(after, true), (before, false)] {
                self.charge_share(client, role, counted.scalars(), more);
            }
        } else {
            self.charge_share(client, role, what.scalars(), more);
        }
        self.roles.consume(role, what.unreserved(), more);
    }

    fn charge_share(
        &mut self,
        client: Slot,
        role: Slot,
        scalars: &super::sums::Scalars,
        more: bool,
    ) {
        let change = if more { Sums::add } else { Sums::subtract };
        change(&mut self.clients[client].held, scalars);
        self.roles.hold(role, scalars, more);
    }

    /// The totals of the cluster, and what is reserved, with an agent or without it.
    pub(crate) fn count_total(&mut self, total: &Bundle, more: bool) {
        let change = if more { Sums::add } else { Sums::subtract };
        change(self.totals.sums_mut(), total.scalars());
        self.stale = true;
        if total.plain {
            return;
        }
        for (name, lot, value) in total.resources.iter() {
            let Value::Scalar(amount) = value else {
                continue;
            };
            let kind: Kind = self.bundles.kinds.number(name);
            let amounts = [(kind, u128::from(amount.thousandths()))];
            if lot.is_shared() {
                change(self.totals.sums_mut(), &amounts);
            }
            if let Some(role) = lot.reserved_for()
                && !lot.is_revocable()
            {
                self.roles.reserve(role, &amounts, more);
            }
        }
    }

    /// The agent's unreserved free amounts become available, or no longer are.
    pub(crate) fn count_available(&mut self, agent: Slot, more: bool) {
        let change = if more { Sums::add } else { Sums::subtract };
        change(&mut self.available, self.agents[agent].free.unreserved());
    }

    /// What guarantees leave of a kind.
    pub(crate) fn spare(&self, kind: Kind) -> u128 {
        let required = self.roles.required().get(kind);
        self.available.get(kind).saturating_sub(required)
    }

    /// New wishes of a client that subscribes.
    pub(crate) fn new_wish(&self) -> Box<Wish> {
        Box::new(Wish::new(Arc::clone(&self.least)))
    }
}

/// The part that is given to one client alone.
pub(crate) fn without_shared(bundles: &mut Bundles, what: &Bundle) -> Bundle {
    if what.shared {
        let alone: Resources = what.resources.filter(|_, lot| !lot.is_shared());
        bundles.keep(&alone)
    } else {
        Arc::clone(what)
    }
}
