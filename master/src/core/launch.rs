//! LAUNCH: tasks are checked against what their offers have left, and start.

use allotment_allocator::Grant;
use allotment_proto::allot::master_message::Message;
use allotment_proto::convert::{self, ResourceError};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, mesos};
use allotment_types::{AgentId, FrameworkId, IdError, Name, Resources, Role, Shortfall, TaskId};

use super::Core;
use super::accept::{Pool, truncated};
use super::framework::Framework;
use super::out::About;
use super::task::{Task, master_status};

/// The longest task name, in bytes.
const NAME_MAX: usize = 4096;

/// The most tasks of one framework that are live or await an acknowledgement: ten times what one
/// framework is known to run, and about 100 MB here.
const TASKS_MAX: usize = 100_000;

/// Why a task was not launched.
#[derive(Debug, thiserror::Error)]
enum TaskFault {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(
        "task id {0} is in use by a live task of this framework; kill that one first or choose \
         another id"
    )]
    Live(TaskId),
    #[error(
        "task id {0} belongs to a task that ended but whose last update is not acknowledged yet; \
         acknowledge it first or choose another id"
    )]
    Unacknowledged(TaskId),
    #[error(
        "the framework has {TASKS_MAX} tasks that are live or whose end it has not acknowledged, \
         which is the most; acknowledge updates or let tasks end first"
    )]
    TooMany,
    #[error("the name has {0} bytes; at most {NAME_MAX} are accepted")]
    Name(usize),
    #[error("the task names agent {named} but its offers are of agent {offered}; name that one")]
    Agent { named: String, offered: AgentId },
    #[error(transparent)]
    Resources(#[from] ResourceError),
    #[error("the task asks for no resources; ask for some cpus or mem")]
    NoResources,
    #[error("the task's resources are allocated to role {named} but its offers to role {offered}")]
    Role { named: String, offered: Role },
    #[error("the task does not fit into what its offers have left: {0}; shrink it or decline")]
    TooBig(String),
    #[error("the task mixes revocable and other {0}; ask for one kind")]
    Mixed(String),
    #[error("the task asks for another size than shared volume {0} has; name the volume as it is")]
    PartOfVolume(String),
    #[error("the task has no command; set `command.value`")]
    NoCommand,
    #[error("not supported yet: {0}")]
    Unsupported(&'static str),
}

impl Core {
    /// A framework that is not partition aware was told that its unreachable task is lost, so
    /// the id is its to use again; the old run is killed when its agent is back.
    fn give_up_lost(&mut self, id: &FrameworkId, task: &mesos::TaskId) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        if framework.capabilities.partition_aware {
            return;
        }
        let Ok(task_id) = TaskId::try_from(task) else {
            return;
        };
        let task = framework.tasks.get(&task_id);
        if task.is_some_and(|task| task.state == TaskState::TaskUnreachable) {
            self.forget_task(id, &task_id);
        }
    }

    /// Starts what may be started on what is left of the pool.
    pub(super) fn launch(
        &mut self,
        id: &FrameworkId,
        pool: &mut Pool,
        tasks: Vec<mesos::TaskInfo>,
    ) {
        let now = self.out.now;
        let mut launched = Vec::new();
        for mut info in tasks {
            self.give_up_lost(id, &info.task_id);
            let (Some(framework), Some(agent)) = (
                self.frameworks.get_mut(id),
                self.agents.get_mut(&pool.agent),
            ) else {
                break;
            };
            match validate(framework, pool, &info) {
                Ok((task_id, resources)) => {
                    let backed = pool.take(&resources);
                    let unbacked = resources.minus(&backed);
                    if !unbacked.is_empty() {
                        let key = (id.clone(), pool.role.clone());
                        agent.unbacked.entry(key).or_default().add(&unbacked);
                    }
                    pool.used.add(&resources);
                    agent.allocated.add(&resources);
                    agent.tasks.insert((id.clone(), task_id.clone()));
                    let held = framework.held.entry(pool.role.clone()).or_default();
                    held.allocated.add(&resources);
                    // The agent hands the role back when it registers with this task.
                    for resource in &mut info.resources {
                        resource.allocation_info = Some(mesos::resource::AllocationInfo {
                            role: Some(pool.role.as_str().to_owned()),
                        });
                    }
                    self.out.counters.tasks_launched += 1;
                    self.out.publish(
                        "task-staging",
                        About {
                            agent: Some(&pool.agent),
                            framework: Some(id),
                            task: Some(&task_id),
                        },
                        format!(
                            "task {task_id} of {} goes to {} with {resources}",
                            framework.info.name, agent.hostname
                        ),
                    );
                    let task = Task {
                        name: info.name.clone(),
                        agent: pool.agent.clone(),
                        grant: Grant {
                            framework: id.clone(),
                            role: pool.role.clone(),
                            resources,
                        },
                        state: TaskState::TaskStaging,
                        holds: true,
                        since: now,
                        launched_at: now,
                        status: None,
                        unacknowledged: false,
                        kill: None,
                    };
                    framework.tasks.insert(task_id, task);
                    launched.push(info);
                }
                Err(fault) => {
                    self.out.counters.tasks_error += 1;
                    let about = TaskId::try_from(&info.task_id).ok();
                    self.out.publish(
                        "task-error",
                        About {
                            agent: Some(&pool.agent),
                            framework: Some(id),
                            task: about.as_ref(),
                        },
                        format!(
                            "task {} of {} was refused: {fault}",
                            truncated(&info.task_id.value),
                            framework.info.name
                        ),
                    );
                    let status = master_status(
                        now,
                        info.task_id,
                        Some(&pool.agent),
                        TaskState::TaskError,
                        Reason::TaskInvalid,
                        fault.to_string(),
                    );
                    framework.tell(&mut self.out, status);
                }
            }
        }
        pool.n_launched += launched.len();
        if !launched.is_empty()
            && let Some(framework) = self.frameworks.get(id)
            && let Some(session) = self.agents.get(&pool.agent).and_then(|a| a.session())
        {
            let launch = allot::Launch {
                framework: framework.info.clone(),
                tasks: launched,
            };
            self.out.send_agent(session, Message::Launch(launch));
        }
    }
}

