//! The edge over real sockets: a raw gRPC client plays frameworks, and a fake agent (it runs
//! nothing; it only says that it does) registers over the wire. One test kills a master's
//! process with SIGKILL and starts another on the same folder.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use allotment_master::{Config, Running, StartError, start};
use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::{Call, Event, call, event};
use allotment_proto::{allot, convert};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// Long enough for a slow machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(folder: &Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.to_owned(),
        ..Config::default()
    }
}

async fn channel(url: &str) -> Channel {
    let endpoint = Channel::from_shared(url.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

async fn unary<Q, A>(channel: &Channel, method: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), path, codec).await;
    answer.map(tonic::Response::into_inner)
}

async fn server_stream<Q, A>(channel: &Channel, method: &'static str, request: Q) -> Streaming<A>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let codec = ProstCodec::<Q, A>::default();
    let request = tonic::Request::new(request);
    grpc.server_streaming(request, path, codec)
        .await
        .unwrap()
        .into_inner()
}

/// Both directions of one stream.
struct Duplex<Q, A> {
    to: mpsc::Sender<Q>,
    from: Streaming<A>,
}

impl<Q, A> Duplex<Q, A>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    async fn open(channel: &Channel, method: &'static str) -> Self {
        let (to, queue) = mpsc::channel(16);
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(method);
        let request = tonic::Request::new(ReceiverStream::new(queue));
        let codec = ProstCodec::<Q, A>::default();
        let from = grpc.streaming(request, path, codec).await.unwrap();
        let from = from.into_inner();
        Self { to, from }
    }

    async fn says(&self, message: Q) {
        self.to.send(message).await.unwrap();
    }

    async fn hears(&mut self) -> Result<Option<A>, Status> {
        let heard = tokio::time::timeout(PATIENCE, self.from.message()).await;
        heard.expect("the master says something in time")
    }

    async fn hears_the_end(&mut self) -> Status {
        loop {
            match self.hears().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}

type Framework = Duplex<Call, Event>;
type Agent = Duplex<allot::AgentMessage, allot::MasterMessage>;

async fn framework(channel: &Channel, id: Option<&str>) -> (Framework, String) {
    let mut stream = Framework::open(channel, "/allot.v1.Scheduler/Connect").await;
    let id = id.map(|value| mesos::FrameworkId {
        value: value.to_owned(),
    });
    let subscribe = call::Subscribe {
        framework_info: mesos::FrameworkInfo {
            user: "nobody".to_owned(),
            name: "web".to_owned(),
            failover_timeout: Some(3600.0),
            id: id.clone(),
            ..Default::default()
        },
        ..Default::default()
    };
    let call = Call {
        framework_id: id,
        r#type: Some(call::Type::Subscribe.into()),
        subscribe: Some(Box::new(subscribe)),
        ..Default::default()
    };
    stream.says(call).await;
    let first = stream.hears().await.unwrap().unwrap();
    let id = first.subscribed.unwrap().framework_id.value;
    (stream, id)
}

impl Framework {
    async fn hears_a(&mut self, kind: event::Type) -> Event {
        loop {
            let event = self.hears().await.unwrap().unwrap();
            if event.r#type() == kind {
                return event;
            }
        }
    }

    async fn offer(&mut self) -> mesos::Offer {
        let event = self.hears_a(event::Type::Offers).await;
        event.offers.unwrap().offers.remove(0)
    }

    async fn update(&mut self) -> mesos::TaskStatus {
        self.hears_a(event::Type::Update)
            .await
            .update
            .unwrap()
            .status
    }

    async fn acknowledges(&self, status: &mesos::TaskStatus) {
        self.says(Call {
            r#type: Some(call::Type::Acknowledge.into()),
            acknowledge: Some(call::Acknowledge {
                agent_id: status.agent_id.clone().unwrap(),
                task_id: status.task_id.clone(),
                uuid: status.uuid.clone().unwrap(),
            }),
            ..Default::default()
        })
        .await;
    }

    async fn launches(&self, id: &str, offer: &mesos::Offer) -> mesos::TaskInfo {
        let task = mesos::TaskInfo {
            name: id.to_owned(),
            task_id: mesos::TaskId {
                value: id.to_owned(),
            },
            agent_id: offer.agent_id.clone(),
            resources: convert::resources_to_wire(&"cpus:1; mem:32".parse().unwrap(), None),
            command: Some(mesos::CommandInfo {
                value: Some("true".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let launch = mesos::offer::operation::Launch {
            task_infos: vec![task.clone()],
        };
        self.says(Call {
            r#type: Some(call::Type::Accept.into()),
            accept: Some(call::Accept {
                offer_ids: vec![offer.id.clone()],
                operations: vec![mesos::offer::Operation {
                    r#type: Some(mesos::offer::operation::Type::Launch.into()),
                    launch: Some(launch),
                    ..Default::default()
                }],
                filters: None,
            }),
            ..Default::default()
        })
        .await;
        task
    }
}

fn registration() -> allot::Register {
    allot::Register {
        agent: mesos::AgentInfo {
            hostname: "fake".to_owned(),
            resources: convert::resources_to_wire(&"cpus:4; mem:1024".parse().unwrap(), None),
            ..Default::default()
        },
        url: "http://127.0.0.1:5051".to_owned(),
        version: "0.1.0".to_owned(),
        boot_id: "boot".to_owned(),
        ..Default::default()
    }
}

async fn agent(channel: &Channel, register: allot::Register) -> (Agent, String) {
    let mut stream = Agent::open(channel, "/allot.v1.Agent/Connect").await;
    stream
        .says(allot::AgentMessage {
            message: Some(Says::Register(register)),
        })
        .await;
    let first = stream.hears().await.unwrap().unwrap().message.unwrap();
    let Message::Registered(registered) = first else {
        panic!("{first:?}");
    };
    (stream, registered.agent_id.value)
}

impl Agent {
    async fn hears_message(&mut self) -> Message {
        self.hears().await.unwrap().unwrap().message.unwrap()
    }

    async fn reports(&self, framework: &str, agent: &str, task: &str, state: TaskState) {
        let status = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: task.to_owned(),
            },
            state: state.into(),
            agent_id: Some(mesos::AgentId {
                value: agent.to_owned(),
            }),
            uuid: Some(vec![state as u8; 16].into()),
            ..Default::default()
        };
        let update = allot::StatusUpdate {
            framework_id: mesos::FrameworkId {
                value: framework.to_owned(),
            },
            status,
            latest_state: state.into(),
        };
        self.says(allot::AgentMessage {
            message: Some(Says::Update(update)),
        })
        .await;
    }
}

async fn tasks(channel: &Channel, ended: bool) -> Vec<(String, String)> {
    let request = allot::ListTasksRequest {
        ended,
        ..Default::default()
    };
    let method = "/allot.v1.Operator/ListTasks";
    let answer: allot::ListTasksResponse = unary(channel, method, request).await.unwrap();
    let tasks = answer.tasks.into_iter();
    tasks.map(|task| (task.id, task.state)).collect()
}

#[tokio::test]
async fn a_task_goes_from_offer_to_acknowledged_end_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let master = start(config(folder.path())).await.unwrap();
    let channel = channel(master.url()).await;
    let mut watch: Streaming<allot::ClusterEvent> = server_stream(
        &channel,
        "/allot.v1.Operator/Events",
        allot::EventsRequest {
            replay: true,
            follow: None,
        },
    )
    .await;
    let (mut agent, agent_id) = agent(&channel, registration()).await;
    let (mut fw, fw_id) = framework(&channel, None).await;
    let offer = fw.offer().await;
    assert_eq!(offer.agent_id.value, agent_id);
    fw.launches("t", &offer).await;
    let Message::Launch(launch) = agent.hears_message().await else {
        panic!("no launch");
    };
    assert_eq!(launch.framework.id.unwrap().value, fw_id);
    for state in [TaskState::TaskRunning, TaskState::TaskFinished] {
        agent.reports(&fw_id, &agent_id, "t", state).await;
        let status = fw.update().await;
        assert_eq!(status.state(), state);
        fw.acknowledges(&status).await;
        let Message::Acknowledge(ack) = agent.hears_message().await else {
            panic!("no acknowledgement");
        };
        assert_eq!(ack.uuid, status.uuid.unwrap());
    }
    let ended = ("t".to_owned(), "TASK_FINISHED".to_owned());
    assert_eq!(tasks(&channel, false).await, []);
    assert_eq!(tasks(&channel, true).await, [ended]);
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "task-finished") {
        kinds.push(watch.message().await.unwrap().unwrap().kind);
    }
    // How offers are summed up depends on the time that passes.
    let offers = kinds.extract_if(.., |kind| kind.starts_with("offer-"));
    assert_eq!(offers.take(1).collect::<Vec<_>>(), ["offer-sent"]);
    kinds.retain(|kind| !kind.starts_with("offer-"));
    assert_eq!(
        kinds,
        [
            "master-started",
            "agent-registered",
            "framework-subscribed",
            "task-staging",
            "task-running",
            "task-finished"
        ]
    );
    master.stop().await;
    // A clean stop ends every stream with a reason.
    assert_eq!(fw.hears_the_end().await.code(), Code::Unavailable);
    assert_eq!(agent.hears_the_end().await.code(), Code::Unavailable);
}

