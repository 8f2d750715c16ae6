//! The queue's promises, as stories over its pure core.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::path::Path;
use std::time::Duration;

use allotment_batch::core::{Action, Answer, Effect, Input, Record, Refusal, TransferProblem};
use allotment_framework_sdk::api::{Reason, TaskState};
use allotment_framework_sdk::{Call, Command, Update};
use allotment_proto::allot::{JobSpec, StringList, TaskExit};
use allotment_types::Timestamp;
use common::{Queue, exited, files, framework, key, lost, spec, update};

#[test]
fn one_offer_is_filled_with_many_jobs_and_the_queue_asks_only_while_something_waits() {
    let mut queue = Queue::new();
    queue.submit(spec(), 5);
    assert_eq!(queue.calls(), [Call::Revive]);
    let tasks = queue.offer("cpus:4; mem:4096");
    assert_eq!(tasks.len(), 4, "four cores hold four jobs");
    assert!(tasks[0].id.as_str().starts_with("1.0.1-"));
    queue.step(Input::Offers(vec![common::offer(
        9,
        "A2",
        "cpus:2; mem:2048",
    )]));
    let calls = queue.calls();
    assert!(matches!(&calls[0], Call::Accept { tasks, .. } if tasks.len() == 1));
    assert_eq!(calls[1..], [Call::Suppress]);
}

#[test]
fn an_offer_that_fits_nothing_is_declined_and_a_new_job_that_fits_revives() {
    let mut queue = Queue::new();
    let big = JobSpec {
        memory_mib: Some(1_000_000),
        ..spec()
    };
    queue.submit(big, 1).calls();
    queue.step(Input::Offers(vec![common::offer(
        1,
        "A1",
        "cpus:4; mem:4096",
    )]));
    assert!(matches!(&queue.calls()[..], [Call::Decline { .. }]));
    queue.submit(spec(), 1);
    assert_eq!(
        queue.calls(),
        [Call::Revive],
        "the master still filters the agent"
    );
}

/// What the queue says it would use, demands alone.
fn demands(queue: &mut Queue) -> Vec<Option<(String, u32)>> {
    let calls = queue.calls().into_iter();
    let demands = calls.filter_map(|call| match call {
        Call::Demand { demand, .. } => Some(demand),
        _ => None,
    });
    demands
        .map(|demand| demand.map(|demand| (demand.bundle.to_string(), demand.count)))
        .collect()
}

fn large() -> JobSpec {
    JobSpec {
        cpus_milli: Some(8000),
        ..spec()
    }
}

/// Nobody offers anything for half a minute.
fn half_a_minute(queue: &mut Queue) {
    for _ in 0..30 {
        queue.step(Input::Tick);
    }
}

#[test]
fn jobs_of_one_size_that_nothing_fits_state_their_demand_after_half_a_minute() {
    let mut queue = Queue::new();
    queue.submit(large(), 3);
    let due = queue.core.next_deadline();
    assert_eq!(due, Some(queue.now + Duration::from_secs(30)));
    assert!(queue.offer("cpus:4; mem:4096").is_empty(), "a crumb");
    assert_eq!(demands(&mut queue), []);
    half_a_minute(&mut queue);
    let asked = |n| Some(("cpus:8; mem:128".to_owned(), n));
    assert_eq!(demands(&mut queue), [asked(3)]);
    assert_eq!(queue.core.next_deadline(), None, "it was said");
    // Two come; the third is asked for already.
    queue.step(Input::Offers(vec![common::offer(
        8,
        "A1",
        "cpus:16; mem:256",
    )]));
    assert_eq!(demands(&mut queue), []);
    // One comes and is rescinded on its way: it is asked for again.
    let gone = allotment_types::OfferId::parse("O9").unwrap();
    queue.step(Input::Rescinded(gone));
    assert_eq!(demands(&mut queue), [asked(1)]);
    // More of the same are asked for at once.
    queue.submit(large(), 4);
    assert_eq!(demands(&mut queue), [asked(5)]);
    queue.step(Input::Offers(vec![common::offer(
        10,
        "A1",
        "cpus:40; mem:640",
    )]));
    let calls = queue.calls();
    assert!(matches!(&calls[0], Call::Accept { tasks, .. } if tasks.len() == 5));
    assert_eq!(calls[1], Call::Suppress);
    assert!(matches!(&calls[2], Call::Demand { demand: None, .. }));
}

