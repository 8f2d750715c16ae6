//! Sessions as Mesos' clients start, feed and watch them: over `POST /api/v1` of the agent.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::convert::Infallible;

use allotment_proto::agent::process_io::{Control, Data, control, data};
use allotment_proto::agent::{Call, ProcessIo, call, process_io};
use allotment_proto::mesos::{self, ContainerId, TtyInfo, tty_info};
use allotment_proto::{json, recordio};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use prost::Message;
use support::{Cluster, Mode, marked_processes, modes, shell, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How a test's messages are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Codec {
    Json,
    Protobuf,
}

impl Codec {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }

    fn write(self, call: &Call) -> Vec<u8> {
        match self {
            Self::Json => json::encode(call),
            Self::Protobuf => call.encode_to_vec(),
        }
    }
}

type Pieces = mpsc::Sender<Bytes>;

/// A request whose body is fed by the sender; the answer comes when its head does.
async fn request(
    cluster: &Cluster,
    headers: &[(&str, &str)],
) -> (
    Pieces,
    impl Future<Output = http::Response<Incoming>> + use<>,
) {
    let address = cluster.agent.url().strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (pieces, queue) = mpsc::channel::<Bytes>(16);
    let frames = tokio_stream::StreamExt::map(ReceiverStream::new(queue), |bytes| {
        Ok::<_, Infallible>(Frame::data(bytes))
    });
    let mut request = Request::post("/api/v1").header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(StreamBody::new(frames)).unwrap();
    let answer = async move { sender.send_request(request).await.unwrap() };
    (pieces, answer)
}

/// One call with its answer's head.
async fn send(cluster: &Cluster, codec: Codec, call: &Call) -> http::Response<Incoming> {
    let headers = [
        ("content-type", codec.name()),
        ("accept", "application/recordio, application/json;q=0.5"),
        ("message-accept", codec.name()),
    ];
    let (pieces, answer) = request(cluster, &headers).await;
    pieces.send(codec.write(call).into()).await.unwrap();
    drop(pieces);
    answer.await
}

async fn text(answer: http::Response<Incoming>) -> (StatusCode, String) {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// A stream of ProcessIO.
struct Output {
    body: Incoming,
    reader: recordio::Reader,
    codec: Codec,
    seen: String,
}

impl Output {
    fn of(answer: http::Response<Incoming>, codec: Codec) -> Self {
        assert_eq!(answer.status(), StatusCode::OK);
        let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("content-type"), "application/recordio");
        assert_eq!(header("message-content-type"), codec.name());
        assert!(answer.headers().get("content-length").is_none());
        Self {
            body: answer.into_body(),
            reader: recordio::Reader::new(1 << 20),
            codec,
            seen: String::new(),
        }
    }

    /// The next data: of which kind and what.
    async fn next(&mut self) -> Option<(data::Type, String)> {
        loop {
            if let Some(record) = self.reader.take().unwrap() {
                let io: ProcessIo = match self.codec {
                    Codec::Json => json::decode(&record).unwrap(),
                    Codec::Protobuf => ProcessIo::decode(&record[..]).unwrap(),
                };
                if io.r#type() == process_io::Type::Data {
                    let data = io.data.unwrap();
                    let bytes = String::from_utf8_lossy(data.data()).into_owned();
                    return Some((data.r#type(), bytes));
                }
                continue;
            }
            let frame = self.body.frame().await?.unwrap();
            self.reader.extend(&frame.into_data().unwrap());
        }
    }

    async fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let (_, bytes) = self.next().await.expect("more to come");
            self.seen.push_str(&bytes);
        }
    }

    async fn ends(mut self) -> String {
        while let Some((_, bytes)) = self.next().await {
            self.seen.push_str(&bytes);
        }
        self.seen
    }
}

