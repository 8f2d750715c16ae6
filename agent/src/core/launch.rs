//! From a task as the wire describes it to a container that can be started, or to a refusal.

use std::time::Duration;

use allotment_proto::convert::resources_from_wire;
use allotment_proto::mesos::framework_info::capability::Type;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{AgentId, ExecutorId, Fixed, FrameworkId, Name, Resources, Role, TaskId};

use super::check;
use super::logs::{self, LogBounds};
use super::nested::Nesting;
use super::volumes::{Mounted, mounted};
use super::{Confinement, ContainerId, Owner, SandboxId, Settings};

/// A task that asks no memory gets this much, as in Mesos.
const MEM_DEFAULT: Fixed = Fixed::units(32);
/// Below this no program starts.
const MEM_MIN: Fixed = Fixed::units(4);
/// Bounds on what one task may bring along; the kernel's own are near.
const ARGUMENTS_MAX: usize = 100_000;
const URIS_MAX: usize = 1000;

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
    /// The persistent volumes that it may change; the others are among its `confinement`'s.
    pub volumes: Vec<Mounted>,
    /// What it holds on this agent.
    pub resources: Resources,
    /// Its limit of memory in bytes; [`Confinement::UNLIMITED`] for none.
    pub memory_bytes: u64,
    /// How large its output may grow.
    pub logs: LogBounds,
    /// What else it asks of its container.
    pub confinement: Confinement,
    /// Set for a further program in a container that runs: then `container` alone is its own, and
    /// all else is that of the topmost container above it.
    pub nested: Option<Nesting>,
}

/// Why a task is not taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(super) state: TaskState,
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// The default executor's run that a task's container belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nest {
    pub(super) executor: ExecutorId,
    pub(super) container: ContainerId,
}

/// What a container is laid out from.
struct Wanted<'a> {
    /// "task x" or "executor x".
    subject: String,
    command: &'a mesos::CommandInfo,
    /// Resources, limits and what it asks of its container; for an executor, its own in a task's
    /// form.
    info: &'a mesos::TaskInfo,
    sandbox: SandboxId,
    resources: Resources,
    confinement: Confinement,
    own: Vec<(&'static str, String)>,
}

/// Lays out the container of a task.
pub(super) fn plan(
    settings: &Settings,
    agent: &AgentId,
    framework: &mesos::FrameworkInfo,
    (framework_id, id, container): (&FrameworkId, &TaskId, &ContainerId),
    info: &mesos::TaskInfo,
    (free, nest): (&Resources, Option<&Nest>),
) -> Result<Launch, Refusal> {
    let invalid = |what: String| Refusal::invalid(format!("task {id} {what}"));
    refuse_unsupported(info.container.as_deref()).map_err(|what| {
        invalid(format!(
            "asks for {what}, which this agent does not support yet; use a plain command"
        ))
    })?;
    check::checks(info).map_err(|what| invalid(format!("asks for {what}")))?;
    let resources = fitting(
        settings,
        agent,
        framework,
        &format!("task {id}"),
        info,
        free,
    )?;
    let command = info.command.as_ref();
    let command = command.ok_or_else(|| invalid("has no command; set TaskInfo.command".into()))?;
    let confinement = match nest {
        None => Confinement::of(info),
        Some(_) => Confinement::of_nested(info),
    };
    let (owner, executor) = match nest {
        None => (Owner::Task(id.clone()), id.as_str()),
        Some(nest) => {
            let owner = Owner::Nested {
                task: id.clone(),
                executor: nest.executor.clone(),
                parent: nest.container.clone(),
            };
            (owner, nest.executor.as_str())
        }
    };
    let wanted = Wanted {
        subject: format!("task {id}"),
        command,
        info,
        sandbox: SandboxId {
            framework: framework_id.clone(),
            owner,
            container: container.clone(),
        },
        resources,
        confinement: confinement.map_err(|what| invalid(format!("asks for {what}")))?,
        own: vec![
            ("MESOS_TASK_ID", id.to_string()),
            ("MESOS_EXECUTOR_ID", executor.to_owned()),
        ],
    };
    lay_out(settings, agent, framework, wanted)
}

