//! Facts about frameworks, as they arrive.

use std::collections::BTreeSet;

use allotment_types::{AgentId, FrameworkId, Role, Timestamp};

use super::books::Books;
use super::clients::{Asked, Constrained, least};
use super::progress::Budget;
use super::slab::Slot;
use crate::{Demand, FrameworkSpec, Grant, Quota, Recovery, RoleSpec};

impl Books {
    pub(crate) fn add_framework(&mut self, id: &FrameworkId, spec: FrameworkSpec) {
        let slot = self.ensure_framework(id);
        let framework = &mut self.frameworks[slot];
        framework.known = true;
        framework.active = true;
        framework.capabilities = spec.capabilities;
        let left: Vec<(Role, Slot)> = framework
            .clients
            .iter()
            .filter(|(role, _)| !spec.roles.contains_key(*role))
            .map(|(role, client)| (role.clone(), *client))
            .collect();
        for (role, wanted) in spec.roles {
            let client = self.ensure_client(slot, &role);
            self.subscribe(client, wanted);
        }
        for (_, client) in left {
            self.leave(client);
            self.tidy(client);
        }
        self.maintenance.news = true;
    }

    fn subscribe(&mut self, client: Slot, wanted: RoleSpec) {
        let fresh = self.new_wish();
        let wish = self.clients[client].wish.get_or_insert(fresh);
        let revived = wish.suppressed && !wanted.suppressed;
        wish.suppressed = wanted.suppressed;
        wish.constraints = wanted.constraints.map(Constrained::new);
        wish.least = wanted.min_allocatable.as_ref().map_or_else(
            || std::sync::Arc::clone(&self.least),
            |min| least(min, &mut self.bundles.kinds),
        );
        if revived {
            self.forget_filters(client);
        }
        self.end_row(client);
        self.wants_anew(client);
    }

    pub(crate) fn deactivate_framework(&mut self, id: &FrameworkId) {
        let Some(slot) = self.framework(id) else {
            return;
        };
        self.frameworks[slot].active = false;
        for client in self.clients_of(slot) {
            self.forget_filters(client);
            self.end_row(client);
            if let Some(wish) = &mut self.clients[client].wish {
                wish.demand = None;
            }
            self.wants_less(client);
        }
    }

    pub(crate) fn remove_framework(&mut self, id: &FrameworkId) {
        let Some(slot) = self.framework(id) else {
            return;
        };
        self.frameworks[slot].active = false;
        for client in self.clients_of(slot) {
            self.leave(client);
            self.release_everything(client);
        }
        self.forget_asked(id);
        // The last client takes an unknown framework with it.
        self.frameworks[slot].known = false;
        let clients = self.clients_of(slot);
        if clients.is_empty() {
            self.tidy_framework(slot);
        }
        for client in clients {
            self.tidy(client);
        }
    }

    /// Frees what a client holds. A scan, because it is rare: an index of holders would cost
    /// every grant instead.
    fn release_everything(&mut self, client: Slot) {
        if self.clients[client].holds == 0 {
            return;
        }
        let agents = self.agents.iter();
        let holding: Vec<_> = agents
            .filter_map(|(slot, agent)| Some((slot, agent.held_by(client)?.clone())))
            .collect();
        for (agent, held) in holding {
            self.release(agent, client, &held);
            self.more_is_free(agent);
        }
        self.place(client);
    }

    /// More than before is free on the agent.
    pub(crate) fn more_is_free(&mut self, agent: Slot) {
        if self.agents[agent].is_open() {
            self.news.agent(agent);
        }
    }

    pub(crate) fn clients_of(&self, framework: Slot) -> Vec<Slot> {
        self.frameworks[framework]
            .clients
            .values()
            .copied()
            .collect()
    }

    /// The framework is not subscribed to this role any more.
    fn leave(&mut self, client: Slot) {
        self.forget_filters(client);
        self.end_row(client);
        self.end_hole_of(client);
        self.end_cooling(client);
        self.clients[client].wish = None;
        self.wants_less(client);
    }

    /// The clients in these roles, or in all that it subscribed to.
    fn named(&self, framework: &FrameworkId, roles: &BTreeSet<Role>) -> Vec<Slot> {
        let Some(slot) = self.framework(framework) else {
            return Vec::new();
        };
        let clients = self.frameworks[slot].clients.iter();
        clients
            .filter(|(role, _)| roles.is_empty() || roles.contains(*role))
            .map(|(_, client)| *client)
            .filter(|client| self.clients[*client].wish.is_some())
            .collect()
    }

