//! Facts about agents, as they arrive.

use std::sync::Arc;

use allotment_types::{AgentId, FrameworkId, Resources, Role};

use super::agents::{About, Agent};
use super::books::{Books, without_shared};
use super::bundle::Bundle;
use super::filters::AgentFilters;
use super::slab::Slot;
use crate::{AgentSpec, ConvertError, Grant};

impl Books {
    pub(crate) fn add_agent(&mut self, id: &AgentId, spec: AgentSpec) {
        self.remove_agent(id);
        let total = self.bundles.keep(&spec.total);
        let free = without_shared(&mut self.bundles, &total);
        let n_slots = self.agents.slots();
        let slot = self.agents.insert(Agent {
            id: id.clone(),
            registration: self.registrations,
            active: true,
            total: Arc::clone(&total),
            free,
            held: Vec::new(),
            about: Box::new(About {
                hostname: spec.hostname,
                attributes: spec.attributes,
                domain: spec.domain,
            }),
            filters: AgentFilters::default(),
            hole: None,
            leaving: None,
            shared_given: None,
        });
        self.registrations += 1;
        self.agent_slots.insert(id.clone(), slot);
        if (slot as usize) < n_slots {
            self.forget_verdicts(slot);
        }
        self.count_total(&total, true);
        self.count_available(slot, true);
        for grant in &spec.used {
            self.adopt(slot, grant);
        }
        let open = self.agents[slot].is_open();
        self.news.set_open(slot, open);
        self.more_is_free(slot);
        self.news.holes = true;
        self.forget_all_returned();
    }

    /// What runs on an agent already, as far as the agent has it.
    fn adopt(&mut self, agent: Slot, grant: &Grant) {
        let state = &self.agents[agent];
        let there = state.free.resources.plus(&state.shared());
        let there = self.bundles.keep(&there);
        let named = self.bundles.keep(&grant.resources);
        let alone = without_shared(&mut self.bundles, &named);
        let mut held = self.bundles.common(&alone, &there);
        if named.shared {
            // Copies of a shared volume are no less there for being held.
            let copies = named
                .resources
                .filter(|name, lot| lot.is_shared() && there.resources.get(name, lot).is_some());
            let copies = self.bundles.keep(&copies);
            held = self.bundles.plus(&held, &copies);
        }
        if held.is_empty() {
            return;
        }
        let framework = self.ensure_framework(&grant.framework);
        let client = self.ensure_client(framework, &grant.role);
        self.hold(agent, client, &held);
        self.place(client);
    }

    /// Constraints do not know the agent in this slot.
    fn forget_verdicts(&self, slot: Slot) {
        for (_, client) in self.clients.iter() {
            if let Some(wish) = &client.wish
                && let Some(constraints) = &wish.constraints
            {
                constraints.forget(slot);
            }
        }
    }

    pub(crate) fn set_agent_active(&mut self, id: &AgentId, active: bool) {
        let Some(slot) = self.agent(id) else {
            return;
        };
        if self.agents[slot].active == active {
            return;
        }
        self.agents[slot].active = active;
        self.count_available(slot, active);
        let open = self.agents[slot].is_open();
        self.news.set_open(slot, open);
        self.more_is_free(slot);
        if !active {
            self.end_hole(slot);
        }
        self.news.holes = true;
    }

    pub(crate) fn remove_agent(&mut self, id: &AgentId) {
        let Some(slot) = self.agent(id) else {
            return;
        };
        self.set_agent_active(id, false);
        let held = self.agents[slot].held.clone();
        for (client, bundle) in held {
            self.release(slot, client, &bundle);
            self.place(client);
            self.tidy(client);
        }
        let (clients, agents) = (&mut self.clients, &mut self.agents);
        let filters = &mut agents[slot].filters;
        self.expiries
            .forget_agent(filters, |client| clients[client].filters.lose_one());
        self.maintenance.forget(slot);
        self.agent_slots.remove(id);
        if let Some(agent) = self.agents.remove(slot) {
            self.count_total(&agent.total, false);
        }
        let agents = &self.agents;
        self.expiries
            .sweep(|agent| Some(&agents.get(agent)?.filters));
    }

    pub(crate) fn convert(
        &mut self,
        id: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError> {
        let Some(agent) = self.agent(id) else {
            return Err(ConvertError::UnknownAgent { agent: id.clone() });
        };
        let client = holder.and_then(|(framework, role)| {
            let framework = self.framework(framework)?;
            self.client(framework, role)
        });
        let state = &self.agents[agent];
        let there = match (holder, client) {
            (None, _) => state.free.resources.plus(&self.unheld_shared(state)),
            (Some(_), Some(client)) => state
                .held_by(client)
                .map(|held| held.resources.clone())
                .unwrap_or_default(),
            (Some(_), None) => Resources::EMPTY,
        };
        if !there.contains(from) {
            return Err(ConvertError::NotThere {
                agent: id.clone(),
                asked: from.clone(),
                held: there,
            });
        }
        let (from, to) = (self.bundles.keep(from), self.bundles.keep(to));
        self.exchange(agent, client, &from, &to);
        Ok(())
    }

    /// The shared lots that nobody holds a copy of.
    fn unheld_shared(&self, agent: &Agent) -> Resources {
        let held = |name: &_, lot: &_| {
            let mut holders = agent.held.iter();
            holders.any(|(_, held)| held.resources.get(name, lot).is_some())
        };
        agent.shared().filter(|name, lot| !held(name, lot))
    }

    /// `from` leaves the agent, and `to` comes in its place.
    fn exchange(&mut self, agent: Slot, client: Option<Slot>, from: &Bundle, to: &Bundle) {
        if let Some(client) = client {
            self.release(agent, client, from);
        }
        let active = self.agents[agent].active;
        if active {
            self.count_available(agent, false);
        }
        let old = Arc::clone(&self.agents[agent].total);
        let rest = self.bundles.minus(&old, from);
        let total = self.bundles.plus(&rest, to);
        self.count_total(&total, true);
        self.count_total(&old, false);
        let leaves = without_shared(&mut self.bundles, from);
        let comes = without_shared(&mut self.bundles, to);
        let state = &mut self.agents[agent];
        state.total = total;
        let rest = self.bundles.minus(&state.free, &leaves);
        state.free = self.bundles.plus(&rest, &comes);
        if active {
            self.count_available(agent, true);
        }
        if let Some(client) = client {
            self.hold(agent, client, to);
            self.place(client);
        }
        let open = self.agents[agent].is_open();
        self.news.set_open(agent, open);
        self.more_is_free(agent);
        self.news.holes = true;
    }
}
