//! From a task as the wire describes it to a container that can be started, or to a refusal.

use std::fmt;

use allotment_proto::convert::resources_from_wire;
use allotment_proto::mesos::framework_info::capability::Type;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{AgentId, Fixed, FrameworkId, Resources, Role, TaskId};

use super::check;
use super::logs::{self, LogBounds};
use super::random::Random;
use super::volumes::{Mounted, mounted};
use super::{Confinement, Settings};

/// A task that asks no memory gets this much, as in Mesos.
const MEM_DEFAULT: Fixed = Fixed::units(32);
/// Below this no program starts.
const MEM_MIN: Fixed = Fixed::units(4);
/// Bounds on what one task may bring along; the kernel's own are near.
const ARGUMENTS_MAX: usize = 100_000;
const URIS_MAX: usize = 1000;

/// Names one run of a task on this agent.
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
    /// Whose task.
    pub task: TaskId,
    /// Of which run.
    pub container: ContainerId,
}

impl SandboxId {
    /// The folder of the task relative to the work folder, as Mesos lays it out: a command task
    /// has an executor of its own with the same id.
    pub fn task_folder(agent: &AgentId, framework: &FrameworkId, task: &TaskId) -> String {
        format!("slaves/{agent}/frameworks/{framework}/executors/{task}")
    }

    /// The sandbox relative to the work folder.
    pub fn folder(&self, agent: &AgentId) -> String {
        let task = Self::task_folder(agent, &self.framework, &self.task);
        format!("{task}/runs/{}", self.container)
    }
}

/// A file to fetch into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Where from: an absolute path, `file://`, `http://` or `https://`.
    pub value: String,
    /// Make it executable.
    pub executable: bool,
    /// Unpack it when it is an archive, which is the default.
    pub extract: bool,
    /// Keep it for other tasks.
    pub cache: bool,
    /// Its name in the sandbox; `None`: the last part of the URI.
    pub output_file: Option<String>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Its name.
    pub container: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// The agent's id when it was launched.
    pub agent: AgentId,
    /// The program; without a slash it is looked for along the task's `PATH`.
    pub program: String,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<String>,
    /// Its environment; of two of one name the later counts.
    pub environment: Vec<(String, String)>,
    /// Who it runs as, where the agent may switch users.
    pub user: Option<String>,
    /// What to fetch before it starts.
    pub uris: Vec<Uri>,
    /// The volumes it uses.
    pub volumes: Vec<Mounted>,
    /// What it holds on this agent.
    pub resources: Resources,
    /// Its limit of memory in bytes; [`Confinement::UNLIMITED`] for none.
    pub memory_bytes: u64,
    /// How large its output may grow.
    pub logs: LogBounds,
    /// What else it asks of its container.
    pub confinement: Confinement,
}

/// Why a task is not taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(super) state: TaskState,
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Lays out the container of a task.
pub(super) fn plan(
    settings: &Settings,
    agent: &AgentId,
    framework: &mesos::FrameworkInfo,
    (framework_id, id, container): (&FrameworkId, &TaskId, &ContainerId),
    info: &mesos::TaskInfo,
    free: &Resources,
) -> Result<Launch, Refusal> {
    let invalid = |message: String| Refusal {
        state: TaskState::TaskError,
        reason: Reason::TaskInvalid,
        message,
    };
    refuse_unsupported(info).map_err(|what| {
        invalid(format!(
            "task {id} asks for {what}, which this agent does not support yet; use a plain command"
        ))
    })?;
    check::checks(info).map_err(|what| invalid(format!("task {id} asks for {what}")))?;
    let resources = resources_from_wire(&info.resources)
        .map_err(|error| invalid(format!("task {id}: {error}")))?;
    let volumes = mounted(&resources).map_err(|what| {
        invalid(format!(
            "task {id} asks for {what}, which this agent does not support yet; mount a volume of \
             the work folder's disk under a relative path"
        ))
    })?;
    let resources = resources.naming_volumes_of(&settings.resources);
    let lacks = free.shortfalls(&resources);
    if !lacks.is_empty() {
        let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
        return Err(Refusal {
            state: dropped(framework),
            reason: Reason::ResourcesUnknown,
            message: format!(
                "task {id} does not fit on agent {agent} any more: {}; wait for the next offer",
                lacks.join(", ")
            ),
        });
    }
    let command = info.command.as_ref().ok_or_else(|| {
        invalid(format!(
            "task {id} has no command; set TaskInfo.command, as custom executors are not \
             supported yet"
        ))
    })?;
    let (program, argv) = program(command).map_err(|what| invalid(format!("task {id} {what}")))?;
    if command.uris.len() > URIS_MAX || argv.len() > ARGUMENTS_MAX {
        return Err(invalid(format!(
            "task {id} has {} URIs and {} arguments; at most {URIS_MAX} and {ARGUMENTS_MAX} are \
             accepted",
            command.uris.len(),
            argv.len()
        )));
    }
    let sandbox = SandboxId {
        framework: framework_id.clone(),
        task: id.clone(),
        container: container.clone(),
    };
    let directory = format!("{}/{}", settings.work_dir, sandbox.folder(agent));
    let environment = environment(settings, agent, framework_id, id, info, command, &directory)
        .map_err(|what| invalid(format!("task {id}: {what}")))?;
    let logs = logs::bounds(settings.log_bound, &environment)
        .map_err(|what| invalid(format!("task {id}: {what}")))?;
    let uris = command
        .uris
        .iter()
        .map(|uri| Uri {
            value: uri.value.clone(),
            executable: uri.executable.unwrap_or(false),
            extract: uri.extract(),
            cache: uri.cache.unwrap_or(false),
            output_file: uri.output_file.clone(),
        })
        .collect();
    let user = command.user.as_deref().unwrap_or(&framework.user);
    let asked = resources.mem();
    let memory = if asked.is_zero() {
        MEM_DEFAULT
    } else {
        asked.max(MEM_MIN)
    };
    let memory_bytes = memory.thousandths().saturating_mul(1 << 20) / 1000;
    let confinement =
        Confinement::of(info).map_err(|what| invalid(format!("task {id} asks for {what}")))?;
    Ok(Launch {
        container: container.clone(),
        sandbox,
        agent: agent.clone(),
        program,
        argv,
        environment,
        user: (!user.is_empty()).then(|| user.to_owned()),
        uris,
        volumes,
        logs,
        memory_bytes: Confinement::memory_limit_bytes(info).unwrap_or(memory_bytes),
        confinement,
        resources,
    })
}

