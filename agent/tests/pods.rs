//! Groups of the default executor on real processes: containers of their own, a folder in common,
//! an end in common.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;

use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::allot::{SandboxListRequest, SandboxReadRequest};
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::volume::source::{self, SandboxPath, sandbox_path};
use allotment_proto::mesos::{self, TaskInfo, TaskState};
use allotment_types::{Resources, Role};
use support::{Cluster, FRAMEWORK, Mode, contained, framework_id, modes, root, shell, until};

fn pod() -> mesos::ExecutorInfo {
    mesos::ExecutorInfo {
        r#type: Some(mesos::executor_info::Type::Default.into()),
        executor_id: mesos::ExecutorId {
            value: "pod".to_owned(),
        },
        framework_id: Some(framework_id()),
        resources: resources_to_wire(&"cpus:0.1; mem:32".parse().unwrap(), Some("web")),
        ..Default::default()
    }
}

/// The same task with a folder of the executor's sandbox at `common`.
fn sharing(info: TaskInfo) -> TaskInfo {
    let volume = mesos::Volume {
        mode: mesos::volume::Mode::Rw.into(),
        container_path: "common".to_owned(),
        source: Some(mesos::volume::Source {
            r#type: Some(source::Type::SandboxPath.into()),
            sandbox_path: Some(SandboxPath {
                r#type: Some(sandbox_path::Type::Parent.into()),
                path: "shared".to_owned(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = mesos::ContainerInfo {
        volumes: vec![volume],
        ..Default::default()
    };
    contained(info, container)
}

impl Cluster {
    async fn launch_group(&self, tasks: Vec<TaskInfo>) {
        self.launch_group_of(&pod(), tasks).await;
    }

    async fn launch_group_of(&self, executor: &mesos::ExecutorInfo, tasks: Vec<TaskInfo>) {
        let framework = mesos::FrameworkInfo {
            id: Some(framework_id()),
            ..Default::default()
        };
        let in_pod = |task| TaskInfo {
            executor: Some(Box::new(executor.clone())),
            ..task
        };
        let launch = allot::Launch {
            framework,
            tasks: tasks.into_iter().map(in_pod).collect(),
            group_executor: Some(Box::new(executor.clone())),
            ..Default::default()
        };
        self.master.tell(Told::Launch(launch)).await;
    }

    fn nested(&self, task: &str) -> PathBuf {
        self.sandbox("pod").join("tasks").join(task)
    }

    async fn pod_ends(&mut self) {
        assert!(matches!(
            self.master.of_executors().await,
            Said::ExecutorEnded(_)
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_volume_of_the_executor_is_lent_to_its_tasks() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let role = Role::parse("web").unwrap();
        let disk: Resources = "disk:64".parse().unwrap();
        let volume = disk.reserved(&role, None).as_volume("data", "shared", None);
        let rest = "cpus:64; mem:16384; disk:960; ports:[31000-31999]";
        let total = rest.parse::<Resources>().unwrap().plus(&volume);
        let total = resources_to_wire(&total, None);
        let apply = Told::ApplyResources(allot::ApplyResources { total });
        c.master.tell(apply).await;
        let mut executor = pod();
        executor
            .resources
            .extend(resources_to_wire(&volume, Some("web")));
        let of = |id: &str, line: &str| sharing(shell(id, line));
        for (id, line) in [
            ("writes", "echo kept > common/file"),
            ("reads", "cat common/file"),
        ] {
            c.launch_group_of(&executor, vec![of(id, line)]).await;
            let end = c.master.end(id).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{mode:?} {end:?}");
            // The volume outlives its executor.
            let stdout = fs::read_to_string(c.nested(id).join("stdout")).unwrap();
            c.pod_ends().await;
            assert!(id == "writes" || stdout == "kept\n", "{stdout}");
        }
        let mut inside = of("inside", "true");
        let volumes = &mut inside.container.as_mut().unwrap().volumes;
        let source = volumes[0].source.as_mut().unwrap();
        source.sandbox_path.as_mut().unwrap().path = "shared/folder".to_owned();
        c.launch_group_of(&executor, vec![inside]).await;
        let end = c.master.end("inside").await;
        assert!(end.message().contains("as a whole"), "{end:?}");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_group_share_a_folder_and_nothing_else() {
    for mode in modes() {
        let mut c = Cluster::with(mode, |config| {
            if mode == Mode::Plain {
                config.isolation = "volume/sandbox_path".parse().unwrap();
            }
        })
        .await;
        let writes = "echo for the other > common/new; mv common/new common/note; \
                      echo mine > own; \
                      while [ ! -e common/read ]; do sleep 0.02; done";
        let reads = "while [ ! -e common/note ]; do sleep 0.02; done; cat common/note; \
                     ls; touch common/read";
        let tasks = vec![
            sharing(shell("writer", writes)),
            sharing(shell("reader", reads)),
        ];
        c.launch_group(tasks).await;
        for task in ["writer", "reader"] {
            let running = c.master.running(task).await;
            assert_eq!(running.executor_id.unwrap().value, "pod");
            let container = running.container_status.unwrap().container_id.unwrap();
            assert!(container.parent.is_some());
        }
        for task in ["writer", "reader"] {
            let end = c.master.end(task).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        }
        let said = fs::read_to_string(c.nested("reader").join("stdout")).unwrap();
        assert!(
            said.starts_with("for the other\n") && !said.contains("own"),
            "{said}"
        );
        assert!(c.sandbox("pod").join("shared/note").exists());
        c.pod_ends().await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_task_in_a_group_are_served_under_its_own_name() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.launch_group(vec![shell("a", "echo hello"), shell("b", "true")])
        .await;
    for task in ["a", "b"] {
        c.master.end(task).await;
    }
    let mut files = c.files().await;
    let request = SandboxReadRequest {
        framework_id: FRAMEWORK.to_owned(),
        task_id: "a".to_owned(),
        path: "stdout".to_owned(),
        ..Default::default()
    };
    let mut chunks = files.read(request).await.unwrap().into_inner();
    let chunk = chunks.message().await.unwrap().unwrap();
    assert_eq!(&chunk.data[..], b"hello\n");
    // A link that a task put where the agent looks leads nowhere.
    let planted = c.sandbox("pod").join("tasks/planted");
    std::os::unix::fs::symlink("/etc", &planted).unwrap();
    let request = SandboxListRequest {
        framework_id: FRAMEWORK.to_owned(),
        task_id: "planted".to_owned(),
        path: String::new(),
    };
    let status = files.list(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_takes_the_group_along_and_its_neighbours_go_on() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master.launch(vec![shell("beside", "sleep 1000")]).await;
        c.master.running("beside").await;
        let fails = "while [ ! -e go ]; do sleep 0.02; done; exit 5";
        c.launch_group(vec![shell("fails", fails), shell("stays", "sleep 1000")])
            .await;
        c.master.running("fails").await;
        c.master.running("stays").await;
        fs::write(c.nested("fails").join("go"), "").unwrap();
        let end = c.master.end("fails").await;
        assert_eq!(end.message(), "Command exited with status 5");
        let end = c.master.end("stays").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
        c.pod_ends().await;
        c.master.kill("beside", None).await;
        assert_eq!(c.master.end("beside").await.state(), TaskState::TaskKilled);
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_ends_the_group() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.launch_group(vec![shell("a", "sleep 1000"), shell("b", "sleep 1000")])
        .await;
    c.master.running("a").await;
    c.master.running("b").await;
    c.master.kill("a", None).await;
    for task in ["a", "b"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
    }
    c.pod_ends().await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_which_one_program_is_missing_never_runs() {
    let mut c = Cluster::start(Mode::Plain).await;
    let missing = support::program("missing", &["no-such-program"]);
    c.launch_group(vec![shell("a", "sleep 1000"), missing])
        .await;
    let end = c.master.update("missing").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
    // It is told of the end alone.
    let end = c.master.update("a").await;
    assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
    c.pod_ends().await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_of_a_group_has_walls_and_limits_of_its_own() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let hungry = support::program(
        "hungry",
        &[
            "python3",
            "-c",
            "x = bytearray(200 << 20); import time; time.sleep(1000)",
        ],
    );
    let counts = "while [ ! -e go ]; do sleep 0.02; done; ls /proc | grep -c '^[0-9]'";
    c.launch_group(vec![shell("quiet", counts), shell("other", "sleep 1000")])
        .await;
    c.master.running("quiet").await;
    fs::write(c.nested("quiet").join("go"), "").unwrap();
    let end = c.master.end("quiet").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let seen = fs::read_to_string(c.nested("quiet").join("stdout")).unwrap();
    // Its init, its shell and what that runs: nothing of the other task.
    assert!(seen.trim().parse::<u32>().unwrap() <= 6, "{seen}");
    c.launch_group(vec![hungry, shell("third", "sleep 1000")])
        .await;
    let end = c.master.end("hungry").await;
    assert_eq!(end.reason(), Reason::ContainerLimitationMemory, "{end:?}");
    assert!(end.message().contains("asked 64.0 MiB"), "{end:?}");
    assert_eq!(c.master.end("third").await.state(), TaskState::TaskKilled);
    // Another group of the same executor is none of its business.
    c.master.kill("other", None).await;
    assert_eq!(c.master.end("other").await.state(), TaskState::TaskKilled);
    let groups = support::cgroups_of(&c.work_dir());
    c.agent.stop().await;
    until("no group is left", || {
        groups.iter().all(|group| !group.exists())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_group_has_the_limits_that_it_names() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let hungry = |id: &str, limit: Option<f64>| {
        let script = "x = bytearray(120 << 20); import time; time.sleep(0.2)";
        let mut info = support::program(id, &["python3", "-c", script]);
        if let Some(value) = limit {
            info.limits
                .insert("mem".to_owned(), mesos::value::Scalar { value });
            let linux = mesos::LinuxInfo {
                share_cgroups: Some(false),
                ..Default::default()
            };
            info.container = Some(Box::new(mesos::ContainerInfo {
                r#type: mesos::container_info::Type::Mesos.into(),
                linux_info: Some(linux),
                ..Default::default()
            }));
        }
        info
    };
    c.launch_group(vec![hungry("a", Some(256.0)), hungry("b", Some(256.0))])
        .await;
    for task in ["a", "b"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    }
    c.pod_ends().await;
    // Both asked for 64 MiB.
    c.launch_group(vec![hungry("c", None), shell("d", "sleep 1000")])
        .await;
    let end = c.master.end("c").await;
    assert_eq!(end.reason(), Reason::ContainerLimitationMemory, "{end:?}");
    c.pod_ends().await;
    c.agent.stop().await;
}

/// The same task among its executor's processes.
fn among_others(mut info: TaskInfo) -> TaskInfo {
    let linux = mesos::LinuxInfo {
        share_pid_namespace: Some(true),
        ..Default::default()
    };
    let container = info.container.get_or_insert_default();
    container.linux_info = Some(linux);
    info
}

/// Which process namespace a task's container is in.
fn pid_namespace(running: &mesos::TaskStatus) -> PathBuf {
    let container = running.container_status.as_ref().unwrap();
    let pid = container.executor_pid.unwrap();
    fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap()
}

fn is_empty(namespace: &PathBuf) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    !processes
        .filter_map(|entry| fs::read_link(entry.path().join("ns/pid")).ok())
        .any(|other| other == *namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_group_that_ask_for_it_share_their_processes_and_none_ends_anothers() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let leaves = "setsid sh -c 'echo $$ > common/daemon.new; mv common/daemon.new common/daemon; \
                  exec sleep 1000' & while [ ! -e common/go ]; do sleep 0.02; done";
    // It sees the other's process, and the first process of neither is open to it (runc's
    // CVE-2019-5736); once the other has finished, what that left behind is gone.
    let looks = "while [ ! -e common/daemon ]; do sleep 0.02; done; d=/proc/$(cat common/daemon); \
                 cat $d/comm; for p in /proc/[0-9]*; do case $(cat $p/comm) in \
                 allot*) cat $p/comm; readlink $p/exe && echo open;; esac; done; \
                 touch common/go; while [ -e $d ]; do sleep 0.02; done; echo gone";
    // It lives until all of them do: what ends before is never told to run.
    let walled = "readlink /proc/self/ns/pid; while [ ! -e common/go ]; do sleep 0.02; done";
    let tasks = vec![
        among_others(sharing(shell("leaves", leaves))),
        among_others(sharing(shell("looks", looks))),
        sharing(shell("walled", walled)),
    ];
    c.launch_group(tasks).await;
    let mut namespaces = Vec::new();
    for task in ["leaves", "looks"] {
        namespaces.push(pid_namespace(&c.master.running(task).await));
    }
    assert_eq!(namespaces[0], namespaces[1]);
    c.master.running("walled").await;
    for task in ["leaves", "looks", "walled"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    }
    let said = |task| fs::read_to_string(c.nested(task).join("stdout")).unwrap();
    let seen = said("looks");
    assert!(
        seen.starts_with("sleep\n") && seen.ends_with("gone\n"),
        "{seen}"
    );
    assert_eq!(seen.matches("allot-init").count(), 2, "{seen}");
    assert!(
        seen.contains("allot-pod") && !seen.contains("open"),
        "{seen}"
    );
    let (own, shared) = (said("walled"), namespaces[0].display().to_string());
    assert!(own.starts_with("pid:[") && own.trim() != shared, "{own}");
    // A kill ends all of a task, daemons that ignore every signal included.
    let stubborn = "(setsid sh -c \"trap '' TERM INT HUP; while :; do sleep 1; done\" &); \
                    trap '' TERM; while :; do sleep 1; done";
    let tasks = vec![
        among_others(shell("stubborn", stubborn)),
        among_others(shell("mate", "sleep 1000")),
    ];
    c.pod_ends().await;
    c.launch_group(tasks).await;
    let namespace = pid_namespace(&c.master.running("stubborn").await);
    c.master.running("mate").await;
    c.master
        .kill("stubborn", Some(std::time::Duration::from_millis(50)))
        .await;
    for task in ["stubborn", "mate"] {
        assert_eq!(c.master.end(task).await.state(), TaskState::TaskKilled);
    }
    c.pod_ends().await;
    namespaces.push(namespace);
    until("nothing is left", || namespaces.iter().all(is_empty)).await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_cannot_be_shared_where_there_are_no_walls() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.launch_group(vec![among_others(shell("a", "true")), shell("b", "true")])
        .await;
    let end = c.master.end("a").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
    assert!(end.message().contains("namespaces/pid"), "{end:?}");
    c.pod_ends().await;
    c.agent.stop().await;
}
