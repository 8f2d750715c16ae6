//! Keeps a launcher alive, prepares containers for it, and turns its news into the core's input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allotment_proto::allot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::disk;
use super::enter::ENDING;
use super::handle::{Order, Prepared, Resize, Settings};
use super::live::{Asked, Live, LiveContainer};
use super::nest;
use super::outgoing::Outgoing;
use super::prepare::{self, User};
use super::process::Launcher;
use super::session::{Entering, SessionEvent, code_or_signal};
use super::wire::{self, Failed, Gone, Inbox, News, news, order, put};
use crate::config::Isolator;
use crate::core::{ContainerId, Input, Launch, Outcome};

/// Orders handled before anything is written to the launcher.
const BATCH_LEN: usize = 64;
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// The agent's side of the launcher.
#[derive(Debug)]
pub(super) struct Supervisor {
    settings: Settings,
    isolation: Vec<Isolator>,
    live: Arc<Mutex<Live>>,
    guests: Mutex<Guests>,
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
    pub(super) fn new(
        settings: Settings,
        isolation: Vec<Isolator>,
        live: Live,
        inputs: mpsc::Sender<Input>,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self {
            fetches: Arc::new(Semaphore::new(settings.fetches_max)),
            settings,
            isolation,
            live: Arc::new(Mutex::new(live)),
            guests: Mutex::default(),
            inputs,
            orders,
        }
    }

