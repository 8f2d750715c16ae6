//! Seeds that must stay clean, the same seed twice, and faults that must be found.

use allotment_sim::{Plant, Report, Scenario, TraceDepth, run_seed, run_seeds};

fn assert_clean(report: &Report) {
    if let Some(violation) = &report.violation {
        panic!("{violation}");
    }
}

#[test]
fn a_range_of_seeds_holds_every_invariant() {
    let summary = run_seeds(0..12, &Scenario::default(), |report| {
        assert_clean(report);
        assert!(report.faults > 0 && report.tasks_ended > 20, "{report:?}");
        // Each of the four frameworks did something, so that none is clean for being idle.
        assert_eq!(report.tasks_per_framework.len(), 4, "{report:?}");
        assert!(
            report.tasks_per_framework.iter().all(|n| *n > 0),
            "{report:?}"
        );
    });
    assert_eq!((summary.seeds, summary.broken.len()), (12, 0));
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let scenario = Scenario {
        trace: TraceDepth::Full,
        ..Scenario::default()
    };
    for seed in [5, 6] {
        let (first, second) = (run_seed(seed, &scenario), run_seed(seed, &scenario));
        assert!(first.trace.len() > 100_000);
        assert_eq!(first.trace, second.trace);
        assert_eq!(first, second);
    }
    assert_ne!(run_seed(5, &scenario).digest, run_seed(6, &scenario).digest);
}

#[test]
fn resources_that_are_freed_twice_are_found() {
    let scenario = Scenario {
        plant: Plant::FreeTwice,
        ..Scenario::default()
    };
    let violation = run_seed(1, &scenario).violation.expect("it must be found");
    assert!(
        violation
            .invariant
            .contains("offered + allocated + free = total"),
        "{violation}"
    );
    assert_eq!(violation.seed, 1);
    assert!(!violation.tail.is_empty() && violation.step > 0);
    let text = violation.to_string();
    assert!(
        text.contains("seed 1") && text.contains("--seeds 1..2"),
        "{text}"
    );
}

#[test]
fn resources_that_are_never_freed_are_found() {
    let scenario = Scenario {
        plant: Plant::FreeNever,
        ..Scenario::default()
    };
    let violation = run_seed(1, &scenario).violation.expect("it must be found");
    assert!(violation.invariant.contains("free"), "{violation}");
}
