//! The agent's core on virtual time.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/story.rs"]
mod story;

use std::time::Duration;

use allotment_agent::core::{ContainerId, Effect, Input, Outcome};
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::mesos::framework_info::capability;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState, TaskStatus};
use allotment_proto::{allot, convert};
use allotment_types::AgentId;
use proptest::prelude::*;
use story::{Agent, GRACE, framework, secs, task};

#[test]
fn the_first_registration_has_no_id_and_every_later_one_has() {
    let mut a = Agent::alone();
    a.connects(0);
    assert_eq!(a.register().agent.id, None);
    let step = a.core.step(
        a.now,
        Input::Master {
            session: a.session,
            message: allot::MasterMessage {
                message: Some(Told::Registered(allot::Registered {
                    agent_id: mesos::AgentId {
                        value: "m-S1".to_owned(),
                    },
                    ..Default::default()
                })),
                term: None,
            },
        },
    );
    // Durable before anything else happens.
    assert_eq!(step.persist.len(), 1);
    a.disconnects();
    a.wait(secs(1));
    a.connects(1);
    let again = a.registers();
    assert_eq!(again.agent.id.unwrap().value, "m-S1");
}

#[test]
fn failures_wait_longer_each_time_and_try_the_masters_in_turn() {
    let mut a = Agent::alone();
    a.connects(0);
    for (longest, master) in [(1, 1), (2, 0), (4, 1), (8, 0), (8, 1)] {
        a.disconnects();
        a.wait(secs(longest) / 2 - Duration::from_millis(1));
        a.nothing_else();
        a.wait(secs(longest) / 2 + Duration::from_millis(1));
        a.connects(master);
    }
}

#[test]
fn a_master_that_says_nothing_is_left() {
    let mut a = Agent::registered();
    a.wait(secs(74));
    a.hears(Told::Ping(allot::Ping { sequence: 3 }));
    assert!(matches!(a.says(), Said::Pong(pong) if pong.sequence == 3));
    a.wait(secs(74));
    a.nothing_else();
    a.wait(secs(2));
    assert!(matches!(a.next(), Effect::Disconnect { session, .. } if session == a.session));
    a.connects(1);
}

#[test]
fn what_an_old_session_still_says_is_not_heard() {
    let mut a = Agent::registered();
    let old = a.session;
    a.disconnects();
    a.wait(secs(1));
    a.connects(1);
    let message = Some(Told::Launch(allot::Launch {
        framework: mesos::FrameworkInfo {
            id: Some(framework()),
            ..Default::default()
        },
        tasks: vec![task("t", "cpus:1")],
        ..Default::default()
    }));
    let message = allot::MasterMessage {
        message,
        term: None,
    };
    a.feed(Input::Master {
        session: old,
        message,
    });
    a.nothing_else();
}

#[test]
fn updates_of_a_task_go_one_at_a_time_and_are_repeated_with_back_off() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.started(&container);
    let running = a.update("t", TaskState::TaskRunning);
    a.exits(&container, 0);
    a.nothing_else();
    for interval in [10, 20, 40] {
        a.hears(Told::Ping(allot::Ping { sequence: 0 }));
        a.says();
        a.wait(secs(interval) - Duration::from_millis(1));
        a.nothing_else();
        a.wait(Duration::from_millis(1));
        let again = a.update("t", TaskState::TaskRunning);
        assert_eq!(again.uuid, running.uuid);
    }
    a.acknowledge(&running);
    let finished = a.update("t", TaskState::TaskFinished);
    // Someone else's acknowledgement changes nothing.
    a.acknowledge(&running);
    a.nothing_else();
    a.acknowledge(&finished);
    a.wait(secs(70));
    a.nothing_else();
}

#[test]
fn a_new_session_hears_of_every_task_and_every_open_update() {
    let mut a = Agent::registered();
    a.runs("quiet");
    a.launch(vec![task("open", "cpus:1")]);
    let container = a.starts("open");
    a.started(&container);
    let running = a.update("open", TaskState::TaskRunning);
    a.disconnects();
    a.exits(&container, 1);
    a.nothing_else();
    a.wait(secs(1));
    a.connects(1);
    let register = a.register();
    let tasks: Vec<_> = register
        .tasks
        .iter()
        .map(|record| (record.task.task_id.value.as_str(), record.state()))
        .collect();
    assert_eq!(
        tasks,
        [
            ("open", TaskState::TaskFailed),
            ("quiet", TaskState::TaskRunning)
        ]
    );
    assert_eq!(register.frameworks.len(), 1);
    a.welcome();
    let again = a.update("open", TaskState::TaskRunning);
    assert_eq!(again.uuid, running.uuid);
    a.nothing_else();
}

