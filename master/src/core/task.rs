//! One task as the master sees it, and how its states are told to frameworks.

use std::sync::Arc;

use allotment_allocator::Grant;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::mesos::{KillPolicy, TaskState};
use allotment_proto::{allot, convert, mesos};
use allotment_types::{AgentId, ExecutorId, TaskId, Timestamp};

use super::framework::Capabilities;

/// A task that is live, or ended with an update that its framework has not acknowledged.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) name: String,
    /// The one that it shares with others, or may.
    pub(super) executor: Option<ExecutorId>,
    pub(super) agent: AgentId,
    /// Whose, in which role, and how much it holds while `holds`.
    pub(super) grant: Grant,
    /// The newest state known; may be ahead of what the framework has heard.
    pub(super) state: TaskState,
    /// Whether its resources count as allocated.
    pub(super) holds: bool,
    pub(super) since: Timestamp,
    pub(super) launched_at: Timestamp,
    /// The latest status for the framework, in the agent's words.
    pub(super) status: Option<Box<mesos::TaskStatus>>,
    /// `status` awaits its acknowledgement.
    pub(super) unacknowledged: bool,
    /// Somebody wants it dead; told again to an agent that comes back.
    pub(super) kill: Option<KillWish>,
}

/// A kill that must reach the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct KillWish {
    pub(super) policy: Option<KillPolicy>,
}

/// What is remembered of a task that is over.
#[derive(Debug)]
pub(super) struct EndedTask {
    pub(super) id: TaskId,
    pub(super) name: String,
    pub(super) executor: Option<ExecutorId>,
    pub(super) agent: AgentId,
    pub(super) hostname: Arc<str>,
    pub(super) agent_url: Arc<str>,
    pub(super) grant: Grant,
    pub(super) state: TaskState,
    pub(super) since: Timestamp,
    pub(super) launched_at: Timestamp,
    pub(super) message: Option<String>,
    pub(super) reason: Option<Reason>,
    pub(super) exit: Option<allot::TaskExit>,
}

impl Task {
    pub(super) fn is_terminal(&self) -> bool {
        convert::is_terminal(self.state)
    }

    /// Whether it ended and the framework was told how; what it has not acknowledged may have to
    /// be repeated.
    pub(super) fn end_is_told(&self) -> bool {
        self.is_terminal() && convert::is_terminal(self.told_state())
    }

    /// The state that the framework was last told, before its capabilities are looked at.
    pub(super) fn told_state(&self) -> TaskState {
        if self.state == TaskState::TaskUnreachable {
            return self.state;
        }
        match &self.status {
            Some(status) => status.state(),
            // Its own last update, with how it ended, is on the way.
            None if self.is_terminal() => TaskState::TaskStaging,
            // Just launched, or reported by its agent to a master that started since: what an
            // earlier master told the framework must not be taken back.
            None => self.state,
        }
    }

    pub(super) fn into_ended(
        self,
        id: TaskId,
        hostname: Arc<str>,
        agent_url: Arc<str>,
    ) -> EndedTask {
        let (message, reason, exit) = match self.status {
            Some(status) => {
                let reason = status.reason.is_some().then(|| status.reason());
                (status.message, reason, status.exit)
            }
            None => (None, None, None),
        };
        EndedTask {
            id,
            name: self.name,
            executor: self.executor,
            agent: self.agent,
            hostname,
            agent_url,
            grant: self.grant,
            state: self.state,
            since: self.since,
            launched_at: self.launched_at,
            message,
            reason,
            exit,
        }
    }
}

/// The state as this framework can understand it (Mesos: without PARTITION_AWARE the finer
/// kinds of loss are TASK_LOST; without TASK_KILLING_STATE a task being killed is running).
pub(super) fn state_for(capabilities: Capabilities, state: TaskState) -> TaskState {
    match state {
        TaskState::TaskDropped
        | TaskState::TaskUnreachable
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator
        | TaskState::TaskUnknown
            if !capabilities.partition_aware =>
        {
            TaskState::TaskLost
        }
        TaskState::TaskKilling if !capabilities.task_killing_state => TaskState::TaskRunning,
        other => other,
    }
}

/// A status that the master makes itself: no uuid, never repeated.
pub(super) fn master_status(
    now: Timestamp,
    task: mesos::TaskId,
    agent: Option<&AgentId>,
    state: TaskState,
    reason: Reason,
    message: String,
) -> mesos::TaskStatus {
    mesos::TaskStatus {
        task_id: task,
        state: state.into(),
        message: Some(message),
        source: Some(Source::Master.into()),
        reason: Some(reason.into()),
        agent_id: agent.map(Into::into),
        timestamp: Some(now.as_secs_f64()),
        ..Default::default()
    }
}

/// `task-running` for TASK_RUNNING.
pub(super) fn event_kind(state: TaskState) -> String {
    state.as_str_name().to_ascii_lowercase().replace('_', "-")
}
