//! Holes: what becomes free on one agent is kept for a large task until it fits.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::Timestamp;
use fixedbitset::FixedBitSet;

use super::books::Books;
use super::clients::Asked;
use super::eligible::{Case, Phase, holds_bundle, measure};
use super::progress::Budget;
use super::slab::Slot;
use super::sums::Ratio;
use crate::Hole;

/// The holes that are kept, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    /// By agent: for which client, and until when.
    kept: BTreeMap<Slot, (Slot, Timestamp)>,
    ends: BTreeSet<(Timestamp, Slot)>,
    by_role: BTreeMap<Slot, u32>,
    /// Clients that had a hole in vain.
    cooling: BTreeSet<(Timestamp, Slot)>,
    /// Clients that take offers and ask for holes.
    wanting: BTreeSet<Slot>,
    /// Agents whose hole ended in this round.
    pub(crate) ended: Vec<Slot>,
}

impl Holes {
    /// The agents where holes are kept.
    pub(crate) fn agents(&self) -> impl Iterator<Item = Slot> + '_ {
        self.kept.keys().copied()
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let ends = self.ends.first().map(|(at, _)| *at);
        let cooled = self.cooling.first().map(|(at, _)| *at);
        ends.into_iter().chain(cooled).min()
    }
}

/// Holes end.
impl Books {
    pub(crate) fn end_hole_of(&mut self, client: Slot) {
        let wish = self.clients[client].wish.as_ref();
        if let Some(agent) = wish.and_then(|wish| wish.hole) {
            self.end_hole(agent);
        }
    }

    /// The agent keeps no hole any more.
    pub(crate) fn end_hole(&mut self, agent: Slot) {
        let Some((client, until)) = self.holes.kept.remove(&agent) else {
            return;
        };
        self.holes.ends.remove(&(until, agent));
        let role = self.clients[client].role;
        if let Some(n) = self.holes.by_role.get_mut(&role) {
            *n -= 1;
            if *n == 0 {
                self.holes.by_role.remove(&role);
            }
        }
        if let Some(wish) = &mut self.clients[client].wish {
            wish.hole = None;
        }
        self.agents[agent].hole = None;
        self.holes.ended.push(agent);
        self.news.holes = true;
        self.more_is_free(agent);
    }

    /// Ends holes that were kept in vain, and the time without for those who had one.
    pub(crate) fn end_holes(&mut self, now: Timestamp) {
        while let Some((until, agent)) = self.holes.ends.first().copied()
            && until <= now
        {
            let Some((client, _)) = self.holes.kept.get(&agent).copied() else {
                self.holes.ends.pop_first();
                continue;
            };
            self.end_hole(agent);
            let cooled = until + self.settings.hole_timeout;
            if let Some(wish) = &mut self.clients[client].wish {
                wish.cooling_until = Some(cooled);
                self.holes.cooling.insert((cooled, client));
            }
        }
        while let Some((cooled, client)) = self.holes.cooling.first().copied()
            && cooled <= now
        {
            self.holes.cooling.pop_first();
            if let Some(wish) = &mut self.clients[client].wish {
                wish.cooling_until = None;
            }
            self.news.holes = true;
        }
    }

    /// The client leaves, and with it the memory of a hole in vain.
    pub(crate) fn end_cooling(&mut self, client: Slot) {
        if let Some(wish) = &mut self.clients[client].wish
            && let Some(cooled) = wish.cooling_until.take()
        {
            self.holes.cooling.remove(&(cooled, client));
        }
    }

    /// Keeps the list of clients that ask for holes.
    pub(crate) fn list_wanting(&mut self, client: Slot) {
        let state = &self.clients[client];
        let asked = state.wish.as_ref().and_then(|wish| wish.demand.as_ref());
        let asks = asked.is_some_and(|asked| asked.demand.hole && !asked.demand.bundle.is_empty());
        if asks && state.place.is_some() {
            self.holes.wanting.insert(client);
        } else {
            self.holes.wanting.remove(&client);
        }
    }
}

/// Holes are kept.
impl Books {
    /// The clients that may be kept holes after this round, in their order: those that were
    /// `granted` nothing in it.
    pub(crate) fn waiting_for_holes(&mut self, granted: &FixedBitSet) -> Vec<Slot> {
        if !std::mem::take(&mut self.news.holes) || self.holes.wanting.is_empty() {
            return Vec::new();
        }
        let mut waiting: Vec<Slot> = self.holes.wanting.iter().copied().collect();
        let all = waiting.len();
        waiting.retain(|client| !granted.contains(*client as usize));
        // Who was served in this round may be kept a hole in the next.
        self.news.holes = waiting.len() < all;
        waiting.sort_by(|left, right| self.compare(*left, *right));
        waiting
    }

