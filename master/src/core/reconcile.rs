//! RECONCILE: telling a framework how its tasks stand (rules of Mesos' `reconciliation.md`).

use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::{mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, TaskId};

use super::Core;
use super::agent::AgentState;
use super::framework::Framework;
use super::task::{Task, master_status};

impl Core {
    pub(super) fn on_reconcile(
        &mut self,
        id: &FrameworkId,
        reconcile: &scheduler::call::Reconcile,
    ) {
        if !reconcile.tasks.is_empty() {
            for asked in &reconcile.tasks {
                let agent = asked.agent_id.as_ref().map(AgentId::try_from);
                self.reconcile_one(
                    id,
                    asked.task_id.clone(),
                    agent.and_then(Result::ok).as_ref(),
                );
            }
            return;
        }
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        let statuses: Vec<mesos::TaskStatus> = framework
            .tasks
            .iter()
            .filter_map(|(task_id, task)| self.latest_status(task_id.into(), task))
            .collect();
        for status in statuses {
            framework.tell(&mut self.out, status);
        }
    }

    /// Answers for one task, known or not; in some cases no answer is the true one.
    pub(super) fn reconcile_one(
        &mut self,
        id: &FrameworkId,
        wire_id: mesos::TaskId,
        agent: Option<&AgentId>,
    ) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        let known = TaskId::try_from(&wire_id)
            .ok()
            .and_then(|task_id| framework.tasks.get(&task_id));
        let status = match known {
            Some(task) => self.latest_status(wire_id, task),
            None => self.unknown_status(wire_id, agent),
        };
        if let Some(status) = status {
            framework.tell(&mut self.out, status);
        }
    }

    /// `None` when the agent reported the task as ended and its own update is on the way: an
    /// answer now would lack how it ended.
    fn latest_status(&self, wire_id: mesos::TaskId, task: &Task) -> Option<mesos::TaskStatus> {
        let state = task.told_state();
        let Some(latest) = &task.status else {
            if task.is_terminal() {
                return None;
            }
            let mut status = master_status(
                self.out.now,
                wire_id,
                Some(&task.agent),
                state,
                Reason::Reconciliation,
                "the latest state, told on request".to_owned(),
            );
            self.add_unreachable_time(&mut status, &task.agent);
            return Some(status);
        };
        let mut status = mesos::TaskStatus {
            state: state.into(),
            source: Some(Source::Master.into()),
            reason: Some(Reason::Reconciliation.into()),
            uuid: None,
            ..(**latest).clone()
        };
        self.add_unreachable_time(&mut status, &task.agent);
        Some(status)
    }

    fn add_unreachable_time(&self, status: &mut mesos::TaskStatus, agent: &AgentId) {
        if status.state() == TaskState::TaskUnreachable
            && let Some(AgentState::Unreachable { since }) = self.agents.get(agent).map(|a| a.state)
        {
            status.unreachable_time = Some(time_info(since));
        }
    }

    fn unknown_status(
        &self,
        wire_id: mesos::TaskId,
        agent: Option<&AgentId>,
    ) -> Option<mesos::TaskStatus> {
        let recovering = |state| matches!(state, AgentState::Recovering { .. });
        let (state, message) = match agent {
            Some(agent_id) => match self.agents.get(agent_id).map(|a| a.state) {
                // It may come back with the task.
                Some(AgentState::Recovering { .. }) => return None,
                Some(AgentState::Registered { .. } | AgentState::Disconnected { .. }) => (
                    TaskState::TaskGone,
                    format!("agent {agent_id} is here but has no such task"),
                ),
                Some(AgentState::Unreachable { .. }) => (
                    TaskState::TaskUnreachable,
                    format!("agent {agent_id} is unreachable"),
                ),
                None => (
                    TaskState::TaskUnknown,
                    format!("neither the task nor agent {agent_id} is known"),
                ),
            },
            None if self.agents.values().any(|a| recovering(a.state)) => return None,
            None => (TaskState::TaskUnknown, "no such task is known".to_owned()),
        };
        let mut status = master_status(
            self.out.now,
            wire_id,
            agent,
            state,
            Reason::Reconciliation,
            message,
        );
        if let Some(agent) = agent {
            self.add_unreachable_time(&mut status, agent);
        }
        Some(status)
    }

    /// Repeats every update that the framework has not acknowledged, as far as it is known.
    pub(super) fn repeat_unacknowledged(&mut self, framework: &FrameworkId) {
        let Some(framework) = self.frameworks.get(framework) else {
            return;
        };
        repeat(framework, &mut self.out);
    }
}

fn repeat(framework: &Framework, out: &mut super::Out) {
    for task in framework.tasks.values().filter(|t| t.unacknowledged) {
        if let Some(status) = &task.status {
            framework.tell(out, (**status).clone());
        }
    }
}

pub(super) fn time_info(at: allotment_types::Timestamp) -> mesos::TimeInfo {
    mesos::TimeInfo {
        nanoseconds: i64::try_from(at.as_nanos()).unwrap_or(i64::MAX),
    }
}