    /// Works until `stopped` says so or its sender is gone.
    pub(super) async fn run(
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
                    () = self.watch_disks() => Over::Stop,
                }
            };
            let reason = match over {
                Over::Stop => {
                    self.guests().lose();
                    return launcher.end().await;
                }
                Over::Lost(reason) => reason,
            };
            let status = launcher.how_it_ended().await;
            self.guests().lose();
            if self.settings.tasks_outlive_agent {
                tracing::error!(%reason, %status, "the launcher is gone; another takes its place");
                self.give_up_stranded();
            } else {
                tracing::error!(%reason, %status, "the launcher is gone, and with it every container");
                self.lose_all(&status);
            }
            launcher = loop {
                let adopt = self.lock().to_adopt();
                match Launcher::start(&self.settings, &self.isolation, adopt).await {
                    // The walls promised at registration must stand, or nothing is started.
                    Ok((again, found)) if found.iter().all(|(_, said)| said.is_ok()) => {
                        break again;
                    }
                    Ok((again, found)) => {
                        tracing::error!(?found, "the new launcher cannot isolate tasks");
                        again.end().await;
                    }
                    Err(error) => tracing::error!(%error, "cannot start a new launcher"),
                }
                tokio::select! {
                    _ = &mut stopped => return,
                    () = self.refuse_for(RESTART_WAIT, &mut orders) => {}
                }
            };
            self.ask_again(&mut launcher).await;
        }
    }

    /// Tells a new launcher what the last one may not have heard.
    async fn ask_again(&self, launcher: &mut Launcher) {
        let mut bytes = Vec::new();
        for (number, asked) in self.lock().asked() {
            match asked {
                Asked::Run => {}
                Asked::Terminate => put_order(order::Kind::Terminate(number), &mut bytes),
                Asked::Destroy => put_order(order::Kind::Destroy(number), &mut bytes),
            }
        }
        // A launcher that does not take it is gone as well, which shows in the next turn.
        let _ = launcher.write.write_all(&bytes).await;
    }

    /// Containers whose orders were lost on their way to the launcher never begin.
    fn give_up_stranded(&self) {
        let stranded = self.lock().stranded();
        for id in stranded {
            self.end_before_launch(&id, Outcome::NeverBegun);
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
                Some(Order::Enter(entering)) => say_of(&entering.events, SessionEvent::Lost),
                Some(order) => {
                    self.note(&order);
                    if let Order::Fetched(prepared, _) = order {
                        self.end_before_launch(&prepared.launch.container, Outcome::NeverBegun);
                    }
                }
            }
        }
    }

    fn lose_all(&self, status: &str) {
        let lost: Vec<LiveContainer> = self.lock().take().collect();
        for container in lost {
            if let Some(fetch) = container.fetch {
                fetch.abort();
            }
            if container.ended {
                continue;
            }
            let message = format!(
                "The agent's launcher process ended ({status}) and every task with it; they can \
                 be started again"
            );
            self.say_ended(container.id, Outcome::Lost { message }, container.sandbox);
        }
    }

    /// Ends tasks whose sandboxes hold too much; returns only when nobody takes orders any more.
    async fn watch_disks(&self) {
        if !self.settings.limits_disk() {
            return std::future::pending().await;
        }
        let interval = self.settings.isolators.disk_watch_interval;
        disk::watch(Arc::clone(&self.live), self.orders.clone(), interval).await;
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands one more program for a running container to the launcher.
    fn enter(&self, entering: Entering, out: &mut Outgoing) {
        let running = self
            .lock()
            .get(entering.container())
            .filter(|(_, container)| container.launched && !container.ended)
            .map(|(number, container)| (number, container.sandbox.clone()));
        let Entering {
            launch,
            user,
            streams,
            terminal,
            events,
        } = entering;
        let Some((number, sandbox)) = running else {
            let why = "the task does not run yet, or not any more".to_owned();
            return say_of(&events, SessionEvent::Refused(why));
        };
        let session = self.guests().add(events.clone());
        let enter = wire::Enter {
            session,
            name: uuid::Uuid::new_v4().to_string(),
            launch: self.to_wire(number, &launch, &user, &sandbox),
            terminal,
        };
        out.pass(streams);
        put_order(order::Kind::Enter(enter), &mut out.bytes);
        let orders = self.orders.clone();
        tokio::spawn(async move {
            events.closed().await;
            let _ = orders.send(Order::Eject(session)).await;
        });
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
            let mut out = Outgoing::default();
            for order in &batch {
                self.note(order);
                if let Order::Release(id) = order
                    && let Some((number, _)) = self.lock().remove(id)
                {
                    put_order(order::Kind::Release(number), &mut out.bytes);
                }
            }
            for order in self.prepare(&mut batch).await {
                match order {
                    Prepare::Ready(prepared) => self.launch(*prepared, &mut out),
                    Prepare::Fetch(prepared) => self.fetch(prepared),
                    Prepare::Failed(container, message) => self.fail(&container, message),
                    Prepare::Other(Order::Terminate(id)) => {
                        if let Some((number, container)) = self.lock().get(&id)
                            && container.launched
                        {
                            put_order(order::Kind::Terminate(number), &mut out.bytes);
                        }
                    }
                    Prepare::Other(Order::Destroy(id)) => self.destroy(&id, &mut out.bytes),
                    Prepare::Other(Order::Fetched(prepared, Ok(()))) => {
                        self.launch(*prepared, &mut out);
                    }
                    Prepare::Other(Order::Fetched(prepared, Err(message))) => {
                        self.fail(&prepared.launch.container, message);
                    }
                    Prepare::Other(Order::Enter(entering)) => self.enter(*entering, &mut out),
                    Prepare::Other(Order::Eject(session)) => {
                        if self.guests().sessions.contains_key(&session) {
                            put_order(order::Kind::Eject(session), &mut out.bytes);
                        }
                    }
                    // Whoever asked sees his socket closed where there is nothing to attach to.
                    Prepare::Other(Order::Attach(id, socket)) => {
                        if let Some((number, container)) = self.lock().get(&id)
                            && container.launched
                        {
                            out.pass([socket]);
                            put_order(order::Kind::Attach(number), &mut out.bytes);
                        }
                    }
                    Prepare::Other(Order::Resize(resize)) => self.resize(&resize, &mut out.bytes),
                    Prepare::Other(Order::Start(_) | Order::Release(_)) => {}
                }
            }
            if let Err(error) = out.send(socket).await {
                return error.to_string();
            }
        }
    }

    /// Enters in the books what is ordered, before it is tried: the launcher may be lost at any
    /// moment, and this loop with it.
    fn note(&self, order: &Order) {
        let mut live = self.lock();
        match order {
            Order::Start(launch) => {
                let nested = launch.nested.as_ref();
                // In a pod is the one that it is in.
                let run = launch.sandbox.run().filter(|_| nested.is_none());
                live.add(&launch.container, PathBuf::new(), false, (run, nested));
            }
            Order::Terminate(id) => live.ask(id, Asked::Terminate),
            Order::Destroy(id) => live.ask(id, Asked::Destroy),
            Order::Release(_)
            | Order::Resize(_)
            | Order::Enter(_)
            | Order::Eject(_)
            | Order::Attach(..) => {}
            Order::Fetched(prepared, _) => {
                if let Some((_, container)) = live.get(&prepared.launch.container) {
                    container.fetch = None;
                }
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
                        let (sandbox, folder) = if launch.nested.is_some() {
                            let (sandbox, folder) = nest::make(&work_dir, &launch, &user)?;
                            (sandbox, Some(folder))
                        } else {
                            (prepare::make_sandbox(&work_dir, &launch, &user)?, None)
                        };
                        Ok((user, sandbox, folder))
                    });
                    match made {
                        Ok((user, sandbox, folder)) => {
                            let prepared = Box::new(Prepared {
                                launch: *launch,
                                user,
                                sandbox,
                                folder,
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
    fn launch(&self, prepared: Prepared, out: &mut Outgoing) {
        let Prepared {
            launch,
            user,
            sandbox,
            folder,
        } = prepared;
        let mut live = self.lock();
        let parent = launch.nested.as_ref().map(|nesting| {
            let parent = live.get(&nesting.parent);
            parent.filter(|(_, container)| container.launched && !container.ended)
        });
        let beside = match parent {
            Some(None) => {
                drop(live);
                return self.fail(&launch.container, ENDING.to_owned());
            }
            Some(Some((number, _))) => Some(number),
            None => None,
        };
        // Destroyed while its files were fetched.
        let Some((number, container)) = live.get(&launch.container) else {
            return;
        };
        if container.ended {
            return;
        }
        container.launched = true;
        container.sandbox.clone_from(&sandbox);
        container.disk_limit_bytes = launch
            .confinement
            .disk_limit_bytes
            .filter(|_| self.settings.limits_disk() && beside.is_none());
        let mut order = self.to_wire(number, &launch, &user, &sandbox);
        order.beside = beside;
        if let Some(folder) = folder {
            out.pass([folder]);
        }
        put_order(order::Kind::Launch(order), &mut out.bytes);
        if let Some(resized) = container.resized.take() {
            put_order(order::Kind::Resize(resized), &mut out.bytes);
        }
    }

    /// What the launcher has to know of a container, or of one more program in it.
    fn to_wire(&self, id: u64, launch: &Launch, user: &User, sandbox: &Path) -> wire::Launch {
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
        wire::Launch {
            id,
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
            framework: launch.sandbox.framework.as_str().to_owned(),
            beside: None,
            logs: launch.logs.are_set().then(|| wire::Logs {
                stdout_size_max: launch.logs.stdout.size_max.unwrap_or(0),
                stdout_files_max: launch.logs.stdout.files_max,
                stderr_size_max: launch.logs.stderr.size_max.unwrap_or(0),
                stderr_files_max: launch.logs.stderr.files_max,
            }),
            pod: launch
                .sandbox
                .run()
                .filter(|_| launch.confinement.share_pids)
                .map(|run| run.as_str().to_owned()),
            confinement: Some(Box::new(launch.confinement.clone())),
        }
    }

    /// Fetches files beside the loop; the queue hears of the end.
    fn fetch(&self, prepared: Box<Prepared>) {
        let mut live = self.lock();
        let Some((_, container)) = live.get(&prepared.launch.container) else {
            return;
        };
        if container.ended {
            return;
        }
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

    /// Notes what a container is to hold; one that is launched only later is told then.
    fn resize(&self, resize: &Resize, bytes: &mut Vec<u8>) {
        let mut live = self.lock();
        let Some((id, container)) = live.get(&resize.container) else {
            return;
        };
        container.disk_limit_bytes = resize
            .disk_limit_bytes
            .filter(|_| self.settings.limits_disk());
        let order = wire::Resize {
            id,
            cpus_milli: resize.cpus_milli,
            memory_bytes: resize.memory_bytes,
        };
        if container.launched {
            put_order(order::Kind::Resize(order), bytes);
        } else {
            container.resized = Some(order);
        }
    }

    fn destroy(&self, id: &ContainerId, bytes: &mut Vec<u8>) {
        {
            let mut live = self.lock();
            let Some((number, container)) = live.get(id) else {
                return;
            };
            if container.launched {
                put_order(order::Kind::Destroy(number), bytes);
                return;
            }
        }
        let message = "stopped before it was started".to_owned();
        self.end_before_launch(id, Outcome::NotStarted { message });
    }

    fn fail(&self, id: &ContainerId, message: String) {
        self.end_before_launch(id, Outcome::NotStarted { message });
    }

    /// The launcher never heard of this container.
    fn end_before_launch(&self, id: &ContainerId, outcome: Outcome) {
        let sandbox = {
            let mut live = self.lock();
            let Some((_, container)) = live.get(id) else {
                return;
            };
            if container.launched || std::mem::replace(&mut container.ended, true) {
                return;
            }
            if let Some(fetch) = container.fetch.take() {
                fetch.abort();
            }
            container.sandbox.clone()
        };
        self.say_ended(id.clone(), outcome, sandbox);
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

    fn on_news(&self, kind: news::Kind, started: &mut Vec<Input>, ended: &mut Vec<Ending>) {
        let mut live = self.lock();
        match kind {
            news::Kind::Ready(_) => {}
            news::Kind::Started(news) => {
                if let Some(container) = live.running(news.id) {
                    started.push(Input::Started {
                        container: container.id.clone(),
                        pid: news.pid,
                    });
                }
            }
            news::Kind::Entered(session) => {
                self.guests().say(session, SessionEvent::Started);
            }
            news::Kind::Refused(Failed { id, message }) => {
                self.guests().end(id, SessionEvent::Refused(message));
            }
            news::Kind::Left(left) => {
                self.guests()
                    .end(left.session, SessionEvent::Left(left.status));
            }
            news::Kind::Failed(Failed { id, message }) => {
                end(&mut live, id, Outcome::NotStarted { message }, ended);
            }
            news::Kind::Ended(news) => end(&mut live, news.id, outcome(&news), ended),
            news::Kind::Gone(Gone { id, never_begun }) => {
                let outcome = if never_begun {
                    Outcome::NeverBegun
                } else {
                    let message = "The container's first process was killed while no agent \
                                   watched, and how its task ended is not known"
                        .to_owned();
                    Outcome::Lost { message }
                };
                end(&mut live, id, outcome, ended);
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

/// Sessions that the launcher knows of, by number, and who hears of them.
#[derive(Debug, Default)]
struct Guests {
    n_numbers: u64,
    sessions: BTreeMap<u64, mpsc::Sender<SessionEvent>>,
}

impl Guests {
    fn add(&mut self, events: mpsc::Sender<SessionEvent>) -> u64 {
        let number = self.n_numbers;
        self.n_numbers += 1;
        self.sessions.insert(number, events);
        number
    }

    fn say(&self, session: u64, event: SessionEvent) {
        if let Some(events) = self.sessions.get(&session) {
            say_of(events, event);
        }
    }

    fn end(&mut self, session: u64, event: SessionEvent) {
        self.say(session, event);
        self.sessions.remove(&session);
    }

    /// The launcher is gone, and all of them with it.
    fn lose(&mut self) {
        for (_, events) in std::mem::take(&mut self.sessions) {
            say_of(&events, SessionEvent::Lost);
        }
    }
}

/// Tells a session's owner, who may be gone. There is always room: few things are ever said.
fn say_of(events: &mpsc::Sender<SessionEvent>, event: SessionEvent) {
    let _ = events.try_send(event);
}

/// A container that ended, with its sandbox.
type Ending = (ContainerId, Outcome, PathBuf);

/// Notes an end, of which news may come twice.
fn end(live: &mut Live, number: u64, mut outcome: Outcome, ended: &mut Vec<Ending>) {
    if let Some(container) = live.running(number) {
        container.ended = true;
        if let Outcome::Exited { disk, .. } = &mut outcome {
            *disk = container.disk_exceeded;
        }
        ended.push((container.id.clone(), outcome, container.sandbox.clone()));
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
    let (code, signal) = code_or_signal(ended.status);
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
        disk: None,
    }
}

/// Passes facts on. All that started comes before all that ended: a container that did both did
/// so in this order.
async fn say(inputs: mpsc::Sender<Input>, started: Vec<Input>, ended: Vec<Ending>) {
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
