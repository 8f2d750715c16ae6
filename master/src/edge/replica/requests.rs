//! What operators and other masters ask of the replica: to join, to change the members, to look.

use std::collections::BTreeMap;

use allotment_raft::members::{MemberInfo, Members};
use allotment_raft::{Change, ChangeError, Standing};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{ReplicaLoop, connect};
use crate::replica::entry;

/// What a master that joined must know.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Joined {
    /// Its number.
    pub(in crate::edge) id: u64,
    /// Everybody.
    pub(in crate::edge) members: Members,
    /// The number it gave was removed.
    pub(in crate::edge) removed: bool,
}

/// How the member is doing.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Overview {
    pub(in crate::edge) standing: Standing,
    /// Where every member is reached, with this master's own address.
    pub(in crate::edge) addresses: BTreeMap<u64, String>,
}

/// Somebody waits until the members are as asked.
#[derive(Debug)]
pub(super) enum Goal {
    Join {
        id: u64,
        answer: oneshot::Sender<Result<Joined, ChangeError>>,
    },
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
}

impl ReplicaLoop {
    pub(super) fn overview(&self) -> Overview {
        let members = &self.replica.member().members().members;
        let addresses = members.iter().map(|(id, m)| (*id, m.address.clone()));
        let mut addresses: BTreeMap<u64, String> = addresses.collect();
        addresses.insert(self.credentials.id, self.credentials.address.clone());
        Overview {
            standing: self.replica.member().standing(),
            addresses,
        }
    }

