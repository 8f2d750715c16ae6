//! Executors in the agent's core, on virtual time.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/executor.rs"]
mod executor;
#[path = "support/story.rs"]
mod story;

use std::time::Duration;

use allotment_agent::core::{CallRefusal, Effect, Outcome};
use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::executor::event::Type as EventType;
use allotment_proto::executor::{call, event};
use allotment_proto::mesos::framework_info::capability;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use executor::{custom, default_one, hosted, status};
use story::{Agent, framework, secs, task};

#[test]
fn an_executor_begins_with_its_first_task_and_hears_of_it_once_it_subscribes() {
    let mut a = Agent::registered();
    a.launch(vec![hosted(
        "t",
        "cpus:1;mem:64",
        &custom("e", "cpus:0.5;mem:32"),
    )]);
    let launch = a.begins("e");
    assert_eq!(launch.resources.to_string(), "cpus:1.5; mem:96");
    assert_eq!(launch.memory_bytes, 96 << 20);
    let env = |name: &str| {
        let found = launch.environment.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!(env("MESOS_EXECUTOR_ID"), "e");
    assert_eq!(env("MESOS_FRAMEWORK_ID"), "m-0001");
    assert_eq!(env("MESOS_AGENT_ENDPOINT"), "10.0.0.7:5051");
    assert_eq!(env("MESOS_SLAVE_PID"), "slave(1)@10.0.0.7:5051");
    assert_eq!(env("MESOS_DIRECTORY"), env("MESOS_SANDBOX"));
    assert_eq!(env("MESOS_CHECKPOINT"), "1");
    assert_eq!(env("MESOS_RECOVERY_TIMEOUT"), "15mins");
    assert_eq!(env("MESOS_SUBSCRIPTION_BACKOFF_MAX"), "2secs");
    assert_eq!(env("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"), "5secs");
    assert_eq!(env("MESOS_EXECUTOR_AUTHENTICATION_TOKEN").len(), 64);
    a.started(&launch.container);
    a.nothing_else();
    let token = env("MESOS_EXECUTOR_AUTHENTICATION_TOKEN");
    let stream = a.subscribes("e", &token);
    let event = a.event(stream, EventType::Launch);
    assert_eq!(event.launch.unwrap().task.task_id.value, "t");
    a.nothing_else();
}

#[test]
fn an_update_is_acknowledged_once_it_is_written_down_and_frees_what_the_task_held() {
    let mut a = Agent::registered();
    let (_, token, stream) = a.executor_runs("e", "t");
    a.executor_says("e", &token, status("t", TaskState::TaskRunning, 1));
    a.update("t", TaskState::TaskRunning);
    let event = a.event(stream, EventType::Acknowledged);
    assert_eq!(event.acknowledged.unwrap().uuid, vec![1; 16]);
    a.answered(Ok(()));
    assert_eq!(
        a.core.overview().free.to_string(),
        "cpus:2.5; mem:928; ports:[31000-31009]"
    );
    a.executor_says("e", &token, status("t", TaskState::TaskFinished, 2));
    // The container shrinks; the update waits for the first one's acknowledgement.
    match a.next() {
        Effect::Resize { resources, .. } => assert_eq!(resources.to_string(), "cpus:0.5; mem:32"),
        other => panic!("{other:?}"),
    }
    a.event(stream, EventType::Acknowledged);
    a.answered(Ok(()));
    assert_eq!(
        a.core.overview().free.to_string(),
        "cpus:3.5; mem:992; ports:[31000-31009]"
    );
    a.nothing_else();
}

#[test]
fn one_executor_runs_many_tasks_and_grows_with_them() {
    let mut a = Agent::registered();
    let (_, token, stream) = a.executor_runs("e", "t");
    a.launch(vec![hosted(
        "u",
        "cpus:1;mem:64",
        &custom("e", "cpus:0.5;mem:32"),
    )]);
    match a.next() {
        Effect::Resize {
            resources,
            memory_bytes,
            ..
        } => {
            assert_eq!(resources.to_string(), "cpus:2.5; mem:160");
            assert_eq!(memory_bytes, 160 << 20);
        }
        other => panic!("{other:?}"),
    }
    let event = a.event(stream, EventType::Launch);
    assert_eq!(event.launch.unwrap().task.task_id.value, "u");
    a.executor_says("e", &token, status("u", TaskState::TaskRunning, 9));
    a.update("u", TaskState::TaskRunning);
}

#[test]
fn a_second_terminal_update_is_acknowledged_and_changes_nothing() {
    let mut a = Agent::registered();
    let (_, token, stream) = a.executor_runs("e", "t");
    a.executor_says("e", &token, status("t", TaskState::TaskFinished, 1));
    assert!(matches!(a.next(), Effect::Resize { .. }));
    let update = a.update("t", TaskState::TaskFinished);
    a.event(stream, EventType::Acknowledged);
    a.answered(Ok(()));
    let free = a.core.overview().free;
    // Another one, while the first waits for the framework and after that has it.
    for uuid in [2, 1, 3] {
        a.executor_says("e", &token, status("t", TaskState::TaskFailed, uuid));
        a.event(stream, EventType::Acknowledged);
        a.answered(Ok(()));
        a.nothing_else();
        if uuid == 1 {
            a.acknowledge(&update);
        }
    }
    assert_eq!(a.core.overview().free, free);
    assert_eq!(a.core.overview().counts.finished, 1);
}

#[test]
fn nobody_speaks_for_an_executor_without_its_token() {
    let mut a = Agent::registered();
    let (_, token, _) = a.executor_runs("e", "t");
    a.launch(vec![hosted("u", "cpus:1", &custom("f", ""))]);
    let other = a.begins("f");
    let others = executor::token(&other);
    assert_ne!(others, token);
    for wrong in [None, Some(""), Some("x"), Some(others.as_str())] {
        a.calls("e", wrong, call::Type::Subscribe, |_| {});
        assert!(
            matches!(a.refused(), CallRefusal::Unauthorized(_)),
            "{wrong:?}"
        );
    }
    // The one that is connected still is.
    a.executor_says("e", &token, status("t", TaskState::TaskRunning, 1));
    a.update("t", TaskState::TaskRunning);
}

#[test]
fn an_executor_that_never_subscribes_is_ended_and_its_task_says_why() {
    let mut a = Agent::registered();
    a.launch(vec![hosted("t", "cpus:1", &custom("e", ""))]);
    let launch = a.begins("e");
    a.started(&launch.container);
    a.wait(secs(60) - Duration::from_millis(1));
    a.hears(Told::Ping(allot::Ping { sequence: 0 }));
    a.says();
    a.nothing_else();
    a.wait(Duration::from_millis(1));
    assert_eq!(a.next(), Effect::Destroy(launch.container.clone()));
    a.killed(&launch.container);
    let update = a.update("t", TaskState::TaskFailed);
    assert_eq!(update.reason(), Reason::ExecutorRegistrationTimeout);
    assert!(a.executor_ended("e").status.is_some());
    assert_eq!(a.core.overview().free, a.settings.resources);
}

#[test]
fn tasks_of_an_executor_that_ends_fail_with_it() {
    let mut a = Agent::registered();
    let (container, token, stream) = a.executor_runs("e", "t");
    a.executor_says("e", &token, status("t", TaskState::TaskRunning, 1));
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.event(stream, EventType::Acknowledged);
    a.answered(Ok(()));
    a.exits(&container, 7);
    assert_eq!(a.next(), Effect::CloseExecutor { number: stream });
    let update = a.update("t", TaskState::TaskFailed);
    assert_eq!(update.reason(), Reason::ExecutorTerminated);
    assert_eq!(update.message(), "Executor exited with status 7");
    assert_eq!(a.executor_ended("e").status, Some(7 << 8));
    assert_eq!(a.core.overview().executors, 0);
}

#[test]
fn a_kill_goes_to_the_executor_and_one_it_never_heard_of_ends_at_once() {
    let mut a = Agent::registered();
    let (_, token, stream) = a.executor_runs("e", "t");
    a.kill("t", Some(secs(3)));
    let kill = a.event(stream, EventType::Kill).kill.unwrap();
    assert_eq!(kill.task_id.value, "t");
    let grace = kill.kill_policy.unwrap().grace_period.unwrap();
    assert_eq!(grace.nanoseconds, 3_000_000_000);
    a.executor_says("e", &token, status("t", TaskState::TaskKilled, 1));
    assert!(matches!(a.next(), Effect::Resize { .. }));
    a.update("t", TaskState::TaskKilled);
    // Another executor, which has not subscribed yet.
    a.effects.clear();
    a.launch(vec![hosted("u", "cpus:1", &custom("f", ""))]);
    let launch = a.begins("f");
    a.started(&launch.container);
    a.kill("u", None);
    assert!(matches!(a.next(), Effect::Resize { .. }));
    let update = a.update("u", TaskState::TaskKilled);
    assert_eq!(update.reason(), Reason::TaskKilledDuringLaunch);
    // It has nothing to do any more, and hears so when it comes.
    let token = executor::token(&launch);
    let stream = a.subscribes("f", &token);
    a.event(stream, EventType::Shutdown);
    a.wait(secs(5));
    assert!(a.effects.contains(&Effect::Destroy(launch.container)));
}

#[test]
fn an_executor_that_ignores_shutdown_is_destroyed_after_its_grace() {
    let mut a = Agent::registered();
    let (container, _, stream) = a.executor_runs("e", "t");
    a.hears(Told::ShutdownExecutor(allot::ShutdownExecutor {
        framework_id: framework(),
        executor_id: executor::id("e"),
    }));
    a.event(stream, EventType::Shutdown);
    a.wait(secs(5) - Duration::from_millis(1));
    a.nothing_else();
    a.wait(Duration::from_millis(1));
    assert_eq!(a.next(), Effect::Destroy(container.clone()));
    a.killed(&container);
    assert_eq!(a.next(), Effect::CloseExecutor { number: stream });
    let update = a.update("t", TaskState::TaskFailed);
    assert_eq!(update.message(), "Its framework ended the executor");
}

#[test]
fn updates_that_are_not_the_executors_to_make_are_refused() {
    let mut a = Agent::registered();
    let (_, token, _) = a.executor_runs("e", "t");
    let mut refuse = |change: fn(&mut mesos::TaskStatus), part: &str| {
        let mut wrong = status("t", TaskState::TaskRunning, 1);
        change(&mut wrong);
        a.executor_says("e", &token, wrong);
        match a.refused() {
            CallRefusal::Invalid(text) => assert!(text.contains(part), "{text}"),
            other => panic!("{other:?}"),
        }
        a.nothing_else();
    };
    refuse(
        |s| s.task_id.value = "another".to_owned(),
        "has no task another",
    );
    refuse(|s| s.task_id.value = "../x".to_owned(), "slashes");
    refuse(|s| s.uuid = None, "uuid of 0 bytes");
    refuse(|s| s.uuid = Some(vec![1].into()), "uuid of 1 bytes");
    refuse(
        |s| s.set_state(TaskState::TaskUnreachable),
        "TASK_UNREACHABLE",
    );
    refuse(|s| s.set_state(TaskState::TaskStaging), "TASK_STAGING");
    refuse(
        |s| s.executor_id = Some(executor::id("f")),
        "names executor",
    );
    refuse(
        |s| s.set_source(mesos::task_status::Source::Master),
        "SOURCE_MASTER",
    );
    refuse(|s| s.data = Some(vec![0; 2 << 20].into()), "at most");
}

#[test]
fn a_flood_of_updates_is_bounded_and_the_last_one_still_comes_through() {
    let mut a = Agent::registered();
    let (_, token, _) = a.executor_runs("e", "t");
    let mut n_taken = 0;
    for n in 0..200 {
        a.executor_says("e", &token, status("t", TaskState::TaskRunning, n));
        let answer = a.effects.iter().find_map(|effect| match effect {
            Effect::AnswerExecutor { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        match answer.unwrap() {
            Ok(()) => n_taken += 1,
            Err(refusal) => assert!(matches!(refusal, CallRefusal::TooMany(_)), "{refusal:?}"),
        }
        a.effects.clear();
    }
    assert_eq!(n_taken, 64);
    a.executor_says("e", &token, status("t", TaskState::TaskFinished, 255));
    assert_eq!(a.core.overview().counts.finished, 1);
}

#[test]
fn an_executor_outlives_the_agent_and_brings_what_was_not_acknowledged() {
    let mut a = Agent::registered();
    let (container, token, stream) = a.executor_runs("e", "t");
    a.executor_says("e", &token, status("t", TaskState::TaskRunning, 1));
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.event(stream, EventType::Acknowledged);
    a.answered(Ok(()));
    a.launch(vec![hosted(
        "u",
        "cpus:1;mem:64",
        &custom("e", "cpus:0.5;mem:32"),
    )]);
    let free = a.core.overview().free;
    // The launch of `u` is written down and lost on its way.
    a.dies_and_returns();
    let register = a.is_back();
    assert_eq!(register.executors.len(), 1);
    assert_eq!(register.tasks.len(), 2);
    assert_eq!(a.core.overview().free, free);
    a.started(&container);
    a.effects.clear();
    let update = call::Update {
        status: status("t", TaskState::TaskFinished, 2),
    };
    a.calls("e", Some(&token), call::Type::Subscribe, |call| {
        let heard = hosted("t", "cpus:1", &custom("e", ""));
        call.subscribe = Some(call::Subscribe {
            unacknowledged_tasks: vec![heard],
            unacknowledged_updates: vec![update],
        });
    });
    let stream = a.number();
    a.answered(Ok(()));
    a.event(stream, EventType::Subscribed);
    assert!(matches!(a.next(), Effect::Resize { .. }));
    a.update("t", TaskState::TaskFinished);
    a.event(stream, EventType::Acknowledged);
    // A second time might start it twice: it is the framework's to say.
    assert!(matches!(a.next(), Effect::Resize { .. }));
    let dropped = a.update("u", TaskState::TaskLost);
    assert_eq!(dropped.reason(), Reason::AgentRestarted);
    a.nothing_else();
}

#[test]
fn an_executor_that_a_new_agent_does_not_hear_of_is_ended() {
    let mut a = Agent::registered();
    let (container, _, _) = a.executor_runs("e", "t");
    a.dies_and_returns();
    a.is_back();
    a.effects.clear();
    a.started(&container);
    a.wait(secs(2));
    assert!(a.effects.contains(&Effect::Destroy(container.clone())));
    a.effects.clear();
    a.killed(&container);
    let update = a.update("t", TaskState::TaskFailed);
    assert_eq!(update.reason(), Reason::ExecutorReregistrationTimeout);
}

#[test]
fn a_task_for_an_executor_that_has_just_ended_is_dropped() {
    let mut a = Agent::registered();
    let task = hosted("t", "cpus:1", &custom("e", "cpus:1"));
    a.hears(Told::Launch(allot::Launch {
        framework: mesos::FrameworkInfo {
            id: Some(framework()),
            capabilities: vec![mesos::framework_info::Capability {
                r#type: Some(capability::Type::PartitionAware.into()),
            }],
            ..Default::default()
        },
        tasks: vec![task],
        running_executors: vec![executor::id("e")],
        ..Default::default()
    }));
    let update = a.update("t", TaskState::TaskDropped);
    assert_eq!(update.reason(), Reason::ExecutorTerminated);
    assert_eq!(a.core.overview().free, a.settings.resources);
}

#[test]
fn messages_go_both_ways() {
    let mut a = Agent::registered();
    let (_, token, stream) = a.executor_runs("e", "t");
    a.hears(Told::ExecutorMessage(allot::ExecutorMessage {
        framework_id: framework(),
        executor_id: executor::id("e"),
        data: vec![0, 255].into(),
    }));
    let event = a.event(stream, EventType::Message);
    assert_eq!(
        event.message,
        Some(event::Message {
            data: vec![0, 255].into()
        })
    );
    a.calls("e", Some(&token), call::Type::Message, |call| {
        call.message = Some(call::Message {
            data: vec![1].into(),
        });
    });
    match a.says() {
        Said::ExecutorMessage(message) => {
            assert_eq!(message.executor_id.value, "e");
            assert_eq!(message.data, vec![1]);
        }
        other => panic!("{other:?}"),
    }
    a.answered(Ok(()));
}

#[test]
fn a_second_subscription_takes_the_place_of_the_first() {
    let mut a = Agent::registered();
    let (_, token, first) = a.executor_runs("e", "t");
    a.calls("e", Some(&token), call::Type::Subscribe, |call| {
        call.subscribe = Some(call::Subscribe {
            unacknowledged_tasks: vec![hosted("t", "cpus:1", &custom("e", ""))],
            unacknowledged_updates: Vec::new(),
        });
    });
    let second = a.number();
    a.answered(Ok(()));
    assert_eq!(a.next(), Effect::CloseExecutor { number: first });
    a.event(second, EventType::Subscribed);
    a.nothing_else();
    a.feed(allotment_agent::core::Input::ExecutorClosed { number: first });
    a.kill("t", None);
    a.event(second, EventType::Kill);
}

#[test]
fn a_group_in_a_custom_executor_comes_as_one() {
    let mut a = Agent::registered();
    let executor = custom("e", "cpus:0.5;mem:32");
    let tasks = vec![
        hosted("t", "cpus:1", &executor),
        hosted("u", "cpus:1", &executor),
    ];
    a.launch_group(executor, tasks);
    let launch = a.begins("e");
    assert_eq!(launch.resources.to_string(), "cpus:2.5; mem:32");
    a.started(&launch.container);
    let stream = a.subscribes("e", &executor::token(&launch));
    let event = a.event(stream, EventType::LaunchGroup);
    assert_eq!(event.launch_group.unwrap().task_group.tasks.len(), 2);
    a.nothing_else();
}

#[test]
fn tasks_of_a_group_run_for_their_framework_once_all_of_them_do() {
    let mut a = Agent::registered();
    let pod = default_one("pod", "cpus:0.1;mem:32");
    let (one, two) = a.pod_starts(&pod, "t", "u");
    a.started(&one);
    a.nothing_else();
    a.started(&two);
    let updates = [a.says(), a.says()];
    for update in updates {
        match update {
            Said::Update(update) => {
                assert_eq!(update.status.state(), TaskState::TaskRunning);
                assert_eq!(update.status.executor_id.unwrap().value, "pod");
                let container = update
                    .status
                    .container_status
                    .unwrap()
                    .container_id
                    .unwrap();
                assert!(container.parent.is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    a.nothing_else();
}

#[test]
fn a_task_that_fails_takes_its_group_along_and_one_that_finishes_does_not() {
    let mut a = Agent::registered();
    let pod = default_one("pod", "cpus:0.1;mem:32");
    let (one, two) = a.pod_runs(&pod, "t", "u");
    let (three, four) = a.pod_runs(&pod, "v", "w");
    a.exits(&three, 0);
    a.acknowledged_update("v", TaskState::TaskFinished);
    a.nothing_else();
    a.exits(&one, 1);
    assert_eq!(a.next(), Effect::Terminate(two.clone()));
    a.acknowledged_update("t", TaskState::TaskFailed);
    a.nothing_else();
    a.killed(&two);
    let update = a.acknowledged_update("u", TaskState::TaskKilled);
    assert!(update.message().contains("group"), "{}", update.message());
    // The executor is there until its last group is over.
    a.nothing_else();
    assert_eq!(a.core.overview().executors, 1);
    a.exits(&four, 0);
    assert_eq!(a.executor_ended("pod").status, Some(0));
    a.acknowledged_update("w", TaskState::TaskFinished);
    a.nothing_else();
    assert_eq!(a.core.overview().free, a.settings.resources);
}

#[test]
fn killing_one_task_of_a_group_kills_the_group() {
    let mut a = Agent::registered();
    let (one, two) = a.pod_runs(&default_one("pod", ""), "t", "u");
    a.kill("t", None);
    assert_eq!(a.next(), Effect::Terminate(one.clone()));
    a.killed(&one);
    assert_eq!(a.next(), Effect::Terminate(two));
    a.update("t", TaskState::TaskKilled);
}

#[test]
fn a_group_of_which_one_task_cannot_start_never_runs() {
    let mut a = Agent::registered();
    let (one, two) = a.pod_starts(&default_one("pod", ""), "t", "u");
    a.started(&one);
    let message = "no such program".to_owned();
    a.ends(&two, Outcome::NotStarted { message });
    assert_eq!(a.next(), Effect::Terminate(one.clone()));
    a.acknowledged_update("u", TaskState::TaskFailed);
    a.killed(&one);
    a.executor_ended("pod");
    a.update("t", TaskState::TaskKilled);
}

#[test]
fn a_group_is_taken_on_as_a_whole_or_not_at_all() {
    let mut a = Agent::registered();
    let pod = default_one("pod", "cpus:1");
    let mut wrong = task("u", "cpus:1");
    wrong.command = None;
    a.launch_group(pod.clone(), vec![task("t", "cpus:1"), wrong]);
    a.update("t", TaskState::TaskError);
    a.update("u", TaskState::TaskError);
    a.nothing_else();
    a.launch_group(pod, vec![task("v", "cpus:2"), task("w", "cpus:2")]);
    let update = a.update("v", TaskState::TaskLost);
    assert!(
        update.message().contains("does not fit"),
        "{}",
        update.message()
    );
    a.update("w", TaskState::TaskLost);
    a.nothing_else();
    assert_eq!(a.core.overview().free, a.settings.resources);
}

#[test]
fn groups_go_on_in_the_next_run_of_the_agent() {
    let mut a = Agent::registered();
    let (one, two) = a.pod_runs(&default_one("pod", "cpus:0.5"), "t", "u");
    let free = a.core.overview().free;
    a.dies_and_returns();
    let register = a.is_back();
    assert_eq!(register.executors.len(), 1);
    assert_eq!(a.core.overview().free, free);
    a.effects.clear();
    a.started(&one);
    a.started(&two);
    a.nothing_else();
    a.exits(&one, 3);
    assert_eq!(a.next(), Effect::Terminate(two.clone()));
    a.acknowledged_update("t", TaskState::TaskFailed);
    a.killed(&two);
    a.executor_ended("pod");
    a.update("u", TaskState::TaskKilled);
    assert_eq!(a.core.overview().free, a.settings.resources);
}
