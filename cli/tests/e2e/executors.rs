//! Executors that tasks share, through everything: a framework on the SDK, the real master and
//! agent, and executors on the SDK.

use std::time::Duration;

use allotment_framework_sdk::api::{ExecutorNews, TaskState};
use allotment_framework_sdk::{Call, Command, Event, Executor, Operation, Task};
use bytes::Bytes;

use crate::common::Cluster;
use crate::framework::{Framework, task};

#[path = "../../../examples/executors/counter.rs"]
mod example;

/// The example executor is this test binary itself, started as an agent starts it: this test
/// alone. Started by hand it says what is missing.
#[test]
fn counter() {
    let ran = example::main();
    if std::env::var_os("MESOS_EXECUTOR_ID").is_some() {
        ran.unwrap();
    } else {
        let why = ran.unwrap_err().to_string();
        assert!(why.contains("MESOS_FRAMEWORK_ID is not set"), "{why}");
    }
}

fn counting_executor() -> Executor {
    let command = Command::Exec {
        program: std::env::current_exe().unwrap().display().to_string(),
        arguments: vec![
            "executors::counter".to_owned(),
            "--exact".to_owned(),
            "--nocapture".to_owned(),
        ],
    };
    let resources = "cpus:0.1;mem:128".parse().unwrap();
    Executor::custom("counter".parse().unwrap(), resources, command)
}

fn counting(id: &str, to: &str) -> Task {
    let command = Command::InExecutor {
        executor: Box::new(counting_executor()),
        data: Bytes::copy_from_slice(to.as_bytes()),
    };
    let resources = "cpus:0.1;mem:32".parse().unwrap();
    Task::new(id.parse().unwrap(), resources, command)
}

impl Framework {
    /// The next that is heard of an executor.
    fn executor_news(&mut self) -> ExecutorNews {
        if let Some(news) = self.executor_news.pop_front() {
            return news;
        }
        self.hear("an executor", |event| match event {
            Event::Executor { news, .. } => Some(news.clone()),
            _ => None,
        })
    }
}

#[test]
fn one_executor_counts_for_many_tasks_and_its_framework_hears_of_it() {
    let cluster = Cluster::start(&["cpus:4;mem:2048"]);
    let mut framework = Framework::subscribe(&cluster.url, "counters");
    let offer = framework.offer();
    let tasks = vec![
        counting("few", "3"),
        counting("many", "100000"),
        counting("none", "x"),
    ];
    framework.accept(&offer, tasks, Duration::ZERO);
    let failed = framework.update("none", TaskState::TaskFailed);
    assert!(failed.message.unwrap().contains("no number to count to"));
    framework.update("many", TaskState::TaskRunning);
    framework.update("few", TaskState::TaskFinished);
    let ExecutorNews::Message(sum) = framework.executor_news() else {
        panic!("no sum");
    };
    let sum: u64 = std::str::from_utf8(&sum).unwrap().parse().unwrap();
    assert!(sum >= 6, "both tasks were counted for: {sum}");
    let rows = cluster.list("task");
    let many = rows.iter().find(|row| row["id"] == "many").unwrap();
    assert_eq!(many["executor_id"], "counter");
    let shown = cluster.allot(&["task", "show", "many"]).ok();
    assert!(shown.contains("counter"), "{shown}");
    // What it holds: four for the executor and the task that is left.
    let node = &cluster.list("node")[0];
    assert!(node["allocated"].to_string().contains("0.2"), "{node}");
    framework.call(Call::Message {
        agent: offer.agent.clone(),
        executor: "counter".parse().unwrap(),
        data: Bytes::from_static(b"?"),
    });
    assert!(matches!(
        framework.executor_news(),
        ExecutorNews::Message(_)
    ));
    framework.call(Call::Kill {
        task: "many".parse().unwrap(),
        agent: None,
        grace: None,
    });
    framework.update("many", TaskState::TaskKilled);
    framework.call(Call::ShutdownExecutor {
        agent: offer.agent,
        executor: "counter".parse().unwrap(),
    });
    assert_eq!(framework.executor_news(), ExecutorNews::Ended(Some(0)));
    framework.leave();
}

#[test]
fn a_group_of_tasks_shares_a_folder_and_ends_together() {
    let cluster = Cluster::start(&["cpus:4;mem:2048"]);
    let mut framework = Framework::subscribe(&cluster.url, "pods");
    let offer = framework.offer();
    let sharing = |id: &str, line: &str| {
        let mut task = task(id, "cpus:0.1;mem:64", line);
        task.shared_folders
            .insert("common".to_owned(), "shared".to_owned());
        task
    };
    let server = sharing(
        "server",
        "echo ready > common/state; echo up; exec sleep 3600",
    );
    let client = sharing(
        "client",
        "while ! grep -q ready common/state; do sleep 0.05; done; echo seen; exit 4",
    );
    framework.call(Call::Operate {
        agent: offer.agent.clone(),
        offers: vec![offer.id.clone()],
        operations: vec![Operation::LaunchGroup {
            executor: Executor::default_one("pod".parse().unwrap()),
            tasks: vec![server, client],
        }],
        refuse_for: None,
    });
    framework.update("client", TaskState::TaskRunning);
    framework.update("server", TaskState::TaskRunning);
    framework.update("client", TaskState::TaskFailed);
    // The two come in either order.
    assert_eq!(framework.executor_news(), ExecutorNews::Ended(Some(0)));
    let killed = framework.update("server", TaskState::TaskKilled);
    assert!(killed.message.unwrap().contains("group"));
    let log = cluster.allot(&["task", "logs", "client"]).ok();
    assert_eq!(log, "seen\n");
    framework.leave();
}
