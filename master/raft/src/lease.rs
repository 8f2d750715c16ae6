//! The leader's lease: until when no other member can have become leader.
//!
//! A follower that heard from its leader grants no vote for one election timeout (check-quorum's
//! rule in raft-rs, and members refuse to vote for as long after they start). So a leader that
//! asked at time `t` and was answered by a quorum leads at least until `t` plus that timeout, as
//! long as everybody's monotonic clocks run at about the same speed. What the leader counts is
//! shorter by a tick, because a follower's ticks are not aligned with what it hears, and by a
//! tenth, for clocks that drift (Raft: Ongaro's thesis, 6.4.1).
//!
//! A process that was stopped finds its lease over as soon as it reads the clock.

use std::collections::VecDeque;
use std::time::Duration;

use allotment_types::Timestamp;

/// Questions that were asked and the span they are worth.
#[derive(Debug)]
pub(crate) struct Lease {
    span: Duration,
    asked: VecDeque<(u64, Timestamp)>,
    next: u64,
}

impl Lease {
    pub(crate) fn new(tick: Duration, election_ticks: u32) -> Self {
        Self {
            span: tick * election_ticks.saturating_sub(1) * 9 / 10,
            asked: VecDeque::new(),
            next: 0,
        }
    }

    /// A question to send now; the answer repeats it. It tells the `group`'s time on the way.
    pub(crate) fn ask(&mut self, now: Timestamp, group: Timestamp) -> Vec<u8> {
        self.next += 1;
        self.asked.push_back((self.next, now));
        let mut question = self.next.to_le_bytes().to_vec();
        question.extend_from_slice(&group.as_nanos().to_le_bytes());
        question
    }

    /// The group's time in a question.
    pub(crate) fn time_in(question: &[u8]) -> Option<Timestamp> {
        let nanos = question.get(8..16)?.try_into().ok()?;
        Some(Timestamp::from_nanos(u64::from_le_bytes(nanos)))
    }

    /// A quorum answered: until when the lease is valid now.
    pub(crate) fn on_answer(&mut self, question: &[u8]) -> Option<Timestamp> {
        let number = u64::from_le_bytes(question.get(..8)?.try_into().ok()?);
        let mut found = None;
        while let Some((asked, at)) = self.asked.front().copied() {
            if asked > number {
                break;
            }
            self.asked.pop_front();
            if asked == number {
                found = Some(at + self.span);
            }
        }
        found
    }

    /// Until when a lease that begins now is valid.
    pub(crate) fn beginning(&self, now: Timestamp) -> Timestamp {
        now + self.span
    }

    /// Another term: older answers are worth nothing.
    pub(crate) fn reset(&mut self) {
        self.asked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_question_and_not_from_the_answer() {
        let mut lease = Lease::new(Duration::from_millis(50), 12);
        let question = lease.ask(Timestamp::from_millis(1000), Timestamp::from_secs(7));
        let later = lease.ask(Timestamp::from_millis(1100), Timestamp::from_secs(8));
        assert_eq!(Lease::time_in(&later), Some(Timestamp::from_secs(8)));
        assert_eq!(
            lease.on_answer(&question),
            Some(Timestamp::from_millis(1495))
        );
        assert_eq!(lease.on_answer(&question), None);
        lease.reset();
        assert_eq!(lease.on_answer(&later), None);
    }
}