#[test]
fn sigterm_then_the_grace_period_then_sigkill() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.kill("t", None);
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    a.wait(GRACE - Duration::from_millis(1));
    a.nothing_else();
    a.wait(Duration::from_millis(1));
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.wait(GRACE);
    a.nothing_else();
    a.exits(&container, 143);
    a.update("t", TaskState::TaskKilled);
}

#[test]
fn another_kill_can_only_shorten_the_wait() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.kill("t", None);
    a.next();
    a.kill("t", Some(secs(60)));
    a.kill("t", Some(secs(1)));
    a.wait(secs(1));
    assert_eq!(a.next(), Effect::Destroy(container));
    a.nothing_else();
}

#[test]
fn a_task_killed_before_it_runs_is_killed_during_launch_and_never_running() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.kill("t", None);
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.started(&container);
    a.nothing_else();
    a.exits(&container, 0);
    let end = a.update("t", TaskState::TaskKilled);
    assert_eq!(end.reason(), Reason::TaskKilledDuringLaunch);
}

#[test]
fn killing_is_told_to_frameworks_that_know_it() {
    let mut a = Agent::registered();
    a.launch_for(
        &[capability::Type::TaskKillingState],
        vec![task("t", "cpus:1")],
    );
    let container = a.starts("t");
    a.started(&container);
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.kill("t", None);
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    a.acknowledged_update("t", TaskState::TaskKilling);
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskKilled);
    a.nothing_else();
}

#[test]
fn what_does_not_fit_is_dropped_with_both_numbers() {
    let mut a = Agent::registered();
    a.runs("first");
    a.launch_for(
        &[capability::Type::PartitionAware],
        vec![task("second", "cpus:3.5")],
    );
    let end = a.update("second", TaskState::TaskDropped);
    let message = end.message();
    assert!(message.contains("cpus: asked 3.5, there is 3"), "{message}");
    a.acknowledge(&end);
    a.nothing_else();
}

#[test]
fn a_task_asked_for_twice_is_started_once() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.launch(vec![task("t", "cpus:1")]);
    assert!(matches!(a.next(), Effect::Warn(text) if text.contains("TASK_RUNNING")));
    a.nothing_else();
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
    // Now the name is free.
    a.runs("t");
}

#[test]
fn too_much_memory_is_the_reason_even_when_the_exit_looks_well() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.ends(
        &container,
        Outcome::Exited {
            exit: allot::TaskExit {
                code: Some(0),
                ..Default::default()
            },
            memory: Some((64 << 20, Some((64 << 20) + 1))),
            disk_full: false,
            disk: None,
        },
    );
    let end = a.update("t", TaskState::TaskFailed);
    assert_eq!(end.reason(), Reason::ContainerLimitationMemory);
    let message = end.message();
    assert!(
        message.contains("asked 64.0 MiB and used up to 64.0 MiB"),
        "{message}"
    );
}

#[test]
fn an_agent_that_leaves_tells_how_tasks_ended_before_it_says_farewell() {
    for acknowledged in [true, false] {
        let mut a = Agent::registered();
        a.launch(vec![task("t", "cpus:1")]);
        let container = a.starts("t");
        a.started(&container);
        let running = a.update("t", TaskState::TaskRunning);
        // Its end waits behind that.
        a.exits(&container, 0);
        a.feed(Input::Stop);
        a.nothing_else();
        if acknowledged {
            a.acknowledge(&running);
            a.update("t", TaskState::TaskFinished);
        } else {
            // Not for ever: the master tells the framework then.
            a.wait(secs(2) - Duration::from_millis(1));
            a.nothing_else();
            a.wait(Duration::from_millis(1));
        }
        assert!(matches!(a.says(), Said::Unregister(_)));
        assert_eq!(a.next(), Effect::Stopped);
    }
}

#[test]
fn an_agent_that_stops_ends_its_tasks_first_and_then_leaves() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.feed(Input::Stop);
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.nothing_else();
    a.exits(&container, 137);
    a.update("t", TaskState::TaskLost);
    assert!(matches!(a.says(), Said::Unregister(_)));
    assert_eq!(a.next(), Effect::Stopped);
    a.nothing_else();
    assert_eq!(a.core.next_deadline(), None);
}

