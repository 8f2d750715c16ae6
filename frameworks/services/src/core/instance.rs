//! Instances: what is wanted once and may run as one task after another.

use std::cmp::Reverse;
use std::sync::Arc;

use allotment_framework_sdk::api::TaskState;
use allotment_types::{AgentId, TaskId, Timestamp};

use super::app::{App, KillSelection, Unreachable};
use super::constraint::Place;
use super::health::CheckState;
use super::id::{InstanceId, Version};

/// What shall become of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It shall run; when its task ends another is launched.
    Run,
    /// It shall end for good.
    Stop,
}

/// One wanted copy of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its name, kept from task to task.
    pub id: InstanceId,
    /// The definition its task was, or will be, launched with.
    pub app: Arc<App>,
    /// The number of its present or next task, from 1.
    pub incarnation: u32,
    /// What shall become of it.
    pub goal: Goal,
    /// Its task; `None` while it waits for an offer.
    pub task: Option<Task>,
}

/// A launched task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Where it runs.
    pub agent: AgentId,
    /// That agent's host name.
    pub host: String,
    /// The address of that agent, where its ports can be reached.
    pub address: String,
    /// What constraints see of that agent.
    pub place: Place,
    /// Its host ports, in the order of the definitions.
    pub ports: Vec<u16>,
    /// The latest state heard; TASK_STAGING before any.
    pub state: TaskState,
    /// When it was launched.
    pub staged_at: Timestamp,
    /// When it was first heard to run.
    pub started_at: Option<Timestamp>,
    /// Anything was heard of it.
    pub heard: bool,
    /// Nothing was heard of it since the last subscription.
    pub unconfirmed: bool,
    /// When the master is next asked about a launch that nothing is heard of.
    pub ask_at: Option<Timestamp>,
    /// When the kill that is under way is repeated.
    pub kill_again_at: Option<Timestamp>,
    /// Since when its agent cannot be reached.
    pub unreachable_since: Option<Timestamp>,
    /// Unreachable for so long that it is replaced.
    pub inactive: bool,
    /// One per health check.
    pub health: Vec<CheckState>,
}

impl Task {
    /// Being killed.
    pub fn is_dying(&self) -> bool {
        self.kill_again_at.is_some()
    }

    /// Every check is alive; true without checks.
    pub fn all_alive(&self) -> bool {
        self.health.iter().all(|check| check.alive)
    }
}

impl Instance {
    /// Of which configuration it is.
    pub fn config(&self) -> Version {
        self.app.version_info.last_config_change_at
    }

    /// Whether it does its work: running, healthy, and nobody is killing it.
    pub fn is_ready(&self) -> bool {
        self.goal == Goal::Run
            && self.task.as_ref().is_some_and(|task| {
                task.state == TaskState::TaskRunning && !task.is_dying() && task.all_alive()
            })
    }

    /// Unreachable for so long that it is replaced.
    pub fn is_inactive(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.inactive)
    }

    /// When a replacement falls due, if none did yet.
    pub fn inactive_at(&self) -> Option<Timestamp> {
        let task = self.task.as_ref().filter(|task| !task.inactive)?;
        let since = task.unreachable_since?;
        match self.app.unreachable_strategy {
            Unreachable::Disabled => None,
            Unreachable::After { inactive, .. } => {
                Some(since + std::time::Duration::from_secs(inactive))
            }
        }
    }

    /// When it is forgotten.
    pub fn expunge_at(&self) -> Option<Timestamp> {
        let since = self.task.as_ref()?.unreachable_since?;
        match self.app.unreachable_strategy {
            Unreachable::Disabled => None,
            Unreachable::After { expunge, .. } => {
                Some(since + std::time::Duration::from_secs(expunge))
            }
        }
    }

    /// The order in which instances are given up: waiting ones, then unreachable, staging,
    /// starting, running; ties by age as `selection` says, then by id.
    pub fn kill_key(&self, selection: KillSelection) -> (u8, Reverse<u64>, u64, InstanceId) {
        let Some(task) = &self.task else {
            return (0, Reverse(0), 0, self.id.clone());
        };
        let rank = match task.state {
            TaskState::TaskUnreachable => 1,
            TaskState::TaskStaging => 2,
            TaskState::TaskStarting => 3,
            _ => 4,
        };
        let age = task.started_at.unwrap_or(task.staged_at).as_nanos();
        let (youngest, oldest) = match selection {
            KillSelection::YoungestFirst => (Reverse(age), 0),
            KillSelection::OldestFirst => (Reverse(0), age),
        };
        (rank, youngest, oldest, self.id.clone())
    }
}
