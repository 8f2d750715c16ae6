//! `allot local`: the whole cluster in one process and one folder.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_agent::Attributes;
use allotment_types::{FaultDomain, Resources};
use anyhow::Context as _;

use crate::cluster::{AgentSettings, Cluster, Settings, machine, plan};
use crate::roles::{self, Role, make_folder};
use crate::signals;

/// Arguments of `allot local`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many agents
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    agents: u16,
    /// Folder of everything that lasts [default: allot/local in $XDG_STATE_HOME, which is
    /// ~/.local/state unless set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The master's port, which the agents' ports follow; 0 picks a free one for every role
    #[arg(long, default_value_t = 5050)]
    port: u16,
    /// The services framework's port [default: 8080, or 0 with --port 0]
    #[arg(long, value_name = "PORT")]
    services_port: Option<u16>,
    /// The batch framework's port [default: 9618, or 0 with --port 0]
    #[arg(long, value_name = "PORT")]
    batch_port: Option<u16>,
    /// What each agent hands out, such as `cpus:2;mem:2048;ports:[31000-31099]`; give it once for
    /// all agents or once per agent [default, also for kinds left out: an equal share of this
    /// machine]
    #[arg(long, value_name = "RESOURCES")]
    resources: Vec<Resources>,
    /// Where the master and the agents stand, as region/zone; give it once for all or once per
    /// agent: the master then stands in the first one
    #[arg(long, value_name = "REGION/ZONE")]
    domain: Vec<FaultDomain>,
    /// How long a framework may hold an offer
    #[arg(long, value_parser = roles::duration, value_name = "DURATION")]
    offer_timeout: Option<Duration>,
    #[command(flatten)]
    allocator: roles::allocator::Flags,
}

/// Runs the cluster until SIGINT, SIGTERM or the death of a role.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut ended = std::pin::pin!(signals::ended()?);
    let settings = settings(args)?;
    // All agents share the machine, so one of them speaks for all.
    let mut noted = false;
    let on_ready = |role: &Role| {
        if role.name() == "agent" && !std::mem::replace(&mut noted, true) {
            roles::note_missing_walls(role);
        }
        role.announce()
    };
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&settings, on_ready) => cluster?,
        () = &mut ended => return Ok(ExitCode::SUCCESS),
    };
    let died = tokio::select! {
        error = cluster.died() => Some(error),
        () = &mut ended => None,
    };
    cluster.stop().await;
    died.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn settings(args: Args) -> anyhow::Result<Settings> {
    let folder = match args.data {
        Some(folder) => folder,
        None => roles::state_folder("local")?,
    };
    make_folder(&folder)?;
    let folder = folder
        .canonicalize()
        .with_context(|| format!("cannot find the folder {}", folder.display()))?;
    let frameworks = |port: Option<u16>, default: u16| match port {
        Some(port) => port,
        None if args.port == 0 => 0,
        None => default,
    };
    let n_agents = usize::from(args.agents);
    let shares = plan::share(machine::measure(&folder), args.agents.into());
    const NOTHING: &Resources = &Resources::EMPTY;
    let given: Vec<&Resources> = match args.resources.as_slice() {
        [] => vec![NOTHING; n_agents],
        [same] if n_agents > 1 && !same.ports().is_empty() => {
            return Err(roles::usage(format!(
                "--resources would hand out the same ports on {n_agents} agents of one machine; \
                 leave ports out, or give --resources once per agent"
            )));
        }
        [same] => vec![same; n_agents],
        each if each.len() == n_agents => each.iter().collect(),
        each => {
            return Err(roles::usage(format!(
                "--resources is given {} times for {n_agents} agents; give it once for all, or \
                 once per agent",
                each.len()
            )));
        }
    };
    let shares = shares
        .iter()
        .zip(given)
        .map(|(share, given)| plan::fill(given, share));
    let domains = domains(args.domain, n_agents)?;
    let master_domain = domains.first().cloned().flatten();
    let agents = shares
        .zip(1..)
        .zip(domains)
        .map(|((resources, i), domain)| {
            let port = if args.port == 0 {
                Some(0)
            } else {
                args.port.checked_add(i)
            };
            Ok(AgentSettings {
            port: port.ok_or_else(|| {
                roles::usage(format!(
                    "--port {} leaves no room for the ports of {n_agents} agents after it; choose \
                     a lower one, or 0",
                    args.port
                ))
            })?,
            resources,
            attributes: Attributes::default(),
            domain,
        })
        });
    Ok(Settings {
        folder,
        allocator: args.allocator.choice_in(master_domain.as_ref())?,
        domain: master_domain,
        offer_timeout: args.offer_timeout,
        master_port: args.port,
        services_port: frameworks(args.services_port, 8080),
        batch_port: frameworks(args.batch_port, 9618),
        agents: agents.collect::<anyhow::Result<_>>()?,
    })
}

/// Where each agent stands.
fn domains(given: Vec<FaultDomain>, n_agents: usize) -> anyhow::Result<Vec<Option<FaultDomain>>> {
    match given.len() {
        0 => Ok(vec![None; n_agents]),
        1 => Ok(vec![given.into_iter().next(); n_agents]),
        n if n == n_agents => Ok(given.into_iter().map(Some).collect()),
        n => Err(roles::usage(format!(
            "--domain is given {n} times for {n_agents} agents; give it once for all, or once per \
             agent"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_given_once_for_all_agents_or_once_per_agent() {
        let domain = |text: &str| -> FaultDomain { text.parse().unwrap() };
        let (a, b) = (domain("eu/a"), domain("us/b"));
        assert_eq!(domains(Vec::new(), 2).unwrap(), [None, None]);
        let same = domains(vec![a.clone()], 2).unwrap();
        assert_eq!(same, [Some(a.clone()), Some(a.clone())]);
        let each = domains(vec![a.clone(), b.clone()], 2).unwrap();
        assert_eq!(each, [Some(a.clone()), Some(b.clone())]);
        let refused = domains(vec![a, b], 3).unwrap_err().to_string();
        assert!(refused.contains("2 times for 3 agents"), "{refused}");
    }
}
