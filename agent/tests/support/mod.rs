//! A master that does as the test says, over the real wire, and an agent registered with it.
//!
//! It stands in for the real master so that a test can launch one task and see every update,
//! without offers and frameworks in between; the real one meets this agent in the tests of `cli`.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use allotment_agent::{Config, Isolation, LauncherCommand, Running};
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::agent_server::{Agent, AgentServer};
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::allot::sandbox_client::SandboxClient;
use allotment_proto::convert::{is_terminal, resources_to_wire};
use allotment_proto::mesos::{TaskInfo, TaskState, TaskStatus};
use allotment_proto::session::{HEIR, LEADER, SPREAD};
use allotment_proto::{allot, mesos};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

pub const FRAMEWORK: &str = "fw-0001";
pub const AGENT: &str = "test-S0";
/// Far more than anything takes; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

type Outgoing = mpsc::Sender<Result<allot::MasterMessage, Status>>;

#[derive(Clone)]
struct Door {
    said: mpsc::UnboundedSender<Said>,
    session: Arc<Mutex<Option<Outgoing>>>,
    heir: Arc<Mutex<Option<String>>>,
    leader: Arc<Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl Agent for Door {
    type ConnectStream = ReceiverStream<Result<allot::MasterMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<allot::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if let Some(leader) = &*self.leader.lock().unwrap() {
            let mut status = Status::failed_precondition("this master does not lead");
            let leader = leader.parse().unwrap();
            status.metadata_mut().insert(LEADER, leader);
            return Err(status);
        }
        let mut messages = request.into_inner();
        let (outgoing, stream) = mpsc::channel(1024);
        let this = outgoing.downgrade();
        *self.session.lock().unwrap() = Some(outgoing);
        let (said, session) = (self.said.clone(), Arc::clone(&self.session));
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let _ = said.send(message.message.expect("a known message"));
            }
            let mut session = session.lock().expect("no test panicked");
            let this = this.upgrade();
            session.take_if(|current| this.is_some_and(|this| current.same_channel(&this)));
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        if let Some(heir) = &*self.heir.lock().unwrap() {
            let metadata = response.metadata_mut();
            metadata.insert(HEIR, heir.parse().unwrap());
            metadata.insert(SPREAD, "0".parse().unwrap());
        }
        Ok(response)
    }
}

/// The master and what it heard.
pub struct Master {
    said: mpsc::UnboundedReceiver<Said>,
    session: Arc<Mutex<Option<Outgoing>>>,
    updates: BTreeMap<String, VecDeque<TaskStatus>>,
    /// What it heard of executors.
    of_executors: VecDeque<Said>,
    pub url: String,
    heir: Arc<Mutex<Option<String>>>,
    leader: Arc<Mutex<Option<String>>>,
    /// Acknowledge every update at once.
    pub acknowledges: bool,
}

impl Master {
    pub async fn start() -> Self {
        Self::start_with(Routes::default()).await
    }

    /// One that answers more than agents ask of it once they are connected.
    pub async fn start_with(routes: Routes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (said_in, said) = mpsc::unbounded_channel();
        let (session, heir, leader) = (Arc::default(), Arc::default(), Arc::default());
        let door = Door {
            said: said_in,
            session: Arc::clone(&session),
            heir: Arc::clone(&heir),
            leader: Arc::clone(&leader),
        };
        let routes = routes.add_service(AgentServer::new(door));
        let server = tonic::transport::Server::builder().add_routes(routes);
        // As the real master: small messages do not wait for each other.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(server.serve_with_incoming(incoming));
        Self {
            said,
            session,
            updates: BTreeMap::new(),
            of_executors: VecDeque::new(),
            url,
            heir,
            leader,
            acknowledges: true,
        }
    }

    /// From now on agents hear whose turn it is when this master is lost.
    pub fn name_heir(&self, url: &str) {
        let address = url.trim_start_matches("http://");
        *self.heir.lock().unwrap() = Some(address.to_owned());
    }

    /// From now on agents are refused, for that other master leads.
    pub fn name_leader(&self, url: &str) {
        *self.leader.lock().unwrap() = Some(url.to_owned());
    }

    async fn hear(&mut self) -> Said {
        let said = tokio::time::timeout(PATIENCE, self.said.recv())
            .await
            .expect("the agent says something")
            .expect("the door stands open");
        if matches!(said, Said::ExecutorEnded(_) | Said::ExecutorMessage(_)) {
            self.of_executors.push_back(said.clone());
        }
        said
    }

