//! Seeds that must stay clean, the same seed twice, and faults that must be found.

use allotment_sim::{Plant, Report, Scenario, replay, run_seed, run_seeds, shrink};

fn assert_clean(report: &Report) {
    if let Some(violation) = &report.violation {
        panic!("{violation}");
    }
}

#[test]
fn a_range_of_seeds_holds_every_invariant() {
    let mut per_framework = [0; 5];
    let summary = run_seeds(0..4, &Scenario::default(), |report| {
        assert_clean(report);
        assert!(report.faults > 0 && report.tasks_ended > 20, "{report:?}");
        let started = report.tasks_per_framework.iter();
        for (sum, n) in per_framework.iter_mut().zip(started) {
            *sum += n;
        }
    });
    // None is clean for being idle.
    assert!(per_framework.iter().all(|n| *n > 2), "{per_framework:?}");
    assert_eq!((summary.seeds, summary.broken.len()), (4, 0));
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
