//! Programs that nobody listens to in containers that run: Mesos' nested containers, over
//! `POST /api/v1` of the agent.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/agent_api.rs"]
mod agent_api;
#[path = "support/apart.rs"]
mod apart;
mod support;

use std::fs;

use agent_api::{
    Codec, ask, kill, launch_alone, line, of, remove, running, send, text, wait, waited,
};
use allotment_proto::agent::{Call, call};
use allotment_proto::mesos::{self, ContainerId};
use apart::Apart;
use http::StatusCode;
use nix::sys::signal::Signal;
use support::{Cluster, Mode, cgroups_of, marked_processes, modes, root, shell, until};

#[tokio::test]
async fn a_nested_container_writes_to_its_own_sandbox_and_needs_no_connection() {
    for mode in modes() {
        let (cluster, id) = running(mode).await;
        let codec = Codec::Json;
        let mark = uuid::Uuid::new_v4().to_string();
        let command = line(&format!(
            "export MARK={mark}; echo $MESOS_TASK_ID; pwd; echo err >&2; (setsid sleep 1000 &); \
             while [ ! -e go ]; do sleep 0.01; done; exit 5"
        ));
        let start = launch_alone(&id, command);
        assert_eq!(
            text(send(cluster.agent.url(), codec, &start).await).await.0,
            StatusCode::OK
        );
        let again = text(send(cluster.agent.url(), codec, &start).await).await;
        assert_eq!(again.0, StatusCode::ACCEPTED);
        let sandbox = cluster.sandbox("t").canonicalize().unwrap();
        let own = sandbox.join("containers/session");
        let said = || std::fs::read_to_string(own.join("stdout")).unwrap();
        let expected = format!("t\n{}\n", own.display());
        until("it wrote", || said() == expected).await;
        let early = text(send(cluster.agent.url(), codec, &remove(&id)).await).await;
        assert_eq!(early.0, StatusCode::INTERNAL_SERVER_ERROR, "{early:?}");
        std::fs::write(own.join("go"), "").unwrap();
        let status = waited(send(cluster.agent.url(), codec, &wait(&id)).await).await;
        assert_eq!(status, 5 << 8);
        assert_eq!(std::fs::read(own.join("stderr")).unwrap(), b"err\n");
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        assert_eq!(
            text(send(cluster.agent.url(), codec, &remove(&id)).await)
                .await
                .0,
            StatusCode::OK
        );
        assert!(!own.exists());
        let gone = text(send(cluster.agent.url(), codec, &wait(&id)).await).await;
        assert_eq!(gone.0, StatusCode::NOT_FOUND);
        // Killed, and what it began with it.
        let command = line(&format!("export MARK={mark}; sleep 1000 & exec sleep 1000"));
        let start = launch_alone(&id, command);
        assert_eq!(
            text(send(cluster.agent.url(), codec, &start).await).await.0,
            StatusCode::OK
        );
        let nested = Call {
            kill_nested_container: Some(call::KillNestedContainer {
                container_id: id.clone(),
                signal: None,
            }),
            ..of(call::Type::KillNestedContainer)
        };
        assert_eq!(
            text(send(cluster.agent.url(), codec, &nested).await)
                .await
                .0,
            StatusCode::OK
        );
        assert_eq!(
            waited(send(cluster.agent.url(), codec, &wait(&id)).await).await,
            9
        );
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn a_custom_executor_launches_containers_in_its_own() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode).await;
        let program = format!(
            "{}/tests/executors_py/executor.py",
            env!("CARGO_MANIFEST_DIR")
        );
        let resources = allotment_proto::convert::resources_to_wire(
            &"cpus:0.1; mem:64".parse().unwrap(),
            Some("web"),
        );
        let executor = mesos::ExecutorInfo {
            r#type: Some(mesos::executor_info::Type::Custom.into()),
            executor_id: mesos::ExecutorId {
                value: "e".to_owned(),
            },
            framework_id: Some(support::framework_id()),
            command: Some(mesos::CommandInfo {
                shell: Some(false),
                value: Some("python3".to_owned()),
                arguments: vec!["python3".to_owned(), program],
                ..Default::default()
            }),
            resources,
            ..Default::default()
        };
        let task = mesos::TaskInfo {
            command: None,
            executor: Some(Box::new(executor)),
            data: Some(b"run".to_vec().into()),
            ..shell("t", "")
        };
        cluster.master.launch(vec![task]).await;
        let status = cluster.master.running("t").await;
        let parent = status.container_status.unwrap().container_id;
        let id = ContainerId {
            value: "helper".to_owned(),
            parent: parent.map(Box::new),
        };
        // Among the executor's processes, and not able to speak for it.
        let command = line(
            "echo ${MESOS_EXECUTOR_AUTHENTICATION_TOKEN:-no token}; \
             ls /proc/[0-9]*/cmdline | xargs cat 2>/dev/null | tr '\\0' ' ' | \
             grep -o executor.py | head -1; exit 7",
        );
        let codec = Codec::Protobuf;
        let start = launch_alone(&id, command);
        let started = text(send(cluster.agent.url(), codec, &start).await).await;
        assert_eq!(started.0, StatusCode::OK, "{started:?}");
        assert_eq!(
            waited(send(cluster.agent.url(), Codec::Json, &wait(&id)).await).await,
            7 << 8
        );
        let own = cluster.sandbox("e").join("containers/helper/stdout");
        assert_eq!(
            std::fs::read_to_string(own).unwrap(),
            "no token\nexecutor.py\n"
        );
        cluster.agent.stop().await;
    }
}

