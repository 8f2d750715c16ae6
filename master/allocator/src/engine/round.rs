//! A round: whom to offer what.

use std::cmp::Ordering;

use allotment_types::{Resources, Timestamp};
use fixedbitset::FixedBitSet;

use super::books::Books;
use super::eligible::{Case, Cut, Offer, Phase, is_enough, is_open, measure};
use super::news::slot;
use super::order::Key;
use super::policy::Policy;
use super::roles::{Flow, ROOT};
use super::slab::Slot;
use super::sums::Ratio;
use crate::{Allocation, Round};

/// Whom to look at on an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Everybody,
    /// Clients with news on all agents, and those with news on this one: a range of `pairs`.
    Newcomers {
        begin: usize,
        end: usize,
    },
}

/// An agent that a round looks at.
#[derive(Debug)]
struct Look {
    agent: Slot,
    who: Who,
}

/// One round at work.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) books: &'a mut Books,
    pub(crate) now: Timestamp,
    looks: Vec<Look>,
    /// Agents as they take turns in this round: those that are looked at, and those with a hole,
    /// which may end.
    order: Vec<Slot>,
    newcomers: Vec<Slot>,
    pairs: Vec<(Slot, Slot)>,
    /// Clients that were granted something.
    granted: FixedBitSet,
    allocations: Vec<Allocation>,
}

/// The best client for an agent, and what it is offered there.
type Pick = Option<(Slot, Offer)>;

impl Books {
    pub(crate) fn allocate(&mut self, now: Timestamp, policy: &mut impl Policy) -> Round {
        self.rounds += 1;
        self.end_by_time(now);
        if self.paused {
            return Round::default();
        }
        self.note_quotas();
        let mut turn = Turn::new(self, now);
        if !turn.looks.is_empty() {
            turn.books.sort();
            policy.decide(&mut turn);
            turn.reopen(policy);
        }
        let Turn {
            granted,
            allocations,
            ..
        } = turn;
        self.keep_holes(now, &granted);
        self.remember();
        Round {
            allocations,
            inverse: self.ask_to_leave(now),
        }
    }

    /// What the next round compares with.
    fn remember(&mut self) {
        self.changes_seen = self.roles.changes;
        if self.roles.n_guaranteed == 0 {
            return;
        }
        let mut spare = super::sums::Sums::default();
        for (kind, _) in self.available.as_scalars() {
            spare.set(*kind, self.spare(*kind));
        }
        self.spare_seen = spare;
    }

    /// Turns what happened to quotas into news about agents and clients.
    fn note_quotas(&mut self) {
        if !self.roles.any_quota() {
            return;
        }
        // The takers below a role are listed by its order.
        self.sort();
        if self.roles.changes != self.changes_seen {
            self.news.trick();
        }
        let available = self.available.as_scalars();
        let more = available
            .iter()
            .any(|(kind, _)| self.spare(*kind) > self.spare_seen.get(*kind));
        if more || std::mem::take(&mut self.roles.promised_more) {
            self.news.loosen();
        }
        let mut loosened = std::mem::take(&mut self.roles.loosened);
        loosened.sort_unstable();
        loosened.dedup();
        for role in loosened {
            if self.roles.nodes.get(role).is_some() {
                for client in self.roles.takers_below(role) {
                    self.news.client(client);
                }
            }
        }
    }

    /// Which of two clients comes first: the order of the tree.
    pub(crate) fn compare(&self, left: Slot, right: Slot) -> Ordering {
        let (l, r) = (&self.clients[left], &self.clients[right]);
        if l.role == r.role {
            return self.key(left).cmp(&self.key(right));
        }
        let path = |role: Slot| -> Vec<Slot> {
            let mut path: Vec<Slot> = self.roles.path(role).collect();
            path.reverse();
            path
        };
        let (l, r) = (path(l.role), path(r.role));
        let common = l.iter().zip(&r).take_while(|(a, b)| a == b).count();
        let below = |path: &[Slot]| -> Option<Key> {
            match path.get(common) {
                Some(slot) => self.roles.node(*slot).key(*slot, &self.totals),
                // The role itself is the other's ancestor: its virtual leaf competes.
                None => path
                    .last()
                    .map(|slot| self.roles.node(*slot).leaf_key(*slot, &self.totals)),
            }
        };
        below(&l).cmp(&below(&r))
    }
}

