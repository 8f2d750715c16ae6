//! LAUNCH and LAUNCH_GROUP: tasks are checked against what their offers have left, and start.

use std::collections::BTreeSet;

use allotment_allocator::Grant;
use allotment_proto::allot::master_message::Message;
use allotment_proto::convert::{self, ResourceError};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::offer::operation;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, mesos};
use allotment_types::{
    AgentId, ExecutorId, FrameworkId, IdError, Name, Resources, Role, Shortfall, TaskId,
};

use super::Core;
use super::accept::{Pool, truncated};
use super::agent::Agent;
use super::executors::{self, Executor};
use super::framework::Framework;
use super::operations::OperationFault;
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
    #[error("the task has no command; set `command.value`, or give it an `executor`")]
    NoCommand,
    #[error("the task has a command and an executor; give it one of them")]
    CommandAndExecutor,
    #[error("the task's executor is not that of its group; leave `executor` out of the tasks")]
    OtherExecutor,
    #[error("resource limits of a task in a group take `share_cgroups` set to false")]
    LimitsInGroup,
    #[error("task {0} is named twice in the group; name it once")]
    Twice(TaskId),
    #[error(
        "the executor is of type DEFAULT, which runs groups; use LAUNCH_GROUP, or give the task a \
         `command`"
    )]
    DefaultOutsideGroup,
    #[error("the executor has no command; set `command.value`, or type DEFAULT in a group")]
    ExecutorNoCommand,
    #[error("the executor is of type DEFAULT and has a command; leave the command out")]
    DefaultWithCommand,
    #[error("the executor's type is not set; set DEFAULT or CUSTOM")]
    ExecutorType,
    #[error("the executor names framework {named}, but this is framework {own}; leave it out")]
    ExecutorFramework { named: String, own: FrameworkId },
    #[error(
        "executor {0} runs already and is described differently; describe it the same, or choose \
         another id"
    )]
    ExecutorDiffers(ExecutorId),
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
        let mut launched = Vec::with_capacity(tasks.len());
        let mut last = Resources::EMPTY;
        let mut begun = BTreeSet::new();
        let mut running = BTreeSet::new();
        for mut info in tasks {
            self.give_up_lost(id, &info.task_id);
            let checked = match (self.frameworks.get(id), self.agents.get(&pool.agent)) {
                (Some(framework), Some(agent)) => single(framework, agent, pool, &info),
                _ => break,
            };
            let Single {
                mut asked,
                executor,
            } = match checked {
                Ok(checked) => checked,
                Err(fault) => {
                    self.refuse_task(id, pool, info, Reason::TaskInvalid, &fault.to_string());
                    continue;
                }
            };
            // Tasks are launched by the hundred and ask for the same: one bundle for all.
            if asked.resources == last {
                asked.resources = last.clone();
            }
            last = asked.resources.clone();
            if let Some((executor_id, new)) = executor {
                info.executor = info
                    .executor
                    .map(|e| Box::new(executors::completed(id, pool, *e)));
                match new {
                    Some(executor) => {
                        begun.insert(executor_id.clone());
                        self.begin_executor(pool, executor_id, executor);
                    }
                    None if begun.contains(&executor_id) => {}
                    None => {
                        running.insert(executor_id);
                    }
                }
            }
            launched.extend(self.enter_task(id, pool, info, asked));
        }
        pool.n_launched += launched.len();
        let launch = allot::Launch {
            tasks: launched,
            running_executors: running.iter().map(mesos::ExecutorId::from).collect(),
            ..Default::default()
        };
        self.send_launch(id, pool, launch);
    }

    /// Starts all tasks of a group, or none.
    ///
    /// # Errors
    /// A sentence when there is no task that could be told of.
    pub(super) fn launch_group(
        &mut self,
        id: &FrameworkId,
        pool: &mut Pool,
        group: operation::LaunchGroup,
    ) -> Result<(), OperationFault> {
        let tasks = group.task_group.tasks;
        if tasks.is_empty() {
            return Err(OperationFault::EmptyGroup);
        }
        for task in &tasks {
            self.give_up_lost(id, &task.task_id);
        }
        let checked = match (self.frameworks.get(id), self.agents.get(&pool.agent)) {
            (Some(framework), Some(agent)) => {
                together(framework, agent, pool, (&group.executor, &tasks))
            }
            _ => return Ok(()),
        };
        let (asked, (executor_id, new)) = match checked {
            Ok(checked) => checked,
            Err(message) => {
                for task in tasks {
                    self.refuse_task(id, pool, task, Reason::TaskGroupInvalid, &message);
                }
                return Ok(());
            }
        };
        let executor = executors::completed(id, pool, group.executor);
        let mut running = Vec::new();
        match new {
            Some(new) => self.begin_executor(pool, executor_id, new),
            None => running.push((&executor_id).into()),
        }
        let mut launched = Vec::with_capacity(tasks.len());
        for (mut info, asked) in tasks.into_iter().zip(asked) {
            info.executor = Some(Box::new(executor.clone()));
            launched.extend(self.enter_task(id, pool, info, asked));
        }
        pool.n_launched += launched.len();
        let launch = allot::Launch {
            tasks: launched,
            group_executor: Some(Box::new(executor)),
            running_executors: running,
            ..Default::default()
        };
        self.send_launch(id, pool, launch);
        Ok(())
    }

    fn send_launch(&mut self, id: &FrameworkId, pool: &Pool, launch: allot::Launch) {
        if !launch.tasks.is_empty()
            && let Some(framework) = self.frameworks.get(id)
            && let Some(session) = self.agents.get(&pool.agent).and_then(|a| a.session())
        {
            let launch = allot::Launch {
                framework: framework.info.clone(),
                ..launch
            };
            self.out.send_agent(session, Message::Launch(launch));
        }
    }

    /// Enters a task in the books; as it goes to its agent.
    fn enter_task(
        &mut self,
        id: &FrameworkId,
        pool: &mut Pool,
        mut info: mesos::TaskInfo,
        asked: Asked,
    ) -> Option<mesos::TaskInfo> {
        let now = self.out.now;
        let framework = self.frameworks.get_mut(id)?;
        let agent = self.agents.get_mut(&pool.agent)?;
        let Asked {
            id: task_id,
            resources,
        } = asked;
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
        let executor = info.executor.as_ref().map(|e| &e.executor_id);
        let task = Task {
            name: info.name.clone(),
            executor: executor.and_then(|id| ExecutorId::try_from(id).ok()),
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
        Some(info)
    }

    fn refuse_task(
        &mut self,
        id: &FrameworkId,
        pool: &Pool,
        info: mesos::TaskInfo,
        reason: Reason,
        message: &str,
    ) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
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
                "task {} of {} was refused: {message}",
                truncated(&info.task_id.value),
                framework.info.name
            ),
        );
        let status = master_status(
            self.out.now,
            info.task_id,
            Some(&pool.agent),
            TaskState::TaskError,
            reason,
            message.to_owned(),
        );
        framework.tell(&mut self.out, status);
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

