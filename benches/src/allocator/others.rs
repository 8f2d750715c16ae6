//! Quota, frameworks that finish, explanation, memory.

use std::time::Duration;

use allotment_allocator::{Amounts, FrameworkSpec, Grant, Quota, Recovery, RoleSpec};
use allotment_types::{Fixed, FrameworkId, Name, Resources, Role};

use super::cluster::{Bench, EMPTY, Roles, declined, grant_of};
use super::timing::{Samples, peak, resident};
use crate::report::{Number, clock};

fn amounts(cpus: u64, mem: u64, disk: u64) -> Amounts {
    Amounts::from([
        (Name::CPUS, Fixed::units(cpus)),
        (Name::MEM, Fixed::units(mem)),
        (Name::DISK, Fixed::units(disk)),
    ])
}

/// Mesos' LargeAndSmallQuota: guarantee and limit are the same, a framework per role.
pub(super) fn large_and_small_quota(small: usize, large: usize) -> anyhow::Result<Vec<Number>> {
    let agents = small / 5 + 5 * large;
    let mut bench = Bench::new(agents, small + large)?;
    let specs = bench.agent_specs("cpus:2; mem:2048; disk:2048", |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(Roles::Own)?;
    bench.module.pause();
    bench.add_agents(specs);
    for n in 0..small + large {
        let of = if n < small {
            amounts(1, 1024, 1024)
        } else {
            amounts(4, 4096, 4096)
        };
        let quota = Quota {
            guarantees: of.clone(),
            limits: of,
        };
        bench.module.set_quota(&Roles::Own.of(n)?, quota);
    }
    let mut adding = Samples::default();
    adding.time(|| bench.add_frameworks(framework_specs));
    bench.module.resume();
    let (mut first, mut second) = (Samples::default(), Samples::default());
    let mut offers = first.time(|| bench.cycle());
    check_quotas(&bench, small, large)?;
    for _ in 0..3 {
        for _ in 0..10 {
            let more = second.time(|| bench.cycle());
            anyhow::ensure!(more.is_empty(), "offers beyond the limits: {more:?}");
        }
        bench.recover(&offers, Recovery::Rescinded);
        offers = first.time(|| bench.cycle());
        check_quotas(&bench, small, large)?;
    }
    let title = format!("LargeAndSmallQuota {small} + {large} roles x {agents} agents");
    Ok(vec![
        Number::new(
            &format!("{title}: add the frameworks"),
            adding.median(),
            "",
            "Mesos 8,763 ms",
        ),
        Number::new(
            &format!("{title}: first cycle ({} offers)", offers.len()),
            first.median(),
            "≤ 20 ms",
            "Mesos 7,972 ms (3,500 offers)",
        ),
        Number::new(
            &format!("{title}: second cycle (0 offers)"),
            second.median(),
            "≤ 1 ms",
            "Mesos 7,168 ms",
        ),
        Number::new(
            &format!("{title}: peak memory"),
            peak()?,
            "",
            "Mesos 5,173 MB",
        ),
    ])
}

/// Every role has what it was promised, exactly.
fn check_quotas(bench: &Bench, small: usize, large: usize) -> anyhow::Result<()> {
    for n in 0..small + large {
        let role = Roles::Own.of(n)?;
        let consumed = bench.module.consumed(&role);
        let promised = bench.module.quota(&role).guarantees;
        anyhow::ensure!(
            consumed == promised,
            "role {role} was promised {promised:?}, but consumes {consumed:?}"
        );
    }
    Ok(())
}

/// What a framework of MultiFrameworkAllocations still has to do.
struct Work {
    tasks_left: u32,
    task: Resources,
    tasks_per_offer: u32,
}

/// Mesos' MultiFrameworkAllocations: 554 frameworks launch 19,500 tasks that never end, decline
/// what is left without a filter, never suppress, and go on declining when they are done.
pub(super) fn finishing_frameworks() -> anyhow::Result<Vec<Number>> {
    const ROUNDS_MAX: u32 = 3000;
    let kinds: [(usize, u32, &str, u32); 3] = [
        (4, 4000, "cpus:0.07; mem:400", 100),
        (500, 5, "cpus:0.1; mem:4096", 1),
        (50, 20, "cpus:1; mem:1024", 5),
    ];
    let mut work = Vec::new();
    for (frameworks, tasks, task, tasks_per_offer) in kinds {
        for _ in 0..frameworks {
            work.push(Work {
                tasks_left: tasks,
                task: task.parse()?,
                tasks_per_offer,
            });
        }
    }
    let all: u32 = work.iter().map(|work| work.tasks_left).sum();
    let mut bench = Bench::new(80, work.len())?;
    let specs = bench.agent_specs("cpus:64; mem:488000", |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(Roles::Single)?;
    bench.add_frameworks(framework_specs);
    bench.add_agents(specs);
    let mut cycles = Samples::default();
    let (mut rounds, mut launched) = (0, 0);
    let start = clock();
    while launched < all && rounds < ROUNDS_MAX {
        rounds += 1;
        bench.now = bench.now + Duration::from_secs(1);
        for offer in cycles.time(|| bench.cycle()) {
            let number = offer.framework.as_str().trim_start_matches("framework");
            let work = number
                .parse::<usize>()
                .ok()
                .and_then(|n| work.get_mut(n.checked_sub(1)?));
            let Some(work) = work else {
                anyhow::bail!("an offer to the unknown framework {}", offer.framework);
            };
            let mut left = offer.resources.clone();
            let mut here = 0;
            while here < work.tasks_per_offer && work.tasks_left > 0 && left.contains(&work.task) {
                left.subtract(&work.task);
                work.tasks_left -= 1;
                here += 1;
            }
            launched += here;
            let grant = Grant {
                resources: left,
                ..grant_of(&offer)
            };
            let recovery = Recovery::Declined {
                refuse_for: Duration::ZERO,
                used_some: here > 0,
            };
            bench
                .module
                .recover(bench.now, &offer.agent, &grant, recovery);
        }
    }
    let took = start.elapsed();
    let title = "MultiFrameworkAllocations 80 agents x 554 frameworks";
    Ok(vec![
        Number::new(
            &format!("{title}: tasks launched of {all}"),
            format!("{launched} in {rounds} rounds, {:.2} s", took.as_secs_f64()),
            "19,500",
            "Mesos 5,132 in 3,000 rounds, 2.9 s",
        ),
        Number::new(
            &format!("{title}: cycle"),
            cycles.median(),
            "",
            "Mesos 0.93 ms",
        ),
    ])
}

/// Why one framework was offered nothing, in the three situations that say most.
pub(super) fn explanation(agents: usize) -> anyhow::Result<Vec<Number>> {
    let mut numbers = Vec::new();
    // Others hold everything.
    let mut bench = Bench::new(agents, 1000)?;
    let specs = bench.agent_specs(EMPTY, |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(Roles::Single)?;
    bench.add_agents(specs);
    bench.add_frameworks(framework_specs);
    let offers = bench.cycle();
    bench.check_equal(&offers)?;
    let framework = bench.framework(0)?.clone();
    numbers.push(explained(&bench, &framework, "others hold it all", agents)?);
    // It declined everything itself, and so did everybody else.
    let mut bench = Bench::new(agents, 2)?;
    let specs = bench.agent_specs(EMPTY, |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(Roles::Single)?;
    bench.add_agents(specs);
    bench.add_frameworks(framework_specs);
    for _ in 0..2 {
        let offers = bench.cycle();
        bench.recover(&offers, declined(Duration::from_secs(3600)));
    }
    anyhow::ensure!(bench.cycle().is_empty(), "both frameworks declined all");
    let framework = bench.framework(0)?.clone();
    numbers.push(explained(&bench, &framework, "it declined all", agents)?);
    Ok(numbers)
}

fn explained(
    bench: &Bench,
    framework: &FrameworkId,
    why: &str,
    agents: usize,
) -> anyhow::Result<Number> {
    let mut samples = Samples::default();
    for _ in 0..10 {
        let reasons = samples.time(|| bench.module.explain(bench.now, framework));
        anyhow::ensure!(!reasons.is_empty(), "{why}, but no reason is given");
    }
    let what = format!("explanation of one framework, {agents} agents, {why}");
    Ok(Number::new(&what, samples.median(), "≤ 10 ms", ""))
}

/// `tasks` tasks on each agent, each of another framework, so that no two holdings are one.
pub(super) fn memory(
    agents: usize,
    frameworks: usize,
    tasks: usize,
) -> anyhow::Result<Vec<Number>> {
    let mut bench = Bench::new(agents, frameworks)?;
    let task: Resources = "cpus:1; mem:1024".parse()?;
    let (start, _) = resident()?;
    for n in 0..frameworks {
        let spec = FrameworkSpec {
            roles: [(Role::star(), RoleSpec::default())].into(),
            ..FrameworkSpec::default()
        };
        let id = bench.framework(n)?.clone();
        bench.module.add_framework(&id, spec);
    }
    let total: Resources = EMPTY.parse()?;
    for n in 0..agents {
        let used: Vec<Grant> = (0..tasks)
            .map(|task_n| {
                Ok(Grant {
                    framework: bench.framework((n * tasks + task_n) % frameworks)?.clone(),
                    role: Role::star(),
                    resources: task.clone(),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let spec = allotment_allocator::AgentSpec {
            total: total.clone(),
            used,
            hostname: format!("agent{}", n + 1),
            ..Default::default()
        };
        let id = allotment_types::AgentId::parse(&format!("agent{}", n + 1))?;
        bench.module.add_agent(&id, spec);
    }
    let offers = bench.cycle();
    anyhow::ensure!(
        offers.len() == agents,
        "{} offers of what is left",
        offers.len()
    );
    drop(offers);
    let (end, peak) = resident()?;
    let megabytes = |bytes: u64| bytes / 1_000_000;
    Ok(vec![Number::new(
        &format!(
            "memory, {agents} agents x {frameworks} frameworks x {} tasks, and the rest offered",
            agents * tasks
        ),
        format!(
            "{} MB (peak {} MB)",
            megabytes(end.saturating_sub(start)),
            megabytes(peak)
        ),
        "≤ 200 MB",
        "",
    )])
}
