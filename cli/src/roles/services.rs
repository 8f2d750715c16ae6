//! `allot services`.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use allotment_services::Config;

use super::{Common, Role, by_name, duration, serve, usage, user};
use crate::context::Context;

/// Arguments of `allot services`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// The framework's name, which also names its state in the master's store
    #[arg(long, default_value = "services")]
    name: String,
    /// The role to take offers in
    #[arg(long, value_parser = allotment_types::Role::parse, default_value = "*")]
    role: allotment_types::Role,
    /// The Unix user that tasks run as when their app names none [default: yours]
    #[arg(long)]
    user: Option<String>,
    /// How long the master keeps tasks while no services process is there
    #[arg(long, value_parser = duration, default_value = "168h", value_name = "DURATION")]
    failover_timeout: Duration,
    /// Where other services processes of this name reach this one [default: the address it
    /// listens on, or this machine's name when that is every interface]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Of several processes of one name one leads: how long leadership stays with one that is
    /// not heard of
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "DURATION")]
    leader_lease: Duration,
    #[command(flatten)]
    common: Common,
}

/// Runs the role.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config {
        advertised_url: args.advertise.or_else(|| by_name(args.ip, args.port)),
        leader_lease: args.leader_lease,
        master: ctx.master.clone(),
        ip: args.ip,
        port: args.port,
        name: args.name,
        role: args.role,
        user: args.user.unwrap_or_else(user),
        failover_timeout: args.failover_timeout,
        ..Config::default()
    };
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        allotment_services::start(config).await.map(Role::Services)
    })
    .await
}
