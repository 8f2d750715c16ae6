//! One reign of this master: its core, and what the core wants done once the masters agreed.
//!
//! The core goes on while its records are on their way; what it wants done waits here, in order,
//! until the records before it are committed and the lease is valid. When the reign ends all of it
//! is dropped: nobody was told anything that might not be so.

use std::collections::VecDeque;

use allotment_types::{Effects, Timestamp};
use prost::Message as _;

use super::entry::Boxed;
use crate::core::registry::Record;
use crate::core::{Core, Effect};

/// How many turns may wait for their records; beyond it the loop takes no more in.
const WAITING_MAX: usize = 256;
/// Records beyond this many bytes go into another proposal.
pub(crate) const PROPOSAL_BYTES: usize = 1024 * 1024;

/// A proposal for the replica.
#[derive(Debug)]
pub struct Proposal {
    /// Which reign.
    pub epoch: u64,
    /// Counts up within the reign.
    pub sequence: u64,
    /// Kept together.
    pub records: Vec<Record>,
    /// Their encoded length.
    pub bytes: usize,
}

/// A core and what it waits for.
#[derive(Debug)]
pub struct Reign {
    /// Decides.
    pub core: Core,
    /// Raft's term.
    pub term: u64,
    /// Names this reign.
    pub epoch: u64,
    /// The group's time, and the machine's at the same moment.
    time: (Timestamp, Timestamp),
    proposed: u64,
    committed: u64,
    /// The proposal to wait for, and what to do then.
    waiting: VecDeque<(u64, Vec<Effect>)>,
}

impl Reign {
    /// A reign that begins at `time`: the group's, and the machine's at the same moment.
    pub fn new(core: Core, term: u64, epoch: u64, time: (Timestamp, Timestamp)) -> Self {
        Self {
            core,
            term,
            epoch,
            time,
            proposed: 0,
            committed: 0,
            waiting: VecDeque::new(),
        }
    }

    /// The core's time at the machine's `now`.
    pub fn time_at(&self, now: Timestamp) -> Timestamp {
        self.time.0 + now.since(self.time.1)
    }

    /// The machine's time at the core's `at`.
    pub fn machine_time(&self, at: Timestamp) -> Timestamp {
        self.time.1 + at.since(self.time.0)
    }

    /// Whether more may be taken in.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Whether everything that the core wanted done was handed out.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the outcome of a turn; returns what to propose.
    pub fn hold(&mut self, effects: Effects<Record, Effect>) -> Vec<Proposal> {
        let Effects { persist, then } = effects;
        let mut proposals = Vec::new();
        for (records, bytes) in in_portions(persist) {
            self.proposed += 1;
            proposals.push(Proposal {
                epoch: self.epoch,
                sequence: self.proposed,
                records,
                bytes,
            });
        }
        if !then.is_empty() {
            self.waiting.push_back((self.proposed, then));
        }
        proposals
    }

    /// The replica says that proposals up to `sequence` are kept.
    pub fn on_committed(&mut self, epoch: u64, sequence: u64) {
        if epoch == self.epoch {
            self.committed = self.committed.max(sequence);
        }
    }

    /// What may be done now, the oldest first.
    pub fn next_ready(&mut self) -> Option<Vec<Effect>> {
        let (sequence, _) = self.waiting.front()?;
        if *sequence > self.committed {
            return None;
        }
        self.waiting.pop_front().map(|(_, effects)| effects)
    }
}

/// Splits what one entry of the log should not carry; each portion with its encoded length.
fn in_portions(records: Vec<Record>) -> Vec<(Vec<Record>, usize)> {
    let mut portions = Vec::new();
    let mut portion = Vec::new();
    let mut bytes = 0;
    for record in records {
        let boxed = Boxed {
            record: Some(record),
        };
        let len = boxed.encoded_len();
        if bytes + len > PROPOSAL_BYTES && !portion.is_empty() {
            portions.push((std::mem::take(&mut portion), std::mem::take(&mut bytes)));
        }
        bytes += len;
        portion.extend(boxed.record);
    }
    if !portion.is_empty() {
        portions.push((portion, bytes));
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::{StoreChange, StoreRecord};

    fn record(len: usize) -> Record {
        Record::Store(StoreRecord {
            namespace: "n".to_owned(),
            version: 1,
            changes: vec![StoreChange {
                key: "k".to_owned(),
                value: Some(vec![0; len].into()),
                lease_ms: None,
            }],
        })
    }

    #[test]
    fn a_large_turn_becomes_several_proposals_in_order() {
        let sizes = |portions: Vec<(Vec<Record>, usize)>| {
            let sizes = portions.iter().map(|(records, _)| records.len());
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(sizes(in_portions(vec![])), [0; 0]);
        assert_eq!(sizes(in_portions(vec![record(10), record(10)])), [2]);
        let large = PROPOSAL_BYTES * 2;
        let many = vec![record(10), record(large), record(10), record(10)];
        assert_eq!(sizes(in_portions(many)), [1, 1, 2]);
    }
}
