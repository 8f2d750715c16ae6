//! Whether agents are there: pings, broken sessions, agents given up and agents that leave.

use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::scheduler;
use allotment_types::{AgentId, FrameworkId, TaskId, Timestamp};

use super::Core;
use super::agent::AgentState;
use super::io::ConnId;
use super::out::{About, event_of};
use super::reconcile::time_info;
use super::registry::Record;
use super::task::master_status;
use super::timers::Timer;

/// How long an unreachable agent is remembered (Mesos: two weeks).
pub(super) const UNREACHABLE_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

impl Core {
    pub(super) fn on_agent_mute(&mut self, conn: ConnId) {
        if self.agent_conns.get(&conn) == Some(&None) {
            self.agent_conns.remove(&conn);
            self.out
                .close_agent(conn, "no `register` came within 15 s".to_owned());
        }
    }

    pub(super) fn on_ping_due(&mut self, conn: ConnId) {
        let now = self.out.now;
        let Some(Some(session)) = self.agent_conns.get_mut(&conn) else {
            return;
        };
        if session.pings_unanswered >= self.config.agent_ping_misses {
            let (agent, heard) = (session.agent.clone(), session.last_heard);
            let misses = session.pings_unanswered;
            self.agent_conns.remove(&conn);
            self.out
                .close_agent(conn, format!("{misses} pings were not answered"));
            self.disconnect_agent(&agent, heard);
            return;
        }
        session.pings_unanswered += 1;
        session.ping_sequence += 1;
        let ping = allot::Ping {
            sequence: session.ping_sequence,
        };
        self.out.send_agent(conn, Message::Ping(ping));
        let at = now + self.config.agent_ping_interval;
        self.timers.set(at, Timer::Ping(conn));
    }

    pub(super) fn on_agent_closed(&mut self, conn: ConnId) {
        if let Some(Some(session)) = self.agent_conns.remove(&conn) {
            self.disconnect_agent(&session.agent, self.out.now);
        }
    }

    pub(super) fn drop_session(&mut self, conn: ConnId, agent: &AgentId, reason: &str) {
        self.agent_conns.remove(&conn);
        self.out.close_agent(conn, reason.to_owned());
        self.disconnect_agent(agent, self.out.now);
    }

