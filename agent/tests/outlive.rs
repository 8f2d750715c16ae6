//! Real tasks outlive a real agent that is killed, and the next one finds them again.

#[path = "support/apart.rs"]
mod apart;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use allotment_proto::convert::is_terminal;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState, command_info::Uri};
use apart::{Apart, processes_in};
use nix::sys::signal::{Signal, kill};
use support::{Mode, cgroups_of, marked_processes, modes, program, shell, until};

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Agent,
    LauncherFirst,
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_on_without_their_agent_and_end_with_their_true_status() {
    for mode in modes() {
        for victim in [Victim::Agent, Victim::LauncherFirst] {
            let mut c = Apart::start(mode).await;
            c.master
                .launch(vec![
                    program("stays", &["sleep", "1000"]),
                    shell("goes", "while [ ! -e go ]; do sleep 0.01; done; exit 7"),
                    shell(
                        "falls",
                        "while [ ! -e go ]; do sleep 0.01; done; kill -SEGV $$",
                    ),
                ])
                .await;
            let mut pids = BTreeMap::new();
            for id in ["stays", "goes", "falls"] {
                let running = c.master.running(id).await;
                let pid = running.container_status.and_then(|s| s.executor_pid);
                pids.insert(id, pid.expect("a pid"));
            }
            if victim == Victim::LauncherFirst {
                kill(c.launcher_pid(), Signal::SIGKILL).expect("it lives");
            }
            c.dies();
            for id in ["goes", "falls"] {
                fs::write(c.sandbox(id).join("go"), "").expect("go");
            }
            until("they end unwatched", || {
                let alive = |id| fs::exists(format!("/proc/{}/exe", pids[id])).is_ok_and(|b| b);
                let zombie = |id| {
                    fs::read_to_string(format!("/proc/{}/stat", pids[id]))
                        .is_ok_and(|stat| stat.contains(") Z"))
                };
                ["goes", "falls"]
                    .iter()
                    .all(|id| !alive(*id) || zombie(*id))
            })
            .await;
            let back = c.returns().await;
            assert_eq!(back.tasks.len(), 3, "{mode:?} {victim:?}");
            let goes = c.master.end("goes").await;
            assert_eq!(goes.message(), "Command exited with status 7");
            let falls = c.master.end("falls").await;
            assert_eq!(falls.message(), "Command terminated with signal SIGSEGV");
            // The same process, and it obeys the new agent.
            c.master.kill("stays", None).await;
            let stays = c.master.end("stays").await;
            assert_eq!(stays.state(), TaskState::TaskKilled, "{stays:?}");
            assert_eq!(stays.exit.expect("an exit").signal, Some(15));
            c.master.launch(vec![shell("fresh", "exit 4")]).await;
            let fresh = c.master.end("fresh").await;
            assert_eq!(fresh.message(), "Command exited with status 4");
            assert!(c.ends_on(Signal::SIGTERM));
            if mode == Mode::Isolated {
                assert!(cgroups_of(&c.work_dir()).is_empty(), "{mode:?} {victim:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_serves_again_is_found_with_the_container_that_it_has() {
    let mut c = Apart::start(Mode::Plain).await;
    let waits = "echo $PPID; while [ ! -e go ]; do sleep 0.01; done; exit 7";
    c.master.launch(vec![shell("first", "echo $PPID")]).await;
    c.master.end("first").await;
    c.master.launch(vec![shell("second", waits)]).await;
    c.master.running("second").await;
    let init = |id: &str| fs::read_to_string(c.sandbox(id).join("stdout")).expect("a file");
    until("it is told", || !init("second").is_empty()).await;
    assert_eq!(init("first"), init("second"), "one init for both");
    // The journal now tells of two containers with one first process. The one that is over must
    // not be taken for alive, or be ended as one that nobody wants.
    c.dies();
    let back = c.returns().await;
    assert!(
        back.tasks
            .iter()
            .any(|task| task.task.task_id.value == "second")
    );
    c.master.launch(vec![shell("third", "exit 4")]).await;
    let third = c.master.end("third").await;
    assert_eq!(third.message(), "Command exited with status 4");
    fs::write(c.sandbox("second").join("go"), "").expect("go");
    let second = c.master.end("second").await;
    assert_eq!(second.message(), "Command exited with status 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_acknowledged_comes_again_in_order() {
    let mut c = Apart::start(Mode::Plain).await;
    c.master.acknowledges = false;
    c.master.launch(vec![shell("t", "exit 3")]).await;
    let running = c.master.running("t").await;
    until("it has ended", || processes_in(c.folder.path()).is_empty()).await;
    for _ in 0..2 {
        c.dies();
        c.returns().await;
        let again = c.master.running("t").await;
        assert_eq!(again.uuid, running.uuid);
    }
    c.master.acknowledge(&running).await;
    let end = c.master.end("t").await;
    assert_eq!(end.message(), "Command exited with status 3");
    c.dies();
    c.returns().await;
    let again = c.master.end("t").await;
    assert_eq!(again.uuid, end.uuid);
    c.master.acknowledge(&end).await;
    // Once it is acknowledged, nothing is left to say in any life.
    c.master.acknowledges = true;
    c.master.launch(vec![program("later", &["true"])]).await;
    c.master.end("later").await;
    c.dies();
    let back = c.returns().await;
    assert!(back.tasks.iter().all(|task| task.task.task_id.value != "t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_files_were_being_fetched_is_begun_once_by_the_next_agent() {
    let mut c = Apart::start(Mode::Plain).await;
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut info = shell("t", "cat file; echo ran >> ../../count");
    info.command.as_mut().expect("a command").uris = vec![Uri {
        value: format!("http://{}/file", server.local_addr().expect("it")),
        ..Default::default()
    }];
    c.master.launch(vec![info]).await;
    // The first download never gets an answer.
    let (_first, _) = server.accept().expect("a connection");
    c.dies();
    let back = c.returns().await;
    assert_eq!(back.tasks[0].state(), TaskState::TaskStaging);
    let (mut second, _) = server.accept().expect("a connection");
    let mut request = [0; 4096];
    let _ = second.read(&mut request);
    second
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        .expect("an answer");
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let runs = c.sandbox("t").join("../../count");
    assert_eq!(fs::read_to_string(runs).expect("it ran"), "ran\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_dies_is_replaced_and_tasks_do_not_notice() {
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        c.master
            .launch(vec![shell(
                "t",
                "while [ ! -e go ]; do sleep 0.01; done; exit 5",
            )])
            .await;
        c.master.running("t").await;
        kill(c.launcher_pid(), Signal::SIGKILL).expect("it lives");
        // Another one serves.
        c.master.launch(vec![shell("next", "exit 6")]).await;
        let next = c.master.end("next").await;
        assert_eq!(next.message(), "Command exited with status 6");
        fs::write(c.sandbox("t").join("go"), "").expect("go");
        let end = c.master.end("t").await;
        assert_eq!(end.message(), "Command exited with status 5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_beside_tasks_end_with_the_launcher_and_with_the_agent() {
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        let mark = uuid::Uuid::new_v4().to_string();
        let mut task = shell("t", "while [ ! -e go ]; do sleep 0.01; done; exit 5");
        let line = format!("export MARK={mark}; setsid sleep 1000 & trap '' TERM; sleep 1000");
        task.check = Some(Box::new(mesos::CheckInfo {
            r#type: Some(mesos::check_info::Type::Command.into()),
            command: Some(mesos::check_info::Command {
                command: mesos::CommandInfo {
                    value: Some(line),
                    ..Default::default()
                },
            }),
            delay_seconds: Some(0.0),
            interval_seconds: Some(1000.0),
            timeout_seconds: Some(1000.0),
            ..Default::default()
        }));
        c.master.launch(vec![task]).await;
        c.master.running("t").await;
        let begun = || marked_processes(&mark).len() >= 2;
        let gone = || marked_processes(&mark).is_empty();
        until("the check runs", begun).await;
        kill(c.launcher_pid(), Signal::SIGKILL).expect("it lives");
        until("it is gone", gone).await;
        c.dies();
        c.returns().await;
        // It begins again, as a check does after an agent's return.
        until("the check runs again", begun).await;
        c.dies();
        until("it is gone again", gone).await;
        c.returns().await;
        fs::write(c.sandbox("t").join("go"), "").expect("go");
        let end = c.master.end("t").await;
        assert_eq!(end.message(), "Command exited with status 5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_leaves_tasks_alone_and_a_removal_ends_them() {
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        c.master
            .launch(vec![program("t", &["sleep", "1000"])])
            .await;
        c.master.running("t").await;
        // It comes behind the acknowledgement, which has arrived then.
        c.master.launch(vec![program("behind", &["true"])]).await;
        c.master.end("behind").await;
        assert!(c.ends_on(Signal::SIGTERM));
        let alive = processes_in(c.folder.path());
        assert_eq!(alive.len(), 1, "{alive:?}");
        let back = c.returns().await;
        let live = back.tasks.iter().filter(|task| !is_terminal(task.state()));
        let states: Vec<TaskState> = live.map(|task| task.state()).collect();
        assert_eq!(states, [TaskState::TaskRunning]);
        c.master
            .launch(vec![program("registered", &["true"])])
            .await;
        c.master.end("registered").await;
        assert!(c.ends_on(Signal::SIGUSR1));
        let end = c.master.end("t").await;
        assert_eq!(end.reason(), Reason::AgentRemoved, "{end:?}");
        c.master.farewell().await;
        assert!(processes_in(c.folder.path()).is_empty());
        if mode == Mode::Isolated {
            assert!(cgroups_of(&c.work_dir()).is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_an_agent_that_is_upgraded_go_on_under_the_new_one() {
    for mode in modes() {
        let bin = tempfile::tempdir().expect("a folder");
        let old = bin.path().join("old");
        fs::copy(env!("CARGO_BIN_EXE_allotment-launcher"), &old).expect("a copy");
        let mut c = Apart::with_launcher(mode, Some(old.clone())).await;
        c.master
            .launch(vec![shell(
                "t",
                "while [ ! -e go ]; do sleep 0.01; done; exit 9",
            )])
            .await;
        c.master.running("t").await;
        assert!(c.ends_on(Signal::SIGTERM));
        // Inits of the old version live on although its file is gone.
        fs::remove_file(&old).expect("it was there");
        c.launch_with(None);
        c.returns().await;
        fs::write(c.sandbox("t").join("go"), "").expect("go");
        let end = c.master.end("t").await;
        assert_eq!(end.message(), "Command exited with status 9");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_set_aside_and_what_it_lost_is_ended() {
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        c.master
            .launch(vec![
                program("lost", &["sleep", "1000"]),
                program("kept", &["sleep", "1000"]),
            ])
            .await;
        c.master.running("lost").await;
        c.master.running("kept").await;
        c.dies();
        let logs = c.work_dir().join("meta/checkpoint");
        let log = fs::read_dir(&logs).expect("logs").next().expect("one");
        let log = log.expect("one").path();
        let mut bytes = fs::read(&log).expect("it");
        // The record that says what `lost` is.
        let at = bytes.windows(4).position(|part| part == b"lost");
        bytes[at.expect("it is recorded")] = b'L';
        fs::write(&log, bytes).expect("it");
        let back = c.returns().await;
        let known: Vec<&str> = back
            .tasks
            .iter()
            .map(|task| task.task.task_id.value.as_str())
            .collect();
        // The master finds the other one missing and says that it is lost; its container ends.
        assert_eq!(known, ["kept"]);
        until("the container nobody knows is ended", || {
            processes_in(c.folder.path()).len() == 1
        })
        .await;
        assert!(c.work_dir().join("meta/set-aside").exists());
        c.master.kill("kept", None).await;
        let end = c.master.end("kept").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_of_its_files_keeps_an_agent_from_starting() {
    let mut c = Apart::start(Mode::Plain).await;
    c.master
        .launch(vec![program("t", &["sleep", "1000"])])
        .await;
    c.master.running("t").await;
    c.dies();
    let meta = c.work_dir().join("meta");
    for folder in ["checkpoint", "containers"] {
        for entry in fs::read_dir(meta.join(folder)).expect("a folder") {
            fs::write(entry.expect("an entry").path(), "nonsense").expect("a file");
        }
    }
    // The second copy of its id is whole: it comes back as itself, without tasks.
    assert!(c.returns().await.tasks.is_empty());
    c.dies();
    for entry in fs::read_dir(meta.join("checkpoint")).expect("a folder") {
        fs::write(entry.expect("an entry").path(), "").expect("a file");
    }
    fs::write(meta.join("agent.json"), "{").expect("a file");
    c.starts();
    assert_eq!(c.master.registration().await.agent.id, None);
    c.master.launch(vec![program("next", &["true"])]).await;
    let end = c.master.end("next").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_and_told_of_also_without_an_agent() {
    if !modes().contains(&Mode::Isolated) {
        return;
    }
    let mut c = Apart::start(Mode::Isolated).await;
    let line = "while [ ! -e go ]; do sleep 0.01; done; \
                x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
    c.master
        .launch(vec![shell("away", line), shell("back", line)])
        .await;
    c.master.running("away").await;
    c.master.running("back").await;
    c.dies();
    fs::write(c.sandbox("away").join("go"), "").expect("go");
    until("it is over", || processes_in(c.folder.path()).len() <= 2).await;
    c.returns().await;
    fs::write(c.sandbox("back").join("go"), "").expect("go");
    for id in ["away", "back"] {
        let end = c.master.end(id).await;
        assert_eq!(end.reason(), Reason::ContainerLimitationMemory, "{end:?}");
        assert!(end.message().contains("asked 64.0 MiB"), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_kept_and_put_aside_also_without_an_agent() {
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        let line = "while [ ! -e go ]; do sleep 0.01; done; seq 3000; exit 2";
        let mut info = shell("t", line);
        info.command.as_mut().expect("a command").environment =
            Some(allotment_proto::mesos::Environment {
                variables: vec![allotment_proto::mesos::environment::Variable {
                    name: "CONTAINER_LOGGER_MAX_STDOUT_SIZE".to_owned(),
                    value: Some("8KB".to_owned()),
                    r#type: None,
                }],
            });
        c.master.launch(vec![info]).await;
        c.master.running("t").await;
        c.dies();
        fs::write(c.sandbox("t").join("go"), "").expect("go");
        until("it has ended", || processes_in(c.folder.path()).is_empty()).await;
        c.returns().await;
        assert_eq!(
            c.master.end("t").await.message(),
            "Command exited with status 2"
        );
        let read = |name: &str| fs::read_to_string(c.sandbox("t").join(name)).expect("a file");
        let whole: String = (1..=3000).map(|i| format!("{i}\n")).collect();
        assert_eq!(read("stdout.1") + &read("stdout"), whole);
    }
}

/// The lean form of `cargo bench -p allotment-agent --bench recovery`.
#[tokio::test(flavor = "multi_thread")]
async fn killed_over_and_over_an_agent_tells_one_true_end_of_every_task() {
    const N_TASKS: usize = 160;
    const WINDOW: usize = 16;
    for mode in modes() {
        let mut c = Apart::start(mode).await;
        let task = |i: usize| shell(&format!("t{i}"), &format!("exit {}", i % 100));
        let mut ends: BTreeMap<String, i32> = BTreeMap::new();
        let mut heard_of = BTreeSet::new();
        let (mut launched, mut n_kills) = (0, 0);
        while ends.len() < N_TASKS {
            let until = (ends.len() + WINDOW).min(N_TASKS);
            if until > launched {
                c.master.launch((launched..until).map(task).collect()).await;
                launched = until;
            }
            for status in c.master.updates().await {
                heard_of.insert(status.task_id.value.clone());
                if is_terminal(status.state()) {
                    let id = status.task_id.value.clone();
                    let code = status.exit.and_then(|exit| exit.code);
                    let code = code.unwrap_or_else(|| panic!("no exit code: {status:?}"));
                    // An update may come again until its acknowledgement arrives.
                    let before = ends.insert(id, code);
                    assert!(before.is_none_or(|before| before == code), "{status:?}");
                }
            }
            if ends.len() * 10 / N_TASKS > n_kills {
                n_kills += 1;
                c.dies();
                let back = c.returns().await;
                let known: BTreeSet<String> = back
                    .tasks
                    .into_iter()
                    .map(|t| t.task.task_id.value)
                    .collect();
                // What died on its way to the agent left no trace there; a master tells its
                // framework so, and this one tries again.
                let ids = (0..launched).map(|i| (i, format!("t{i}")));
                let missing = ids.filter(|(_, id)| !known.contains(id) && !ends.contains_key(id));
                let missing: Vec<(usize, String)> = missing.collect();
                for (_, id) in &missing {
                    assert!(!heard_of.contains(id), "{id} was running and is forgotten");
                    assert!(!c.sandbox(id).exists(), "{id} was begun and is forgotten");
                }
                let again = missing.into_iter().map(|(i, _)| task(i));
                c.master.launch(again.collect()).await;
            }
        }
        for (id, code) in ends {
            let i: usize = id.trim_start_matches('t').parse().expect("a number");
            assert_eq!(code, i32::try_from(i % 100).expect("small"), "{id}");
        }
        assert!(n_kills >= 8, "{n_kills}");
    }
}
