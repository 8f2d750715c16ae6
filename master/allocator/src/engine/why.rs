//! Why nothing was offered: the rules once more, told instead of acted upon.

use std::collections::BTreeMap;

use allotment_types::{AgentId, Fixed, FrameworkId, Name, Resources, Role, Timestamp};

use super::agents::Agent;
use super::books::Books;
use super::bundle::is_unreserved;
use super::clients::Asked;
use super::eligible::{Case, Cut, No, Offer, Phase, is_open, measure};
use super::order::View;
use super::policy::Policy;
use super::roles::{Flow, ROOT};
use super::slab::Slot;
use super::sums::{Kind, Ratio, amount, fixed};
use crate::{AgentReport, Amounts, ClientReport, RoleReport, Room, Standing, Unoffered};

/// How many frameworks a report on an agent names, and how many roles one on a role.
const CLIENTS_NAMED: usize = 100;
const ROLES_NAMED: usize = 10;

/// How far a client got on an agent; the farthest reason is told.
type Farther = u8;

impl Books {
    pub(crate) fn explain(
        &self,
        now: Timestamp,
        framework: &FrameworkId,
        policy: &impl Policy,
    ) -> Vec<Unoffered> {
        let known = self.framework(framework);
        let Some(slot) = known.filter(|slot| self.frameworks[*slot].active) else {
            return vec![Unoffered::Inactive];
        };
        if self.paused {
            return vec![Unoffered::Paused];
        }
        let mut reasons = Vec::new();
        let mut takers = Vec::new();
        for (role, client) in &self.frameworks[slot].clients {
            let state = &self.clients[*client];
            let Some(wish) = &state.wish else {
                continue;
            };
            let role = role.clone();
            if wish.suppressed {
                reasons.push(Unoffered::Suppressed { role });
            } else if !self.takes_offers(state) {
                reasons.push(Unoffered::DemandMet { role });
            } else {
                takers.push(*client);
            }
        }
        if takers.is_empty() {
            return reasons;
        }
        if self.agents.is_empty() {
            reasons.push(Unoffered::NoAgents);
            return reasons;
        }
        let mut lacking: Vec<(Ratio, Unoffered)> = Vec::new();
        for (agent, _) in self.agents.iter() {
            let told = takers
                .iter()
                .map(|client| self.tell(now, agent, *client, policy));
            let Some((_, lack, reason)) = told.max_by_key(|(farther, _, _)| *farther) else {
                continue;
            };
            match lack {
                Some(lack) => lacking.push((lack, reason)),
                None => reasons.push(reason),
            }
        }
        lacking.sort_by_key(|(lack, _)| *lack);
        reasons.extend(lacking.into_iter().map(|(_, reason)| reason));
        reasons
    }

    /// Why the client was not offered the agent, how far it got, and what it lacks of a demand.
    fn tell(
        &self,
        now: Timestamp,
        slot: Slot,
        client: Slot,
        policy: &impl Policy,
    ) -> (Farther, Option<Ratio>, Unoffered) {
        let agent = &self.agents[slot];
        let id = || agent.id.clone();
        if !agent.active {
            return (0, None, Unoffered::AgentInactive { agent: id() });
        }
        if agent.free.is_empty() {
            return (1, None, Unoffered::NothingFree { agent: id() });
        }
        let Some(case) = self.case(now, Phase::FairShare, slot, client) else {
            return (0, None, Unoffered::Inactive);
        };
        let role = || case.role.clone();
        let free = || agent.free.resources.clone();
        let (farther, reason) = match self.judge(&case, &mut Cut::default()) {
            Ok(offer) => (20, self.who_is_first(&case, &offer, policy)),
            Err(No::Constraints) => {
                let failing = case.wish.constraints.as_ref();
                let failing = failing.and_then(|c| c.constraints.failing(agent.described()));
                let reason = Unoffered::Constraint {
                    agent: id(),
                    role: role(),
                    failing: failing.unwrap_or_default(),
                };
                (2, reason)
            }
            Err(No::Gpus) => (3, Unoffered::Gpus { agent: id() }),
            Err(No::Region) => {
                let domain = agent.about.domain.as_ref();
                let region = domain
                    .map(|domain| domain.region.clone())
                    .unwrap_or_default();
                (
                    4,
                    Unoffered::Region {
                        agent: id(),
                        region,
                    },
                )
            }
            Err(No::Lots) => (5, closed(&case)),
            Err(No::Limit) => (7, self.limit(&case)),
            Err(No::Headroom) => (8, self.kept_headroom(&case)),
            Err(No::Hole) => (9, self.kept_hole(slot, agent)),
            Err(No::Demand) => {
                if let Some(asked) = &case.wish.demand {
                    let reason = Unoffered::Demand {
                        agent: id(),
                        role: role(),
                        missing: self.missing(&case, asked),
                    };
                    return (10, Some(self.lack(&case, asked)), reason);
                }
                (10, Unoffered::NothingFree { agent: id() })
            }
            Err(No::TooSmall | No::NotGuaranteed) => {
                let reason = Unoffered::TooSmall {
                    agent: id(),
                    free: free(),
                };
                (11, reason)
            }
            Err(No::Filtered(until)) => {
                let reason = Unoffered::Filtered {
                    agent: id(),
                    role: role(),
                    free: free(),
                    until,
                };
                (12, reason)
            }
        };
        (farther, None, reason)
    }

