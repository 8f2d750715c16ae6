//! Who belongs to the group: numbers, addresses, and the changes to both.

use std::collections::BTreeMap;

use allotment_proto::allot;

/// How many removed members are remembered, so that they are told rather than ignored.
const REMOVED_KEPT: usize = 100;

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// It stays a learner until somebody promotes it.
    pub keep_learner: bool,
}

/// All members, learners too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// By number.
    pub members: BTreeMap<u64, MemberInfo>,
    /// Numbers of members that were removed lately, oldest first.
    pub removed: Vec<u64>,
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new member, as a learner; it becomes a voter by itself unless it is to be kept.
    Add {
        /// Its number.
        id: u64,
        /// What it is.
        info: MemberInfo,
    },
    /// A learner becomes a voter.
    Promote(u64),
    /// A member leaves for good.
    Remove(u64),
    /// A member is reached at another address.
    Move {
        /// Whose.
        id: u64,
        /// The new `host:port`.
        address: String,
    },
}

/// Why a change was refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader.
    #[error("this master does not lead")]
    NotLeader,
    /// One at a time.
    #[error("another change of the members is under way; try again in a moment")]
    Busy,
    /// No such member.
    #[error("there is no member {0:x}; see `allot master list`")]
    Unknown(u64),
    /// It is there already.
    #[error("member {0:x} is there already")]
    Known(u64),
    /// It votes already.
    #[error("member {0:x} is a voter already")]
    Voter(u64),
    /// It would slow every write down, or stop them.
    #[error(
        "member {id:x} has entry {matched} of {last} and would hold up every write as a voter; \
         wait until it has caught up"
    )]
    Behind {
        /// Which.
        id: u64,
        /// What it has.
        matched: u64,
        /// What there is.
        last: u64,
    },
    /// The rest could not decide anything.
    #[error(
        "without it {left} voters are left, of which {active} answer, and {needed} are needed to \
         decide anything; bring the others back first"
    )]
    Quorum {
        /// Voters that would be left.
        left: usize,
        /// How many of them answer.
        active: usize,
        /// How many must.
        needed: usize,
    },
}

impl Change {
    pub(crate) fn to_wire(&self) -> allot::MemberChange {
        use allot::member_change::Kind;
        let (kind, id, address, keep_learner) = match self {
            Self::Add { id, info } => (Kind::Add, *id, info.address.clone(), info.keep_learner),
            Self::Promote(id) => (Kind::Promote, *id, String::new(), false),
            Self::Remove(id) => (Kind::Remove, *id, String::new(), false),
            Self::Move { id, address } => (Kind::Move, *id, address.clone(), false),
        };
        allot::MemberChange {
            kind: kind.into(),
            member: allot::MasterMember {
                id,
                address,
                keep_learner,
            },
        }
    }

    /// `None`: of a later version.
    pub(crate) fn from_wire(change: allot::MemberChange) -> Option<Self> {
        use allot::member_change::Kind;
        let allot::MasterMember {
            id,
            address,
            keep_learner,
        } = change.member.clone();
        match change.kind() {
            Kind::Add => Some(Self::Add {
                id,
                info: MemberInfo {
                    address,
                    keep_learner,
                },
            }),
            Kind::Promote => Some(Self::Promote(id)),
            Kind::Remove => Some(Self::Remove(id)),
            Kind::Move => Some(Self::Move { id, address }),
            Kind::Unknown => None,
        }
    }
}

impl Members {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Add { id, info } => {
                self.removed.retain(|removed| removed != id);
                self.members.insert(*id, info.clone());
            }
            Change::Promote(id) => {
                if let Some(member) = self.members.get_mut(id) {
                    member.keep_learner = false;
                }
            }
            Change::Remove(id) => {
                self.members.remove(id);
                self.removed.push(*id);
                if self.removed.len() > REMOVED_KEPT {
                    self.removed.remove(0);
                }
            }
            Change::Move { id, address } => {
                if let Some(member) = self.members.get_mut(id) {
                    member.address.clone_from(address);
                }
            }
        }
    }

    /// Who is reached at `address`.
    pub fn at(&self, address: &str) -> Option<u64> {
        let mut all = self.members.iter();
        all.find(|(_, member)| member.address == address)
            .map(|(id, _)| *id)
    }

    /// As it is replicated.
    pub fn to_wire(&self) -> allot::MasterMembers {
        let members = self.members.iter().map(|(id, member)| allot::MasterMember {
            id: *id,
            address: member.address.clone(),
            keep_learner: member.keep_learner,
        });
        allot::MasterMembers {
            members: members.collect(),
            removed: self.removed.clone(),
        }
    }

    /// As it was replicated.
    pub fn from_wire(members: allot::MasterMembers) -> Self {
        let all = members.members.into_iter().map(|member| {
            let info = MemberInfo {
                address: member.address,
                keep_learner: member.keep_learner,
            };
            (member.id, info)
        });
        Self {
            members: all.collect(),
            removed: members.removed,
        }
    }
}
