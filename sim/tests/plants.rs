//! The simulator must be able to fail: planted faults are found.
//!
//! `cargo run --release -p allotment-sim --example plants` looks for the first of 500 seeds that
//! finds each plant and prints this table; with it the proof takes seconds. That the seeds are
//! clean without a plant is `seeds.rs`' matter.

use std::collections::BTreeSet;

use allotment_sim::{Plant, Scenario, TraceDepth, run_seed};

/// Plants and the first seed that finds each.
const FOUND_BY: [(Plant, u64); 39] = [
    (Plant::FreedTwice, 0),
    (Plant::FreedNever, 0),
    (Plant::OfferedTwice, 0),
    (Plant::LimitIgnored, 0),
    (Plant::InactiveAgentOffered, 0),
    (Plant::ReviveForgotten, 0),
    (Plant::RescindForgotten, 0),
    (Plant::UpdateSwallowed, 0),
    (Plant::AcknowledgementLost, 0),
    (Plant::KillLost, 0),
    (Plant::LaunchLost, 0),
    (Plant::LaunchDoubled, 0),
    (Plant::OfferToStranger, 0),
    (Plant::ToldBeforeWritten, 0),
    (Plant::StoreWriteLost, 0),
    (Plant::AgentWriteLost, 1),
    (Plant::AcknowledgedUnwritten, 1),
    (Plant::LeaseIgnored, 2),
    (Plant::LeaseFrozen, 2),
    (Plant::VoteGrantedTwice, 179),
    (Plant::SnapshotIncomplete, 0),
    (Plant::DiskEmptied, 5),
    (Plant::ReconciliationUnanswered, 7),
    (Plant::LateSubscribeHeard, 4),
    (Plant::LedTwice, 2),
    (Plant::AgentLossUntold, 1),
    (Plant::TimersForgotten, 0),
    (Plant::FrameworkLossUnnoticed, 16),
    (Plant::OldUpdateAgain, 3),
    (Plant::StartedTwice, 0),
    (Plant::TaskHidden, 0),
    (Plant::EndUnreported, 0),
    (Plant::FrameworkWriteLost, 0),
    (Plant::ShutdownForgotten, 98),
    (Plant::UpgradeForgets, 9),
    (Plant::ServicesActEarly, 0),
    (Plant::BatchForgetsJobs, 0),
    (Plant::BatchActsEarly, 0),
    (Plant::IdForgotten, 0),
];

/// A change of any core may give a seed another run: the next few are tried too.
const TRIED: u64 = 4;

#[test]
fn every_planted_fault_is_found() {
    let proven: BTreeSet<Plant> = FOUND_BY.iter().map(|(plant, _)| *plant).collect();
    assert_eq!(proven, Plant::ALL.into());
    for (plant, first) in FOUND_BY {
        let scenario = Scenario {
            plant,
            trace: TraceDepth::None,
            ..Scenario::default()
        };
        let mut seeds = first..first + TRIED;
        assert!(
            seeds.any(|seed| run_seed(seed, &scenario).violation.is_some()),
            "{plant:?} is not found by the seeds from {first}"
        );
    }
}
