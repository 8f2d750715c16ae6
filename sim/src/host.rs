//! The agent's end of the cluster: the real core, or the model that is cheap enough for a
//! thousand of them.

use std::time::Duration;

use allotment_proto::allot::{AgentMessage, MasterMessage};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId, Timestamp};
use bytes::Bytes;

use crate::machine::Machine;
use crate::real_agent::RealAgent;

/// A framework's task.
pub(crate) type Key = (FrameworkId, TaskId);

/// What an agent does to the world.
#[derive(Debug)]
pub(crate) enum Act {
    /// Open a stream to the master.
    Connect,
    /// Close the stream.
    Disconnect,
    /// Say something over it.
    Send(Box<AgentMessage>),
    /// A container started.
    Started { key: Key, resources: Resources },
    /// A container is gone.
    Ended { key: Key },
    /// The task's next update in order.
    Updated { key: Key, uuid: Bytes },
    /// That update was lost with the machine's power and need not arrive.
    Withdrawn { key: Key, uuid: Bytes },
}

/// One agent with its containers.
#[derive(Debug)]
pub(crate) enum Host {
    /// Follows the protocol by the letter.
    Model(Box<Machine>),
    /// The agent's core, with simulated containers.
    Real(Box<RealAgent>),
}

impl Host {
    /// Its id, once a master gave it one.
    pub(crate) fn id(&self) -> Option<AgentId> {
        match self {
            Self::Model(machine) => machine.id().cloned(),
            Self::Real(agent) => agent.id(),
        }
    }

    /// Everything it has.
    pub(crate) fn total(&self) -> &Resources {
        match self {
            Self::Model(machine) => machine.total(),
            Self::Real(agent) => agent.total(),
        }
    }

    /// Whether a master knows it now.
    pub(crate) fn is_registered(&self) -> bool {
        match self {
            Self::Model(machine) => machine.is_registered(),
            Self::Real(agent) => agent.is_registered(),
        }
    }

    /// Updates that no framework has acknowledged.
    pub(crate) fn updates_pending(&self) -> usize {
        match self {
            Self::Model(machine) => machine.updates_pending(),
            Self::Real(agent) => agent.updates_pending(),
        }
    }

    /// Its process ends and another goes on after a while; the model has none to lose.
    pub(crate) fn crash(&mut self, now: Timestamp, down: Duration, torn: bool) {
        if let Self::Real(agent) = self {
            agent.crash(now, down, torn);
        }
    }

    /// Its machine goes down, and all that runs on it.
    pub(crate) fn lose_power(&mut self, now: Timestamp, down: Duration) -> Vec<Act> {
        match self {
            Self::Model(_) => Vec::new(),
            Self::Real(agent) => agent.lose_power(now, down),
        }
    }

    /// Everything it has is gone, and it starts as a new agent with so many cores; the
    /// experiments that use the model have no faults.
    pub(crate) fn reimage(&mut self, now: Timestamp, cpus: u64) {
        if let Self::Real(agent) = self {
            agent.reimage(now, cpus);
        }
    }

    /// What it wrote down is gone, for planted faults.
    pub(crate) fn forget_records(&mut self) {
        if let Self::Real(agent) = self {
            agent.forget_records();
        }
    }

    /// When [`Self::on_tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Model(machine) => machine.next_deadline(),
            Self::Real(agent) => agent.next_deadline(),
        }
    }

    /// Time passed.
    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Act> {
        match self {
            Self::Model(machine) => machine.on_tick(now),
            Self::Real(agent) => agent.on_tick(now),
        }
    }

    /// The stream is open.
    pub(crate) fn on_connected(&mut self, now: Timestamp) -> Vec<Act> {
        match self {
            Self::Model(machine) => machine.on_connected(),
            Self::Real(agent) => agent.on_connected(now),
        }
    }

    /// The stream is over.
    pub(crate) fn on_closed(&mut self, now: Timestamp) -> Vec<Act> {
        match self {
            Self::Model(machine) => {
                machine.on_closed(now);
                Vec::new()
            }
            Self::Real(agent) => agent.on_closed(now),
        }
    }

    /// The master said something.
    pub(crate) fn on_message(&mut self, now: Timestamp, message: MasterMessage) -> Vec<Act> {
        match self {
            Self::Model(machine) => machine.on_message(now, message),
            Self::Real(agent) => agent.on_message(now, message),
        }
    }
}
