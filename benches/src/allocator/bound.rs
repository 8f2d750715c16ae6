//! The bound on a call of the module: the most looks in vain that a cluster can ask for.

use allotment_allocator::constraint::{Constraint, Constraints, Predicate, Selector};

use super::cluster::{Bench, EMPTY, Roles};
use super::timing::Samples;
use crate::report::Number;

/// Calls that are measured, of the many that the round takes.
const CALLS: u32 = 100;

/// Every framework wants a host that there is not, so that each pair is looked at for nothing.
pub(super) fn in_vain(n_agents: usize, n_frameworks: usize) -> anyhow::Result<Vec<Number>> {
    let mut bench = Bench::new(n_agents, n_frameworks)?;
    let agents = bench.agent_specs(EMPTY, |_| Ok(Vec::new()))?;
    let mut frameworks = bench.framework_specs(Roles::Single)?;
    let nowhere = Constraint {
        selector: Selector::Hostname,
        predicate: Predicate::Equals("nowhere".to_owned()),
    };
    for wanted in frameworks.iter_mut().flat_map(|f| f.roles.values_mut()) {
        wanted.constraints = Some(Constraints {
            groups: vec![vec![nowhere.clone()]],
        });
    }
    bench.module.pause();
    bench.add_agents(agents);
    bench.add_frameworks(frameworks);
    bench.module.resume();
    let (mut calls, mut looks) = (Samples::default(), 0);
    for n in 0..CALLS {
        let now = bench.now;
        let round = calls.time(|| bench.module.allocate(now));
        anyhow::ensure!(
            round.unfinished && round.is_empty(),
            "call {n} of a round of {n_agents} x {n_frameworks} looks in vain: {round:?}"
        );
        looks = looks.max(round.looks);
    }
    let title = format!("{n_agents} x {n_frameworks}, all in vain: one call of the round");
    Ok(vec![
        Number::new(&title, calls.tail(), "", ""),
        Number::new(&format!("{title}, most looks"), looks.to_string(), "", ""),
    ])
}
