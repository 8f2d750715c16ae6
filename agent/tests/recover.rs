//! The agent's core dies and returns, on virtual time: what was promised before holds after.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/story.rs"]
mod story;

use std::time::Duration;

use allotment_agent::core::{Core, Effect, Input, Outcome, Owner, SandboxId};
use allotment_proto::allot;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::framework_info::capability;
use allotment_proto::mesos::task_status::Reason;
use story::{Agent, GRACE, framework, secs, task};

#[test]
fn a_running_task_runs_on_and_nobody_hears_of_the_restart_in_its_updates() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.dies_and_returns();
    assert_eq!(a.core.overview().tasks_recovering, 1);
    let back = a.is_back();
    assert_eq!(back.agent.id.unwrap().value, "m-S1");
    assert_eq!(back.tasks.len(), 1);
    assert_eq!(back.tasks[0].state(), TaskState::TaskRunning);
    assert_eq!(back.frameworks[0].id, Some(framework()));
    a.started(&container);
    a.nothing_else();
    let overview = a.core.overview();
    assert_eq!((overview.tasks_recovering, overview.tasks_running), (0, 1));
    assert_eq!(overview.free.cpus(), allotment_types::Fixed::units(3));
    a.exits(&container, 3);
    a.acknowledged_update("t", TaskState::TaskFailed);
    a.nothing_else();
}

#[test]
fn what_was_not_acknowledged_comes_again_in_order_and_the_same() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.started(&container);
    let running = a.update("t", TaskState::TaskRunning);
    a.exits(&container, 0);
    for _ in 0..3 {
        a.dies_and_returns();
        a.is_back();
        let again = a.update("t", TaskState::TaskRunning);
        assert_eq!(again.uuid, running.uuid);
        a.nothing_else();
    }
    a.acknowledge(&running);
    let finished = a.update("t", TaskState::TaskFinished);
    a.dies_and_returns();
    a.is_back();
    // The first one arrived and is not repeated.
    let again = a.acknowledged_update("t", TaskState::TaskFinished);
    assert_eq!(again, finished);
    a.nothing_else();
    a.dies_and_returns();
    assert!(a.is_back().tasks.is_empty());
    a.nothing_else();
}

#[test]
fn a_task_that_ended_meanwhile_is_told_with_its_true_status() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.dies_and_returns();
    a.exits(&container, 7);
    a.is_back();
    let end = a.acknowledged_update("t", TaskState::TaskFailed);
    assert_eq!(end.message(), "Command exited with status 7");
    a.nothing_else();
}

#[test]
fn a_task_that_began_meanwhile_is_running_from_then_on() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.dies_and_returns();
    a.is_back();
    a.nothing_else();
    a.started(&container);
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.nothing_else();
}

#[test]
fn a_task_that_was_written_down_and_never_begun_is_begun_once_in_another_container() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:4")]);
    let first = a.starts("t");
    a.dies_and_returns();
    a.feed(Input::Ended {
        container: first.clone(),
        outcome: Outcome::NeverBegun,
        sandbox: allot::SandboxSummary::default(),
    });
    assert_eq!(a.next(), Effect::Release(first.clone()));
    let second = a.starts("t");
    assert_ne!(first, second);
    // The next run knows the second one alone.
    a.dies_and_returns();
    let known: Vec<_> = a.checkpoint().containers();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].container, second);
    a.started(&second);
    a.is_back();
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.exits(&second, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
    assert_eq!(a.core.overview().free, a.core.overview().total);
}

#[test]
fn a_task_whose_launch_fells_the_launcher_each_time_is_given_up() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let mut container = a.starts("t");
    let never_begun = |container| Input::Ended {
        container,
        outcome: Outcome::NeverBegun,
        sandbox: allot::SandboxSummary::default(),
    };
    for _ in 0..3 {
        a.feed(never_begun(container.clone()));
        assert_eq!(a.next(), Effect::Release(container));
        container = a.starts("t");
    }
    a.feed(never_begun(container.clone()));
    assert_eq!(a.next(), Effect::Release(container));
    let end = a.acknowledged_update("t", TaskState::TaskFailed);
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed);
    a.nothing_else();
}

