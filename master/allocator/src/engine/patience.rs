//! Patience: who declines again and again steps aside for a while, from what it declined.
//!
//! A client steps aside from a bundle when one that it returned lately holds as much; of anything
//! larger it is offered in its turn. So one that wants nothing keeps nobody waiting, and one whose
//! tasks are too large for crumbs loses nothing but crumbs.

use std::collections::BTreeSet;

use allotment_types::Timestamp;
use fixedbitset::FixedBitSet;

use super::books::Books;
use super::bundle::Bundle;
use super::clients::Wish;
use super::eligible::Offer;
use super::slab::Slot;
use super::sums::{Kind, Scalars, amount};

/// The most returned bundles that are remembered of a client.
const RETURNED_MAX: usize = 16;

/// Clients that step aside from something.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    clients: FixedBitSet,
    /// When what a client returned ends, the last of it; also of those with some patience left.
    ends: BTreeSet<(Timestamp, Slot)>,
    /// What every one of them steps aside from, and until when at least; `None`: not known.
    common: Option<(Timestamp, Vec<(Kind, u128)>)>,
}

impl Aside {
    /// Whether the client steps aside from something.
    pub(crate) fn contains(&self, client: Slot) -> bool {
        self.clients.contains(client as usize)
    }

    /// All of them.
    pub(crate) const fn clients(&self) -> &FixedBitSet {
        &self.clients
    }

    fn list(&mut self, client: Slot, until: Timestamp, steps: bool) {
        self.ends.insert((until, client));
        if steps {
            self.clients.grow_and_insert(client as usize);
            self.common = None;
        }
    }

    fn unlist(&mut self, client: Slot, until: Timestamp) {
        self.ends.remove(&(until, client));
        if self.contains(client) {
            self.clients.set(client as usize, false);
            self.common = None;
        }
    }
}

impl Wish {
    /// Until when something that it returned holds as much as these amounts; `None`: nothing does
    /// at `now`.
    fn covered_until(&self, now: Timestamp, scalars: &Scalars) -> Option<Timestamp> {
        let returned = self.returned.iter();
        returned
            .filter(|(bundle, until)| now < *until && holds(bundle.scalars(), scalars))
            .map(|(_, until)| *until)
            .max()
    }

    /// When the last one of what it returned ends.
    pub(crate) fn aside_until(&self) -> Option<Timestamp> {
        self.returned.iter().map(|(_, until)| *until).max()
    }

    /// Remembers what was returned: bundles that it holds need not be, nor does it need to be
    /// when it is held by one that lasts as long. Beyond the most, the one that ends first goes,
    /// of several the oldest.
    fn remember(&mut self, back: &Bundle, until: Timestamp) {
        let covered = |(bundle, end): &(Bundle, Timestamp)| {
            until <= *end && holds(bundle.scalars(), back.scalars())
        };
        if back.scalars().is_empty() || self.returned.iter().any(covered) {
            return;
        }
        self.returned
            .retain(|(bundle, end)| *end > until || !holds(back.scalars(), bundle.scalars()));
        self.returned.push((Bundle::clone(back), until));
        if self.returned.len() > RETURNED_MAX {
            let first = (0..self.returned.len()).min_by_key(|at| (self.returned[*at].1, *at));
            if let Some(at) = first {
                self.returned.remove(at);
            }
        }
    }
}

/// Whether there is as much of every kind in `all` as in `some`.
fn holds(all: &Scalars, some: &Scalars) -> bool {
    some.iter()
        .all(|(kind, least)| amount(all, *kind) >= *least)
}

impl Books {
    /// Counts fruitless returns, at most one between two rounds.
    pub(crate) fn note_return(
        &mut self,
        now: Timestamp,
        client: Slot,
        back: &Bundle,
        used_some: bool,
    ) {
        if used_some {
            self.end_row(client);
            return;
        }
        self.unlist_aside(client);
        let round = self.rounds;
        let until = now + self.settings.aside_for;
        let Some(wish) = &mut self.clients[client].wish else {
            return;
        };
        wish.remember(back, until);
        if wish.row_round != Some(round) {
            wish.row_round = Some(round);
            wish.row = wish.row.saturating_add(1);
        }
        let steps = wish.row >= self.settings.decline_patience;
        if let Some(until) = wish.aside_until() {
            self.aside.list(client, until, steps);
        }
    }

    /// The row of fruitless returns ends, and stepping aside with it.
    pub(crate) fn end_row(&mut self, client: Slot) {
        self.forget_returned(client);
        if let Some(wish) = &mut self.clients[client].wish {
            wish.row = 0;
        }
    }

    fn unlist_aside(&mut self, client: Slot) {
        let wish = self.clients[client].wish.as_ref();
        if let Some(until) = wish.and_then(|wish| wish.aside_until()) {
            self.aside.unlist(client, until);
        }
    }

    fn forget_returned(&mut self, client: Slot) {
        self.unlist_aside(client);
        if let Some(wish) = &mut self.clients[client].wish {
            wish.returned.clear();
        }
    }

    /// An agent registered: nobody knows yet whether it is as those that were declined.
    pub(crate) fn forget_all_returned(&mut self) {
        while let Some((_, client)) = self.aside.ends.first().copied() {
            self.forget_returned(client);
        }
    }

    pub(crate) fn end_asides(&mut self, now: Timestamp) {
        while let Some((until, client)) = self.aside.ends.first().copied()
            && until <= now
        {
            self.forget_returned(client);
        }
    }

    /// Until when the client steps aside from a bundle of these amounts, when it does.
    pub(crate) fn aside_from(
        &self,
        now: Timestamp,
        client: Slot,
        scalars: &Scalars,
    ) -> Option<Timestamp> {
        if !self.aside.contains(client) {
            return None;
        }
        let wish = self.clients[client].wish.as_ref()?;
        wish.covered_until(now, scalars)
    }

    /// Until when the client steps aside from what it may be granted of the agent.
    pub(crate) fn aside_from_offer(
        &self,
        now: Timestamp,
        agent: Slot,
        client: Slot,
        offer: &Offer,
    ) -> Option<Timestamp> {
        match offer {
            Offer::Whole => self.aside_from(now, client, self.agents[agent].free.scalars()),
            Offer::Part(what, _) => self.aside_from(now, client, &self.scalars_of(what)),
        }
    }

    /// Whether all who step aside from anything do so from a bundle of these amounts. May say no
    /// where the answer is yes.
    pub(crate) fn all_aside_from(&mut self, now: Timestamp, scalars: &Scalars) -> bool {
        let known = self.aside.common.take().filter(|(until, _)| now < *until);
        let common = known.unwrap_or_else(|| self.common_aside());
        let all = now < common.0 && holds(&common.1, scalars);
        self.aside.common = Some(common);
        all
    }

    /// Of what each returned last, the least of each kind.
    fn common_aside(&self) -> (Timestamp, Vec<(Kind, u128)>) {
        let mut common: Option<(Timestamp, Vec<(Kind, u128)>)> = None;
        for at in self.aside.clients.ones() {
            let wish = self.clients[super::news::slot(at)].wish.as_ref();
            let Some((bundle, until)) = wish.and_then(|wish| wish.returned.last()) else {
                continue;
            };
            match &mut common {
                None => common = Some((*until, bundle.scalars().to_vec())),
                Some((least_until, least)) => {
                    *least_until = (*until).min(*least_until);
                    for (kind, most) in least.iter_mut() {
                        *most = amount(bundle.scalars(), *kind).min(*most);
                    }
                }
            }
        }
        common.unwrap_or_default()
    }
}