    /// Keeps a hole for the client, if it still wants one and there is an agent for it.
    pub(crate) fn keep_hole_for(&mut self, now: Timestamp, client: Slot, budget: &mut Budget) {
        if self.holes.wanting.contains(&client)
            && self.may_keep_hole(client)
            && let Some(agent) = self.agent_for_hole(now, client, budget)
        {
            self.keep_hole(now, client, agent);
        }
    }

    fn may_keep_hole(&self, client: Slot) -> bool {
        let state = &self.clients[client];
        let kept = self.holes.by_role.get(&state.role).copied().unwrap_or(0);
        kept < self.settings.holes_per_role
            && state
                .wish
                .as_ref()
                .is_some_and(|wish| wish.hole.is_none() && wish.cooling_until.is_none())
    }

    /// The agent that lacks least of a bundle, when no agent has one free and some agent could.
    fn agent_for_hole(&self, now: Timestamp, client: Slot, budget: &mut Budget) -> Option<Slot> {
        let mut nearest: Option<(Ratio, u64, Slot)> = None;
        for (slot, agent) in self.agents.iter().filter(|(_, agent)| agent.active) {
            budget.spend(1 + agent.free.extra_looks());
            let case = self.case(now, Phase::FairShare, slot, client)?;
            let asked = case.wish.demand.as_ref()?;
            if self.is_for(&case).is_err() {
                continue;
            }
            if self.is_bundle_free(&case, asked) {
                return None;
            }
            if agent.hole.is_some() || !self.could_fit(&case, asked) {
                continue;
            }
            let found = (self.lack(&case, asked), agent.registration, slot);
            if nearest.is_none_or(|best| found < best) {
                nearest = Some(found);
            }
        }
        nearest.map(|(_, _, slot)| slot)
    }

    /// Whether the bundle fits into what the client may have of the agent's total.
    fn could_fit(&self, case: &Case<'_>, asked: &Asked) -> bool {
        let total = self.kept_for_hole(case, &case.agent.total.resources);
        holds_bundle(&self.within_limits(case, &total), &asked.demand.bundle)
    }

    /// The largest part of the bundle, of any name, that is not free.
    pub(crate) fn lack(&self, case: &Case<'_>, asked: &Asked) -> Ratio {
        let free = self.kept_for_hole(case, &case.agent.free.resources);
        let parts = asked.demand.bundle.iter().map(|(name, amount)| {
            let wanted = u128::from(amount.thousandths());
            let missing = wanted.saturating_sub(measure(&free, name));
            Ratio::new(missing, wanted.max(1), 1)
        });
        parts.max().unwrap_or(Ratio::ZERO)
    }

    fn keep_hole(&mut self, now: Timestamp, client: Slot, agent: Slot) {
        let until = now + self.settings.hole_timeout;
        let state = &mut self.clients[client];
        if let Some(wish) = &mut state.wish {
            wish.hole = Some(agent);
        }
        *self.holes.by_role.entry(state.role).or_default() += 1;
        self.agents[agent].hole = Some(client);
        self.holes.kept.insert(agent, (client, until));
        self.holes.ends.insert((until, agent));
        // With less to take, somebody may be left with a bundle that no filter contains.
        self.more_is_free(agent);
    }

    /// The holes that are kept, by agent.
    pub(crate) fn kept_holes(&self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = self
            .holes
            .kept
            .keys()
            .filter_map(|agent| self.hole_on(*agent))
            .collect();
        holes.sort_by(|a, b| a.agent.cmp(&b.agent));
        holes
    }

    /// The hole that is kept on an agent.
    pub(crate) fn hole_on(&self, agent: Slot) -> Option<Hole> {
        let (client, until) = self.holes.kept.get(&agent)?;
        let state = &self.clients[*client];
        Some(Hole {
            agent: self.agents[agent].id.clone(),
            framework: self.frameworks[state.framework].id.clone(),
            role: self.role_of(*client)?.clone(),
            bundle: state.wish.as_ref()?.demand.as_ref()?.demand.bundle.clone(),
            until: *until,
        })
    }
}
