//! A rolling upgrade: processes of an older version end, and others of the present one go on.

use std::time::Duration;

use super::{Checked, World};
use crate::fault::{CrashPoint, Node};
use crate::net::{Down, Peer, Up};
use crate::plant::Plant;
use crate::wire;

/// How long a process takes to be exchanged.
const DOWN: Duration = Duration::from_secs(2);

impl World {
    /// This one is of the older version until it is upgraded.
    pub(crate) fn begin_older(&mut self, node: Node) {
        if let Some(older) = self.older(node) {
            *older = true;
        }
    }

    fn older(&mut self, node: Node) -> Option<&mut bool> {
        match node {
            Node::Master(i) => self.masters.get_mut(i).map(|node| &mut node.older),
            Node::Peer(Peer::Agent(i)) => self.machines.get_mut(i).map(|node| &mut node.older),
            Node::Peer(Peer::Framework(i)) => {
                self.frameworks.get_mut(i).map(|node| &mut node.older)
            }
        }
    }

    pub(super) fn upgrade(&mut self, node: Node) -> Checked {
        if let Some(older) = self.older(node) {
            *older = false;
        }
        match node {
            Node::Master(i) => self.on_master_crash(i, CrashPoint::Idle, DOWN, 0),
            Node::Peer(Peer::Agent(i)) => {
                if self.saboteur.is(Plant::UpgradeForgets)
                    && let Some(node) = self.machines.get_mut(i)
                {
                    node.host.forget_records();
                }
                self.crash_agent(i, DOWN, false);
            }
            // Those that keep no state have no process to exchange: they come back as they are.
            Node::Peer(peer @ Peer::Framework(i)) => {
                self.kill_framework(i)?;
                self.cut_peer(peer, DOWN);
            }
        }
        Ok(())
    }

    /// Whether every master knows all records that there are.
    pub(super) fn masters_are_upgraded(&self) -> bool {
        self.masters.iter().all(|node| !node.older)
    }

    /// Whether masters tell this peer's SUBSCRIBEs or registrations apart. The older version does
    /// not: there one that comes after that of the next stream ends a framework, as in Mesos, and
    /// an agent's tells that its latest tasks are gone.
    pub(super) fn counts_attempts(&self, peer: Peer) -> bool {
        self.masters_are_upgraded() && !self.is_older(Some(peer))
    }

    fn is_older(&self, peer: Option<Peer>) -> bool {
        match peer {
            Some(Peer::Agent(i)) => self.machines.get(i).is_some_and(|node| node.older),
            Some(Peer::Framework(i)) => self.frameworks.get(i).is_some_and(|node| node.older),
            None => false,
        }
    }

    fn is_older_master(&self, stream: u64) -> bool {
        let node = self.net.master(stream).and_then(|i| self.masters.get(i));
        node.is_some_and(|node| node.older)
    }

    /// What a peer says over a stream, in its version.
    pub(super) fn as_said_up(&self, stream: u64, up: Up) -> Option<Up> {
        if self.is_older(self.net.peer(stream)) {
            return wire::older_up(up);
        }
        Some(up)
    }

    /// What the master at the end of a stream reads, in its version.
    pub(super) fn as_heard_up(&self, stream: u64, up: Up) -> Option<Up> {
        if self.is_older_master(stream) {
            return wire::older_up(up);
        }
        Some(up)
    }

    /// What a master says over a stream and its peer reads, in their versions.
    pub(super) fn as_said_down(&self, stream: u64, down: Down) -> Option<Down> {
        if self.is_older_master(stream) || self.is_older(self.net.peer(stream)) {
            return wire::older_down(down);
        }
        Some(down)
    }
}
