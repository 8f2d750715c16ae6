//! Executors, commands and groups between the typed API and the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_proto::{convert, mesos, scheduler};
use allotment_types::{AgentId, ExecutorId};

use crate::api::{Command, Event, Executor, ExecutorNews, Task, Uri};

/// Writes an executor.
pub(crate) fn executor(executor: &Executor) -> mesos::ExecutorInfo {
    use mesos::executor_info::Type;
    let command = executor.command.as_ref();
    let kind = match command {
        Some(_) => Type::Custom,
        None => Type::Default,
    };
    mesos::ExecutorInfo {
        r#type: Some(kind.into()),
        executor_id: (&executor.id).into(),
        command: command.and_then(|c| self::command(c, &executor.env, &executor.uris, None)),
        resources: convert::resources_to_wire(&executor.resources, None),
        shutdown_grace_period: executor.shutdown_grace.map(duration),
        ..Default::default()
    }
}

/// Writes a command; `None` for what a custom executor makes of data.
pub(crate) fn command(
    command: &Command,
    env: &BTreeMap<String, String>,
    uris: &[Uri],
    user: Option<&String>,
) -> Option<mesos::CommandInfo> {
    let (shell, value, arguments) = match command {
        Command::Shell(line) => (true, line.clone(), Vec::new()),
        Command::Exec { program, arguments } => {
            let argv = std::iter::once(program).chain(arguments).cloned();
            (false, program.clone(), argv.collect())
        }
        Command::InExecutor { .. } => return None,
    };
    let variables = env
        .iter()
        .map(|(name, value)| mesos::environment::Variable {
            name: name.clone(),
            r#type: None,
            value: Some(value.clone()),
        });
    Some(mesos::CommandInfo {
        uris: uris.iter().map(super::uri).collect(),
        environment: (!env.is_empty()).then(|| mesos::Environment {
            variables: variables.collect(),
        }),
        shell: Some(shell),
        value: Some(value),
        arguments,
        user: user.cloned(),
    })
}

/// Writes what a task asks of its container.
pub(crate) fn container(task: &Task) -> Option<mesos::ContainerInfo> {
    use mesos::volume::source::{self, SandboxPath, sandbox_path};
    if task.shared_folders.is_empty() && task.terminal.is_none() {
        return None;
    }
    let volumes = task
        .shared_folders
        .iter()
        .map(|(here, there)| mesos::Volume {
            mode: mesos::volume::Mode::Rw.into(),
            container_path: here.clone(),
            source: Some(mesos::volume::Source {
                r#type: Some(source::Type::SandboxPath.into()),
                sandbox_path: Some(SandboxPath {
                    r#type: Some(sandbox_path::Type::Parent.into()),
                    path: there.clone(),
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
    Some(mesos::ContainerInfo {
        r#type: mesos::container_info::Type::Mesos.into(),
        volumes: volumes.collect(),
        tty_info: task.terminal.map(|size| mesos::TtyInfo {
            window_size: Some(mesos::tty_info::WindowSize {
                rows: size.rows.into(),
                columns: size.columns.into(),
            }),
        }),
        ..Default::default()
    })
}

fn duration(duration: Duration) -> mesos::DurationInfo {
    mesos::DurationInfo {
        nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
    }
}

/// Reads what an executor said.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(crate) fn message(wire: scheduler::event::Message) -> Result<Event, String> {
    news(
        &wire.agent_id,
        &wire.executor_id,
        ExecutorNews::Message(wire.data),
    )
}

/// Reads that something is gone: an agent, or an executor.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(crate) fn failure(wire: &scheduler::event::Failure) -> Result<Event, String> {
    let agent = wire.agent_id.as_ref().ok_or("it names no agent")?;
    match &wire.executor_id {
        Some(executor) => news(agent, executor, ExecutorNews::Ended(wire.status)),
        None => {
            let agent = AgentId::try_from(agent).map_err(|error| error.to_string())?;
            Ok(Event::AgentLost(agent))
        }
    }
}

fn news(
    agent: &mesos::AgentId,
    executor: &mesos::ExecutorId,
    news: ExecutorNews,
) -> Result<Event, String> {
    Ok(Event::Executor {
        agent: AgentId::try_from(agent).map_err(|error| error.to_string())?,
        executor: ExecutorId::try_from(executor).map_err(|error| error.to_string())?,
        news,
    })
}