/// A container of this name in another one.
fn inside(parent: &ContainerId, name: &str) -> ContainerId {
    ContainerId {
        value: name.to_owned(),
        parent: Some(Box::new(parent.clone())),
    }
}

/// A running task of an agent in a process of its own: where that serves, and the container.
async fn running_apart(c: &mut Apart, line: &str) -> (String, ContainerId) {
    c.master.launch(vec![shell("t", line)]).await;
    let status = c.master.running("t").await;
    let container = status.container_status.unwrap().container_id.unwrap();
    let url = format!("http://{}", c.address());
    (url, container)
}

/// WAIT_CONTAINER of one that has ended or will: the answer.
async fn end_of(url: &str, id: &ContainerId) -> serde_json::Value {
    let wait = Call {
        wait_container: Some(call::WaitContainer {
            container_id: id.clone(),
        }),
        ..of(call::Type::WaitContainer)
    };
    let (status, body) = ask(url, &wait).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let said: serde_json::Value = serde_json::from_str(&body).unwrap();
    said["wait_container"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_go_on_without_agent_and_launcher_and_end_with_their_true_status() {
    for mode in modes() {
        for launcher_first in [false, true] {
            let mark = uuid::Uuid::new_v4().to_string();
            let mut c = Apart::start(mode).await;
            let (url, task) = running_apart(&mut c, "sleep 1000").await;
            let begin = async |id: &ContainerId, text: &str| {
                let text = format!("export MARK={mark}; {text}");
                let launch = launch_alone(id, line(&text));
                let (status, body) = ask(&url, &launch).await;
                assert_eq!(status, StatusCode::OK, "{body}");
            };
            let waits = "while [ ! -e go ]; do sleep 0.01; done";
            let (stays, goes, falls) = (
                inside(&task, "stays"),
                inside(&task, "goes"),
                inside(&task, "falls"),
            );
            begin(&stays, "echo began; exec sleep 1000").await;
            begin(&goes, &format!("(setsid sleep 1000 &); {waits}; exit 7")).await;
            begin(&falls, &format!("ulimit -c 0; {waits}; kill -SEGV $$")).await;
            let deep = inside(&stays, "deep");
            begin(&deep, "pwd; exec sleep 1000").await;
            if launcher_first {
                nix::sys::signal::kill(c.launcher_pid(), Signal::SIGKILL).unwrap();
            }
            c.dies();
            let own = c.sandbox("t").canonicalize().unwrap();
            for name in ["goes", "falls"] {
                fs::write(own.join(format!("containers/{name}/go")), "").unwrap();
            }
            until("they end unwatched", || marked_processes(&mark).len() == 2).await;
            c.returns().await;
            assert_eq!(end_of(&url, &goes).await["exit_status"], 7 << 8);
            assert_eq!(end_of(&url, &falls).await["exit_status"], 11);
            // The same program, once, and it obeys the new agent.
            let (again, _) = ask(&url, &launch_alone(&stays, line("echo again"))).await;
            assert_eq!(again, StatusCode::ACCEPTED, "{mode:?}");
            let said = fs::read_to_string(own.join("containers/stays/stdout")).unwrap();
            assert_eq!(said, "began\n");
            let deeper = own.join("containers/stays/containers/deep");
            let said = fs::read_to_string(deeper.join("stdout")).unwrap();
            assert_eq!(said, format!("{}\n", deeper.display()));
            let (status, body) = ask(&url, &remove(&stays)).await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
            assert_eq!(ask(&url, &kill(&stays, Some(15))).await.0, StatusCode::OK);
            assert_eq!(end_of(&url, &stays).await["exit_status"], 15);
            // What was in it ended with it.
            assert_eq!(end_of(&url, &deep).await["exit_status"], 9);
            until("nothing is left", || marked_processes(&mark).is_empty()).await;
            for id in [&stays, &goes] {
                assert_eq!(ask(&url, &remove(id)).await.0, StatusCode::OK);
                assert_eq!(ask(&url, &wait(id)).await.0, StatusCode::NOT_FOUND);
            }
            assert!(!own.join("containers/goes").exists());
            // What was removed stays so in the next life, what was not is still known.
            c.dies();
            c.returns().await;
            assert_eq!(ask(&url, &wait(&goes)).await.0, StatusCode::NOT_FOUND);
            assert_eq!(end_of(&url, &falls).await["exit_status"], 11);
            c.master.kill("t", None).await;
            c.master.end("t").await;
            assert!(c.ends_on(Signal::SIGTERM));
            if mode == Mode::Isolated {
                assert!(cgroups_of(&c.work_dir()).is_empty(), "{mode:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_end_with_their_task_also_when_nobody_watches() {
    for mode in modes() {
        for watched in [true, false] {
            let mark = uuid::Uuid::new_v4().to_string();
            let mut c = Apart::start(mode).await;
            let waits = "while [ ! -e go ]; do sleep 0.01; done";
            let (url, task) = running_apart(&mut c, waits).await;
            let id = inside(&task, "n");
            let text = format!("export MARK={mark}; (setsid sleep 1000 &); exec sleep 1000");
            let (status, body) = ask(&url, &launch_alone(&id, line(&text))).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            let go = c.sandbox("t").join("go");
            if watched {
                fs::write(go, "").unwrap();
            } else {
                c.dies();
                fs::write(go, "").unwrap();
                c.returns().await;
            }
            let end = c.master.end("t").await;
            assert_eq!(end.message(), "Command exited with status 0", "{mode:?}");
            until("it is gone", || marked_processes(&mark).is_empty()).await;
            let ended = end_of(&url, &id).await;
            let killed = ended["exit_status"] == 9 || ended["message"].is_string();
            assert!(killed, "{mode:?} {watched}: {ended}");
            let (status, _) = ask(&url, &launch_alone(&inside(&task, "late"), line("true"))).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert!(c.ends_on(Signal::SIGTERM));
        }
    }
}

#[tokio::test]
async fn one_is_behind_the_walls_of_its_task_and_within_its_limits() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::start(Mode::Isolated).await;
    let look = "readlink /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/ipc; \
                cat /proc/self/cgroup; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status";
    let text = format!("{look}; echo done; exec sleep 1000");
    cluster.master.launch(vec![shell("t", &text)]).await;
    let status = cluster.master.running("t").await;
    let task = status.container_status.unwrap().container_id.unwrap();
    let outer = inside(&task, "outer");
    let url = cluster.agent.url();
    let (status, body) = ask(url, &launch_alone(&outer, line(&text))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let inner = inside(&outer, "inner");
    let (status, body) = ask(url, &launch_alone(&inner, line(&text))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let sandbox = cluster.sandbox("t");
    let own = ["", "containers/outer", "containers/outer/containers/inner"];
    let said = own.map(|folder| sandbox.join(folder).join("stdout"));
    let read = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
    until("they have looked", || {
        said.iter().all(|path| read(path).ends_with("done\n"))
    })
    .await;
    assert_eq!(read(&said[0]), read(&said[1]));
    assert_eq!(read(&said[0]), read(&said[2]));
    cluster.agent.stop().await;
}

#[tokio::test]
async fn what_one_writes_is_put_aside_when_it_is_large() {
    for mode in modes() {
        let mut cluster = Cluster::with(mode, |config| {
            config.log_size_max = Some(100_000);
            config.log_files_max = 2;
        })
        .await;
        cluster.master.launch(vec![shell("t", "sleep 1000")]).await;
        let status = cluster.master.running("t").await;
        let task = status.container_status.unwrap().container_id.unwrap();
        let id = inside(&task, "n");
        let url = cluster.agent.url();
        let text = "head -c 1000000 /dev/zero; echo last";
        let (status, body) = ask(url, &launch_alone(&id, line(text))).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(end_of(url, &id).await["exit_status"], 0);
        let own = cluster.sandbox("t").join("containers/n");
        let len = |name: &str| fs::metadata(own.join(name)).map(|file| file.len());
        assert_eq!(len("stdout").unwrap(), 5);
        assert_eq!(len("stdout.1").unwrap(), 100_000);
        assert_eq!(len("stdout.2").unwrap(), 100_000);
        assert!(len("stdout.3").is_err());
        assert_eq!(len("stderr").unwrap(), 0);
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let (cluster, id) = running(Mode::Plain).await;
    let url = cluster.agent.url();
    let parent = *id.parent.clone().unwrap();
    let program = |path: &str| mesos::CommandInfo {
        shell: Some(false),
        value: Some(path.to_owned()),
        ..Default::default()
    };
    let modern = |id: &ContainerId| call::LaunchContainer {
        container_id: id.clone(),
        command: Some(line("true")),
        ..Default::default()
    };
    let launch = |launch: call::LaunchContainer| Call {
        launch_container: Some(launch),
        ..of(call::Type::LaunchContainer)
    };
    let mut limited = modern(&id);
    limited
        .limits
        .insert("mem".to_owned(), mesos::value::Scalar { value: 64.0 });
    let mut deep = parent.clone();
    for n in 0..20 {
        deep = inside(&deep, &n.to_string());
    }
    let fetches = mesos::CommandInfo {
        uris: vec![mesos::command_info::Uri {
            value: "/etc/passwd".to_owned(),
            ..Default::default()
        }],
        ..line("true")
    };
    let cases = [
        (launch_alone(&id, program("/no/such")), 400, "/no/such"),
        (launch_alone(&id, fetches), 400, "URIs"),
        (
            launch_alone(&inside(&parent, ".."), line("true")),
            400,
            "name",
        ),
        (
            launch_alone(&inside(&parent, "a/b"), line("true")),
            400,
            "a/b",
        ),
        (
            launch_alone(&inside(&id, "x"), line("true")),
            404,
            "container",
        ),
        (launch_alone(&deep, line("true")), 400, "16 parents"),
        (launch(limited), 400, "task group"),
        (launch(modern(&parent)), 400, "parent"),
        (kill(&id, None), 404, "session"),
        (wait(&id), 404, "session"),
        (remove(&id), 404, "session"),
    ];
    for (call, status, why) in cases {
        let (found, text) = ask(url, &call).await;
        assert_eq!(found.as_u16(), status, "{call:?}: {text}");
        assert!(text.contains(why), "{call:?}: {text}");
    }
    // The name is free, and nothing lies where it would.
    assert!(!cluster.sandbox("t").join("containers/session").exists());
    let (status, body) = ask(url, &launch(modern(&id))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(end_of(url, &id).await["exit_status"], 0);
    assert_eq!(ask(url, &kill(&id, None)).await.0, StatusCode::OK);
    let (status, text) = ask(url, &kill(&id, Some(1))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    cluster.agent.stop().await;
}
