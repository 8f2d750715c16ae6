//! What an agent wrote down, read again: records folded into what they amount to.
//!
//! A record that cannot be understood costs what it said and nothing else: it is reported, and
//! the rest counts. Where records lie and how they are guarded is left to the edge.

use std::collections::BTreeMap;

use allotment_proto::convert::{resources_from_wire, resources_to_wire};
use allotment_proto::{allot, mesos};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId};

use super::Key;
use super::confinement::Confinement;
use super::io::Record;
use super::launch::{ContainerId, SandboxId};

/// The state of an agent as its records tell it.
#[derive(Debug, Default)]
pub struct Checkpoint {
    agent: Option<AgentId>,
    /// Of the machine when it was written; empty: nothing was.
    boot_id: String,
    resources: Option<Resources>,
    frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
    tasks: BTreeMap<Key, Saved>,
}

/// A task as it was when the agent ended.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) agent: AgentId,
    pub(super) framework: FrameworkId,
    pub(super) info: mesos::TaskInfo,
    pub(super) container: ContainerId,
    pub(super) progress: allot::TaskProgress,
}

/// A container that an earlier run started, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its name.
    pub container: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// The agent's id when it was launched.
    pub agent: AgentId,
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

    /// What its tasks hold; of a shared volume, one copy.
    pub fn held(&self) -> Resources {
        let total = self.resources.clone().unwrap_or_default();
        let mut held = Resources::EMPTY;
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
        live.map(|((framework, task), saved)| Earlier {
            container: saved.container.clone(),
            sandbox: SandboxId {
                framework: framework.clone(),
                task: task.clone(),
                container: saved.container.clone(),
            },
            agent: saved.agent.clone(),
            disk_limit_bytes: Confinement::disk_limit(&saved.info),
        })
        .collect()
    }

    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Frameworks and tasks; those of a framework whose record is lost come with what is known
    /// of it, its id.
    pub(super) fn into_parts(
        self,
    ) -> (
        BTreeMap<FrameworkId, mesos::FrameworkInfo>,
        BTreeMap<Key, Saved>,
    ) {
        let Self {
            mut frameworks,
            tasks,
            ..
        } = self;
        for (framework, _) in tasks.keys() {
            let nameless = || mesos::FrameworkInfo {
                id: Some(framework.into()),
                ..Default::default()
            };
            frameworks.entry(framework.clone()).or_insert_with(nameless);
        }
        frameworks.retain(|id, _| tasks.keys().any(|(framework, _)| framework == id));
        (frameworks, tasks)
    }
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
