//! A round: whom to offer what. What it has come to between two calls is [`Progress`].

use std::cmp::Ordering;

use allotment_types::{Resources, Timestamp};

use super::books::Books;
use super::clients::Client;
use super::eligible::{Case, Cut, Offer, Phase, is_enough, is_open, measure};
use super::order::{LEAF, Standing};
use super::policy::Policy;
use super::progress::{Budget, Progress, Who};
use super::roles::{Flow, ROOT};
use super::slab::Slot;
use super::sums::Ratio;
use crate::{Allocation, Part, Round};

/// One round at work, within one call.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) books: &'a mut Books,
    pub(crate) now: Timestamp,
    round: Progress,
    budget: &'a mut Budget,
    allocations: &'a mut Vec<Allocation>,
}

/// The best client for an agent, and what it is offered there.
type Pick = Option<(Slot, Offer)>;

impl Books {
    pub(crate) fn allocate(&mut self, now: Timestamp, policy: &mut impl Policy) -> Round {
        self.calls += 1;
        let mut budget = Budget::new(self.settings.round_looks);
        let mut decided = Round::default();
        self.end_by_time(now, &mut budget);
        if self.paused {
            decided.unfinished = self.expiries.any_due(now);
            self.rounds += u64::from(self.under_way.is_none() && !decided.unfinished);
            decided.looks = budget.spent();
            return decided;
        }
        let news = self.news.any();
        if news || self.under_way.is_none() {
            // Else only the round itself changed what counts against quotas.
            self.note_quotas();
        }
        if let Some(progress) = self.under_way.take() {
            let progress = *progress;
            // What came meanwhile waits until this round is over; then it has its own at once.
            let agents = self.news.take_agents();
            self.news.give_back(&progress.news);
            self.run(now, progress, policy, &mut budget, &mut decided);
            self.news.give_back(&agents);
            if self.under_way.is_none() && news {
                self.begin_round(now, policy, &mut budget, &mut decided);
            }
        } else {
            self.begin_round(now, policy, &mut budget, &mut decided);
        }
        self.remember();
        decided.unfinished = self.under_way.is_some() || self.expiries.any_due(now);
        decided.looks = budget.spent();
        decided
    }

    /// Begins a round, when everything is known that time has ended.
    fn begin_round(
        &mut self,
        now: Timestamp,
        policy: &mut impl Policy,
        budget: &mut Budget,
        decided: &mut Round,
    ) {
        if self.expiries.any_due(now) {
            return;
        }
        self.rounds += 1;
        let progress = Progress::new(self);
        self.run(now, progress, policy, budget, decided);
    }

    /// Brings a round to its end, or as far as the budget goes.
    fn run(
        &mut self,
        now: Timestamp,
        progress: Progress,
        policy: &mut impl Policy,
        budget: &mut Budget,
        decided: &mut Round,
    ) {
        let mut turn = Turn {
            books: self,
            now,
            round: Progress {
                calls: progress.calls + 1,
                ..progress
            },
            budget,
            allocations: &mut decided.allocations,
        };
        if !turn.is_over(policy) {
            let mut progress = turn.round;
            progress.ended = std::mem::take(&mut self.holes.ended);
            progress.news = self.news.take_agents();
            self.under_way = Some(Box::new(progress));
            return;
        }
        decided.inverse.extend(self.ask_to_leave(now));
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
            let order = self.standing(l).cmp(&self.standing(r));
            let id = |client: &Client| &self.frameworks[client.framework].id;
            return order.then_with(|| id(l).cmp(id(r)));
        }
        let path = |role: Slot| -> Vec<Slot> {
            let mut path: Vec<Slot> = self.roles.path(role).collect();
            path.reverse();
            path
        };
        let (l, r) = (path(l.role), path(r.role));
        let common = l.iter().zip(&r).take_while(|(a, b)| a == b).count();
        let below = |path: &[Slot]| -> Option<(Standing, &str)> {
            if let Some(slot) = path.get(common) {
                return Some(self.roles.node(*slot).among_siblings(&self.totals));
            }
            // The role itself is the other's ancestor: its virtual leaf competes.
            let node = self.roles.node(*path.last()?);
            Some((node.leaf_standing(&self.totals), LEAF))
        };
        below(&l).cmp(&below(&r))
    }
}

