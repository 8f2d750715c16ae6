//! Nested containers in the agent's core, on virtual time: written down before they begin, found
//! again, ended with the container that they are in.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/story.rs"]
mod story;

use std::collections::{BTreeMap, BTreeSet};

use allotment_agent::core::{
    Command, ContainerId, Done, Effect, Harshness, Input, NestedId, NestedOrder, NestedState,
    NoEntry, Outcome,
};
use allotment_proto::mesos::TaskState;
use proptest::prelude::*;
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

/// A containerizer, of which the core sees only what it is told.
#[derive(Default)]
struct Machine {
    begun: BTreeSet<ContainerId>,
    alive: BTreeSet<ContainerId>,
    /// Those whose end was written down.
    released: BTreeSet<ContainerId>,
    /// In which container each is.
    parents: BTreeMap<ContainerId, ContainerId>,
}

impl Machine {
    /// Does the first `n` things that the core wants.
    fn obey(&mut self, a: &mut Agent, n: usize) {
        for effect in a
            .effects
            .drain(..n.min(a.effects.len()))
            .collect::<Vec<_>>()
        {
            match effect {
                Effect::Start(launch) => {
                    let container = launch.container.clone();
                    assert!(self.begun.insert(container.clone()), "begun twice");
                    let parent = launch.nested.map(|nesting| nesting.parent);
                    // As a launcher does: nothing begins in what is over.
                    if parent
                        .as_ref()
                        .is_none_or(|parent| self.alive.contains(parent))
                    {
                        self.alive.insert(container.clone());
                    }
                    self.parents
                        .extend(parent.map(|parent| (container, parent)));
                }
                Effect::Destroy(container) => self.ends(&container),
                Effect::Release(container) => drop(self.released.insert(container)),
                Effect::Connect { session, .. } => a.session = session,
                _ => {}
            }
        }
    }

    /// What is in it goes on, as when no launcher watches.
    fn ends(&mut self, container: &ContainerId) {
        self.alive.remove(container);
    }

    /// Tells the core of everything that it does not know.
    fn tells(&mut self, a: &mut Agent, known: &[ContainerId]) {
        for container in known {
            let container = container.clone();
            if self.released.contains(&container) {
                continue;
            }
            if self.alive.contains(&container) {
                a.started(&container);
                continue;
            }
            let outcome = if self.begun.contains(&container) {
                Outcome::Lost {
                    message: "gone".to_owned(),
                }
            } else {
                Outcome::NeverBegun
            };
            let sandbox = Default::default();
            a.feed(Input::Ended {
                container,
                outcome,
                sandbox,
            });
        }
    }

    /// Until nobody has anything to do.
    fn settles(&mut self, a: &mut Agent) {
        for _ in 0..100 {
            self.obey(a, usize::MAX);
            let known = known(a);
            self.tells(a, &known);
            if a.effects.is_empty() {
                return;
            }
        }
        panic!("it never settles: {:?}", a.effects);
    }
}

/// What another life would look for.
fn known(a: &Agent) -> Vec<ContainerId> {
    let known = a.checkpoint().containers().into_iter();
    known.map(|earlier| earlier.container).collect()
}

#[derive(Debug, Clone)]
enum Happening {
    Task(u8),
    /// One of this name in the task, or in the one of the other name there.
    Nested(u8, u8, Option<u8>),
    End(u8, u8),
    Remove(u8, u8),
    Obey(u8),
    /// The core hears of every start and end before it can do anything about it.
    Hear,
    /// A living one ends by itself.
    Exit(u8),
    /// The agent dies, after so many of its effects.
    Crash(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        1 => (0..3u8).prop_map(Happening::Task),
        4 => (0..3u8, 0..3u8, prop::option::of(0..3u8))
            .prop_map(|(t, n, above)| Happening::Nested(t, n, above)),
        1 => (0..3u8, 0..3u8).prop_map(|(t, n)| Happening::End(t, n)),
        1 => (0..3u8, 0..3u8).prop_map(|(t, n)| Happening::Remove(t, n)),
        3 => (0..6u8).prop_map(Happening::Obey),
        2 => Just(Happening::Hear),
        2 => any::<u8>().prop_map(Happening::Exit),
        1 => (0..6u8).prop_map(Happening::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whenever_the_agent_dies_none_begins_twice_or_outlives_what_it_is_in(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut a = Agent::registered();
        let mut machine = Machine::default();
        let mut tasks: BTreeMap<u8, ContainerId> = BTreeMap::new();
        let parents = |tasks: &BTreeMap<u8, ContainerId>, t: u8, above: Option<u8>| {
            let task = tasks.get(&t)?.as_str().to_owned();
            let above = above.map(|n| format!("n{n}"));
            Some(above.into_iter().chain([task]).collect::<Vec<String>>())
        };
        for happening in happenings {
            match happening {
                Happening::Task(t) => {
                    a.launch(vec![story::task(&format!("t{t}"), "cpus:1")]);
                    let begins = a.effects.iter().rev().find_map(|effect| match effect {
                        Effect::Start(launch) if launch.nested.is_none() => {
                            Some(launch.container.clone())
                        }
                        _ => None,
                    });
                    let known = |c: &ContainerId| tasks.values().any(|other| other == c);
                    if let Some(container) = begins.filter(|c| !known(c)) {
                        tasks.insert(t, container);
                    }
                }
                Happening::Nested(t, n, above) => {
                    if let Some(parents) = parents(&tasks, t, above) {
                        let nested = NestedId { name: format!("n{n}"), parents };
                        order(&mut a, &nested, program());
                    }
                }
                Happening::End(t, n) => {
                    if let Some(parents) = parents(&tasks, t, None) {
                        let nested = NestedId { name: format!("n{n}"), parents };
                        order(&mut a, &nested, NestedOrder::End(Harshness::Destroy));
                    }
                }
                Happening::Remove(t, n) => {
                    if let Some(parents) = parents(&tasks, t, None) {
                        let nested = NestedId { name: format!("n{n}"), parents };
                        order(&mut a, &nested, NestedOrder::Remove);
                    }
                }
                Happening::Obey(n) => machine.obey(&mut a, n.into()),
                Happening::Hear => {
                    let known = known(&a);
                    // Those that are on their way cannot be told of yet.
                    let known: Vec<_> =
                        known.into_iter().filter(|c| machine.begun.contains(c)).collect();
                    machine.tells(&mut a, &known);
                }
                Happening::Exit(n) => {
                    let alive = machine.alive.iter().nth(usize::from(n) % 8).cloned();
                    if let Some(container) = alive {
                        machine.ends(&container);
                    }
                }
                Happening::Crash(n) => {
                    machine.obey(&mut a, n.into());
                    let known = known(&a);
                    a.dies_and_returns();
                    machine.tells(&mut a, &known);
                    a.feed(Input::Tick);
                    machine.obey(&mut a, usize::MAX);
                    let session = a.session;
                    a.feed(Input::Connected { session });
                    a.welcome();
                }
            }
        }
        machine.settles(&mut a);
        // What lives is what is written down, and is in something that lives.
        let living: BTreeSet<ContainerId> = known(&a).into_iter().collect();
        prop_assert_eq!(&living, &machine.alive);
        for (child, parent) in &machine.parents {
            prop_assert!(!machine.alive.contains(child) || machine.alive.contains(parent));
        }
        // And another life finds just that.
        a.dies_and_returns();
        prop_assert_eq!(known(&a).into_iter().collect::<BTreeSet<_>>(), living);
    }
}
