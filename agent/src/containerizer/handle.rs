//! The agent's side of the containerizer: keeps a launcher alive, prepares containers for it and
//! turns its news into the core's input.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allotment_proto::allot;
use nix::sys::wait::WaitStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};

use super::prepare::{self, User};
use super::wire::{self, Inbox, News, news, order, put};
use crate::config::{Isolation, Isolator, LauncherCommand};
use crate::core::{ContainerId, Input, Launch, Outcome};
use crate::fetcher::Fetcher;

/// Orders and news that may wait. The core's loop waits when orders fill it; the launcher is
/// always read.
const QUEUE_LEN: usize = 1024;
const BATCH_LEN: usize = 64;
/// How long the launcher may take to find out what the machine can do, leftovers included.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a launcher may take to end its containers when the agent stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// How containers are made on this agent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) launcher: LauncherCommand,
    pub(crate) isolation: Isolation,
    /// The agent's own part of cgroup paths.
    pub(crate) cgroup: String,
    pub(crate) work_dir: PathBuf,
    pub(crate) switch_user: bool,
    pub(crate) pids_max: u64,
    pub(crate) fetches_max: usize,
    pub(crate) fetcher: Fetcher,
}

/// Why no launcher could be started.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The program does not start.
    #[error("cannot start the launcher {}; check that this binary still exists", program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It said nothing, or nonsense.
    #[error("the launcher {} did not come up: {reason}", program.display())]
    NotReady {
        /// Which program.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// The operator insists on a wall that this machine cannot give.
    #[error(
        "isolation {wanted} is asked for, but {isolator} cannot be had: {reason}; run as root on \
         a machine that has it, or use isolation auto or none"
    )]
    Isolation {
        /// What was asked.
        wanted: Isolation,
        /// Which is missing.
        isolator: Isolator,
        /// Why.
        reason: String,
    },
}

/// What the core asks of the containerizer.
#[derive(Debug)]
pub(crate) enum Order {
    Start(Box<Launch>),
    Terminate(ContainerId),
    Destroy(ContainerId),
    /// Files are there, or not.
    Fetched(Box<Prepared>, Result<(), String>),
}

/// A container with its sandbox.
#[derive(Debug)]
pub(crate) struct Prepared {
    launch: Launch,
    user: User,
    sandbox: PathBuf,
}

/// A running containerizer.
#[derive(Debug)]
pub(crate) struct Containerizer {
    orders: mpsc::Sender<Order>,
    /// Dropped or used, it ends the supervisor.
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
    /// The walls that tasks get.
    pub(crate) isolation: Vec<Isolator>,
    /// What was wished for and cannot be had, with the reason.
    pub(crate) missing: Vec<(Isolator, String)>,
}

impl Containerizer {
    /// Starts a launcher; what happens to containers arrives at `inputs`.
    pub(crate) async fn start(
        settings: Settings,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, LauncherError> {
        let wanted: Vec<Isolator> = match &settings.isolation {
            Isolation::Auto => Isolator::ALL.to_vec(),
            Isolation::None => Vec::new(),
            Isolation::Only(list) => list.iter().copied().collect(),
        };
        let (launcher, missing) = Launcher::start(&settings, &wanted).await?;
        if let (Isolation::Only(_), Some((isolator, reason))) =
            (&settings.isolation, missing.first())
        {
            let (isolator, reason) = (*isolator, reason.clone());
            launcher.end().await;
            return Err(LauncherError::Isolation {
                wanted: settings.isolation.clone(),
                isolator,
                reason,
            });
        }
        let isolation: Vec<Isolator> = wanted
            .into_iter()
            .filter(|isolator| !missing.iter().any(|(without, _)| without == isolator))
            .collect();
        let (orders, order_queue) = mpsc::channel(QUEUE_LEN);
        let (stop, stopped) = oneshot::channel();
        let supervisor = Supervisor {
            fetches: Arc::new(Semaphore::new(settings.fetches_max)),
            settings,
            isolation: isolation.clone(),
            live: Arc::default(),
            inputs,
            orders: orders.clone(),
        };
        Ok(Self {
            orders,
            stop,
            supervisor: tokio::spawn(supervisor.run(launcher, order_queue, stopped)),
            isolation,
            missing,
        })
    }

    /// Hands an order over.
    pub(crate) async fn order(&self, order: Order) {
        // Only a supervisor that is gone refuses, and then the agent is stopping.
        let _ = self.orders.send(order).await;
    }

    /// Ends every container and the launcher.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.supervisor.await;
    }
}

