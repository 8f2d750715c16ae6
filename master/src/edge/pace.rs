//! How many proposals are under way at once.
//!
//! Each costs a message to every other master, one back from each, and a place in a sync. So only a
//! few go out before the first of them is kept; what comes meanwhile becomes one larger proposal.

use std::collections::VecDeque;

use crate::replica::reign::{PROPOSAL_BYTES, Proposal};

/// One that is being written and one that is on its way: neither a disk nor a wire rests.
const UNDER_WAY_MAX: usize = 2;

/// Proposals of one reign, in order.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Until when each of those under way counts: the last sequence in it.
    under_way: VecDeque<u64>,
    held: VecDeque<Proposal>,
}

impl Pace {
    pub(super) fn hold(&mut self, proposals: Vec<Proposal>) {
        self.held.extend(proposals);
    }

    /// Everything up to `sequence` is kept.
    pub(super) fn on_committed(&mut self, sequence: u64) {
        while self.under_way.front().is_some_and(|last| *last <= sequence) {
            self.under_way.pop_front();
        }
    }

    /// What may be proposed now.
    pub(super) fn next(&mut self) -> Option<Proposal> {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let mut proposal = self.held.pop_front()?;
        let fits = |proposal: &Proposal, next: &Proposal| {
            proposal.bytes.saturating_add(next.bytes) <= PROPOSAL_BYTES
        };
        while self.held.front().is_some_and(|next| fits(&proposal, next))
            && let Some(next) = self.held.pop_front()
        {
            proposal.sequence = next.sequence;
            proposal.bytes += next.bytes;
            proposal.records.extend(next.records);
        }
        self.under_way.push_back(proposal.sequence);
        Some(proposal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::{Record, StoreRecord};

    fn proposal(sequence: u64, bytes: usize) -> Proposal {
        let record = StoreRecord {
            namespace: "n".to_owned(),
            version: sequence,
            changes: Vec::new(),
        };
        Proposal {
            epoch: 1,
            sequence,
            records: vec![Record::Store(record)],
            bytes,
        }
    }

    fn versions(proposal: Option<Proposal>) -> Vec<u64> {
        let records = proposal.into_iter().flat_map(|proposal| proposal.records);
        let version = |record| match record {
            Record::Store(store) => store.version,
            _ => 0,
        };
        records.map(version).collect()
    }

    #[test]
    fn what_comes_while_two_are_under_way_becomes_one() {
        let mut pace = Pace::default();
        for sequence in 1..=2 {
            pace.hold(vec![proposal(sequence, 10)]);
            assert_eq!(versions(pace.next()), [sequence]);
        }
        for sequence in 3..=5 {
            pace.hold(vec![proposal(sequence, 10)]);
            assert!(pace.next().is_none());
        }
        pace.on_committed(1);
        assert_eq!(versions(pace.next()), [3, 4, 5]);
        assert!(pace.next().is_none());
        pace.hold(vec![proposal(6, 10)]);
        // Kept with the second, but not with the third, whose last is 5.
        pace.on_committed(4);
        assert_eq!(versions(pace.next()), [6]);
    }

    #[test]
    fn none_grows_beyond_what_one_entry_should_carry() {
        let mut pace = Pace::default();
        let half = PROPOSAL_BYTES / 2;
        pace.hold((1..=3).map(|sequence| proposal(sequence, half)).collect());
        pace.hold(vec![proposal(4, PROPOSAL_BYTES * 3), proposal(5, 1)]);
        assert_eq!(versions(pace.next()), [1, 2]);
        assert_eq!(versions(pace.next()), [3]);
        pace.on_committed(3);
        assert_eq!(versions(pace.next()), [4]);
        assert_eq!(versions(pace.next()), [5]);
    }
}
