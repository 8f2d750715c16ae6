//! One master's copy of the registry, as a state machine: the replicated log's member, and the
//! registry that the log adds up to.
//!
//! It decides when the master's core lives: [`Effect::Lead`] hands over the registry and the
//! group's time, and from then on the core's records come back as [`Input::Propose`] and go on
//! once [`Effect::Committed`] says so; [`Effect::Follow`] ends it. No socket, clock or thread.

pub mod entry;
pub mod reign;

use allotment_proto::allot;
use allotment_raft as raft;
use allotment_raft::store::Recovered;
use allotment_raft::{Change, ChangeError, Member, MemberError};
use allotment_types::Timestamp;
use bytes::Bytes;

use crate::core::registry::{Record, Registry};

/// A fact that arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Something for the log's member.
    Raft(raft::Input),
    /// The core wants these records kept.
    Propose {
        /// From [`Effect::Lead`]; those of an earlier reign are dropped.
        epoch: u64,
        /// Counts up within the reign.
        sequence: u64,
        /// The records of a turn or of several, kept together.
        records: Vec<Record>,
    },
}

/// What the edge is to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send to another master; it may get lost.
    Send(Box<allot::RaftMessage>),
    /// Make durable, then say [`raft::Input::Persisted`].
    Write(raft::Write),
    /// Encode this registry with [`entry::encode_registry`] and say
    /// [`raft::Input::SnapshotMade`].
    Encode(Box<Registry>, Timestamp),
    /// This master leads: make a core.
    Lead {
        /// Names this reign.
        epoch: u64,
        /// Raft's term, which fences what older leaders still say.
        term: u64,
        /// What the core begins with.
        registry: Box<Registry>,
        /// The group's time now.
        time: Timestamp,
    },
    /// This master does not lead: drop the core and what it was about to do.
    Follow,
    /// What was proposed up to here is kept, whatever happens.
    Committed {
        /// Which reign.
        epoch: u64,
        /// The last proposal.
        sequence: u64,
    },
    /// Until when the core may act, on the clock of the inputs.
    Lease(Timestamp),
    /// The leader or the members changed.
    Changed,
    /// A message made no sense; log it.
    Refused(String),
    /// The master must stop.
    Failed(MemberError),
}

/// A member and its registry.
#[derive(Debug)]
pub struct Replica {
    member: Member,
    registry: Registry,
    /// Counts reigns; the current one while `leading`.
    epoch: u64,
    leading: bool,
    failed: bool,
}

impl Replica {
    /// A copy that starts at `now` with what its store remembers.
    ///
    /// # Errors
    /// [`MemberError`] when the store contradicts itself.
    pub fn new(
        config: raft::Config,
        now: Timestamp,
        recovered: Recovered,
    ) -> Result<(Self, Vec<Effect>), MemberError> {
        let (member, effects) = Member::new(config, now, recovered)?;
        let mut replica = Self {
            member,
            registry: Registry::default(),
            epoch: 0,
            leading: false,
            failed: false,
        };
        let mut out = Vec::new();
        replica.take_in(now, effects, &mut out);
        Ok((replica, out))
    }

    /// When [`raft::Input::Tick`] is due.
    pub fn next_deadline(&self) -> Timestamp {
        self.member.next_deadline()
    }