#[test]
fn jobs_of_several_sizes_take_ordinary_offers() {
    let mut queue = Queue::new();
    queue.submit(large(), 1);
    queue.submit(spec(), 1);
    half_a_minute(&mut queue);
    assert_eq!(demands(&mut queue), []);
    // The small one starts, and half a minute later the large one speaks up.
    assert_eq!(queue.offer("cpus:4; mem:4096").len(), 1);
    half_a_minute(&mut queue);
    assert_eq!(demands(&mut queue).len(), 1);
    // A job of another size comes: the demand must not keep offers from it.
    queue.submit(spec(), 1);
    assert_eq!(demands(&mut queue), [None]);
}

#[test]
fn a_demand_is_stated_anew_to_a_master_that_knows_nothing_of_it() {
    let mut queue = Queue::new();
    queue.submit(large(), 1);
    half_a_minute(&mut queue);
    assert_eq!(demands(&mut queue).len(), 1);
    queue.step(Input::Disconnected);
    assert_eq!(queue.core.next_deadline(), None);
    queue.step(Input::Subscribed(framework()));
    assert_eq!(demands(&mut queue).len(), 1);
}

#[test]
fn higher_priority_runs_first_then_submission_then_number() {
    let mut queue = Queue::new();
    let urgent = JobSpec {
        priority: Some(5),
        ..spec()
    };
    queue.submit(spec(), 2).submit(urgent, 1).submit(spec(), 1);
    let order: Vec<String> = queue
        .offer("cpus:4; mem:4096")
        .iter()
        .map(|task| task.name.clone())
        .collect();
    assert_eq!(order, ["2.0", "1.0", "1.1", "3.0"]);
}

#[test]
fn the_launch_is_durable_before_it_is_said_and_the_end_before_it_is_acknowledged() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1).calls();
    queue.effects.persist.clear();
    let task = queue.offer("cpus:1; mem:128").remove(0);
    assert!(
        matches!(&queue.effects.persist[..], [Record::Job(k, stored)]
        if *k == key(1, 0) && stored.run.as_ref().unwrap().task == task.id.as_str())
    );
    queue.effects.persist.clear();
    let end = exited(&task.id, 0);
    let acknowledgement = end.acknowledgement().unwrap();
    queue.update(end);
    assert!(matches!(
        &queue.effects.persist[..],
        [Record::Ended(..), Record::ClusterEnded(1)]
    ));
    assert!(queue.calls().contains(&acknowledgement));
    assert!(queue.ended()[0].success);
    assert!(queue.core.is_empty());
}

#[test]
fn a_repeated_end_is_recorded_once_and_acknowledged_again() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    let task = queue.offer("cpus:1; mem:128").remove(0);
    let end = exited(&task.id, 0);
    queue.update(end.clone()).update(end.clone());
    assert_eq!(queue.ended().len(), 1);
    let acknowledged = queue
        .calls()
        .into_iter()
        .filter(|call| *call == end.acknowledgement().unwrap());
    assert_eq!(acknowledged.count(), 2);
}

#[test]
fn a_lost_run_goes_back_to_idle_and_gets_a_task_id_of_its_own() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    let first = queue.offer("cpus:1; mem:128").remove(0);
    queue.update(lost(&first.id, Reason::AgentRemoved));
    assert_eq!(queue.state(1, 0), "idle");
    assert_eq!(queue.core.counts().lost, 1);
    let second = queue.offer("cpus:1; mem:128").remove(0);
    assert_ne!(first.id, second.id);
    assert!(second.id.as_str().starts_with("1.0.2-"));
    // The agent comes back and the first run is still there: it must not go on.
    queue.calls();
    queue.update(update(&first.id, TaskState::TaskRunning));
    assert!(
        matches!(&queue.calls()[..], [Call::Acknowledge { .. }, Call::Kill { task, .. }] if *task == first.id)
    );
    queue.update(exited(&first.id, 0));
    assert!(
        queue.ended().is_empty(),
        "only the current run completes the job"
    );
    queue.update(exited(&second.id, 0));
    assert_eq!(queue.ended().len(), 1);
}

