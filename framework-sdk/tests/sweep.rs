//! The example framework of `examples/frameworks/`, driven without a cluster.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "its main function is not called here")]

#[path = "../../examples/frameworks/sweep.rs"]
mod sweep;

use std::cell::RefCell;
use std::rc::Rc;

use allotment_framework_sdk::testing::Harness;
use allotment_framework_sdk::{Call, Command, Event, Task};
use allotment_types::Timestamp;
use sweep::Sweep;

fn task(id: &str) -> Task {
    let needs = "cpus:1; mem:32".parse().unwrap();
    Task::new(
        id.parse().unwrap(),
        needs,
        Command::Shell("true".to_owned()),
    )
}

type Core = Rc<RefCell<Sweep>>;

fn cluster(
    tasks: &[&str],
) -> (
    Core,
    Harness<impl FnMut(Timestamp, Event) -> Vec<Call> + use<>>,
) {
    let sweep = Rc::new(RefCell::new(Sweep::default()));
    // The last one waiting goes first.
    sweep.borrow_mut().waiting = tasks.iter().rev().map(|id| task(id)).collect();
    let core = sweep.clone();
    let mut cluster = Harness::new(move |_now, event| core.borrow_mut().step(event));
    cluster.agent("a1", "cpus:2; mem:1024");
    cluster.subscribed();
    (sweep, cluster)
}

#[test]
fn as_many_tasks_run_as_fit_and_the_rest_when_there_is_room_again() {
    let (sweep, mut cluster) = cluster(&["0", "1", "2"]);
    cluster.offer();
    assert_eq!(cluster.launched(), ["0", "1"]);
    cluster.running("0");
    cluster.finished("0");
    cluster.offer();
    assert_eq!(cluster.launched(), ["2"]);
    cluster.finished("1");
    cluster.finished("2");
    assert_eq!(sweep.borrow().ended.len(), 3);
    assert_eq!(cluster.held_offers(), 0);
    assert!(cluster.unacknowledged().is_empty());
}

#[test]
fn a_failure_is_tried_three_times_and_then_told() {
    let (sweep, mut cluster) = cluster(&["0"]);
    for id in ["0", "0+", "0++"] {
        assert!(sweep.borrow().ended.is_empty());
        cluster.offer();
        assert_eq!(cluster.launched(), [id]);
        cluster.failed(id, 1);
    }
    let sweep = sweep.borrow();
    assert_eq!(sweep.ended.len(), 1);
    assert!(sweep.waiting.is_empty() && sweep.running.is_empty());
}

#[test]
fn the_tasks_of_a_lost_agent_run_elsewhere() {
    let (_, mut cluster) = cluster(&["0"]);
    cluster.offer();
    cluster.launched();
    cluster.agent("a2", "cpus:1; mem:32");
    cluster.agent_lost("a1");
    cluster.offer();
    assert_eq!(cluster.launched(), ["0+"]);
}

#[test]
fn the_example_is_as_short_as_promised() {
    let source = include_str!("../../examples/frameworks/sweep.rs");
    assert!(source.lines().count() <= 80);
}
