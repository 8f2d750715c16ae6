//! Patience: who declines again and again steps aside for a while.
//!
//! Being aside ends early when the offer has changed: when something is free that is larger than
//! all that was declined. Those who are aside are kept by what they declined, so that a resource
//! which becomes free finds whom it concerns without asking everybody.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::Timestamp;

use super::books::Books;
use super::bundle::Bundle;
use super::slab::Slot;
use super::sums::Kind;

/// Clients that are aside.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    ends: BTreeSet<(Timestamp, Slot)>,
    /// By name: the most that each returned of it at once.
    returned: BTreeMap<Kind, BTreeSet<(u128, Slot)>>,
}

impl Aside {
    fn insert(&mut self, until: Timestamp, client: Slot, returned: &[(Kind, u128)]) {
        self.ends.insert((until, client));
        for (kind, most) in returned {
            self.returned
                .entry(*kind)
                .or_default()
                .insert((*most, client));
        }
    }

    fn remove(&mut self, until: Timestamp, client: Slot, returned: &[(Kind, u128)]) {
        self.ends.remove(&(until, client));
        for (kind, most) in returned {
            if let Some(by_amount) = self.returned.get_mut(kind) {
                by_amount.remove(&(*most, client));
                if by_amount.is_empty() {
                    self.returned.remove(kind);
                }
            }
        }
    }

    /// Whoever never returned as much of `kind` at once.
    fn below(&self, kind: Kind, amount: u128) -> impl Iterator<Item = Slot> + '_ {
        let by_amount = self.returned.get(&kind).into_iter().flatten();
        by_amount
            .take_while(move |(most, _)| *most < amount)
            .map(|(_, client)| *client)
    }
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
        let round = self.rounds;
        let until = now + self.settings.aside_for;
        let patience = self.settings.decline_patience;
        let Some(wish) = &mut self.clients[client].wish else {
            return;
        };
        let was_aside = wish.aside_until;
        if let Some(old) = was_aside {
            self.aside.remove(old, client, &wish.returned);
        }
        for (kind, amount) in back.scalars() {
            match wish.returned.iter_mut().find(|(found, _)| found == kind) {
                Some((_, most)) => *most = (*most).max(*amount),
                None => wish.returned.push((*kind, *amount)),
            }
        }
        if wish.row_round != Some(round) {
            wish.row_round = Some(round);
            wish.row = wish.row.saturating_add(1);
            if wish.row >= patience {
                wish.aside_until = Some(until);
            }
        }
        if let Some(until) = wish.aside_until {
            self.aside.insert(until, client, &wish.returned);
        }
    }

    /// The row of fruitless returns ends, and being aside with it. The caller places the client.
    pub(crate) fn end_row(&mut self, client: Slot) {
        self.unlist_aside(client);
        if let Some(wish) = &mut self.clients[client].wish {
            wish.row = 0;
            wish.returned.clear();
        }
    }

    fn unlist_aside(&mut self, client: Slot) {
        if let Some(wish) = &mut self.clients[client].wish
            && let Some(until) = wish.aside_until.take()
        {
            self.aside.remove(until, client, &wish.returned);
        }
    }

    fn end_aside(&mut self, client: Slot) {
        self.unlist_aside(client);
        self.place(client);
    }

    /// Nobody is aside any more: an agent registered.
    pub(crate) fn end_asides(&mut self) {
        while let Some((_, client)) = self.aside.ends.first().copied() {
            self.end_aside(client);
        }
    }

    pub(crate) fn end_asides_due(&mut self, now: Timestamp) {
        while let Some((until, client)) = self.aside.ends.first().copied()
            && until <= now
        {
            self.end_aside(client);
        }
    }

    /// More is free on the agent: whoever declined less than that is not aside any more, but for
    /// the client that returned it.
    pub(crate) fn end_asides_below(&mut self, agent: Slot, but: Option<Slot>) {
        if self.aside.ends.is_empty() || !self.agents[agent].active {
            return;
        }
        let mut changed = BTreeSet::new();
        for (kind, amount) in self.agents[agent].free.scalars() {
            changed.extend(self.aside.below(*kind, *amount));
        }
        for client in changed {
            if Some(client) != but {
                self.end_aside(client);
            }
        }
    }
}
