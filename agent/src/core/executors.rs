//! Custom executors: begun with their first task, told of tasks, heard, and ended.
//!
//! The rules are Mesos' (`slave.cpp`): an executor that does not subscribe in time is ended, one
//! that ends takes its tasks with it (TASK_FAILED, REASON_EXECUTOR_TERMINATED), updates are
//! acknowledged to it once they are written down, and one that a restarted agent finds again
//! brings along what it has not heard an acknowledgement of.

mod calls;
mod ends;

pub(super) use ends::wait_status;

use std::collections::BTreeSet;

use allotment_proto::convert::resources_from_wire;
use allotment_proto::executor::{self, event};
use allotment_proto::mesos;
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, TaskId, Timestamp};

use super::executor::{Custom, Executor, ExecutorKey, Kind, Phase, event_of};
use super::launch::{self, Refusal};
use super::sandbox::ContainerId;
use super::task::{Host, Hosted, Task};
use super::{Core, Effect, Record, Step};

/// The largest message between an executor and its framework, in bytes.
const MESSAGE_DATA_MAX: usize = 4 << 20;

/// Why a call of an executor was refused; nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallRefusal {
    /// It does not prove that it is that executor.
    #[error("{0}")]
    Unauthorized(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is not subscribed, or must not say this now.
    #[error("{0}")]
    Forbidden(String),
    /// More waits than is kept; it may say it again later.
    #[error("{0}")]
    TooMany(String),
}

/// Where tasks come from.
#[derive(Debug)]
pub(super) struct Launcher<'a> {
    pub(super) agent: AgentId,
    pub(super) framework: FrameworkId,
    pub(super) info: &'a mesos::FrameworkInfo,
    /// Executors that the master believes to be here.
    pub(super) running: &'a [mesos::ExecutorId],
}

impl Core {
    /// Gives tasks to a custom executor, which is begun where it is not there.
    pub(super) fn launch_in_executor(
        &mut self,
        now: Timestamp,
        from: &Launcher<'_>,
        info: &mesos::ExecutorInfo,
        (tasks, is_group): (Vec<(TaskId, mesos::TaskInfo)>, bool),
        step: &mut Step,
    ) {
        let found = ExecutorId::try_from(&info.executor_id)
            .map_err(|error| Refusal::invalid(error.to_string()))
            .and_then(|id| {
                let wanted: Vec<_> = tasks
                    .iter()
                    .flat_map(|(_, t)| t.resources.clone())
                    .collect();
                let key = (from.framework.clone(), id);
                let fresh = self.find_or_begin(from, &key, info, &wanted, step)?;
                Ok((key, fresh))
            });
        let (key, fresh) = match found {
            Ok(found) => found,
            Err(refusal) => {
                for (id, task) in tasks {
                    self.refuse(now, from, (id, task), &refusal, step);
                }
                return;
            }
        };
        let group = if is_group {
            self.executors.get_mut(&key).map(Executor::take_group)
        } else {
            None
        };
        for (id, task) in tasks {
            let fitting = launch::fitting(
                &self.settings,
                &from.agent,
                from.info,
                &format!("task {id}"),
                &task,
                &self.free,
            );
            let mountable = fitting.and_then(|resources| {
                if !fresh && resources.volumes().next().is_some() {
                    return Err(Refusal::invalid(format!(
                        "task {id} asks for a persistent volume, but its executor runs already \
                         and finds no new ones; name it in the executor's first task"
                    )));
                }
                Ok(resources)
            });
            let resources = match mountable {
                Ok(resources) => resources,
                Err(refusal) => {
                    self.refuse(now, from, (id, task), &refusal, step);
                    continue;
                }
            };
            let Some(executor) = self.executors.get_mut(&key) else {
                return;
            };
            executor.tasks.insert(id.clone());
            let container = executor.container.clone();
            if let Some(custom) = executor.custom() {
                custom.queue.push_back(id.clone());
            }
            self.free.subtract(&resources.unshared());
            let hosted = Hosted::new(key.1.clone(), group);
            let (agent, framework) = (&from.agent, &from.framework);
            let task = Task::hosted(agent, framework, task, container, resources, hosted);
            self.take_on(now, (from.framework.clone(), id), task, step);
        }
        self.resize(&key, step);
        self.deliver(now, &key, step);
    }

    /// True when it is begun now.
    fn find_or_begin(
        &mut self,
        from: &Launcher<'_>,
        key: &ExecutorKey,
        info: &mesos::ExecutorInfo,
        wanted: &[mesos::Resource],
        step: &mut Step,
    ) -> Result<bool, Refusal> {
        let gone = || Refusal::executor_gone(from.info, &key.1);
        match self.executors.get(key) {
            Some(held) if held.takes_tasks() => return Ok(false),
            Some(_) => return Err(gone()),
            None if from.running.iter().any(|id| id.value == key.1.as_str()) => {
                return Err(gone());
            }
            None => {}
        }
        let container = ContainerId::from_random(&mut self.random);
        let token = self.settings.executor_token(&container);
        let held: Vec<_> = info.resources.iter().chain(wanted).cloned().collect();
        let launch = launch::plan_executor(
            &self.settings,
            &from.agent,
            from.info,
            (&key.0, &key.1, &container),
            (info, &held, &token),
            &self.free,
        )?;
        let own = resources_from_wire(&info.resources)
            .map_err(|error| Refusal::invalid(format!("executor {}: {error}", key.1)))?
            .naming_volumes_of(&self.settings.resources);
        let custom = Custom {
            held: launch.resources.clone(),
            ..Custom::new(token)
        };
        self.begin_executor(
            from,
            key,
            info,
            (container, own),
            Kind::Custom(Box::new(custom)),
            step,
        );
        step.then.push(Effect::Start(Box::new(launch)));
        Ok(true)
    }