/// TASK_DROPPED, or what stands for it with frameworks that do not know it.
fn dropped(framework: &mesos::FrameworkInfo) -> TaskState {
    if can(framework, Type::PartitionAware) {
        TaskState::TaskDropped
    } else {
        TaskState::TaskLost
    }
}

/// Whether a framework announced a capability.
pub(super) fn can(framework: &mesos::FrameworkInfo, wanted: Type) -> bool {
    framework
        .capabilities
        .iter()
        .any(|capability| capability.r#type() == wanted)
}

/// What a task asks for that is not built yet.
fn refuse_unsupported(info: &mesos::TaskInfo) -> Result<(), &'static str> {
    if info.executor.is_some() {
        return Err("a custom executor");
    }
    let Some(container) = &info.container else {
        return Ok(());
    };
    let image = container.mesos.as_ref().is_some_and(|m| m.image.is_some());
    if container.docker.is_some() || image {
        return Err("a container image");
    }
    if !container.network_infos.is_empty() {
        return Err("a network of its own");
    }
    if container.tty_info.is_some() {
        return Err("a terminal of its own");
    }
    if container.hostname.is_some() {
        return Err("a host name of its own");
    }
    Ok(())
}

/// Program and argv of a command, with or without a shell.
pub(super) fn program(command: &mesos::CommandInfo) -> Result<(String, Vec<String>), &'static str> {
    let value = command.value.clone().unwrap_or_default();
    // proto2's default: true.
    if command.shell() {
        if value.is_empty() {
            return Err("has an empty shell command; set CommandInfo.value");
        }
        let argv = vec!["sh".to_owned(), "-c".to_owned(), value];
        return Ok(("/bin/sh".to_owned(), argv));
    }
    if value.is_empty() {
        return Err("names no program; set CommandInfo.value, or use a shell command");
    }
    let argv = if command.arguments.is_empty() {
        vec![value.clone()]
    } else {
        command.arguments.clone()
    };
    Ok((value, argv))
}

/// What Mesos gives command tasks, and what the task sets itself, which wins.
fn environment(
    settings: &Settings,
    agent: &AgentId,
    framework: &FrameworkId,
    id: &TaskId,
    info: &mesos::TaskInfo,
    command: &mesos::CommandInfo,
    directory: &str,
) -> Result<Vec<(String, String)>, String> {
    let role = info
        .resources
        .iter()
        .find_map(|resource| resource.allocation_info.as_ref()?.role.clone())
        .unwrap_or_else(|| Role::star().to_string());
    let (host, port) = &settings.address;
    let endpoint = format!("{host}:{port}");
    let own = [
        ("MESOS_TASK_ID", id.to_string()),
        ("MESOS_FRAMEWORK_ID", framework.to_string()),
        ("MESOS_EXECUTOR_ID", id.to_string()),
        ("MESOS_SLAVE_ID", agent.to_string()),
        ("MESOS_SLAVE_PID", format!("slave(1)@{endpoint}")),
        ("MESOS_AGENT_ENDPOINT", endpoint),
        ("MESOS_DIRECTORY", directory.to_owned()),
        ("MESOS_SANDBOX", directory.to_owned()),
        ("MESOS_ALLOCATION_ROLE", role),
        (
            "MESOS_CHECKPOINT",
            u8::from(settings.tasks_outlive_agent).to_string(),
        ),
    ];
    let given = command
        .environment
        .iter()
        .flat_map(|environment| &environment.variables);
    let mut set: indexmap::IndexMap<String, String> =
        settings.environment.iter().cloned().collect();
    set.extend(own.map(|(name, value)| (name.to_owned(), value)));
    for variable in given {
        let (name, value) = self::variable(variable)?;
        // Only the agent knows where the sandbox is, and not every command has a shell to ask.
        set.insert(name, value.replace("${MESOS_SANDBOX}", directory));
    }
    Ok(set.into_iter().collect())
}

/// Name and value of a variable.
pub(super) fn variable(
    variable: &mesos::environment::Variable,
) -> Result<(String, String), String> {
    let name = &variable.name;
    if variable.r#type() == mesos::environment::variable::Type::Secret {
        return Err(format!(
            "variable {name:?} is a secret, which is not supported yet"
        ));
    }
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!(
            "variable {name:?} has no usable name; names are not empty and hold no `=`"
        ));
    }
    Ok((name.clone(), variable.value.clone().unwrap_or_default()))
}