#[test]
fn a_kill_is_carried_through_by_the_next_run() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.kill("t", None);
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    a.wait(secs(2));
    a.dies_and_returns();
    // The signal may not have been sent.
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    a.nothing_else();
    a.wait(GRACE - secs(2));
    a.effects
        .retain(|effect| !matches!(effect, Effect::Connect { .. }));
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.exits(&container, 137);
    a.is_back();
    a.acknowledged_update("t", TaskState::TaskKilled);
}

#[test]
fn a_task_killed_before_it_began_is_not_begun_by_the_next_run() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.kill("t", None);
    a.next();
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.ends(&container, Outcome::NeverBegun);
    a.is_back();
    let end = a.acknowledged_update("t", TaskState::TaskKilled);
    assert_eq!(end.reason(), Reason::TaskKilledDuringLaunch);
}

#[test]
fn the_time_a_task_has_goes_on_while_the_agent_is_away() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.max_completion_time = Some(allotment_proto::mesos::DurationInfo {
        nanoseconds: 60_000_000_000,
    });
    a.launch(vec![info]);
    let container = a.starts("t");
    a.started(&container);
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.now = a.now + secs(61);
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    a.exits(&container, 143);
    a.is_back();
    let end = a.acknowledged_update("t", TaskState::TaskFailed);
    assert_eq!(end.reason(), Reason::MaxCompletionTimeReached);
}

#[test]
fn another_boot_loses_what_ran_and_keeps_what_is_known_to_have_ended() {
    for (aware, state) in [
        (&[][..], TaskState::TaskLost),
        (&[capability::Type::PartitionAware][..], TaskState::TaskGone),
    ] {
        let mut a = Agent::registered();
        a.launch_for(aware, vec![task("ran", "cpus:1"), task("ended", "cpus:1")]);
        let (ran, ended) = (a.starts("ran"), a.starts("ended"));
        for (container, id) in [(&ran, "ran"), (&ended, "ended")] {
            a.started(container);
            a.acknowledged_update(id, TaskState::TaskRunning);
        }
        a.settings.boot_id = "another boot".to_owned();
        a.dies_and_returns();
        a.is_back();
        // One left a record of its end, of the other there is nothing.
        a.exits(&ended, 0);
        a.acknowledged_update("ended", TaskState::TaskFinished);
        let message = "its first process is gone".to_owned();
        a.ends(&ran, Outcome::Lost { message });
        let end = a.acknowledged_update("ran", state);
        assert_eq!(end.reason(), Reason::AgentRestarted);
        assert!(
            end.message().contains("machine was started anew"),
            "{end:?}"
        );
        a.nothing_else();
    }
}

#[test]
fn a_task_of_another_boot_is_not_begun_again() {
    let mut a = Agent::registered();
    a.launch(vec![task("t", "cpus:1")]);
    let container = a.starts("t");
    a.settings.boot_id = "another boot".to_owned();
    a.dies_and_returns();
    a.ends(&container, Outcome::NeverBegun);
    a.is_back();
    let end = a.acknowledged_update("t", TaskState::TaskLost);
    assert_eq!(end.reason(), Reason::AgentRestarted);
    a.nothing_else();
}

#[test]
fn tasks_that_end_with_their_agent_are_reported_by_the_next_run() {
    let mut a = Agent::registered();
    a.settings.tasks_outlive_agent = false;
    let container = a.runs("t");
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Release(container));
    assert_eq!(a.core.overview().free, a.core.overview().total);
    a.is_back();
    let end = a.acknowledged_update("t", TaskState::TaskLost);
    assert_eq!(end.reason(), Reason::AgentRestarted);
    a.nothing_else();
}

