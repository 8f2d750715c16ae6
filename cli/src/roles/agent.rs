//! `allot agent`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_agent::{Attributes, Config, Isolation};
use allotment_types::Resources;

use super::{Common, Role, duration, serve, set, state_folder, usage};
use crate::context::Context;

/// Arguments of `allot agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; 0 picks a free one
    #[arg(long, default_value_t = 5051)]
    port: u16,
    /// Address to serve on; 0.0.0.0 for every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ip: IpAddr,
    /// The name of this machine in offers [default: its host name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The name or address under which others reach this agent [default: the address, or the host
    /// name with --ip 0.0.0.0]
    #[arg(long, value_name = "NAME")]
    advertise: Option<String>,
    /// Folder of sandboxes and of what the agent remembers [default: allot/agent in $XDG_STATE_HOME, which is ~/.local/state
    /// unless set]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// What to offer, such as `cpus:4;mem:4096;disk:10000;ports:[31000-32000]` [default: what the
    /// machine has]
    #[arg(long)]
    resources: Option<Resources>,
    /// Facts that frameworks may choose by, such as `rack:r7;zone:eu`
    #[arg(long)]
    attributes: Option<Attributes>,
    /// Walls around tasks: auto (all that this machine can give), none (plain processes), or a
    /// list of cgroups,namespaces that must all be there
    #[arg(long, default_value = "auto")]
    isolation: Isolation,
    /// Run every task as the agent's own user, whatever user it names
    #[arg(long)]
    no_switch_user: bool,
    /// How long the sandbox of an ended task is kept
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    gc_delay: Option<Duration>,
    /// End every task when this agent ends, however it ends. Otherwise tasks go on, and the next
    /// agent on the same folder takes them up; SIGUSR1 ends them and takes the agent out of the
    /// cluster
    #[arg(long)]
    tasks_end_with_agent: bool,
    /// Put a task's stdout or stderr aside as stdout.1 once it is this large, such as 10MB
    /// [default: let it grow]; tasks may say otherwise in CONTAINER_LOGGER_MAX_STDOUT_SIZE
    #[arg(long, value_name = "SIZE", value_parser = Config::log_size)]
    log_size_max: Option<u64>,
    /// How many such files are kept of each
    #[arg(long, value_name = "N", requires = "log_size_max")]
    log_files_max: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Runs the role.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Config {
        listen: SocketAddr::new(args.ip, args.port),
        hostname: args.hostname,
        advertise: args.advertise,
        masters: ctx.masters.clone(),
        work_dir: args.work_dir.map_or_else(|| state_folder("agent"), Ok)?,
        resources: args.resources,
        attributes: args.attributes.unwrap_or_default(),
        isolation: args.isolation,
        switch_user: !args.no_switch_user,
        tasks_outlive_agent: !args.tasks_end_with_agent,
        log_size_max: args.log_size_max,
        ..Config::default()
    };
    set(&mut config.gc_delay, args.gc_delay);
    set(&mut config.log_files_max, args.log_files_max);
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        allotment_agent::start(config).await.map(Role::Agent)
    })
    .await
}
