//! What modules differ in: the order of clients.

use std::fmt;

use allotment_types::{FrameworkId, Role};

use super::books::Books;
use super::eligible::Phase;
use super::order::View;
use super::roles::{Branch, Flow};
use super::slab::Slot;

/// Who comes first. What they may have, the books say.
pub(crate) trait Policy: fmt::Debug + Send + Sized {
    /// Visits the clients that take offers, in the order in which they may have the agent, until
    /// `visit` says to stop. It is told the client and its role.
    fn order(
        &mut self,
        books: &Books,
        phase: Phase,
        agent: Slot,
        visit: impl FnMut(Slot, Slot) -> Flow,
    );

    /// Who comes first of those for whom `eligible` says yes; `None`: that is left to chance.
    fn first(&self, books: &Books, eligible: impl FnMut(Slot) -> bool) -> Option<Slot>;

    /// Clients whose demands are met between guarantees and fair share, one after the other, each
    /// where it leaves least.
    fn asked_first(&self, _books: &Books) -> Vec<Slot> {
        Vec::new()
    }
}

/// What policies ask of the books.
impl Books {
    /// Visits the clients that take offers, the lowest share first.
    pub(crate) fn walk(&self, view: View, visit: &mut impl FnMut(Slot, Slot) -> Flow) {
        self.roles.walk(view, visit);
    }

    /// What competes below a role, with weights, and what is looked at further down.
    pub(crate) fn branches(&self, role: Slot, view: View) -> (View, Vec<(Branch, u64)>) {
        self.roles.branches(role, view)
    }

    /// The clients of the role itself that take offers.
    pub(crate) fn clients_in(&self, role: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.roles.clients_in(role)
    }

    pub(crate) fn all_takers(&self) -> impl Iterator<Item = Slot> + '_ {
        self.takers.ones().map(super::news::slot)
    }

    pub(crate) fn is_taker(&self, client: Slot) -> bool {
        self.takers.contains(client as usize)
    }

    /// The clients that take offers and have a demand, with its number.
    pub(crate) fn asking(&self) -> impl Iterator<Item = (u64, Slot)> + '_ {
        self.all_takers().filter_map(|client| {
            let asked = self.clients[client].wish.as_ref()?.demand.as_ref()?;
            Some((asked.number, client))
        })
    }

    /// The number of the grant that the client got last; 0: none.
    pub(crate) fn served(&self, client: Slot) -> u64 {
        let client = self.clients.get(client);
        let wish = client.and_then(|client| client.wish.as_ref());
        wish.map_or(0, |wish| wish.served)
    }

    /// The client by name.
    pub(crate) fn names(&self, client: Slot) -> (&FrameworkId, Option<&Role>) {
        let framework = &self.frameworks[self.clients[client].framework];
        (&framework.id, self.role_of(client))
    }

    pub(crate) fn role_slot(&self, client: Slot) -> Slot {
        self.clients[client].role
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.settings.seed
    }

    pub(crate) const fn round(&self) -> u64 {
        self.rounds
    }

    /// The number of the call of `allocate`: between two, anything may change.
    pub(crate) const fn call(&self) -> u64 {
        self.calls
    }

    pub(crate) const fn n_grants(&self) -> u64 {
        self.grants
    }

    pub(crate) fn registration(&self, agent: Slot) -> u64 {
        self.agents[agent].registration
    }
}

impl View {
    /// Whom a phase need not look at on the agent.
    pub(crate) fn of(books: &Books, phase: Phase, agent: Slot) -> Self {
        match phase {
            Phase::Guarantees => Self::Guaranteed,
            Phase::FairShare if books.agents[agent].free.plain => Self::Fed,
            Phase::FairShare => Self::All,
        }
    }
}
