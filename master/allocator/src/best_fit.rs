//! A module that packs: demands first, the oldest first, each onto the agent where it leaves
//! least; then whoever was served least recently.
//!
//! Shares do not count. Guarantees, limits, reservations, filters and constraints hold as
//! `docs/design/allocation.md` says. Nobody starves: a demand only grows older, and a framework
//! without one moves to the front as others are served.

use std::cmp::Ordering;

use crate::Settings;
use crate::engine::{Books, Engine, Flow, Phase, Policy, Slot};

/// The module `best-fit`.
pub type BestFit = Engine<Fit>;

/// Who asked first, and who was served least recently.
#[derive(Debug, Default)]
pub struct Fit {
    /// The clients that take offers, as of a grant of a call.
    line: Vec<Slot>,
    as_of: Option<(u64, u64)>,
}

impl BestFit {
    /// A module with these settings.
    pub fn new(settings: Settings) -> Self {
        Self::with_policy(settings, Fit::default())
    }
}

impl Policy for Fit {
    fn order(
        &mut self,
        books: &Books,
        _: Phase,
        _: Slot,
        mut visit: impl FnMut(Slot, Slot) -> Flow,
    ) {
        self.bring_up_to_date(books);
        for client in &self.line {
            if visit(*client, books.role_slot(*client)) == Flow::Stop {
                return;
            }
        }
    }

    fn first(&self, books: &Books, mut eligible: impl FnMut(Slot) -> bool) -> Option<Slot> {
        let takers = books.all_takers().filter(|client| eligible(*client));
        takers.min_by(|a, b| before(books, *a, *b))
    }

    fn asked_first(&self, books: &Books) -> Vec<Slot> {
        let mut asking: Vec<(u64, Slot)> = books.asking().collect();
        asking.sort_unstable();
        asking.into_iter().map(|(_, client)| client).collect()
    }
}

impl Fit {
    /// After a grant only the one that was granted changes its place: it is last.
    fn bring_up_to_date(&mut self, books: &Books) {
        let now = (books.call(), books.n_grants());
        if self.as_of == Some(now) {
            return;
        }
        let one_more = self.as_of == Some((now.0, now.1.wrapping_sub(1)));
        self.as_of = Some(now);
        let served = self
            .line
            .iter()
            .position(|client| books.served(*client) == now.1);
        if one_more && let Some(at) = served {
            let client = self.line.remove(at);
            if books.is_taker(client) {
                let at = self
                    .line
                    .partition_point(|other| before(books, *other, client) == Ordering::Less);
                self.line.insert(at, client);
            }
            return;
        }
        self.line = books.all_takers().collect();
        self.line.sort_by(|a, b| before(books, *a, *b));
    }
}

/// The one that was served least recently comes first.
fn before(books: &Books, left: Slot, right: Slot) -> Ordering {
    let key = |client| (books.served(client), books.names(client));
    key(left).cmp(&key(right))
}
