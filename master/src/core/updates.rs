//! How tasks do: status updates from agents, and tasks that end.

use allotment_allocator::{Grant, Recovery};
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, convert};
use allotment_types::{AgentId, FrameworkId, TaskId};
use bytes::Bytes;

use super::Core;
use super::io::ConnId;
use super::out::{About, Out};
use super::task::{event_kind, master_status};

/// States that only the master may speak of; an agent that reports one is mistaken.
pub(super) fn is_agents_state(state: TaskState) -> bool {
    match state {
        TaskState::TaskUnreachable | TaskState::TaskUnknown | TaskState::TaskGoneByOperator => {
            false
        }
        TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling
        | TaskState::TaskFinished
        | TaskState::TaskFailed
        | TaskState::TaskKilled
        | TaskState::TaskError
        | TaskState::TaskLost
        | TaskState::TaskDropped
        | TaskState::TaskGone => true,
    }
}

impl Core {
    pub(super) fn on_status_update(
        &mut self,
        session: ConnId,
        agent_id: &AgentId,
        update: allot::StatusUpdate,
    ) {
        self.out.counters.updates_received += 1;
        let latest = update.latest_state();
        let mut status = update.status;
        // As it was decoded it is a part of the buffer that it was received in, and would keep
        // all of it as long as the task lives.
        status.uuid = status.uuid.map(|uuid| Bytes::copy_from_slice(&uuid));
        let ids = (
            FrameworkId::try_from(&update.framework_id),
            TaskId::try_from(&status.task_id),
        );
        let named = status.agent_id.as_ref().map(|a| a.value.as_str());
        let uuid = status.uuid.clone().filter(|uuid| uuid.len() == 16);
        let (true, true, (Ok(framework_id), Ok(task_id)), true, Some(uuid)) = (
            is_agents_state(latest),
            is_agents_state(status.state()),
            ids,
            named == Some(agent_id.as_str()),
            uuid,
        ) else {
            self.out.counters.updates_invalid += 1;
            return;
        };
        let acknowledge = |out: &mut Out| {
            let ack = allot::Acknowledge {
                framework_id: (&framework_id).into(),
                task_id: (&task_id).into(),
                uuid: uuid.clone(),
            };
            out.send_agent(session, Message::Acknowledge(ack));
        };
        let Some(framework) = self.frameworks.get_mut(&framework_id) else {
            // Agents tell of their frameworks when they register, so this one was removed since.
            let shutdown = allot::ShutdownFramework {
                framework_id: (&framework_id).into(),
            };
            self.out
                .send_agent(session, Message::ShutdownFramework(shutdown));
            return;
        };
        let removed = framework.is_removed();
        let conn = framework.conn();
        let told = status.state();
        let Some(task) = framework
            .tasks
            .get_mut(&task_id)
            .filter(|task| task.agent == *agent_id)
        else {
            // Either its last acknowledgement got lost, and the framework will repeat it; or
            // the task is not this agent's: an old run of an id that was given up and reused.
            let elsewhere = framework.tasks.contains_key(&task_id);
            if removed || elsewhere || !convert::is_terminal(told) {
                acknowledge(&mut self.out);
                if !convert::is_terminal(latest) {
                    let kill = allot::Kill {
                        framework_id: (&framework_id).into(),
                        task_id: (&task_id).into(),
                        kill_policy: None,
                    };
                    self.out.send_agent(session, Message::Kill(kill));
                }
            } else if conn.is_some() {
                framework.tell(&mut self.out, status);
            }
            return;
        };
        // A repeated older update does not raise the dead.
        if !task.is_terminal() && task.state != latest {
            task.state = latest;
            task.since = self.out.now;
        }
        let ended = task.is_terminal();
        let news = task.status.as_ref().is_none_or(|s| s.state() != told);
        if news {
            count(&mut self.out, told);
            let hostname = self.agents.get(agent_id).map(|a| &*a.hostname);
            let message = sentence(&task_id, &framework.info.name, hostname, &status);
            self.out.publish(
                event_kind(told),
                About {
                    agent: Some(agent_id),
                    framework: Some(&framework_id),
                    task: Some(&task_id),
                },
                message,
            );
        }
        task.unacknowledged = !removed;
        task.status = Some(Box::new(status.clone()));
        if removed {
            acknowledge(&mut self.out);
        } else {
            framework.tell(&mut self.out, status);
        }
        if ended {
            self.release_task(&framework_id, &task_id);
        }
        if removed && convert::is_terminal(told) {
            self.forget_task(&framework_id, &task_id);
        }
    }

