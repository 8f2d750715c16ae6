//! The demo, as its last word: 0 only if every check held.

use crate::common::{allot, folder, text};

#[test]
fn the_demo_checks_its_own_answers_and_leaves_nothing_behind() {
    let data = folder();
    let ended = allot(&["demo", "--exit", "--data", text(data.path())]);
    let told = ended.stdout.clone();
    assert_eq!(ended.code, 0, "{told}{}", ended.stderr);
    for part in [
        "3 agents are registered",
        "offer-sent",
        "offer-accepted",
        "answers 200",
        "the merged count equals the direct one",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert!(!told.contains('\x1b'), "colours in a pipe: {told}");
    let left = crate::common::processes_in(data.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
}