impl Turn<'_> {
    /// Goes on with the round, as far as the budget goes; says whether it is over.
    fn is_over(&mut self, policy: &mut impl Policy) -> bool {
        if self.round.stage != Part::Holes {
            self.books.sort();
        }
        self.books.holes.ended = std::mem::take(&mut self.round.ended);
        loop {
            let stage = self.round.stage;
            let done = match stage {
                Part::Guarantees => self.is_skipped() || self.phase(policy, Phase::Guarantees),
                Part::Demands => self.demands(),
                Part::FairShare => self.phase(policy, Phase::FairShare),
                Part::Holes => self.holes(),
            };
            if !done {
                return false;
            }
            self.round.at = 0;
            self.round.stage = match stage {
                Part::Guarantees => {
                    self.round.line = policy.asked_first(self.books);
                    Part::Demands
                }
                Part::Demands => Part::FairShare,
                Part::FairShare if self.reopen() => Part::Guarantees,
                Part::FairShare => {
                    self.round.line = self.books.waiting_for_holes(&self.round.granted);
                    Part::Holes
                }
                Part::Holes => return true,
            };
        }
    }

    /// Phase 1 is left out as a whole when no guarantee is unsatisfied.
    fn is_skipped(&self) -> bool {
        self.round.at == 0 && self.books.roles.required().is_zero()
    }

    /// Looks at every agent in turn.
    fn phase(&mut self, policy: &mut impl Policy, phase: Phase) -> bool {
        while self.round.at < self.round.looks.len() {
            if !self.look(policy, phase, self.round.at) {
                return false;
            }
            self.round.at += 1;
        }
        true
    }

    /// Meets the demands that the policy places before fair share, one client after the other.
    fn demands(&mut self) -> bool {
        while let Some(client) = self.round.line.get(self.round.at).copied() {
            if self.budget.is_spent() {
                return false;
            }
            if !self.place_best(client) {
                self.round.at += 1;
            }
        }
        true
    }

    /// Keeps holes for those who wait for one, one client after the other.
    fn holes(&mut self) -> bool {
        while let Some(client) = self.round.line.get(self.round.at).copied() {
            if self.budget.is_spent() {
                return false;
            }
            self.books.keep_hole_for(self.now, client, self.budget);
            self.round.at += 1;
        }
        true
    }

    /// Grants the client what it may have of the agent where that leaves least of what was
    /// asked; says whether there was one.
    fn place_best(&mut self, client: Slot) -> bool {
        if !self.books.is_taker(client) {
            return false;
        }
        let mut best: Option<(Ratio, u64, usize, Offer)> = None;
        for (at, look) in self.round.looks.iter().enumerate() {
            self.budget.spend(1);
            let open = &self.books.news.open;
            if look.who == Who::Nobody || !open.contains(look.agent as usize) {
                continue;
            }
            let case = self
                .books
                .case(self.now, Phase::FairShare, look.agent, client);
            let Some(case) = case else {
                return false;
            };
            self.budget.spend(case.agent.free.extra_looks());
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
        self.grant(self.round.looks[at].agent, client, offer);
        // What is left may be for anybody.
        self.round.looks[at].who = Who::Everybody;
        true
    }

    /// When holes ended, their agents are looked at once more, in both phases. Says whether one
    /// did.
    fn reopen(&mut self) -> bool {
        if self.books.holes.ended.is_empty() {
            return false;
        }
        self.books.holes.ended.clear();
        for look in &mut self.round.looks {
            let ended = self.books.news.take_agent(look.agent);
            look.who = if ended { Who::Everybody } else { Who::Nobody };
        }
        true
    }

    /// Grants of one agent until nobody may be granted more; says whether it came so far.
    fn look(&mut self, policy: &mut impl Policy, phase: Phase, at: usize) -> bool {
        let agent = self.round.looks[at].agent;
        while self.books.news.open.contains(agent as usize) {
            if self.budget.is_spent() {
                return false;
            }
            let who = self.round.looks[at].who;
            let pick = match who {
                // In a round only a hole that ends makes news of its agent.
                Who::Nobody if !self.books.news.agents.contains(agent as usize) => return true,
                Who::Nobody | Who::Everybody => self.first_of_all(policy, phase, agent),
                Who::Newcomers { begin, end } => self.first_of_newcomers(phase, agent, begin..end),
            };
            let Some((client, offer)) = pick else {
                return true;
            };
            self.grant(agent, client, offer);
            self.round.looks[at].who = Who::Everybody;
        }
        true
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
        self.budget.spend(1);
        if self.is_hopeless(agent) {
            return None;
        }
        let nobody_stays = self.nobody_stays(agent);
        let (books, now) = (&*self.books, self.now);
        let state = &books.agents[agent];
        let (mut pick, mut last) = (None, None);
        let mut cuts = Cuts::default();
        let budget = &mut *self.budget;
        policy.order(books, phase, agent, |client, role| {
            budget.spend(1);
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
            budget.spend(free.extra_looks());
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
        let here = self.round.pairs[pairs].iter().map(|(_, client)| *client);
        let looks = 1 + books.agents[agent].free.extra_looks();
        for client in self.round.newcomers.iter().copied().chain(here) {
            self.budget.spend(looks);
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
    fn grant(&mut self, agent: Slot, client: Slot, offer: Offer) {
        self.budget.spend(1);
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
        self.round.granted.grow_and_insert(client as usize);
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