#[test]
fn retries_follow_htcondors_on_exit_remove() {
    // max_retries, success code, retry_until, exit codes -> runs.
    for (max, success, until, codes, runs) in [
        (None, None, None, vec![1], 1),
        (Some(2), None, None, vec![1, 1, 1], 3),
        (Some(2), None, None, vec![1, 0], 2),
        (Some(5), Some(7), None, vec![0, 7], 2),
        (Some(5), None, Some(9), vec![1, 9], 2),
        (Some(0), None, None, vec![1], 1),
    ] {
        let mut queue = Queue::new();
        queue.submit(
            JobSpec {
                max_retries: max,
                success_exit_code: success,
                retry_until: until,
                ..spec()
            },
            1,
        );
        let mut ran = 0;
        for code in codes {
            let task = queue.offer("cpus:1; mem:128").remove(0);
            queue.update(exited(&task.id, code));
            ran += 1;
        }
        assert_eq!(queue.ended().len(), 1, "{max:?} {success:?} {until:?}");
        assert_eq!(ran, runs);
    }
}

#[test]
fn a_run_that_a_signal_ended_is_a_failure_and_is_tried_again() {
    let mut queue = Queue::new();
    queue.submit(
        JobSpec {
            max_retries: Some(1),
            ..spec()
        },
        1,
    );
    let signalled = |task: &allotment_types::TaskId| Update {
        exit: Some(TaskExit {
            signal: Some(9),
            ..TaskExit::default()
        }),
        sandbox: Some(files(&[])),
        ..update(task, TaskState::TaskFailed)
    };
    let task = queue.offer("cpus:1; mem:128").remove(0);
    queue.update(signalled(&task.id));
    assert_eq!(queue.state(1, 0), "idle");
    let task = queue.offer("cpus:1; mem:128").remove(0);
    queue.update(signalled(&task.id));
    let ended = queue.ended().remove(0);
    assert_eq!((ended.success, ended.exit_signal), (false, Some(9)));
}

#[test]
fn what_the_agent_adds_to_an_exit_is_kept_with_the_end() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    let task = queue.offer("cpus:1; mem:128").remove(0);
    queue.effects.persist.clear();
    queue.update(Update {
        message: Some("Command exited with status 1; the disk is full".to_owned()),
        ..exited(&task.id, 1)
    });
    let ends = queue
        .effects
        .persist
        .iter()
        .filter_map(|record| match record {
            Record::Ended(_, end) => end.reason.clone(),
            _ => None,
        });
    assert_eq!(ends.collect::<Vec<_>>(), ["the disk is full"]);
}

#[test]
fn what_cannot_get_better_by_itself_is_held_with_htcondors_codes() {
    let failed = |state, reason, message: &'static str| {
        move |task: &allotment_types::TaskId| Update {
            reason: Some(reason),
            message: Some(message.to_owned()),
            ..update(task, state)
        }
    };
    let failure = TaskState::TaskFailed;
    for (update, code, subcode) in [
        (
            failed(failure, Reason::ContainerLimitationMemory, "64 MiB"),
            34,
            102,
        ),
        (
            failed(failure, Reason::ContainerLimitationDisk, "full"),
            34,
            104,
        ),
        (
            failed(failure, Reason::ContainerLaunchFailed, "cannot run x"),
            6,
            0,
        ),
        (
            failed(failure, Reason::ContainerLaunchFailed, "cannot fetch y"),
            13,
            0,
        ),
        (
            failed(TaskState::TaskError, Reason::TaskInvalid, "no"),
            6,
            0,
        ),
        (
            failed(TaskState::TaskKilled, Reason::ExecutorTerminated, "killed"),
            1,
            0,
        ),
    ] {
        let mut queue = Queue::new();
        queue.submit(spec(), 1);
        let task = queue.offer("cpus:1; mem:128").remove(0);
        queue.update(update(&task.id));
        let view = queue.core.show(key(1, 0)).unwrap();
        assert_eq!(view.state, "held");
        assert_eq!(
            (view.hold_code, view.hold_subcode),
            (Some(code), Some(subcode))
        );
        queue.act(Action::Release, &[1]);
        assert_eq!(queue.state(1, 0), "idle");
    }
}

