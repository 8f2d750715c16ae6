//! A module that leaves it to chance: roles by weighted lot, then the frameworks of a role by lot.
//!
//! Shares do not count, weights do (Mesos: `sorter/random`). What chance decides follows from the
//! seed, the round, the agent and the phase, so that the same facts give the same offers on every
//! machine. Everything else is as `docs/design/allocation.md` says.

use crate::Settings;
use crate::engine::{Books, Branch, Engine, Flow, Phase, Policy, ROOT, Slot, View, mix};

/// The module `random`.
pub type RandomSorter = Engine<Chance>;

/// Nobody in particular first.
#[derive(Debug, Default)]
pub struct Chance;

impl RandomSorter {
    /// A module with these settings.
    pub fn new(settings: Settings) -> Self {
        Self::with_policy(settings, Chance)
    }
}

impl Policy for Chance {
    fn order(
        &mut self,
        books: &Books,
        phase: Phase,
        agent: Slot,
        mut visit: impl FnMut(Slot, Slot) -> Flow,
    ) {
        let mut lots = Lots::new(books, phase, agent);
        draw_below(
            books,
            &mut lots,
            ROOT,
            View::of(books, phase, agent),
            &mut visit,
        );
    }

    fn first(&self, _: &Books, _: impl FnMut(Slot) -> bool) -> Option<Slot> {
        None
    }
}

/// Visits what is below a role, by weighted lot. Says whether to stop.
fn draw_below(
    books: &Books,
    lots: &mut Lots,
    role: Slot,
    view: View,
    visit: &mut impl FnMut(Slot, Slot) -> Flow,
) -> bool {
    let (view, mut branches) = books.branches(role, view);
    while let Some(branch) = lots.take(&mut branches) {
        match branch {
            Branch::Role(slot) => {
                if draw_below(books, lots, slot, view, visit) {
                    return true;
                }
            }
            Branch::Leaf => {
                let clients = books.clients_in(role).map(|client| (client, 1));
                let mut clients: Vec<(Slot, u64)> = clients.collect();
                while let Some(client) = lots.take(&mut clients) {
                    if visit(client, role) == Flow::Stop {
                        return true;
                    }
                }
            }
        }
    }
    false
}

/// A sequence of numbers that follows from its seed (splitmix64).
#[derive(Debug)]
struct Lots(u64);

impl Lots {
    fn new(books: &Books, phase: Phase, agent: Slot) -> Self {
        let phase = match phase {
            Phase::Guarantees => 1,
            Phase::FairShare => 2,
        };
        let seeds = [
            books.seed(),
            books.round(),
            books.registration(agent),
            books.n_grants(),
            phase,
        ];
        Self(
            seeds
                .into_iter()
                .fold(0, |state, seed| mix(state ^ mix(seed))),
        )
    }

    /// A number below `bound`, which is above 0; even but for one part in 2^64 / bound.
    fn below(&mut self, bound: u128) -> u128 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let high = u128::from(mix(self.0));
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (high << 64) | u128::from(mix(self.0));
        number % bound
    }

    /// Takes one out, with a chance in proportion to its weight.
    fn take<T>(&mut self, from: &mut Vec<(T, u64)>) -> Option<T> {
        let total: u128 = from.iter().map(|(_, weight)| u128::from(*weight)).sum();
        if total == 0 {
            return None;
        }
        let mut lot = self.below(total);
        let at = from.iter().position(|(_, weight)| {
            let weight = u128::from(*weight);
            if lot < weight {
                return true;
            }
            lot -= weight;
            false
        })?;
        Some(from.swap_remove(at).0)
    }
}
