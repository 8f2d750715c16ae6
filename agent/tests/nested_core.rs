//! Nested containers in the agent's core, on virtual time: written down before they begin, found
//! again, ended with the container that they are in.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/story.rs"]
mod story;

use allotment_agent::core::{
    Command, ContainerId, Done, Effect, Harshness, Input, NestedId, NestedOrder, NestedState,
    NoEntry, Outcome,
};
use allotment_proto::mesos::TaskState;
use story::Agent;

fn id(name: &str, parents: &[&str]) -> NestedId {
    NestedId {
        name: name.to_owned(),
        parents: parents.iter().map(|&id| id.to_owned()).collect(),
    }
}

fn order(a: &mut Agent, id: &NestedId, order: NestedOrder) {
    let (number, id) = (7, id.clone());
    a.feed(Input::Nested { number, id, order });
}

fn answer(a: &mut Agent) -> Result<Done, NoEntry> {
    match a.next() {
        Effect::AnswerNested { number: 7, answer } => answer,
        other => panic!("{other:?}"),
    }
}

fn program() -> NestedOrder {
    NestedOrder::Launch(Box::new(Command {
        program: "x".to_owned(),
        argv: vec!["x".to_owned()],
        environment: Vec::new(),
        user: None,
    }))
}

/// One that is being begun.
fn begins(a: &mut Agent, nested: &NestedId) -> ContainerId {
    order(a, nested, program());
    let container = match a.next() {
        Effect::Start(launch) => {
            assert_eq!(
                launch.nested.unwrap().path.last(),
                Some(&nested.name),
                "in a folder of its name"
            );
            launch.container
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(a), Ok(Done::Now));
    container
}

fn runs(a: &mut Agent, nested: &NestedId) -> ContainerId {
    let container = begins(a, nested);
    a.started(&container);
    a.nothing_else();
    container
}

fn state(a: &Agent, nested: &NestedId) -> Option<NestedState> {
    a.core.nested(nested).map(|view| view.state)
}

fn status(a: &Agent, nested: &NestedId) -> Option<i32> {
    match state(a, nested) {
        Some(NestedState::Ended(end)) => end.status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_runs_ends_is_remembered_and_removed() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let n = id("n", &[task.as_str(), "whatever stands above"]);
    let container = begins(&mut a, &n);
    assert_eq!(state(&a, &n), Some(NestedState::Starting));
    a.started(&container);
    assert_eq!(state(&a, &n), Some(NestedState::Running));
    order(&mut a, &n, program());
    assert_eq!(answer(&mut a), Ok(Done::Already));
    order(&mut a, &n, NestedOrder::Remove);
    assert!(matches!(answer(&mut a), Err(NoEntry::StillRuns { .. })));
    order(&mut a, &n, NestedOrder::End(Harshness::Terminate));
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    assert_eq!(answer(&mut a), Ok(Done::Now));
    a.exits(&container, 3);
    assert_eq!(status(&a, &n), Some(3 << 8));
    a.dies_and_returns();
    assert_eq!(status(&a, &n), Some(3 << 8));
    a.is_back();
    order(&mut a, &n, NestedOrder::Remove);
    assert_eq!(answer(&mut a), Ok(Done::Now));
    assert_eq!(state(&a, &n), None);
    a.dies_and_returns();
    assert_eq!(state(&a, &n), None);
}

#[test]
fn its_end_is_nothing_that_the_task_or_its_framework_hears_of() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let container = runs(&mut a, &id("n", &[task.as_str()]));
    a.exits(&container, 1);
    a.nothing_else();
    assert_eq!(a.core.overview().tasks_running, 1);
}

#[test]
fn a_later_run_finds_it_again_and_one_whose_task_has_ended_ends() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let n = id("n", &[task.as_str()]);
    let container = runs(&mut a, &n);
    a.dies_and_returns();
    let known: Vec<_> = a.checkpoint().containers();
    let known = known.into_iter().map(|earlier| earlier.container);
    assert!(known.eq([task.clone(), container.clone()]));
    a.is_back();
    a.started(&task);
    a.started(&container);
    assert_eq!(state(&a, &n), Some(NestedState::Running));
    a.feed(Input::Ended {
        container: task.clone(),
        outcome: Outcome::Lost {
            message: "lost".to_owned(),
        },
        sandbox: Default::default(),
    });
    // The agent dies before it can do anything about it.
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.ends(
        &container,
        Outcome::Lost {
            message: "gone".to_owned(),
        },
    );
    assert_eq!(status(&a, &n), None);
    assert!(a.checkpoint().containers().is_empty());
}

