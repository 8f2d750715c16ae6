//! One seed, from an empty cluster to a settled one.

use allotment_types::Timestamp;

use crate::cast;
use crate::fault::Fault;
use crate::module::Module;
use crate::plan::Plan;
use crate::report::{Report, Violation};
use crate::scenario::Scenario;
use crate::world::{Setup, World};

/// Simulates one seed. The same seed and scenario give the same report, byte for byte.
pub fn run_seed(seed: u64, scenario: &Scenario) -> Report {
    play(seed, scenario, &Plan::drawn(seed, scenario))
}

/// Simulates what the plan says.
pub(crate) fn play(seed: u64, scenario: &Scenario, plan: &Plan) -> Report {
    let world = cast::seats(seed, scenario, plan).and_then(|frameworks| {
        World::new(Setup {
            seed,
            masters: scenario.masters,
            election_timeout: cast::election_timeout(seed),
            machines: cast::machines(seed, plan),
            frameworks,
            module: Module::default(),
            offer_timeout: None,
            delay: scenario.delay,
            trace: scenario.trace,
            plant: scenario.plant,
            checked: true,
            real_agents: true,
        })
    });
    let mut world = match world {
        Ok(world) => world,
        Err(invariant) => return Report::not_begun(seed, invariant),
    };
    for (at, fault) in &plan.faults {
        if let Fault::Upgrade(node) = fault {
            world.begin_older(*node);
        }
        world.schedule(*at, *fault);
    }
    let end = Timestamp::ZERO + scenario.busy + scenario.settle;
    let outcome = world.run_until(end).and_then(|()| world.check_settled());
    let violation = outcome.err().map(|invariant| Violation {
        seed,
        step: world.trace.steps(),
        at: world.now(),
        invariant,
        cluster: plan.to_string(),
        faults: world.trace.faults().to_vec(),
        tail: world.trace.tail(),
        shrunk: false,
    });
    Report {
        seed,
        steps: world.trace.steps(),
        ended_at: world.now(),
        digest: world.trace.digest(),
        tasks_started: world.witness.started,
        tasks_ended: world.witness.ended,
        tasks_per_framework: world.witness.started_per_framework(),
        faults: world.faults,
        violation,
        trace: world.trace.into_full(),
    }
}

/// How a range of seeds went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds that broke an invariant, in order; empty when all were clean.
    pub broken: Vec<Violation>,
    /// Events simulated in all.
    pub steps: u64,
    /// Tasks started in all.
    pub tasks_started: u64,
    /// Faults injected in all.
    pub faults: u64,
}

/// Runs every seed of a range and hands each report to `told` as it comes, for showing progress.
pub fn run_seeds(
    seeds: std::ops::Range<u64>,
    scenario: &Scenario,
    mut told: impl FnMut(&Report),
) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let report = run_seed(seed, scenario);
        told(&report);
        summary.seeds += 1;
        summary.steps += report.steps;
        summary.tasks_started += report.tasks_started;
        summary.faults += report.faults;
        summary.broken.extend(report.violation);
    }
    summary
}
