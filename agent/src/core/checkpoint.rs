//! What an agent wrote down, read again: records folded into what they amount to.
//!
//! A record that cannot be understood costs what it said and nothing else: it is reported, and
//! the rest counts. Where records lie and how they are guarded is left to the edge.

use std::collections::{BTreeMap, BTreeSet};

use allotment_proto::convert::{resources_from_wire, resources_to_wire};
use allotment_proto::{allot, mesos};
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, TaskId};

use super::Key;
use super::confinement::Confinement;
use super::executor::{ExecutorKey, is_default};
use super::io::Record;
use super::nested::{self, Nesting};
use super::sandbox::{ContainerId, Owner, SandboxId};
use super::task::{Host, Hosted};

/// The state of an agent as its records tell it.
#[derive(Debug, Default)]
pub struct Checkpoint {
    agent: Option<AgentId>,
    /// Of the machine when it was written; empty: nothing was.
    boot_id: String,
    resources: Option<Resources>,
    frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
    tasks: BTreeMap<Key, Saved>,
    executors: BTreeMap<ExecutorKey, SavedExecutor>,
    nested: BTreeMap<ContainerId, nested::Entry>,
}

/// A task as it was when the agent ended.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) agent: AgentId,
    pub(super) framework: FrameworkId,
    pub(super) info: mesos::TaskInfo,
    pub(super) container: ContainerId,
    pub(super) progress: allot::TaskProgress,
    pub(super) host: Host,
}

/// An executor as it was when the agent ended.
#[derive(Debug, Clone)]
pub(super) struct SavedExecutor {
    pub(super) agent: AgentId,
    pub(super) info: mesos::ExecutorInfo,
    pub(super) container: ContainerId,
    /// Of a custom one.
    pub(super) token: Option<String>,
    pub(super) progress: Option<allot::ExecutorProgress>,
}

/// A container that an earlier run started, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its name.
    pub container: ContainerId,
    /// Its sandbox, relative to the work folder; of a nested one, that of the topmost above it.
    pub sandbox: String,
    /// The run of the default executor that it belongs to.
    pub run: Option<ContainerId>,
    /// Set for a nested one.
    pub nested: Option<Nesting>,
    /// Bytes of disk it was granted; `None`: not counted.
    pub disk_limit_bytes: Option<u64>,
}

