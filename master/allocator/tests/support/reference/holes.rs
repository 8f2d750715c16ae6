//! Holes that are kept for large tasks (contract: "Demands and holes").

use std::cmp::Ordering;
use std::collections::BTreeSet;

use allotment_allocator::{Amounts, Hole};
use allotment_types::{AgentId, Resources, Timestamp};

use super::ratio::Ratio;
use super::round::{Phase, amount_for_demand};
use super::{Agent, Client, Reference};

/// A hole that is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) agent: AgentId,
    pub(super) client: Client,
    pub(super) bundle: Amounts,
    pub(super) until: Timestamp,
}

impl Kept {
    pub(super) fn told(&self) -> Hole {
        Hole {
            agent: self.agent.clone(),
            framework: self.client.0.clone(),
            role: self.client.1.clone(),
            bundle: self.bundle.clone(),
            until: self.until,
        }
    }
}

impl Reference {
    /// Ends the holes whose reason is gone.
    pub(super) fn end_holes(&mut self) {
        let kept = self.holes.iter().filter(|hole| {
            let agent = self.agents.iter().find(|agent| agent.id == hole.agent);
            agent.is_some_and(|agent| agent.active) && self.takes_offers(&hole.client)
        });
        self.holes = kept.cloned().collect();
    }

    pub(super) fn end_holes_by_time(&mut self, now: Timestamp) {
        let timeout = self.settings.hole_timeout;
        let holes = std::mem::take(&mut self.holes);
        for hole in holes {
            if now < hole.until {
                self.holes.push(hole);
            } else if let Some(state) = self.client_mut(&hole.client) {
                state.cooling_until = Some(hole.until + timeout);
            }
        }
    }

    /// After phase 2: begins holes for those who were granted nothing because nothing fits.
    pub(super) fn keep_holes(&mut self, now: Timestamp, granted: &BTreeSet<Client>) {
        for client in self.clients_in_order() {
            let Some(bundle) = self.wants_hole(&client, granted) else {
                continue;
            };
            let active: Vec<&Agent> = self.agents.iter().filter(|agent| agent.active).collect();
            if active
                .iter()
                .any(|agent| self.fits_now(agent, &client, &bundle))
            {
                continue;
            }
            let without_hole = |agent: &Agent| self.holes.iter().all(|hole| hole.agent != agent.id);
            let smallest_lack = active
                .into_iter()
                .filter(|agent| without_hole(agent) && self.would_fit(agent, &client, &bundle))
                .min_by(|a, b| self.lack_order((a, b), &client, &bundle));
            if let Some(agent) = smallest_lack {
                self.holes.push(Kept {
                    agent: agent.id.clone(),
                    client,
                    bundle,
                    until: now + self.settings.hole_timeout,
                });
            }
        }
    }

    fn wants_hole(&self, client: &Client, granted: &BTreeSet<Client>) -> Option<Amounts> {
        let state = self.client(client)?;
        let demand = state.demand.as_ref().filter(|d| d.hole && d.count > 0)?;
        let of_role = self.holes.iter().filter(|hole| hole.client.1 == client.1);
        let wants = !granted.contains(client)
            && self.holes.iter().all(|hole| hole.client != *client)
            && state.cooling_until.is_none()
            && of_role.count()
                < usize::try_from(self.settings.holes_per_role).unwrap_or(usize::MAX)
            && demand.bundle.values().any(|amount| !amount.is_zero());
        wants.then(|| demand.bundle.clone())
    }

    fn fits_now(&self, agent: &Agent, client: &Client, bundle: &Amounts) -> bool {
        self.open_to(client, agent, &agent.free())
            .map(|free| self.cut(Phase::FairShare, agent, client, &free))
            .is_some_and(|free| holds(&free, bundle))
    }

    /// Whether the bundle would fit if nothing were held there.
    fn would_fit(&self, agent: &Agent, client: &Client, bundle: &Amounts) -> bool {
        let Some(total) = self.open_to(client, agent, &agent.spec.total) else {
            return false;
        };
        let plain = total.filter(|_, lot| !lot.is_revocable());
        bundle.iter().all(|(name, each)| {
            let all = amount_for_demand(&plain, name);
            let reserved = plain.filter(|_, lot| !lot.reservations().is_empty());
            let reserved = amount_for_demand(&reserved, name);
            let unreserved = all - reserved;
            let room = self.limit_room(&client.1, name).unwrap_or(u128::MAX);
            // Limits are about scalars; nobody limits ports.
            reserved + unreserved.min(room) >= u128::from(each.thousandths())
        })
    }

    fn lack_order(&self, (a, b): (&Agent, &Agent), client: &Client, bundle: &Amounts) -> Ordering {
        self.lack(a, client, bundle)
            .cmp(self.lack(b, client, bundle))
            .then(a.registration.cmp(&b.registration))
    }

    /// The largest part of the bundle that is not free on the agent.
    fn lack(&self, agent: &Agent, client: &Client, bundle: &Amounts) -> Ratio {
        let free = self
            .open_to(client, agent, &agent.free())
            .unwrap_or_default()
            .filter(|_, lot| !lot.is_revocable());
        let parts = bundle.iter().filter(|(_, each)| !each.is_zero());
        let parts = parts.map(|(name, each)| {
            let each = u128::from(each.thousandths());
            Ratio {
                numerator: each.saturating_sub(amount_for_demand(&free, name)),
                denominator: each,
            }
        });
        parts.fold(Ratio::ZERO, |most, part| {
            if part.cmp(most).is_gt() { part } else { most }
        })
    }
}

fn holds(resources: &Resources, bundle: &Amounts) -> bool {
    let mut bundle = bundle.iter();
    bundle.all(|(name, each)| amount_for_demand(resources, name) >= u128::from(each.thousandths()))
}