#[test]
fn output_comes_home_before_the_job_is_complete() {
    let mut queue = Queue::new();
    queue.submit(
        JobSpec {
            output: Some("/home/o".to_owned()),
            transfer_input: Some(StringList {
                items: vec!["/home/in.txt".to_owned()],
            }),
            ..spec()
        },
        1,
    );
    let task = queue.offer("cpus:1; mem:128").remove(0);
    let end = Update {
        sandbox: Some(files(&[("in.txt", 3), ("new.txt", 4)])),
        ..exited(&task.id, 0)
    };
    queue.update(end.clone());
    let transfer = queue.transfers().remove(0);
    let moves: Vec<(&str, &str)> = transfer
        .files
        .iter()
        .map(|file| (file.name.as_str(), file.to.as_str()))
        .collect();
    assert_eq!(moves, [("stdout", "/home/o"), ("new.txt", "/home/new.txt")]);
    assert!(queue.ended().is_empty());
    assert!(!queue.calls().contains(&end.acknowledgement().unwrap()));
    queue.step(Input::Transferred {
        task: task.id,
        outcome: Ok(()),
    });
    assert_eq!(queue.ended().len(), 1);
    assert_eq!(queue.calls(), [end.acknowledgement().unwrap(),]);
}

#[test]
fn an_output_path_that_cannot_be_written_holds_the_job() {
    let problem = |path: &str, standard| TransferProblem::Write {
        path: path.to_owned(),
        error: "No such file or directory".to_owned(),
        errno: 2,
        standard,
    };
    for (problem, code) in [
        (problem("/home/x/o", true), 7),
        (problem("/home/new.txt", false), 12),
        (problem("/home", true), 14),
    ] {
        let mut queue = Queue::new();
        queue.submit(
            JobSpec {
                output: Some("/home/x/o".to_owned()),
                ..spec()
            },
            1,
        );
        let task = queue.offer("cpus:1; mem:128").remove(0);
        queue.update(exited(&task.id, 0));
        queue.transfers();
        queue.step(Input::Transferred {
            task: task.id,
            outcome: Err(problem),
        });
        let view = queue.core.show(key(1, 0)).unwrap();
        assert_eq!(view.hold_code, Some(code));
        assert!(view.reason.unwrap().contains("No such file or directory"));
        assert!(
            queue
                .calls()
                .iter()
                .any(|c| matches!(c, Call::Acknowledge { .. }))
        );
    }
}

#[test]
fn a_removed_running_job_is_killed_and_its_late_end_counts_nothing() {
    let mut queue = Queue::new();
    queue.submit(spec(), 2);
    let tasks = queue.offer("cpus:2; mem:256");
    queue.act(Action::Remove, &[1]);
    let killed = queue
        .calls()
        .into_iter()
        .filter(|call| matches!(call, Call::Kill { .. }));
    assert_eq!(killed.count(), 2);
    assert_eq!(
        queue.answers()[1..],
        [Answer::Acted {
            changed: 2,
            unchanged: 0
        }]
    );
    queue.update(exited(&tasks[0].id, 0));
    let ended = queue.ended();
    assert!(ended.len() == 2 && ended.iter().all(|e| e.removed));
    queue.act(Action::Remove, &[1]);
    assert_eq!(
        queue.answers(),
        [Answer::Refused(Refusal::NoJob("1".to_owned()))]
    );
}

#[test]
fn a_job_that_is_submitted_held_waits_for_its_release() {
    let mut queue = Queue::new();
    queue.submit(
        JobSpec {
            hold: Some(true),
            ..spec()
        },
        1,
    );
    assert!(
        queue.calls().is_empty(),
        "nothing waits, nothing is asked for"
    );
    assert_eq!(queue.core.show(key(1, 0)).unwrap().hold_code, Some(15));
    queue.act(Action::Release, &[1]);
    assert_eq!(queue.calls(), [Call::Revive]);
}

#[test]
fn a_reserved_id_is_used_once() {
    let mut queue = Queue::new();
    queue.step(Input::Reserve {
        ticket: 0,
        count: 2,
    });
    assert_eq!(queue.answers(), [Answer::Reserved(1)]);
    let mut request = common::cluster(spec(), 1);
    request.clusters[0].cluster = Some(1);
    queue.step(Input::Submit {
        ticket: 0,
        request: request.clone(),
    });
    queue.step(Input::Submit { ticket: 0, request });
    let answers = queue.answers();
    assert!(matches!(&answers[0], Answer::Submitted(c) if c[0].cluster == 1));
    assert_eq!(answers[1], Answer::Refused(Refusal::Exists(1)));
    queue.submit(spec(), 1);
    assert!(matches!(&queue.answers()[0], Answer::Submitted(c) if c[0].cluster == 3));
}

