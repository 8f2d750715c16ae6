//! `allot node`: the agents of the cluster.

use std::process::ExitCode;

use allotment_proto::allot::{AgentView, ListAgentsRequest};

use crate::context::Context;
use crate::output::{self, Cell, Row, Watch};
use crate::view;

/// Arguments of `allot node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one agent
    Show {
        /// Its id, the beginning of it, or its host name
        node: String,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || agents(ctx).await).await?;
        }
        Command::Show { node } => {
            let agents = agents(ctx).await?;
            let agent = view::pick("node", &node, &agents, |a| (&a.id, &a.hostname))?;
            show(ctx, agent)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn agents(ctx: &Context) -> anyhow::Result<Vec<AgentView>> {
    let answer = ctx
        .operator()
        .await?
        .list_agents(ListAgentsRequest {})
        .await;
    Ok(answer
        .map_err(|status| ctx.refused(&status))?
        .into_inner()
        .agents)
}

fn show(ctx: &Context, agent: &AgentView) -> anyhow::Result<()> {
    let attributes = if agent.attributes.is_empty() {
        "-".to_owned()
    } else {
        agent.attributes.join(", ")
    };
    output::one(
        ctx.output,
        agent,
        &[
            ("id", agent.id.as_str().into()),
            ("host", agent.hostname.as_str().into()),
            ("url", agent.url.as_str().into()),
            ("state", view::state(&agent.state)),
            ("since", output::clock(agent.since).into()),
            ("version", agent.version.as_str().into()),
            ("attributes", attributes.into()),
            ("tasks", agent.tasks_live.to_string().into()),
            ("total", view::resources(&agent.total).into()),
            ("allocated", view::resources(&agent.allocated).into()),
            ("offered", view::resources(&agent.offered).into()),
            ("free", view::resources(&agent.free).into()),
        ],
    )
}

impl Row for AgentView {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "HOST", "STATE", ">FOR", ">CPUS", ">MEM", ">TASKS", "URL",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.id.as_str().into(),
            self.hostname.as_str().into(),
            view::state(&self.state),
            output::age(self.since).into(),
            view::cpus_of(&self.allocated, &self.total).into(),
            view::mem_of(&self.allocated, &self.total).into(),
            self.tasks_live.to_string().into(),
            self.url.as_str().into(),
        ]
    }
}