    /// Whether a core lives here.
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// The log's member, to look at.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The registry as of the last entry applied.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Takes one fact in. `now` is the machine's time at the start, monotonic from there on.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.failed {
            return out;
        }
        let input = match input {
            Input::Raft(input) => input,
            Input::Propose {
                epoch,
                sequence,
                records,
            } => {
                if !self.leading || epoch != self.epoch {
                    return out;
                }
                let time = self.member.group_time(now);
                raft::Input::Propose(entry::encode(epoch, sequence, time, records))
            }
        };
        let effects = self.member.step(now, input);
        self.take_in(now, effects, &mut out);
        out
    }

    /// Proposes a change of the members; [`Effect::Changed`] tells when it has happened.
    ///
    /// # Errors
    /// [`ChangeError`] when it makes no sense now.
    pub fn change(&mut self, now: Timestamp, change: &Change) -> Result<Vec<Effect>, ChangeError> {
        let effects = self.member.change(now, change)?;
        let mut out = Vec::new();
        self.take_in(now, effects, &mut out);
        Ok(out)
    }

    /// The registry and the time for a backup; see [`Member::backup_frame`].
    pub fn for_backup(&self, now: Timestamp) -> (Registry, Timestamp) {
        (self.registry.clone(), self.member.group_time(now))
    }

    fn take_in(&mut self, now: Timestamp, effects: Vec<raft::Effect>, out: &mut Vec<Effect>) {
        for effect in effects {
            match effect {
                raft::Effect::Send(message) => out.push(Effect::Send(message)),
                raft::Effect::Write(write) => out.push(Effect::Write(write)),
                raft::Effect::Apply { index, data } => self.apply(now, index, data, out),
                raft::Effect::Restore { index, data } => self.restore(now, index, data, out),
                raft::Effect::MakeSnapshot => {
                    let time = self.member.group_time(now);
                    out.push(Effect::Encode(Box::new(self.registry.clone()), time));
                }
                raft::Effect::Lead { term } => self.lead(now, term, out),
                raft::Effect::Follow { .. } => {
                    self.unlead(out);
                    out.push(Effect::Changed);
                }
                raft::Effect::Lease(until) => out.push(Effect::Lease(until)),
                // Whoever proposed cannot know any more what became of its records.
                raft::Effect::Dropped => self.unlead(out),
                raft::Effect::Members => out.push(Effect::Changed),
                raft::Effect::Refused(reason) => out.push(Effect::Refused(reason)),
                raft::Effect::Failed(error) => self.fail(error, out),
            }
        }
    }

    fn lead(&mut self, now: Timestamp, term: u64, out: &mut Vec<Effect>) {
        self.epoch += 1;
        self.leading = true;
        out.push(Effect::Changed);
        out.push(Effect::Lead {
            epoch: self.epoch,
            term,
            registry: Box::new(self.registry.clone()),
            time: self.member.group_time(now),
        });
    }

    fn unlead(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.leading) {
            out.push(Effect::Follow);
        }
    }

    fn apply(&mut self, now: Timestamp, index: u64, data: Bytes, out: &mut Vec<Effect>) {
        let (epoch, sequence, time, records) = match entry::decode(data) {
            Ok(entry) => entry,
            Err(error) => {
                let what = error.to_string();
                return self.fail(MemberError::Entry { index, what }, out);
            }
        };
        self.member.on_past_time(now, time);
        for record in records {
            self.registry.apply(record);
        }
        // While this master leads nobody else's entries are applied, and an earlier reign of its
        // own has another number.
        if self.leading && epoch == self.epoch {
            out.push(Effect::Committed { epoch, sequence });
        }
    }

    fn restore(&mut self, now: Timestamp, index: u64, data: Bytes, out: &mut Vec<Effect>) {
        match entry::decode_registry(data) {
            Ok((registry, time)) => {
                self.registry = registry;
                self.member.on_past_time(now, time);
            }
            Err(error) => {
                let what = error.to_string();
                self.fail(MemberError::Entry { index, what }, out);
            }
        }
    }

    fn fail(&mut self, error: MemberError, out: &mut Vec<Effect>) {
        self.unlead(out);
        self.failed = true;
        out.push(Effect::Failed(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::{StoreChange, StoreRecord};
    use allotment_raft::store::{First, MemoryFolder, Store};
    use std::time::Duration;

    /// A master alone, whose disk is done when the test says so.
    struct Alone {
        replica: Replica,
        store: Store,
        writes: Vec<raft::Write>,
    }

    impl Alone {
        fn start(folder: &MemoryFolder) -> (Self, Vec<Effect>) {
            let (store, recovered) = Store::open(Box::new(folder.clone())).unwrap().unwrap();
            let config = raft::Config {
                id: 1,
                tick: Duration::from_millis(50),
                election_ticks: 12,
                seed: 1,
                compact_bytes: 1 << 20,
                keep_bytes: 1 << 20,
            };
            let (replica, effects) =
                Replica::new(config, Timestamp::from_secs(1), recovered).unwrap();
            let mut alone = Self {
                replica,
                store,
                writes: Vec::new(),
            };
            let effects = alone.keep(effects);
            (alone, effects)
        }

        /// Sets the writes aside.
        fn keep(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
            let mut rest = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Write(write) => self.writes.push(write),
                    effect => rest.push(effect),
                }
            }
            rest
        }

        fn disk_is_done(&mut self) -> Vec<Effect> {
            let mut all = Vec::new();
            while !self.writes.is_empty() {
                let writes = std::mem::take(&mut self.writes);
                self.store.write(&writes).unwrap();
                let number = writes.last().unwrap().number;
                let input = Input::Raft(raft::Input::Persisted(number));
                let effects = self.replica.step(Timestamp::from_secs(2), input);
                all.extend(self.keep(effects));
            }
            all
        }

        fn propose(&mut self, epoch: u64, sequence: u64, key: &str) -> Vec<Effect> {
            let change = StoreChange {
                key: key.to_owned(),
                value: Some("v".into()),
                lease_ms: None,
            };
            let record = Record::Store(StoreRecord {
                namespace: "n".to_owned(),
                version: sequence,
                changes: vec![change],
            });
            let input = Input::Propose {
                epoch,
                sequence,
                records: vec![record],
            };
            let effects = self.replica.step(Timestamp::from_secs(2), input);
            self.keep(effects)
        }
    }

    #[test]
    fn a_proposal_is_committed_once_it_is_on_the_disk_and_not_before() {
        let folder = MemoryFolder::default();
        let first = First::alone(1, "a:1", Bytes::new());
        Store::create(Box::new(folder.clone()), Some(first)).unwrap();
        let (mut alone, effects) = Alone::start(&folder);
        let leads = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Lead { .. }));
        assert!(
            !leads(&effects),
            "before its vote for itself is on the disk"
        );
        assert!(leads(&alone.disk_is_done()));
        assert!(alone.propose(1, 1, "k").is_empty());
        let committed = Effect::Committed {
            epoch: 1,
            sequence: 1,
        };
        assert_eq!(alone.disk_is_done(), [committed]);
        assert!(alone.propose(0, 2, "of an earlier reign").is_empty());
        assert!(alone.writes.is_empty());

        // What was committed is handed to the next reign; what was not on the disk is not.
        alone.propose(1, 2, "lost");
        folder.crash(0, false);
        let (mut alone, _) = Alone::start(&folder);
        let effects = alone.disk_is_done();
        let handed = effects.into_iter().find_map(|effect| match effect {
            Effect::Lead { registry, .. } => Some(registry),
            _ => None,
        });
        let keys: Vec<_> = handed.unwrap().store["n"].keys().cloned().collect();
        assert_eq!(keys, ["k".into()]);
    }
}