/// A task that makes sense by itself, and what it asks for.
#[derive(Debug)]
struct Asked {
    id: TaskId,
    resources: Resources,
}

/// The executor that a task or group asks for; with its place in the books when it is new.
type Named = (ExecutorId, Option<Executor>);

/// A task that may be launched by itself.
#[derive(Debug)]
struct Single {
    asked: Asked,
    executor: Option<Named>,
}

/// Checks a task of a LAUNCH.
fn single(
    framework: &Framework,
    agent: &Agent,
    pool: &Pool,
    info: &mesos::TaskInfo,
) -> Result<Single, TaskFault> {
    let asked = validate(framework, pool, info)?;
    let value = info.command.as_ref().and_then(|c| c.value.as_deref());
    let has_command = value.is_some_and(|value| !value.is_empty());
    let executor = match &info.executor {
        Some(_) if info.command.is_some() => return Err(TaskFault::CommandAndExecutor),
        Some(executor) if is_default(executor) => return Err(TaskFault::DefaultOutsideGroup),
        Some(executor) => Some(named(framework, agent, pool, executor)?),
        None if !has_command => return Err(TaskFault::NoCommand),
        None => None,
    };
    let new = executor.as_ref().and_then(|(_, new)| new.as_ref());
    let mut needed = asked.resources.unshared();
    if let Some(new) = new {
        needed.add(&new.grant.resources);
    }
    if asked.resources.is_empty() && (info.executor.is_none() || needed.is_empty()) {
        return Err(TaskFault::NoResources);
    }
    fits(pool, &needed, [&asked])?;
    Ok(Single { asked, executor })
}

/// Checks the tasks of a LAUNCH_GROUP; the sentence for all of them when one cannot be.
fn together(
    framework: &Framework,
    agent: &Agent,
    pool: &Pool,
    (executor, tasks): (&mesos::ExecutorInfo, &[mesos::TaskInfo]),
) -> Result<(Vec<Asked>, Named), String> {
    let group = |fault: TaskFault| format!("the group cannot be launched: {fault}");
    if executor.r#type() == mesos::executor_info::Type::Unknown {
        return Err(group(TaskFault::ExecutorType));
    }
    let named = named(framework, agent, pool, executor).map_err(group)?;
    let mut needed = Resources::EMPTY;
    if let Some(new) = &named.1 {
        needed.add(&new.grant.resources);
    }
    let mut all: Vec<Asked> = Vec::with_capacity(tasks.len());
    for info in tasks {
        let of_this = |fault: TaskFault| {
            let id = truncated(&info.task_id.value);
            format!("Task '{id}' is invalid: {fault}")
        };
        let asked = validate(framework, pool, info).map_err(of_this)?;
        if all.iter().any(|other| other.id == asked.id) {
            return Err(group(TaskFault::Twice(asked.id)));
        }
        in_group(executor, info).map_err(of_this)?;
        needed.add(&asked.resources.unshared());
        all.push(asked);
    }
    fits(pool, &needed, &all).map_err(group)?;
    Ok((all, named))
}