/// Not a test by itself: the master's process of the next one, which runs this test binary
/// anew with a folder in the environment.
#[test]
fn master_process_for_the_test_that_kills_it() {
    let Some(folder) = std::env::var_os("ALLOT_TEST_MASTER") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut master = start(config(Path::new(&folder))).await.unwrap();
        println!("\nserving {}", master.url());
        panic!("{}", master.wait().await);
    });
}

struct MasterProcess {
    child: Child,
    url: String,
}

impl MasterProcess {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("master_process_for_the_test_that_kills_it")
            .env("ALLOT_TEST_MASTER", folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(str::to_owned))
            .expect("the master serves");
        Self { child, url }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for MasterProcess {
    fn drop(&mut self) {
        // Already dead unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn after_sigkill_another_master_on_the_same_folder_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = MasterProcess::start(folder.path());
    let old = channel(&first.url).await;
    let (mut agent_stream, agent_id) = agent(&old, registration()).await;
    let (mut fw, fw_id) = framework(&old, None).await;
    let offer = fw.offer().await;
    let mut task = fw.launches("t", &offer).await;
    agent_stream.hears_message().await;
    let commit = |expected| allot::StoreCommitRequest {
        namespace: "web".to_owned(),
        operations: vec![allot::StoreOperation {
            key: "k".to_owned(),
            value: Some("v".into()),
            expected_version: Some(expected),
            lease_ms: None,
        }],
    };
    let method = "/allot.v1.Store/Commit";
    let answer: allot::StoreCommitResponse = unary(&old, method, commit(0)).await.unwrap();
    first.kill();

    let second = MasterProcess::start(folder.path());
    let channel = channel(&second.url).await;
    let conflict = unary::<_, allot::StoreCommitResponse>(&channel, method, commit(0)).await;
    assert_eq!(conflict.unwrap_err().code(), Code::Aborted);
    let entries = server_stream::<_, allot::StoreEntry>(
        &channel,
        "/allot.v1.Store/List",
        allot::StoreListRequest {
            namespace: "web".to_owned(),
            prefix: String::new(),
        },
    );
    let entry = entries.await.message().await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.version),
        (&b"v"[..], answer.version)
    );

