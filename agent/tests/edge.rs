//! The agent's edge: its session with a master, its files, what it fetches and serves.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::time::Duration;

use allotment_agent::StartError;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::allot::sandbox_client::SandboxClient;
use allotment_proto::allot::{self, SandboxListRequest, SandboxReadRequest};
use allotment_proto::mesos::command_info::Uri;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{TaskInfo, TaskState};
use support::{AGENT, Cluster, FRAMEWORK, Master, Mode, config, program, shell, until};
use tonic::transport::Channel;

fn read_request(task: &str, path: &str, follow: bool) -> SandboxReadRequest {
    SandboxReadRequest {
        framework_id: FRAMEWORK.to_owned(),
        task_id: task.to_owned(),
        path: path.to_owned(),
        offset: 0,
        length: None,
        follow,
        file: None,
    }
}

async fn read(
    files: &mut SandboxClient<Channel>,
    request: SandboxReadRequest,
) -> Result<String, tonic::Status> {
    let mut chunks = files.read(request).await?.into_inner();
    let mut text = String::new();
    while let Some(chunk) = chunks.message().await? {
        assert_eq!(chunk.offset, text.len() as u64);
        text.push_str(std::str::from_utf8(&chunk.data).expect("text"));
    }
    Ok(text)
}

fn with_uri(mut info: TaskInfo, uri: Uri) -> TaskInfo {
    info.command.as_mut().expect("a command").uris.push(uri);
    info
}

fn uri(value: &str) -> Uri {
    Uri {
        value: value.to_owned(),
        ..Default::default()
    }
}