#[test]
fn a_sandbox_is_collected_once_its_time_has_come() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
    let agent = AgentId::parse("m-S1").unwrap();
    for _ in 0..59 {
        a.wait(secs(60));
        a.hears(Told::Ping(allot::Ping { sequence: 0 }));
        a.says();
    }
    a.nothing_else();
    a.wait(secs(60));
    match a.next() {
        Effect::Collect { agent: of, sandbox } => {
            assert_eq!((of, sandbox.container), (agent, container));
        }
        other => panic!("{other:?}"),
    }
    a.nothing_else();
}

#[test]
fn the_fuller_the_disk_the_earlier_sandboxes_go() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
    let collects = |a: &mut Agent| match a.next() {
        Effect::Collect { sandbox, .. } => sandbox.container,
        other => panic!("{other:?}"),
    };
    // A tenth is to stay free and half is used: four tenths of the hour are left.
    a.feed(Input::DiskUsage { used_permille: 500 });
    for _ in 0..23 {
        a.wait(secs(60));
        a.hears(Told::Ping(allot::Ping { sequence: 0 }));
        a.says();
    }
    a.nothing_else();
    a.wait(secs(60));
    assert_eq!(collects(&mut a), container);
    let container = a.runs("u");
    a.exits(&container, 0);
    a.acknowledged_update("u", TaskState::TaskFinished);
    a.nothing_else();
    // Nothing is left to keep free, and still its output can be fetched.
    a.feed(Input::DiskUsage { used_permille: 900 });
    for _ in 0..9 {
        a.wait(secs(60));
        a.hears(Told::Ping(allot::Ping { sequence: 0 }));
        a.says();
    }
    a.nothing_else();
    a.wait(secs(60));
    assert_eq!(collects(&mut a), container);
}

/// What may happen to an agent, in any order.
#[derive(Debug, Clone)]
enum Happening {
    Launch(u8, u8),
    Start(u8),
    Exit(u8, i32),
    Kill(u8),
    Acknowledge,
    Reconnect,
    Wait(u16),
    Shutdown,
    /// The agent's process ends and another goes on.
    Crash,
    /// The same between writing a launch down and acting on it.
    CrashInLaunch(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u8..6, 0_u8..3).prop_map(|(id, cpus)| Happening::Launch(id, cpus)),
        3 => (0_u8..8).prop_map(Happening::Start),
        3 => (0_u8..8, 0..3).prop_map(|(n, code)| Happening::Exit(n, code)),
        2 => (0_u8..6).prop_map(Happening::Kill),
        4 => Just(Happening::Acknowledge),
        1 => Just(Happening::Reconnect),
        2 => (0_u16..30_000).prop_map(Happening::Wait),
        1 => Just(Happening::Shutdown),
        2 => Just(Happening::Crash),
        1 => (0_u8..6).prop_map(Happening::CrashInLaunch),
    ]
}

/// The books of an observer who sees only effects.
#[derive(Default)]
struct Observer {
    live: Vec<(ContainerId, allotment_types::Resources)>,
    begun: std::collections::BTreeSet<ContainerId>,
    /// Those of them whose programs run.
    running: std::collections::BTreeSet<ContainerId>,
    /// The update in flight of each task.
    in_flight: Vec<TaskStatus>,
    last: std::collections::BTreeMap<String, TaskState>,
}

impl Observer {
    /// Another run goes on; the containerizer tells it what became of every container it knows.
    fn crash(&mut self, a: &mut Agent) {
        // Those whose end was written down are nobody's business any more.
        let known = a.checkpoint().containers();
        a.dies_and_returns();
        self.in_flight.clear();
        for earlier in known {
            let container = earlier.container;
            if self.running.contains(&container) {
                a.started(&container);
            } else if !self.begun.contains(&container) {
                a.feed(Input::Ended {
                    container,
                    outcome: Outcome::NeverBegun,
                    sandbox: allot::SandboxSummary::default(),
                });
            }
        }
        a.feed(Input::Tick);
        self.watch(a);
        let session = a.session;
        a.feed(Input::Connected { session });
        a.welcome();
        self.watch(a);
    }

