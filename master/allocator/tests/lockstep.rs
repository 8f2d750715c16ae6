//! The module decides every history as the slow reference decides it.
//!
//! A million facts are played in each run, a quarter to each placement policy. A failure prints
//! the seed and the shortest history that still shows it.

mod support;

use allotment_allocator::conformance::history::Step;
use allotment_allocator::conformance::{calmly, shrink};
use allotment_allocator::{Placement, Settings};
use fastrand::Rng;
use proptest::prelude::*;
use support::lockstep::play;

/// Facts that each placement policy is told.
const FACTS: u64 = 250_000;

/// Long enough for holes, asides and filters to begin and end, and short enough to begin anew
/// with other agents often.
const STEPS: usize = 300;

fn settings(placement: Placement) -> Settings {
    Settings {
        placement,
        seed: 7,
        ..Settings::default()
    }
}

/// Plays histories until so many facts were told; says how many calls went on with a round.
fn play_many(settings: &Settings, first_seed: u64, facts: u64) -> u64 {
    let (mut told, mut calls) = (0, 0);
    for seed in first_seed.. {
        let steps = Step::history(seed, STEPS);
        let broken = |steps: &[Step]| calmly(|| play(settings, steps).map(|_| ()));
        match play(settings, &steps) {
            Ok(played) => {
                told += played.facts;
                calls += played.calls;
            }
            Err(_) => {
                let (steps, fault) = shrink::shortest(steps, broken);
                let steps: Vec<String> =
                    steps.iter().map(|s| format!("    Step::{s:?},")).collect();
                panic!("seed {seed}, {settings:?}\n{}\n{fault}", steps.join("\n"));
            }
        }
        if told >= facts {
            return calls;
        }
    }
    calls
}

#[test]
fn histories_with_agents_in_turn_are_decided_as_the_reference_decides_them() {
    play_many(&settings(Placement::Rotate), 1_000_000, FACTS);
}

#[test]
fn histories_with_the_least_used_agents_first_are_decided_as_the_reference_decides_them() {
    play_many(&settings(Placement::Spread), 2_000_000, FACTS);
}

#[test]
fn histories_with_the_most_used_agents_first_are_decided_as_the_reference_decides_them() {
    play_many(&settings(Placement::Pack), 3_000_000, FACTS);
}

#[test]
fn histories_with_agents_by_lot_are_decided_as_the_reference_decides_them() {
    play_many(&settings(Placement::Random), 4_000_000, FACTS);
}

/// What a round decides does not depend on how many calls it takes.
#[test]
fn a_round_in_pieces_decides_what_it_decides_at_once() {
    for (seed, placement, looks) in [
        (5_000_000, Placement::Rotate, 1),
        (6_000_000, Placement::Spread, 3),
        (7_000_000, Placement::Pack, 7),
        (8_000_000, Placement::Random, 20),
    ] {
        let settings = Settings {
            round_looks: looks,
            ..settings(placement)
        };
        let calls = play_many(&settings, seed, FACTS / 20);
        assert!(
            calls > 300,
            "only {calls} rounds went on with {looks} looks"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_few_steps_in_any_order_are_decided_as_the_reference_decides_them(
        seeds in prop::collection::vec(any::<u64>(), 1..60)
    ) {
        let steps: Vec<Step> = seeds
            .iter()
            .map(|seed| Step::draw(&mut Rng::with_seed(*seed)))
            .collect();
        let told = play(&Settings::default(), &steps);
        prop_assert!(told.is_ok(), "{steps:?}\n{told:?}");
    }
}
