//! The loop that owns the core: facts in, effects out, in order.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use allotment_types::{AgentId, Effects, ExecutorId, FrameworkId, TaskId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::checkpoint::Log;
use super::executors::ExecutorDoor;
use super::held::Held;
use super::inner::Inner;
use super::leader::Fence;
use super::link::Link;
use super::probe::{self, Probing};
use super::store;
use crate::clock;
use crate::containerizer::handle::{Containerizer, Order, Resize};
use crate::containerizer::nest::Nest;
use crate::containerizer::prepare;
use crate::core::{
    Attachable, Command, Core, Effect, Input, Launch, NestedId, NestedState, NestedView, NoEntry,
    Overview, Probe, Record, outlasts_power,
};

/// How many queued facts one turn takes in before it writes and acts.
const BATCH_LEN: usize = 256;
/// A longer turn is logged.
const TURN_MAX: Duration = Duration::from_millis(200);
/// How soon a write to a full disk is tried again.
const FULL_WAIT: Duration = Duration::from_secs(1);

/// A question to the loop.
#[derive(Debug)]
pub(super) enum Query {
    Overview(oneshot::Sender<Overview>),
    /// Answers at once whether the task runs or is about to.
    IsLive(FrameworkId, TaskId, oneshot::Sender<bool>),
    /// Answers at once what it takes to run a program beside the task.
    Enter(Beside, Command, oneshot::Sender<Result<Launch, NoEntry>>),
    /// Answers at once whether there is a terminal to type to.
    Terminal(Beside, oneshot::Sender<Result<Attachable, NoEntry>>),
    /// Answers with the custom executor that has this task, in whose sandbox it works.
    Executor(FrameworkId, TaskId, oneshot::Sender<Option<ExecutorId>>),
    /// Answers with what is known of a nested container, once it has come so far.
    Nested(NestedId, Until, oneshot::Sender<Option<NestedView>>),
    /// Answers when nothing of the task runs any more.
    Ended(FrameworkId, TaskId, oneshot::Sender<()>),
}

/// What a program is to run beside.
#[derive(Debug)]
pub(super) enum Beside {
    Task(FrameworkId, TaskId),
    /// Whatever runs in the container of these ids, the nearest first.
    Container(Vec<String>),
}

/// How far a nested container is to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Now,
    /// Its program runs, or never will.
    Begun,
    Ended,
}

impl Until {
    fn is_reached(self, view: Option<&NestedView>) -> bool {
        match (self, view.map(|view| &view.state)) {
            (Self::Now, _) | (_, None | Some(NestedState::Ended(_))) => true,
            (Self::Begun, Some(state)) => *state != NestedState::Starting,
            (Self::Ended, Some(_)) => false,
        }
    }
}

/// Somebody who waits until a nested container has come so far.
type Watcher = (NestedId, Until, oneshot::Sender<Option<NestedView>>);

/// The loop's belongings.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) core: Core,
    pub(super) containerizer: Containerizer,
    pub(super) masters: Vec<String>,
    pub(super) work_dir: PathBuf,
    pub(super) boot_id: String,
    /// Where records go.
    pub(super) log: Log,
    pub(super) inputs: mpsc::Sender<Input>,
    /// Sandboxes to delete. Unbounded, but never longer than there are sandboxes on the disk.
    pub(super) garbage: mpsc::UnboundedSender<String>,
    pub(super) link: Option<Link>,
    pub(super) fence: Fence,
    pub(super) waiting: BTreeMap<(FrameworkId, TaskId), Vec<oneshot::Sender<()>>>,
    /// Who waits for nested containers.
    pub(super) watchers: Vec<Watcher>,
    pub(super) held: Held,
    /// Who orders something of nested containers.
    pub(super) inner: Inner,
    /// Who of the custom executors is connected.
    pub(super) executors: ExecutorDoor,
}

