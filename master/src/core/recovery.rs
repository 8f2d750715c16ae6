//! Waiting after a restart: with a quota set, nothing is offered until enough agents are back to
//! know who uses how much (Mesos: no offers until 80 % of the known agents re-registered, or
//! 10 minutes went by).

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_types::{AgentId, Timestamp};

use super::Core;
use super::agent::AgentState;
use super::out::About;
use super::timers::Timer;

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What is waited for.
#[derive(Debug)]
pub(super) struct Recovery {
    missing: BTreeSet<AgentId>,
    /// How many of them may stay away.
    tolerated: usize,
    pub(super) until: Timestamp,
}

impl Recovery {
    /// How many more agents must come back.
    pub(super) fn awaited(&self) -> usize {
        self.missing.len().saturating_sub(self.tolerated)
    }
}

impl Core {
    /// Begins the wait, when there is something to wait for.
    pub(super) fn hold_off(&mut self) {
        let recovering = self
            .agents
            .values()
            .filter(|agent| matches!(agent.state, AgentState::Recovering { .. }));
        let missing: BTreeSet<AgentId> = recovering.map(|agent| agent.id.clone()).collect();
        if self.shares.has_no_quota() || missing.is_empty() {
            return;
        }
        let until = self.out.now + WAIT_MAX;
        let tolerated = missing.len() / 5;
        self.timers.set(until, Timer::RecoveryOver);
        self.allocator.pause();
        let recovery = Recovery {
            missing,
            tolerated,
            until,
        };
        self.out.publish(
            "allocation-paused",
            About::default(),
            format!(
                "nothing is offered until {} agents are back, because quotas are set",
                recovery.awaited()
            ),
        );
        self.recovery = Some(recovery);
    }

    /// An agent registered.
    pub(super) fn note_return(&mut self, id: &AgentId) {
        if let Some(recovery) = &mut self.recovery {
            recovery.missing.remove(id);
            if recovery.awaited() == 0 {
                self.end_recovery("enough agents are back");
            }
        }
    }

    pub(super) fn on_recovery_over(&mut self) {
        if self
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.until <= self.out.now)
        {
            self.end_recovery("agents were waited for long enough");
        }
    }

    fn end_recovery(&mut self, why: &str) {
        if let Some(recovery) = self.recovery.take() {
            self.timers.cancel(recovery.until, Timer::RecoveryOver);
            self.allocator.resume();
            self.offers.want_round();
            let message = format!("resources are offered again: {why}");
            self.out
                .publish("allocation-resumed", About::default(), message);
        }
    }
}