#[test]
fn a_queue_that_is_full_says_both_numbers() {
    let mut queue = Queue::new();
    queue.submit(spec(), 9_999).answers();
    queue.submit(spec(), 2);
    let Answer::Refused(refusal) = queue.answers().remove(0) else {
        panic!("it was taken");
    };
    let text = refusal.to_string();
    assert!(text.contains("9999") && text.contains("10000"), "{text}");
    assert_eq!(queue.core.len(), 9_999);
}

#[test]
fn requests_that_no_command_line_makes_are_refused() {
    let wrong = |change: fn(&mut JobSpec)| {
        let mut template = spec();
        change(&mut template);
        template
    };
    for template in [
        wrong(|s| s.executable = None),
        wrong(|s| s.initial_dir = Some("relative".to_owned())),
        wrong(|s| s.log = Some("../l".to_owned())),
        wrong(|s| s.cpus_milli = Some(0)),
        wrong(|s| s.memory_mib = Some(u64::MAX)),
        wrong(|s| s.output = Some("/a\0b".to_owned())),
        wrong(|s| {
            s.transfer_output = Some(StringList {
                items: vec!["../x".to_owned()],
            });
        }),
    ] {
        let mut queue = Queue::new();
        queue.submit(template.clone(), 1);
        assert!(
            matches!(&queue.answers()[..], [Answer::Refused(Refusal::Invalid(_))]),
            "{template:?}"
        );
        assert!(queue.core.is_empty() && queue.effects.persist.is_empty());
    }
}

#[test]
fn a_launch_that_nobody_heard_of_is_asked_about() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    let task = queue.offer("cpus:1; mem:128").remove(0);
    let at = queue.core.next_deadline().unwrap();
    assert!(at > queue.now);
    queue.now = at;
    queue.step(Input::Tick);
    let agent = Some("A1".parse().unwrap());
    assert_eq!(queue.calls(), [Call::Reconcile(vec![(task.id, agent)])]);
}

#[test]
fn a_new_framework_id_means_that_the_old_runs_are_gone() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    queue.offer("cpus:1; mem:128");
    queue.step(Input::Disconnected);
    queue.step(Input::Subscribed("F2".parse().unwrap()));
    assert_eq!(queue.state(1, 0), "idle");
}

#[test]
fn an_agent_elsewhere_fetches_over_http_and_one_here_runs_in_place() {
    let template = JobSpec {
        transfer_input: Some(StringList {
            items: vec!["/home/in.txt".to_owned()],
        }),
        input: Some("/home/stdin".to_owned()),
        ..spec()
    };
    let mut queue = Queue::new();
    queue.submit(template, 2);
    let here = queue.offer("cpus:1; mem:128").remove(0);
    let uris: Vec<&str> = here.uris.iter().map(|uri| uri.value.as_str()).collect();
    assert_eq!(uris, ["/home/in.txt"]);
    assert_eq!(here.env["_CONDOR_STDIN"], "/home/stdin");
    let Command::Exec { program, arguments } = &here.command else {
        panic!("a line for a shell");
    };
    assert_eq!(
        (program.as_str(), arguments[2].as_str()),
        ("/bin/sh", "/bin/true")
    );

    let mut away = common::offer(9, "A2", "cpus:1; mem:128");
    away.hostname = "there".to_owned();
    queue.step(Input::Offers(vec![away]));
    let away = queue.launched().remove(0);
    let uris: Vec<&str> = away.uris.iter().map(|uri| uri.value.as_str()).collect();
    assert_eq!(
        uris,
        [
            "spool:///bin/true",
            "spool:///home/in.txt",
            "spool:///home/stdin"
        ]
    );
}

#[test]
fn ten_thousand_equal_jobs_cost_one_record() {
    let mut queue = Queue::new();
    queue.submit(spec(), 9_000);
    let records: Vec<_> = queue
        .effects
        .persist
        .iter()
        .filter(|record| !matches!(record, Record::NextCluster(_)))
        .collect();
    assert!(matches!(&records[..], [Record::Cluster(1, _)]));
}

