//! The loop that owns the core: facts in, one durable write for many steps, effects in order.
//!
//! While a write is under way further facts are stepped; their records and effects wait for
//! their own turn, so that nothing is told before what it depends on is durable and nothing
//! overtakes anything.
//!
//! A loop lives as long as this process leads. What it had not finished when leadership is lost is
//! dropped: the next leader reads what is durable, and the fence refuses what comes too late.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::{Call, Config, Election, Event, Scheduler};
use allotment_types::{Effects, TaskId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::http::Phase;
use super::metrics::Metrics;
use super::state::{State, StateError};
use super::{Message, probe};
use crate::clock;
use crate::core::answer::Answer;
use crate::core::health::Outcome;
use crate::core::{Core, Effect, Input, Probe, Record, RequestId};

/// Messages taken in one turn.
const BATCH: usize = 256;
/// Probes under way at once: enough for thousands of instances, few enough to not exhaust ports.
const PROBES_MAX: usize = 64;
/// How long a clean stop waits for the write under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// What the master says to a framework's old process when a new one subscribes with its id.
const FAILED_OVER: &str = "Framework failed over";

type Writing = Pin<Box<dyn Future<Output = Result<State, StateError>> + Send>>;

enum Store {
    Idle(State),
    Writing {
        write: Writing,
        then: Vec<Effect>,
    },
    /// Between the two; never seen outside of a function.
    Moving,
}

/// What connects the loop with HTTP; outlives it.
pub(super) struct Doors {
    pub(super) messages: mpsc::Receiver<Message>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) metrics: Metrics,
}

/// Why the loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// The process is told to stop.
    Stopped,
    /// Another process leads, or may.
    Lost(String),
    /// Another process is to lead; whoever asked awaits the answer.
    Abdicated(oneshot::Sender<Answer>),
}

/// A probe that was performed.
struct Probed {
    task: TaskId,
    check: usize,
    outcome: Outcome,
}

/// What woke the loop.
enum Turn {
    Stop,
    Lost(String),
    Probed,
    Events(usize),
    Messages,
    Written(Box<Result<State, StateError>>),
    Tick,
}