#[test]
fn one_that_was_written_down_and_never_begun_is_free_to_be_launched_again() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let n = id("n", &[task.as_str()]);
    let container = begins(&mut a, &n);
    a.dies_and_returns();
    a.is_back();
    a.started(&task);
    a.ends(&container, Outcome::NeverBegun);
    // Whatever lies in its place is not in the way.
    assert!(matches!(a.next(), Effect::RemoveNest { nesting, .. } if nesting.path == ["n"]));
    assert_eq!(state(&a, &n), None);
    let again = runs(&mut a, &n);
    assert_ne!(again, container);
}

#[test]
fn one_that_could_not_be_started_does_not_hold_its_name() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let n = id("n", &[task.as_str()]);
    let container = begins(&mut a, &n);
    let message = "no such program".to_owned();
    a.ends(&container, Outcome::NotStarted { message });
    assert!(matches!(a.next(), Effect::RemoveNest { .. }));
    let Some(NestedState::Ended(end)) = state(&a, &n) else {
        panic!("{:?}", state(&a, &n));
    };
    assert_eq!(end.message.as_deref(), Some("no such program"));
    assert!(end.refused && end.status.is_none());
    runs(&mut a, &n);
}

#[test]
fn what_is_in_another_ends_with_it_and_is_named_below_it() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let (outer, inner) = (id("o", &[task.as_str()]), id("i", &["o", task.as_str()]));
    let container = runs(&mut a, &outer);
    let nested = runs(&mut a, &inner);
    // Of the same name and another place.
    assert_eq!(state(&a, &id("i", &[task.as_str()])), None);
    a.exits(&container, 0);
    assert_eq!(a.next(), Effect::Destroy(nested.clone()));
    a.exits(&nested, 137);
    a.nothing_else();
    // Nothing begins in what has ended.
    order(&mut a, &id("late", &["o", task.as_str()]), program());
    assert!(matches!(answer(&mut a), Err(NoEntry::Unknown { .. })));
}

#[test]
fn a_task_that_ends_takes_all_of_them_along() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let containers = ["a", "b"].map(|name| runs(&mut a, &id(name, &[task.as_str()])));
    a.feed(Input::Ended {
        container: task.clone(),
        outcome: Outcome::Lost {
            message: "lost".to_owned(),
        },
        sandbox: Default::default(),
    });
    let mut destroyed = [a.next(), a.next()];
    destroyed.sort_by_key(|effect| format!("{effect:?}"));
    let mut expected = containers.clone().map(Effect::Destroy);
    expected.sort_by_key(|effect| format!("{effect:?}"));
    assert_eq!(destroyed, expected);
    assert_eq!(a.next(), Effect::Release(task));
    a.update("t", TaskState::TaskLost);
    // They are waited for before the agent goes.
    a.feed(Input::Stop);
    a.nothing_else();
    for container in &containers {
        a.exits(container, 137);
    }
    assert!(a.effects.contains(&Effect::Stopped), "{:?}", a.effects);
}

#[test]
fn there_is_a_bound_on_how_many_and_how_deep_and_on_what_is_remembered() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let name = |n: usize| id(&format!("n{n:03}"), &[task.as_str()]);
    let live: Vec<ContainerId> = (0..256).map(|n| runs(&mut a, &name(n))).collect();
    order(&mut a, &name(256), program());
    let refused = answer(&mut a).unwrap_err();
    assert!(refused.to_string().contains("256"), "{refused}");
    for container in &live {
        a.exits(container, 0);
    }
    assert_eq!(status(&a, &name(0)), Some(0));
    let container = runs(&mut a, &name(256));
    a.exits(&container, 1);
    // The oldest is forgotten.
    assert_eq!(state(&a, &name(0)), None);
    assert_eq!(status(&a, &name(1)), Some(0));
    let mut parents = vec![task.as_str()];
    let names: Vec<String> = (0..9).map(|n| format!("d{n}")).collect();
    for name in names.iter().take(8) {
        let nested = id(name, &parents);
        runs(&mut a, &nested);
        parents.insert(0, name);
    }
    order(&mut a, &id("d8", &parents), program());
    assert!(answer(&mut a).is_err());
}

#[test]
fn agents_whose_tasks_do_not_outlive_them_forget_them() {
    let mut a = Agent::registered();
    let task = a.runs("t");
    let n = id("n", &[task.as_str()]);
    runs(&mut a, &n);
    a.settings.tasks_outlive_agent = false;
    a.dies_and_returns();
    assert_eq!(state(&a, &n), None);
    assert!(a.checkpoint().containers().is_empty());
}
