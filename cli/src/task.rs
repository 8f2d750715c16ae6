//! `allot task`: the tasks of all frameworks, their output, and their end.
//!
//! - [`exec`]: a command beside a task. [`attach`]: what it says from now on, and its terminal.
//! - `terminal`: the one we run in. `writer`: our own output.

mod attach;
mod exec;
mod terminal;
mod writer;

use std::process::ExitCode;

use allotment_proto::allot::sandbox_client::SandboxClient;
use allotment_proto::allot::{KillTaskRequest, ListTasksRequest, SandboxReadRequest, TaskView};

pub(crate) use terminal::window;

use crate::context::Context;
use crate::exit;
use crate::output::{self, Cell, Row, Watch};
use crate::rpc::{self, Peer};
use crate::view;

/// Arguments of `allot task`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tasks
    #[command(visible_alias = "ls")]
    List {
        /// With the tasks that ended lately
        #[arg(long, short)]
        all: bool,
        /// Only of this framework: its id, the beginning of it, or its name
        #[arg(long)]
        framework: Option<String>,
        /// Only on this agent: its id, the beginning of it, or its host name
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one task
    Show {
        /// Its id or the beginning of it
        task: String,
    },
    /// Print what a task wrote
    Logs {
        /// Its id or the beginning of it
        task: String,
        /// Go on until the task ends
        #[arg(long, short)]
        follow: bool,
        /// What it wrote on stderr instead of stdout
        #[arg(long)]
        stderr: bool,
    },
    /// Run a command in a task's container
    Exec(exec::Args),
    /// Print what a task writes from now on, type to its terminal if it has one, and exit as it does
    Attach(attach::Args),
    /// Kill a task as its framework could
    Kill {
        /// Its id or the beginning of it
        task: String,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List {
            all,
            framework,
            node,
            watch,
        } => {
            output::listing(ctx.output, watch, async || {
                let mut tasks = list(ctx, None, all).await?;
                if let Some(asked) = &framework {
                    tasks.retain(|task| {
                        task.framework_id.starts_with(asked.as_str())
                            || task.framework_name == *asked
                    });
                }
                if let Some(asked) = &node {
                    tasks.retain(|task| {
                        task.agent_id.starts_with(asked.as_str()) || task.hostname == *asked
                    });
                }
                Ok(tasks)
            })
            .await?;
        }
        Command::Show { task } => show(ctx, &find(ctx, &task).await?)?,
        Command::Logs {
            task,
            follow,
            stderr,
        } => {
            let task = find(ctx, &task).await?;
            logs(&task, if stderr { "stderr" } else { "stdout" }, follow).await?;
        }
        Command::Exec(args) => {
            let ended = async {
                let task = find(ctx, &args.task).await?;
                exec::run(&task, args).await
            };
            return Ok(exit::of_command(ended.await));
        }
        Command::Attach(args) => {
            let ended = async {
                let task = find(ctx, &args.task).await?;
                attach::run(ctx, &task).await
            };
            return Ok(exit::of_command(ended.await));
        }
        Command::Kill { task } => {
            let task = find(ctx, &task).await?;
            let request = KillTaskRequest {
                task_id: task.id.clone(),
                framework_id: Some(task.framework_id.clone()),
            };
            let answer = ctx.operator().await?.kill_task(request).await;
            answer.map_err(|status| ctx.refused(&status))?;
            output::line(&format!("task {} is being killed", task.id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tasks whose id is or begins with `task_id`; all of them for `None`.
pub(crate) async fn list(
    ctx: &Context,
    task_id: Option<&str>,
    ended: bool,
) -> anyhow::Result<Vec<TaskView>> {
    let request = ListTasksRequest {
        task_id: task_id.map(str::to_owned),
        ended,
        ..Default::default()
    };
    let answer = ctx.operator().await?.list_tasks(request).await;
    Ok(answer
        .map_err(|status| ctx.refused(&status))?
        .into_inner()
        .tasks)
}

/// The one task that `asked` names, live or lately ended. Of several runs of one id the latest
/// counts, which the master lists first.
async fn find(ctx: &Context, asked: &str) -> anyhow::Result<TaskView> {
    let mut tasks = list(ctx, Some(asked), true).await?;
    let mut seen = std::collections::BTreeSet::new();
    tasks.retain(|task| seen.insert((task.framework_id.clone(), task.id.clone())));
    Ok(view::pick("task", asked, &tasks, |t| (&t.id, &t.id))?.clone())
}

/// Streams one file of the task's sandbox to stdout.
async fn logs(task: &TaskView, file: &str, follow: bool) -> anyhow::Result<()> {
    let channel = rpc::connect(Peer::Agent, &task.agent_url).await?;
    let refused = |status: tonic::Status| rpc::refused(Peer::Agent, &task.agent_url, &status);
    let mut chunks = SandboxClient::new(channel)
        .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX)
        .read(SandboxReadRequest {
            framework_id: task.framework_id.clone(),
            task_id: task.id.clone(),
            path: file.to_owned(),
            offset: 0,
            length: None,
            follow,
            file: None,
        })
        .await
        .map_err(refused)?
        .into_inner();
    while let Some(chunk) = chunks.message().await.map_err(refused)? {
        if chunk.gap() {
            output::complain(&format!(
                "something before this may be missing: {file} was put aside and deleted faster \
                 than it could be read"
            ));
        }
        output::bytes(&chunk.data)?;
    }
    Ok(())
}

fn show(ctx: &Context, task: &TaskView) -> anyhow::Result<()> {
    output::one(
        ctx.output,
        task,
        &[
            ("id", task.id.as_str().into()),
            ("name", task.name.as_str().into()),
            ("state", view::state(&task.state)),
            ("since", output::clock(task.since).into()),
            ("launched", output::clock(task.launched_at).into()),
            (
                "framework",
                format!("{} ({})", task.framework_id, task.framework_name).into(),
            ),
            (
                "executor",
                task.executor_id.as_deref().unwrap_or("-").into(),
            ),
            ("role", task.role.as_str().into()),
            (
                "node",
                format!("{} ({})", task.agent_id, task.hostname).into(),
            ),
            ("resources", view::resources(&task.resources).into()),
            ("end", end(task).unwrap_or_else(|| "-".to_owned()).into()),
            ("reason", task.reason.as_deref().unwrap_or("-").into()),
            ("message", task.message.as_deref().unwrap_or("-").into()),
        ],
    )
}

/// How the main process ended, when it did.
fn end(task: &TaskView) -> Option<String> {
    match (task.exit_code, task.exit_signal) {
        (Some(code), _) => Some(format!("exit {code}")),
        (None, Some(signal)) => Some(format!("signal {signal}")),
        (None, None) => None,
    }
}

impl Row for TaskView {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "FRAMEWORK",
        "STATE",
        ">FOR",
        "HOST",
        "EXECUTOR",
        ">CPUS",
        ">MEM",
        "MESSAGE",
    ];

    fn cells(&self) -> Vec<Cell> {
        let message = self.message.clone().filter(|m| !m.is_empty());
        vec![
            self.id.as_str().into(),
            self.framework_name.as_str().into(),
            view::state(&self.state),
            output::age(self.since).into(),
            self.hostname.as_str().into(),
            self.executor_id.as_deref().unwrap_or("-").into(),
            output::short(view::scalar(&self.resources, "cpus")).into(),
            output::mib(view::scalar(&self.resources, "mem")).into(),
            message.or_else(|| end(self)).unwrap_or_default().into(),
        ]
    }
}
