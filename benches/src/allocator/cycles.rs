//! Full cycles over everything, cycles with nothing left, and one agent that comes free.

use allotment_allocator::{Grant, Recovery};

use super::cluster::{Bench, EMPTY, Roles, USED_TOTAL, grant_of, used as in_use};
use super::timing::{Samples, peak};
use crate::report::Number;

/// How often everything is given back and allocated again.
const ROUNDS: usize = 4;

/// What Mesos takes for a steady cycle, and its memory.
fn peer(agents: usize, roles: Roles) -> (&'static str, &'static str, &'static str) {
    match (agents, roles) {
        (10_000, Roles::Single) => ("Mesos 264 ms", "Mesos 17 ms", "Mesos 238 MB"),
        (10_000, Roles::Own) => ("Mesos 672 ms", "Mesos 370 ms", "Mesos 5,860 MB"),
        (30_000, Roles::Own) => ("Mesos 2,270 ms", "Mesos 1,268 ms", "Mesos 17,474 MB"),
        (50_000, Roles::Single) => ("Mesos 5,798 ms", "Mesos 224 ms", "Mesos 916 MB"),
        _ => ("", "", ""),
    }
}

/// W-EMPTY: agents first, then frameworks; cycle 0, then everything is given back and allocated
/// again; then a cycle with nothing left.
pub(super) fn empty(
    agents: usize,
    frameworks: usize,
    roles: Roles,
    targets: [&str; 2],
) -> anyhow::Result<Vec<Number>> {
    let mut bench = Bench::new(agents, frameworks)?;
    let mut numbers = Vec::new();
    filled(
        &mut bench,
        agents,
        frameworks,
        roles,
        targets[0],
        &mut numbers,
    )?;
    let (_, idle, memory) = peer(agents, roles);
    let title = title("W-EMPTY", agents, frameworks, roles);
    numbers.push(nothing_left(&mut bench, &title, idle)?);
    numbers.push(Number::new(
        &format!("{title}: peak memory"),
        peak()?,
        targets[1],
        memory,
    ));
    Ok(numbers)
}

fn title(workload: &str, agents: usize, frameworks: usize, roles: Roles) -> String {
    format!("{workload} {agents} x {frameworks}, {}", roles.words())
}

