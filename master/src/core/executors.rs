//! Executors that tasks share: what they hold of an agent, what is said to and by them, and
//! their ends. Those that commands bring along are none of them.
//!
//! As tasks, they are soft state: agents tell of those that live when they register. Each is here
//! exactly as long as its resources count as allocated.

use std::collections::BTreeMap;

use allotment_allocator::{Grant, Recovery};
use allotment_proto::allot::master_message::Message;
use allotment_proto::scheduler::{call, event};
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, ExecutorId, FrameworkId};

use super::Core;
use super::accept::Pool;
use super::agent::Agent;
use super::framework::Framework;
use super::out::{About, event_of};

/// The largest message between a framework and its executor, in bytes.
const MESSAGE_DATA_MAX: usize = 4 << 20;

/// An executor's framework and id.
pub(super) type ExecutorKey = (FrameworkId, ExecutorId);

/// One executor on an agent.
#[derive(Debug, Clone)]
pub(super) struct Executor {
    /// As its framework described it.
    pub(super) info: mesos::ExecutorInfo,
    /// What it holds itself, without its tasks.
    pub(super) grant: Grant,
}

/// The same description, whatever was filled in on the way.
pub(super) fn is_same(a: &mesos::ExecutorInfo, b: &mesos::ExecutorInfo) -> bool {
    let bare = |info: &mesos::ExecutorInfo| {
        let mut info = info.clone();
        info.framework_id = None;
        for resource in &mut info.resources {
            resource.allocation_info = None;
        }
        info
    };
    bare(a) == bare(b)
}

/// Fills in what a framework may leave out.
pub(super) fn completed(
    framework: &FrameworkId,
    pool: &Pool,
    mut info: mesos::ExecutorInfo,
) -> mesos::ExecutorInfo {
    info.framework_id = Some(framework.into());
    for resource in &mut info.resources {
        resource.allocation_info = Some(mesos::resource::AllocationInfo {
            role: Some(pool.role.as_str().to_owned()),
        });
    }
    info
}

/// Enters an executor in the books of its agent and framework.
fn enter(agent: &mut Agent, framework: &mut Framework, id: ExecutorId, executor: Executor) {
    let grant = &executor.grant;
    agent.allocated.add(&grant.resources);
    let held = framework.held.entry(grant.role.clone()).or_default();
    held.allocated.add(&grant.resources);
    framework.n_executors += 1;
    agent
        .executors
        .insert((grant.framework.clone(), id), executor);
}

impl Core {
    /// Begins an executor on what is left of the pool.
    pub(super) fn begin_executor(&mut self, pool: &mut Pool, id: ExecutorId, executor: Executor) {
        let key = executor.grant.framework.clone();
        let (Some(framework), Some(agent)) = (
            self.frameworks.get_mut(&key),
            self.agents.get_mut(&pool.agent),
        ) else {
            return;
        };
        pool.rest.subtract(&executor.grant.resources);
        pool.used.add(&executor.grant.resources);
        let message = format!(
            "executor {id} of {} goes to {} with {}",
            framework.info.name, agent.hostname, executor.grant.resources
        );
        let about = About {
            agent: Some(&pool.agent),
            framework: Some(&key),
            task: None,
        };
        self.out.publish("executor-added", about, message);
        enter(agent, framework, id, executor);
    }

    /// Frees what an executor holds and forgets it; false when it is not known.
    fn release_executor(&mut self, agent_id: &AgentId, key: &ExecutorKey) -> bool {
        let Some(agent) = self.agents.get_mut(agent_id) else {
            return false;
        };
        let Some(Executor { grant, .. }) = agent.executors.remove(key) else {
            return false;
        };
        agent.allocated.subtract(&grant.resources);
        let allocatable = agent.is_allocatable() && !grant.resources.is_empty();
        if let Some(framework) = self.frameworks.get_mut(&key.0) {
            framework.n_executors = framework.n_executors.saturating_sub(1);
            if let Some(held) = framework.held.get_mut(&grant.role) {
                held.allocated.subtract(&grant.resources);
            }
        }
        if allocatable {
            let now = self.out.now;
            self.allocator
                .recover(now, agent_id, &grant, Recovery::Ended);
            self.offers.want_round();
        }
        true
    }