impl Checkpoint {
    /// Takes in the next record.
    ///
    /// # Errors
    /// What cannot be understood and what becomes of it, as a sentence.
    pub fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Agent(agent) => {
                self.boot_id = agent.boot_id;
                let resources = resources_from_wire(&agent.resources)
                    .map_err(|error| format!("the recorded resources make no sense: {error}"))?;
                self.resources = Some(resources);
                if let Some(id) = &agent.agent_id {
                    let id = AgentId::try_from(id)
                        .map_err(|error| format!("the recorded agent id is none: {error}"))?;
                    self.agent = Some(id);
                }
            }
            Record::Framework(framework) => {
                let info = framework.framework;
                let id = info
                    .id
                    .as_ref()
                    .ok_or("a framework is recorded without its id; its tasks are ended")?;
                let id = FrameworkId::try_from(id).map_err(|error| error.to_string())?;
                self.frameworks.insert(id, info);
            }
            Record::Task(task) => {
                let key = key(&task.framework_id, &task.task.task_id)?;
                let agent = AgentId::try_from(&task.agent_id).map_err(|error| error.to_string())?;
                let container = ContainerId::parse(&task.container_id).ok_or_else(|| {
                    format!(
                        "task {} is recorded with a container id that is none: {:?}; it is ended",
                        key.1, task.container_id
                    )
                })?;
                let progress = allot::TaskProgress {
                    framework_id: task.framework_id,
                    task_id: task.task.task_id.clone(),
                    phase: allot::task_progress::Phase::Starting.into(),
                    state: mesos::TaskState::TaskStaging.into(),
                    ..Default::default()
                };
                let saved = Saved {
                    agent,
                    framework: key.0.clone(),
                    host: host(&task.task, task.group, task.parent_container_id.as_deref())?,
                    info: task.task,
                    container,
                    progress,
                };
                self.tasks.insert(key, saved);
            }
            Record::Progress(progress) => {
                let key = key(&progress.framework_id, &progress.task_id)?;
                self.task(&key)?.progress = progress;
            }
            Record::Acknowledged(acknowledged) => {
                let key = key(&acknowledged.framework_id, &acknowledged.task_id)?;
                let pending = &mut self.task(&key)?.progress.pending;
                pending.retain(|status| status.uuid.as_ref() != Some(&acknowledged.uuid));
            }
            Record::Over(over) => {
                self.tasks.remove(&key(&over.framework_id, &over.task_id)?);
            }
            Record::Executor(executor) => {
                let info = executor.executor;
                let key = executor_key(&executor.framework_id, &info.executor_id)?;
                let agent =
                    AgentId::try_from(&executor.agent_id).map_err(|error| error.to_string())?;
                let container = ContainerId::parse(&executor.container_id).ok_or_else(|| {
                    format!(
                        "executor {} is recorded with a container id that is none: {:?}; it is \
                         ended",
                        key.1, executor.container_id
                    )
                })?;
                let saved = SavedExecutor {
                    agent,
                    info,
                    container,
                    token: executor.token,
                    progress: None,
                };
                self.executors.insert(key, saved);
            }
            Record::ExecutorProgress(progress) => {
                let key = executor_key(&progress.framework_id, &progress.executor_id)?;
                let executor = self.executors.get_mut(&key).ok_or_else(|| {
                    format!(
                        "something is recorded of executor {} of framework {}, but not the \
                         executor itself; it is ended",
                        key.1, key.0
                    )
                })?;
                executor.progress = Some(progress);
            }
            Record::ExecutorOver(over) => {
                let key = executor_key(&over.framework_id, &over.executor_id)?;
                self.executors.remove(&key);
            }
            Record::Nested(nested) => {
                let (container, entry) = nested::Entry::recovered(nested)?;
                self.nested.insert(container, entry);
            }
            Record::NestedEnded(ended) => {
                let container = ContainerId::parse(&ended.container_id);
                let entry = container.and_then(|id| self.nested.get_mut(&id));
                let entry = entry.ok_or_else(|| {
                    format!(
                        "the end of nested container {:?} is recorded, but not the container; it \
                         is forgotten",
                        ended.container_id
                    )
                })?;
                entry.has_ended(ended);
            }
            Record::NestedOver(over) => {
                if let Some(container) = ContainerId::parse(&over.container_id) {
                    self.nested.remove(&container);
                }
            }
        }
        Ok(())
    }

    fn task(&mut self, key: &Key) -> Result<&mut Saved, String> {
        self.tasks.get_mut(key).ok_or_else(|| {
            format!(
                "something is recorded of task {} of framework {}, but not the task itself; the \
                 master will say that it is lost",
                key.1, key.0
            )
        })
    }

    /// The agent's id, once a master gave it one.
    pub const fn agent(&self) -> Option<&AgentId> {
        self.agent.as_ref()
    }

    /// Keeps an id that was remembered elsewhere, where the records hold none.
    pub fn or_agent(&mut self, agent: Option<AgentId>) {
        if self.agent.is_none() {
            self.agent = agent;
        }
    }

    /// What the agent had.
    pub const fn resources(&self) -> Option<&Resources> {
        self.resources.as_ref()
    }

    /// What its tasks and executors hold; of a shared volume, one copy.
    pub fn held(&self) -> Resources {
        let total = self.resources.clone().unwrap_or_default();
        let mut held = Resources::EMPTY;
        for executor in self.executors.values() {
            held.add(&executor.resources().naming_volumes_of(&total));
        }
        for saved in self.tasks.values().filter(|saved| saved.is_live()) {
            let resources = saved.resources().naming_volumes_of(&total);
            held.add(&resources.unshared());
            let shared = resources.shared();
            held.add(&shared.minus(&held));
        }
        held
    }

    /// The containers that may be there.
    pub fn containers(&self) -> Vec<Earlier> {
        let live = self.tasks.iter().filter(|(_, saved)| saved.is_live());
        let tasks = live.filter_map(|((framework, task), saved)| {
            let owner = match &saved.host {
                Host::Alone => Owner::Task(task.clone()),
                Host::Group {
                    executor, parent, ..
                } => Owner::Nested {
                    task: task.clone(),
                    executor: executor.clone(),
                    parent: parent.clone(),
                },
                Host::Executor(_) => return None,
            };
            let sandbox = SandboxId {
                framework: framework.clone(),
                owner,
                container: saved.container.clone(),
            };
            Some(Earlier {
                container: saved.container.clone(),
                sandbox: sandbox.folder(&saved.agent),
                run: sandbox.run().cloned(),
                nested: None,
                disk_limit_bytes: Confinement::disk_limit(&saved.info),
            })
        });
        let custom = self.executors.iter().filter(|(_, e)| e.token.is_some());
        let executors = custom.map(|((framework, executor), saved)| {
            let sandbox = SandboxId {
                framework: framework.clone(),
                owner: Owner::Executor(executor.clone()),
                container: saved.container.clone(),
            };
            Earlier {
                container: saved.container.clone(),
                sandbox: sandbox.folder(&saved.agent),
                run: None,
                nested: None,
                disk_limit_bytes: None,
            }
        });
        let nested = self.nested.iter().filter(|(_, entry)| entry.is_live());
        let nested = nested.map(|(container, entry)| Earlier {
            container: container.clone(),
            sandbox: entry.sandbox.clone(),
            run: None,
            nested: Some(entry.nesting.clone()),
            disk_limit_bytes: None,
        });
        tasks.chain(executors).chain(nested).collect()
    }

    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Frameworks, executors and tasks; those of a framework whose record is lost come with what
    /// is known of it, its id.
    pub(super) fn into_parts(self) -> Parts {
        let Self {
            mut frameworks,
            tasks,
            executors,
            nested,
            ..
        } = self;
        let owners: BTreeSet<&FrameworkId> = tasks
            .keys()
            .map(|(framework, _)| framework)
            .chain(executors.keys().map(|(framework, _)| framework))
            .collect();
        for framework in &owners {
            let nameless = || mesos::FrameworkInfo {
                id: Some((*framework).into()),
                ..Default::default()
            };
            frameworks
                .entry((*framework).clone())
                .or_insert_with(nameless);
        }
        frameworks.retain(|id, _| owners.contains(id));
        Parts {
            frameworks,
            executors,
            tasks,
            nested,
        }
    }
}