    pub(crate) fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        for client in self.named(framework, roles) {
            if let Some(wish) = &mut self.clients[client].wish {
                wish.suppressed = true;
            }
            self.wants_less(client);
        }
    }

    pub(crate) fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        for client in self.named(framework, roles) {
            if let Some(wish) = &mut self.clients[client].wish {
                wish.suppressed = false;
            }
            self.forget_filters(client);
            self.end_row(client);
            self.wants_anew(client);
        }
    }

    pub(crate) fn set_demand(
        &mut self,
        framework: &FrameworkId,
        role: &Role,
        demand: Option<Demand>,
    ) {
        let Some(slot) = self.framework(framework) else {
            return;
        };
        let Some(client) = self.client(slot, role) else {
            return;
        };
        let active = self.frameworks[slot].active;
        let Some(wish) = self.clients[client].wish.as_mut().filter(|_| active) else {
            return;
        };
        self.demands += 1;
        let asked = demand.map(|demand| Asked::new(demand, self.demands, &mut self.bundles.kinds));
        let bundle = |asked: &Option<Asked>| asked.as_ref().map(|a| a.demand.bundle.clone());
        let keeps_hole = asked.as_ref().is_some_and(|asked| asked.demand.hole)
            && bundle(&asked) == bundle(&wish.demand);
        wish.demand = asked;
        if !keeps_hole {
            self.end_hole_of(client);
        }
        self.end_row(client);
        self.wants_anew(client);
    }

    /// The client may take what it did not take before.
    fn wants_anew(&mut self, client: Slot) {
        self.wants_less(client);
        if self.clients[client].place.is_some() {
            self.news.client(client);
        }
    }

    /// The client may have stopped to take offers.
    pub(crate) fn wants_less(&mut self, client: Slot) {
        self.place(client);
        if self.clients[client].place.is_none() {
            self.end_hole_of(client);
        }
        self.list_wanting(client);
    }
}

/// Patience and filters.
impl Books {
    pub(crate) fn recover(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        grant: &Grant,
        recovery: Recovery,
    ) {
        let (Some(agent), Some(framework)) = (self.agent(agent), self.framework(&grant.framework))
        else {
            return;
        };
        let Some(client) = self.client(framework, &grant.role) else {
            return;
        };
        let named = self.bundles.keep(&grant.resources);
        let back = self.release(agent, client, &named);
        if let Recovery::Declined {
            refuse_for,
            used_some,
        } = recovery
            && self.frameworks[framework].active
            && self.clients[client].wish.is_some()
        {
            if !refuse_for.is_zero() && !back.is_empty() {
                self.filter(agent, client, &back, now + refuse_for);
            }
            self.note_return(now, client, &back, used_some);
        }
        if !back.is_empty() {
            self.more_is_free(agent);
        }
        self.place(client);
        self.tidy(client);
    }

    fn filter(
        &mut self,
        agent: Slot,
        client: Slot,
        refused: &super::bundle::Bundle,
        until: Timestamp,
    ) {
        let on = (agent, &mut self.agents[agent].filters);
        let of = (client, &mut self.clients[client].filters);
        self.expiries.add(on, of, refused, until);
    }

    fn forget_filters(&mut self, client: Slot) {
        if self.clients[client].filters.is_empty() {
            return;
        }
        for agent in self.clients[client].filters.take_agents() {
            if self.agents.get(agent).is_some() {
                let on = &mut self.agents[agent].filters;
                let of = (client, &mut self.clients[client].filters);
                self.expiries.forget(on, of);
            }
        }
        let agents = &self.agents;
        self.expiries
            .sweep(|agent| Some(&agents.get(agent)?.filters));
    }

    /// Ends what time has ended; of filters no more than half of the budget allows.
    pub(crate) fn end_by_time(&mut self, now: Timestamp, budget: &mut Budget) {
        let due = self.expiries.due(now, budget.half());
        budget.spend(due.len() as u64);
        for (agent, client) in due {
            if self.agents.get(agent).is_none() || self.clients.get(client).is_none() {
                continue;
            }
            let on = &mut self.agents[agent].filters;
            let of = (client, &mut self.clients[client].filters);
            if self.expiries.expire(now, on, of) && self.news.open.contains(agent as usize) {
                self.news.pairs.push((agent, client));
            }
        }
        let agents = &self.agents;
        self.expiries
            .sweep(|agent| Some(&agents.get(agent)?.filters));
        self.end_asides(now);
        self.end_holes(now);
        self.maintenance.end_by_time(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        [
            self.expiries.next(),
            self.holes.next_deadline(),
            self.maintenance.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn set_weight(&mut self, role: &Role, weight: u64) {
        let slot = self.roles.set_weight(role, weight);
        self.place_role(slot);
        self.roles.tidy(slot);
    }

    pub(crate) fn set_quota(&mut self, role: &Role, quota: Quota) {
        let slot = self.roles.ensure(role);
        self.roles.set_quota(slot, quota, &mut self.bundles.kinds);
        // Whoever was held back, by whatever, may not be any more.
        self.news.everything = true;
        self.news.holes = true;
        self.place_role(slot);
        self.roles.tidy(slot);
    }
}
