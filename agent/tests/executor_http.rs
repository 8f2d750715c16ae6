//! Custom executors as processes of their own: one in Python that speaks Mesos' executor API over
//! HTTP, well and badly. Whatever it does, the agent and its neighbours go on.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::mesos::{self, TaskInfo, TaskState};
use allotment_proto::{allot, executor};
use support::{Cluster, Mode, cgroups_of, framework_id, modes, shell, task, until};

fn id(executor: &str) -> mesos::ExecutorId {
    mesos::ExecutorId {
        value: executor.to_owned(),
    }
}

fn program() -> String {
    format!(
        "{}/tests/executors_py/executor.py",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// The executor in Python, with a way of misbehaving.
fn python(executor: &str, mode: &str) -> mesos::ExecutorInfo {
    let command = mesos::CommandInfo {
        shell: Some(false),
        value: Some("python3".to_owned()),
        arguments: vec!["python3".to_owned(), program(), mode.to_owned()],
        ..Default::default()
    };
    mesos::ExecutorInfo {
        r#type: Some(mesos::executor_info::Type::Custom.into()),
        executor_id: id(executor),
        framework_id: Some(framework_id()),
        command: Some(command),
        resources: resources_to_wire(&"cpus:0.1; mem:64".parse().unwrap(), Some("web")),
        ..Default::default()
    }
}

fn hosted(name: &str, what: &str, executor: &mesos::ExecutorInfo) -> TaskInfo {
    TaskInfo {
        command: None,
        executor: Some(Box::new(executor.clone())),
        data: Some(what.as_bytes().to_vec().into()),
        ..task(name, mesos::CommandInfo::default())
    }
}

/// What must still work after anything.
async fn a_neighbour_works(c: &mut Cluster, id: &str) {
    c.master.launch(vec![shell(id, "echo well")]).await;
    let end = c.master.end(id).await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
}

impl Cluster {
    async fn waits_for(&self, executor: &str, line: &str) {
        let stdout = self.sandbox(executor).join("stdout");
        until(line, || {
            fs::read_to_string(&stdout).is_ok_and(|text| text.contains(line))
        })
        .await;
    }

    async fn shut_down(&self, executor: &str) {
        let shutdown = allot::ShutdownExecutor {
            framework_id: framework_id(),
            executor_id: id(executor),
        };
        self.master.tell(Told::ShutdownExecutor(shutdown)).await;
    }

    async fn executor_ended(&mut self, executor: &str) -> Option<i32> {
        match self.master.of_executors().await {
            Said::ExecutorEnded(ended) => {
                assert_eq!(ended.executor_id, id(executor));
                ended.status
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_executor_in_python_runs_many_tasks_one_after_the_other_and_at_once() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let executor = python("e", "");
        let tasks = vec![
            hosted("stays", "run", &executor),
            hosted("ends", "finish", &executor),
        ];
        c.master.launch(tasks).await;
        let running = c.master.running("stays").await;
        // What the executor says is passed on as it is, and completed.
        assert_eq!(running.data(), &[0, 255]);
        assert_eq!(running.labels.unwrap().labels[0].key, "k");
        assert_eq!(running.executor_id.unwrap().value, "e");
        assert_eq!(running.source, Some(Source::Executor.into()));
        let container = running.container_status.unwrap();
        assert!(container.executor_pid.is_some() && container.container_id.is_some());
        let end = c.master.end("ends").await;
        assert_eq!(
            (end.state(), end.message()),
            (TaskState::TaskFinished, "all done")
        );
        c.master
            .launch(vec![hosted("later", "finish", &executor)])
            .await;
        c.master.end("later").await;
        c.master.kill("stays", None).await;
        let end = c.master.end("stays").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
        // It is there without a task, until it is ended.
        let message = allot::ExecutorMessage {
            framework_id: framework_id(),
            executor_id: id("e"),
            data: b"\0hello".to_vec().into(),
        };
        c.master.tell(Told::ExecutorMessage(message)).await;
        match c.master.of_executors().await {
            Said::ExecutorMessage(message) => assert_eq!(message.data, b"\0hello".to_vec()),
            other => panic!("{other:?}"),
        }
        c.shut_down("e").await;
        assert_eq!(c.executor_ended("e").await, Some(0));
        let log = fs::read_to_string(c.sandbox("e").join("stdout")).unwrap();
        assert_eq!(log.matches("subscribed").count(), 1, "{log}");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_in_a_custom_executor_starts_together() {
    let mut c = Cluster::start(Mode::Plain).await;
    let executor = python("e", "");
    let tasks = vec![
        hosted("a", "run", &executor),
        hosted("b", "finish", &executor),
    ];
    let framework = mesos::FrameworkInfo {
        id: Some(framework_id()),
        ..Default::default()
    };
    let launch = allot::Launch {
        framework,
        tasks,
        group_executor: Some(Box::new(executor)),
        ..Default::default()
    };
    c.master.tell(Told::Launch(launch)).await;
    c.master.running("a").await;
    c.master.end("b").await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_does_everything_wrong_harms_nobody() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let quiet = python("quiet", "");
        c.master.launch(vec![hosted("q", "run", &quiet)]).await;
        c.master.running("q").await;
        let mut rude = python("rude", "rude");
        let variable = mesos::environment::Variable {
            name: "OTHER".to_owned(),
            value: Some(r#"{"id": "quiet"}"#.to_owned()),
            r#type: None,
        };
        let environment = mesos::Environment {
            variables: vec![variable],
        };
        if let Some(command) = &mut rude.command {
            command.environment = Some(environment);
        }
        // It holds 64 MiB twice.
        rude.resources = resources_to_wire(&"cpus:0.1; mem:512".parse().unwrap(), Some("web"));
        c.master.launch(vec![hosted("r", "twice", &rude)]).await;
        c.waits_for("rude", "rude enough").await;
        let end = c.master.end("r").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        c.waits_for("rude", "again").await;
        let log = fs::read_to_string(c.sandbox("rude").join("stdout")).unwrap();
        let said = |what: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix(what));
            line.unwrap_or_else(|| panic!("{what} is not in {log}"))
                .trim()
                .to_owned()
        };
        assert_eq!(said("other's id"), "401");
        assert_eq!(said("no token"), "401");
        for what in [
            "no executor",
            "garbage",
            "empty",
            "a list",
            "deep",
            "no type",
        ] {
            assert_eq!(said(what), "400", "{what}");
        }
        for what in ["no such task", "wrong state", "text as protobuf", "5 MiB"] {
            assert_eq!(said(what), "400", "{what}");
        }
        assert_eq!(said("strange type"), "415");
        assert_eq!(said("GET"), "405");
        // Refused before it is read to its end, which some clients see as a broken pipe.
        assert!(["413", "0"].contains(&said("64 MiB").as_str()), "{log}");
        // A second terminal update is harmless, and taken as the first one was.
        assert!(said("again").starts_with("202"), "{log}");
        // The quiet one is still connected.
        c.master.kill("q", None).await;
        assert_eq!(c.master.end("q").await.state(), TaskState::TaskKilled);
        a_neighbour_works(&mut c, "beside").await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_registers_twice_goes_on_with_its_second_stream() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let double = python("double", "double");
        c.master.launch(vec![hosted("t", "run", &double)]).await;
        c.master.running("t").await;
        c.waits_for("double", "the first stream ended").await;
        c.master
            .launch(vec![hosted("later", "finish", &double)])
            .await;
        let end = c.master.end("later").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        c.master.kill("t", None).await;
        assert_eq!(c.master.end("t").await.state(), TaskState::TaskKilled);
        let log = fs::read_to_string(c.sandbox("double").join("stdout")).unwrap();
        assert_eq!(log.matches("subscribed").count(), 2, "{log}");
        for task in ["launch t ", "launch later "] {
            assert_eq!(log.matches(task).count(), 1, "{log}");
        }
        a_neighbour_works(&mut c, "beside").await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_updates_is_bounded_and_ends_in_the_right_state() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.master.acknowledges = false;
    let flood = python("e", "");
    c.master.launch(vec![hosted("t", "flood", &flood)]).await;
    let first = c.master.running("t").await;
    c.waits_for("e", "taken").await;
    let log = fs::read_to_string(c.sandbox("e").join("stdout")).unwrap();
    assert!(log.contains("refused"), "{log}");
    let refused: u32 = log
        .split("refused ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(refused > 200, "{log}");
    c.master.acknowledges = true;
    c.master.acknowledge(&first).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished);
    a_neighbour_works(&mut c, "beside").await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_never_subscribes_is_ended_with_that_reason() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.executor_registration_timeout = Duration::from_millis(300);
    })
    .await;
    let never = python("never", "never");
    c.master.launch(vec![hosted("t", "run", &never)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFailed);
    assert_eq!(end.reason(), Reason::ExecutorRegistrationTimeout, "{end:?}");
    assert!(
        end.message().contains("did not subscribe within 0.3 s"),
        "{end:?}"
    );
    a_neighbour_works(&mut c, "beside").await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_cannot_be_started_says_so_in_its_tasks_status() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mut nothing = python("nothing", "");
    if let Some(command) = &mut nothing.command {
        command.value = Some("no-such-program".to_owned());
    }
    c.master.launch(vec![hosted("t", "run", &nothing)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFailed);
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
    assert!(end.message().contains("no-such-program"), "{end:?}");
    assert_eq!(c.executor_ended("nothing").await, None);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_ignores_shutdown_is_killed_after_its_grace() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mut deaf = python("deaf", "deaf");
        deaf.shutdown_grace_period = Some(mesos::DurationInfo {
            nanoseconds: 200_000_000,
        });
        c.master.launch(vec![hosted("t", "run", &deaf)]).await;
        c.master.running("t").await;
        c.shut_down("deaf").await;
        let end = c.master.end("t").await;
        assert_eq!(end.reason(), Reason::ExecutorTerminated, "{end:?}");
        assert_eq!(end.source(), Source::Agent);
        assert_eq!(c.executor_ended("deaf").await, Some(9));
        c.waits_for("deaf", "shutdown").await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_fail_with_an_executor_that_exits_even_while_one_is_killed() {
    let mut c = Cluster::start(Mode::Plain).await;
    let executor = python("e", "dies-when-killed");
    let tasks = vec![hosted("a", "run", &executor), hosted("b", "run", &executor)];
    c.master.launch(tasks).await;
    c.master.running("a").await;
    c.master.running("b").await;
    c.master.kill("a", None).await;
    for task in ["a", "b"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
        assert_eq!(end.message(), "Executor exited with status 3");
    }
    assert_eq!(c.executor_ended("e").await, Some(3 << 8));
    a_neighbour_works(&mut c, "beside").await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_trusts_its_machine_takes_executors_that_know_no_token() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.authenticate_http_executors = false;
    })
    .await;
    let old = python("old", "tokenless");
    c.master.launch(vec![hosted("t", "finish", &old)]).await;
    assert_eq!(c.master.end("t").await.state(), TaskState::TaskFinished);
    c.agent.stop().await;
}

/// The memory limit of the only container, in bytes.
fn memory_limit(work_dir: &std::path::Path) -> Option<u64> {
    let groups = cgroups_of(work_dir).into_iter();
    let containers = groups.flat_map(|group| fs::read_dir(group).into_iter().flatten());
    let limits = containers.flatten().filter_map(|container| {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|f| container.path().join(f));
        let text = files
            .iter()
            .find_map(|file: &PathBuf| fs::read_to_string(file).ok())?;
        text.trim().parse().ok()
    });
    limits.max()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executors_container_grows_with_its_tasks_and_ends_past_what_all_of_them_asked() {
    if !support::root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let executor = python("e", "");
    c.master.launch(vec![hosted("a", "run", &executor)]).await;
    c.master.running("a").await;
    let work_dir = c.work_dir();
    assert_eq!(memory_limit(&work_dir), Some(128 << 20));
    let mut large = hosted("b", "work 200", &executor);
    large.resources = resources_to_wire(&"cpus:0.1; mem:256".parse().unwrap(), Some("web"));
    c.master.launch(vec![large]).await;
    c.master.running("b").await;
    until("the limit grows", || {
        memory_limit(&work_dir) == Some(384 << 20)
    })
    .await;
    c.waits_for("e", "launch b").await;
    c.master
        .launch(vec![hosted("c", "work 400", &executor)])
        .await;
    for task in ["a", "b", "c"] {
        let end = c.master.end(task).await;
        assert_eq!(end.reason(), Reason::ContainerLimitationMemory, "{end:?}");
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_is_spoken_as_well() {
    let c = Cluster::start(Mode::Plain).await;
    let mut waits = python("e", "");
    if let Some(command) = &mut waits.command {
        command.arguments[1] = "-c".to_owned();
        command.arguments[2] = "import os,time;print(os.environ[\
             'MESOS_EXECUTOR_AUTHENTICATION_TOKEN'],flush=True);time.sleep(1000)"
            .to_owned();
    }
    c.master.launch(vec![hosted("t", "run", &waits)]).await;
    let stdout = c.sandbox("e").join("stdout");
    until("the token", || {
        fs::read_to_string(&stdout).is_ok_and(|t| t.len() > 64)
    })
    .await;
    let token = fs::read_to_string(&stdout).unwrap().trim().to_owned();
    let call = executor::Call {
        executor_id: id("e"),
        framework_id: framework_id(),
        r#type: Some(executor::call::Type::Subscribe.into()),
        subscribe: Some(executor::call::Subscribe::default()),
        ..Default::default()
    };
    let mut stream = subscribe(c.agent.url(), &token, &call).await;
    let mut reader = allotment_proto::recordio::Reader::new(1 << 20);
    let mut events = Vec::new();
    while events.len() < 2 {
        let chunk = stream.next_chunk().await;
        reader.extend(&chunk);
        while let Some(record) = reader.take().unwrap() {
            let event: executor::Event = allotment_proto::json::decode_protobuf(&record).unwrap();
            events.push(event.r#type());
        }
    }
    use executor::event::Type;
    assert_eq!(events, [Type::Subscribed, Type::Launch]);
    c.agent.stop().await;
}

/// A streaming answer, chunk by chunk.
struct Stream(hyper::body::Incoming);

impl Stream {
    async fn next_chunk(&mut self) -> Vec<u8> {
        use http_body_util::BodyExt;
        let frame = self.0.frame().await.expect("a frame").unwrap();
        frame.into_data().unwrap().to_vec()
    }
}

async fn subscribe(url: &str, token: &str, call: &executor::Call) -> Stream {
    use prost::Message;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Full<bytes::Bytes>>();
    let request = hyper::Request::post(format!("{url}/api/v1/executor"))
        .header("content-type", "application/x-protobuf")
        .header("accept", "application/x-protobuf")
        .header("authorization", format!("Bearer {token}"))
        .body(call.encode_to_vec().into())
        .unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-protobuf");
    Stream(response.into_body())
}