/// A server that gives one answer to one request.
fn answer_once(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://{}/dir/file.txt?x=1",
        listener.local_addr().expect("it")
    );
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a connection");
        let mut request = [0; 4096];
        let _ = connection.read(&mut request);
        let _ = connection.write_all(answer.as_bytes());
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_session_is_made_good_by_registering_again() {
    let mut c = Cluster::start(Mode::Plain).await;
    assert_eq!(c.registered.agent.id, None);
    c.master.acknowledges = false;
    c.master
        .launch(vec![program("t", &["sleep", "1000"])])
        .await;
    let running = c.master.running("t").await;
    c.master.cut();
    let again = c.master.registration().await;
    assert_eq!(again.agent.id.expect("an id").value, AGENT);
    assert_eq!(again.tasks.len(), 1);
    assert_eq!(again.tasks[0].state(), TaskState::TaskRunning);
    assert_eq!(
        again.frameworks[0].id.as_ref().expect("an id").value,
        FRAMEWORK
    );
    // The update nobody acknowledged comes again, the same.
    assert_eq!(c.master.running("t").await.uuid, running.uuid);
    c.master.acknowledge(&running).await;
    c.master.acknowledges = true;
    c.master.kill("t", Some(Duration::ZERO)).await;
    assert_eq!(c.master.end("t").await.state(), TaskState::TaskKilled);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_master_waits_for_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = format!("http://{}", free.local_addr().expect("it"));
    drop(free);
    let mut master = Master::start().await;
    let mut config = config(Mode::Plain, &dead, folder.path().join("agent"));
    config.reconnect_min = Duration::from_millis(1);
    config.masters.push(master.url.clone());
    let agent = allotment_agent::start(config).await.expect("it starts");
    // The first address is dead; the second is tried next.
    master.registration().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_ends_tasks_and_says_farewell() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.master
        .launch(vec![program("t", &["sleep", "1000"])])
        .await;
    c.master.running("t").await;
    c.agent.stop().await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskLost, "{end:?}");
    assert!(end.message().contains("agent was stopped"), "{end:?}");
    c.master.farewell().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_or_port_in_use_is_refused_with_a_sentence() {
    let c = Cluster::start(Mode::Plain).await;
    let same_folder = config(Mode::Plain, "http://127.0.0.1:1", c.work_dir());
    let error = allotment_agent::start(same_folder)
        .await
        .expect_err("in use");
    assert!(
        error.to_string().contains("another agent is running"),
        "{error}"
    );
    let other = tempfile::tempdir().expect("a folder");
    let mut same_port = config(Mode::Plain, "http://127.0.0.1:1", other.path().to_owned());
    same_port.listen = c
        .agent
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("it");
    let error = allotment_agent::start(same_port).await.expect_err("taken");
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_or_is_not_supported_is_refused_with_the_reason() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mut large = program("large", &["true"]);
    large.resources = allotment_proto::convert::resources_to_wire(
        &"cpus:65; mem:64".parse().expect("resources"),
        None,
    );
    let mut image = program("image", &["true"]);
    image.container = Some(Box::new(allotment_proto::mesos::ContainerInfo {
        docker: Some(allotment_proto::mesos::container_info::DockerInfo {
            image: "x".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }));
    let mut empty = program("empty", &["true"]);
    empty.command = None;
    c.master.launch(vec![large, image, empty]).await;
    let end = c.master.end("large").await;
    assert_eq!(end.state(), TaskState::TaskLost, "{end:?}");
    assert!(
        end.message().contains("cpus: asked 65, there is 64"),
        "{end:?}"
    );
    for (task, what) in [("image", "a container image"), ("empty", "no command")] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskError, "{end:?}");
        assert_eq!(end.reason(), Reason::TaskInvalid);
        assert!(end.message().contains(what), "{end:?}");
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_live_and_ended_tasks_are_listed_and_read() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.master
        .launch(vec![shell(
            "t",
            "mkdir d; echo in > d/f; echo out; ls -a /",
        )])
        .await;
    c.master.end("t").await;
    let mut files = c.files().await;
    let request = |path: &str| SandboxListRequest {
        framework_id: FRAMEWORK.to_owned(),
        task_id: "t".to_owned(),
        path: path.to_owned(),
    };
    let entries = files
        .list(request(""))
        .await
        .expect("a list")
        .into_inner()
        .entries;
    let names: Vec<_> = entries
        .iter()
        .map(|e| (e.name.as_str(), e.directory))
        .collect();
    assert_eq!(names, [("d", true), ("stderr", false), ("stdout", false)]);
    assert_eq!(
        read(&mut files, read_request("t", "d/f", false))
            .await
            .expect("it"),
        "in\n"
    );
    let mut part = read_request("t", "stdout", false);
    part.length = Some(3);
    assert_eq!(read(&mut files, part).await.expect("it"), "out");
    symlink("/etc/passwd", c.sandbox("t").join("link")).expect("a link");
    for path in ["../../../../../../../../etc/passwd", "link", "/etc/passwd"] {
        let status = read(&mut files, read_request("t", path, false)).await;
        let status = status.expect_err("no way out");
        assert_eq!(
            status.code(),
            tonic::Code::InvalidArgument,
            "{path}: {status}"
        );
    }
    for (task, path) in [("t", "none"), ("never", "stdout")] {
        let status = read(&mut files, read_request(task, path, false)).await;
        assert_eq!(status.expect_err("nothing").code(), tonic::Code::NotFound);
    }
    for (task, path) in [("..", "stdout"), ("a/b", "stdout"), ("t", "d")] {
        let status = read(&mut files, read_request(task, path, false)).await;
        assert_eq!(
            status.expect_err("nonsense").code(),
            tonic::Code::InvalidArgument
        );
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_everything_up_to_the_end_and_then_ends() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mut files = c.files().await;
    let line = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec echo three";
    c.master.launch(vec![shell("t", line)]).await;
    c.master.running("t").await;
    let mut chunks = files
        .read(read_request("t", "stdout", true))
        .await
        .expect("a stream")
        .into_inner();
    let first = chunks.message().await.expect("no error").expect("a chunk");
    assert_eq!(&first.data[..], b"one\n");
    fs::write(c.sandbox("t").join("go"), "").expect("go");
    let mut rest = String::new();
    while let Some(chunk) = chunks.message().await.expect("no error") {
        rest.push_str(std::str::from_utf8(&chunk.data).expect("text"));
    }
    assert_eq!(rest, "two\nthree\n");
    c.master.end("t").await;
    // Following what has ended just reads it.
    let again = read(&mut files, read_request("t", "stdout", true)).await;
    assert_eq!(again.expect("it"), "one\ntwo\nthree\n");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_in_the_next_file_and_loses_and_repeats_nothing() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.log_size_max = Some(4096);
        config.log_files_max = 50;
    })
    .await;
    let mut files = c.files().await;
    // In bursts and byte by byte, so that files end while they are read and while they are not.
    let line = "echo 0; while [ ! -e go ]; do sleep 0.01; done; seq 3000; sleep 0.1; \
                for i in $(seq 3001 3300); do echo $i; done; sleep 0.3; exec seq 3301 6000";
    let whole: String = (0..=6000).map(|i| format!("{i}\n")).collect();
    c.master.launch(vec![shell("t", line)]).await;
    c.master.running("t").await;
    let answer = files.read(read_request("t", "stdout", true)).await;
    let mut chunks = answer.expect("a stream").into_inner();
    let (mut text, mut begins) = (String::new(), Vec::new());
    while let Some(chunk) = chunks.message().await.expect("no error") {
        assert!(!chunk.gap(), "after {} bytes", text.len());
        begins.push((text.len(), chunk.file, chunk.offset));
        text.push_str(std::str::from_utf8(&chunk.data).expect("text"));
        // It reads the first file, so nothing may be put aside unread.
        fs::write(c.sandbox("t").join("go"), "").expect("go");
    }
    assert!(text == whole, "{} of {} bytes", text.len(), whole.len());
    c.master.end("t").await;
    // Who was cut off goes on from any place, whatever that file is called by now.
    let numbers: std::collections::BTreeSet<_> = begins.iter().map(|(_, file, _)| file).collect();
    assert!(numbers.len() > 5, "{numbers:?}");
    for (at, file, offset) in begins {
        let request = SandboxReadRequest {
            file,
            offset,
            ..read_request("t", "stdout", true)
        };
        let mut chunks = files.read(request).await.expect("a stream").into_inner();
        let mut rest = String::new();
        while let Some(chunk) = chunks.message().await.expect("no error") {
            rest.push_str(std::str::from_utf8(&chunk.data).expect("text"));
        }
        assert!(rest == whole[at..], "from byte {at}");
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_over_http_and_from_this_machine() {
    let mut c = Cluster::start(Mode::Plain).await;
    let url = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let local = c.folder.path().join("tool");
    fs::write(&local, "#!/bin/sh\ncat file.txt\n").expect("a file");
    let mut info = with_uri(program("t", &["./bin/tool"]), uri(&url));
    info = with_uri(
        info,
        Uri {
            executable: Some(true),
            output_file: Some("bin/tool".to_owned()),
            ..uri(&local.display().to_string())
        },
    );
    c.master.launch(vec![info]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    assert_eq!(c.stdout("t"), "hello");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_named_with_the_reason() {
    let mut c = Cluster::with(Mode::Plain, |config| config.fetcher.size_max = 10).await;
    let large = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n12345678901234567890");
    let gone = answer_once("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let torn = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    let cases = [
        ("large", large.as_str(), "at most 10"),
        ("gone", &gone, "404 Not Found"),
        ("torn", &torn, "after 4 bytes"),
        ("missing", "/no/such/file", "No such file"),
        ("scheme", "ftp://host/file", "scheme ftp is not supported"),
        ("relative", "file", "neither an absolute path"),
    ];
    for (id, value, _) in cases {
        let info = with_uri(program(id, &["true"]), uri(value));
        c.master.launch(vec![info]).await;
    }
    for (id, value, why) in cases {
        let end = c.master.update(id).await;
        assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
        assert_eq!(end.reason(), Reason::ContainerLaunchFailed);
        let message = end.message();
        assert!(
            message.contains(value) && message.contains(why),
            "{message}"
        );
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_that_is_gone_takes_its_tasks_along_silently() {
    let mut c = Cluster::start(Mode::Plain).await;
    let mark = format!("MARK_GONE_{}", std::process::id());
    let line = format!("export {mark}=1; exec sleep 1000");
    c.master.launch(vec![shell("t", &line)]).await;
    c.master.running("t").await;
    c.master
        .tell(Told::ShutdownFramework(allot::ShutdownFramework {
            framework_id: support::framework_id(),
        }))
        .await;
    until("no process is left", || {
        support::marked_processes(&mark).is_empty()
    })
    .await;
    // What the task held is free again.
    let mut whole = program("whole", &["true"]);
    whole.resources = allotment_proto::convert::resources_to_wire(
        &"cpus:64; mem:16384".parse().expect("resources"),
        None,
    );
    loop {
        c.master.launch(vec![whole.clone()]).await;
        if c.master.end("whole").await.state() == TaskState::TaskFinished {
            break;
        }
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_collected_after_their_time_those_of_earlier_runs_too() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.gc_delay = Duration::from_millis(1);
        let old = "slaves/old-S1/frameworks/f/executors/t/runs";
        let old = config
            .work_dir
            .join(old)
            .join("6f1e2b54-5c7e-4a70-9a8e-0d5b8e6a2f11");
        fs::create_dir_all(&old).expect("a folder");
    })
    .await;
    c.master
        .launch(vec![shell("t", "mkdir -p a/b; echo x > a/b/c; chmod 0 a")])
        .await;
    c.master.end("t").await;
    let frameworks = c.work_dir().join(format!("slaves/{AGENT}/frameworks"));
    until("the sandbox is gone", || {
        !frameworks.join(FRAMEWORK).exists()
    })
    .await;
    let old = c.work_dir().join("slaves/old-S1/frameworks/f");
    until("the old sandbox is gone", || !old.exists()).await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_tell_what_there_is() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.master
        .launch(vec![program("t", &["sleep", "1000"])])
        .await;
    c.master.running("t").await;
    let address = c.agent.url().trim_start_matches("http://").to_owned();
    let get = |path: &str| {
        let mut connection = std::net::TcpStream::connect(&address).expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let metrics = get("/metrics");
    for line in [
        "slave_registered 1.0",
        "slave_tasks_running 1.0",
        "slave_cpus_total 64.0",
        "slave_cpus_used 0.1",
        "slave_tasks_finished_total 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line} in {metrics}");
    }
    let health = get("/health");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.contains("\"registered\":true"), "{health}");
    c.agent.stop().await;
}
