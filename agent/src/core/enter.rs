//! One more program in the container of a task that runs: for checks, and for people who look.

use allotment_proto::mesos;
use allotment_types::{FrameworkId, TaskId};

use super::launch::{self, Launch};
use super::sandbox::ContainerId;
use super::task::Host;
use super::{Core, Key};

/// The most arguments and variables of one program.
const ARGUMENTS_MAX: usize = 100_000;

/// A program to run in a container that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Without a slash it is looked for along the task's `PATH`.
    pub program: String,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<String>,
    /// Beside the task's own variables, over which these win.
    pub environment: Vec<(String, String)>,
    /// Who it must run as, where somebody minds.
    pub user: Option<String>,
}

/// Why no program can be run beside a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// Nothing is known of it.
    #[error("{what} does not run on this agent: it never did, or it has ended")]
    Unknown {
        /// The task or container.
        what: String,
    },
    /// It does not run at this moment.
    #[error("task {task} is {state} and not running; look again with `allot task show`")]
    NotRunning {
        /// Which.
        task: TaskId,
        /// Its state.
        state: &'static str,
    },
    /// Its user is the only one that its container has.
    #[error(
        "task {task} runs as {own:?}, and so does everything in its container, not as {asked:?}"
    )]
    OtherUser {
        /// Which.
        task: TaskId,
        /// Whom it runs as.
        own: String,
        /// Who was asked for.
        asked: String,
    },
    /// It cannot be laid out any more.
    #[error("the container of task {task} cannot be entered: {why}")]
    Unplannable {
        /// Which.
        task: TaskId,
        /// A clause.
        why: String,
    },
}

impl Command {
    /// Reads a command of Mesos'.
    ///
    /// # Errors
    /// What is wrong with it, as a clause with the command as its subject.
    pub fn of(info: &mesos::CommandInfo) -> Result<Self, String> {
        let (program, argv) = launch::program(info)?;
        if !info.uris.is_empty() {
            return Err("names URIs, which only tasks may; fetch them for the task".to_owned());
        }
        let given = info.environment.iter().flat_map(|e| &e.variables);
        let environment = given.map(launch::variable).collect::<Result<Vec<_>, _>>()?;
        if argv.len() + environment.len() > ARGUMENTS_MAX {
            return Err(format!(
                "has {} arguments and {} variables; at most {ARGUMENTS_MAX} together are accepted",
                argv.len(),
                environment.len()
            ));
        }
        Ok(Self {
            program,
            argv,
            environment,
            user: info.user.clone().filter(|user| !user.is_empty()),
        })
    }
}

impl Core {
    /// What it takes to run `command` in the container of a task.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub fn entrance(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
        command: Command,
    ) -> Result<Launch, NoEntry> {
        self.enter(&(framework.clone(), task.clone()), command)
    }

    /// The same for a container.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub fn entrance_of(
        &self,
        container: &ContainerId,
        command: Command,
    ) -> Result<Launch, NoEntry> {
        let key = self.containers.get(container);
        let key = key.ok_or_else(|| NoEntry::Unknown {
            what: format!("container {container}"),
        })?;
        self.enter(key, command)
    }

    fn enter(&self, key: &Key, command: Command) -> Result<Launch, NoEntry> {
        let (framework, id) = key;
        let unknown = || NoEntry::Unknown {
            what: format!("task {id} of framework {framework}"),
        };
        let task = self.tasks.get(key).ok_or_else(unknown)?;
        if !task.is_running() && !task.is_killing() {
            return Err(NoEntry::NotRunning {
                task: id.clone(),
                state: task.state().as_str_name(),
            });
        }
        let known = self.frameworks.get(framework).ok_or_else(unknown)?;
        if let Host::Executor(hosted) = task.host() {
            return Err(NoEntry::Unplannable {
                task: id.clone(),
                why: format!(
                    "it has none of its own, executor {} runs it",
                    hosted.executor
                ),
            });
        }
        let nest = task.nest();
        let room = self.free.plus(&task.resources().unshared());
        let planned = launch::plan(
            &self.settings,
            task.agent(),
            &known.info,
            (framework, id, task.container()),
            task.info(),
            (&room, nest.as_ref()),
        );
        let mut launch = planned.map_err(|refusal| NoEntry::Unplannable {
            task: id.clone(),
            why: refusal.message,
        })?;
        if let Some(asked) = command.user
            && launch.user.as_ref() != Some(&asked)
        {
            return Err(NoEntry::OtherUser {
                task: id.clone(),
                own: launch.user.unwrap_or_default(),
                asked,
            });
        }
        let directory = self.directory(&launch);
        launch.program = command.program;
        launch.argv = command.argv;
        for (name, value) in command.environment {
            launch.environment.retain(|(set, _)| *set != name);
            let value = value.replace("${MESOS_SANDBOX}", &directory);
            launch.environment.push((name, value));
        }
        Ok(launch)
    }

    fn directory(&self, launch: &Launch) -> String {
        let folder = launch.sandbox.folder(&launch.agent);
        format!("{}/{folder}", self.settings.work_dir)
    }
}