#[test]
fn growth_is_welcome_and_a_shrink_below_what_runs_is_refused_with_the_numbers() {
    let mut a = Agent::registered();
    a.runs("t");
    a.settings.resources = "cpus:8; mem:2048".parse().unwrap();
    a.dies_and_returns();
    let back = a.is_back();
    assert_eq!(
        allotment_proto::convert::resources_from_wire(&back.agent.resources).unwrap(),
        a.settings.resources
    );
    a.settings.resources = "cpus:0.5; mem:2048".parse().unwrap();
    let refused = Core::recover(a.settings.clone(), a.checkpoint(), 9, a.now).unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("cpus: asked 1, there is 0.5"), "{message}");
    assert!(message.contains("SIGUSR1"), "{message}");
}

#[test]
fn a_framework_that_is_gone_stays_gone() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.hears(Told::ShutdownFramework(allot::ShutdownFramework {
        framework_id: framework(),
    }));
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.dies_and_returns();
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    assert!(a.is_back().tasks.is_empty());
    a.exits(&container, 137);
    a.nothing_else();
    assert!(a.checkpoint().containers().is_empty());
}

#[test]
fn an_agent_that_leaves_says_nothing_and_touches_nothing() {
    let mut a = Agent::registered();
    a.runs("t");
    a.feed(Input::Leave);
    assert_eq!(a.next(), Effect::Stopped);
    a.nothing_else();
    a.dies_and_returns();
    assert_eq!(a.is_back().tasks.len(), 1);
}

#[test]
fn sandboxes_of_tasks_that_run_are_not_collected_however_old_they_are() {
    let mut a = Agent::registered();
    a.runs("t");
    a.dies_and_returns();
    let container = a.checkpoint().containers().remove(0).container;
    a.feed(Input::SandboxFound {
        sandbox: SandboxId {
            framework: "m-0001".parse().unwrap(),
            owner: Owner::Task("t".parse().unwrap()),
            container,
        },
        agent: "m-S1".parse().unwrap(),
        modified: allotment_types::Timestamp::ZERO,
    });
    a.effects
        .retain(|effect| !matches!(effect, Effect::Connect { .. }));
    a.nothing_else();
}

#[test]
fn a_record_that_is_lost_costs_what_it_said_and_nothing_else() {
    let mut a = Agent::registered();
    let container = a.runs("t");
    a.runs("other");
    let whole = a.records.clone();
    for i in 0..whole.len() {
        let mut checkpoint = allotment_agent::core::Checkpoint::default();
        let mut damage = Vec::new();
        for (j, record) in whole.iter().enumerate() {
            if i != j {
                damage.extend(checkpoint.apply(record.clone()).err());
            }
        }
        let known = checkpoint.containers();
        assert!(!known.is_empty());
        if !known.iter().any(|earlier| earlier.container == container) {
            // Its own record was the one: the rest of what is said of it is reported.
            assert!(!damage.is_empty());
        }
        let recovered = Core::recover(a.settings.clone(), checkpoint, 9, a.now);
        let (core, _) = recovered.unwrap();
        assert_eq!(core.overview().tasks_recovering, known.len());
    }
}

#[test]
fn a_snapshot_says_what_the_records_said() {
    let mut a = Agent::registered();
    a.runs("quiet");
    a.launch(vec![task("open", "cpus:1"), task("large", "cpus:99")]);
    let container = a.starts("open");
    a.started(&container);
    a.kill("open", None);
    a.wait(Duration::from_millis(1));
    let before = a.checkpoint();
    let mut from_snapshot = allotment_agent::core::Checkpoint::default();
    for record in a.core.snapshot() {
        from_snapshot.apply(record).unwrap();
    }
    assert_eq!(before.containers(), from_snapshot.containers());
    assert_eq!(format!("{before:?}"), format!("{from_snapshot:?}"));
}
