//! The leader of many agents is killed: until the next one knows them all, and all their tasks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use allotment_framework_sdk::leader;
use allotment_proto::allot;
use allotment_proto::allot::operator_client::OperatorClient;

use super::crowd::{Crowd, Plan};
use super::fleet::Fleet;
use super::trio::{Trio, until};
use super::{Place, number};
use crate::cpu;
use crate::report::{Number, clock, ms, note};

const TASKS_EACH: usize = 10;
/// The most tasks that a master lets one framework have is a little above.
const TASKS_PER_FRAMEWORK: usize = 50_000;

pub(super) fn measure(
    place: &Place<'_>,
    n_agents: usize,
    target: &str,
    peer: &str,
) -> anyhow::Result<Vec<Number>> {
    let n_agents = (n_agents / place.shrink).max(1);
    let n_tasks = n_agents * TASKS_EACH;
    let mut trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let begun = clock();
    let fleet = Fleet::start(&masters, n_agents, &"cpus:16;mem:65536".parse()?);
    until("every agent registered", || {
        let reigns = fleet.counts.reigns();
        reigns
            .values()
            .any(|reign| reign.n_agents >= n_agents)
            .then_some(())
    })?;
    note(&format!(
        "{n_agents} agents registered in {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let n_frameworks = n_tasks.div_ceil(TASKS_PER_FRAMEWORK);
    let each = n_tasks.div_ceil(n_frameworks) as u64;
    let plan = Plan {
        masters: masters.clone(),
        prefix: "lasting".to_owned(),
        resources: "cpus:1;mem:16".parse()?,
        batch: TASKS_EACH as u64,
        open_max: 5_000,
        total: each,
        pause: Duration::ZERO,
    };
    let begun = clock();
    let _lasting = Crowd::start(n_frameworks, &plan);
    let n_tasks = each * n_frameworks as u64;
    until("all tasks run", || {
        (fleet.counts.settled.load(Ordering::Relaxed) >= n_tasks).then_some(())
    })?;
    note(&format!(
        "{n_tasks} tasks run after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let leader = trio.leader()?;
    let before = fleet.counts.reigns();
    let own = || Ok::<_, anyhow::Error>(cpu::times(std::process::id())?.own);
    let (used, own_used) = (trio.cpu()?, own()?);
    let died = clock();
    trio.kill(leader)?;
    let first = until("the next leader knows every agent", || {
        let reigns = fleet.counts.reigns();
        let new = reigns
            .iter()
            .find(|(reign, _)| !before.contains_key(*reign));
        new.filter(|(_, new)| new.n_agents >= n_agents)
            .map(|(_, new)| new.since)
    })?;
    let took = died.elapsed();
    let (uses, own_uses) = (trio.cpu()?, own()?);
    let first = ms(first.duration_since(died));
    note(&format!(
        "the next leader had its first agent after {first}"
    ));
    let known = place.runtime.block_on(known(&masters))?;
    anyhow::ensure!(
        known == (n_agents as u64, n_tasks),
        "the leader knows {known:?} agents and tasks, not {:?}",
        (n_agents, n_tasks)
    );
    let pid = trio.leader_pid()?;
    let of_leader = |at: &BTreeMap<u32, Duration>| at.get(&pid).copied().unwrap_or_default();
    let leader_used = of_leader(&uses).saturating_sub(of_leader(&used));
    let what =
        format!("leader killed, until all of {n_agents} agents and {n_tasks} tasks are known");
    let seconds = |span: Duration| format!("{:.2} s", span.as_secs_f64());
    Ok(vec![
        number(&what, seconds(took), target, peer),
        number(
            &format!("{what}: the next leader's CPU"),
            seconds(leader_used),
            "",
            "",
        ),
        number(
            &format!("{what}: the simulated agents' CPU"),
            seconds(own_uses.saturating_sub(own_used)),
            "",
            "",
        ),
    ])
}

/// How many agents and live tasks the leader says it knows.
async fn known(masters: &[String]) -> anyhow::Result<(u64, u64)> {
    let urls: Vec<String> = masters.iter().map(|at| format!("http://{at}")).collect();
    let leader = leader::find(&urls).await.map_err(anyhow::Error::msg)?;
    let mut client = OperatorClient::new(leader.channel);
    let cluster = client
        .get_cluster(allot::GetClusterRequest {})
        .await?
        .into_inner();
    Ok((cluster.agents.into(), cluster.tasks_live.into()))
}