    /// Enters an executor in the books.
    pub(super) fn begin_executor(
        &mut self,
        from: &Launcher<'_>,
        key: &ExecutorKey,
        info: &mesos::ExecutorInfo,
        (container, resources): (ContainerId, Resources),
        kind: Kind,
        step: &mut Step,
    ) {
        self.free.subtract(&resources.unshared());
        let executor = Executor {
            agent: from.agent.clone(),
            framework: key.0.clone(),
            id: key.1.clone(),
            info: info.clone(),
            container: container.clone(),
            resources,
            tasks: BTreeSet::new(),
            next_group: 0,
            kind,
        };
        step.persist.push(Record::Executor(executor.checkpoint()));
        self.executor_containers.insert(container, key.clone());
        self.executors.insert(key.clone(), executor);
        self.use_framework(&key.0);
    }

    /// Its container is to hold what it and its tasks do.
    pub(super) fn resize(&mut self, key: &ExecutorKey, step: &mut Step) {
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let mut held = executor.resources.clone();
        for task in &executor.tasks {
            if let Some(task) = self.tasks.get(&(key.0.clone(), task.clone())) {
                held.add(&task.resources().unshared());
            }
        }
        let container = executor.container.clone();
        let Some(custom) = executor.custom() else {
            return;
        };
        if custom.held != held {
            custom.held = held.clone();
            step.then.push(Effect::Resize {
                container,
                memory_bytes: launch::memory_bytes(&held),
                disk_limit_bytes: launch::disk_bytes(&held),
                resources: held,
            });
        }
    }

    /// Tells an executor of the tasks that wait for it.
    fn deliver(&mut self, now: Timestamp, key: &ExecutorKey, step: &mut Step) {
        loop {
            let Some(custom) = self.executors.get_mut(key).and_then(Executor::custom) else {
                return;
            };
            let Phase::Running { .. } = custom.phase else {
                return;
            };
            let Some(number) = custom.stream else {
                return;
            };
            let Some(first) = custom.queue.pop_front() else {
                return;
            };
            let group = self.group_of(&key.0, &first);
            let mut ids = vec![first];
            if group.is_some() {
                let queue = custom_queue(&mut self.executors, key);
                ids.extend(
                    queue
                        .into_iter()
                        .filter(|id| self.group_of(&key.0, id) == group),
                );
                if let Some(custom) = self.executors.get_mut(key).and_then(Executor::custom) {
                    custom.queue.retain(|id| !ids.contains(id));
                }
            }
            let mut infos = Vec::new();
            for id in ids {
                let key = (key.0.clone(), id);
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.change_hosted(|hosted| hosted.sent = true);
                    infos.push(task.info().clone());
                }
                self.settle(now, &key, step);
            }
            let mut event = event_of(event::Type::Launch);
            if group.is_some() {
                event = event_of(event::Type::LaunchGroup);
                let task_group = mesos::TaskGroupInfo { tasks: infos };
                event.launch_group = Some(event::LaunchGroup { task_group });
            } else {
                event.launch = infos.pop().map(|task| event::Launch { task });
            }
            say(step, number, event);
        }
    }

    fn group_of(&self, framework: &FrameworkId, task: &TaskId) -> Option<u64> {
        let task = self.tasks.get(&(framework.clone(), task.clone()))?;
        match task.host() {
            Host::Executor(hosted) => hosted.group,
            Host::Group { .. } | Host::Alone => None,
        }
    }
}

impl Executor {
    pub(super) const fn take_group(&mut self) -> u64 {
        self.next_group += 1;
        self.next_group
    }
}

fn custom_queue(
    executors: &mut std::collections::BTreeMap<ExecutorKey, Executor>,
    key: &ExecutorKey,
) -> Vec<TaskId> {
    let custom = executors.get_mut(key).and_then(Executor::custom);
    custom.map_or_else(Vec::new, |custom| custom.queue.iter().cloned().collect())
}

fn kill_event(id: &TaskId, kill_policy: Option<mesos::KillPolicy>) -> executor::Event {
    let mut event = event_of(event::Type::Kill);
    event.kill = Some(event::Kill {
        task_id: id.into(),
        kill_policy,
    });
    event
}

fn say(step: &mut Step, number: u64, event: executor::Event) {
    let event = Box::new(event);
    step.then.push(Effect::ToExecutor { number, event });
}