    /// The client may be granted something: somebody else comes first, or the next round.
    fn who_is_first(&self, case: &Case<'_>, offer: &Offer, policy: &impl Policy) -> Unoffered {
        let (agent, role) = (case.agent.id.clone(), case.role.clone());
        let until = |client: Slot, offer: &Offer| {
            self.aside_from_offer(case.now, case.agent_slot, client, offer)
        };
        let may_have = |client: Slot| -> Option<Offer> {
            let other = self.case(case.now, Phase::FairShare, case.agent_slot, client)?;
            self.judge(&other, &mut Cut::default()).ok()
        };
        let stays = policy.first(self, |client| {
            may_have(client).is_some_and(|offer| until(client, &offer).is_none())
        });
        let aside_until = until(case.client_slot, offer).filter(|_| stays.is_some());
        let first = stays.or_else(|| policy.first(self, |client| may_have(client).is_some()));
        let framework = case.client.framework;
        let Some(first) = first.filter(|c| self.clients[*c].framework != framework) else {
            return Unoffered::Next { agent, role };
        };
        let other = &self.clients[first];
        let against = self.frameworks[other.framework].id.clone();
        if let Some(until) = aside_until {
            return Unoffered::Aside {
                agent,
                role,
                until,
                against,
            };
        }
        // Two clients of one role are told apart by their own shares, others by those of roles.
        let (share, their_share) = if other.role == case.client.role {
            let share = |client: &super::clients::Client| client.held.dominant(&self.totals, 1);
            (share(case.client).share(), share(other).share())
        } else {
            let share = |role: Slot| self.roles.node(role).held.dominant(&self.totals, 1);
            (share(case.client.role).share(), share(other.role).share())
        };
        Unoffered::Behind {
            agent,
            role,
            share,
            against,
            their_share,
        }
    }

    /// The limit with the least room.
    fn limit(&self, case: &Case<'_>) -> Unoffered {
        let rooms = self.rooms(case.client.role);
        let free = case.agent.free.unreserved();
        let of_free = |room: &Room| {
            let kind = self.bundles.kinds.find(&room.name);
            kind.is_some_and(|kind| amount(free, kind) > 0)
        };
        let tightest = rooms
            .into_iter()
            .filter(of_free)
            .min_by_key(|room| room.limit.saturating_sub(room.consumed));
        match tightest {
            Some(room) => Unoffered::Limit {
                agent: case.agent.id.clone(),
                role: case.role.clone(),
                limited: room.role,
                name: room.name,
                limit: room.limit,
                consumed: room.consumed,
            },
            None => Unoffered::NothingFree {
                agent: case.agent.id.clone(),
            },
        }
    }

    /// What limits leave of each name, at the role and above it.
    fn rooms(&self, role: Slot) -> Vec<Room> {
        let mut rooms = Vec::new();
        for at in self.roles.path(role) {
            let node = self.roles.node(at);
            let Some(role) = &node.role else {
                continue;
            };
            for (kind, limit) in node.limits() {
                if let Some(name) = self.bundles.kinds.name(*kind) {
                    rooms.push(Room {
                        role: role.clone(),
                        name: name.clone(),
                        limit: fixed(*limit),
                        consumed: fixed(node.consumed.get(*kind)),
                    });
                }
            }
        }
        rooms
    }

