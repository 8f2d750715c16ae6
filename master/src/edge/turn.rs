//! The loop that owns the core: take what is queued, step, write once, act in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use allotment_proto::{allot, scheduler};
use allotment_types::{Effects, Timestamp};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{debug, info, warn};

use super::RunError;
use super::clock::Clock;
use super::disk::Disk;
use super::outbox::{Outbox, Overflow};
use crate::core::registry::Record;
use crate::core::{ConnId, Core, Effect, Input, Refusal, Reply, Request, RequestId};

/// How many inputs share one turn, and so one write and one allocation round.
const TURN_MAX: usize = 512;
/// How many inputs may wait; beyond it the tasks that read from peers wait, and so do the peers.
pub(super) const QUEUE_MAX: usize = 4096;
/// A turn that takes longer is worth an operator's attention.
const TURN_SLOW: Duration = Duration::from_millis(500);
/// The most event streams of operators; the oldest gives way.
const WATCHERS_MAX: usize = 1000;

pub(super) type Answer = Result<Reply, Refusal>;

/// What reaches the loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A framework's stream opened.
    Framework(ConnId, Outbox<scheduler::Event>),
    /// An agent's stream opened.
    Agent(ConnId, Outbox<allot::MasterMessage>),
    /// Something for the core.
    Input(Box<Input>),
    /// Somebody asks and awaits the answer.
    Ask(Request, oneshot::Sender<Answer>),
    /// An operator watches.
    Watch(allot::EventsRequest, Outbox<Arc<allot::ClusterEvent>>),
    /// The end; answered when every stream was told.
    Stop(oneshot::Sender<()>),
}

#[derive(Debug)]
enum Waiting {
    Answer(oneshot::Sender<Answer>),
    /// Wants the past and what comes.
    Watcher(Outbox<Arc<allot::ClusterEvent>>),
    /// Wants the past alone.
    Reader(Outbox<Arc<allot::ClusterEvent>>),
}

#[derive(Debug)]
pub(super) struct Loop {
    clock: Clock,
    core: Core,
    disk: Arc<Disk>,
    frameworks: BTreeMap<ConnId, Outbox<scheduler::Event>>,
    agents: BTreeMap<ConnId, Outbox<allot::MasterMessage>>,
    watchers: Vec<Outbox<Arc<allot::ClusterEvent>>>,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    /// Inputs that this loop makes itself, for the next turn.
    own: Vec<Input>,
}

impl Loop {
    pub(super) fn new(clock: Clock, core: Core, disk: Disk) -> Self {
        Self {
            clock,
            core,
            disk: Arc::new(disk),
            frameworks: BTreeMap::new(),
            agents: BTreeMap::new(),
            watchers: Vec::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            own: Vec::new(),
        }
    }

