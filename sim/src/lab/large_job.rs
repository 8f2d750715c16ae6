//! A large job of the batch queue among small tasks of others, through the whole master: does it
//! get an agent of its own?

use std::time::Duration;

use allotment_types::Timestamp;
use serde_json::{Value, json};

use super::file::LabScenario;
use super::tenant::Tenant;
use super::workload::{self, Workload};
use crate::batch::Batch;
use crate::brain::Brain;
use crate::module::Module;
use crate::plant::Plant;
use crate::trace::TraceDepth;
use crate::world::{Seat, Setup, World};

/// More than there is, in tasks of one core and a minute.
const CROWD: &str = r#"
time = "1h"
[[agents]]
count = 4
resources = "cpus:8;mem:32768"
[[frameworks]]
name = "crowd"
task = "cpus:1;mem:1024"
arrivals = { fixed = "1m" }
tasks = { fixed = 33 }
duration = { exponential = "1m" }
"#;

/// How many jobs were launched after so long, when one of eight cores is submitted after five
/// minutes.
fn jobs_launched(after: Duration, settings: &Value) -> u64 {
    let scenario = LabScenario::parse(CROWD, |_| Err("no file".to_owned()));
    let scenario = scenario.expect("it is a scenario");
    let group = &scenario.frameworks[0];
    let end = Timestamp::ZERO + scenario.time.0;
    let load = Workload::new(group, workload::stream(1, "crowd", 1), end);
    let crowd = Tenant::new("crowd".to_owned(), group, load);
    let batch = Batch::with_one_job(1, Timestamp::from_secs(300), 8000);
    let seats = [
        ("crowd", Brain::Tenant(Box::new(crowd))),
        ("batch", Brain::Batch(Box::new(batch))),
    ];
    let seats = seats.map(|(name, brain)| Seat::own_role(name, brain).expect("it is a role"));
    let agents = &scenario.agents[0];
    let mut world = World::new(Setup {
        seed: 1,
        masters: 1,
        election_timeout: Duration::from_secs(12),
        machines: vec![agents.resources.clone(); agents.count],
        frameworks: seats.into(),
        module: Module::new("drf", settings, Vec::new()).expect("it is a module"),
        offer_timeout: None,
        delay: (Duration::from_micros(200), Duration::from_millis(2)),
        trace: TraceDepth::None,
        plant: Plant::None,
        checked: true,
        real_agents: false,
    })
    .expect("it is a world");
    world
        .run_until(Timestamp::ZERO + after)
        .expect("no invariant is broken");
    world.batch_jobs_launched()
}

#[test]
fn a_job_that_needs_a_whole_agent_gets_a_hole_among_small_tasks() {
    let ten_minutes_later = Duration::from_secs(900);
    assert_eq!(jobs_launched(ten_minutes_later, &Value::Null), 1);
    // Without holes it waits for all of an agent's tasks to end at once.
    let no_holes = json!({ "holes_per_role": 0 });
    assert_eq!(jobs_launched(ten_minutes_later, &no_holes), 0);
}