/// What a checkpoint holds.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
    pub(super) executors: BTreeMap<ExecutorKey, SavedExecutor>,
    pub(super) tasks: BTreeMap<Key, Saved>,
    pub(super) nested: BTreeMap<ContainerId, nested::Entry>,
}

impl SavedExecutor {
    /// Its own, which were accepted.
    pub(super) fn resources(&self) -> Resources {
        resources_from_wire(&self.info.resources).unwrap_or_default()
    }
}

/// What a recorded task runs in.
fn host(task: &mesos::TaskInfo, group: Option<u64>, parent: Option<&str>) -> Result<Host, String> {
    let Some(info) = &task.executor else {
        return Ok(Host::Alone);
    };
    let executor = ExecutorId::try_from(&info.executor_id)
        .map_err(|error| format!("task {} is recorded with {error}", task.task_id.value))?;
    match (is_default(info), group, parent.and_then(ContainerId::parse)) {
        (true, Some(group), Some(parent)) => Ok(Host::Group {
            executor,
            group,
            parent,
        }),
        (true, ..) => Err(format!(
            "task {} is recorded without its group; it is ended",
            task.task_id.value
        )),
        (false, ..) => Ok(Host::Executor(Hosted::new(executor, group))),
    }
}

fn executor_key(
    framework: &mesos::FrameworkId,
    executor: &mesos::ExecutorId,
) -> Result<ExecutorKey, String> {
    let framework = FrameworkId::try_from(framework)
        .map_err(|error| format!("something is recorded of a framework without a name: {error}"))?;
    let executor = ExecutorId::try_from(executor)
        .map_err(|error| format!("something is recorded of an executor without a name: {error}"))?;
    Ok((framework, executor))
}

impl Saved {
    fn is_live(&self) -> bool {
        self.progress.phase() != allot::task_progress::Phase::Ended
    }

    /// What it holds while it is live; it was accepted with resources that make sense.
    pub(super) fn resources(&self) -> Resources {
        if self.is_live() {
            resources_from_wire(&self.info.resources).unwrap_or_default()
        } else {
            Resources::EMPTY
        }
    }
}

/// The record of the agent itself.
pub(super) fn agent_record(
    agent: Option<&AgentId>,
    boot_id: &str,
    resources: &Resources,
) -> Record {
    Record::Agent(allot::AgentCheckpoint {
        agent_id: agent.map(Into::into),
        boot_id: boot_id.to_owned(),
        resources: resources_to_wire(resources, None),
    })
}

fn key(framework: &mesos::FrameworkId, task: &mesos::TaskId) -> Result<Key, String> {
    let framework = FrameworkId::try_from(framework)
        .map_err(|error| format!("something is recorded of a framework without a name: {error}"))?;
    let task = TaskId::try_from(task)
        .map_err(|error| format!("something is recorded of a task without a name: {error}"))?;
    Ok((framework, task))
}
