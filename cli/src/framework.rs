//! `allot framework`: who is offered the cluster's resources.

use std::process::ExitCode;

use allotment_proto::allot::{FrameworkView, ListFrameworksRequest, RemoveFrameworkRequest};

use crate::context::Context;
use crate::output::{self, Cell, Row, Watch};
use crate::view;

/// Arguments of `allot framework`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the frameworks
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Remove a framework for good and kill its tasks
    Rm {
        /// Its id, the beginning of it, or its name
        framework: String,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || frameworks(ctx).await).await?;
        }
        Command::Rm { framework } => {
            let frameworks = frameworks(ctx).await?;
            let found = view::pick("framework", &framework, &frameworks, |f| (&f.id, &f.name))?;
            let request = RemoveFrameworkRequest {
                framework_id: found.id.clone(),
            };
            let answer = ctx.operator().await?.remove_framework(request).await;
            answer.map_err(|status| ctx.refused(&status))?;
            output::line(&format!(
                "framework {} ({}) is removed; {} live tasks are being killed",
                found.id, found.name, found.tasks_live
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn frameworks(ctx: &Context) -> anyhow::Result<Vec<FrameworkView>> {
    let mut operator = ctx.operator().await?;
    let answer = operator.list_frameworks(ListFrameworksRequest {}).await;
    let answer = answer.map_err(|status| ctx.refused(&status))?;
    Ok(answer.into_inner().frameworks)
}

impl Row for FrameworkView {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "NAME", "ROLES", "STATE", ">FOR", ">TASKS", ">OFFERS", ">CPUS", ">MEM", ">SHARE",
        "URL",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.id.as_str().into(),
            self.name.as_str().into(),
            self.roles.join(",").into(),
            view::state(&self.state),
            output::age(self.since).into(),
            self.tasks_live.to_string().into(),
            self.offers_outstanding.to_string().into(),
            output::short(view::scalar(&self.allocated, "cpus")).into(),
            output::mib(view::scalar(&self.allocated, "mem")).into(),
            view::percent(self.dominant_share).into(),
            self.webui_url.as_deref().unwrap_or("-").into(),
        ]
    }
}
