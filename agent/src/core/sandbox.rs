//! Names of containers, and where their sandboxes lie: as Mesos lays them out.

use std::fmt;

use allotment_types::{AgentId, ExecutorId, FrameworkId, TaskId};

use super::random::Random;

/// Names one run of a task or executor on this agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(std::sync::Arc<str>);

impl ContainerId {
    pub(super) fn from_random(random: &mut Random) -> Self {
        Self(random.uuid().to_string().into())
    }

    /// Reads an id that this agent once made: a uuid.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok()?;
        Some(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId {
    /// Whose framework.
    pub framework: FrameworkId,
    /// What it is the sandbox of.
    pub owner: Owner,
    /// Of which run.
    pub container: ContainerId,
}

/// What a sandbox belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A task with a container of its own.
    Task(TaskId),
    /// An executor.
    Executor(ExecutorId),
    /// A task in a group of the default executor; its sandbox lies in the executor's.
    Nested {
        /// Which task.
        task: TaskId,
        /// In which executor.
        executor: ExecutorId,
        /// Of which run of that.
        parent: ContainerId,
    },
}

impl SandboxId {
    /// The folder of an executor relative to the work folder; a command task has an executor of
    /// its own with the same id.
    pub fn executor_folder(agent: &AgentId, framework: &FrameworkId, executor: &str) -> String {
        format!("slaves/{agent}/frameworks/{framework}/executors/{executor}")
    }

    /// The folder of its executor relative to the work folder.
    pub fn runs_below(&self, agent: &AgentId) -> String {
        let executor = match &self.owner {
            Owner::Task(task) => task.as_str(),
            Owner::Executor(executor) | Owner::Nested { executor, .. } => executor.as_str(),
        };
        Self::executor_folder(agent, &self.framework, executor)
    }

    /// The sandbox relative to the work folder.
    pub fn folder(&self, agent: &AgentId) -> String {
        match self.parent_folder(agent) {
            Some(parent) => format!("{parent}/containers/{}", self.container),
            None => format!("{}/runs/{}", self.runs_below(agent), self.container),
        }
    }

    /// The sandbox that it lies in, relative to the work folder.
    pub fn parent_folder(&self, agent: &AgentId) -> Option<String> {
        match &self.owner {
            Owner::Nested { parent, .. } => {
                Some(format!("{}/runs/{parent}", self.runs_below(agent)))
            }
            Owner::Task(_) | Owner::Executor(_) => None,
        }
    }

    /// The run of the default executor that it lies in.
    pub const fn run(&self) -> Option<&ContainerId> {
        match &self.owner {
            Owner::Nested { parent, .. } => Some(parent),
            Owner::Task(_) | Owner::Executor(_) => None,
        }
    }

    /// Its task, when it is one's alone.
    pub const fn task(&self) -> Option<&TaskId> {
        match &self.owner {
            Owner::Task(task) | Owner::Nested { task, .. } => Some(task),
            Owner::Executor(_) => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) | Self::Nested { task, .. } => write!(f, "task {task}"),
            Self::Executor(executor) => write!(f, "executor {executor}"),
        }
    }
}