impl Pool {
    /// Takes what a task needs; what there was of it. Of shared volumes there may be no copy left,
    /// and yet the task gets one.
    fn take(&mut self, resources: &Resources) -> Resources {
        let mut backed = resources.clone();
        for shortfall in self.rest.shortfalls(resources) {
            backed = backed.filter(|name, lot| *name != shortfall.name || *lot != shortfall.lot);
        }
        self.rest.subtract(&backed);
        backed
    }
}

/// The id and resources of a task that may be launched.
fn validate(
    framework: &Framework,
    pool: &Pool,
    info: &mesos::TaskInfo,
) -> Result<(TaskId, Resources), TaskFault> {
    let id = TaskId::try_from(&info.task_id)?;
    if let Some(task) = framework.tasks.get(&id) {
        return Err(if task.is_terminal() {
            TaskFault::Unacknowledged(id)
        } else {
            TaskFault::Live(id)
        });
    }
    if framework.tasks.len() >= TASKS_MAX {
        return Err(TaskFault::TooMany);
    }
    if info.name.len() > NAME_MAX {
        return Err(TaskFault::Name(info.name.len()));
    }
    if info.agent_id.value != pool.agent.as_str() {
        return Err(TaskFault::Agent {
            named: truncated(&info.agent_id.value),
            offered: pool.agent.clone(),
        });
    }
    if info.executor.is_some() {
        return Err(TaskFault::Unsupported(
            "custom executors; give the task a `command` and no `executor`",
        ));
    }
    if let Some(container) = &info.container {
        let image = container.mesos.as_ref().is_some_and(|m| m.image.is_some());
        if container.r#type() == mesos::container_info::Type::Docker
            || container.docker.is_some()
            || image
        {
            return Err(TaskFault::Unsupported(
                "container images; run a program of the agent's file system",
            ));
        }
    }
    let value = info.command.as_ref().and_then(|c| c.value.as_deref());
    if value.is_none_or(str::is_empty) {
        return Err(TaskFault::NoCommand);
    }
    let resources = convert::resources_from_wire(&info.resources)?;
    let resources = resources.naming_volumes_of(&pool.rest.plus(&pool.shared));
    if resources.is_empty() {
        return Err(TaskFault::NoResources);
    }
    let named = info
        .resources
        .iter()
        .filter_map(|r| r.allocation_info.as_ref()?.role.as_deref())
        .find(|role| *role != pool.role.as_str());
    if let Some(named) = named {
        return Err(TaskFault::Role {
            named: truncated(named),
            offered: pool.role.clone(),
        });
    }
    for (name, lot, _) in resources.iter() {
        let mixed = resources
            .iter()
            .any(|(other, l, _)| other == name && l.is_revocable() != lot.is_revocable());
        if mixed {
            return Err(TaskFault::Mixed(name.as_str().to_owned()));
        }
    }
    let mut lacking = pool.rest.shortfalls(&resources.unshared());
    lacking.extend(pool.shared.shortfalls(&resources.shared()));
    for (_, lot, value) in resources.shared().iter() {
        if pool
            .shared
            .get(&Name::DISK, lot)
            .is_some_and(|v| v != value)
            && let Some(volume) = lot.volume()
        {
            return Err(TaskFault::PartOfVolume(volume.id.clone()));
        }
    }
    if !lacking.is_empty() {
        let lacking: Vec<String> = lacking.iter().map(Shortfall::to_string).collect();
        return Err(TaskFault::TooBig(lacking.join(", ")));
    }
    Ok((id, resources))
}