    /// A master is, or wants to be, number `id` at `address`.
    pub(super) fn on_join(
        &mut self,
        id: u64,
        address: String,
        answer: oneshot::Sender<Result<Joined, ChangeError>>,
    ) {
        let members = self.replica.member().members().clone();
        let joined = |id, removed| Joined {
            id,
            members: members.clone(),
            removed,
        };
        if !self.replica.is_leading() {
            // Whoever asked may have gone away, here and below.
            let _ = answer.send(Err(ChangeError::NotLeader));
            return;
        }
        if members.removed.contains(&id) {
            let _ = answer.send(Ok(joined(id, true)));
            return;
        }
        let change = match members.members.get(&id) {
            Some(member) if member.address == address => {
                let _ = answer.send(Ok(joined(id, false)));
                return;
            }
            Some(_) => Change::Move { id, address },
            None => match members.at(&address) {
                // An operator added the address, and nobody has been there yet.
                Some(waiting) if self.never_spoke(waiting) => {
                    let _ = answer.send(Ok(joined(waiting, false)));
                    return;
                }
                // Its disk was exchanged: the member that it was can never vote again.
                Some(old) => {
                    info!(%address, "a master came back with an empty folder");
                    return self.replace(old, answer);
                }
                None => Change::Add {
                    id,
                    info: MemberInfo {
                        address,
                        keep_learner: false,
                    },
                },
            },
        };
        match self.replica.change(self.clock.now(), &change) {
            Ok(effects) => {
                self.goals.push(Goal::Join { id, answer });
                self.perform(effects);
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Removes what a master was before it lost its disk; it asks again and is added.
    fn replace(&mut self, old: u64, answer: oneshot::Sender<Result<Joined, ChangeError>>) {
        let error = match self.replica.change(self.clock.now(), &Change::Remove(old)) {
            Ok(effects) => {
                self.perform(effects);
                ChangeError::Busy
            }
            Err(error) => error,
        };
        // Whoever asked may have gone away.
        let _ = answer.send(Err(error));
    }

    fn never_spoke(&self, id: u64) -> bool {
        let peers = self.replica.member().standing().peers;
        let mut found = peers.iter().filter(|peer| peer.id == id);
        found.any(|peer| !peer.voter && peer.progress.is_some_and(|(matched, _)| matched == 0))
    }

    pub(super) fn on_change(
        &mut self,
        change: Change,
        answer: oneshot::Sender<Result<(), ChangeError>>,
    ) {
        match self.replica.change(self.clock.now(), &change) {
            Ok(effects) => {
                self.goals.push(Goal::Change(change, answer));
                self.perform(effects);
            }
            Err(error) => {
                // Whoever asked may have gone away.
                let _ = answer.send(Err(error));
            }
        }
    }

    /// Answers whoever has what they waited for; all of them when this master does not lead any
    /// more.
    pub(super) fn settle_goals(&mut self) {
        let leading = self.replica.is_leading();
        let members = self.replica.member().members();
        let standing = self.replica.member().standing();
        let votes = |id: u64| standing.peers.iter().any(|p| p.id == id && p.voter);
        let mut open = Vec::new();
        for goal in std::mem::take(&mut self.goals) {
            match goal {
                Goal::Join { id, answer } if members.members.contains_key(&id) => {
                    // Whoever asked may have gone away, here and below.
                    let _ = answer.send(Ok(Joined {
                        id,
                        members: members.clone(),
                        removed: false,
                    }));
                }
                Goal::Change(change, answer)
                    if match &change {
                        Change::Add { id, .. } => members.members.contains_key(id),
                        Change::Promote(id) => votes(*id),
                        Change::Remove(id) => !members.members.contains_key(id),
                        Change::Move { id, address } => members.at(address) == Some(*id),
                    } =>
                {
                    let _ = answer.send(Ok(()));
                }
                goal if leading => open.push(goal),
                Goal::Join { answer, .. } => {
                    let _ = answer.send(Err(ChangeError::NotLeader));
                }
                Goal::Change(_, answer) => {
                    let _ = answer.send(Err(ChangeError::NotLeader));
                }
            }
        }
        self.goals = open;
    }

    /// This master serves at another address than the others know: tell the leader, or be it.
    pub(super) fn announce_address(&mut self, leader: Option<String>) {
        let me = self.credentials.id;
        let members = &self.replica.member().members().members;
        let noted = members.get(&me).map(|member| &member.address);
        if noted.is_none_or(|noted| *noted == self.credentials.address) {
            self.announced_to = None;
            return;
        }
        // The leader at our old address is this master itself, whose reign is about to begin.
        let leader = leader.filter(|leader| Some(leader) != noted);
        if self.replica.is_leading() {
            let (id, address) = (me, self.credentials.address.clone());
            let change = Change::Move { id, address };
            // Refused while another change is under way; its end brings us here again.
            if self.announced_to.as_ref() != Some(&self.credentials.address)
                && let Ok(effects) = self.replica.change(self.clock.now(), &change)
            {
                self.announced_to = Some(self.credentials.address.clone());
                self.perform(effects);
            }
            return;
        }
        if leader.is_some() && self.announced_to != leader {
            self.announced_to.clone_from(&leader);
            let credentials = self.credentials.clone();
            let (leader, address) = (leader.unwrap_or_default(), self.credentials.address.clone());
            tokio::spawn(async move {
                let request = allotment_proto::allot::JoinRequest {
                    id: me,
                    address,
                    cluster_id: Some(credentials.cluster_id.clone()),
                };
                let mut request = tonic::Request::new(request);
                credentials.sign(&mut request, None);
                let told = match connect(&leader).await {
                    Ok(mut client) => client.join(request).await.map_err(|s| s.to_string()),
                    Err(error) => Err(error),
                };
                if let Err(reason) = told {
                    warn!(%leader, %reason, "the leader did not take our new address");
                }
            });
        }
    }

    /// The bytes are made beside the loop, of the registry as it is now.
    pub(super) fn on_backup(&self, answer: oneshot::Sender<Vec<u8>>) {
        let (registry, time) = self.replica.for_backup(self.clock.now());
        let frame = self.replica.member().backup_frame();
        tokio::task::spawn_blocking(move || {
            let state = entry::encode_registry(registry, time);
            // Whoever asked may have gone away.
            let _ = answer.send(frame.seal(state));
        });
    }
}
