//! Real processes under a real launcher, with and without walls around them.

mod support;

use std::time::Duration;

use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use support::{Cluster, Mode, marked_processes, modes, program, shell, until};

#[tokio::test(flavor = "multi_thread")]
async fn exit_statuses_and_signals_are_told_apart() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master
            .launch(vec![
                program("ok", &["true"]),
                shell("three", "exit 3"),
                shell("term", "kill -TERM $$"),
            ])
            .await;
        let ok = c.master.end("ok").await;
        assert_eq!(ok.state(), TaskState::TaskFinished, "{ok:?}");
        assert_eq!(ok.message(), "Command exited with status 0");
        assert_eq!(ok.exit.unwrap().code, Some(0));
        let three = c.master.end("three").await;
        assert_eq!(three.state(), TaskState::TaskFailed);
        assert_eq!(three.message(), "Command exited with status 3");
        let term = c.master.end("term").await;
        assert_eq!(term.message(), "Command terminated with signal SIGTERM");
        let exit = term.exit.unwrap();
        assert_eq!((exit.code, exit.signal), (None, Some(15)));
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_comes_before_the_end_and_carries_the_container() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master.launch(vec![program("t", &["true"])]).await;
        let running = c.master.running("t").await;
        let container = running.container_status.unwrap();
        let folder = c.sandbox("t").canonicalize().unwrap();
        let id = container.container_id.clone().unwrap().value;
        assert!(folder.ends_with(&id), "{folder:?} is not named {id}");
        assert!(container.executor_pid() > 1);
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskFinished);
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_starts_with_no_signal_blocked_or_ignored() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let look = shell("signals", "grep -E '^Sig(Blk|Ign)' /proc/self/status");
        c.master.launch(vec![look]).await;
        c.master.end("signals").await;
        let stdout = std::fs::read_to_string(c.sandbox("signals").join("stdout")).unwrap();
        // 32 and 33 are the C library's own, which it lets nobody change.
        let own = 0b11_u64 << 31;
        for line in stdout.lines() {
            let (name, mask) = line.split_once(":\t").unwrap();
            let mask = u64::from_str_radix(mask, 16).unwrap() & !own;
            assert_eq!(mask, 0, "{name} {mask:x}");
        }
        assert_eq!(stdout.lines().count(), 2);
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_finds_its_surroundings_as_in_mesos() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mut info = shell("env", "env; echo err >&2; pwd; echo made > file");
        info.command.as_mut().unwrap().environment = Some(allotment_proto::mesos::Environment {
            variables: vec![allotment_proto::mesos::environment::Variable {
                name: "MINE".to_owned(),
                value: Some("a b=c".to_owned()),
                r#type: None,
            }],
        });
        c.master.launch(vec![info]).await;
        let end = c.master.end("env").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let out = c.stdout("env");
        let sandbox = c.sandbox("env").canonicalize().unwrap();
        let directory = format!("MESOS_SANDBOX={}", sandbox.display());
        for line in [
            "MESOS_TASK_ID=env",
            "MESOS_EXECUTOR_ID=env",
            "MESOS_FRAMEWORK_ID=fw-0001",
            "MESOS_SLAVE_ID=test-S0",
            "MESOS_ALLOCATION_ROLE=web",
            "MINE=a b=c",
            &directory,
            &sandbox.display().to_string(),
        ] {
            assert!(out.lines().any(|l| l == line), "no {line} in {out}");
        }
        let err = std::fs::read_to_string(c.sandbox("env").join("stderr")).unwrap();
        assert_eq!(err, "err\n");
        let summary = end.sandbox.unwrap();
        assert_eq!(summary.stdout_bytes, out.len() as u64);
        assert_eq!(summary.files[0].name, "file");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_run_is_named_with_the_reason() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master
            .launch(vec![
                program("missing", &["no-such-program-here"]),
                program("data", &["/etc/passwd"]),
                program("folder", &["/tmp"]),
            ])
            .await;
        for (task, program, why) in [
            ("missing", "\"no-such-program-here\"", "No such file"),
            ("data", "\"/etc/passwd\"", "Permission denied"),
            ("folder", "\"/tmp\"", "Permission denied"),
        ] {
            let end = c.master.update(task).await;
            assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
            assert_eq!(end.reason(), Reason::ContainerLaunchFailed);
            let message = end.message();
            assert!(
                message.contains(program) && message.contains(why),
                "{message}"
            );
        }
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_without_an_interpreter_line_runs_in_a_shell() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let line = "printf 'echo \"$1\"' > s; chmod +x s; exec env ./s given";
        c.master.launch(vec![shell("s", line)]).await;
        let end = c.master.end("s").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        assert_eq!(c.stdout("s"), "given\n");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_asks_first() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let line = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        c.master.launch(vec![shell("t", line)]).await;
        c.master.running("t").await;
        let stdout = c.sandbox("t").join("stdout");
        until("the task is up", || {
            std::fs::read_to_string(&stdout).is_ok_and(|out| out == "up\n")
        })
        .await;
        c.master.kill("t", None).await;
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
        assert_eq!(c.stdout("t"), "up\nasked\n");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_sigterm_is_killed_after_the_grace_period() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let line = "trap '' TERM; echo up; while :; do sleep 0.01; done";
        c.master.launch(vec![shell("t", line)]).await;
        c.master.running("t").await;
        let stdout = c.sandbox("t").join("stdout");
        until("the task is up", || {
            std::fs::read_to_string(&stdout).is_ok_and(|out| out == "up\n")
        })
        .await;
        c.master.kill("t", Some(Duration::from_millis(50))).await;
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskKilled);
        assert_eq!(end.exit.unwrap().signal, Some(9));
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_forked_away_ends_with_its_task() {
    for mode in modes() {
        let mark = format!("MARK_DAEMON_{mode:?}_{}", std::process::id());
        let mut c = Cluster::start(mode).await;
        // Twice forked, in a session of its own, deaf to SIGTERM.
        let daemon = "setsid sh -c 'trap \"\" TERM HUP; (while :; do sleep 0.01; done) &' &";
        let line = format!("export {mark}=1; {daemon} sleep 1000");
        c.master.launch(vec![shell("killed", &line)]).await;
        c.master.running("killed").await;
        until("the daemon is up", || marked_processes(&mark).len() >= 3).await;
        c.master
            .kill("killed", Some(Duration::from_millis(50)))
            .await;
        assert_eq!(c.master.end("killed").await.state(), TaskState::TaskKilled);
        assert!(marked_processes(&mark).is_empty());
        let line = format!("export {mark}=1; {daemon} sleep 0.05");
        c.master.launch(vec![shell("finished", &line)]).await;
        assert_eq!(
            c.master.end("finished").await.state(),
            TaskState::TaskFinished
        );
        assert!(marked_processes(&mark).is_empty());
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_at_once_all_end_well() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let ids: Vec<String> = (0..200).map(|i| format!("t{i}")).collect();
        let tasks = ids
            .iter()
            .map(|id| shell(id, "echo $MESOS_TASK_ID"))
            .collect();
        c.master.launch(tasks).await;
        for id in &ids {
            let end = c.master.end(id).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
            assert_eq!(c.stdout(id), format!("{id}\n"));
        }
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_killed_while_its_files_are_fetched_never_runs() {
    let mut c = Cluster::start(Mode::Plain).await;
    // A server that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut info = shell("t", "echo ran");
    info.command.as_mut().unwrap().uris = vec![allotment_proto::mesos::command_info::Uri {
        value: format!("http://{}/file", silent.local_addr().unwrap()),
        ..Default::default()
    }];
    c.master.launch(vec![info]).await;
    let (_connection, _) = silent.accept().unwrap();
    c.master.kill("t", None).await;
    let end = c.master.update("t").await;
    assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
    assert_eq!(end.reason(), Reason::TaskKilledDuringLaunch);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_takes_too_long_fails_with_that_reason() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mut info = program("t", &["sleep", "1000"]);
    info.max_completion_time = Some(allotment_proto::mesos::DurationInfo {
        nanoseconds: 20_000_000,
    });
    c.master.launch(vec![info]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
    assert_eq!(end.reason(), Reason::MaxCompletionTimeReached);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_of_the_agents_reaches_a_task() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master
            .launch(vec![shell("t", "ls /proc/self/fd | wc -l")])
            .await;
        c.master.end("t").await;
        // stdin, stdout, stderr and the one that lists.
        assert_eq!(c.stdout("t").trim(), "4");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_the_whole_tree() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let line = format!("sh -c '{burn}'; true");
        c.master.launch(vec![shell("t", &line)]).await;
        let exit = c.master.end("t").await.exit.unwrap();
        assert!(exit.user_cpu_ns > 10_000_000, "{exit:?}");
        assert!(exit.max_rss_bytes > 100_000, "{exit:?}");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_serves_the_next_task_unless_it_was_sent_a_signal() {
    let mut c = Cluster::start(Mode::Plain).await;
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; head -c 50000000 /dev/zero | \
                sort -S 60M >/dev/null; sleep 1000 & setsid sleep 1000 & echo $PPID; exit 3";
    c.master.launch(vec![shell("hog", burn)]).await;
    let hog = c.master.end("hog").await.exit.unwrap();
    assert_eq!(hog.code, Some(3));
    c.master.launch(vec![shell("next", "echo $PPID")]).await;
    let next = c.master.end("next").await.exit.unwrap();
    assert_eq!(c.stdout("hog"), c.stdout("next"), "one init for both");
    // What it used is its own.
    assert!(hog.user_cpu_ns > 5 * next.user_cpu_ns, "{hog:?} {next:?}");
    assert!(hog.max_rss_bytes > 20_000_000, "{hog:?}");
    assert!(next.max_rss_bytes < 20_000_000, "{next:?}");
    let killed = shell("killed", "echo $PPID; sleep 1000");
    c.master.launch(vec![killed]).await;
    c.master.running("killed").await;
    until("it speaks", || !c.stdout("killed").is_empty()).await;
    assert_eq!(c.stdout("killed"), c.stdout("hog"), "and for the third");
    c.master.kill("killed", None).await;
    assert_eq!(c.master.end("killed").await.state(), TaskState::TaskKilled);
    c.master.launch(vec![shell("after", "echo $PPID")]).await;
    c.master.end("after").await;
    assert_ne!(c.stdout("after"), c.stdout("killed"), "a new one");
    // When nothing is to be done they go.
    let init: i32 = c.stdout("after").trim().parse().unwrap();
    until("it has gone", || {
        !std::fs::exists(format!("/proc/{init}")).unwrap()
    })
    .await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_put_aside_when_it_is_large_and_the_oldest_goes() {
    for mode in modes() {
        let mut c = Cluster::with(mode, |config| {
            config.log_size_max = Some(64 << 10);
            config.log_files_max = 2;
        })
        .await;
        // Six times the bound and a bit; both ways of naming one's output.
        let line = "seq 60000; echo last > /dev/stdout; echo err >&2";
        let mut own = shell("own", line);
        own.command.as_mut().unwrap().environment = Some(allotment_proto::mesos::Environment {
            variables: vec![allotment_proto::mesos::environment::Variable {
                name: "CONTAINER_LOGGER_MAX_STDOUT_SIZE".to_owned(),
                value: Some("0B".to_owned()),
                r#type: None,
            }],
        });
        // A folder in the way of the first file that is put aside.
        let blocked = shell("blocked", &format!("mkdir -p stdout.1/x; {line}"));
        c.master.launch(vec![shell("t", line), own, blocked]).await;
        for id in ["t", "own", "blocked"] {
            let end = c.master.end(id).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        }
        let whole: String = (1..=60_000).map(|i| format!("{i}\n")).collect::<String>() + "last\n";
        let sandbox = c.sandbox("t");
        let read = |name: &str| std::fs::read_to_string(sandbox.join(name)).unwrap();
        let kept = read("stdout.2") + &read("stdout.1") + &read("stdout");
        assert!(
            whole.ends_with(&kept),
            "what is kept is no end of the whole"
        );
        assert_eq!(read("stdout.1").len(), 64 << 10);
        assert_eq!(read("stdout.2").len(), 64 << 10);
        assert!(!sandbox.join("stdout.3").exists());
        assert_eq!(read("stderr"), "err\n");
        assert_eq!(c.stdout("own"), whole);
        assert!(c.stdout("blocked").ends_with("last\n"));
        assert!(c.stdout("blocked").len() <= 64 << 10);
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_gigabytes_of_output_take_no_more_room_than_their_bound() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.log_size_max = Some(8 << 20);
        config.log_files_max = 1;
    })
    .await;
    let line = "head -c 10000000000 /dev/zero; echo whole >&2";
    c.master.launch(vec![shell("t", line)]).await;
    c.master.running("t").await;
    c.master.launch(vec![shell("neighbour", "echo fine")]).await;
    let fine = c.master.end("neighbour").await;
    assert_eq!(fine.state(), TaskState::TaskFinished, "{fine:?}");
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let files = std::fs::read_dir(c.sandbox("t")).unwrap().flatten();
    let sizes = files.map(|file| (file.file_name(), file.metadata().unwrap().len()));
    let sizes: std::collections::BTreeMap<_, _> = sizes.collect();
    assert!(sizes.values().sum::<u64>() <= (16 << 20) + 6, "{sizes:?}");
    let stderr = std::fs::read_to_string(c.sandbox("t").join("stderr")).unwrap();
    assert_eq!(stderr, "whole\n");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_is_none_is_refused_with_its_name() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mut info = shell("t", "true");
    info.command.as_mut().unwrap().environment = Some(allotment_proto::mesos::Environment {
        variables: vec![allotment_proto::mesos::environment::Variable {
            name: "CONTAINER_LOGGER_MAX_STDERR_SIZE".to_owned(),
            value: Some("large".to_owned()),
            r#type: None,
        }],
    });
    c.master.launch(vec![info]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskError, "{end:?}");
    let message = end.message();
    assert!(
        message.contains("CONTAINER_LOGGER_MAX_STDERR_SIZE"),
        "{message}"
    );
    c.agent.stop().await;
}
