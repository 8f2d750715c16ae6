//! Tasks that mean harm: the agent and the task beside them go on, and the status says why it
//! ended.

mod support;

use std::fs;
use std::time::Duration;

use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{Environment, TaskState, environment};
use support::{Cluster, marked_processes, modes, program, shell, until};

/// What must still work after anything.
async fn a_neighbour_works(c: &mut Cluster, id: &str) {
    c.master.launch(vec![shell(id, "echo well")]).await;
    let end = c.master.end(id).await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    assert_eq!(c.stdout(id), "well\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fills_its_disk_ends_with_limit_and_use() {
    for mode in modes() {
        let mut c = Cluster::with(mode, |config| {
            config.isolation = match mode {
                support::Mode::Plain => "disk/du".parse().unwrap(),
                support::Mode::Isolated => config.isolation.clone(),
            };
            config.isolators.disk_watch_interval = Duration::from_millis(20);
        })
        .await;
        let asking = |id: &str, line: &str| {
            let mut info = shell(id, line);
            let asked = "cpus:0.1; mem:64; disk:2".parse().unwrap();
            info.resources = resources_to_wire(&asked, Some("web"));
            info
        };
        let fill = "mkdir a; head -c 9m /dev/zero > a/big; sleep 1000";
        let tasks = vec![
            asking("fills", fill),
            asking(
                "modest",
                "head -c 1m /dev/zero > f; while [ ! -e end ]; do sleep 0.05; done",
            ),
            // It asked for none, so that none is counted.
            shell("free", "head -c 9m /dev/zero > big; sleep 0.2"),
        ];
        c.master.launch(tasks).await;
        let end = c.master.end("fills").await;
        assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
        assert_eq!(end.reason(), Reason::ContainerLimitationDisk);
        let message = end.message();
        assert!(
            message.contains("asked 2.0 MiB") && message.contains("sandbox holds "),
            "{message}"
        );
        fs::write(c.sandbox("modest").join("end"), "").unwrap();
        for task in ["modest", "free"] {
            let end = c.master.end(task).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        }
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_everything_and_taking_permissions_away_hurts_nobody() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let line = "mkdir deep; echo x > deep/f; chmod 000 deep . ; exec 0<&- 1>&- 2>&-; exit 7";
        c.master.launch(vec![shell("t", line)]).await;
        let end = c.master.end("t").await;
        assert_eq!(end.message(), "Command exited with status 7", "{end:?}");
        // And for a task of the agent's own user, whose sandbox it must be able to delete.
        let folder = c.sandbox("t").canonicalize().unwrap();
        a_neighbour_works(&mut c, "beside").await;
        let work_dir = c.work_dir();
        c.agent.stop().await;
        let mut again = Cluster::with(mode, |config| {
            config.work_dir = work_dir.clone();
            config.gc_delay = Duration::ZERO;
        })
        .await;
        until("its sandbox is collected", || !folder.exists()).await;
        again.master.launch(vec![program("after", &["true"])]).await;
        let end = again.master.end("after").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        again.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_ignore_every_signal_end_with_their_task() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mark = format!("MARK_DAEMON_{mode:?}_{}", std::process::id());
        let daemon = "trap \"\" TERM INT HUP QUIT USR1; while :; do sleep 1000; done";
        let line = format!(
            "export {mark}=1; for i in 1 2 3; do (setsid sh -c '{daemon}' &) ; done; exec sh -c \
             '{daemon}'"
        );
        c.master.launch(vec![shell("t", &line)]).await;
        c.master.running("t").await;
        until("all are up", || marked_processes(&mark).len() >= 8).await;
        c.master.kill("t", Some(Duration::from_millis(50))).await;
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
        assert_eq!(end.exit.unwrap().signal, Some(9));
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        a_neighbour_works(&mut c, "beside").await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_and_environments_are_refused_or_harmless() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let long = "n".repeat(200);
        let variable = |name: &str, value: &str| environment::Variable {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            r#type: None,
        };
        let with = |id: &str, variables: Vec<environment::Variable>| {
            let mut info = program(id, &["env"]);
            let command = info.command.as_mut().unwrap();
            command.environment = Some(Environment { variables });
            info
        };
        c.master
            .launch(vec![
                with("equals", vec![variable("A=B", "x")]),
                with("empty", vec![variable("", "x")]),
                with("nul", vec![variable("A", "x\0y")]),
                with("odd", vec![variable("A", "$(reboot); `x` \n \u{1b}[2J")]),
                program("nul-argument", &["echo", "a\0b"]),
                shell(&long, "true"),
            ])
            .await;
        for (task, why) in [
            ("equals", "no usable name"),
            ("empty", "no usable name"),
            ("nul", "NUL byte"),
            ("nul-argument", "NUL byte"),
        ] {
            let end = c.master.end(task).await;
            assert!(end.message().contains(why), "{end:?}");
        }
        for task in ["odd", long.as_str()] {
            let end = c.master.end(task).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        }
        assert!(c.stdout("odd").contains("A=$(reboot); `x` \n \u{1b}[2J"));
        a_neighbour_works(&mut c, "beside").await;
        c.agent.stop().await;
    }
}

/// Told to die just when they end by themselves: some were faster and some were not, and each has
/// one end that says what happened.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_exit_while_being_killed_have_one_true_end() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mark = format!("MARK_EXITS_{mode:?}_{}", std::process::id());
        let line = format!(
            "export {mark}=1; trap 'exit 9' TERM; while [ ! -e go ]; do sleep 0.01; done; exit 0"
        );
        let ids: Vec<String> = (0..30).map(|n| format!("t{n}")).collect();
        let tasks = ids.iter().map(|id| shell(id, &line)).collect();
        c.master.launch(tasks).await;
        for id in &ids {
            c.master.running(id).await;
        }
        for id in &ids {
            fs::write(c.sandbox(id).join("go"), "").unwrap();
            c.master.kill(id, Some(Duration::from_millis(5))).await;
        }
        for id in &ids {
            let end = c.master.end(id).await;
            let exit = end.exit.as_ref().unwrap();
            match end.state() {
                TaskState::TaskFinished => assert_eq!(exit.code, Some(0), "{end:?}"),
                // By its own hand on SIGTERM, by SIGTERM before it knew better, by SIGKILL, or
                // well although a kill was under way.
                TaskState::TaskKilled => {
                    let how = (exit.code, exit.signal);
                    let known = [
                        (Some(0), None),
                        (Some(9), None),
                        (None, Some(15)),
                        (None, Some(9)),
                    ];
                    assert!(known.contains(&how), "{end:?}");
                }
                _ => panic!("{end:?}"),
            }
        }
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        a_neighbour_works(&mut c, "beside").await;
        for id in &ids {
            assert!(!c.master.has_more(id), "{id} ended twice");
        }
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_uris_are_refused_with_the_reason() {
    let mut c = Cluster::start(support::Mode::Plain).await;
    let fetching = |id: &str, value: &str, output: Option<&str>| {
        let mut info = program(id, &["true"]);
        let command = info.command.as_mut().unwrap();
        command
            .uris
            .push(allotment_proto::mesos::command_info::Uri {
                value: value.to_owned(),
                output_file: output.map(str::to_owned),
                ..Default::default()
            });
        info
    };
    let outside = c.folder.path().join("outside");
    let local = c.folder.path().join("file");
    fs::write(&local, "x").unwrap();
    let local = local.display().to_string();
    let escape = "../../../../../../../../../outside";
    let tasks = [
        ("up", local.as_str(), Some(escape)),
        ("absolute", local.as_str(), Some("/tmp/outside")),
        ("nul", local.as_str(), Some("a\0b")),
        ("scheme", "gopher://example.org/file", None),
        ("none", "", None),
        ("relative", "etc/passwd", None),
        ("nobody", "http://127.0.0.1:1/file", None),
        ("odd", "http://[::1/\n\r file", None),
        ("device", "file:///dev/zero", None),
        ("folder", "file:///", None),
    ];
    c.master
        .launch(
            tasks
                .iter()
                .map(|(id, value, output)| fetching(id, value, *output))
                .collect(),
        )
        .await;
    for (id, ..) in tasks {
        let end = c.master.end(id).await;
        let states = [TaskState::TaskFailed, TaskState::TaskError];
        assert!(states.contains(&end.state()), "{end:?}");
        assert!(end.message().len() > 20, "{end:?}");
    }
    assert!(!outside.exists());
    a_neighbour_works(&mut c, "beside").await;
    c.agent.stop().await;
}
