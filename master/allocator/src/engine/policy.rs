//! What modules differ in: the order of clients.

use std::fmt;

use super::books::Books;
use super::eligible::Phase;
use super::order::View;
use super::roles::Flow;
use super::round::Turn;
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

    /// Decides a round.
    fn decide(&mut self, turn: &mut Turn<'_>) {
        turn.phases(self);
    }
}

impl Books {
    /// Visits the clients that take offers, the lowest share first.
    pub(crate) fn walk(&self, view: View, visit: &mut impl FnMut(Slot, Slot) -> Flow) {
        self.roles.walk(view, visit);
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
