//! `allot master`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_master::Config;

use super::{Common, Role, duration, serve, set, state_folder, usage};

/// Arguments of `allot master`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 5050)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// The host name that others reach this master by [default: the address]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Folder of the registry [default: allot/master in $XDG_STATE_HOME, which is
    /// ~/.local/state unless set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How long an agent may be silent before it counts as unreachable
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    agent_timeout: Option<Duration>,
    /// How often agents are pinged
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    agent_ping_interval: Option<Duration>,
    /// How long a framework may hold an offer
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    offer_timeout: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

/// Runs the role.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Config {
        listen: SocketAddr::new(args.ip, args.port),
        hostname: args.hostname,
        data_dir: args.data.map_or_else(|| state_folder("master"), Ok)?,
        ..Config::default()
    };
    set(&mut config.agent_timeout, args.agent_timeout);
    set(&mut config.agent_ping_interval, args.agent_ping_interval);
    set(&mut config.offer_timeout, args.offer_timeout);
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        allotment_master::start(config).await.map(Role::Master)
    })
    .await
}
