//! One more program in the container of a task that runs: for checks, and for people who look.

use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos;
use allotment_types::{ExecutorId, FrameworkId, TaskId};

use super::executor::{ExecutorKey, Kind, Phase};
use super::launch::{self, Launch};
use super::sandbox::ContainerId;
use super::task::{Host, Task};
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

/// A task with a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachable {
    /// Of which framework.
    pub framework: FrameworkId,
    /// Which.
    pub task: TaskId,
    /// Where it runs.
    pub container: ContainerId,
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
    /// Nobody can type there.
    #[error(
        "task {task} has no terminal: its TaskInfo.container.tty_info is not set; `allot task exec \
         -it` starts a program that has one"
    )]
    NoTerminal {
        /// Which.
        task: TaskId,
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
    /// An executor's container cannot be entered.
    #[error("the container of executor {executor} cannot be entered: {why}")]
    NoExecutor {
        /// Which.
        executor: ExecutorId,
        /// A clause.
        why: String,
    },
    /// It must be ended first.
    #[error("container {name} still runs; kill it first")]
    StillRuns {
        /// What its client calls it.
        name: String,
    },
    /// No more fit into it.
    #[error(
        "{n_live} nested containers run in container {container} already; at most {running_max} \
         may, and {depth_max} in each other: kill some, or launch a task group"
    )]
    Crowded {
        /// Which.
        container: ContainerId,
        /// How many run there.
        n_live: usize,
        /// How many may.
        running_max: usize,
        /// How deep they may lie.
        depth_max: usize,
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
        if let Some(executor) = self.executor_containers.get(container) {
            return self.enter_executor(executor, command);
        }
        if let Some(entrance) = self.entrance_nested(container, command.clone()) {
            return entrance;
        }
        let key = self.containers.get(container);
        let key = key.ok_or_else(|| NoEntry::Unknown {
            what: format!("container {container}"),
        })?;
        self.enter(key, command)
    }

    /// The same for a custom executor, whose program has a container of its own.
    fn enter_executor(&self, key: &ExecutorKey, command: Command) -> Result<Launch, NoEntry> {
        let unknown = || NoEntry::Unknown {
            what: format!("executor {} of framework {}", key.1, key.0),
        };
        let executor = self.executors.get(key).ok_or_else(unknown)?;
        let known = self.frameworks.get(&key.0).ok_or_else(unknown)?;
        let unplannable = |why: String| NoEntry::NoExecutor {
            executor: key.1.clone(),
            why,
        };
        let Kind::Custom(custom) = &executor.kind else {
            let why = "the agent plays it, and it has no container; name that of one of its tasks";
            return Err(unplannable(why.to_owned()));
        };
        if !matches!(custom.phase, Phase::Running { .. }) {
            return Err(unplannable(
                "it does not run yet, or not any more".to_owned(),
            ));
        }
        let held = resources_to_wire(&custom.held, None);
        let planned = launch::plan_executor(
            &self.settings,
            &executor.agent,
            &known.info,
            (&key.0, &key.1, &executor.container),
            (&executor.info, &held, ""),
            &self.free.plus(&custom.held.unshared()),
        );
        let mut launch = planned.map_err(|refusal| unplannable(refusal.message))?;
        // Whoever speaks for the executor is its program alone.
        let token = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN";
        launch.environment.retain(|(name, _)| name != token);
        if let Some(asked) = &command.user
            && launch.user.as_ref() != Some(asked)
        {
            return Err(unplannable(format!(
                "everything in it runs as {:?}, not as {asked:?}",
                launch.user.unwrap_or_default()
            )));
        }
        Ok(self.with_command(launch, command))
    }

    /// A task that was started with a terminal, and its container.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub fn terminal_of(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
    ) -> Result<Attachable, NoEntry> {
        self.attachable(&(framework.clone(), task.clone()))
    }

    /// The same for the container of these ids, the nearest first.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub fn terminal_in(&self, ids: &[String]) -> Result<Attachable, NoEntry> {
        let key = self
            .container_of(ids)
            .and_then(|id| self.containers.get(&id));
        let key = key.ok_or_else(|| NoEntry::Unknown {
            what: format!("container {}", ids.join(" in ")),
        })?;
        self.attachable(key)
    }

    fn attachable(&self, key: &Key) -> Result<Attachable, NoEntry> {
        let task = self.running(key)?;
        let container = task.info().container.as_ref();
        if container.is_none_or(|container| container.tty_info.is_none()) {
            return Err(NoEntry::NoTerminal {
                task: key.1.clone(),
            });
        }
        Ok(Attachable {
            framework: key.0.clone(),
            task: key.1.clone(),
            container: task.container().clone(),
        })
    }

    fn running(&self, key: &Key) -> Result<&Task, NoEntry> {
        let (framework, id) = key;
        let task = self.tasks.get(key).ok_or_else(|| NoEntry::Unknown {
            what: format!("task {id} of framework {framework}"),
        })?;
        if task.is_running() || task.is_killing() {
            return Ok(task);
        }
        Err(NoEntry::NotRunning {
            task: id.clone(),
            state: task.state().as_str_name(),
        })
    }

    fn enter(&self, key: &Key, command: Command) -> Result<Launch, NoEntry> {
        let (framework, id) = key;
        let unknown = || NoEntry::Unknown {
            what: format!("task {id} of framework {framework}"),
        };
        let task = self.running(key)?;
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
        let launch = planned.map_err(|refusal| NoEntry::Unplannable {
            task: id.clone(),
            why: refusal.message,
        })?;
        if let Some(asked) = &command.user
            && launch.user.as_ref() != Some(asked)
        {
            return Err(NoEntry::OtherUser {
                task: id.clone(),
                own: launch.user.unwrap_or_default(),
                asked: asked.clone(),
            });
        }
        Ok(self.with_command(launch, command))
    }

    /// The same container with another program.
    fn with_command(&self, mut launch: Launch, command: Command) -> Launch {
        let directory = self.directory(&launch);
        launch.program = command.program;
        launch.argv = command.argv;
        for (name, value) in command.environment {
            launch.environment.retain(|(set, _)| *set != name);
            let value = value.replace("${MESOS_SANDBOX}", &directory);
            launch.environment.push((name, value));
        }
        launch
    }

    fn directory(&self, launch: &Launch) -> String {
        let folder = launch.sandbox.folder(&launch.agent);
        format!("{}/{folder}", self.settings.work_dir)
    }
}
