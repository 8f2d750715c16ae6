//! What masters say to each other, and who of them belongs to the group.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_master::replica::Input;
use allotment_proto::allot;
use allotment_raft::store::{First, MemoryFolder, Store};
use allotment_raft::{Change, Input as RaftInput, MemberInfo};
use bytes::Bytes;

use super::faults::Relief;
use super::masters::MasterNode;
use super::{Checked, Happening, World};

/// How often an operator looks whether the next change of the members can be made.
const OPERATOR_PAUSE: Duration = Duration::from_millis(500);
/// How long a removed master goes on.
const FAREWELL: Duration = Duration::from_secs(1);
/// Numbers of members that come in the place of others begin here.
const NEXT_ID: u64 = 100;

/// What an operator of the masters wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The master at this place is a voter.
    Join(usize),
    /// The member of this number is none any more.
    Leave(u64),
    /// The master at this place begins with an empty disk, as another member.
    Renew(usize),
}

/// The network between the masters.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    /// Ways that are blocked, from one place to another, and by how many faults.
    cut: BTreeMap<(usize, usize), u32>,
    /// Members that came in the place of others.
    renewed: u64,
}

impl Mesh {
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub(super) fn heal(&mut self, from: usize, to: usize) {
        if let Some(cuts) = self.cut.get_mut(&(from, to)) {
            *cuts -= 1;
            if *cuts == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }
}

impl World {
    /// The first master begins the group, the others join it.
    pub(super) fn found_group(&mut self) -> Checked {
        for place in 0..self.masters.len() {
            let Some(node) = self.masters.get_mut(place) else {
                continue;
            };
            let address = MasterNode::address(node.id);
            let first = (place == 0).then(|| First::alone(node.id, &address, Bytes::new()));
            let folder = Box::new(node.folder.clone());
            Store::create(folder, first).map_err(|error| error.to_string())?;
            if place > 0 {
                self.want(Goal::Join(place));
            }
            self.start_master(place)?;
        }
        Ok(())
    }

    /// A message sets out to another master.
    pub(super) fn send_raft(&mut self, from: usize, mut message: Box<allot::RaftMessage>) {
        self.saboteur.votes(&mut message);
        let n_copies = match self.lossy {
            0 => 1,
            _ => match self.mischief.u8(0..6) {
                0 => 0,
                1 => 2,
                _ => 1,
            },
        };
        for _ in 0..n_copies {
            // They overtake each other, as they do not in TCP: Raft must not mind.
            let at = self.now() + self.net.delay();
            let message = message.clone();
            self.queue.at(at, Happening::Raft { from, message });
        }
        if n_copies == 0 && message.snapshot.is_some() {
            self.report(from, message.to, Some(false));
        }
    }

    /// A message of another master arrives.
    pub(super) fn on_raft(&mut self, from: usize, message: Box<allot::RaftMessage>) -> Checked {
        let (to, snapshot) = (message.to, message.snapshot.is_some());
        let found = self.masters.iter().position(|node| node.id == to);
        let found = found.filter(|to| {
            !self.mesh.cut.contains_key(&(from, *to))
                && self.masters.get(*to).is_some_and(|n| n.process.is_some())
        });
        let Some(place) = found else {
            self.report(from, to, snapshot.then_some(false));
            return Ok(());
        };
        if snapshot {
            self.report(from, to, Some(true));
        }
        self.step_replica(place, Input::Raft(RaftInput::Message(message)))?;
        self.turn(place)
    }

    /// Whoever sent something hears what became of it; of what got lost only now and then.
    fn report(&mut self, from: usize, to: u64, snapshot: Option<bool>) {
        let input = match snapshot {
            Some(delivered) => RaftInput::SnapshotSent { to, delivered },
            None if self.mischief.bool() => RaftInput::Unreachable(to),
            None => return,
        };
        let at = self.now() + self.net.delay();
        let Some(run) = self.masters.get(from).map(|node| node.runs) else {
            return;
        };
        let told = Happening::Told {
            master: from,
            run,
            input,
        };
        self.queue.at(at, told);
    }