    /// The next thing that is heard of executors; updates are kept for later.
    pub async fn of_executors(&mut self) -> Said {
        loop {
            if let Some(said) = self.of_executors.pop_front() {
                return said;
            }
            if let Said::Update(update) = self.hear().await {
                self.keep(update.status).await;
            }
        }
    }

    async fn keep(&mut self, status: TaskStatus) {
        let connected = self.session.lock().unwrap().is_some();
        if self.acknowledges && connected {
            self.acknowledge(&status).await;
        }
        let queue = self
            .updates
            .entry(status.task_id.value.clone())
            .or_default();
        queue.push_back(status);
    }

    pub async fn tell(&self, message: Told) {
        let session = self.session.lock().unwrap().clone().expect("a session");
        let message = Some(message);
        session
            .send(Ok(allot::MasterMessage {
                message,
                term: None,
            }))
            .await
            .unwrap();
    }

    /// Waits for a registration and welcomes it.
    pub async fn registration(&mut self) -> allot::Register {
        loop {
            if let Said::Register(register) = self.hear().await {
                self.tell(Told::Registered(allot::Registered {
                    agent_id: mesos::AgentId {
                        value: AGENT.to_owned(),
                    },
                    master_id: "test".to_owned(),
                    ping_timeout_seconds: 600.0,
                }))
                .await;
                return register;
            }
        }
    }

    /// Waits for the agent to leave for good.
    pub async fn farewell(&mut self) {
        while !matches!(self.hear().await, Said::Unregister(_)) {}
    }

    /// Breaks the connection.
    pub fn cut(&self) {
        self.session.lock().unwrap().take();
    }

    pub async fn launch(&self, tasks: Vec<TaskInfo>) {
        self.launch_as("root", tasks).await;
    }

    pub async fn launch_as(&self, user: &str, tasks: Vec<TaskInfo>) {
        let framework = mesos::FrameworkInfo {
            user: user.to_owned(),
            name: "test".to_owned(),
            id: Some(framework_id()),
            ..Default::default()
        };
        self.tell(Told::Launch(allot::Launch {
            framework,
            tasks,
            ..Default::default()
        }))
        .await;
    }

    pub async fn kill(&self, task: &str, grace: Option<Duration>) {
        let kill_policy = grace.map(|grace| mesos::KillPolicy {
            grace_period: Some(mesos::DurationInfo {
                nanoseconds: i64::try_from(grace.as_nanos()).unwrap(),
            }),
        });
        self.tell(Told::Kill(allot::Kill {
            framework_id: framework_id(),
            task_id: task_id(task),
            kill_policy,
        }))
        .await;
    }

    pub async fn acknowledge(&self, status: &TaskStatus) {
        self.tell(Told::Acknowledge(allot::Acknowledge {
            framework_id: framework_id(),
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone().unwrap(),
        }))
        .await;
    }

    /// Every update that has come, at least one; acknowledged.
    pub async fn updates(&mut self) -> Vec<TaskStatus> {
        let mut statuses = Vec::new();
        let mut said = Some(self.hear().await);
        while let Some(message) = said {
            if let Said::Update(update) = message {
                self.acknowledge(&update.status).await;
                statuses.push(update.status);
            }
            said = self.said.try_recv().ok();
        }
        statuses
    }

    /// The next update of a task; others are kept for later.
    pub async fn update(&mut self, task: &str) -> TaskStatus {
        loop {
            if let Some(status) = self.updates.get_mut(task).and_then(VecDeque::pop_front) {
                return status;
            }
            if let Said::Update(update) = self.hear().await {
                self.keep(update.status).await;
            }
        }
    }

    /// The next update, which must be TASK_RUNNING.
    pub async fn running(&mut self, task: &str) -> TaskStatus {
        let status = self.update(task).await;
        assert_eq!(status.state(), TaskState::TaskRunning, "{status:?}");
        status
    }

    /// Whether an update of a task came that was not asked for.
    pub fn has_more(&self, task: &str) -> bool {
        self.updates
            .get(task)
            .is_some_and(|queue| !queue.is_empty())
    }

    /// The terminal update, skipping TASK_RUNNING.
    pub async fn end(&mut self, task: &str) -> TaskStatus {
        loop {
            let status = self.update(task).await;
            if is_terminal(status.state()) {
                return status;
            }
        }
    }
}

/// A master and an agent that is registered with it.
pub struct Cluster {
    pub master: Master,
    pub agent: Running,
    pub folder: tempfile::TempDir,
    work_dir: PathBuf,
    pub registered: allot::Register,
}

/// With which walls a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    Isolated,
}

/// Both modes as root, else plain processes only.
pub fn modes() -> Vec<Mode> {
    if nix::unistd::geteuid().is_root() {
        vec![Mode::Plain, Mode::Isolated]
    } else {
        vec![Mode::Plain]
    }
}