impl Driver {
    /// Performs what recovery asked for and runs until the core has stopped; why it ended by
    /// itself otherwise.
    pub(super) async fn run(
        mut self,
        recovered: Vec<Effect>,
        mut queue: mpsc::Receiver<Input>,
        mut queries: mpsc::Receiver<Query>,
    ) -> Result<(), String> {
        for effect in recovered {
            self.perform(effect).await;
        }
        let mut batch = Vec::with_capacity(BATCH_LEN);
        let ended = loop {
            batch.clear();
            let deadline = self.core.next_deadline();
            tokio::select! {
                biased;
                Some(query) = queries.recv() => {
                    self.answer(query);
                    continue;
                }
                synced = self.held.synced() => {
                    match self.go_on(synced).await {
                        Ok(false) => continue,
                        Ok(true) => break Ok(()),
                        Err(reason) => break Err(reason),
                    }
                }
                n = queue.recv_many(&mut batch, BATCH_LEN), if !self.held.is_full() => {
                    if n == 0 {
                        break Ok(());
                    }
                }
                () = sleep_until(deadline) => batch.push(Input::Tick),
            }
            let begun = clock::now();
            match self.turn(&mut batch).await {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(reason) => break Err(reason),
            }
            let took = clock::now().since(begun);
            if took > TURN_MAX {
                tracing::warn!(?took, "a turn of the agent's loop took long");
            }
        };
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        self.containerizer.stop().await;
        ended
    }

    /// Takes in a batch; true when the core has stopped.
    async fn turn(&mut self, batch: &mut Vec<Input>) -> Result<bool, String> {
        let mut all = Effects::none();
        for input in batch.drain(..) {
            if let (Input::Stop, Some(link)) = (&input, &self.link) {
                link.leave();
            }
            all.append(self.core.step(clock::now(), input));
        }
        self.persist(all.persist).await?;
        let mut stopped = false;
        for effect in all.then {
            if let Some(effect) = self.held.pass(effect) {
                stopped |= self.perform(effect).await;
            }
        }
        self.held.begin_sync(&self.log);
        let waiting = self.waiting.keys();
        let over: Vec<_> = waiting
            .filter(|(framework, task)| !self.core.is_live(framework, task))
            .cloned()
            .collect();
        for task in over {
            for waiter in self.waiting.remove(&task).unwrap_or_default() {
                let _ = waiter.send(());
            }
        }
        for watcher in std::mem::take(&mut self.watchers) {
            self.watch(watcher);
        }
        Ok(stopped)
    }

    /// Answers whoever watches a nested container, now or later.
    fn watch(&mut self, (id, until, reply): Watcher) {
        let view = self.core.nested(&id);
        if until.is_reached(view.as_ref()) {
            let _ = reply.send(view);
        } else if !reply.is_closed() {
            self.watchers.push((id, until, reply));
        }
    }

    /// Does what waited for the sync that has ended, and begins the next; true when the core has
    /// stopped.
    async fn go_on(&mut self, synced: std::io::Result<()>) -> Result<bool, String> {
        synced.map_err(|error| self.cannot_write(&error))?;
        let mut stopped = false;
        for effect in self.held.let_go() {
            stopped |= self.perform(effect).await;
        }
        self.held.begin_sync(&self.log);
        Ok(stopped)
    }