    /// Runs until told to stop, or until the registry cannot be written.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), RunError> {
        let mut batch = Vec::with_capacity(TURN_MAX);
        loop {
            if self.own.is_empty() {
                let deadline = self.core.next_deadline();
                let nap = deadline.map(|at| at.since(self.clock.now()));
                tokio::select! {
                    n = events.recv_many(&mut batch, TURN_MAX) => {
                        if n == 0 {
                            return Ok(());
                        }
                    }
                    () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => {}
                }
            }
            let now = self.clock.now();
            let mut effects = Effects::none();
            for input in std::mem::take(&mut self.own) {
                effects.append(self.core.step(now, input));
            }
            let n_events = batch.len();
            let mut stop = None;
            for event in batch.drain(..) {
                if let Event::Stop(done) = event {
                    stop = Some(done);
                    break;
                }
                effects.append(self.take_in(now, event));
            }
            if self.core.next_deadline().is_some_and(|at| at <= now) {
                effects.append(self.core.step(now, Input::Tick));
            }
            let Effects { persist, then } = effects;
            persist_all(&self.disk, persist).await?;
            for effect in then {
                self.perform(effect);
            }
            if let Some(done) = stop {
                // Dropping the outboxes tells every peer.
                drop(self);
                // Nobody waits any more: fine.
                let _ = done.send(());
                return Ok(());
            }
            let took = self.clock.now().since(now);
            if took > TURN_SLOW {
                warn!(?took, n_events, "a turn of the master's loop took long");
            }
        }
    }

    fn take_in(&mut self, now: Timestamp, event: Event) -> Effects<Record, Effect> {
        match event {
            Event::Framework(conn, outbox) => {
                self.frameworks.insert(conn, outbox);
                self.core.step(now, Input::FrameworkOpened { conn })
            }
            Event::Agent(conn, outbox) => {
                self.agents.insert(conn, outbox);
                self.core.step(now, Input::AgentOpened { conn })
            }
            Event::Input(input) => {
                // A peer that closed its half has said all it had to say: a clean end.
                match &*input {
                    Input::FrameworkClosed { conn } => {
                        if let Some(outbox) = self.frameworks.remove(conn) {
                            outbox.end(Ok(()));
                        }
                    }
                    Input::AgentClosed { conn } => {
                        if let Some(outbox) = self.agents.remove(conn) {
                            outbox.end(Ok(()));
                        }
                    }
                    _ => {}
                }
                self.core.step(now, *input)
            }
            Event::Ask(request, answer) => self.ask(now, request, Waiting::Answer(answer)),
            Event::Watch(request, outbox) => {
                let waiting = if request.follow.unwrap_or(true) {
                    Waiting::Watcher(outbox)
                } else {
                    Waiting::Reader(outbox)
                };
                self.ask(now, Request::Events(request), waiting)
            }
            Event::Stop(_) => Effects::none(),
        }
    }

    fn ask(
        &mut self,
        now: Timestamp,
        request: Request,
        waiting: Waiting,
    ) -> Effects<Record, Effect> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(id, waiting);
        self.core.step(now, Input::Request { id, request })
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToFramework { conn, event } => {
                let Some(outbox) = self.frameworks.get(&conn) else {
                    return;
                };
                let bytes = event.encoded_len();
                if outbox.push(*event, bytes) == Err(Overflow) {
                    warn!(conn = conn.0, "a framework reads too slowly and is cut off");
                    self.frameworks.remove(&conn);
                    self.own.push(Input::FrameworkClosed { conn });
                }
            }
            Effect::CloseFramework { conn, reason } => {
                if let Some(outbox) = self.frameworks.remove(&conn) {
                    outbox.end(Err(Status::failed_precondition(reason)));
                }
            }
            Effect::ToAgent { conn, message } => {
                let Some(outbox) = self.agents.get(&conn) else {
                    return;
                };
                let bytes = message.encoded_len();
                if outbox.push(message, bytes) == Err(Overflow) {
                    warn!(conn = conn.0, "an agent reads too slowly and is cut off");
                    self.agents.remove(&conn);
                    self.own.push(Input::AgentClosed { conn });
                }
            }
            Effect::CloseAgent { conn, reason } => {
                if let Some(outbox) = self.agents.remove(&conn) {
                    outbox.end(Err(Status::failed_precondition(reason)));
                }
            }
            Effect::Reply { to, reply } => self.answer(to, reply),
            Effect::Publish(event) => self.publish(&event),
        }
    }

    fn answer(&mut self, to: RequestId, reply: Answer) {
        match self.waiting.remove(&to) {
            Some(Waiting::Answer(waiting)) => {
                // Whoever asked may have gone away.
                let _ = waiting.send(reply);
            }
            Some(Waiting::Watcher(outbox)) => {
                show_past(&outbox, reply);
                self.watchers.retain(|watcher| !watcher.is_gone());
                if self.watchers.len() >= WATCHERS_MAX {
                    self.watchers.remove(0);
                }
                self.watchers.push(outbox);
            }
            Some(Waiting::Reader(outbox)) => {
                show_past(&outbox, reply);
                outbox.end(Ok(()));
            }
            None => {}
        }
    }

    fn publish(&mut self, event: &Arc<allot::ClusterEvent>) {
        if event.task_id.is_some() || event.kind.starts_with("offer-") {
            debug!(kind = event.kind, "{}", event.message);
        } else {
            info!(kind = event.kind, "{}", event.message);
        }
        if self.watchers.is_empty() {
            return;
        }
        let bytes = event.encoded_len();
        self.watchers.retain(|watcher| {
            !watcher.is_gone() && watcher.push(Arc::clone(event), bytes) == Ok(())
        });
    }
}

/// Queues the past that was asked for.
fn show_past(outbox: &Outbox<Arc<allot::ClusterEvent>>, reply: Answer) {
    let Ok(Reply::Events(past)) = reply else {
        return;
    };
    for event in past {
        let bytes = event.encoded_len();
        // The past is bounded below what a watcher may have waiting.
        let _ = outbox.push(event, bytes);
    }
}

async fn persist_all(disk: &Arc<Disk>, records: Vec<Record>) -> Result<(), RunError> {
    if records.is_empty() {
        return Ok(());
    }
    let disk = Arc::clone(disk);
    let written = tokio::task::spawn_blocking(move || disk.commit(&records)).await;
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RunError::Registry(error)),
        Err(join) => Err(RunError::Died(join.to_string())),
    }
}