/// Lays out the container of a custom executor, which holds its tasks' resources beside its own.
pub(super) fn plan_executor(
    settings: &Settings,
    agent: &AgentId,
    framework: &mesos::FrameworkInfo,
    (framework_id, id, container): (&FrameworkId, &ExecutorId, &ContainerId),
    (info, held, token): (&mesos::ExecutorInfo, &[mesos::Resource], &str),
    free: &Resources,
) -> Result<Launch, Refusal> {
    let invalid = |what: String| Refusal::invalid(format!("executor {id} {what}"));
    let command = info.command.as_ref();
    let command =
        command.ok_or_else(|| invalid("has no command; set ExecutorInfo.command".into()))?;
    refuse_unsupported(info.container.as_ref()).map_err(|what| {
        invalid(format!(
            "asks for {what}, which this agent does not support yet"
        ))
    })?;
    let asked = mesos::TaskInfo {
        resources: held.to_vec(),
        container: info.container.clone().map(Box::new),
        ..Default::default()
    };
    let subject = format!("executor {id}");
    let resources = fitting(settings, agent, framework, &subject, &asked, free)?;
    let confinement =
        Confinement::of(&asked).map_err(|what| invalid(format!("asks for {what}")))?;
    let grace = settings.shutdown_grace(info);
    let mut own = vec![
        ("MESOS_EXECUTOR_ID", id.to_string()),
        ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", duration_text(grace)),
        ("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", token.to_owned()),
        ("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned()),
        ("LIBPROCESS_PORT", "0".to_owned()),
    ];
    if settings.tasks_outlive_agent {
        let executors = &settings.executors;
        own.extend([
            (
                "MESOS_RECOVERY_TIMEOUT",
                duration_text(executors.recovery_timeout),
            ),
            (
                "MESOS_SUBSCRIPTION_BACKOFF_MAX",
                duration_text(executors.reregistration_timeout),
            ),
        ]);
    }
    let wanted = Wanted {
        subject,
        command,
        info: &asked,
        sandbox: SandboxId {
            framework: framework_id.clone(),
            owner: Owner::Executor(id.clone()),
            container: container.clone(),
        },
        resources,
        confinement,
        own,
    };
    lay_out(settings, agent, framework, wanted)
}

/// The resources that are asked for, when there are as much.
pub(super) fn fitting(
    settings: &Settings,
    agent: &AgentId,
    framework: &mesos::FrameworkInfo,
    subject: &str,
    info: &mesos::TaskInfo,
    free: &Resources,
) -> Result<Resources, Refusal> {
    let resources = resources_from_wire(&info.resources)
        .map_err(|error| Refusal::invalid(format!("{subject}: {error}")))?;
    let resources = resources.naming_volumes_of(&settings.resources);
    let lacks = free.shortfalls(&resources);
    if lacks.is_empty() {
        return Ok(resources);
    }
    let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    Err(Refusal {
        state: dropped(framework),
        reason: Reason::ResourcesUnknown,
        message: format!(
            "{subject} does not fit on agent {agent} any more: {}; wait for the next offer",
            lacks.join(", ")
        ),
    })
}

/// Memory that a container is limited to, in bytes.
pub(super) fn memory_bytes(resources: &Resources) -> u64 {
    let asked = resources.mem();
    let memory = if asked.is_zero() {
        MEM_DEFAULT
    } else {
        asked.max(MEM_MIN)
    };
    memory.thousandths().saturating_mul(1 << 20) / 1000
}

/// Disk that a sandbox may hold, in bytes; `None` where none was asked for.
pub(super) fn disk_bytes(resources: &Resources) -> Option<u64> {
    let sandbox = resources.filter(|_, lot| lot.volume().is_none());
    let disk = sandbox.scalar(&Name::DISK).thousandths();
    (disk > 0).then(|| disk.saturating_mul(1 << 20) / 1000)
}

fn lay_out(
    settings: &Settings,
    agent: &AgentId,
    framework: &mesos::FrameworkInfo,
    wanted: Wanted<'_>,
) -> Result<Launch, Refusal> {
    let Wanted {
        subject,
        command,
        info,
        sandbox,
        resources,
        mut confinement,
        own,
    } = wanted;
    let invalid = |what: String| Refusal::invalid(format!("{subject}{what}"));
    // As it was asked for: what it holds names volumes as the agent does, without the place where
    // this container wants them.
    let asked =
        resources_from_wire(&info.resources).map_err(|error| invalid(format!(": {error}")))?;
    let volumes = mounted(&asked).map_err(|what| {
        invalid(format!(
            " asks for {what}, which this agent does not support yet; mount a volume of the work \
             folder's disk under a relative path"
        ))
    })?;
    let (read_only, volumes): (Vec<_>, Vec<_>) =
        volumes.into_iter().partition(|volume| volume.read_only);
    for volume in read_only {
        let place = format!("{}/{}", settings.work_dir, volume.folder);
        confinement
            .add_persistent(&volume.path, place)
            .map_err(|what| invalid(format!(" asks for {what}")))?;
    }
    let (program, argv) = program(command).map_err(|what| invalid(format!(" {what}")))?;
    if command.uris.len() > URIS_MAX || argv.len() > ARGUMENTS_MAX {
        return Err(invalid(format!(
            " has {} URIs and {} arguments; at most {URIS_MAX} and {ARGUMENTS_MAX} are accepted",
            command.uris.len(),
            argv.len()
        )));
    }
    let directory = format!("{}/{}", settings.work_dir, sandbox.folder(agent));
    let role = info
        .resources
        .iter()
        .find_map(|resource| resource.allocation_info.as_ref()?.role.clone())
        .unwrap_or_else(|| Role::star().to_string());
    let place = (agent, &sandbox.framework, directory.as_str());
    let environment = environment(settings, place, (role, own), command)
        .map_err(|what| invalid(format!(": {what}")))?;
    let logs = logs::bounds(settings.log_bound, &environment)
        .map_err(|what| invalid(format!(": {what}")))?;
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
    Ok(Launch {
        container: sandbox.container.clone(),
        sandbox,
        agent: agent.clone(),
        program,
        argv,
        environment,
        user: (!user.is_empty()).then(|| user.to_owned()),
        uris,
        volumes,
        logs,
        memory_bytes: Confinement::memory_limit_bytes(info)
            .unwrap_or_else(|| memory_bytes(&resources)),
        confinement,
        resources,
        nested: None,
    })
}

/// As Mesos writes durations (stout): a number and the largest unit that leaves it whole.
fn duration_text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units = [
        (3_600_000_000_000, "hrs"),
        (60_000_000_000, "mins"),
        (1_000_000_000, "secs"),
        (1_000_000, "ms"),
        (1000, "us"),
    ];
    let unit = units
        .iter()
        .find(|(unit, _)| nanos >= *unit && nanos.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", nanos / unit),
        None => format!("{nanos}ns"),
    }
}