pub(super) struct Driver<'a> {
    core: Core,
    scheduler: Scheduler,
    /// How to subscribe as a new framework.
    subscription: Config,
    subscribed: bool,
    store: Store,
    doors: &'a mut Doors,
    probed: mpsc::Sender<Probed>,
    outcomes: mpsc::Receiver<Probed>,
    /// Another is to lead: this turn is the last.
    abdicating: Option<oneshot::Sender<Answer>>,
    replies: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    next_request: RequestId,
    /// Stepped and not yet written.
    queued: Effects<Record, Effect>,
    /// Heard while a call waited for room.
    backlog: VecDeque<Event>,
    probes: Arc<Semaphore>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        core: Core,
        (scheduler, subscription): (Scheduler, Config),
        state: State,
        doors: &'a mut Doors,
    ) -> Self {
        let (probed, outcomes) = mpsc::channel(BATCH);
        Self {
            core,
            scheduler,
            subscription,
            subscribed: false,
            store: Store::Idle(state),
            doors,
            probed,
            outcomes,
            abdicating: None,
            replies: BTreeMap::new(),
            next_request: 0,
            queued: Effects::none(),
            backlog: VecDeque::new(),
            probes: Arc::new(Semaphore::new(PROBES_MAX)),
        }
    }

    /// Runs until it is told to stop, leads no more, or cannot go on.
    ///
    /// # Errors
    /// Why no process of this name can go on.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<bool>,
        election: &mut Election,
    ) -> anyhow::Result<End> {
        let mut events = Vec::with_capacity(BATCH);
        let mut messages = Vec::with_capacity(BATCH);
        let mut outcomes = Vec::with_capacity(BATCH);
        loop {
            events.extend(self.backlog.drain(..));
            let mut tick = false;
            // Also where events never cease.
            if !election.leads() {
                let reason = election.lost().await;
                return Ok(self.lost(reason).await);
            }
            if events.is_empty() {
                let wake = wait(self.core.next_deadline());
                let turn = tokio::select! {
                    reason = election.lost() => Turn::Lost(reason),
                    _ = stop.wait_for(|stop| *stop) => Turn::Stop,
                    written = written(&mut self.store) => Turn::Written(Box::new(written)),
                    n = self.scheduler.next_batch(&mut events) => Turn::Events(n),
                    _ = self.doors.messages.recv_many(&mut messages, BATCH) => Turn::Messages,
                    _ = self.outcomes.recv_many(&mut outcomes, BATCH) => Turn::Probed,
                    () = wake => Turn::Tick,
                };
                match turn {
                    Turn::Stop => break,
                    Turn::Lost(reason) => return Ok(self.lost(reason).await),
                    Turn::Events(0) => {
                        anyhow::bail!("the master ended the subscription of this framework")
                    }
                    Turn::Events(_) | Turn::Messages | Turn::Probed => {}
                    Turn::Written(written) => match *written {
                        Ok(state) => self.on_written(state).await,
                        Err(StateError::Replaced) => {
                            let reason = StateError::Replaced.to_string();
                            return Ok(self.lost(reason).await);
                        }
                        Err(error) => return Err(error.into()),
                    },
                    Turn::Tick => tick = true,
                }
            }
            let now = clock::now();
            if tick {
                self.step(now, Input::Tick);
            }
            for event in events.drain(..) {
                if let Event::Error(reason) = &event {
                    if self.was_removed_while_away(reason) {
                        warn!(reason, "the framework is subscribed anew");
                        self.step(now, Input::Removed);
                        self.scheduler = Scheduler::connect(self.subscription.clone())?;
                        continue;
                    }
                    if reason == FAILED_OVER {
                        let reason = "another process subscribed as this framework".to_owned();
                        return Ok(self.lost(reason).await);
                    }
                    anyhow::bail!("the master ended the subscription of this framework: {reason}");
                }
                self.on_phase(&event);
                narrate(&event);
                self.step(now, Input::Event(event));
            }
            for Probed {
                task,
                check,
                outcome,
            } in outcomes.drain(..)
            {
                self.doors.metrics.probes.inc();
                let probed = Input::Probed {
                    task,
                    check,
                    outcome,
                };
                self.step(now, probed);
            }
            for message in messages.drain(..) {
                self.on_message(now, message);
            }
            self.flush().await;
            if self.abdicating.is_some() {
                break;
            }
        }
        let asked = self.abdicating.take();
        self.finish().await;
        Ok(asked.map_or(End::Stopped, End::Abdicated))
    }

    /// Leaves at once. Whoever waits for an answer learns from its absence that nothing is
    /// certain.
    async fn lost(self, reason: String) -> End {
        self.scheduler.stop().await;
        End::Lost(reason)
    }

    /// Whether the id was refused when subscribing with it: the framework did not come back within its failover timeout, or was torn down. A removal while it is subscribed
    /// is an operator's wish and ends the process.
    fn was_removed_while_away(&self, reason: &str) -> bool {
        !self.subscribed && reason.starts_with("Framework has been removed")
    }

    /// Requests are let in from the first subscription on: before, nothing could be changed.
    fn on_phase(&mut self, event: &Event) {
        let next = match event {
            Event::Subscribed { .. } => Phase::Serving,
            Event::Disconnected { reason } => Phase::Waiting(reason.clone()),
            _ => return,
        };
        self.subscribed = next == Phase::Serving;
        self.doors.phase.send_if_modified(|phase| {
            let changes = *phase != next && *phase != Phase::Serving;
            if changes {
                *phase = next;
            }
            changes
        });
    }

    fn step(&mut self, now: allotment_types::Timestamp, input: Input) {
        let effects = self.core.step(now, input);
        self.queued.append(effects);
    }

    fn on_message(&mut self, now: allotment_types::Timestamp, message: Message) {
        match message {
            Message::Request { request, reply } => {
                let id = self.next_request;
                self.next_request += 1;
                self.replies.insert(id, reply);
                self.step(now, Input::Request { id, request });
            }
            Message::Agents(rooms) => self.step(now, Input::Agents(rooms)),
            Message::Abdicate(reply) => self.abdicating = Some(reply),
            Message::Stats(reply) => {
                let framework = self.core.framework().map(ToString::to_string);
                let stats = self.core.stats();
                let _ = reply.send(super::Snapshot { stats, framework });
            }
        }
    }

    /// Starts to write what is queued, or performs it when there is nothing to write.
    async fn flush(&mut self) {
        let state = match std::mem::replace(&mut self.store, Store::Moving) {
            Store::Idle(state) => state,
            busy => {
                self.store = busy;
                return;
            }
        };
        let Effects { persist, then } = std::mem::take(&mut self.queued);
        if persist.is_empty() {
            self.store = Store::Idle(state);
            self.perform(then).await;
            return;
        }
        self.doors.metrics.commits.inc();
        self.doors.metrics.records.inc_by(persist.len() as u64);
        self.store = Store::Writing {
            write: Box::pin(state.write(persist)),
            then,
        };
    }

    async fn on_written(&mut self, state: State) {
        let done = std::mem::replace(&mut self.store, Store::Idle(state));
        if let Store::Writing { then, .. } = done {
            self.perform(then).await;
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Call(call) => self.say(call).await,
                Effect::Answer { id, answer } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        let _ = reply.send(answer);
                    }
                }
                Effect::Probe(probe) => self.probe(probe),
            }
        }
    }

    /// Says a call. When the queue has no room, events are read on meanwhile: the connection
    /// may wait for that before it takes calls.
    async fn say(&mut self, call: Call) {
        debug!(?call, "call");
        let handle = self.scheduler.handle();
        let Err(call) = handle.try_call(call) else {
            return;
        };
        let mut saying = std::pin::pin!(handle.call(call));
        let mut heard = Vec::new();
        loop {
            tokio::select! {
                _ = &mut saying => break,
                n = self.scheduler.next_batch(&mut heard) => {
                    if n == 0 {
                        break;
                    }
                }
            }
        }
        self.backlog.extend(heard);
    }

    fn probe(&mut self, probe: Probe) {
        let (permits, probed) = (Arc::clone(&self.probes), self.probed.clone());
        // One task per check of a running instance at most: the core waits for the outcome.
        tokio::spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            let outcome = probe::perform(&probe).await;
            let done = Probed {
                task: probe.task,
                check: probe.check,
                outcome,
            };
            // The loop that asked may have ended.
            let _ = probed.send(done).await;
        });
    }

    /// Lets the write under way end, so that its requests are answered, and leaves; the tasks
    /// run on.
    async fn finish(mut self) {
        let last = async {
            while let Store::Writing { .. } = self.store {
                match written(&mut self.store).await {
                    Ok(state) => self.on_written(state).await,
                    Err(error) => {
                        warn!(%error, "the last write failed");
                        return;
                    }
                }
                self.flush().await;
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, last).await.is_err() {
            warn!("no master took the last write; what it would have answered stays unanswered");
        }
        self.scheduler.stop().await;
    }
}

