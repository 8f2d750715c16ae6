//! Custom executors and groups when their agent is killed: they go on, and the next one finds
//! them.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/apart.rs"]
mod apart;
mod support;

use std::fs;

use allotment_proto::allot;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::executor_info::Type;
use allotment_proto::mesos::{self, TaskInfo, TaskState};
use apart::Apart;
use support::{Mode, framework_id, modes, shell, task, until};

fn executor(name: &str, kind: Type) -> mesos::ExecutorInfo {
    let program = format!(
        "{}/tests/executors_py/executor.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let command = mesos::CommandInfo {
        shell: Some(false),
        value: Some("python3".to_owned()),
        arguments: vec!["python3".to_owned(), program],
        ..Default::default()
    };
    mesos::ExecutorInfo {
        r#type: Some(kind.into()),
        executor_id: mesos::ExecutorId {
            value: name.to_owned(),
        },
        command: (kind == Type::Custom).then_some(command),
        resources: resources_to_wire(&"cpus:0.1; mem:64".parse().unwrap(), Some("web")),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_subscribes_again_and_its_tasks_go_on() {
    for mode in modes() {
        let mut a = Apart::start(mode).await;
        let in_python = executor("e", Type::Custom);
        let hosted = |name: &str, what: &str| TaskInfo {
            command: None,
            executor: Some(Box::new(in_python.clone())),
            data: Some(what.as_bytes().to_vec().into()),
            ..task(name, mesos::CommandInfo::default())
        };
        a.master.launch(vec![hosted("t", "run")]).await;
        a.master.running("t").await;
        a.dies();
        let stdout = a.sandbox("e").join("stdout");
        let subscriptions = || {
            let log = fs::read_to_string(&stdout).unwrap_or_default();
            log.matches("subscribed\n").count()
        };
        let register = a.returns().await;
        assert_eq!(register.executors.len(), 1);
        assert_eq!(register.tasks[0].state(), TaskState::TaskRunning);
        until("it subscribes again", || subscriptions() == 2).await;
        // Old tasks and new ones, in the same process.
        a.master.launch(vec![hosted("u", "finish")]).await;
        assert_eq!(a.master.end("u").await.state(), TaskState::TaskFinished);
        a.master.kill("t", None).await;
        assert_eq!(a.master.end("t").await.state(), TaskState::TaskKilled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_ended_while_no_agent_was_there_is_reported() {
    let mut a = Apart::start(support::Mode::Plain).await;
    let in_python = executor("e", Type::Custom);
    let hosted = TaskInfo {
        command: None,
        executor: Some(Box::new(in_python)),
        data: Some(b"run".to_vec().into()),
        ..task("t", mesos::CommandInfo::default())
    };
    a.master.launch(vec![hosted]).await;
    let running = a.master.running("t").await;
    a.dies();
    let pid = running.container_status.unwrap().executor_pid.unwrap();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    for child in children.split_whitespace() {
        let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    a.returns().await;
    let end = a.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
    assert_eq!(end.message(), "Executor terminated with signal SIGKILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_and_still_ends_together() {
    for mode in modes() {
        let mut a = Apart::start(mode).await;
        let pod = executor("pod", Type::Default);
        let fails = "while [ ! -e go ]; do sleep 0.02; done; exit 5";
        let tasks = vec![shell("fails", fails), shell("stays", "sleep 1000")];
        let launch = allot::Launch {
            framework: mesos::FrameworkInfo {
                id: Some(framework_id()),
                ..Default::default()
            },
            tasks: tasks
                .into_iter()
                .map(|task| TaskInfo {
                    executor: Some(Box::new(pod.clone())),
                    ..task
                })
                .collect(),
            group_executor: Some(Box::new(pod.clone())),
            ..Default::default()
        };
        a.master.tell(Told::Launch(launch)).await;
        a.master.running("fails").await;
        a.master.running("stays").await;
        a.dies();
        let register = a.returns().await;
        assert_eq!((register.executors.len(), register.tasks.len()), (1, 2));
        fs::write(a.sandbox("pod").join("tasks/fails/go"), "").unwrap();
        assert_eq!(a.master.end("fails").await.state(), TaskState::TaskFailed);
        assert_eq!(a.master.end("stays").await.state(), TaskState::TaskKilled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_joins_the_processes_of_its_executor_also_under_the_next_agent() {
    if !support::root() {
        return;
    }
    let mut a = Apart::start(Mode::Isolated).await;
    let pod = executor("pod", Type::Default);
    let group = |tasks: Vec<TaskInfo>, running: bool| {
        let shares = mesos::LinuxInfo {
            share_pid_namespace: Some(true),
            ..Default::default()
        };
        let tasks = tasks.into_iter().map(|task| TaskInfo {
            executor: Some(Box::new(pod.clone())),
            container: Some(Box::new(mesos::ContainerInfo {
                r#type: mesos::container_info::Type::Mesos.into(),
                linux_info: Some(shares.clone()),
                ..Default::default()
            })),
            ..task
        });
        Told::Launch(allot::Launch {
            framework: mesos::FrameworkInfo {
                id: Some(framework_id()),
                ..Default::default()
            },
            tasks: tasks.collect(),
            group_executor: Some(Box::new(pod.clone())),
            running_executors: running
                .then(|| pod.executor_id.clone())
                .into_iter()
                .collect(),
        })
    };
    let first = group(vec![shell("first", "exec sleep 4242")], false);
    a.master.tell(first).await;
    a.master.running("first").await;
    a.dies();
    a.returns().await;
    let looks = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done; sleep 1000";
    let second = group(vec![shell("second", looks)], true);
    a.master.tell(second).await;
    a.master.running("second").await;
    let stdout = a.sandbox("pod").join("tasks/second/stdout");
    let said = || fs::read_to_string(&stdout).unwrap_or_default();
    until("it sees the first one's", || said().contains("sleep 4242")).await;
    // The first one's end is not the other's.
    a.master.kill("first", None).await;
    assert_eq!(a.master.end("first").await.state(), TaskState::TaskKilled);
    a.master.kill("second", None).await;
    assert_eq!(a.master.end("second").await.state(), TaskState::TaskKilled);
}