/// A launcher process and the way to it.
#[derive(Debug)]
struct Launcher {
    child: Child,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    inbox: Inbox,
}

type Missing = Vec<(Isolator, String)>;

impl Launcher {
    async fn start(
        settings: &Settings,
        isolation: &[Isolator],
    ) -> Result<(Self, Missing), LauncherError> {
        let LauncherCommand { program, args } = &settings.launcher;
        let spawn_error = |source| LauncherError::Spawn {
            program: program.clone(),
            source,
        };
        let not_ready = |reason: String| LauncherError::NotReady {
            program: program.clone(),
            reason,
        };
        // As standard input the socket reaches the launcher and no other child of this process.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(spawn_error)?;
        let child = Command::new(program)
            .args(args)
            .args(["--socket-fd", "0"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(spawn_error)?;
        ours.set_nonblocking(true).map_err(spawn_error)?;
        let (read, write) = tokio::net::UnixStream::from_std(ours)
            .map_err(spawn_error)?
            .into_split();
        let mut launcher = Self {
            child,
            read,
            write,
            inbox: Inbox::default(),
        };
        let set_up = wire::SetUp {
            agent: settings.cgroup.clone(),
            cgroups: isolation.contains(&Isolator::Cgroups),
            namespaces: isolation.contains(&Isolator::Namespaces),
        };
        let mut bytes = Vec::new();
        put(
            &wire::Order {
                kind: Some(order::Kind::SetUp(set_up)),
            },
            &mut bytes,
        );
        let handshake = async {
            launcher
                .write
                .write_all(&bytes)
                .await
                .map_err(|error| error.to_string())?;
            match launcher.next().await? {
                Some(news::Kind::Ready(ready)) => Ok(ready),
                Some(_) | None => Err("it did not say that it is ready".to_owned()),
            }
        };
        let ready = tokio::time::timeout(SET_UP_TIMEOUT, handshake)
            .await
            .map_err(|_| not_ready(format!("it said nothing for {SET_UP_TIMEOUT:?}")))?
            .map_err(not_ready)?;
        let missing = [
            (Isolator::Cgroups, ready.no_cgroups),
            (Isolator::Namespaces, ready.no_namespaces),
        ];
        let missing = missing
            .into_iter()
            .filter_map(|(isolator, reason)| Some((isolator, reason?)))
            .collect();
        Ok((launcher, missing))
    }

    /// The next piece of news.
    async fn next(&mut self) -> Result<Option<news::Kind>, String> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let news: Option<News> = self.inbox.next().map_err(|error| error.to_string())?;
            if let Some(news) = news {
                return Ok(news.kind);
            }
            match self.read.read(&mut buffer).await {
                Ok(0) => return Err("it ended".to_owned()),
                Ok(n) => self.inbox.extend(buffer.get(..n).unwrap_or_default()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Closes the socket, which ends the launcher and its containers, and waits for that.
    async fn end(self) {
        let Self {
            mut child,
            read,
            write,
            ..
        } = self;
        drop((read, write));
        if tokio::time::timeout(STOP_TIMEOUT, child.wait())
            .await
            .is_err()
        {
            let _ = child.kill().await;
        }
    }
}

/// Containers between the order to start them and their end.
#[derive(Debug, Default)]
struct Live {
    n_started: u64,
    numbers: BTreeMap<ContainerId, u64>,
    containers: BTreeMap<u64, LiveContainer>,
}

#[derive(Debug)]
struct LiveContainer {
    id: ContainerId,
    sandbox: PathBuf,
    /// Set while files are fetched.
    fetch: Option<AbortHandle>,
    /// The launcher knows it.
    launched: bool,
}

impl Live {
    fn add(&mut self, id: &ContainerId) {
        let number = self.n_started;
        self.n_started += 1;
        self.numbers.insert(id.clone(), number);
        let container = LiveContainer {
            id: id.clone(),
            sandbox: PathBuf::new(),
            fetch: None,
            launched: false,
        };
        self.containers.insert(number, container);
    }

    fn get(&mut self, id: &ContainerId) -> Option<(u64, &mut LiveContainer)> {
        let number = *self.numbers.get(id)?;
        Some((number, self.containers.get_mut(&number)?))
    }

    fn remove(&mut self, number: u64) -> Option<LiveContainer> {
        let container = self.containers.remove(&number)?;
        self.numbers.remove(&container.id);
        Some(container)
    }
}

struct Supervisor {
    settings: Settings,
    isolation: Vec<Isolator>,
    live: Arc<Mutex<Live>>,
    inputs: mpsc::Sender<Input>,
    /// For fetches to report to.
    orders: mpsc::Sender<Order>,
    fetches: Arc<Semaphore>,
}

/// Why work with one launcher ended.
enum Over {
    Stop,
    Lost(String),
}

impl Supervisor {
    async fn run(
        self,
        mut launcher: Launcher,
        mut orders: mpsc::Receiver<Order>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let over = {
                let Launcher {
                    read, write, inbox, ..
                } = &mut launcher;
                tokio::select! {
                    _ = &mut stopped => Over::Stop,
                    reason = self.write(write, &mut orders) => Over::Lost(reason),
                    reason = self.read(read, inbox) => Over::Lost(reason),
                }
            };
            let reason = match over {
                Over::Stop => return launcher.end().await,
                Over::Lost(reason) => reason,
            };
            let status = describe_end(&mut launcher.child).await;
            tracing::error!(%reason, %status, "the launcher is gone, and with it every container");
            self.lose_all(&status);
            launcher = loop {
                match Launcher::start(&self.settings, &self.isolation).await {
                    // The walls promised at registration must stand, or nothing is started.
                    Ok((again, missing)) if missing.is_empty() => break again,
                    Ok((again, missing)) => {
                        tracing::error!(?missing, "the new launcher cannot isolate tasks");
                        again.end().await;
                    }
                    Err(error) => tracing::error!(%error, "cannot start a new launcher"),
                }
                tokio::select! {
                    _ = &mut stopped => return,
                    () = self.refuse_for(RESTART_WAIT, &mut orders) => {}
                }
            };
        }
    }

    /// Answers orders while there is no launcher.
    async fn refuse_for(&self, wait: Duration, orders: &mut mpsc::Receiver<Order>) {
        let wait = tokio::time::sleep(wait);
        tokio::pin!(wait);
        loop {
            let order = tokio::select! {
                () = &mut wait => return,
                order = orders.recv() => order,
            };
            match order {
                None => return,
                Some(Order::Start(launch)) => {
                    let message = "the agent cannot start processes at the moment; its log says \
                                   why"
                    .to_owned();
                    let outcome = Outcome::NotStarted { message };
                    self.say_ended(launch.container, outcome, PathBuf::new());
                }
                Some(Order::Terminate(_) | Order::Destroy(_) | Order::Fetched(..)) => {}
            }
        }
    }

    fn lose_all(&self, status: &str) {
        let lost = {
            let mut live = self.lock();
            live.numbers.clear();
            std::mem::take(&mut live.containers)
        };
        for container in lost.into_values() {
            if let Some(fetch) = container.fetch {
                fetch.abort();
            }
            let message = format!(
                "The agent's launcher process ended ({status}) and every task with it; they can \
                 be started again"
            );
            self.say_ended(container.id, Outcome::Lost { message }, container.sandbox);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Live> {
        // Nothing panics while it is held; if something did, the table would still be whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out orders until the launcher does not take them any more; why.
    async fn write(
        &self,
        socket: &mut OwnedWriteHalf,
        orders: &mut mpsc::Receiver<Order>,
    ) -> String {
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            batch.clear();
            // Never closed: the supervisor holds a sender itself.
            orders.recv_many(&mut batch, BATCH_LEN).await;
            for order in &batch {
                if let Order::Start(launch) = order {
                    self.lock().add(&launch.container);
                }
            }
            let mut bytes = Vec::new();
            for order in self.prepare(&mut batch).await {
                match order {
                    Prepare::Ready(prepared) => self.launch(&prepared, &mut bytes),
                    Prepare::Fetch(prepared) => self.fetch(prepared),
                    Prepare::Failed(container, message) => self.fail(&container, message),
                    Prepare::Other(Order::Terminate(id)) => {
                        if let Some((number, container)) = self.lock().get(&id)
                            && container.launched
                        {
                            put_order(order::Kind::Terminate(number), &mut bytes);
                        }
                    }
                    Prepare::Other(Order::Destroy(id)) => self.destroy(&id, &mut bytes),
                    Prepare::Other(Order::Fetched(prepared, Ok(()))) => {
                        self.launch(&prepared, &mut bytes);
                    }
                    Prepare::Other(Order::Fetched(prepared, Err(message))) => {
                        self.fail(&prepared.launch.container, message);
                    }
                    Prepare::Other(Order::Start(_)) => {}
                }
            }
            if let Err(error) = socket.write_all(&bytes).await {
                return error.to_string();
            }
        }
    }

    /// Makes the sandboxes of a batch, off the loop, and keeps the order of orders.
    async fn prepare(&self, batch: &mut Vec<Order>) -> Vec<Prepare> {
        let batch = std::mem::take(batch);
        if !batch.iter().any(|order| matches!(order, Order::Start(_))) {
            return batch.into_iter().map(Prepare::Other).collect();
        }
        let (work_dir, switch_user) = (self.settings.work_dir.clone(), self.settings.switch_user);
        let prepared = spawn_blocking(move || {
            let mut users: BTreeMap<Option<String>, Result<User, String>> = BTreeMap::new();
            let prepare = |order| match order {
                Order::Start(launch) => {
                    let user = users
                        .entry(launch.user.clone())
                        .or_insert_with_key(|name| User::find(name.as_deref(), switch_user))
                        .clone();
                    let made = user.and_then(|user| {
                        let sandbox = prepare::make_sandbox(&work_dir, &launch, &user)?;
                        Ok((user, sandbox))
                    });
                    match made {
                        Ok((user, sandbox)) => {
                            let prepared = Box::new(Prepared {
                                launch: *launch,
                                user,
                                sandbox,
                            });
                            if prepared.launch.uris.is_empty() {
                                Prepare::Ready(prepared)
                            } else {
                                Prepare::Fetch(prepared)
                            }
                        }
                        Err(message) => Prepare::Failed(launch.container, message),
                    }
                }
                other => Prepare::Other(other),
            };
            batch.into_iter().map(prepare).collect()
        });
        prepared.await.unwrap_or_default()
    }

    /// Writes the order to launch for the launcher.
    fn launch(&self, prepared: &Prepared, bytes: &mut Vec<u8>) {
        let Prepared {
            launch,
            user,
            sandbox,
        } = prepared;
        let mut live = self.lock();
        // Destroyed while its files were fetched.
        let Some((number, container)) = live.get(&launch.container) else {
            return;
        };
        container.launched = true;
        container.fetch = None;
        container.sandbox.clone_from(sandbox);
        let mut env: Vec<String> = Vec::with_capacity(launch.environment.len() + 3);
        for (name, value) in [
            ("HOME", &user.home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
        ] {
            if !launch.environment.iter().any(|(set, _)| set == name) {
                env.push(format!("{name}={value}"));
            }
        }
        env.extend(launch.environment.iter().map(|(n, v)| format!("{n}={v}")));
        let order = wire::Launch {
            id: number,
            name: launch.container.as_str().to_owned(),
            program: launch.program.clone(),
            argv: launch.argv.clone(),
            env,
            directory: sandbox.as_os_str().as_encoded_bytes().to_vec(),
            user: user
                .switch
                .clone()
                .map(|(uid, gid, groups)| wire::User { uid, gid, groups }),
            cpus_milli: launch.resources.cpus().thousandths(),
            memory_bytes: launch.memory_bytes,
            pids_max: self.settings.pids_max,
        };
        put_order(order::Kind::Launch(order), bytes);
    }

    /// Fetches files beside the loop; the queue hears of the end.
    fn fetch(&self, prepared: Box<Prepared>) {
        let mut live = self.lock();
        let Some((_, container)) = live.get(&prepared.launch.container) else {
            return;
        };
        let (fetcher, orders) = (self.settings.fetcher.clone(), self.orders.clone());
        let fetches = Arc::clone(&self.fetches);
        let sandbox = prepared.sandbox.clone();
        container.sandbox.clone_from(&sandbox);
        let task = tokio::spawn(async move {
            let _permit = fetches.acquire().await;
            let user = prepared.user.switch.clone();
            let fetched = fetcher
                .fetch(&prepared.launch.uris, &sandbox, user.as_ref())
                .await;
            let _ = orders.send(Order::Fetched(prepared, fetched)).await;
        });
        container.fetch = Some(task.abort_handle());
    }

    fn destroy(&self, id: &ContainerId, bytes: &mut Vec<u8>) {
        let removed = {
            let mut live = self.lock();
            let Some((number, container)) = live.get(id) else {
                return;
            };
            if container.launched {
                put_order(order::Kind::Destroy(number), bytes);
                return;
            }
            if let Some(fetch) = container.fetch.take() {
                fetch.abort();
            }
            live.remove(number)
        };
        if let Some(container) = removed {
            let message = "stopped before it was started".to_owned();
            let outcome = Outcome::NotStarted { message };
            self.say_ended(container.id, outcome, container.sandbox);
        }
    }

    fn fail(&self, id: &ContainerId, message: String) {
        let removed = {
            let mut live = self.lock();
            let number = live.get(id).map(|(number, _)| number);
            number.and_then(|number| live.remove(number))
        };
        if let Some(container) = removed {
            let outcome = Outcome::NotStarted { message };
            self.say_ended(container.id, outcome, container.sandbox);
        }
    }

    /// Passes news on until there are none; why.
    async fn read(&self, socket: &mut OwnedReadHalf, inbox: &mut Inbox) -> String {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut inputs = Vec::new();
            let mut ended = Vec::new();
            loop {
                match inbox.next::<News>() {
                    Ok(Some(News { kind: Some(kind) })) => {
                        self.on_news(kind, &mut inputs, &mut ended)
                    }
                    Ok(Some(News { kind: None })) => {}
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
            say(self.inputs.clone(), inputs, ended).await;
            match socket.read(&mut buffer).await {
                Ok(0) => return "it closed its socket".to_owned(),
                Ok(n) => inbox.extend(buffer.get(..n).unwrap_or_default()),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn on_news(
        &self,
        kind: news::Kind,
        started: &mut Vec<Input>,
        ended: &mut Vec<(ContainerId, Outcome, PathBuf)>,
    ) {
        let mut live = self.lock();
        match kind {
            news::Kind::Ready(_) => {}
            news::Kind::Started(news) => {
                if let Some(container) = live.containers.get(&news.id) {
                    started.push(Input::Started {
                        container: container.id.clone(),
                        pid: news.pid,
                    });
                }
            }
            news::Kind::Failed(news) => {
                if let Some(container) = live.remove(news.id) {
                    let message = news.message;
                    let outcome = Outcome::NotStarted { message };
                    ended.push((container.id, outcome, container.sandbox));
                }
            }
            news::Kind::Ended(news) => {
                if let Some(container) = live.remove(news.id) {
                    ended.push((container.id, outcome(&news), container.sandbox));
                }
            }
        }
    }

    /// Says that a container ended, from a task of its own: the core's loop may be waiting for
    /// orders to be taken while its queue of facts is full.
    fn say_ended(&self, container: ContainerId, outcome: Outcome, sandbox: PathBuf) {
        let inputs = self.inputs.clone();
        tokio::spawn(say(inputs, Vec::new(), vec![(container, outcome, sandbox)]));
    }
}

enum Prepare {
    Ready(Box<Prepared>),
    Fetch(Box<Prepared>),
    Failed(ContainerId, String),
    Other(Order),
}

fn put_order(kind: order::Kind, bytes: &mut Vec<u8>) {
    put(&wire::Order { kind: Some(kind) }, bytes);
}

fn outcome(ended: &wire::Ended) -> Outcome {
    let (code, signal) = match WaitStatus::from_raw(nix::unistd::Pid::from_raw(1), ended.status) {
        Ok(WaitStatus::Exited(_, code)) => (Some(code), None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        // Real-time signals have no name in nix; the low bits are the number.
        _ => (None, Some(ended.status & 0x7f)),
    };
    Outcome::Exited {
        exit: allot::TaskExit {
            code,
            signal,
            user_cpu_ns: ended.user_cpu_ns,
            system_cpu_ns: ended.system_cpu_ns,
            // The cgroup counts the whole tree at once, rusage only its largest process.
            max_rss_bytes: ended.memory_peak_bytes.unwrap_or(ended.max_rss_bytes),
        },
        memory: ended
            .memory_limit_bytes
            .map(|limit| (limit, ended.memory_peak_bytes)),
        disk_full: false,
    }
}

/// Passes facts on. All that started comes before all that ended: a container that did both did
/// so in this order.
async fn say(
    inputs: mpsc::Sender<Input>,
    started: Vec<Input>,
    ended: Vec<(ContainerId, Outcome, PathBuf)>,
) {
    for input in started {
        let _ = inputs.send(input).await;
    }
    if ended.is_empty() {
        return;
    }
    let summed = spawn_blocking(move || {
        ended
            .into_iter()
            .map(|(container, mut outcome, sandbox)| {
                if let Outcome::Exited {
                    exit, disk_full, ..
                } = &mut outcome
                {
                    *disk_full = exit.code != Some(0) && prepare::disk_is_full(&sandbox);
                }
                Input::Ended {
                    container,
                    outcome,
                    sandbox: prepare::summary(&sandbox),
                }
            })
            .collect::<Vec<Input>>()
    });
    for input in summed.await.unwrap_or_default() {
        let _ = inputs.send(input).await;
    }
}

async fn describe_end(child: &mut Child) -> String {
    match tokio::time::timeout(Duration::from_secs(1), child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            // It speaks no sense any more, or does not end: no task may go on unwatched.
            let _ = child.kill().await;
            "it was killed".to_owned()
        }
    }
}
