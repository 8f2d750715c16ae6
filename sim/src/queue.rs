//! The virtual clock: events in the order of their time, then of their scheduling.

use std::collections::BTreeMap;

use allotment_types::Timestamp;

/// Names a scheduled event until it has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(Timestamp, u64);

impl Ticket {
    /// When it is due.
    pub(crate) fn due(self) -> Timestamp {
        self.0
    }
}

/// What is still to happen. Time moves only by taking the next event.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    now: Timestamp,
    sequence: u64,
    events: BTreeMap<Ticket, E>,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            now: Timestamp::ZERO,
            sequence: 0,
            events: BTreeMap::new(),
        }
    }
}

impl<E> Queue<E> {
    /// The virtual time.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Schedules an event; one in the past happens now.
    pub(crate) fn at(&mut self, at: Timestamp, event: E) -> Ticket {
        let ticket = Ticket(at.max(self.now), self.sequence);
        self.sequence += 1;
        self.events.insert(ticket, event);
        ticket
    }

    /// Takes an event back.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.events.remove(&ticket);
    }

    /// The next event not later than `end`, and moves the clock to it; at the end of time, moves
    /// the clock there.
    pub(crate) fn pop_until(&mut self, end: Timestamp) -> Option<E> {
        match self.events.first_key_value() {
            Some((ticket, _)) if ticket.0 <= end => {
                self.now = ticket.0;
                self.events.pop_first().map(|(_, event)| event)
            }
            _ => {
                self.now = self.now.max(end);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_instant_keep_their_order_and_the_past_is_now() {
        let mut queue = Queue::default();
        let at = Timestamp::from_secs;
        queue.at(at(2), 'c');
        queue.at(at(1), 'a');
        let gone = queue.at(at(1), 'x');
        queue.at(at(1), 'b');
        queue.cancel(gone);
        assert_eq!(queue.pop_until(at(9)), Some('a'));
        queue.at(at(0), 'd');
        let rest: Vec<char> = std::iter::from_fn(|| queue.pop_until(at(9))).collect();
        assert_eq!((rest, queue.now()), (vec!['b', 'd', 'c'], at(9)));
    }
}