    /// The guarantees for which most is kept of what is free here.
    fn kept_headroom(&self, case: &Case<'_>) -> Unoffered {
        let agent = case.agent.id.clone();
        let free = case.agent.free.unreserved().iter();
        let kept = free
            .map(|(kind, _)| *kind)
            .filter(|kind| self.roles.required().get(*kind) > 0)
            .min_by_key(|kind| self.spare(*kind));
        let Some((kind, name)) = kept.and_then(|k| Some((k, self.bundles.kinds.name(k)?))) else {
            return Unoffered::NothingFree { agent };
        };
        Unoffered::Headroom {
            agent,
            role: case.role.clone(),
            name: name.clone(),
            available: fixed(self.available.get(kind)),
            required: fixed(self.roles.required().get(kind)),
            guaranteed: self.most_needy(kind).unwrap_or_else(|| case.role.clone()),
        }
    }

    fn most_needy(&self, kind: Kind) -> Option<Role> {
        let nodes = self.roles.nodes.iter();
        let guaranteed = nodes.filter(|(_, node)| !node.guarantees().is_empty());
        guaranteed
            .max_by_key(|(_, node)| node.unsatisfied(kind))
            .and_then(|(_, node)| node.role.clone())
    }

    fn kept_hole(&self, slot: Slot, agent: &Agent) -> Unoffered {
        match self.hole_on(slot) {
            Some(hole) => Unoffered::HoleKept {
                agent: hole.agent,
                framework: hole.framework,
                until: hole.until,
            },
            None => Unoffered::NothingFree {
                agent: agent.id.clone(),
            },
        }
    }

    /// What one bundle lacks on the agent.
    fn missing(&self, case: &Case<'_>, asked: &Asked) -> Amounts {
        let free = case
            .agent
            .free
            .resources
            .filter(|_, lot| is_open(lot, case));
        let wanted = asked.demand.bundle.iter();
        wanted
            .map(|(name, amount)| {
                let there = measure(&free, name);
                let missing = u128::from(amount.thousandths()).saturating_sub(there);
                (name.clone(), fixed(missing))
            })
            .filter(|(_, missing): &(Name, Fixed)| !missing.is_zero())
            .collect()
    }
}

/// Nothing that is free is open to the client: most of it lacks a capability, or is reserved.
fn closed(case: &Case<'_>) -> Unoffered {
    let agent = case.agent.id.clone();
    let free: &Resources = &case.agent.free.resources;
    let mut owners: BTreeMap<&Role, usize> = BTreeMap::new();
    for (_, lot, _) in free.iter() {
        if let Some(owner) = lot.reserved_for()
            && !lot.is_open_to(case.role)
        {
            *owners.entry(owner).or_default() += 1;
        }
    }
    if let Some((owner, _)) = owners.into_iter().max_by_key(|(_, n)| *n) {
        return Unoffered::Reserved {
            agent,
            role: case.role.clone(),
            owner: owner.clone(),
            free: free.clone(),
        };
    }
    let revocable = free
        .iter()
        .any(|(_, lot, _)| lot.is_revocable() && is_unreserved_lot(lot));
    Unoffered::Capability {
        agent,
        capability: if revocable && !case.capabilities.revocable {
            "REVOCABLE_RESOURCES"
        } else {
            "RESERVATION_REFINEMENT"
        },
        free: free.clone(),
    }
}

fn is_unreserved_lot(lot: &allotment_types::Lot) -> bool {
    lot.reservations().is_empty() && !is_unreserved(lot)
}