async fn wait(deadline: Option<allotment_types::Timestamp>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// The end of the write under way; never when there is none.
async fn written(store: &mut Store) -> Result<State, StateError> {
    match store {
        Store::Writing { write, .. } => write.await,
        Store::Idle(_) | Store::Moving => std::future::pending().await,
    }
}

/// Tells the log what matters to an operator.
fn narrate(event: &Event) {
    match event {
        Event::Subscribed { framework } => info!(%framework, "subscribed with the master"),
        Event::Disconnected { reason } => warn!(reason, "the master is away"),
        Event::Rejected { call, message } => warn!(call, reason = message, "a call was refused"),
        Event::AgentLost(agent) => warn!(%agent, "an agent is gone"),
        Event::Update(update) => debug!(
            task = %update.task,
            state = update.state.as_str_name(),
            reason = update.message.as_deref().unwrap_or_default(),
            "status update"
        ),
        Event::Offers(offers) => debug!(n_offers = offers.len(), "offers"),
        Event::Rescinded(offer) => debug!(%offer, "offer rescinded"),
        Event::InverseOffers(asked) => info!(n_agents = asked.len(), "agents will be away"),
        Event::InverseRescinded(offer) => debug!(%offer, "an agent stays after all"),
        // No app runs in an executor of its own making.
        Event::Executor { executor, .. } => debug!(%executor, "an unknown executor was heard of"),
        Event::Error(_) => {}
    }
}