    let (mut fw, same_id) = framework(&channel, Some(&fw_id)).await;
    assert_eq!(same_id, fw_id);
    let mut register = registration();
    register.agent.id = Some(mesos::AgentId {
        value: agent_id.clone(),
    });
    task.name = "t".to_owned();
    register.tasks = vec![allot::TaskRecord {
        framework_id: mesos::FrameworkId {
            value: fw_id.clone(),
        },
        task,
        state: TaskState::TaskRunning.into(),
    }];
    register.frameworks = vec![mesos::FrameworkInfo {
        user: "nobody".to_owned(),
        name: "web".to_owned(),
        id: Some(mesos::FrameworkId {
            value: fw_id.clone(),
        }),
        ..Default::default()
    }];
    let (agent_stream, same_agent) = agent(&channel, register).await;
    assert_eq!(same_agent, agent_id);
    assert_eq!(
        tasks(&channel, false).await,
        [("t".to_owned(), "TASK_RUNNING".to_owned())]
    );
    agent_stream
        .reports(&fw_id, &agent_id, "t", TaskState::TaskFinished)
        .await;
    assert_eq!(fw.update().await.state(), TaskState::TaskFinished);
}

async fn refused(config: Config) -> StartError {
    match start(config).await {
        Ok(Running { .. }) => panic!("the master started"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_master_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let master = start(config(folder.path())).await.unwrap();
    let error = refused(config(folder.path())).await.to_string();
    let name = folder.path().to_string_lossy().into_owned();
    assert!(
        error.contains(&name) && error.contains("another master"),
        "{error}"
    );
    framework(&channel(master.url()).await, None).await;
    master.stop().await;
    start(config(folder.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_taken_port_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = refused(Config {
        listen,
        ..config(folder.path())
    })
    .await
    .to_string();
    assert!(error.contains(&listen.to_string()), "{error}");
}

/// The files of the registry whose names begin so.
fn files_of_the_log(folder: &Path, kind: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(folder.join("raft")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    all.filter(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(kind)
    })
    .collect()
}

#[tokio::test]
async fn a_damaged_registry_is_refused_by_name_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let master = start(config(folder.path())).await.unwrap();
    framework(&channel(master.url()).await, None).await;
    master.stop().await;
    for kind in ["log-", "snapshot-"] {
        let file = &files_of_the_log(folder.path(), kind)[0];
        let whole = std::fs::read(file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let garbage = b"not a registry".repeat(1000);
        for bytes in [flipped, garbage, whole[..10].to_vec()] {
            std::fs::write(file, &bytes).unwrap();
            let error = anyhow::Error::from(refused(config(folder.path())).await);
            let error = format!("{error:#}");
            assert!(error.contains(kind) && error.contains("damaged"), "{error}");
            assert_eq!(std::fs::read(file).unwrap(), bytes);
        }
        std::fs::write(file, whole).unwrap();
    }
    start(config(folder.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_tail_that_a_crash_tore_is_cut_and_the_rest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let master = start(config(folder.path())).await.unwrap();
    let (_, id) = framework(&channel(master.url()).await, None).await;
    master.stop().await;
    let file = &files_of_the_log(folder.path(), "log-")[0];
    let mut torn = std::fs::read(file).unwrap();
    torn.extend_from_slice(b"aBlk\x00\x10\x00\x00 what was being written");
    std::fs::write(file, torn).unwrap();
    let master = start(config(folder.path())).await.unwrap();
    // It is known, and so may come back under its id.
    let (_, again) = framework(&channel(master.url()).await, Some(&id)).await;
    assert_eq!(again, id);
    master.stop().await;
}

#[tokio::test]
async fn an_unusable_folder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refused(config(&file)).await.to_string();
    assert!(error.contains("file"), "{error}");
}

async fn get(url: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

#[tokio::test]
async fn the_same_port_speaks_http_one() {
    let folder = tempfile::tempdir().unwrap();
    let master = start(config(folder.path())).await.unwrap();
    let _session = agent(&channel(master.url()).await, registration()).await;
    let (code, metrics) = get(master.url(), "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "master_elected 1.0",
        "master_slaves_active 1.0",
        "master_cpus_total 4.0",
        "master_slave_registrations_total 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert_eq!(get(master.url(), "/health").await.0, 200);
    assert!(get(master.url(), "/version").await.1.contains("0.1.0"));
    assert_eq!(get(master.url(), "/nothing%zz/../..").await.0, 404);
    master.stop().await;
}
