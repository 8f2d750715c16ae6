//! What others may know of a member, and the state a group begins with.

use super::apply::snapshot_of;
use super::*;
use crate::members::MemberInfo;
use crate::store::{self, First};

/// What a member is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It decides.
    Leader,
    /// It votes.
    Follower,
    /// It seeks votes.
    Candidate,
    /// It listens.
    Learner,
}

/// How a member is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What it is.
    pub role: Role,
    /// In which term.
    pub term: u64,
    /// Who leads, if anybody does.
    pub leader: Option<u64>,
    /// The last entry that is committed here.
    pub committed: u64,
    /// The last entry in the log.
    pub last: u64,
    /// All members, by number.
    pub peers: Vec<Peer>,
}

impl Standing {
    /// Whose turn it is first when the leader is lost: nobody's while nobody leads, or when
    /// nobody else votes.
    pub fn heir(&self) -> Option<u64> {
        let leader = self.leader?;
        let voters: Vec<u64> = self
            .peers
            .iter()
            .filter(|p| p.voter)
            .map(|p| p.id)
            .collect();
        let others = voters.iter().copied().filter(|id| *id != leader);
        others.min_by_key(|id| turn(&voters, leader, *id))
    }
}

/// One member, seen by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub id: u64,
    /// Where it is reached.
    pub address: String,
    /// It votes.
    pub voter: bool,
    /// Known to the leader alone: its last entry, and whether it answered lately.
    pub progress: Option<(u64, bool)>,
}

impl Member {
    /// How this member is doing.
    pub fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.voters.voters.contains(&self.config.id) => Role::Follower,
            StateRole::Follower => Role::Learner,
        };
        let peers = self.members.members.iter().map(|(id, member)| {
            let matched = raft.prs().get(*id).map_or(0, |progress| progress.matched);
            Peer {
                id: *id,
                address: member.address.clone(),
                voter: self.voters.voters.contains(id),
                progress: leads.then(|| (matched, self.is_active(*id))),
            }
        });
        Standing {
            role,
            term: raft.term,
            leader: Some(raft.leader_id).filter(|id| *id != 0),
            committed: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            peers: peers.collect(),
        }
    }

    /// Who belongs to the group, as of the last entry applied.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Its own number.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// What a backup of the application's state as of now says beside it.
    pub fn backup_frame(&self) -> BackupFrame {
        BackupFrame {
            index: self.applied,
            term: self.node.store().term(self.applied).unwrap_or_default(),
            voters: self.voters.clone(),
            members: self.members.clone(),
        }
    }
}

/// A backup that lacks the application's state.
#[derive(Debug, Clone)]
pub struct BackupFrame {
    index: u64,
    term: u64,
    voters: ConfState,
    members: Members,
}

impl BackupFrame {
    /// The backup's bytes.
    pub fn seal(self, application: Bytes) -> Vec<u8> {
        let snapshot = snapshot_of(
            self.index,
            self.term,
            self.voters,
            &self.members,
            application,
        );
        store::encode_snapshot(&snapshot)
    }
}

impl First {
    /// A group of one member, reached at `address`, with this `application` state.
    pub fn alone(id: u64, address: &str, application: Bytes) -> Self {
        let mut members = Members::default();
        let info = MemberInfo {
            address: address.to_owned(),
            keep_learner: false,
        };
        members.members.insert(id, info);
        let voters = ConfState {
            voters: vec![id],
            ..ConfState::default()
        };
        // Entry 1 is this state, so that whoever joins needs a snapshot and learns the members.
        Self(snapshot_of(1, 1, voters, &members, application))
    }

    /// The application's state in a backup.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn application_of(backup: Vec<u8>) -> Result<Bytes, String> {
        let snapshot = store::decode_snapshot(backup)?;
        let state = allot::RaftState::decode(snapshot.data).map_err(|e| e.to_string())?;
        Ok(state.application)
    }
}
