//! W-DECLINE: every offer is declined for a year, until every framework has declined every agent.

use std::time::Duration;

use allotment_allocator::Recovery;

use super::cluster::{Bench, Roles, declined};
use super::cycles::used_specs;
use super::timing::{Samples, peak, resident};
use crate::report::Number;

/// Never, for a benchmark.
const YEAR: Duration = Duration::from_secs(31_536_000);

/// The saturated cycle is the one after the last decline, with news from every agent: Mesos'
/// measure. And once more after every framework subscribed anew, which ends no filter.
pub(super) fn saturated(
    agents: usize,
    frameworks: usize,
    targets: [&str; 2],
) -> anyhow::Result<Vec<Number>> {
    let mut bench = Bench::new(agents, frameworks)?;
    let specs = used_specs(&bench, frameworks, Roles::Single)?;
    let framework_specs = bench.framework_specs(Roles::Single)?;
    bench.add_frameworks(framework_specs);
    bench.add_agents(specs);
    let mut offers = bench.cycle();
    let (before, _) = resident()?;
    let (mut decline, mut cycle) = (Samples::default(), Samples::default());
    let (mut saturated, mut again) = (Samples::default(), Samples::default());
    for round in 1..=frameworks {
        anyhow::ensure!(
            offers.len() == agents,
            "round {round} should offer all {agents} agents, but offered {}",
            offers.len()
        );
        decline.time(|| bench.recover(&offers, declined(YEAR)));
        if round < frameworks {
            offers = cycle.time(|| bench.cycle());
        } else {
            // The last one: every agent has news, every framework declined every agent.
            offers = saturated.time(|| bench.cycle());
            anyhow::ensure!(offers.is_empty(), "{} offers when saturated", offers.len());
        }
    }
    let (after, _) = resident()?;
    for _ in 0..5 {
        let all = bench.framework_specs(Roles::Single)?;
        let offers = again.time(|| {
            bench.add_frameworks(all);
            bench.cycle()
        });
        anyhow::ensure!(offers.is_empty(), "{} offers when saturated", offers.len());
    }
    let mut idle = Samples::default();
    for _ in 0..100 {
        let offers = idle.time(|| bench.cycle());
        anyhow::ensure!(offers.is_empty(), "{} offers when saturated", offers.len());
    }
    let title = format!("W-DECLINE {agents} x {frameworks}, one role");
    let pairs = (agents * frameworks) as u64;
    let per_filter = after.saturating_sub(before) as f64 / pairs as f64;
    let small = agents == 5000;
    let peer = |of_small: &'static str, of_large: &'static str| {
        if small { of_small } else { of_large }
    };
    let mut numbers = vec![
        Number::new(
            &format!("{title}: decline all {agents}"),
            decline.median(),
            "",
            peer("Mesos 183 to 346 ms", "Mesos 370 to 508 ms"),
        ),
        Number::new(
            &format!("{title}: cycle on the way"),
            cycle.median(),
            "",
            peer("Mesos 160 to 2,819 ms", "Mesos 430 ms in the first rounds"),
        ),
        Number::new(
            &format!("{title}: cycle with all pairs filtered"),
            saturated.median(),
            targets[0],
            peer("Mesos 5,913 ms", "Mesos about 50 s (extrapolated)"),
        ),
        Number::new(
            &format!("{title}: all subscribe anew, and a cycle"),
            again.median(),
            "",
            "",
        ),
        Number::new(
            &format!("{title}: a cycle without news"),
            idle.median(),
            "",
            "",
        ),
        Number::new(
            &format!("{title}: memory per filter"),
            format!("{per_filter:.0} bytes"),
            "≤ 64 bytes",
            "Mesos 4,200 to 4,600 bytes",
        ),
        Number::new(
            &format!("{title}: peak memory"),
            peak()?,
            targets[1],
            peer("Mesos 4,402 MB", "Mesos about 43 GB (extrapolated)"),
        ),
    ];
    numbers.push(Number::new(
        &format!("{title}: a framework revives and is offered all"),
        revived(&mut bench, agents)?,
        "",
        "",
    ));
    Ok(numbers)
}

/// One framework forgets its filters, and is offered every agent.
fn revived(bench: &mut Bench, agents: usize) -> anyhow::Result<String> {
    let framework = bench.framework(0)?.clone();
    let mut samples = Samples::default();
    for _ in 0..3 {
        let offers = samples.time(|| {
            bench
                .module
                .revive(&framework, &std::collections::BTreeSet::new());
            bench.cycle()
        });
        anyhow::ensure!(
            offers.len() == agents,
            "{} offers after revive",
            offers.len()
        );
        bench.recover(
            &offers,
            Recovery::Declined {
                refuse_for: YEAR,
                used_some: false,
            },
        );
        anyhow::ensure!(bench.cycle().is_empty(), "saturated again");
    }
    Ok(samples.median())
}