impl<'a> Turn<'a> {
    /// Takes the news.
    fn new(books: &'a mut Books, now: Timestamp) -> Self {
        let newcomers = books.news.take_clients();
        let mut pairs = std::mem::take(&mut books.news.pairs);
        pairs.sort_unstable();
        pairs.dedup();
        books.holes.ended.clear();
        let everything = std::mem::take(&mut books.news.everything);
        let full = books.news.take_agents();
        let mut agents = full.clone();
        if everything || !newcomers.is_empty() {
            agents.union_with(&books.news.open);
        }
        agents.extend(pairs.iter().map(|(agent, _)| *agent as usize));
        agents.intersect_with(&books.news.open);
        let everybody = everything || newcomers.len() * 4 > books.takers.count_ones(..);
        let mut order: Vec<Slot> = agents.ones().map(slot).collect();
        let with_hole = books.holes.agents();
        order.extend(with_hole.filter(|agent| !agents.contains(*agent as usize)));
        books.in_turn(&mut order);
        let looked_at = order
            .iter()
            .filter(|agent| agents.contains(**agent as usize));
        let looks = looked_at
            .map(|agent| {
                let begin = pairs.partition_point(|(a, _)| a < agent);
                let end = pairs.partition_point(|(a, _)| a <= agent);
                let who = if everybody || full.contains(*agent as usize) {
                    Who::Everybody
                } else {
                    Who::Newcomers { begin, end }
                };
                Look { agent: *agent, who }
            })
            .collect();
        Self {
            books,
            now,
            looks,
            order,
            newcomers,
            pairs,
            granted: FixedBitSet::new(),
            allocations: Vec::new(),
        }
    }

    /// Phase 1: looks at every agent in turn, when some guarantee is unsatisfied.
    pub(crate) fn guarantees(&mut self, policy: &mut impl Policy) {
        if !self.books.roles.required().is_zero() {
            self.phase(policy, Phase::Guarantees);
        }
    }

    /// Phase 2: looks at every agent in turn.
    pub(crate) fn fair_share(&mut self, policy: &mut impl Policy) {
        self.phase(policy, Phase::FairShare);
    }

    /// Grants the client what it may have of the agent where that leaves least of what was
    /// asked; says whether there was one.
    pub(crate) fn place_best(&mut self, client: Slot) -> bool {
        if !self.books.is_taker(client) {
            return false;
        }
        let mut best: Option<(Ratio, u64, usize, Offer)> = None;
        for (at, look) in self.looks.iter().enumerate() {
            if !self.books.news.open.contains(look.agent as usize) {
                continue;
            }
            let case = self
                .books
                .case(self.now, Phase::FairShare, look.agent, client);
            let Some(case) = case else {
                return false;
            };
            if let Ok(offer) = self.books.judge(&case, &mut Cut::default()) {
                let left = self.books.left_over(&case, &offer);
                let registration = case.agent.registration;
                if best
                    .as_ref()
                    .is_none_or(|(least, number, ..)| (left, registration) < (*least, *number))
                {
                    best = Some((left, registration, at, offer));
                }
            }
        }
        let Some((_, _, at, offer)) = best else {
            return false;
        };
        self.grant(self.looks[at].agent, client, offer);
        // What is left may be for anybody.
        self.looks[at].who = Who::Everybody;
        true
    }

    fn phase(&mut self, policy: &mut impl Policy, phase: Phase) {
        for at in 0..self.looks.len() {
            self.look(policy, phase, at);
        }
    }

    /// When a hole ended on an agent that was looked at already, it is looked at again.
    fn reopen(&mut self, policy: &mut impl Policy) {
        while !self.books.holes.ended.is_empty() {
            self.books.holes.ended.clear();
            // The agents of holes that ended are news.
            let again = &self.books.news.agents;
            let agents = self
                .order
                .iter()
                .filter(|agent| again.contains(**agent as usize));
            self.looks = agents
                .map(|agent| Look {
                    agent: *agent,
                    who: Who::Everybody,
                })
                .collect();
            policy.decide(self);
        }
    }

