//! What committed entries and snapshots do: changes of the members here, the rest outside.

use super::*;
use raft::eraftpb::{ConfChange, ConfChangeType, EntryType, SnapshotMetadata};

impl Member {
    pub(super) fn apply(&mut self, now: Timestamp, entry: Entry, out: &mut Vec<Effect>) {
        if self.failed {
            return;
        }
        let index = entry.index;
        if !entry.context.is_empty() {
            self.apply_change(now, &entry, out);
        } else if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            let data = entry.data;
            out.push(Effect::Apply { index, data });
        }
        self.applied = index;
    }

    fn apply_change(&mut self, now: Timestamp, entry: &Entry, out: &mut Vec<Effect>) {
        let index = entry.index;
        let change = allot::MemberChange::decode(entry.context.clone())
            .map_err(|e| e.to_string())
            .and_then(|change| {
                Change::from_wire(change).ok_or_else(|| "an unknown change".to_owned())
            });
        let change = match change {
            Ok(change) => change,
            Err(what) => return self.fail(MemberError::Entry { index, what }, out),
        };
        if entry.get_entry_type() == EntryType::EntryConfChange {
            let Some(for_raft) = conf_change(&change) else {
                let what = "a change of the voters that changes none".to_owned();
                return self.fail(MemberError::Entry { index, what }, out);
            };
            let alone = self.is_alone();
            match self.node.apply_conf_change(&for_raft) {
                Ok(voters) => {
                    self.voters = voters;
                    self.node.mut_store().offer_snapshot(None);
                }
                Err(error) => return self.fail(MemberError::Raft(error.to_string()), out),
            }
            if self.leading.is_some() && alone != self.is_alone() {
                // Whoever was alone needed nobody's word; the others cannot decide anything
                // without it before they have heard from it as its followers.
                let until = if alone {
                    self.lease.beginning(now)
                } else {
                    Timestamp::MAX
                };
                out.push(Effect::Lease(until));
                self.ask_for_lease(now);
            }
        }
        self.members.apply(&change);
        out.push(Effect::Members);
    }

    /// The state of a snapshot becomes ours.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, out: &mut Vec<Effect>) {
        let meta = snapshot.get_metadata();
        let index = meta.index;
        let state = match allot::RaftState::decode(snapshot.data.clone()) {
            Ok(state) => state,
            Err(error) => {
                let what = error.to_string();
                return self.fail(MemberError::Entry { index, what }, out);
            }
        };
        self.voters = meta.get_conf_state().clone();
        self.members = Members::from_wire(state.members);
        self.applied = index;
        self.snapshot_index = index;
        self.snapshot_bytes = snapshot.data.len();
        self.making = None;
        let data = state.application;
        out.push(Effect::Restore { index, data });
        out.push(Effect::Members);
    }

    /// Asks for a snapshot when the log has grown long, or somebody is too far behind for it.
    pub(super) fn wish_snapshot(&mut self, out: &mut Vec<Effect>) {
        let wanted = self.node.store().take_wanted();
        // Writing as much again as there is keeps the cost a constant factor.
        let long = self.config.compact_bytes.max(self.snapshot_bytes * 2);
        let is_long = self.node.store().bytes() > long + self.config.keep_bytes
            && self.applied > self.snapshot_index;
        let compacting = self.outstanding.iter().any(|write| write.compact.is_some());
        if self.failed || self.making.is_some() || compacting || !(wanted || is_long) {
            return;
        }
        let Ok(term) = self.node.store().term(self.applied) else {
            return;
        };
        let (voters, members) = (self.voters.clone(), self.members.clone());
        self.making = Some((self.applied, term, voters, members));
        out.push(Effect::MakeSnapshot);
    }

    pub(super) fn on_snapshot_made(&mut self, data: Bytes, out: &mut Vec<Effect>) {
        // A snapshot from the leader may have overtaken it.
        let Some((index, term, voters, members)) = self.making.take() else {
            return;
        };
        let snapshot = snapshot_of(index, term, voters, &members, data);
        // What is committed may be shown to members that lag before it is on our own disk. One
        // that was made before a change of the members does not know whoever needs it.
        if *snapshot.get_metadata().get_conf_state() == self.voters {
            self.node.mut_store().offer_snapshot(Some(snapshot.clone()));
            self.offered = self.ticks;
        }
        if index == self.snapshot_index {
            return;
        }
        let after = self.node.store().after(index);
        let state = self.node.raft.hard_state();
        let write = Write {
            snapshot: Some((snapshot.clone(), state, after)),
            ..Write::default()
        };
        // Nothing of raft-rs waits for it.
        let ready = self.outstanding.back().map_or(0, |last| last.ready);
        self.hold(write, ready, Vec::new(), None, Some(snapshot), out);
    }
}

pub(super) fn snapshot_of(
    index: u64,
    term: u64,
    voters: ConfState,
    members: &Members,
    application: Bytes,
) -> Snapshot {
    let mut meta = SnapshotMetadata {
        index,
        term,
        ..SnapshotMetadata::default()
    };
    meta.set_conf_state(voters);
    let state = allot::RaftState {
        members: members.to_wire(),
        application,
    };
    let mut snapshot = Snapshot {
        data: state.encode_to_vec().into(),
        ..Snapshot::default()
    };
    snapshot.set_metadata(meta);
    snapshot
}

/// raft-rs' form of a change; `None`: the voters stay.
pub(super) fn conf_change(change: &Change) -> Option<ConfChange> {
    let (kind, id) = match change {
        Change::Add { id, .. } => (ConfChangeType::AddLearnerNode, *id),
        Change::Promote(id) => (ConfChangeType::AddNode, *id),
        Change::Remove(id) => (ConfChangeType::RemoveNode, *id),
        Change::Move { .. } => return None,
    };
    Some(ConfChange {
        change_type: kind,
        node_id: id,
        ..ConfChange::default()
    })
}