pub fn launcher() -> LauncherCommand {
    let built = env!("CARGO_BIN_EXE_allotment-launcher");
    LauncherCommand {
        // A copy, when another user must be able to run it.
        program: std::env::var_os("ALLOT_TEST_LAUNCHER")
            .map_or_else(|| built.into(), PathBuf::from),
        args: vec!["launcher".to_owned()],
    }
}

pub fn config(mode: Mode, master: &str, work_dir: PathBuf) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        masters: vec![master.to_owned()],
        work_dir,
        resources: Some(
            "cpus:64; mem:16384; disk:1024; ports:[31000-31999]"
                .parse()
                .unwrap(),
        ),
        isolation: match mode {
            Mode::Plain => Isolation::None,
            Mode::Isolated => "cgroups,namespaces,linux,volume,posix/rlimits,disk/du"
                .parse::<Isolation>()
                .unwrap(),
        },
        launcher: launcher(),
        // A test that fails must not leave processes behind; those about what outlives an agent
        // say so.
        tasks_outlive_agent: false,
        ..Config::default()
    }
}

impl Cluster {
    pub async fn start(mode: Mode) -> Self {
        Self::with(mode, |_| {}).await
    }

    pub async fn with(mode: Mode, change: impl FnOnce(&mut Config)) -> Self {
        let mut master = Master::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(mode, &master.url, folder.path().join("agent"));
        change(&mut config);
        let work_dir = config.work_dir.clone();
        let agent = allotment_agent::start(config).await.unwrap();
        let registered = master.registration().await;
        Self {
            master,
            agent,
            folder,
            work_dir,
            registered,
        }
    }

    pub fn work_dir(&self) -> PathBuf {
        self.work_dir.clone()
    }

    pub fn sandbox(&self, task: &str) -> PathBuf {
        self.work_dir().join(format!(
            "slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/{task}/runs/latest"
        ))
    }

    pub fn stdout(&self, task: &str) -> String {
        std::fs::read_to_string(self.sandbox(task).join("stdout")).unwrap()
    }

    pub async fn files(&self) -> SandboxClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.agent.url().to_owned());
        SandboxClient::new(endpoint.unwrap().connect().await.unwrap())
    }
}

pub fn framework_id() -> mesos::FrameworkId {
    mesos::FrameworkId {
        value: FRAMEWORK.to_owned(),
    }
}

pub fn task_id(id: &str) -> mesos::TaskId {
    mesos::TaskId {
        value: id.to_owned(),
    }
}

/// A task of a small part of the machine.
pub fn task(id: &str, command: mesos::CommandInfo) -> TaskInfo {
    TaskInfo {
        name: id.to_owned(),
        task_id: task_id(id),
        agent_id: mesos::AgentId {
            value: AGENT.to_owned(),
        },
        resources: resources_to_wire(&"cpus:0.1; mem:64".parse().unwrap(), Some("web")),
        command: Some(command),
        ..Default::default()
    }
}

/// A task that runs a line of shell.
pub fn shell(id: &str, line: &str) -> TaskInfo {
    let command = mesos::CommandInfo {
        value: Some(line.to_owned()),
        ..Default::default()
    };
    task(id, command)
}

/// A task that runs a program without a shell.
pub fn program(id: &str, argv: &[&str]) -> TaskInfo {
    let command = mesos::CommandInfo {
        shell: Some(false),
        value: Some(argv[0].to_owned()),
        arguments: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    };
    task(id, command)
}

/// The same task with wishes for its container.
pub fn contained(mut info: TaskInfo, container: mesos::ContainerInfo) -> TaskInfo {
    info.container = Some(Box::new(mesos::ContainerInfo {
        r#type: i32::from(mesos::container_info::Type::Mesos),
        ..container
    }));
    info
}

/// Whether this is root, without which most walls cannot be had.
pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Groups of containers that exist in any hierarchy below this agent's own groups.
pub fn cgroups_of(work_dir: &std::path::Path) -> Vec<PathBuf> {
    let short = allotment_agent::cgroup_name(work_dir);
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    hierarchies
        .map(|hierarchy| hierarchy.path().join("allotment").join(&short))
        .chain([PathBuf::from("/sys/fs/cgroup/allotment").join(&short)])
        .filter(|path| path.exists())
        .collect()
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Processes of this machine whose environment holds `mark`.
pub fn marked_processes(mark: &str) -> Vec<i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.windows(mark.len()).any(|part| part == mark.as_bytes()))
        })
        .collect()
}