    /// Grants of one agent until nobody may be granted more.
    fn look(&mut self, policy: &mut impl Policy, phase: Phase, at: usize) {
        let agent = self.looks[at].agent;
        while self.books.news.open.contains(agent as usize) {
            let who = self.looks[at].who;
            let pick = match who {
                Who::Everybody => self.first_of_all(policy, phase, agent),
                Who::Newcomers { begin, end } => self.first_of_newcomers(phase, agent, begin..end),
            };
            let Some((client, offer)) = pick else {
                return;
            };
            self.grant(agent, client, offer);
            self.looks[at].who = Who::Everybody;
        }
    }

    fn first_of_all(&mut self, policy: &mut impl Policy, phase: Phase, agent: Slot) -> Pick {
        let n_clients = self.books.clients.slots();
        let state = &mut self.books.agents[agent];
        let free = std::sync::Arc::clone(&state.free);
        state.filters.prepare(&free, n_clients);
        if phase == Phase::FairShare {
            self.books.news.bound.grow(agent as usize + 1);
            self.books.news.bound.set(agent as usize, false);
        }
        if self.is_hopeless(agent) {
            return None;
        }
        let nobody_stays = self.nobody_stays(agent);
        let (books, now) = (&*self.books, self.now);
        let state = &books.agents[agent];
        let (mut pick, mut last) = (None, None);
        let mut cuts = Cuts::default();
        policy.order(books, phase, agent, |client, role| {
            if state.filters.masks(client) {
                return Flow::Next;
            }
            let steps = !nobody_stays && books.aside.contains(client);
            if steps && last.is_some() && books.aside_from(now, client, free.scalars()).is_some() {
                // Whatever it may have of the agent, the one that was found comes before it.
                return Flow::Next;
            }
            let Some(case) = books.case(now, phase, agent, client) else {
                return Flow::Next;
            };
            let mut cut = Cut::default();
            let judged = books.judge(&case, &mut cut);
            cuts.note(role, cut);
            match judged {
                Ok(offer)
                    if steps && books.aside_from_offer(now, agent, client, &offer).is_some() =>
                {
                    last.get_or_insert((client, offer));
                    Flow::Next
                }
                Ok(offer) => {
                    pick = Some((client, offer));
                    Flow::Stop
                }
                Err(_) => Flow::Next,
            }
        });
        self.apply(agent, &cuts);
        pick.or(last)
    }

    /// Whether a short look tells that all who did not decline everything that is free step
    /// aside from it, so that they come in their order again.
    fn nobody_stays(&mut self, agent: Slot) -> bool {
        let books = &mut *self.books;
        let filters = &books.agents[agent].filters;
        if !filters.masks_all_but(&books.takers, books.aside.clients()) {
            return false;
        }
        let free = std::sync::Arc::clone(&books.agents[agent].free);
        books.all_aside_from(self.now, free.scalars())
    }

    /// Whether a short look tells that nobody can be granted anything.
    fn is_hopeless(&self, agent: Slot) -> bool {
        let state = &self.books.agents[agent];
        if state.filters.masks_all(&self.books.takers) {
            return true;
        }
        let free = state.free.scalars();
        let mut appetites = self.books.roles.node(ROOT).appetites();
        !appetites.any(|appetite| is_enough(appetite, free))
    }

    fn first_of_newcomers(
        &mut self,
        phase: Phase,
        agent: Slot,
        pairs: std::ops::Range<usize>,
    ) -> Pick {
        let (books, now) = (&*self.books, self.now);
        let mut best: Option<(bool, Slot, Offer)> = None;
        let mut cuts = Cuts::default();
        let here = self.pairs[pairs].iter().map(|(_, client)| *client);
        for client in self.newcomers.iter().copied().chain(here) {
            let Some(state) = books.clients.get(client).filter(|c| c.place.is_some()) else {
                continue;
            };
            let Some(case) = books.case(now, phase, agent, client) else {
                continue;
            };
            let mut cut = Cut::default();
            let judged = books.judge(&case, &mut cut);
            cuts.note(state.role, cut);
            let Ok(offer) = judged else {
                continue;
            };
            let steps = books.aside_from_offer(now, agent, client, &offer).is_some();
            let is_before = |(their_steps, first, _): &(bool, Slot, Offer)| {
                let order = steps.cmp(their_steps);
                order.then_with(|| books.compare(client, *first)) == Ordering::Less
            };
            if best.as_ref().is_none_or(is_before) {
                best = Some((steps, client, offer));
            }
        }
        self.apply(agent, &cuts);
        best.map(|(_, client, offer)| (client, offer))
    }