    /// Writes records down; returns once they outlast this process. Those that must outlast a
    /// loss of power too wait for a sync.
    async fn persist(&mut self, records: Vec<Record>) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        self.remember(&records).await?;
        while let Err(error) = self.log.append(&records) {
            if !matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ) {
                return Err(self.cannot_write(&error));
            }
            // Nothing may be done or told before it is written down. Tasks go on meanwhile.
            tracing::error!(
                work_dir = %self.work_dir.display(),
                %error,
                "the agent waits: free space on its disk"
            );
            tokio::time::sleep(FULL_WAIT).await;
        }
        if records.iter().any(outlasts_power) {
            self.held.needs_sync();
        }
        if self.log.is_long()
            && let Err(error) = self.log.restart(&self.core.snapshot())
        {
            // The long one is whole; it only takes longer to read.
            tracing::warn!(%error, "the checkpoint cannot be begun anew");
        }
        Ok(())
    }

    fn cannot_write(&self, error: &std::io::Error) -> String {
        format!(
            "its checkpoint cannot be written to {}: {error}",
            self.work_dir.display()
        )
    }

    /// A second copy of the agent's id, without which every task here would be a stranger's.
    async fn remember(&self, records: &[Record]) -> Result<(), String> {
        let id = records.iter().rev().find_map(|record| match record {
            Record::Agent(agent) => agent.agent_id.as_ref(),
            _ => None,
        });
        let Some(Ok(agent)) = id.map(AgentId::try_from) else {
            return Ok(());
        };
        let (folder, boot_id) = (self.work_dir.clone(), self.boot_id.clone());
        spawn_blocking(move || store::remember(&folder, &agent, &boot_id))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| self.cannot_write(&error))
    }

    async fn perform(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Connect { session, master } => {
                if let Some(old) = self.link.take() {
                    old.cut();
                }
                if let Some(url) = self.masters.get(master) {
                    tracing::debug!(%url, session, "connecting to the master");
                    self.link = Some(Link::open(
                        session,
                        url.clone(),
                        self.fence.clone(),
                        self.inputs.clone(),
                    ));
                }
            }
            Effect::Disconnect { session, reason } => {
                if self
                    .link
                    .as_ref()
                    .is_some_and(|link| link.session == session)
                    && let Some(link) = self.link.take()
                {
                    tracing::warn!(%reason, "disconnecting from the master");
                    link.cut();
                }
            }
            Effect::Send { session, message } => self.send(session, *message),
            Effect::Start(launch) => {
                tracing::debug!(of = %launch.sandbox.owner, container = %launch.container, "starting");
                self.containerizer.order(Order::Start(launch)).await;
            }
            Effect::Terminate(id) => self.containerizer.order(Order::Terminate(id)).await,
            Effect::Destroy(id) => self.containerizer.order(Order::Destroy(id)).await,
            Effect::Release(id) => self.containerizer.order(Order::Release(id)).await,
            Effect::Resize {
                container,
                resources,
                memory_bytes,
                disk_limit_bytes,
            } => {
                let order = Order::Resize(Resize {
                    container,
                    cpus_milli: resources.cpus().thousandths(),
                    memory_bytes,
                    disk_limit_bytes,
                });
                self.containerizer.order(order).await;
            }
            Effect::AnswerExecutor { number, answer } => self.executors.answer(number, answer),
            Effect::ToExecutor { number, event } => self.executors.send(number, *event),
            Effect::CloseExecutor { number } => self.executors.close(number),
            Effect::AnswerNested { number, answer } => self.inner.answer(number, answer),
            Effect::RemoveNest { sandbox, nesting } => {
                let nest = Nest::of(&self.work_dir, &sandbox, &nesting);
                // Awaited, because another of its name may start next.
                if let Ok(Err(error)) = spawn_blocking(move || nest.remove()).await {
                    tracing::warn!(%sandbox, %error, "the sandbox of a nested container is left");
                }
            }
            Effect::Probe {
                container,
                which,
                probe,
                timeout,
            } => {
                let inputs = self.inputs.clone();
                let probing = match probe {
                    Probe::Command(command) => Probing::Command(
                        Box::new(self.core.entrance_of(&container, *command)),
                        self.containerizer.sessions(),
                    ),
                    Probe::Http { .. } | Probe::Tcp { .. } => Probing::Network(probe),
                };
                tokio::spawn(async move {
                    let probed = probe::make(probing, timeout).await;
                    let _ = inputs
                        .send(Input::Probed {
                            container,
                            which,
                            probed,
                        })
                        .await;
                });
            }
            Effect::Collect { agent, sandbox } => {
                let _ = self.garbage.send(sandbox.folder(&agent));
            }
            Effect::MakeVolume { folder } => {
                self.on_volume(folder, "made", prepare::make_volume).await;
            }
            Effect::DestroyVolume { folder } => {
                self.on_volume(folder, "destroyed", prepare::destroy_volume)
                    .await;
            }
            Effect::Warn(text) => tracing::warn!("{text}"),
            Effect::Stopped => return true,
        }
        false
    }

    /// Awaited, because the task that uses the volume starts next.
    async fn on_volume(
        &self,
        folder: String,
        doing: &'static str,
        what: fn(&std::path::Path, &str) -> std::io::Result<()>,
    ) {
        let (work_dir, shown) = (self.work_dir.clone(), folder.clone());
        let done = spawn_blocking(move || what(&work_dir, &folder)).await;
        match done {
            Ok(Ok(())) => tracing::debug!(volume = %shown, "volume {doing}"),
            Ok(Err(error)) => {
                tracing::warn!(volume = %shown, %error, "a volume cannot be {doing}");
            }
            Err(error) => tracing::error!(%error, "work on a volume failed"),
        }
    }

    fn send(&mut self, session: u64, message: allotment_proto::allot::AgentMessage) {
        let Some(link) = self.link.as_ref().filter(|link| link.session == session) else {
            return;
        };
        if link.send(message).is_err() {
            tracing::warn!(
                "the master takes messages too slowly or is gone; disconnecting to register again"
            );
            if let Some(link) = self.link.take() {
                link.cut();
            }
            // A cut link says nothing any more, so its end is told in its stead. The queue may
            // be full and we are its only reader: not from this task.
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                let _ = inputs.send(Input::Disconnected { session }).await;
            });
        }
    }

    fn answer(&mut self, query: Query) {
        match query {
            Query::Overview(reply) => {
                let _ = reply.send(self.core.overview());
            }
            Query::IsLive(framework, task, reply) => {
                let _ = reply.send(self.core.is_live(&framework, &task));
            }
            Query::Enter(beside, command, reply) => {
                let entrance = match beside {
                    Beside::Task(framework, task) => self.core.entrance(&framework, &task, command),
                    Beside::Container(ids) => self.core.entrance_below(&ids, command),
                };
                let _ = reply.send(entrance);
            }
            Query::Terminal(beside, reply) => {
                let terminal = match beside {
                    Beside::Task(framework, task) => self.core.terminal_of(&framework, &task),
                    Beside::Container(ids) => self.core.terminal_in(&ids),
                };
                let _ = reply.send(terminal);
            }
            Query::Executor(framework, task, reply) => {
                let _ = reply.send(self.core.custom_executor_of(&framework, &task));
            }
            Query::Nested(id, until, reply) => self.watch((id, until, reply)),
            Query::Ended(framework, task, reply) => {
                if self.core.is_live(&framework, &task) {
                    let waiters = self.waiting.entry((framework, task)).or_default();
                    waiters.retain(|waiter| !waiter.is_closed());
                    waiters.push(reply);
                } else {
                    let _ = reply.send(());
                }
            }
        }
    }
}

async fn sleep_until(deadline: Option<allotment_types::Timestamp>) {
    match deadline {
        None => std::future::pending().await,
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
    }
}

/// Deletes sandboxes one after the other.
pub(super) async fn collect(work_dir: PathBuf, mut garbage: mpsc::UnboundedReceiver<String>) {
    while let Some(folder) = garbage.recv().await {
        let work_dir = work_dir.clone();
        let shown = folder.clone();
        let removed = spawn_blocking(move || prepare::remove_sandbox(&work_dir, &folder)).await;
        match removed {
            Ok(Ok(())) => tracing::debug!(sandbox = %shown, "sandbox collected"),
            Ok(Err(error)) => {
                tracing::warn!(sandbox = %shown, %error, "a sandbox cannot be deleted");
            }
            Err(error) => tracing::error!(%error, "deleting a sandbox failed"),
        }
    }
}
