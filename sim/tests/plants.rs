//! The simulator must be able to fail: planted faults are found.
//!
//! `cargo run --release -p allotment-sim --example plants` looks for the first of 500 seeds that
//! finds each plant and prints this table; with it the proof takes seconds. The same seeds are
//! clean without a plant.

use std::collections::BTreeSet;

use allotment_sim::{Plant, Scenario, run_seed};

/// Plants and the first seed that finds each.
const FOUND_BY: [(Plant, u64); 22] = [
    (Plant::FreedTwice, 0),
    (Plant::FreedNever, 0),
    (Plant::OfferedTwice, 0),
    (Plant::InactiveAgentOffered, 0),
    (Plant::ReviveForgotten, 0),
    (Plant::RescindForgotten, 1),
    (Plant::UpdateSwallowed, 0),
    (Plant::KillLost, 0),
    (Plant::LaunchLost, 0),
    (Plant::LaunchDoubled, 0),
    (Plant::OfferToStranger, 0),
    (Plant::ToldBeforeWritten, 4),
    (Plant::StoreWriteLost, 1),
    (Plant::AgentWriteLost, 3),
    (Plant::ReconciliationUnanswered, 0),
    (Plant::AgentLossUntold, 3),
    (Plant::ShutdownForgotten, 26),
    (Plant::StartedTwice, 0),
    (Plant::OldUpdateAgain, 1),
    (Plant::TaskHidden, 0),
    (Plant::EndUnreported, 0),
    (Plant::ServicesActEarly, 29),
];

fn is_found(plant: Plant, seed: u64) -> bool {
    let scenario = Scenario {
        plant,
        ..Scenario::default()
    };
    run_seed(seed, &scenario).violation.is_some()
}

#[test]
fn every_planted_fault_of_the_table_is_found() {
    for (plant, seed) in FOUND_BY {
        assert!(
            is_found(plant, seed),
            "{plant:?} is not found by seed {seed}"
        );
    }
}

#[test]
fn the_seeds_that_find_plants_are_clean_without_one() {
    let seeds: BTreeSet<u64> = FOUND_BY.into_iter().map(|(_, seed)| seed).collect();
    for seed in seeds {
        assert!(!is_found(Plant::None, seed), "seed {seed} fails by itself");
    }
}
