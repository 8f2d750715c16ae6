//! `allot master`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_master::Config;
use allotment_types::FaultDomain;
use anyhow::Context as _;

use crate::context::Context;
use crate::output;

use super::{Common, Role, allocator, duration, serve, set, state_folder, usage};

/// Arguments of `allot master`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<crate::master::Command>,
    #[command(flatten)]
    serve: Serve,
}

impl Args {
    /// Whether it runs a master, rather than a command about masters.
    pub(crate) const fn serves(&self) -> bool {
        self.command.is_none()
    }
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 5050)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// The host name that others reach this master by [default: the address]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Where this master stands, as region/zone: agents of other regions are offered to
    /// region-aware frameworks alone; masters of one cluster stand in one region
    #[arg(long, value_name = "REGION/ZONE")]
    domain: Option<FaultDomain>,
    /// Folder of the registry [default: allot/master in $XDG_STATE_HOME, which is
    /// ~/.local/state unless set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Let other masters join; makes the secret that they must show
    #[arg(long)]
    bootstrap: bool,
    /// Become a member of the cluster of these masters, separated by commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        conflicts_with = "bootstrap"
    )]
    join: Vec<String>,
    /// File with the secret that masters show each other [default: `secret` in the data folder]
    #[arg(long, env = "ALLOT_MASTER_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// How long the other masters wait for a silent leader, at least
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    election_timeout: Option<Duration>,
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
    allocator: allocator::Flags,
    #[command(flatten)]
    common: Common,
}

/// Runs the role, or a command about masters.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(command) => crate::master::run(ctx, command).await,
        None => serve_master(args.serve).await,
    }
}

async fn serve_master(args: Serve) -> anyhow::Result<ExitCode> {
    let secret = args.secret_file.map(|file| {
        std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read the secret file {}", file.display()))
    });
    let join = args.join.iter().map(|at| {
        let at = at.trim().trim_end_matches('/');
        at.strip_prefix("http://").unwrap_or(at).to_owned()
    });
    let mut config = Config {
        listen: SocketAddr::new(args.ip, args.port),
        hostname: args.hostname,
        domain: args.domain.clone(),
        bootstrap: args.bootstrap,
        join: join.collect(),
        secret: secret.transpose()?,
        data_dir: args.data.map_or_else(|| state_folder("master"), Ok)?,
        ..Config::default()
    };
    set(&mut config.election_timeout, args.election_timeout);
    set(&mut config.agent_timeout, args.agent_timeout);
    set(&mut config.agent_ping_interval, args.agent_ping_interval);
    set(&mut config.offer_timeout, args.offer_timeout);
    config.validate().map_err(usage)?;
    let make = args.allocator.choice_in(args.domain.as_ref())?.make()?;
    serve(&args.common, config, async |config| {
        let (bootstrap, folder) = (config.bootstrap, config.data_dir.clone());
        let master = allotment_master::start_with(config, move || make()).await?;
        if bootstrap {
            output::note(&format!(
                "other masters join with `allot master --join {} --secret-file FILE`, where FILE \
                 is a copy of {}",
                master.url().trim_start_matches("http://"),
                folder.join("secret").display()
            ));
        }
        Ok::<_, anyhow::Error>(Role::Master(master))
    })
    .await
}