/// Leaves everything allocated.
fn filled(
    bench: &mut Bench,
    agents: usize,
    frameworks: usize,
    roles: Roles,
    target: &str,
    numbers: &mut Vec<Number>,
) -> anyhow::Result<()> {
    let title = title("W-EMPTY", agents, frameworks, roles);
    let agent_specs = bench.agent_specs(EMPTY, |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(roles)?;
    let (mut adding_agents, mut adding_frameworks) = (Samples::default(), Samples::default());
    adding_agents.time(|| bench.add_agents(agent_specs));
    bench.module.pause();
    adding_frameworks.time(|| bench.add_frameworks(framework_specs));
    bench.module.resume();
    let (mut first, mut steady) = (Samples::default(), Samples::default());
    let mut recover = Samples::default();
    let mut offers = first.time(|| bench.cycle());
    bench.check_equal(&offers)?;
    for _ in 0..ROUNDS {
        recover.time(|| bench.recover(&offers, Recovery::Rescinded));
        offers = steady.time(|| bench.cycle());
        bench.check_equal(&offers)?;
    }
    let large = agents == 50_000;
    let added = |large_target: &'static str| if large { large_target } else { "" };
    numbers.extend([
        Number::new(
            &format!("{title}: add the agents"),
            adding_agents.median(),
            added("≤ 50 ms"),
            added("Mesos 541 ms"),
        ),
        Number::new(
            &format!("{title}: add the frameworks"),
            adding_frameworks.median(),
            added("≤ 50 ms"),
            added("Mesos 170,875 ms"),
        ),
        Number::new(&format!("{title}: cycle 0"), first.median(), target, ""),
        Number::new(
            &format!("{title}: steady cycle"),
            steady.median(),
            target,
            peer(agents, roles).0,
        ),
        Number::new(
            &format!("{title}: recover all"),
            recover.median(),
            "",
            match (agents, roles) {
                (10_000, Roles::Single) => "Mesos 136 ms",
                (10_000, Roles::Own) => "Mesos 137 ms",
                (30_000, Roles::Own) => "Mesos 444 ms",
                (50_000, Roles::Single) => "Mesos 859 ms",
                _ => "",
            },
        ),
    ]);
    Ok(())
}

/// Cycles right after one that allocated everything.
fn nothing_left(bench: &mut Bench, title: &str, peer: &str) -> anyhow::Result<Number> {
    let mut idle = Samples::default();
    for _ in 0..1000 {
        let offers = idle.time(|| bench.cycle());
        anyhow::ensure!(offers.is_empty(), "offers without news: {offers:?}");
    }
    let what = format!("{title}: nothing left");
    Ok(Number::new(&what, idle.median(), "≤ 10 µs", peer))
}

/// W-EMPTY at its largest: also one agent that comes free at a time.
pub(super) fn largest(agents: usize, frameworks: usize) -> anyhow::Result<Vec<Number>> {
    let roles = Roles::Single;
    let mut bench = Bench::new(agents, frameworks)?;
    let mut numbers = Vec::new();
    filled(
        &mut bench,
        agents,
        frameworks,
        roles,
        "≤ 70 ms",
        &mut numbers,
    )?;
    let title = title("W-EMPTY", agents, frameworks, roles);
    let (_, idle, memory) = peer(agents, roles);
    numbers.push(nothing_left(&mut bench, &title, idle)?);
    let freed = one_freed(&mut bench, agents, roles, 10_000)?;
    numbers.push(Number::new(
        &format!("{title}: one agent freed, to its allocation"),
        freed.tail(),
        "≤ 20 µs p50, ≤ 200 µs p99",
        "Mesos up to 1 s by design",
    ));
    numbers.push(Number::new(
        &format!("{title}: peak memory"),
        peak()?,
        "",
        memory,
    ));
    Ok(numbers)
}

/// All agents are allocated; one after the other, in steps that visit them all, comes back and is
/// allocated again.
pub(super) fn one_freed(
    bench: &mut Bench,
    agents: usize,
    roles: Roles,
    times: usize,
) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for n in 0..times {
        // 7,919 is a prime that divides none of the cluster sizes.
        let agent = allotment_types::AgentId::parse(&format!("agent{}", n * 7919 % agents + 1))?;
        let held = bench.module.held(&agent);
        let [grant] = held.as_slice() else {
            anyhow::bail!("agent {agent} should be held by one, but is held by {held:?}");
        };
        let now = bench.now;
        let round = samples.time(|| {
            bench.module.recover(now, &agent, grant, Recovery::Ended);
            bench.module.allocate(now)
        });
        let whole = round.allocations.first().map(grant_of);
        anyhow::ensure!(
            round.allocations.len() == 1 && whole.is_some_and(|x| x.resources == grant.resources),
            "one agent came free in {}, but was decided: {round:?}",
            roles.words()
        );
    }
    Ok(samples)
}

/// W-USED: frameworks first, then agents on which two thirds run already.
pub(super) fn used(agents: usize, frameworks: usize) -> anyhow::Result<Vec<Number>> {
    let roles = Roles::Single;
    let mut bench = Bench::new(agents, frameworks)?;
    let specs = used_specs(&bench, frameworks, roles)?;
    let framework_specs = bench.framework_specs(roles)?;
    let mut adding = Samples::default();
    bench.module.pause();
    bench.add_frameworks(framework_specs);
    adding.time(|| bench.add_agents(specs));
    bench.module.resume();
    let (mut first, mut steady, mut recover) =
        (Samples::default(), Samples::default(), Samples::default());
    let mut offers = first.time(|| bench.cycle());
    bench.check_equal(&offers)?;
    for _ in 0..ROUNDS {
        recover.time(|| bench.recover(&offers, Recovery::Rescinded));
        offers = steady.time(|| bench.cycle());
        bench.check_equal(&offers)?;
    }
    let title = title("W-USED", agents, frameworks, roles);
    let row = |what: &str, samples: Samples, peer: &str| {
        Number::new(&format!("{title}: {what}"), samples.median(), "", peer)
    };
    Ok(vec![
        row("add the agents", adding, "Mesos 288 ms"),
        row("cycle 0", first, "Mesos 476 ms"),
        row("steady cycle", steady, "Mesos 451 ms"),
        row("recover all", recover, "Mesos 341 ms"),
        Number::new(
            &format!("{title}: peak memory"),
            peak()?,
            "",
            "Mesos 442 MB",
        ),
    ])
}

/// Agents on which framework `i mod F` holds two thirds.
pub(super) fn used_specs(
    bench: &Bench,
    frameworks: usize,
    roles: Roles,
) -> anyhow::Result<Vec<allotment_allocator::AgentSpec>> {
    bench.agent_specs(USED_TOTAL, |n| {
        Ok(vec![Grant {
            framework: bench.framework(n % frameworks)?.clone(),
            role: roles.of(n % frameworks)?,
            resources: in_use()?,
        }])
    })
}