impl Refusal {
    pub(super) fn invalid(message: String) -> Self {
        Self {
            state: TaskState::TaskError,
            reason: Reason::TaskInvalid,
            message,
        }
    }

    /// Its executor is not there any more, and the master has not heard.
    pub(super) fn executor_gone(framework: &mesos::FrameworkInfo, executor: &ExecutorId) -> Self {
        Self {
            state: dropped(framework),
            reason: Reason::ExecutorTerminated,
            message: format!(
                "executor {executor} has ended or is ending; launch the task on another offer"
            ),
        }
    }
}

/// TASK_DROPPED, or what stands for it with frameworks that do not know it.
pub(super) fn dropped(framework: &mesos::FrameworkInfo) -> TaskState {
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
fn refuse_unsupported(container: Option<&mesos::ContainerInfo>) -> Result<(), &'static str> {
    let Some(container) = container else {
        return Ok(());
    };
    let image = container.mesos.as_ref().is_some_and(|m| m.image.is_some());
    if container.docker.is_some() || image {
        return Err("a container image");
    }
    if !container.network_infos.is_empty() {
        return Err("a network of its own");
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

/// What Mesos gives containers, and what the command sets itself, which wins.
fn environment(
    settings: &Settings,
    (agent, framework, directory): (&AgentId, &FrameworkId, &str),
    (role, own): (String, Vec<(&'static str, String)>),
    command: &mesos::CommandInfo,
) -> Result<Vec<(String, String)>, String> {
    let (host, port) = &settings.address;
    let endpoint = format!("{host}:{port}");
    let general = [
        ("MESOS_FRAMEWORK_ID", framework.to_string()),
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
    let own = general.into_iter().chain(own);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_mesos_clients_read_them() {
        let text = |nanos| duration_text(Duration::from_nanos(nanos));
        assert_eq!(text(5_000_000_000), "5secs");
        assert_eq!(text(900_000_000_000), "15mins");
        assert_eq!(text(1_500_000_000), "1500ms");
        assert_eq!(text(7), "7ns");
        assert_eq!(text(0), "0ns");
    }
}