    /// The session broke; `heard` is when the agent was last known to be there.
    fn disconnect_agent(&mut self, id: &AgentId, heard: Timestamp) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        let until = (heard + self.config.agent_timeout).max(self.out.now);
        agent.state = AgentState::Disconnected {
            since: self.out.now,
            until,
        };
        let message = format!(
            "agent {} disconnected; it counts as unreachable in {:.0?}",
            agent.hostname,
            until.since(self.out.now)
        );
        self.out
            .publish("agent-disconnected", About::agent(id), message);
        self.timers.set(until, Timer::AgentSilent(id.clone()));
        self.allocator.set_agent_active(id, false);
        self.rescind_offers_of_agent(id);
    }

    pub(super) fn on_agent_silent(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        match agent.state {
            AgentState::Disconnected { until, .. } | AgentState::Recovering { until, .. }
                if until <= self.out.now => {}
            AgentState::Registered { .. }
            | AgentState::Disconnected { .. }
            | AgentState::Recovering { .. }
            | AgentState::Unreachable { .. } => return,
        }
        let since = self.out.now;
        agent.state = AgentState::Unreachable { since };
        let hostname = agent.hostname.clone();
        self.out.counters.agents_unreachable += 1;
        self.out.persist(agent.record());
        self.out.publish(
            "agent-unreachable",
            About::agent(id),
            format!("agent {hostname} is unreachable: nothing was heard of it for too long"),
        );
        let at = since + UNREACHABLE_KEPT;
        self.timers.set(at, Timer::AgentForgotten(id.clone()));
        for (framework, task) in self.tasks_of(id) {
            self.lose_sight(id, &framework, &task);
        }
        self.release_executors(id);
        self.rescind_inverse_offers_of_agent(id);
        self.allocator.remove_agent(id);
        self.announce_lost(id);
    }

    fn tasks_of(&self, id: &AgentId) -> Vec<(FrameworkId, TaskId)> {
        let tasks = self.agents.get(id).map(|a| &a.tasks);
        tasks.into_iter().flatten().cloned().collect()
    }

    /// A task on an agent that is unreachable: it may still run, and may come back.
    fn lose_sight(&mut self, agent: &AgentId, framework_id: &FrameworkId, task_id: &TaskId) {
        self.release_task(framework_id, task_id);
        let now = self.out.now;
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let removed = framework.is_removed();
        let Some(task) = framework.tasks.get_mut(task_id) else {
            return;
        };
        if removed {
            // Killed when the agent is back.
            return self.forget_task(framework_id, task_id);
        }
        if task.end_is_told() {
            // Its agent would have repeated this until it was acknowledged.
            let last = task.status.as_deref().filter(|_| task.unacknowledged);
            if let Some(status) = last.cloned() {
                framework.tell(&mut self.out, status);
            }
            return;
        }
        let mut status = master_status(
            now,
            task_id.into(),
            Some(agent),
            TaskState::TaskUnreachable,
            Reason::AgentRemoved,
            format!("agent {agent} is unreachable"),
        );
        status.unreachable_time = Some(time_info(now));
        task.unacknowledged = false;
        if task.is_terminal() {
            // How it ended its framework has not heard: that comes with the agent, if it comes.
            task.status = Some(Box::new(status.clone()));
        } else {
            task.state = TaskState::TaskUnreachable;
            task.since = now;
        }
        let message = format!("task {task_id} of {} is unreachable", framework.info.name);
        self.out.publish(
            "task-unreachable",
            About {
                agent: Some(agent),
                framework: Some(framework_id),
                task: Some(task_id),
            },
            message,
        );
        framework.tell(&mut self.out, status);
    }

    fn announce_lost(&mut self, agent: &AgentId) {
        for framework in self.frameworks.values() {
            if let Some(conn) = framework.conn() {
                let mut event = event_of(scheduler::event::Type::Failure);
                event.failure = Some(Box::new(scheduler::event::Failure {
                    agent_id: Some(agent.into()),
                    ..Default::default()
                }));
                self.out.send_framework(conn, event);
            }
        }
    }

    pub(super) fn on_unregister(&mut self, conn: ConnId, id: &AgentId) {
        self.agent_conns.remove(&conn);
        self.out
            .close_agent(conn, "the agent unregistered".to_owned());
        self.rescind_offers_of_agent(id);
        for (framework_id, task_id) in self.tasks_of(id) {
            let task = self
                .frameworks
                .get(&framework_id)
                .and_then(|f| f.tasks.get(&task_id));
            let (state, message) = match task {
                Some(task) if task.end_is_told() => {
                    self.forget_task(&framework_id, &task_id);
                    continue;
                }
                Some(task) if task.is_terminal() => (
                    task.state,
                    "the agent said so and left the cluster before it told the details",
                ),
                Some(_) | None => (TaskState::TaskGone, "the agent left the cluster"),
            };
            self.end_task(
                &framework_id,
                &task_id,
                state,
                Reason::AgentRemoved,
                message.to_owned(),
            );
        }
        self.release_executors(id);
        self.rescind_inverse_offers_of_agent(id);
        self.allocator.remove_agent(id);
        if let Some(agent) = self.agents.remove(id) {
            let message = format!("agent {} left the cluster", agent.hostname);
            self.out
                .publish("agent-unregistered", About::agent(id), message);
        }
        self.out.persist(Record::AgentRemoved(id.to_string()));
        self.announce_lost(id);
    }

    pub(super) fn on_agent_forgotten(&mut self, id: &AgentId) {
        let Some(AgentState::Unreachable { since }) = self.agents.get(id).map(|a| a.state) else {
            return;
        };
        if since + UNREACHABLE_KEPT > self.out.now {
            return;
        }
        for (framework, task) in self.tasks_of(id) {
            self.forget_task(&framework, &task);
        }
        self.agents.remove(id);
        self.out.persist(Record::AgentRemoved(id.to_string()));
        self.out.publish(
            "agent-forgotten",
            About::agent(id),
            format!("agent {id} was unreachable for two weeks and is forgotten"),
        );
    }
}
