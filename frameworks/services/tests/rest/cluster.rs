//! The real master, scripted agents and plain HTTP for the tests of this folder and its neighbour.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::Duration;

use allotment_proto::allot::agent_client::AgentClient;
use allotment_proto::allot::{self, agent_message, master_message};
use allotment_proto::{convert, mesos};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) async fn master(folder: &Path, port: u16) -> allotment_master::Running {
    let config = allotment_master::Config {
        listen: ([127, 0, 0, 1], port).into(),
        data_dir: folder.to_owned(),
        ..allotment_master::Config::default()
    };
    allotment_master::start(config).await.unwrap()
}

pub(crate) fn config(master: &str) -> allotment_services::Config {
    allotment_services::Config {
        master: master.to_owned(),
        port: 0,
        ..allotment_services::Config::default()
    }
}

pub(crate) async fn services(master: &str) -> allotment_services::Running {
    allotment_services::start(config(master)).await.unwrap()
}

/// An agent that does as it is told, without processes. Ends with its stream.
pub(crate) async fn agent(master: &str, resources: &str) -> tokio::task::JoinHandle<()> {
    let (say, said) = mpsc::channel(1024);
    let endpoint = tonic::transport::Endpoint::from_shared(master.to_owned()).unwrap();
    let mut client = AgentClient::new(endpoint.connect().await.unwrap());
    let register = allot::Register {
        agent: mesos::AgentInfo {
            hostname: "scripted".to_owned(),
            resources: convert::resources_to_wire(&resources.parse().unwrap(), None),
            ..Default::default()
        },
        url: "http://127.0.0.1:5051".to_owned(),
        version: allotment_proto::VERSION.to_owned(),
        boot_id: "boot".to_owned(),
        ..Default::default()
    };
    let send = async |message| {
        let message = Some(message);
        say.send(allot::AgentMessage { message }).await.unwrap();
    };
    send(agent_message::Message::Register(register)).await;
    let mut hear = client
        .connect(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    let first = hear.message().await.unwrap().unwrap().message.unwrap();
    let master_message::Message::Registered(registered) = first else {
        panic!("not registered but {first:?}");
    };
    tokio::spawn(async move {
        let mut n = 0_u64;
        let mut update = |framework: &mesos::FrameworkId, task: &mesos::TaskId, state| {
            n += 1;
            agent_message::Message::Update(allot::StatusUpdate {
                framework_id: framework.clone(),
                status: mesos::TaskStatus {
                    task_id: task.clone(),
                    state: i32::from(state),
                    agent_id: Some(registered.agent_id.clone()),
                    source: Some(mesos::task_status::Source::Agent.into()),
                    uuid: Some(u128::from(n).to_be_bytes().to_vec().into()),
                    timestamp: Some(1.0),
                    ..Default::default()
                },
                latest_state: i32::from(state),
            })
        };
        while let Ok(Some(heard)) = hear.message().await {
            let mut answers = Vec::new();
            match heard.message {
                Some(master_message::Message::Launch(launch)) => {
                    let framework = launch.framework.id.clone().unwrap();
                    for task in &launch.tasks {
                        let running = mesos::TaskState::TaskRunning;
                        answers.push(update(&framework, &task.task_id, running));
                    }
                }
                Some(master_message::Message::Kill(kill)) => {
                    let killed = mesos::TaskState::TaskKilled;
                    answers.push(update(&kill.framework_id, &kill.task_id, killed));
                }
                Some(master_message::Message::Ping(ping)) => {
                    let sequence = ping.sequence;
                    answers.push(agent_message::Message::Pong(allot::Pong { sequence }));
                }
                _ => {}
            }
            for message in answers {
                let message = Some(message);
                if say.send(allot::AgentMessage { message }).await.is_err() {
                    return;
                }
            }
        }
    })
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One HTTP/1.1 exchange, byte by byte as told: no client library tidies the request up.
pub(crate) async fn raw(url: &str, request: &[u8]) -> Reply {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    // A server that refuses a large body closes while it is still being sent.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = headers.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    Reply {
        status,
        headers: headers.to_owned(),
        text: body.to_owned(),
    }
}

pub(crate) async fn ask(url: &str, method: &str, target: &str, body: &str) -> Reply {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    raw(url, request.as_bytes()).await
}

/// Asks until the answer is as wanted; a cluster changes in its own time.
pub(crate) async fn until(url: &str, target: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    for _ in 0..2000 {
        let reply = ask(url, "GET", target, "").await;
        if wanted(&reply) {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let last = ask(url, "GET", target, "").await;
    panic!(
        "{target} never became as wanted: {} {}",
        last.status, last.text
    );
}

pub(crate) async fn ready(url: &str) {
    until(url, "/metrics", |r| {
        r.text.contains("\nservices_connected 1\n")
    })
    .await;
}
