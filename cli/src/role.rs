//! `allot role`: who shares the cluster, and how it is shared at this moment.

use std::process::ExitCode;

use allotment_proto::allot::{ListRolesRequest, RoleView};

use crate::context::Context;
use crate::output::{self, Cell, Row, Watch};
use crate::view;

/// Arguments of `allot role`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the roles
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let Command::List { watch } = args.command;
    output::listing(ctx.output, watch, async || {
        let answer = ctx.operator().await?.list_roles(ListRolesRequest {}).await;
        Ok(answer
            .map_err(|status| ctx.refused(&status))?
            .into_inner()
            .roles)
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

impl Row for RoleView {
    const COLUMNS: &'static [&'static str] = &[
        "ROLE",
        ">WEIGHT",
        ">FRAMEWORKS",
        ">CPUS",
        ">MEM",
        ">SHARE",
        "OFFERED",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            output::short(self.weight).into(),
            self.frameworks.len().to_string().into(),
            output::short(view::scalar(&self.allocated, "cpus")).into(),
            output::mib(view::scalar(&self.allocated, "mem")).into(),
            view::percent(self.dominant_share).into(),
            view::resources(&self.offered).into(),
        ]
    }
}
