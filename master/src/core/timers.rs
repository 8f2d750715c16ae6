//! What the core must do later, in order of time.

use std::collections::BTreeSet;

use allotment_types::{AgentId, FrameworkId, Timestamp};

use super::io::ConnId;

/// Something that falls due. Whether it still matters is looked up when it does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A framework's connection has not subscribed.
    FrameworkMute(ConnId),
    /// An agent's connection has not registered.
    AgentMute(ConnId),
    /// A framework wants a heartbeat.
    Heartbeat(ConnId),
    /// An agent wants a ping.
    Ping(ConnId),
    /// A disconnected framework had its time.
    Failover(FrameworkId),
    /// People hear what became of a framework's offers.
    OfferNews(FrameworkId),
    /// A silent agent had its time.
    AgentSilent(AgentId),
    /// An unreachable agent is given up.
    AgentForgotten(AgentId),
    /// An agent's planned absence is over.
    MaintenanceOver(AgentId),
    /// Agents were waited for long enough after a restart.
    RecoveryOver,
}

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Timestamp, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: Timestamp, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, at: Timestamp, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