    /// Frees what a task holds, once.
    pub(super) fn release_task(&mut self, framework_id: &FrameworkId, task_id: &TaskId) {
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id).filter(|task| task.holds) else {
            return;
        };
        task.holds = false;
        let grant = &task.grant;
        if let Some(held) = framework.held.get_mut(&grant.role) {
            held.allocated.subtract(&grant.resources);
        }
        if let Some(agent) = self.agents.get_mut(&task.agent) {
            agent.allocated.subtract(&grant.resources);
            let resources = agent.settle(framework_id, &grant.role, &grant.resources);
            if agent.is_allocatable() {
                let released = Grant {
                    resources,
                    ..grant.clone()
                };
                let (agent, now) = (&task.agent, self.out.now);
                self.allocator
                    .recover(now, agent, &released, Recovery::Ended);
                self.offers.want_round();
            }
        }
    }

    /// Moves a task from the live ones to the remembered ones.
    pub(super) fn forget_task(&mut self, framework_id: &FrameworkId, task_id: &TaskId) {
        self.release_task(framework_id, task_id);
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.remove(task_id) else {
            return;
        };
        let removed = framework.is_removed();
        let (mut hostname, mut url) = ("".into(), "".into());
        if let Some(agent) = self.agents.get_mut(&task.agent) {
            let key = (framework_id.clone(), task_id.clone());
            agent.tasks.remove(&key);
            hostname = agent.hostname.clone();
            url = agent.url.clone();
            let others = agent
                .tasks
                .range((framework_id.clone(), first_task_id(task_id))..)
                .next()
                .is_some_and(|(framework, _)| framework == framework_id);
            if removed
                && !others
                && let Some(session) = agent.session()
            {
                let shutdown = allot::ShutdownFramework {
                    framework_id: framework_id.into(),
                };
                self.out
                    .send_agent(session, Message::ShutdownFramework(shutdown));
            }
        }
        framework.remember(task.into_ended(task_id.clone(), hostname, url));
        if framework.is_over() {
            self.finish_removal(framework_id);
        }
    }

    /// Ends a task on the master's own authority and tells its framework.
    pub(super) fn end_task(
        &mut self,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        state: TaskState,
        reason: Reason,
        message: String,
    ) {
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id) else {
            return;
        };
        let agent_id = task.agent.clone();
        let status = master_status(
            self.out.now,
            task_id.into(),
            Some(&agent_id),
            state,
            reason,
            message,
        );
        task.state = state;
        task.since = self.out.now;
        task.status = Some(Box::new(status.clone()));
        task.unacknowledged = false;
        count(&mut self.out, state);
        let hostname = self.agents.get(&agent_id).map(|a| &*a.hostname);
        let message = sentence(task_id, &framework.info.name, hostname, &status);
        self.out.publish(
            event_kind(state),
            About {
                agent: Some(&agent_id),
                framework: Some(framework_id),
                task: Some(task_id),
            },
            message,
        );
        framework.tell(&mut self.out, status);
        self.forget_task(framework_id, task_id);
    }
}

/// The least task id, to begin a range over the tasks of one framework with. `!` is the least
/// character that an id may begin with.
fn first_task_id(fallback: &TaskId) -> TaskId {
    TaskId::parse("!").unwrap_or_else(|_| fallback.clone())
}

fn count(out: &mut Out, state: TaskState) {
    let counters = &mut out.counters;
    let counter = match state {
        TaskState::TaskFinished => &mut counters.tasks_finished,
        TaskState::TaskFailed => &mut counters.tasks_failed,
        TaskState::TaskKilled => &mut counters.tasks_killed,
        TaskState::TaskError => &mut counters.tasks_error,
        TaskState::TaskLost => &mut counters.tasks_lost,
        TaskState::TaskDropped => &mut counters.tasks_dropped,
        TaskState::TaskGone | TaskState::TaskGoneByOperator => &mut counters.tasks_gone,
        TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling
        | TaskState::TaskUnreachable
        | TaskState::TaskUnknown => return,
    };
    *counter += 1;
}

fn sentence(
    task: &TaskId,
    framework: &str,
    hostname: Option<&str>,
    status: &allotment_proto::mesos::TaskStatus,
) -> String {
    let host = hostname.unwrap_or("an agent that is gone");
    let verb = match status.state() {
        TaskState::TaskStaging => "is staging",
        TaskState::TaskStarting => "is starting",
        TaskState::TaskRunning => "is running",
        TaskState::TaskKilling => "is being killed",
        TaskState::TaskFinished => "finished",
        TaskState::TaskFailed => "failed",
        TaskState::TaskKilled => "was killed",
        TaskState::TaskError => "was refused",
        TaskState::TaskLost => "was lost",
        TaskState::TaskDropped => "was never started",
        TaskState::TaskUnreachable => "is unreachable",
        TaskState::TaskGone | TaskState::TaskGoneByOperator => "is gone",
        TaskState::TaskUnknown => "is unknown",
    };
    let why = status.message.as_deref().filter(|m| !m.is_empty());
    match why {
        Some(why) => format!(
            "task {task} of {framework} {verb} on {host}: {}",
            first_line(why)
        ),
        None => format!("task {task} of {framework} {verb} on {host}"),
    }
}

/// One line of bounded length, for events.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    super::accept::shortened(line, 500)
}
