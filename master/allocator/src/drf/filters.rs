//! Filters: what a framework declined is kept from it for a while.
//!
//! A filter belongs to a framework, a role and an agent, and blocks a bundle iff the refused
//! resources contain it, so that any growth is offered again (Mesos: `RefusedOfferFilter`). It
//! blocks before its last instant and no longer at it.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{Resources, Timestamp};

use super::{AgentNumber, Client};

/// The most filters of one client on one agent. Each stands for a bundle of another shape, so a
/// few are common; past this bound the one that ends first is dropped, which costs a repeated
/// offer and nothing else.
const PER_CLIENT_MAX: usize = 16;

#[derive(Debug)]
struct Filter {
    refused: Resources,
    until: Timestamp,
}

/// Every filter of the cluster.
#[derive(Debug, Default)]
pub(super) struct Filters {
    by_agent: BTreeMap<AgentNumber, BTreeMap<Client, Vec<Filter>>>,
    by_client: BTreeMap<Client, BTreeSet<AgentNumber>>,
    deadlines: BTreeSet<(Timestamp, AgentNumber, Client)>,
}

/// The filters of one agent, found once for many questions.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnAgent<'a>(Option<&'a BTreeMap<Client, Vec<Filter>>>);

impl OnAgent<'_> {
    /// Until when `bundle` is kept from `client`; `None` when it is not.
    pub(super) fn blocked_until(
        self,
        now: Timestamp,
        client: Client,
        bundle: &Resources,
    ) -> Option<Timestamp> {
        self.0?
            .get(&client)?
            .iter()
            .filter(|filter| now < filter.until && filter.refused.contains(bundle))
            .map(|filter| filter.until)
            .max()
    }
}

impl Filters {
    /// Keeps bundles that `refused` contains from `client` until the given instant.
    pub(super) fn add(
        &mut self,
        agent: AgentNumber,
        client: Client,
        refused: &Resources,
        until: Timestamp,
    ) {
        let on_agent = self.by_agent.entry(agent).or_default();
        let filters = on_agent.entry(client).or_default();
        if filters
            .iter()
            .any(|f| f.until >= until && f.refused.contains(refused))
        {
            return;
        }
        let mut gone: Vec<Filter> = filters
            .extract_if(.., |f| f.until <= until && refused.contains(&f.refused))
            .collect();
        if filters.len() >= PER_CLIENT_MAX
            && let Some(soonest) = (0..filters.len()).min_by_key(|i| filters[*i].until)
        {
            gone.push(filters.remove(soonest));
        }
        filters.push(Filter {
            refused: refused.clone(),
            until,
        });
        for filter in gone {
            if !filters.iter().any(|f| f.until == filter.until) {
                self.deadlines.remove(&(filter.until, agent, client));
            }
        }
        self.deadlines.insert((until, agent, client));
        self.by_client.entry(client).or_default().insert(agent);
    }

    /// The filters of one agent.
    pub(super) fn on(&self, agent: AgentNumber) -> OnAgent<'_> {
        OnAgent(self.by_agent.get(&agent))
    }

    /// Ends the filters whose time is over; returns their agents.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<AgentNumber> {
        let mut agents = Vec::new();
        while let Some(&(until, agent, client)) = self.deadlines.first()
            && until <= now
        {
            self.deadlines.pop_first();
            agents.push(agent);
            let on_agent = self.by_agent.entry(agent).or_default();
            if let Some(filters) = on_agent.get_mut(&client) {
                filters.retain(|f| f.until > until);
                if filters.is_empty() {
                    self.forget(agent, client);
                }
            }
        }
        agents
    }

    /// Ends every filter of a client; returns their agents.
    pub(super) fn forget_client(&mut self, client: Client) -> BTreeSet<AgentNumber> {
        let agents = self.by_client.get(&client).cloned().unwrap_or_default();
        for agent in &agents {
            self.forget(*agent, client);
        }
        agents
    }

    /// Ends every filter on an agent.
    pub(super) fn forget_agent(&mut self, agent: AgentNumber) {
        let clients: Vec<Client> = self
            .by_agent
            .get(&agent)
            .map(|on_agent| on_agent.keys().copied().collect())
            .unwrap_or_default();
        for client in clients {
            self.forget(agent, client);
        }
        self.by_agent.remove(&agent);
    }

    /// When the next filter ends.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    fn forget(&mut self, agent: AgentNumber, client: Client) {
        if let Some(on_agent) = self.by_agent.get_mut(&agent) {
            for filter in on_agent.remove(&client).unwrap_or_default() {
                self.deadlines.remove(&(filter.until, agent, client));
            }
            if on_agent.is_empty() {
                self.by_agent.remove(&agent);
            }
        }
        if let Some(agents) = self.by_client.get_mut(&client) {
            agents.remove(&agent);
            if agents.is_empty() {
                self.by_client.remove(&client);
            }
        }
    }
}