    /// Remembers what was cut, so that news about quotas find it.
    fn apply(&mut self, agent: Slot, cuts: &Cuts) {
        for role in &cuts.roles {
            self.books.roles.mark_cut(*role);
        }
        if cuts.by_headroom {
            self.books.news.bound.grow_and_insert(agent as usize);
        }
        if self.books.roles.any_quota() {
            let free = &self.books.agents[agent].free;
            if free.unchoppable || free.revocable {
                self.books.news.tricky.grow_and_insert(agent as usize);
            }
        }
    }

    /// Gives `offer` of an agent to `client`.
    pub(crate) fn grant(&mut self, agent: Slot, client: Slot, offer: Offer) {
        let books = &mut *self.books;
        let (mut what, n) = match offer {
            Offer::Whole => (std::sync::Arc::clone(&books.agents[agent].free), 0),
            Offer::Part(resources, n) => (books.bundles.keep(&resources), n),
        };
        if n == 0 && books.agents[agent].total.shared {
            let shared = books.share(self.now, agent, client);
            let all = what.resources.plus(&shared);
            what = books.bundles.keep(&all);
        }
        if let (Some(framework), Some(role)) = (
            books.frameworks.get(books.clients[client].framework),
            books.role_of(client),
        ) {
            self.allocations.push(Allocation {
                framework: framework.id.clone(),
                role: role.clone(),
                agent: books.agents[agent].id.clone(),
                resources: what.resources.clone(),
            });
        }
        books.hold(agent, client, &what);
        books.grants += 1;
        let (grants, role) = (books.grants, books.clients[client].role);
        if let Some(wish) = &mut books.clients[client].wish {
            wish.count += 1;
            wish.served = grants;
            if let Some(asked) = &mut wish.demand {
                asked.left = asked.left.saturating_sub(n);
            }
        }
        books.roles.count(role);
        if books.agents[agent].hole == Some(client) {
            books.end_hole(agent);
        }
        books.wants_less(client);
        books.turn = books.agents[agent].registration + 1;
        books.news.holes = true;
        self.granted.grow_and_insert(client as usize);
    }
}

impl Books {
    /// The largest part, of any name of the demand, of the agent's total that stays free.
    fn left_over(&self, case: &Case<'_>, offer: &Offer) -> Ratio {
        let (Offer::Part(taken, _), Some(asked)) = (offer, &case.wish.demand) else {
            return Ratio::ZERO;
        };
        let names = asked.demand.bundle.keys().map(|name| {
            let free = measure(&case.agent.free.resources, name);
            let left = free.saturating_sub(measure(taken, name));
            Ratio::new(left, measure(&case.agent.total.resources, name).max(1), 1)
        });
        names.max().unwrap_or(Ratio::ZERO)
    }

    /// The shared lots of the agent that the client may have and that nobody was offered in this
    /// round.
    fn share(&mut self, now: Timestamp, agent: Slot, client: Slot) -> Resources {
        let round = self.rounds;
        let Some(case) = self.case(now, Phase::FairShare, agent, client) else {
            return Resources::EMPTY;
        };
        let given = case.agent.shared_given.as_ref();
        let given = given
            .filter(|given| given.0 == round)
            .map(|given| given.1.clone());
        let given = given.unwrap_or_default();
        let shared = case.agent.shared();
        let open = shared.filter(|name, lot| is_open(lot, &case) && given.get(name, lot).is_none());
        self.agents[agent].shared_given = Some(Box::new((round, given.plus(&open))));
        open
    }
}

/// What made a difference while an agent was looked at.
#[derive(Debug, Default)]
struct Cuts {
    roles: Vec<Slot>,
    by_headroom: bool,
}

impl Cuts {
    fn note(&mut self, role: Slot, cut: Cut) {
        self.by_headroom |= cut.by_headroom;
        if cut.by_limit && self.roles.last() != Some(&role) {
            self.roles.push(role);
        }
    }
}