    fn watch(&mut self, agent: &mut Agent) {
        while let Some(effect) = agent.effects.pop_front() {
            match effect {
                Effect::Start(launch) => {
                    assert!(self.begun.insert(launch.container.clone()), "begun twice");
                    self.last.insert(
                        launch.sandbox.task().unwrap().to_string(),
                        TaskState::TaskStaging,
                    );
                    self.live.push((launch.container, launch.resources));
                }
                Effect::Connect { session, .. } => agent.session = session,
                Effect::Send { message, .. } => {
                    if let Some(Said::Update(update)) = message.message {
                        let status = update.status;
                        let id = status.task_id.value.clone();
                        self.in_flight.retain(|other| {
                            assert!(
                                other.task_id != status.task_id || other.uuid == status.uuid,
                                "two updates of one task in flight"
                            );
                            other.task_id != status.task_id
                        });
                        self.last.insert(id, status.state());
                        self.in_flight.push(status);
                    }
                }
                Effect::Disconnect { .. }
                | Effect::Terminate(_)
                | Effect::Destroy(_)
                | Effect::Release(_)
                | Effect::Resize { .. }
                | Effect::AnswerExecutor { .. }
                | Effect::ToExecutor { .. }
                | Effect::CloseExecutor { .. }
                | Effect::AnswerNested { .. }
                | Effect::RemoveNest { .. }
                | Effect::Probe { .. }
                | Effect::Collect { .. }
                | Effect::MakeVolume { .. }
                | Effect::DestroyVolume { .. }
                | Effect::Warn(_)
                | Effect::Stopped => {}
            }
        }
        // Free plus what live containers hold is everything, exactly.
        let overview = agent.core.overview();
        let held = self
            .live
            .iter()
            .fold(overview.free, |sum, (_, resources)| sum.plus(resources));
        assert_eq!(held, overview.total);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn resources_are_conserved_and_every_launch_ends(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut a = Agent::registered();
        let mut seen = Observer::default();
        for happening in happenings {
            match happening {
                Happening::Launch(id, cpus) => {
                    a.launch(vec![task(&format!("t{id}"), &format!("cpus:{cpus}; mem:100"))]);
                }
                Happening::Start(n) => {
                    if let Some((container, _)) = seen.live.get(usize::from(n)).cloned() {
                        a.started(&container);
                        seen.running.insert(container);
                    }
                }
                Happening::Exit(n, code) => {
                    if usize::from(n) < seen.live.len() {
                        let (container, _) = seen.live.remove(usize::from(n));
                        a.exits(&container, code);
                    }
                }
                Happening::Kill(id) => a.kill(&format!("t{id}"), None),
                Happening::Acknowledge => {
                    if let Some(status) = seen.in_flight.pop() {
                        a.acknowledge(&status);
                    }
                }
                Happening::Reconnect => {
                    let session = a.session;
                    a.feed(Input::Disconnected { session });
                    a.wait(secs(8));
                    seen.watch(&mut a);
                    let session = a.session;
                    a.feed(Input::Connected { session });
                    a.welcome();
                }
                Happening::Wait(millis) => {
                    a.wait(Duration::from_millis(millis.into()));
                }
                Happening::Crash => seen.crash(&mut a),
                Happening::CrashInLaunch(id) => {
                    a.launch(vec![task(&format!("t{id}"), "cpus:1; mem:100")]);
                    // Written down, and no more.
                    a.effects.clear();
                    seen.crash(&mut a);
                }
                Happening::Shutdown => {
                    a.hears(Told::ShutdownFramework(allot::ShutdownFramework {
                        framework_id: framework(),
                    }));
                    seen.in_flight.clear();
                    seen.last.clear();
                }
            }
            seen.watch(&mut a);
        }
        // Quiet: everything ends, everything is acknowledged, nothing is left.
        let session = a.session;
        a.feed(Input::Disconnected { session });
        a.wait(secs(8));
        seen.watch(&mut a);
        let session = a.session;
        a.feed(Input::Connected { session });
        a.welcome();
        seen.watch(&mut a);
        while let Some((container, _)) = seen.live.pop() {
            a.exits(&container, 0);
            seen.watch(&mut a);
        }
        while let Some(status) = seen.in_flight.pop() {
            a.acknowledge(&status);
            seen.watch(&mut a);
        }
        let overview = a.core.overview();
        prop_assert_eq!(overview.free, overview.total);
        prop_assert_eq!(overview.updates_pending, 0);
        for (id, state) in seen.last {
            prop_assert!(convert::is_terminal(state), "{} ended as {:?}", id, state);
        }
    }
}