    /// Every executor of an agent is out of sight, or gone.
    pub(super) fn release_executors(&mut self, agent: &AgentId) {
        let known = self.agents.get(agent).map(|a| &a.executors);
        let keys: Vec<ExecutorKey> = known
            .into_iter()
            .flatten()
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            self.release_executor(agent, &key);
            self.finish_if_over(&key.0);
        }
    }

    /// A removed framework is done with once nothing of it is left.
    fn finish_if_over(&mut self, id: &FrameworkId) {
        if self.frameworks.get(id).is_some_and(Framework::is_over) {
            self.finish_removal(id);
        }
    }

    pub(super) fn on_executor_ended(&mut self, agent: &AgentId, ended: &allot::ExecutorEnded) {
        let (Ok(framework), Ok(executor)) = (
            FrameworkId::try_from(&ended.framework_id),
            ExecutorId::try_from(&ended.executor_id),
        ) else {
            self.out.counters.updates_invalid += 1;
            return;
        };
        let key = (framework, executor);
        if !self.release_executor(agent, &key) {
            return;
        }
        let about = About {
            agent: Some(agent),
            framework: Some(&key.0),
            task: None,
        };
        let name = self.framework_name(&key.0);
        let message = format!("executor {} of {name} ended", key.1);
        self.out.publish("executor-removed", about, message);
        if let Some(conn) = self.frameworks.get(&key.0).and_then(Framework::conn) {
            let mut event = event_of(event::Type::Failure);
            event.failure = Some(Box::new(event::Failure {
                agent_id: Some(agent.into()),
                executor_id: Some((&key.1).into()),
                // Clients that look for it must find one.
                status: Some(ended.status.unwrap_or(-1)),
            }));
            self.out.send_framework(conn, event);
        }
        self.finish_if_over(&key.0);
    }

    /// From an executor to its framework; nobody is told when it gets lost.
    pub(super) fn on_executor_message(&mut self, agent: &AgentId, said: allot::ExecutorMessage) {
        let conn = FrameworkId::try_from(&said.framework_id)
            .ok()
            .and_then(|id| self.frameworks.get(&id))
            .and_then(Framework::conn);
        if let Some(conn) = conn
            && said.data.len() <= MESSAGE_DATA_MAX
        {
            let mut event = event_of(event::Type::Message);
            event.message = Some(Box::new(event::Message {
                agent_id: agent.into(),
                executor_id: said.executor_id,
                data: said.data,
            }));
            self.out.send_framework(conn, event);
        }
    }

    /// MESSAGE, from a framework to its executor.
    pub(super) fn on_message_call(
        &mut self,
        id: &FrameworkId,
        said: call::Message,
    ) -> Result<(), String> {
        if said.data.len() > MESSAGE_DATA_MAX {
            return Err(format!(
                "the message has {} bytes; at most {MESSAGE_DATA_MAX} are passed on",
                said.data.len()
            ));
        }
        let agent = self.agent_of_executor(id, &said.agent_id, &said.executor_id)?;
        let session = self.agents.get(&agent).and_then(Agent::session);
        if let Some(session) = session {
            let message = allot::ExecutorMessage {
                framework_id: id.into(),
                executor_id: said.executor_id,
                data: said.data,
            };
            self.out
                .send_agent(session, Message::ExecutorMessage(message));
        }
        Ok(())
    }

    /// SHUTDOWN of an executor by its framework.
    pub(super) fn on_shutdown_call(
        &mut self,
        id: &FrameworkId,
        shutdown: &scheduler::call::Shutdown,
    ) -> Result<(), String> {
        let agent = self.agent_of_executor(id, &shutdown.agent_id, &shutdown.executor_id)?;
        let key = (
            id.clone(),
            ExecutorId::try_from(&shutdown.executor_id).map_err(|e| e.to_string())?,
        );
        self.shut_down_executor(&agent, &key);
        Ok(())
    }

    fn agent_of_executor(
        &self,
        framework: &FrameworkId,
        agent: &mesos::AgentId,
        executor: &mesos::ExecutorId,
    ) -> Result<AgentId, String> {
        let agent_id = AgentId::try_from(agent).map_err(|e| e.to_string())?;
        let executor = ExecutorId::try_from(executor).map_err(|e| e.to_string())?;
        let agent = self.agents.get(&agent_id);
        let key = (framework.clone(), executor);
        if agent.is_some_and(|agent| agent.executors.contains_key(&key)) {
            return Ok(agent_id);
        }
        Err(format!(
            "the framework has no executor {} on agent {agent_id}; it may have ended",
            key.1
        ))
    }

    fn shut_down_executor(&mut self, agent: &AgentId, key: &ExecutorKey) {
        let session = self.agents.get(agent).and_then(Agent::session);
        if let Some(session) = session {
            let shutdown = allot::ShutdownExecutor {
                framework_id: (&key.0).into(),
                executor_id: (&key.1).into(),
            };
            self.out
                .send_agent(session, Message::ShutdownExecutor(shutdown));
        }
    }

    /// Ends the executors of a framework that is removed, where they can be told.
    pub(super) fn shut_down_executors_of(&mut self, id: &FrameworkId) {
        let agents = self.agents.iter();
        let theirs: Vec<(AgentId, ExecutorKey)> = agents
            .flat_map(|(agent, held)| {
                let keys = held.executors.keys().filter(|key| key.0 == *id);
                keys.map(|key| (agent.clone(), key.clone()))
            })
            .collect();
        for (agent, key) in theirs {
            self.shut_down_executor(&agent, &key);
        }
    }

    /// Squares the executors that an agent reports with those that are believed to be there.
    pub(super) fn adopt_executors(
        &mut self,
        id: &AgentId,
        reported: BTreeMap<ExecutorKey, Executor>,
    ) {
        let known = self.agents.get(id).map(|a| &a.executors);
        let known: Vec<ExecutorKey> = known
            .into_iter()
            .flatten()
            .map(|(k, _)| k.clone())
            .collect();
        for key in known {
            // What is still there is entered anew, as the agent says.
            self.release_executor(id, &key);
            if !reported.contains_key(&key) {
                self.finish_if_over(&key.0);
            }
        }
        let mut unwanted = Vec::new();
        for (key, executor) in reported {
            let (Some(framework), Some(agent)) =
                (self.frameworks.get_mut(&key.0), self.agents.get_mut(id))
            else {
                continue;
            };
            if framework.is_removed() {
                unwanted.push(key.clone());
            }
            let role = executor.grant.role.clone();
            let role = if framework.roles.contains(&role) || !executor.grant.resources.is_empty() {
                role
            } else {
                framework.roles.first().cloned().unwrap_or(role)
            };
            let executor = Executor {
                grant: Grant {
                    role,
                    ..executor.grant
                },
                ..executor
            };
            enter(agent, framework, key.1, executor);
        }
        for key in unwanted {
            self.shut_down_executor(id, &key);
        }
    }
}
