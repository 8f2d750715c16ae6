//! The suite itself: the shipped modules and the reference pass it, and each law can be broken.

mod support;

use allotment_allocator::conformance::{self, Effort};
use allotment_allocator::{Modules, Settings};
use support::broken::{Broken, Fault};
use support::reference::Reference;

/// The module of this name with this placement.
fn shipped(name: &str, placement: &str) {
    let config = serde_json::json!({ "placement": placement, "seed": 3 });
    passes(name, &config);
}

/// The same when a call does next to nothing, so that facts come in the middle of rounds.
fn shipped_in_pieces(name: &str, looks: u64) {
    let config = serde_json::json!({ "round_looks": looks });
    passes(name, &config);
}

fn passes(name: &str, config: &serde_json::Value) {
    let make = Modules::default().make(name, config);
    let make = make.expect("a shipped module with a valid configuration");
    conformance::check(|| make());
}

#[test]
fn the_module_drf_passes() {
    shipped("drf", "rotate");
    shipped("drf", "random");
    shipped_in_pieces("drf", 1);
    shipped_in_pieces("drf", 10);
}

#[test]
fn the_module_random_passes() {
    shipped("random", "rotate");
    shipped("random", "spread");
    shipped_in_pieces("random", 2);
}

#[test]
fn the_module_best_fit_passes() {
    shipped("best-fit", "rotate");
    shipped("best-fit", "pack");
    shipped_in_pieces("best-fit", 2);
    shipped_in_pieces("best-fit", 12);
}

#[test]
fn these_are_all_the_modules_that_are_shipped() {
    let modules = Modules::default();
    assert_eq!(
        modules.names().collect::<Vec<_>>(),
        ["best-fit", "drf", "random"]
    );
}

#[test]
fn the_reference_passes() {
    conformance::check(|| Box::new(Reference::new(Settings::default())));
}

#[test]
fn every_fault_is_found_and_shown_by_a_short_history() {
    for fault in Fault::ALL {
        let violation =
            conformance::find_violation(|| Box::new(Broken::new(fault)), Effort::default());
        let violation = violation.unwrap_or_else(|| panic!("{fault:?} was not found"));
        println!("{fault:?}: {violation}");
        assert!(violation.history.len() <= 12, "{fault:?}: {violation}");
        assert!(!violation.law.is_empty(), "{fault:?}");
    }
}

#[test]
fn a_module_that_always_prefers_one_framework_is_found_to_starve_the_others() {
    let no_histories = Effort {
        histories: 0,
        ..Effort::default()
    };
    let find = |fault| conformance::find_violation(|| Box::new(Broken::new(fault)), no_histories);
    let violation = find(Fault::ForgetsCountsOfOne).expect("it starves the others");
    assert!(
        violation.law.contains("nobody else wants them"),
        "{violation}"
    );
    let violation = find(Fault::IgnoresOneFramework).expect("it starves that one");
    assert!(
        violation.law.contains("framework f1 was offered nothing"),
        "{violation}"
    );
}
