//! `allot batch`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_batch::Config;

use super::{Common, Role, by_name, duration, hostname, serve, state_folder, usage, user};
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
    /// Folder of the queue and its history, shared by the processes that stand in for each
    /// other [default: allot/batch in $XDG_STATE_HOME, which is
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
    /// Where agents on other machines, which fetch input files, and standbys reach this process
    /// [default: the address it listens on, or this machine's name when that is every interface]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Of several processes with one folder one serves: how long a standby leaves the queue to
    /// one that is not heard of
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "DURATION")]
    leader_lease: Duration,
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
        advertised_url: args.advertise.or_else(|| by_name(args.ip, args.port)),
        leader_lease: args.leader_lease,
        ..Config::default()
    };
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        allotment_batch::start(config).await.map(Role::Batch)
    })
    .await
}