#[test]
fn every_step_of_a_logged_job_is_in_its_event_log() {
    let mut queue = Queue::new();
    queue.now = Timestamp::from_secs(1_795_000_000);
    let template = JobSpec {
        log: Some("/home/l".to_owned()),
        max_retries: Some(1),
        ..spec()
    };
    queue.submit(template, 3);
    let mut log = queue.logged();
    let tasks = queue.offer("cpus:3; mem:384");
    queue.update(update(&tasks[0].id, TaskState::TaskRunning));
    queue.update(update(&tasks[0].id, TaskState::TaskRunning));
    queue.update(exited(&tasks[0].id, 0));
    queue.update(exited(&tasks[1].id, 3));
    queue.update(update(&tasks[2].id, TaskState::TaskRunning));
    queue.update(lost(&tasks[2].id, Reason::AgentRemoved));
    let again = queue.offer("cpus:2; mem:384");
    let signalled = Update {
        exit: Some(TaskExit {
            signal: Some(11),
            user_cpu_ns: 3_723_000_000_000,
            ..TaskExit::default()
        }),
        sandbox: Some(files(&[])),
        ..update(&again[0].id, TaskState::TaskFailed)
    };
    queue.update(signalled);
    assert_eq!(queue.ended().len(), 2, "1.1 has used its retry");
    queue.act(Action::Hold, &[1]).act(Action::Release, &[1]);
    queue.act(Action::Remove, &[1]);
    log += &queue.logged();
    // `event_log/check.py` reads this file with HTCondor's own reader; a change here is to be
    // checked there.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/event_log/golden.log");
    if std::env::var_os("ALLOT_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &log).unwrap();
    }
    assert_eq!(log, std::fs::read_to_string(&golden).unwrap());
    assert!(
        queue
            .effects
            .then
            .iter()
            .all(|e| !matches!(e, Effect::Transfer(_)))
    );
}

/// The runs that are asked about by name.
fn asked(queue: &mut Queue) -> Vec<String> {
    let calls = queue.calls().into_iter();
    let tasks = calls.filter_map(|call| match call {
        Call::Reconcile(tasks) => Some(tasks),
        _ => None,
    });
    tasks.flatten().map(|(task, _)| task.to_string()).collect()
}

#[test]
fn a_run_that_a_restarted_master_is_silent_about_is_asked_about_until_it_answers() {
    let mut queue = Queue::new();
    queue.submit(spec(), 1);
    let task = queue.offer("cpus:1; mem:128").remove(0).id;
    queue.update(update(&task, TaskState::TaskRunning));
    queue.step(Input::Disconnected);
    queue.calls();
    queue.step(Input::Subscribed(framework()));
    assert_eq!(asked(&mut queue), [task.as_str()]);
    // The master waits for the run's agent, and until that is back every answer would be wrong.
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let at = queue.core.next_deadline().unwrap();
        assert!(at.since(queue.now) <= Duration::from_secs(pause));
        queue.now = at;
        queue.step(Input::Tick);
        assert_eq!(asked(&mut queue), [task.as_str()]);
    }
    // The agent came back without it.
    queue.update(lost(&task, Reason::Reconciliation));
    assert_eq!(queue.state(1, 0), "idle");
}

#[test]
fn a_run_that_stays_unknown_is_lost_after_two_minutes_and_not_before() {
    let mut queue = Queue::new();
    queue.submit(spec(), 2);
    let tasks = queue.offer("cpus:2; mem:256");
    for task in &tasks {
        queue.update(update(&task.id, TaskState::TaskRunning));
    }
    queue.step(Input::Disconnected);
    queue.step(Input::Subscribed(framework()));
    let unknown = |queue: &mut Queue, n: usize| {
        queue.update(Update {
            uuid: None,
            ..update(&tasks[n].id, TaskState::TaskUnknown)
        });
    };
    unknown(&mut queue, 0);
    unknown(&mut queue, 1);
    // An agent that registers late brings one of them back.
    queue.update(update(&tasks[1].id, TaskState::TaskRunning));
    queue.now = queue.now + Duration::from_secs(100);
    unknown(&mut queue, 0);
    assert_eq!(queue.state(1, 0), "running");
    queue.now = queue.now + Duration::from_secs(100);
    unknown(&mut queue, 0);
    unknown(&mut queue, 1);
    assert_eq!(queue.state(1, 0), "idle");
    assert_eq!(queue.state(1, 1), "running");
}
