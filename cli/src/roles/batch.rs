//! `allot batch`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use allotment_batch::Config;

use super::{Common, Role, hostname, serve, state_folder, usage, user};
use crate::context::Context;

/// Arguments of `allot batch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 9618)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// Folder of the queue and its history [default: allot/batch in $XDG_STATE_HOME, which is
    /// ~/.local/state unless set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The framework's name
    #[arg(long, default_value = "batch")]
    name: String,
    /// The role to take offers in
    #[arg(long, value_parser = allotment_types::Role::parse, default_value = "*")]
    role: allotment_types::Role,
    /// The Unix user that jobs run as [default: yours]
    #[arg(long)]
    user: Option<String>,
    /// Where agents on other machines reach this process to fetch input files [default: the
    /// address it listens on]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the role.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config {
        listen: SocketAddr::new(args.ip, args.port),
        data_dir: args.data.map_or_else(|| state_folder("batch"), Ok)?,
        masters: ctx.masters.clone(),
        name: args.name,
        user: args.user.unwrap_or_else(user),
        role: args.role,
        hostname: hostname(),
        advertised_url: args.advertise,
        ..Config::default()
    };
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        allotment_batch::start(config).await.map(Role::Batch)
    })
    .await
}