    /// Something about its own doings reaches a run of a master.
    pub(super) fn on_told(&mut self, master: usize, run: u32, input: RaftInput) -> Checked {
        if self
            .masters
            .get(master)
            .is_some_and(|node| node.runs == run)
        {
            self.step_replica(master, Input::Raft(input))?;
            self.turn(master)?;
        }
        Ok(())
    }

    /// An operator takes on a change of the members.
    pub(super) fn want(&mut self, goal: Goal) {
        if self.goals.is_empty() {
            self.queue
                .at(self.now() + OPERATOR_PAUSE, Happening::Operate);
        }
        self.goals.push_back(goal);
    }

    /// The members are as they were meant to be, and all of them are there.
    pub(super) fn is_whole(&self) -> bool {
        self.goals.is_empty() && self.masters.iter().all(MasterNode::is_up)
    }

    /// The operator tries to get on.
    pub(super) fn operate(&mut self) -> Checked {
        while let Some(goal) = self.goals.front().copied() {
            if !self.is_reached(goal)? {
                self.queue
                    .at(self.now() + OPERATOR_PAUSE, Happening::Operate);
                return Ok(());
            }
            let now = self.now();
            self.trace.note(now, || format!("reached: {goal:?}"));
            self.goals.pop_front();
        }
        Ok(())
    }

    /// Whether a goal is reached; asks the leader for what is missing.
    fn is_reached(&mut self, goal: Goal) -> Result<bool, String> {
        if let Goal::Renew(place) = goal {
            self.renew(place)?;
            return Ok(true);
        }
        let Some(leader) = self.acting() else {
            return Ok(false);
        };
        let now = self.now();
        let joining = match goal {
            Goal::Join(place) => self.masters.get(place).map(|node| node.id),
            Goal::Leave(_) | Goal::Renew(_) => None,
        };
        let Some(node) = self.masters.get_mut(leader) else {
            return Ok(false);
        };
        let local = node.clock.local(now);
        let Some(process) = &mut node.process else {
            return Ok(false);
        };
        let member = process.replica.member();
        let change = match (goal, joining) {
            (Goal::Leave(id), _) if !member.members().members.contains_key(&id) => return Ok(true),
            (Goal::Leave(id), _) => Change::Remove(id),
            (_, Some(id)) => {
                let peers = member.standing().peers;
                if peers.iter().any(|peer| peer.id == id && peer.voter) {
                    return Ok(true);
                }
                if member.members().members.contains_key(&id) {
                    // The leader promotes it by itself once it has caught up.
                    return Ok(false);
                }
                let info = MemberInfo {
                    address: MasterNode::address(id),
                    keep_learner: false,
                };
                Change::Add { id, info }
            }
            (_, None) => return Ok(true),
        };
        // What makes no sense now is asked for again.
        if let Ok(effects) = process.replica.change(local, &change) {
            self.perform_replica(leader, effects)?;
            self.turn(leader)?;
        }
        Ok(false)
    }

    /// The disk of a master is exchanged; another member begins in its place.
    fn renew(&mut self, place: usize) -> Checked {
        self.mesh.renewed += 1;
        self.renew_as(place, NEXT_ID + self.mesh.renewed)
    }

    pub(super) fn renew_as(&mut self, place: usize, id: u64) -> Checked {
        if self.process(place).is_some() {
            self.crash_master(place, None);
        }
        let Some(node) = self.masters.get_mut(place) else {
            return Ok(());
        };
        node.id = id;
        node.folder = MemoryFolder::default();
        let folder = Box::new(node.folder.clone());
        Store::create(folder, None).map_err(|error| error.to_string())?;
        self.start_master(place)
    }

    /// A master that was removed hears of it and ends, after others had time to learn it too.
    pub(super) fn on_members_changed(&mut self, master: usize) {
        let Some(node) = self.masters.get(master) else {
            return;
        };
        let removed = node
            .process
            .as_ref()
            .is_some_and(|p| p.replica.member().members().removed.contains(&node.id));
        if removed {
            let at = self.now() + FAREWELL;
            let farewell = Relief::Farewell(master, node.runs);
            self.queue.at(at, Happening::Relief(farewell));
        }
    }
}
