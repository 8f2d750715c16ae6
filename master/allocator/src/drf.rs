//! The default module: dominant resource fairness over roles, then over the frameworks of a role.
//!
//! Ghodsi et al., NSDI 2011, made hierarchical and weighted as in Mesos (`sorter/drf`).
//! `docs/design/allocation.md` says what is decided and in which order.

use crate::Settings;
use crate::engine::{Books, Engine, Flow, Phase, Policy, Slot, View};

/// The default module.
pub type Drf = Engine<Shares>;

/// The lowest share first.
#[derive(Debug, Default)]
pub struct Shares;

impl Drf {
    /// A module with these settings.
    pub fn new(settings: Settings) -> Self {
        Self::with_policy(settings, Shares)
    }
}

impl Default for Drf {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Policy for Shares {
    fn order(
        &mut self,
        books: &Books,
        phase: Phase,
        agent: Slot,
        mut visit: impl FnMut(Slot, Slot) -> Flow,
    ) {
        books.walk(View::of(books, phase, agent), &mut visit);
    }

    fn first(&self, books: &Books, eligible: impl FnMut(Slot) -> bool) -> Option<Slot> {
        books.first_by_share(eligible)
    }
}
