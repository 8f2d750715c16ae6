//! Tasks through the leader, and what the live ones cost it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;

use super::crowd::{Crowd, Plan};
use super::fleet::{BRIEF, Fleet};
use super::trio::{Trio, until};
use super::{Place, number};
use crate::cpu;
use crate::report::{Number, clock, note};

const AGENTS: usize = 500;
const FRAMEWORKS: usize = 4;
/// Until connections, queues and the allocator are in their stride.
const WARM_UP: Duration = Duration::from_secs(3);
/// A million tasks: frameworks, and tasks of each. A master lets each have a few more.
const HOLDERS: usize = 20;
const HELD_EACH: u64 = 50_000;

pub(super) fn measure_rate(place: &Place<'_>, seconds: u64) -> anyhow::Result<Vec<Number>> {
    let trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let n_agents = (AGENTS / place.shrink).max(1);
    let fleet = Fleet::start(&masters, n_agents, &"cpus:1000;mem:1000000".parse()?);
    let _crowd = Crowd::start(
        FRAMEWORKS,
        &Plan {
            masters,
            prefix: BRIEF.to_owned(),
            resources: "cpus:1;mem:16".parse()?,
            batch: 200,
            open_max: 2_000,
            total: u64::MAX,
            pause: Duration::ZERO,
        },
    );
    std::thread::sleep(WARM_UP);
    let leader = trio.leader_pid()?;
    let closed = || fleet.counts.closed.load(Ordering::Relaxed);
    let (before, used, begun) = (closed(), cpu::times(leader)?, clock());
    std::thread::sleep(Duration::from_secs(seconds));
    let n = (closed() - before) as f64;
    let rate = n / begun.elapsed().as_secs_f64();
    let used = cpu::times(leader)?.since(used).own.as_secs_f64();
    let what = "tasks through the leader, launch to acknowledged end";
    Ok(vec![
        number(what, format!("{rate:.0} /s"), "50000 /s", ""),
        number(
            &format!("{what}: the leader's CPU for each"),
            format!("{:.1} us", used / n * 1e6),
            "",
            "",
        ),
    ])
}

pub(super) fn measure_memory(place: &Place<'_>) -> anyhow::Result<Vec<Number>> {
    let trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let each = (HELD_EACH / place.shrink as u64).max(1);
    let n_tasks = each * HOLDERS as u64;
    let fleet = Fleet::start(&masters, AGENTS, &"cpus:10000;mem:1000000".parse()?);
    until("every agent registered", || {
        let reigns = fleet.counts.reigns();
        reigns
            .values()
            .any(|reign| reign.n_agents >= AGENTS)
            .then_some(())
    })?;
    let leader = trio.leader_pid()?;
    let before = resident(leader)?;
    let begun = clock();
    let _crowd = Crowd::start(
        HOLDERS,
        &Plan {
            masters,
            prefix: "lasting".to_owned(),
            resources: "cpus:0.1;mem:1".parse()?,
            batch: 200,
            open_max: 2_000,
            total: each,
            pause: Duration::ZERO,
        },
    );
    let mut said = 0;
    while fleet.counts.settled.load(Ordering::Relaxed) < n_tasks {
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(240),
            "only {} of {n_tasks} tasks run",
            fleet.counts.settled.load(Ordering::Relaxed)
        );
        std::thread::sleep(Duration::from_millis(50));
        if begun.elapsed().as_secs() / 10 > said {
            said += 1;
            let n = fleet.counts.settled.load(Ordering::Relaxed);
            note(&format!("{n} of {n_tasks} tasks run"));
        }
    }
    let took = begun.elapsed();
    let bytes = resident(leader)?.saturating_sub(before) as f64 / n_tasks as f64;
    Ok(vec![
        number(
            &format!("the leader's memory for each of {n_tasks} live tasks"),
            format!("{bytes:.0} bytes"),
            "2048 bytes",
            "",
        ),
        number(
            "until all of them ran",
            format!("{:.1} s", took.as_secs_f64()),
            "",
            "",
        ),
    ])
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("a VmRSS line")?.parse()?;
    Ok(kib * 1024)
}
