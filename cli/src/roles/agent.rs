//! `allot agent`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_agent::{
    Attributes, Capabilities, Config, FetcherSettings, Isolation, IsolatorSettings, Running,
};
use allotment_types::{FaultDomain, Resources};

use super::{Common, Role, duration, serve, set, state_folder, usage};
use crate::context::Context;
use crate::output;

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
    /// Where this machine stands, as region/zone: agents of one zone fail together, and those of
    /// another region than the master's are offered to region-aware frameworks alone
    #[arg(long, value_name = "REGION/ZONE")]
    domain: Option<FaultDomain>,
    /// Walls around tasks: auto (all that this machine can give), none (plain processes), or a
    /// list such as cgroups,namespaces that must all be there; auto,cgroups/cpuset,-linux/devices
    /// adds one and leaves one out
    #[arg(long, default_value = "auto")]
    isolation: Isolation,
    #[command(flatten)]
    walls: Walls,
    /// Run every task as the agent's own user, whatever user it names
    #[arg(long)]
    no_switch_user: bool,
    /// How long the sandbox of an ended task is kept at most [default: a week]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    gc_delay: Option<Duration>,
    /// The part of the disk that is to stay free: the fuller it is, the earlier sandboxes go
    /// [default: 0.1]
    #[arg(long, value_name = "PART")]
    gc_disk_headroom: Option<f64>,
    #[command(flatten)]
    fetching: Fetching,
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
    executors: Executors,
    #[command(flatten)]
    common: Common,
}

/// How custom executors are dealt with.
#[derive(Debug, clap::Args)]
struct Executors {
    /// How long a custom executor may take from its start to its subscription [default: 1m]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    executor_registration_timeout: Option<Duration>,
    /// The same once the agent was started anew [default: 2s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    executor_reregistration_timeout: Option<Duration>,
    /// How long a custom executor has to exit when it is asked to, unless it says otherwise
    /// [default: 5s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    executor_shutdown_grace_period: Option<Duration>,
    /// How long a custom executor may be without its agent [default: 15m]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    recovery_timeout: Option<Duration>,
    /// Whether custom executors must prove who they are with the token in their environment;
    /// without it any task on this machine may speak for any executor that knows of none
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    authenticate_http_executors: bool,
}

impl Executors {
    fn apply(self, config: &mut Config) {
        set(
            &mut config.executor_registration_timeout,
            self.executor_registration_timeout,
        );
        set(
            &mut config.executor_reregistration_timeout,
            self.executor_reregistration_timeout,
        );
        set(
            &mut config.executor_shutdown_grace,
            self.executor_shutdown_grace_period,
        );
        set(&mut config.recovery_timeout, self.recovery_timeout);
        config.authenticate_http_executors = self.authenticate_http_executors;
    }
}

/// What single isolators are told.
#[derive(Debug, clap::Args)]
struct Walls {
    /// Make every task's request of cpus its ceiling, too (isolator cgroups/cpu)
    #[arg(long)]
    cgroups_enable_cfs: bool,
    /// Folders below which tasks may mount paths of this machine [default: none]
    #[arg(long, value_name = "DIR,...", value_delimiter = ',')]
    host_path_volumes: Vec<String>,
    /// Capabilities that tasks may gain at most, such as default,NET_RAW
    #[arg(long, value_name = "NAME,...")]
    bounding_capabilities: Option<Capabilities>,
    /// Capabilities that a task of root starts with unless it names others
    #[arg(long, value_name = "NAME,...")]
    effective_capabilities: Option<Capabilities>,
    /// Give every container a /tmp of its own, which lies in its sandbox
    #[arg(long)]
    own_tmp: bool,
    /// Do not end tasks whose sandbox holds more than the disk they asked for
    #[arg(long)]
    no_disk_quota: bool,
    /// How often sandboxes of running tasks are measured [default: 15s]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    container_disk_watch_interval: Option<Duration>,
}

/// How files are fetched for tasks.
#[derive(Debug, clap::Args)]
struct Fetching {
    /// The largest file, and the most that an archive may unpack to, in bytes [default: 10 GiB]
    #[arg(long, value_name = "BYTES")]
    fetch_size_max: Option<u64>,
    /// The size of the cache of fetched files in bytes [default: 2 GiB]
    #[arg(long, value_name = "BYTES")]
    fetcher_cache_size: Option<u64>,
    /// How long a server may say nothing [default: 1m]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    fetcher_stall_timeout: Option<Duration>,
    /// A PEM file of certificate authorities to trust besides those of the machine
    #[arg(long, value_name = "FILE")]
    fetcher_authorities: Option<PathBuf>,
}

impl Walls {
    fn apply(self, settings: &mut IsolatorSettings) {
        settings.cgroups_enable_cfs = self.cgroups_enable_cfs;
        settings.host_path_volumes = self.host_path_volumes;
        settings.own_tmp = self.own_tmp;
        settings.enforce_disk_quota = !self.no_disk_quota;
        set(
            &mut settings.bounding_capabilities,
            self.bounding_capabilities,
        );
        set(
            &mut settings.effective_capabilities,
            self.effective_capabilities,
        );
        set(
            &mut settings.disk_watch_interval,
            self.container_disk_watch_interval,
        );
    }
}

impl Fetching {
    fn apply(self, settings: &mut FetcherSettings) {
        set(&mut settings.size_max, self.fetch_size_max);
        set(&mut settings.cache_size, self.fetcher_cache_size);
        set(&mut settings.stall_timeout, self.fetcher_stall_timeout);
        settings.authorities = self.fetcher_authorities;
    }
}

/// One line for each wall: what it enforces here, or why it cannot be had.
fn tell_walls(agent: &Running) {
    for (isolator, said) in agent.walls() {
        let (mark, clause) = match said {
            Ok(enforces) => ("yes", enforces),
            Err(reason) => ("NO ", reason),
        };
        output::note(&format!("{mark} {:22}{clause}", isolator.name()));
    }
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
        domain: args.domain,
        isolation: args.isolation,
        switch_user: !args.no_switch_user,
        tasks_outlive_agent: !args.tasks_end_with_agent,
        log_size_max: args.log_size_max,
        ..Config::default()
    };
    set(&mut config.gc_delay, args.gc_delay);
    set(&mut config.log_files_max, args.log_files_max);
    set(&mut config.gc_disk_headroom, args.gc_disk_headroom);
    args.walls.apply(&mut config.isolators);
    args.fetching.apply(&mut config.fetcher);
    args.executors.apply(&mut config);
    config.validate().map_err(usage)?;
    serve(&args.common, config, async |config| {
        let agent = allotment_agent::start(config).await?;
        tell_walls(&agent);
        Ok::<_, allotment_agent::StartError>(Role::Agent(agent))
    })
    .await
}
