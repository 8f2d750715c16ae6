//! Squaring what an agent reports when it registers with what is believed of it: tasks that are
//! missing are over, tasks that are news are taken in, and what must not run there is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_allocator::Grant;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{convert, mesos};
use allotment_types::{AgentId, FrameworkId, Role, TaskId};

use super::Core;
use super::checkin::Reported;
use super::executors::{Executor, ExecutorKey};
use super::framework::{Capabilities, Checked, Framework, FrameworkState};
use super::task::{Task, master_status};
use super::timers::Timer;

impl Core {
    /// What was believed to run there and is not reported is over.
    pub(super) fn end_missing_tasks(
        &mut self,
        id: &AgentId,
        reported: &BTreeMap<(FrameworkId, TaskId), Reported>,
    ) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let missing: Vec<(FrameworkId, TaskId)> = agent
            .tasks
            .iter()
            .filter(|key| !reported.contains_key(key))
            .cloned()
            .collect();
        for (framework_id, task_id) in missing {
            let Some(framework) = self.frameworks.get(&framework_id) else {
                continue;
            };
            let Some(task) = framework.tasks.get(&task_id) else {
                continue;
            };
            let told = task.status.as_ref().map(|status| status.state());
            if told.is_some_and(convert::is_terminal) {
                // The update is known here; a framework that is away may still want to hear it.
                if framework.conn().is_some() || framework.is_removed() {
                    self.forget_task(&framework_id, &task_id);
                }
            } else if task.is_terminal() {
                let state = task.state;
                self.end_task(
                    &framework_id,
                    &task_id,
                    state,
                    Reason::AgentRestarted,
                    "the agent said so before it lost the details".to_owned(),
                );
            } else if task.status.is_none() && task.state == TaskState::TaskStaging {
                self.end_task(
                    &framework_id,
                    &task_id,
                    TaskState::TaskDropped,
                    Reason::AgentDisconnected,
                    "the launch never reached the agent: its session broke first".to_owned(),
                );
            } else {
                self.end_task(
                    &framework_id,
                    &task_id,
                    TaskState::TaskGone,
                    Reason::AgentRestarted,
                    "the agent came back without the task".to_owned(),
                );
            }
        }
    }

    /// Frameworks that only the agent knows: of an earlier registry, or removed meanwhile.
    pub(super) fn adopt_frameworks(
        &mut self,
        frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
        tasks: &BTreeMap<(FrameworkId, TaskId), Reported>,
        executors: &BTreeMap<ExecutorKey, Executor>,
    ) {
        let of_tasks = tasks.keys().map(|(framework, _)| framework);
        let of_executors = executors.keys().map(|(framework, _)| framework);
        let needed: BTreeSet<&FrameworkId> = of_tasks.chain(of_executors).collect();
        for (id, info) in frameworks {
            if self.frameworks.contains_key(&id) || !needed.contains(&id) {
                continue;
            }
            let now = self.out.now;
            let checked = Checked::new(&info).unwrap_or_else(|_| Checked {
                roles: BTreeSet::from([Role::star()]),
                min_allocatable: BTreeMap::new(),
                capabilities: Capabilities::default(),
                failover_timeout: Duration::ZERO,
            });
            let state = if self.barred.contains(&id) {
                FrameworkState::Removed { since: now }
            } else {
                let until = now + checked.failover_timeout.max(self.config.agent_timeout);
                self.timers.set(until, Timer::Failover(id.clone()));
                FrameworkState::Recovered { since: now, until }
            };
            let framework = Framework::new(id.clone(), info, checked, state);
            self.allocator.add_framework(&id, framework.spec());
            self.allocator.deactivate_framework(&id);
            self.frameworks.insert(id, framework);
        }
    }

    /// Squares what is reported with what is believed; returns tasks that must not run there.
    pub(super) fn adopt_tasks(
        &mut self,
        id: &AgentId,
        tasks: BTreeMap<(FrameworkId, TaskId), Reported>,
        was_unreachable: bool,
    ) -> Vec<(FrameworkId, TaskId)> {
        let mut strays = Vec::new();
        for ((framework_id, task_id), reported) in tasks {
            let Some(framework) = self.frameworks.get(&framework_id) else {
                continue;
            };
            match framework.tasks.get(&task_id) {
                Some(task) if task.agent != *id => strays.push((framework_id, task_id)),
                Some(_) => self.confirm_task(id, &framework_id, &task_id, &reported),
                None => {
                    self.adopt_task(id, &framework_id, task_id.clone(), reported);
                    if was_unreachable {
                        self.tell_returned(id, &framework_id, &task_id);
                    }
                }
            }
        }
        strays
    }

    fn confirm_task(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        reported: &Reported,
    ) {
        let now = self.out.now;
        let over = convert::is_terminal(reported.state);
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id) else {
            return;
        };
        if task.is_terminal() {
            return;
        }
        let returned = task.state == TaskState::TaskUnreachable;
        if task.grant.resources != reported.resources {
            // The agent knows best what it gave to the task.
            let held = framework.held.entry(task.grant.role.clone()).or_default();
            if task.holds {
                held.allocated.subtract(&task.grant.resources);
                held.allocated.add(&reported.resources);
                if let Some(agent) = self.agents.get_mut(agent_id) {
                    agent.allocated.subtract(&task.grant.resources);
                    agent.allocated.add(&reported.resources);
                }
            }
            task.grant.resources = reported.resources.clone();
        }
        if task.state != reported.state {
            task.state = reported.state;
            task.since = now;
        }
        if over {
            return self.release_task(framework_id, task_id);
        }
        if !returned {
            return;
        }
        task.holds = true;
        let held = framework.held.entry(task.grant.role.clone()).or_default();
        held.allocated.add(&task.grant.resources);
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.allocated.add(&task.grant.resources);
        }
        self.tell_returned(agent_id, framework_id, task_id);
    }

    /// The framework was told, by this master or an earlier one, that the task's agent is
    /// unreachable; nothing else would tell it that the task lives.
    fn tell_returned(&mut self, agent_id: &AgentId, framework_id: &FrameworkId, task_id: &TaskId) {
        let now = self.out.now;
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id).filter(|t| t.holds) else {
            return;
        };
        let status = master_status(
            now,
            task_id.into(),
            Some(agent_id),
            task.state,
            Reason::AgentReregistered,
            "the agent is back with the task".to_owned(),
        );
        // Beside telling the framework, this replaces what `status` said of being unreachable.
        task.status = Some(Box::new(status.clone()));
        task.unacknowledged = false;
        framework.tell(&mut self.out, status);
    }

    fn adopt_task(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        task_id: TaskId,
        reported: Reported,
    ) {
        let now = self.out.now;
        let (Some(framework), Some(agent)) = (
            self.frameworks.get_mut(framework_id),
            self.agents.get_mut(agent_id),
        ) else {
            return;
        };
        let holds = !convert::is_terminal(reported.state);
        let role = reported
            .role
            .or_else(|| framework.roles.first().cloned())
            .unwrap_or_else(Role::star);
        if holds {
            let held = framework.held.entry(role.clone()).or_default();
            held.allocated.add(&reported.resources);
            agent.allocated.add(&reported.resources);
        }
        agent.tasks.insert((framework_id.clone(), task_id.clone()));
        let task = Task {
            name: reported.name,
            executor: reported.executor,
            agent: agent_id.clone(),
            grant: Grant {
                framework: framework_id.clone(),
                role,
                resources: reported.resources,
            },
            state: reported.state,
            holds,
            since: now,
            launched_at: now,
            status: None,
            unacknowledged: false,
            kill: None,
        };
        framework.tasks.insert(task_id, task);
    }
}