/// Reports on roles and agents.
impl Books {
    pub(crate) fn report_role(&self, role: &Role) -> Option<RoleReport> {
        let slot = self.roles.find(role)?;
        let node = self.roles.node(slot);
        let place = node.among_siblings(&self.totals);
        let mut before: Vec<_> = self
            .roles
            .nodes
            .iter()
            .filter(|(at, other)| {
                *at != ROOT && *at != slot && other.parent == node.parent && other.n_takers() > 0
            })
            .map(|(_, other)| (other.among_siblings(&self.totals), other))
            .filter(|(other, _)| *other < place)
            .collect();
        before.sort_by_key(|(place, _)| *place);
        let n_before = before.len();
        let named = before
            .into_iter()
            .skip(n_before.saturating_sub(ROLES_NAMED));
        let guarantees = node.guarantees().iter();
        let unsatisfied: Vec<(Kind, u128)> = guarantees
            .map(|(kind, _)| (*kind, node.unsatisfied(*kind)))
            .collect();
        let mut clients: Vec<ClientReport> = self
            .clients
            .iter()
            .filter(|(_, client)| client.role == slot)
            .map(|(at, _)| self.report_client(at))
            .collect();
        clients.sort_by(|a, b| a.framework.cmp(&b.framework));
        let mut holes = self.kept_holes();
        holes.retain(|hole| hole.role == *role);
        Some(RoleReport {
            role: role.clone(),
            weight: node.weight(),
            share: self.role_share(role),
            count: place.0.count,
            quota: self.quota(role),
            consumed: self.consumed(role),
            unsatisfied: self.bundles.kinds.named(&unsatisfied),
            rooms: self.rooms(slot),
            before: named
                .filter_map(|(_, other)| {
                    let share = other.held.dominant(&self.totals, 1).share();
                    Some((other.role.clone()?, share))
                })
                .collect(),
            n_before,
            clients,
            holes,
        })
    }

    fn report_client(&self, slot: Slot) -> ClientReport {
        let client = &self.clients[slot];
        let framework = &self.frameworks[client.framework];
        let asked = client.wish.as_ref().and_then(|wish| wish.demand.as_ref());
        let standing = match &client.wish {
            None => Standing::Left,
            Some(_) if !framework.active => Standing::Inactive,
            Some(wish) if wish.suppressed => Standing::Suppressed,
            Some(_) if !self.takes_offers(client) => Standing::DemandMet,
            Some(wish) => wish
                .aside_until()
                .filter(|_| self.aside.contains(slot))
                .map_or(Standing::Takes, |until| Standing::Aside { until }),
        };
        ClientReport {
            framework: framework.id.clone(),
            share: client.held.dominant(&self.totals, 1).share(),
            count: client.wish.as_ref().map_or(0, |wish| wish.count),
            standing,
            bundles_left: asked.map(|asked| asked.left),
        }
    }

    pub(crate) fn report_agent(
        &self,
        now: Timestamp,
        id: &AgentId,
        policy: &impl Policy,
    ) -> Option<AgentReport> {
        let slot = self.agent(id)?;
        let agent = &self.agents[slot];
        let mut takers: Vec<Slot> = self.takers.ones().map(super::news::slot).collect();
        let n_takers = takers.len();
        takers.sort_by_key(|client| &self.frameworks[self.clients[*client].framework].id);
        takers.truncate(CLIENTS_NAMED);
        let unoffered = takers.into_iter().filter_map(|client| {
            let (_, _, reason) = self.tell(now, slot, client, policy);
            let framework = &self.frameworks[self.clients[client].framework].id;
            Some((framework.clone(), self.role_of(client)?.clone(), reason))
        });
        let leaving = agent.leaving.as_ref();
        let asked = leaving.map(|leaving| {
            let unanswered = leaving.asked.iter().filter(|(_, until)| until.is_none());
            unanswered.map(|(framework, _)| framework.clone()).collect()
        });
        Some(AgentReport {
            agent: id.clone(),
            active: agent.active,
            free: self.free(id),
            held: self.held(id),
            hole: self.hole_on(slot),
            unavailability: leaving.map(|leaving| leaving.unavailability),
            asked: asked.unwrap_or_default(),
            unoffered: unoffered.collect(),
            n_takers,
        })
    }

    /// The first taker by share for whom `holds` says yes.
    pub(crate) fn first_by_share(&self, mut holds: impl FnMut(Slot) -> bool) -> Option<Slot> {
        if self.is_stale() {
            let takers = self.takers.ones().map(super::news::slot);
            let eligible = takers.filter(|client| holds(*client));
            return eligible.min_by(|a, b| self.compare(*a, *b));
        }
        let mut first = None;
        self.roles.walk(View::All, &mut |client, _| {
            if holds(client) {
                first = Some(client);
                return Flow::Stop;
            }
            Flow::Next
        });
        first
    }
}
