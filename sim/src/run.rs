//! One seed, from an empty cluster to a settled one.

use std::time::Duration;

use allotment_types::{Fixed, Name, Ranges, Resources, Timestamp};
use fastrand::Rng;

use crate::batch::Batch;
use crate::brain::Brain;
use crate::elastic::{Demand, Elastic};
use crate::net::Peer;
use crate::report::{Report, Violation};
use crate::rng;
use crate::scenario::Scenario;
use crate::services::Services;
use crate::world::{Fault, Setup, World};

/// Simulates one seed. The same seed and scenario give the same report, byte for byte.
pub fn run_seed(seed: u64, scenario: &Scenario) -> Report {
    let mut sizes = rng::stream(seed, "machines");
    let machines = (0..scenario.agents).map(|_| machine(&mut sizes)).collect();
    let setup = Setup {
        seed,
        machines,
        frameworks: frameworks(seed, scenario),
        delay: scenario.delay,
        trace: scenario.trace,
        plant: scenario.plant,
        checked: true,
        real_agents: true,
    };
    let mut world = match World::new(setup) {
        Ok(world) => world,
        Err(invariant) => {
            return Report {
                seed,
                steps: 0,
                ended_at: Timestamp::ZERO,
                digest: 0,
                trace: String::new(),
                tasks_started: 0,
                tasks_ended: 0,
                tasks_per_framework: Vec::new(),
                faults: 0,
                violation: Some(Violation {
                    seed,
                    step: 0,
                    at: Timestamp::ZERO,
                    invariant,
                    tail: Vec::new(),
                }),
            };
        }
    };
    inject(&mut world, seed, scenario);
    let end = Timestamp::ZERO + scenario.busy + scenario.settle;
    let outcome = world.run_until(end).and_then(|()| world.check_settled());
    let violation = outcome.err().map(|invariant| Violation {
        seed,
        step: world.trace.steps(),
        at: world.now(),
        invariant,
        tail: world.trace.tail(),
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

fn frameworks(seed: u64, scenario: &Scenario) -> Vec<(String, Brain)> {
    let elastic = |brain| Brain::Elastic(Box::new(brain));
    let services = Services::new(seed, scenario.scalings, scenario.busy);
    let batch = Batch::new(seed, scenario.jobs, scenario.busy);
    vec![
        (
            "elastic-batch".to_owned(),
            elastic(self::batch(seed, scenario)),
        ),
        ("elastic-web".to_owned(), elastic(service(seed, scenario))),
        ("services".to_owned(), Brain::Services(Box::new(services))),
        ("batch".to_owned(), Brain::Batch(Box::new(batch))),
    ]
}

fn machine(rng: &mut Rng) -> Resources {
    let cpus = rng.u64(2..=8);
    Resources::cpus_mem(Fixed::units(cpus), Fixed::units(cpus * 2048))
        .with_ranges(Name::PORTS, Ranges::new([(31_000, 31_099)]))
}

fn within(rng: &mut Rng, time: Duration) -> Timestamp {
    Timestamp::ZERO + rng::between(rng, Duration::ZERO, time)
}

fn batch(seed: u64, scenario: &Scenario) -> Elastic {
    let mut rng = rng::stream(seed, "batch");
    let mut script: Vec<(Timestamp, Demand)> = (0..scenario.jobs)
        .map(|_| {
            let at = within(&mut rng, scenario.busy);
            let tasks = (0..rng.usize(1..=20))
                .map(|_| rng::exponential(&mut rng, Duration::from_secs(20)))
                .collect();
            (at, Demand::Job(tasks))
        })
        .collect();
    script.sort_by_key(|(at, _)| *at);
    let needs = Resources::cpus_mem(Fixed::from_thousandths(700), Fixed::units(512));
    Elastic::new("eb", needs, script)
}

fn service(seed: u64, scenario: &Scenario) -> Elastic {
    let mut rng = rng::stream(seed, "web");
    let mut script: Vec<(Timestamp, Demand)> = (0..scenario.scalings)
        .map(|_| {
            let at = within(&mut rng, scenario.busy);
            // Fits the smallest cluster beside nothing else.
            (at, Demand::Instances(rng.usize(0..=scenario.agents * 2)))
        })
        .collect();
    script.sort_by_key(|(at, _)| *at);
    let needs = Resources::cpus_mem(Fixed::from_thousandths(500), Fixed::units(1024));
    Elastic::new("ew", needs, script)
}

fn inject(world: &mut World, seed: u64, scenario: &Scenario) {
    let mut rng = rng::stream(seed, "faults");
    for _ in 0..scenario.faults {
        let at = within(&mut rng, scenario.busy);
        let seconds = |rng: &mut Rng, low, high| {
            rng::between(rng, Duration::from_secs(low), Duration::from_secs(high))
        };
        let machine = rng.usize(0..scenario.agents.max(1));
        let fault = match rng.u8(0..13) {
            10 | 11 => Fault::AgentCrash {
                machine,
                down: seconds(&mut rng, 0, 60),
                torn: rng.bool(),
            },
            12 => Fault::PowerLoss {
                machine,
                down: seconds(&mut rng, 5, 150),
            },
            0 | 1 => Fault::CutStream(Peer::Agent(machine)),
            2 | 3 => Fault::CutStream(Peer::Framework(rng.usize(0..4))),
            // The shipped frameworks keep their state and may die.
            8 | 9 => Fault::KillFramework(rng.usize(2..4)),
            4 => Fault::Partition(machine, seconds(&mut rng, 5, 150)),
            5 => Fault::MasterCrash {
                down: seconds(&mut rng, 1, 30),
                torn: false,
            },
            6 => Fault::MasterCrash {
                down: seconds(&mut rng, 1, 30),
                torn: true,
            },
            _ => Fault::Slow(seconds(&mut rng, 1, 20)),
        };
        world.schedule(at, fault);
    }
}
