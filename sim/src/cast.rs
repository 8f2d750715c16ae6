//! Who is in the cluster with faults: five machines, and frameworks of every kind with their
//! users.

use std::time::Duration;

use allotment_types::{Fixed, Resources, Timestamp};
use fastrand::Rng;

use crate::batch::Batch;
use crate::brain::Brain;
use crate::elastic::{Demand, Elastic};
use crate::plan::Plan;
use crate::real_agent::machine_resources;
use crate::rng;
use crate::scenario::Scenario;
use crate::services::Services;
use crate::world::Seat;

/// Frameworks, in the order of their seats.
pub(crate) const FRAMEWORKS: usize = 5;
/// Frameworks that keep their state and may die and come back.
pub(crate) const DURABLE: [usize; 2] = [SERVICES, BATCH];
/// The framework that may leave for good; its tasks die with it.
pub(crate) const PASSING: usize = 4;
const SERVICES: usize = 2;
const BATCH: usize = 3;

/// How long the passing framework's tasks live without it.
const PASSING_FAILOVER: Duration = Duration::from_secs(120);

/// Each machine has a size of its own.
pub(crate) fn machines(seed: u64, plan: &Plan) -> Vec<Resources> {
    let mut rng = rng::stream(seed, "machines");
    (0..plan.agents)
        .map(|_| machine_resources(rng.u64(2..=8)))
        .collect()
}

/// As short as it is by default for some seeds, and longer for most: an hour of heartbeats ten
/// times a second costs more than everything else.
pub(crate) fn election_timeout(seed: u64) -> Duration {
    let mut rng = rng::stream(seed, "election timeout");
    Duration::from_millis(if rng.u8(0..10) == 0 { 600 } else { 4800 })
}

/// The frameworks with their load; those that the plan leaves out never come.
pub(crate) fn seats(seed: u64, scenario: &Scenario, plan: &Plan) -> Result<Vec<Seat>, String> {
    let elastic = |brain| Brain::Elastic(Box::new(brain));
    let busy = scenario.busy;
    let services = Services::new(seed, plan.scalings, busy, scenario.plant);
    let batch = Batch::new(seed, plan.jobs, busy, scenario.plant);
    let brains = [
        ("elastic-batch", elastic(jobs(seed, plan, busy))),
        ("elastic-web", elastic(instances(seed, plan, busy))),
        ("services", Brain::Services(Box::new(services))),
        ("batch", Brain::Batch(Box::new(batch))),
        ("passing", elastic(passing(seed, busy))),
    ];
    let mut seats = Vec::new();
    for ((i, (name, brain)), present) in brains.into_iter().enumerate().zip(plan.frameworks) {
        let mut seat = Seat::own_role(name, brain)?;
        seat.absent = !present;
        if i == PASSING {
            seat.failover_timeout = PASSING_FAILOVER;
        }
        seats.push(seat);
    }
    Ok(seats)
}

fn within(rng: &mut Rng, time: Duration) -> Timestamp {
    Timestamp::ZERO + rng::between(rng, Duration::ZERO, time)
}

fn jobs(seed: u64, plan: &Plan, busy: Duration) -> Elastic {
    let mut rng = rng::stream(seed, "batch");
    let mut script: Vec<(Timestamp, Demand)> = (0..plan.jobs)
        .map(|_| {
            let at = within(&mut rng, busy);
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

fn instances(seed: u64, plan: &Plan, busy: Duration) -> Elastic {
    let mut rng = rng::stream(seed, "web");
    let mut script: Vec<(Timestamp, Demand)> = (0..plan.scalings)
        .map(|_| {
            let at = within(&mut rng, busy);
            // Fits the smallest cluster beside nothing else.
            (at, Demand::Instances(rng.usize(0..=plan.agents * 2)))
        })
        .collect();
    script.sort_by_key(|(at, _)| *at);
    let needs = Resources::cpus_mem(Fixed::from_thousandths(500), Fixed::units(1024));
    Elastic::new("ew", needs, script)
}

/// A few instances for ever, small enough to fit beside the others.
fn passing(seed: u64, busy: Duration) -> Elastic {
    let mut rng = rng::stream(seed, "passing");
    let at = within(&mut rng, busy / 4);
    let script = vec![(at, Demand::Instances(rng.usize(1..=3)))];
    let needs = Resources::cpus_mem(Fixed::from_thousandths(100), Fixed::units(64));
    Elastic::new("ep", needs, script)
}
