//! The leader is killed, again and again, until another one accepts launches.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;

use super::crowd::{Crowd, Plan};
use super::fleet::{BRIEF, Fleet, Reign};
use super::trio::{Trio, until};
use super::{Place, number};
use crate::report::{Number, clock, ms, note, percentile};

/// Agents, and tasks on each.
const AGENTS: usize = 1_000;
const TASKS_EACH: usize = 10;
/// Longer than any failover should take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn measure(place: &Place<'_>, runs: usize) -> anyhow::Result<Vec<Number>> {
    let n_agents = (AGENTS / place.shrink).max(1);
    let n_tasks = n_agents * TASKS_EACH;
    let mut trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let fleet = Fleet::start(&masters, n_agents, &"cpus:64;mem:65536".parse()?);
    let plan = Plan {
        masters,
        prefix: "lasting".to_owned(),
        resources: "cpus:1;mem:16".parse()?,
        batch: TASKS_EACH as u64,
        open_max: n_tasks as u64,
        total: n_tasks as u64,
        pause: Duration::ZERO,
    };
    let _lasting = Crowd::start(1, &plan);
    until("all tasks run", || {
        let settled = fleet.counts.settled.load(Ordering::Relaxed);
        (settled >= n_tasks as u64).then_some(())
    })?;
    // Launches a task now and then: the first one that is confirmed ends a failover.
    let probe = Crowd::start(
        1,
        &Plan {
            prefix: BRIEF.to_owned(),
            batch: 1,
            open_max: 1,
            total: u64::MAX,
            pause: Duration::from_millis(20),
            ..plan
        },
    );
    let mut accepted = probe.accepted.clone();
    let mut each = Vec::new();
    for run in 0..runs {
        let before = place.runtime.block_on(async {
            let first = accepted.wait_for(|(subscription, _)| *subscription > 0);
            first.await.map(|accepted| accepted.0)
        })?;
        let leader = trio.leader()?;
        let before_it = fleet.counts.reigns();
        let died = clock();
        trio.kill(leader)?;
        let at = place.runtime.block_on(async {
            let next = accepted.wait_for(|(subscription, _)| *subscription > before);
            let next = tokio::time::timeout(PATIENCE, next).await;
            next.context("no launch was accepted any more")?
                .map(|accepted| accepted.1)
                .context("the framework has ended")
        })?;
        let took = at.duration_since(died);
        let new = |reigns: &BTreeMap<String, Reign>| {
            let mut reigns = reigns.iter();
            let new = reigns.find(|(reign, _)| !before_it.contains_key(*reign));
            new.map(|(_, reign)| *reign)
        };
        let first = new(&fleet.counts.reigns()).map(|reign| reign.since.duration_since(died));
        note(&format!(
            "failover {} of {runs}: {}; the first agent was back after {}",
            run + 1,
            ms(took),
            first.map_or_else(|| "that".to_owned(), ms)
        ));
        each.push(took);
        trio.restart(leader)?;
        trio.healthy()?;
        until("every agent is back", || {
            let reign = new(&fleet.counts.reigns())?;
            (reign.n_agents >= n_agents).then_some(())
        })?;
        // A member that just started grants no vote for one election timeout.
        std::thread::sleep(Duration::from_secs(2));
    }
    let what = format!(
        "leader killed, {n_agents} agents, {n_tasks} tasks: launches accepted again, {runs} runs"
    );
    Ok(vec![
        number(
            &format!("{what}, p50"),
            ms(percentile(&mut each, 50)),
            "1000 ms",
            "",
        ),
        number(
            &format!("{what}, p99"),
            ms(percentile(&mut each, 99)),
            "2000 ms",
            "",
        ),
    ])
}
