//! Seeds that must stay clean, the same seed twice, and faults that must be found.

use std::ops::Range;

use allotment_sim::{Plant, Report, Scenario, TraceDepth, replay, run_seed, run_seeds, shrink};

fn assert_clean(report: &Report) {
    if let Some(violation) = &report.violation {
        panic!("{violation}");
    }
}

/// Every seed is an hour of three masters, twenty agents, five frameworks and two dozen faults.
/// A failing one is run again to be told.
fn hold_every_invariant(seeds: Range<u64>) {
    let quick = Scenario {
        trace: TraceDepth::None,
        ..Scenario::default()
    };
    let mut per_framework = [0; 5];
    let summary = run_seeds(seeds.clone(), &quick, |report| {
        if !report.is_clean() {
            assert_clean(&run_seed(report.seed, &Scenario::default()));
        }
        assert!(report.faults > 0 && report.tasks_ended > 20, "{report:?}");
        let started = report.tasks_per_framework.iter();
        for (sum, n) in per_framework.iter_mut().zip(started) {
            *sum += n;
        }
    });
    // None is clean for being idle.
    assert!(per_framework.iter().all(|n| *n > 2), "{per_framework:?}");
    assert_eq!(
        (summary.seeds, summary.broken.len()),
        (seeds.end - seeds.start, 0)
    );
}

/// A thousand seeds, in parts that can run beside each other.
macro_rules! hold_every_invariant {
    ($($name:ident: $seeds:expr;)*) => {
        $(#[test]
        fn $name() {
            hold_every_invariant($seeds);
        })*
    };
}

hold_every_invariant! {
    seeds_0_to_124_hold_every_invariant: 0..125;
    seeds_125_to_249_hold_every_invariant: 125..250;
    seeds_250_to_374_hold_every_invariant: 250..375;
    seeds_375_to_499_hold_every_invariant: 375..500;
    seeds_500_to_624_hold_every_invariant: 500..625;
    seeds_625_to_749_hold_every_invariant: 625..750;
    seeds_750_to_874_hold_every_invariant: 750..875;
    seeds_875_to_999_hold_every_invariant: 875..1000;
}

#[test]
fn one_master_and_five_hold_every_invariant_too() {
    for masters in [1, 5] {
        let scenario = Scenario {
            masters,
            ..Scenario::default()
        };
        run_seeds(0..10, &scenario, assert_clean);
    }
}

#[test]
fn seeds_that_found_something_stay_clean() {
    let list = include_str!("../regressions.txt");
    let mut n = 0;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (seed, story) = line.split_once(' ').expect("a seed and its story");
        let report = run_seed(seed.parse().expect("a seed"), &Scenario::default());
        assert!(report.is_clean(), "{story}: {:?}", report.violation);
        n += 1;
    }
    assert!(n > 0, "the list is read");
}

#[test]
fn a_violation_is_told_with_its_seed_and_all_left_out_that_it_does_not_need() {
    let scenario = Scenario {
        plant: Plant::FreedTwice,
        ..Scenario::default()
    };
    let violation = shrink(1, &scenario).expect("it is found");
    let words = "offered + allocated + free = total";
    assert!(violation.invariant.contains(words), "{violation}");
    assert!(
        violation.shrunk && violation.faults.is_empty(),
        "{violation}"
    );
    let text = violation.to_string();
    assert!(
        text.contains("seed 1 ") && text.contains("sim run --seed 1"),
        "{text}"
    );
    assert!(text.lines().count() < 60, "short enough to read: {text}");
}

#[test]
fn replaying_a_seed_gives_the_same_run() {
    let report = replay(3, &Scenario::default()).expect("one run");
    assert!(report.trace.len() > 100_000);
    assert_ne!(report.digest, run_seed(4, &Scenario::default()).digest);
}