fn of(kind: call::Type) -> Call {
    Call {
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

fn line(text: &str) -> mesos::CommandInfo {
    mesos::CommandInfo {
        value: Some(text.to_owned()),
        ..Default::default()
    }
}

fn launch(id: &ContainerId, command: mesos::CommandInfo, terminal: Option<TtyInfo>) -> Call {
    Call {
        launch_nested_container_session: Some(call::LaunchNestedContainerSession {
            container_id: id.clone(),
            command: Some(command),
            container: terminal.map(|terminal| mesos::ContainerInfo {
                r#type: mesos::container_info::Type::Mesos.into(),
                tty_info: Some(terminal),
                ..Default::default()
            }),
        }),
        ..of(call::Type::LaunchNestedContainerSession)
    }
}

fn input(part: call::AttachContainerInput) -> Call {
    Call {
        attach_container_input: Some(part),
        ..of(call::Type::AttachContainerInput)
    }
}

fn names(id: &ContainerId) -> Call {
    input(call::AttachContainerInput {
        r#type: Some(call::attach_container_input::Type::ContainerId.into()),
        container_id: Some(id.clone()),
        process_io: None,
    })
}

fn passes(io: ProcessIo) -> Call {
    input(call::AttachContainerInput {
        r#type: Some(call::attach_container_input::Type::ProcessIo.into()),
        container_id: None,
        process_io: Some(io),
    })
}

fn types(text: &str) -> Call {
    passes(ProcessIo {
        r#type: Some(process_io::Type::Data.into()),
        data: Some(Data {
            r#type: Some(data::Type::Stdin.into()),
            data: Some(text.to_owned().into()),
        }),
        control: None,
    })
}

fn window(rows: u32, columns: u32) -> TtyInfo {
    TtyInfo {
        window_size: Some(tty_info::WindowSize { rows, columns }),
    }
}

fn resizes(rows: u32, columns: u32) -> Call {
    passes(ProcessIo {
        r#type: Some(process_io::Type::Control.into()),
        data: None,
        control: Some(Control {
            r#type: Some(control::Type::TtyInfo.into()),
            tty_info: Some(window(rows, columns)),
            heartbeat: None,
        }),
    })
}

/// A stream of input.
struct Keyboard {
    pieces: Pieces,
    answer: tokio::task::JoinHandle<http::Response<Incoming>>,
    codec: Codec,
}

impl Keyboard {
    async fn attach(cluster: &Cluster, codec: Codec, first: &Call) -> Self {
        let headers = [
            ("content-type", "application/recordio"),
            ("message-content-type", codec.name()),
            ("accept", "application/json"),
        ];
        let (pieces, answer) = request(cluster, &headers).await;
        let keyboard = Self {
            pieces,
            answer: tokio::spawn(answer),
            codec,
        };
        keyboard.say(first).await;
        keyboard
    }

    async fn say(&self, call: &Call) {
        let record = recordio::frame(&self.codec.write(call));
        // The agent may have answered already.
        let _ = self.pieces.send(record.into()).await;
    }

    async fn ends(self) -> (StatusCode, String) {
        drop(self.pieces);
        text(self.answer.await.unwrap()).await
    }
}

/// A running task, and an id in its container.
async fn running(mode: Mode) -> (Cluster, ContainerId) {
    let mut cluster = Cluster::start(mode).await;
    cluster.master.launch(vec![shell("t", "sleep 1000")]).await;
    let status = cluster.master.running("t").await;
    let parent = status.container_status.unwrap().container_id;
    let id = ContainerId {
        value: "session".to_owned(),
        parent: parent.map(Box::new),
    };
    (cluster, id)
}

#[tokio::test]
async fn a_session_is_launched_fed_waited_for_and_removed() {
    for (mode, codec) in modes().into_iter().zip([Codec::Json, Codec::Protobuf]) {
        let (cluster, id) = running(mode).await;
        let command = line("echo $MESOS_TASK_ID; echo err >&2; cat; exit 5");
        let answer = send(&cluster, codec, &launch(&id, command, None)).await;
        let mut output = Output::of(answer, codec);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (kind, bytes) = output.next().await.unwrap();
            kinds.push((kind as i32, bytes));
        }
        kinds.sort();
        let expected = [(data::Type::Stdout, "t\n"), (data::Type::Stderr, "err\n")];
        assert_eq!(kinds, expected.map(|(kind, s)| (kind as i32, s.to_owned())));
        let again = send(&cluster, codec, &launch(&id, line("true"), None)).await;
        assert_eq!(text(again).await.0, StatusCode::CONFLICT);
        // As the command line of DC/OS does: one trial, and then the stream.
        let trial = Keyboard::attach(&cluster, codec, &names(&id)).await;
        assert_eq!(trial.ends().await.0, StatusCode::OK);
        let keyboard = Keyboard::attach(&cluster, codec, &names(&id)).await;
        keyboard.say(&types("typed\n")).await;
        output.sees("typed\n").await;
        let second = Keyboard::attach(&cluster, codec, &names(&id)).await;
        assert_eq!(second.ends().await.0, StatusCode::CONFLICT);
        let remove = Call {
            remove_nested_container: Some(call::RemoveNestedContainer {
                container_id: id.clone(),
            }),
            ..of(call::Type::RemoveNestedContainer)
        };
        let early = text(send(&cluster, codec, &remove).await).await;
        assert_eq!(early.0, StatusCode::INTERNAL_SERVER_ERROR, "{early:?}");
        keyboard.say(&types("")).await;
        assert_eq!(output.ends().await, "typed\n");
        assert_eq!(keyboard.ends().await.0, StatusCode::OK);
        let wait = Call {
            wait_nested_container: Some(call::WaitNestedContainer {
                container_id: id.clone(),
            }),
            ..of(call::Type::WaitNestedContainer)
        };
        let waited = text(send(&cluster, Codec::Json, &wait).await).await;
        let said: serde_json::Value = serde_json::from_str(&waited.1).unwrap();
        assert_eq!(said["type"], "WAIT_NESTED_CONTAINER");
        assert_eq!(said["wait_nested_container"]["exit_status"], 5 << 8);
        let late = Keyboard::attach(&cluster, codec, &names(&id)).await;
        assert_eq!(late.ends().await.0, StatusCode::INTERNAL_SERVER_ERROR);
        let removed = text(send(&cluster, codec, &remove).await).await;
        assert_eq!(removed.0, StatusCode::OK);
        let gone = text(send(&cluster, codec, &wait).await).await;
        assert_eq!(gone.0, StatusCode::NOT_FOUND);
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn a_terminal_is_resized_and_interrupted_and_watched_by_others() {
    for mode in modes() {
        let (cluster, id) = running(mode).await;
        let codec = Codec::Json;
        let command = line(
            "trap 'stty size' WINCH; trap 'echo interrupted; exit 3' INT; stty size; \
             while :; do sleep 0.01; done",
        );
        let start = launch(&id, command, Some(window(21, 42)));
        let mut output = Output::of(send(&cluster, codec, &start).await, codec);
        output.sees("21 42").await;
        let attach = Call {
            attach_container_output: Some(call::AttachContainerOutput {
                container_id: id.clone(),
            }),
            ..of(call::Type::AttachContainerOutput)
        };
        let mut watcher = Output::of(send(&cluster, codec, &attach).await, codec);
        let keyboard = Keyboard::attach(&cluster, codec, &names(&id)).await;
        keyboard.say(&resizes(65_535, 0)).await;
        output.sees("65535 0").await;
        watcher.sees("65535 0").await;
        // The end of the input is a key here, and nothing else.
        keyboard.say(&types("")).await;
        keyboard.say(&types("\x03")).await;
        assert!(output.ends().await.contains("interrupted"));
        assert!(watcher.ends().await.contains("interrupted"));
        assert_eq!(keyboard.ends().await.0, StatusCode::OK);
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn the_terminal_of_a_task_is_attached_to_by_the_id_of_its_container() {
    for mode in modes() {
        let codec = Codec::Json;
        let mut cluster = Cluster::start(mode).await;
        let line = "read line; echo \"told $line\"; stty size; read line; exit 6";
        let container = mesos::ContainerInfo {
            tty_info: Some(window(21, 42)),
            ..Default::default()
        };
        let task = support::contained(shell("t", line), container);
        let plain = shell("plain", "sleep 1000");
        cluster.master.launch(vec![task, plain]).await;
        let id_of = |status: mesos::TaskStatus| status.container_status.unwrap().container_id;
        let id = id_of(cluster.master.running("t").await).unwrap();
        let plain = id_of(cluster.master.running("plain").await).unwrap();
        let watch = |id: &ContainerId| Call {
            attach_container_output: Some(call::AttachContainerOutput {
                container_id: id.clone(),
            }),
            ..of(call::Type::AttachContainerOutput)
        };
        let mut output = Output::of(send(&cluster, codec, &watch(&id)).await, codec);
        let keyboard = Keyboard::attach(&cluster, codec, &names(&id)).await;
        keyboard.say(&resizes(7, 8)).await;
        keyboard.say(&types("a line\n")).await;
        output.sees("told a line\r\n7 8\r\n").await;
        let second = Keyboard::attach(&cluster, codec, &names(&id)).await;
        assert_eq!(second.ends().await.0, StatusCode::CONFLICT);
        // The end of the stream is nothing that the task hears of, and another may go on.
        assert_eq!(keyboard.ends().await.0, StatusCode::OK);
        let keyboard = Keyboard::attach(&cluster, codec, &names(&id)).await;
        keyboard.say(&types("\n")).await;
        output.ends().await;
        assert_eq!(keyboard.ends().await.0, StatusCode::OK);
        let end = cluster.master.end("t").await;
        assert_eq!(end.exit.as_ref().unwrap().code, Some(6), "{end:?}");
        let refused = text(send(&cluster, codec, &watch(&plain)).await).await;
        assert_eq!(refused.0, StatusCode::BAD_REQUEST);
        assert!(refused.1.contains("tty_info"), "{refused:?}");
        let refused = Keyboard::attach(&cluster, codec, &names(&plain)).await;
        assert_eq!(refused.ends().await.0, StatusCode::BAD_REQUEST);
        cluster.agent.stop().await;
    }
}

fn launch_alone(id: &ContainerId, command: mesos::CommandInfo) -> Call {
    Call {
        launch_nested_container: Some(call::LaunchNestedContainer {
            container_id: id.clone(),
            command: Some(command),
            container: None,
        }),
        ..of(call::Type::LaunchNestedContainer)
    }
}

fn wait(id: &ContainerId) -> Call {
    Call {
        wait_nested_container: Some(call::WaitNestedContainer {
            container_id: id.clone(),
        }),
        ..of(call::Type::WaitNestedContainer)
    }
}

fn remove(id: &ContainerId) -> Call {
    Call {
        remove_nested_container: Some(call::RemoveNestedContainer {
            container_id: id.clone(),
        }),
        ..of(call::Type::RemoveNestedContainer)
    }
}

/// The wait status in an answer.
async fn waited(answer: http::Response<Incoming>) -> i64 {
    let (status, body) = text(answer).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let said: serde_json::Value = serde_json::from_str(&body).unwrap();
    said["wait_nested_container"]["exit_status"]
        .as_i64()
        .unwrap()
}

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
            text(send(&cluster, codec, &start).await).await.0,
            StatusCode::OK
        );
        let again = text(send(&cluster, codec, &start).await).await;
        assert_eq!(again.0, StatusCode::ACCEPTED);
        let sandbox = cluster.sandbox("t").canonicalize().unwrap();
        let own = sandbox.join("containers/session");
        let said = || std::fs::read_to_string(own.join("stdout")).unwrap();
        let expected = format!("t\n{}\n", own.display());
        until("it wrote", || said() == expected).await;
        let early = text(send(&cluster, codec, &remove(&id)).await).await;
        assert_eq!(early.0, StatusCode::INTERNAL_SERVER_ERROR, "{early:?}");
        std::fs::write(own.join("go"), "").unwrap();
        let status = waited(send(&cluster, codec, &wait(&id)).await).await;
        assert_eq!(status, 5 << 8);
        assert_eq!(std::fs::read(own.join("stderr")).unwrap(), b"err\n");
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        assert_eq!(
            text(send(&cluster, codec, &remove(&id)).await).await.0,
            StatusCode::OK
        );
        assert!(!own.exists());
        let gone = text(send(&cluster, codec, &wait(&id)).await).await;
        assert_eq!(gone.0, StatusCode::NOT_FOUND);
        // Killed, and what it began with it.
        let command = line(&format!("export MARK={mark}; sleep 1000 & exec sleep 1000"));
        let start = launch_alone(&id, command);
        assert_eq!(
            text(send(&cluster, codec, &start).await).await.0,
            StatusCode::OK
        );
        let kill = Call {
            kill_nested_container: Some(call::KillNestedContainer {
                container_id: id.clone(),
                signal: None,
            }),
            ..of(call::Type::KillNestedContainer)
        };
        assert_eq!(
            text(send(&cluster, codec, &kill).await).await.0,
            StatusCode::OK
        );
        assert_eq!(waited(send(&cluster, codec, &wait(&id)).await).await, 9);
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
            executor: Some(executor),
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
        let started = text(send(&cluster, codec, &start).await).await;
        assert_eq!(started.0, StatusCode::OK, "{started:?}");
        assert_eq!(
            waited(send(&cluster, Codec::Json, &wait(&id)).await).await,
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

#[tokio::test]
async fn a_session_ends_with_its_connection_or_when_it_is_killed() {
    for mode in modes() {
        let (cluster, id) = running(mode).await;
        let mark = uuid::Uuid::new_v4().to_string();
        let command = || {
            line(&format!(
                "export MARK={mark}; (setsid sleep 1000 &); echo up; exec sleep 1000"
            ))
        };
        let start = launch(&id, command(), None);
        let mut output = Output::of(send(&cluster, Codec::Json, &start).await, Codec::Json);
        output.sees("up").await;
        drop(output);
        until("it is gone", || marked_processes(&mark).is_empty()).await;
        let id = ContainerId {
            value: "another".to_owned(),
            ..id
        };
        let start = launch(&id, command(), None);
        let mut output = Output::of(send(&cluster, Codec::Json, &start).await, Codec::Json);
        output.sees("up").await;
        let kill = |signal| Call {
            kill_nested_container: Some(call::KillNestedContainer {
                container_id: id.clone(),
                signal,
            }),
            ..of(call::Type::KillNestedContainer)
        };
        let other = text(send(&cluster, Codec::Json, &kill(Some(15))).await).await;
        assert_eq!(other.0, StatusCode::BAD_REQUEST);
        let killed = text(send(&cluster, Codec::Json, &kill(None)).await).await;
        assert_eq!(killed.0, StatusCode::OK);
        output.ends().await;
        until("it is gone", || marked_processes(&mark).is_empty()).await;
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_the_agent_goes_on() {
    let (cluster, id) = running(Mode::Plain).await;
    let post = async |headers: &[(&str, &str)], body: &[u8]| {
        let (pieces, answer) = request(&cluster, headers).await;
        pieces.send(Bytes::copy_from_slice(body)).await.unwrap();
        drop(pieces);
        text(answer.await).await
    };
    let json = [("content-type", "application/json")];
    let records = [
        ("content-type", "application/recordio"),
        ("message-content-type", "application/json"),
    ];
    let framed = |call: &Call| recordio::frame(&json::encode(call));
    let other = |value: &str| ContainerId {
        value: value.to_owned(),
        ..id.clone()
    };
    let orphan = ContainerId {
        value: "x".to_owned(),
        parent: None,
    };
    let stranger = ContainerId {
        value: "x".to_owned(),
        parent: Some(Box::new(ContainerId {
            value: uuid::Uuid::new_v4().to_string(),
            parent: None,
        })),
    };
    let bare = |id: &ContainerId| json::encode(&launch(id, line("true"), None));
    let mut commandless = launch(&id, line("true"), None);
    commandless
        .launch_nested_container_session
        .as_mut()
        .unwrap()
        .command = None;
    let missing = launch(
        &id,
        mesos::CommandInfo {
            shell: Some(false),
            value: Some("/no/such/program".to_owned()),
            ..Default::default()
        },
        None,
    );
    let nobody = launch(
        &id,
        mesos::CommandInfo {
            user: Some("nobody".to_owned()),
            ..line("id")
        },
        None,
    );
    let huge = launch(&id, line("true"), Some(window(65_536, 1)));
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, u16, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (&[], b"{}".to_vec(), 400, "Content-Type"),
        (
            &[("content-type", "text/plain")],
            b"{}".to_vec(),
            415,
            "text/plain",
        ),
        (&json, b"{".to_vec(), 400, "JSON"),
        (&json, b"{}".to_vec(), 501, "programs"),
        (&json, br#"{"type":"GET_FLAGS"}"#.to_vec(), 501, "programs"),
        (
            &json,
            br#"{"type":"KILL_NESTED_CONTAINER"}"#.to_vec(),
            400,
            "kill_nested_container",
        ),
        (&json, json::encode(&names(&id)), 415, "recordio"),
        (
            &[
                ("content-type", "application/json"),
                ("accept", "text/html"),
            ],
            bare(&id),
            406,
            "text/html",
        ),
        (&json, bare(&orphan), 400, "parent"),
        (&json, bare(&stranger), 404, "container"),
        (&json, bare(&other("a/b")), 400, "a/b"),
        (&json, bare(&other("")), 400, "no container id"),
        (&json, json::encode(&commandless), 400, "command"),
        (&json, json::encode(&missing), 400, "/no/such/program"),
        (&json, json::encode(&nobody), 403, "nobody"),
        (&json, json::encode(&huge), 400, "65536"),
        (
            &records[..1],
            framed(&names(&id)),
            400,
            "Message-Content-Type",
        ),
        (&records, b"".to_vec(), 400, "ended before"),
        (
            &records,
            b"garbage that is no record".to_vec(),
            400,
            "length",
        ),
        (&records, b"99999999999\n".to_vec(), 400, "99999999999"),
        (&records, b"2\n{}".to_vec(), 400, "ATTACH_CONTAINER_INPUT"),
        (&records, framed(&types("x")), 400, "CONTAINER_ID"),
        (&records, framed(&names(&id)), 404, "session"),
    ];
    for (headers, body, status, why) in cases {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let (found, text) = post(headers, &body).await;
        assert_eq!(found.as_u16(), status, "{shown}: {text}");
        assert!(text.contains(why), "{shown}: {text}");
    }
    // Nothing of all that holds the id.
    let answer = send(&cluster, Codec::Json, &launch(&id, line("echo fine"), None)).await;
    assert_eq!(Output::of(answer, Codec::Json).ends().await, "fine\n");
    cluster.agent.stop().await;
}