/// What holds for tasks of groups alone.
fn in_group(executor: &mesos::ExecutorInfo, info: &mesos::TaskInfo) -> Result<(), TaskFault> {
    let other = |own: &mesos::ExecutorInfo| !executors::is_same(own, executor);
    if info.executor.as_deref().is_some_and(other) {
        return Err(TaskFault::OtherExecutor);
    }
    let value = info.command.as_ref().and_then(|c| c.value.as_deref());
    if is_default(executor) && value.is_none_or(str::is_empty) {
        return Err(TaskFault::NoCommand);
    }
    let linux = info.container.as_ref().and_then(|c| c.linux_info.as_ref());
    let own_cgroups = linux.is_some_and(|linux| linux.share_cgroups == Some(false));
    if !info.limits.is_empty() && !own_cgroups {
        return Err(TaskFault::LimitsInGroup);
    }
    if info.resources.is_empty() {
        return Err(TaskFault::NoResources);
    }
    Ok(())
}

fn is_default(executor: &mesos::ExecutorInfo) -> bool {
    executor.r#type() == mesos::executor_info::Type::Default
}

/// Checks an executor's description, against the one that runs where it does.
fn named(
    framework: &Framework,
    agent: &Agent,
    pool: &Pool,
    info: &mesos::ExecutorInfo,
) -> Result<Named, TaskFault> {
    let id = ExecutorId::try_from(&info.executor_id)?;
    let foreign = info
        .framework_id
        .as_ref()
        .filter(|f| f.value != framework.id.as_str());
    if let Some(foreign) = foreign {
        return Err(TaskFault::ExecutorFramework {
            named: truncated(&foreign.value),
            own: framework.id.clone(),
        });
    }
    let name = info.name.as_deref().unwrap_or_default();
    if name.len() > NAME_MAX {
        return Err(TaskFault::Name(name.len()));
    }
    let value = info.command.as_ref().and_then(|c| c.value.as_deref());
    match (is_default(info), value) {
        (true, _) if info.command.is_some() => return Err(TaskFault::DefaultWithCommand),
        (false, None | Some("")) => return Err(TaskFault::ExecutorNoCommand),
        _ => {}
    }
    no_image(info.container.as_ref())?;
    let key = (framework.id.clone(), id);
    if let Some(known) = agent.executors.get(&key) {
        return if executors::is_same(&known.info, info) {
            Ok((key.1, None))
        } else {
            Err(TaskFault::ExecutorDiffers(key.1))
        };
    }
    let resources = checked_resources(pool, &info.resources)?;
    if !resources.shared().is_empty() {
        return Err(TaskFault::Unsupported(
            "shared volumes of an executor's own; give them to its tasks",
        ));
    }
    let executor = Executor {
        info: executors::completed(&framework.id, pool, info.clone()),
        grant: Grant {
            framework: framework.id.clone(),
            role: pool.role.clone(),
            resources,
        },
    };
    Ok((key.1, Some(executor)))
}

/// A task that makes sense by itself; whether its offers suffice is not looked at.
fn validate(
    framework: &Framework,
    pool: &Pool,
    info: &mesos::TaskInfo,
) -> Result<Asked, TaskFault> {
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
    no_image(info.container.as_deref())?;
    let resources = checked_resources(pool, &info.resources)?;
    Ok(Asked { id, resources })
}

fn no_image(container: Option<&mesos::ContainerInfo>) -> Result<(), TaskFault> {
    let Some(container) = container else {
        return Ok(());
    };
    let image = container.mesos.as_ref().is_some_and(|m| m.image.is_some());
    if container.r#type() == mesos::container_info::Type::Docker
        || container.docker.is_some()
        || image
    {
        return Err(TaskFault::Unsupported(
            "container images; run a program of the agent's file system",
        ));
    }
    Ok(())
}

/// Resources of one kind and of the role that the offers are for.
fn checked_resources(pool: &Pool, wire: &[mesos::Resource]) -> Result<Resources, TaskFault> {
    let resources = convert::resources_from_wire(wire)?;
    let resources = resources.naming_volumes_of(&pool.rest.plus(&pool.shared));
    let named = wire
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
    Ok(resources)
}

/// Whether the pool holds what is needed: of what is not shared the sum, of shared volumes each.
fn fits<'a>(
    pool: &Pool,
    needed: &Resources,
    tasks: impl IntoIterator<Item = &'a Asked>,
) -> Result<(), TaskFault> {
    let mut lacking = pool.rest.shortfalls(needed);
    for asked in tasks {
        let shared = asked.resources.shared();
        lacking.extend(pool.shared.shortfalls(&shared));
        for (_, lot, value) in shared.iter() {
            if pool
                .shared
                .get(&Name::DISK, lot)
                .is_some_and(|v| v != value)
                && let Some(volume) = lot.volume()
            {
                return Err(TaskFault::PartOfVolume(volume.id.clone()));
            }
        }
    }
    if !lacking.is_empty() {
        let lacking: Vec<String> = lacking.iter().map(Shortfall::to_string).collect();
        return Err(TaskFault::TooBig(lacking.join(", ")));
    }
    Ok(())
}
