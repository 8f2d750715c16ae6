//! Raft's messages in our own encoding, and back.
//!
//! `raft` 0.7 brings protobuf 2.28, whose parser has known faults (RUSTSEC-2024-0437). So its
//! types are built here by hand, and its parser never sees bytes that came from outside.

use allotment_proto::allot;
use raft::eraftpb::{
    ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};

/// The largest message of Raft, snapshots included, in bytes.
pub const MESSAGE_LEN_MAX: usize = 1024 * 1024 * 1024;

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a message that one member may send to another.
    #[error("a Raft message of kind {0} must not come from another member")]
    Kind(u32),
    /// Entries that do not follow each other.
    #[error("the entries of a Raft message do not follow index {after}")]
    Entries {
        /// What the first entry should follow.
        after: u64,
    },
    /// An entry of a kind that this version does not know.
    #[error("an entry is of kind {0}, which this version does not know")]
    EntryKind(u32),
    /// A snapshot of nothing.
    #[error("a snapshot names no voters or no index")]
    Snapshot,
}

pub(crate) fn entry_to_wire(entry: &Entry) -> allot::RaftEntry {
    allot::RaftEntry {
        kind: entry.entry_type as u32,
        term: entry.term,
        index: entry.index,
        data: (!entry.data.is_empty()).then(|| entry.data.clone()),
        context: (!entry.context.is_empty()).then(|| entry.context.clone()),
    }
}

pub(crate) fn entry_from_wire(entry: allot::RaftEntry) -> Result<Entry, WireError> {
    let kind = match entry.kind {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        other => return Err(WireError::EntryKind(other)),
    };
    Ok(Entry {
        entry_type: kind,
        term: entry.term,
        index: entry.index,
        data: entry.data.unwrap_or_default(),
        context: entry.context.unwrap_or_default(),
        ..Entry::default()
    })
}

pub(crate) fn hard_state_to_wire(state: &HardState) -> allot::RaftHardState {
    allot::RaftHardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
    }
}

pub(crate) fn hard_state_from_wire(state: allot::RaftHardState) -> HardState {
    HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..HardState::default()
    }
}

pub(crate) fn membership_to_wire(state: &ConfState) -> allot::RaftMembership {
    allot::RaftMembership {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave.then_some(true),
    }
}

pub(crate) fn membership_from_wire(state: allot::RaftMembership) -> ConfState {
    ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave.unwrap_or_default(),
        ..ConfState::default()
    }
}

pub(crate) fn snapshot_to_wire(snapshot: &Snapshot) -> allot::RaftSnapshot {
    let meta = snapshot.get_metadata();
    allot::RaftSnapshot {
        index: meta.index,
        term: meta.term,
        membership: membership_to_wire(meta.get_conf_state()),
        data: Some(snapshot.data.clone()),
    }
}

pub(crate) fn snapshot_from_wire(snapshot: allot::RaftSnapshot) -> Result<Snapshot, WireError> {
    if snapshot.index == 0 || snapshot.membership.voters.is_empty() {
        return Err(WireError::Snapshot);
    }
    let mut meta = SnapshotMetadata {
        index: snapshot.index,
        term: snapshot.term,
        ..SnapshotMetadata::default()
    };
    meta.set_conf_state(membership_from_wire(snapshot.membership));
    let mut made = Snapshot {
        data: snapshot.data.unwrap_or_default(),
        ..Snapshot::default()
    };
    made.set_metadata(meta);
    Ok(made)
}

pub(crate) fn message_to_wire(message: &Message) -> allot::RaftMessage {
    let number = |n: u64| (n != 0).then_some(n);
    allot::RaftMessage {
        kind: message.msg_type as u32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: number(message.log_term),
        index: number(message.index),
        entries: message.entries.iter().map(entry_to_wire).collect(),
        commit: number(message.commit),
        commit_term: number(message.commit_term),
        snapshot: message
            .has_snapshot()
            .then(|| snapshot_to_wire(message.get_snapshot())),
        request_snapshot: number(message.request_snapshot),
        reject: message.reject.then_some(true),
        reject_hint: number(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
    }
}

/// Whether a message answers one of the member that it is for.
pub fn is_answer(message: &allot::RaftMessage) -> bool {
    const KINDS: [MessageType; 4] = [
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
    ];
    KINDS.iter().any(|kind| *kind as u32 == message.kind)
}

/// Checks everything that can be checked without knowing the member's state.
pub(crate) fn message_from_wire(message: allot::RaftMessage) -> Result<Message, WireError> {
    let kind = match message.kind {
        3 => MessageType::MsgAppend,
        4 => MessageType::MsgAppendResponse,
        5 => MessageType::MsgRequestVote,
        6 => MessageType::MsgRequestVoteResponse,
        7 => MessageType::MsgSnapshot,
        8 => MessageType::MsgHeartbeat,
        9 => MessageType::MsgHeartbeatResponse,
        14 => MessageType::MsgTimeoutNow,
        17 => MessageType::MsgRequestPreVote,
        18 => MessageType::MsgRequestPreVoteResponse,
        // What a member says to itself, and proposals and reads, which are not forwarded.
        other => return Err(WireError::Kind(other)),
    };
    let index = message.index.unwrap_or_default();
    let mut entries = Vec::with_capacity(message.entries.len());
    for (entry, expected) in message.entries.into_iter().zip(index.saturating_add(1)..) {
        if entry.index != expected {
            return Err(WireError::Entries { after: index });
        }
        entries.push(entry_from_wire(entry)?);
    }
    let snapshot = message.snapshot.map(snapshot_from_wire).transpose()?;
    if snapshot.is_none() && kind == MessageType::MsgSnapshot {
        return Err(WireError::Snapshot);
    }
    let mut made = Message {
        msg_type: kind,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term.unwrap_or_default(),
        index,
        commit: message.commit.unwrap_or_default(),
        commit_term: message.commit_term.unwrap_or_default(),
        request_snapshot: message.request_snapshot.unwrap_or_default(),
        reject: message.reject.unwrap_or_default(),
        reject_hint: message.reject_hint.unwrap_or_default(),
        context: message.context.unwrap_or_default(),
        ..Message::default()
    };
    made.set_entries(entries.into());
    if let Some(snapshot) = snapshot {
        made.set_snapshot(snapshot);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        let mut message = Message {
            msg_type: MessageType::MsgAppend,
            to: 2,
            from: 1,
            term: 7,
            log_term: 6,
            index: 4,
            commit: 3,
            context: b"why".to_vec().into(),
            ..Message::default()
        };
        let entry = Entry {
            term: 7,
            index: 5,
            data: b"data".to_vec().into(),
            ..Entry::default()
        };
        message.set_entries(vec![entry].into());
        assert_eq!(message_from_wire(message_to_wire(&message)), Ok(message));
    }

    #[test]
    fn what_a_member_may_not_say_is_refused() {
        let mut message = message_to_wire(&Message {
            msg_type: MessageType::MsgPropose,
            ..Message::default()
        });
        assert_eq!(message_from_wire(message.clone()), Err(WireError::Kind(2)));
        message.kind = 3;
        message.index = Some(4);
        message.entries = vec![allot::RaftEntry {
            index: 6,
            ..Default::default()
        }];
        let error = message_from_wire(message.clone());
        assert_eq!(error, Err(WireError::Entries { after: 4 }));
        message.kind = 7;
        message.entries.clear();
        assert_eq!(message_from_wire(message), Err(WireError::Snapshot));
    }
}
