//! Sessions as Mesos' clients start, feed and watch them: over `POST /api/v1` of the agent.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/agent_api.rs"]
mod agent_api;
mod support;

use agent_api::{Codec, Pieces, line, of, request, running, send, text};
use allotment_proto::agent::process_io::{Control, Data, control, data};
use allotment_proto::agent::{Call, ProcessIo, call, process_io};
use allotment_proto::mesos::{self, ContainerId, TtyInfo, tty_info};
use allotment_proto::{json, recordio};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use support::{Cluster, Mode, marked_processes, modes, shell, until};

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
        let (pieces, answer) = request(cluster.agent.url(), &headers).await;
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

#[tokio::test]
async fn a_session_is_launched_fed_waited_for_and_removed() {
    for (mode, codec) in modes().into_iter().zip([Codec::Json, Codec::Protobuf]) {
        let (cluster, id) = running(mode).await;
        let command = line("echo $MESOS_TASK_ID; echo err >&2; cat; exit 5");
        let answer = send(cluster.agent.url(), codec, &launch(&id, command, None)).await;
        let mut output = Output::of(answer, codec);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (kind, bytes) = output.next().await.unwrap();
            kinds.push((kind as i32, bytes));
        }
        kinds.sort();
        let expected = [(data::Type::Stdout, "t\n"), (data::Type::Stderr, "err\n")];
        assert_eq!(kinds, expected.map(|(kind, s)| (kind as i32, s.to_owned())));
        let again = send(cluster.agent.url(), codec, &launch(&id, line("true"), None)).await;
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
        let early = text(send(cluster.agent.url(), codec, &remove).await).await;
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
        let waited = text(send(cluster.agent.url(), Codec::Json, &wait).await).await;
        let said: serde_json::Value = serde_json::from_str(&waited.1).unwrap();
        assert_eq!(said["type"], "WAIT_NESTED_CONTAINER");
        assert_eq!(said["wait_nested_container"]["exit_status"], 5 << 8);
        let late = Keyboard::attach(&cluster, codec, &names(&id)).await;
        assert_eq!(late.ends().await.0, StatusCode::INTERNAL_SERVER_ERROR);
        let removed = text(send(cluster.agent.url(), codec, &remove).await).await;
        assert_eq!(removed.0, StatusCode::OK);
        let gone = text(send(cluster.agent.url(), codec, &wait).await).await;
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
        let mut output = Output::of(send(cluster.agent.url(), codec, &start).await, codec);
        output.sees("21 42").await;
        let attach = Call {
            attach_container_output: Some(call::AttachContainerOutput {
                container_id: id.clone(),
            }),
            ..of(call::Type::AttachContainerOutput)
        };
        let mut watcher = Output::of(send(cluster.agent.url(), codec, &attach).await, codec);
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
        let mut output = Output::of(send(cluster.agent.url(), codec, &watch(&id)).await, codec);
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
        let refused = text(send(cluster.agent.url(), codec, &watch(&plain)).await).await;
        assert_eq!(refused.0, StatusCode::BAD_REQUEST);
        assert!(refused.1.contains("tty_info"), "{refused:?}");
        let refused = Keyboard::attach(&cluster, codec, &names(&plain)).await;
        assert_eq!(refused.ends().await.0, StatusCode::BAD_REQUEST);
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
        let mut output = Output::of(
            send(cluster.agent.url(), Codec::Json, &start).await,
            Codec::Json,
        );
        output.sees("up").await;
        drop(output);
        until("it is gone", || marked_processes(&mark).is_empty()).await;
        let id = ContainerId {
            value: "another".to_owned(),
            ..id
        };
        let start = launch(&id, command(), None);
        let mut output = Output::of(
            send(cluster.agent.url(), Codec::Json, &start).await,
            Codec::Json,
        );
        output.sees("up").await;
        let kill = |signal| Call {
            kill_nested_container: Some(call::KillNestedContainer {
                container_id: id.clone(),
                signal,
            }),
            ..of(call::Type::KillNestedContainer)
        };
        let other = text(send(cluster.agent.url(), Codec::Json, &kill(Some(15))).await).await;
        assert_eq!(other.0, StatusCode::BAD_REQUEST);
        let killed = text(send(cluster.agent.url(), Codec::Json, &kill(None)).await).await;
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
        let (pieces, answer) = request(cluster.agent.url(), headers).await;
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
    let answer = send(
        cluster.agent.url(),
        Codec::Json,
        &launch(&id, line("echo fine"), None),
    )
    .await;
    assert_eq!(Output::of(answer, Codec::Json).ends().await, "fine\n");
    cluster.agent.stop().await;
}
