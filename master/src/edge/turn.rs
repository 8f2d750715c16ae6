//! The loop that owns the core while this master leads: take what is queued, step, propose the
//! records of the turn together, act in order once they are kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_proto::{allot, scheduler};
use allotment_types::{Effects, Timestamp};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{debug, info, warn};

use super::RunError;
use super::clock::Clock;
use super::masters::not_leading;
use super::outbox::{Outbox, Overflow};
use super::pace::Pace;
use super::replica::{Lease, News, ToReplica};
use super::store::{StoreNews, Watcher, Watchers};
use crate::core::registry::Record;
use crate::core::{ConnId, Core, CoreConfig, Effect, Input, Refusal, Reply, Request, RequestId};
use crate::replica::reign::{Proposal, Reign};

/// How many inputs share one turn, and so one write and one allocation round.
const TURN_MAX: usize = 512;
/// How many inputs may wait; beyond it the tasks that read from peers wait, and so do the peers.
pub(super) const QUEUE_MAX: usize = 4096;
/// A turn that takes longer is worth an operator's attention.
const TURN_SLOW: Duration = Duration::from_millis(500);
/// The most event streams of operators; the oldest gives way.
const WATCHERS_MAX: usize = 1000;

pub(super) type Answer = Result<Reply, Refusal>;
type Step = Effects<Record, Effect>;
type Done = oneshot::Sender<()>;

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
    /// A framework watches keys of the store.
    StoreWatch(allot::StoreWatchRequest, Outbox<StoreNews>),
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
    /// Wants what is in the store and what comes.
    Store(Watcher),
}

/// Makes the allocation module of a reign.
type Make = Box<dyn Fn() -> Box<dyn Allocator> + Send + Sync>;

pub(super) struct Loop {
    clock: Clock,
    /// What a core is made of, for each reign anew.
    config: CoreConfig,
    make: Make,
    reign: Option<Reign>,
    lease: Lease,
    replica: mpsc::Sender<ToReplica>,
    pace: Pace,
    frameworks: BTreeMap<ConnId, Outbox<scheduler::Event>>,
    agents: BTreeMap<ConnId, Outbox<allot::MasterMessage>>,
    watchers: Vec<Outbox<Arc<allot::ClusterEvent>>>,
    store_watchers: Watchers,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    /// Inputs that this loop makes itself, for the next turn.
    own: Vec<Input>,
}

/// What woke the loop.
enum Woken {
    News(Option<News>),
    Events(usize),
    Due,
}

impl Loop {
    pub(super) fn new(
        clock: Clock,
        config: CoreConfig,
        make: Make,
        lease: Lease,
        replica: mpsc::Sender<ToReplica>,
    ) -> Self {
        Self {
            clock,
            config,
            make,
            reign: None,
            lease,
            replica,
            pace: Pace::default(),
            frameworks: BTreeMap::new(),
            agents: BTreeMap::new(),
            watchers: Vec::new(),
            store_watchers: Watchers::default(),
            waiting: BTreeMap::new(),
            next_request: 0,
            own: Vec::new(),
        }
    }

    /// Runs until told to stop, or until the replica is gone.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut news: mpsc::UnboundedReceiver<News>,
    ) -> Result<(), RunError> {
        let mut batch = Vec::with_capacity(TURN_MAX);
        loop {
            let acts = self.reign.is_none() || self.may_act();
            // Without a lease everybody waits, until it is renewed or the reign is over.
            let takes = acts && self.reign.as_ref().is_none_or(Reign::has_room);
            let nap = if takes { self.nap() } else { None };
            let woken = if takes && !self.own.is_empty() {
                Woken::Due
            } else {
                tokio::select! {
                    biased;
                    said = news.recv() => Woken::News(said),
                    n = events.recv_many(&mut batch, TURN_MAX), if takes => Woken::Events(n),
                    () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => Woken::Due,
                }
            };
            match woken {
                // It says why by itself.
                Woken::News(None) | Woken::Events(0) => return Ok(()),
                Woken::News(Some(said)) => {
                    self.hear(said);
                    while let Ok(said) = news.try_recv() {
                        self.hear(said);
                    }
                    self.propose().await;
                    self.act();
                    continue;
                }
                Woken::Events(_) | Woken::Due => {}
            }
            let now = self.clock.now();
            let n_events = batch.len();
            let (effects, stop) = self.turn(now, &mut batch);
            if let Some(reign) = &mut self.reign {
                self.pace.hold(reign.hold(effects));
            }
            self.propose().await;
            self.act();
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

    async fn propose(&mut self) {
        while let Some(next) = self.pace.next() {
            let Proposal {
                epoch,
                sequence,
                records,
                bytes: _,
            } = next;
            let proposal = ToReplica::Propose {
                epoch,
                sequence,
                records,
            };
            // The replica is gone only with its news, which are heard next.
            let _ = self.replica.send(proposal).await;
        }
    }

    /// How long the core has nothing to do by itself.
    fn nap(&self) -> Option<Duration> {
        let reign = self.reign.as_ref()?;
        let at = reign.core.next_deadline()?;
        Some(reign.machine_time(at).since(self.clock.now()))
    }

    /// Steps everything that is there, and the clock.
    fn turn(&mut self, now: Timestamp, batch: &mut Vec<Event>) -> (Step, Option<Done>) {
        let mut effects = Effects::none();
        let own = std::mem::take(&mut self.own);
        let time = self.reign.as_ref().map(|reign| reign.time_at(now));
        if let (Some(reign), Some(time)) = (&mut self.reign, time) {
            for input in own {
                effects.append(reign.core.step(time, input));
            }
        }
        let mut stop = None;
        for event in batch.drain(..) {
            if let Event::Stop(done) = event {
                stop = Some(done);
                break;
            }
            effects.append(self.take_in(now, event));
        }
        if let (Some(reign), Some(time)) = (&mut self.reign, time)
            && reign.core.next_deadline().is_some_and(|at| at <= time)
        {
            effects.append(reign.core.step(time, Input::Tick));
        }
        (effects, stop)
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Lead {
                epoch,
                term,
                registry,
                time,
            } => {
                let mut config = self.config.clone();
                // Ids of this reign begin with it and are never given again.
                config.info.id = uuid::Uuid::new_v4().to_string();
                let core = Core::new(config, time.0, *registry, (self.make)());
                self.pace = Pace::default();
                self.reign = Some(Reign::new(core, term, epoch, time));
            }
            News::Follow => self.abdicate(),
            News::Committed { epoch, sequence } => {
                if let Some(reign) = &mut self.reign {
                    reign.on_committed(epoch, sequence);
                    if epoch == reign.epoch {
                        self.pace.on_committed(sequence);
                    }
                }
            }
            News::Lease => {}
        }
    }

    /// Drops the core and everything that it was about to do or say.
    fn abdicate(&mut self) {
        self.reign = None;
        self.pace = Pace::default();
        self.own.clear();
        let why = || Status::unavailable("this master does not lead any more; find the leader");
        for outbox in std::mem::take(&mut self.frameworks).into_values() {
            outbox.cut(why());
        }
        for outbox in std::mem::take(&mut self.agents).into_values() {
            outbox.cut(why());
        }
        for outbox in std::mem::take(&mut self.watchers) {
            outbox.cut(why());
        }
        self.store_watchers.cut(why);
        // Whoever waits for an answer learns from its absence that nothing is certain.
        self.waiting.clear();
    }

    /// Whether nobody else can lead at this moment.
    fn may_act(&self) -> bool {
        let now = self.clock.now();
        let reign = self.reign.as_ref();
        reign.is_some_and(|reign| self.lease.is_valid(reign.epoch, now))
    }

    /// Performs what has become certain, as long as nobody else can lead.
    fn act(&mut self) {
        while self.may_act() {
            let ready = self.reign.as_mut().and_then(Reign::next_ready);
            let Some(effects) = ready else {
                return;
            };
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn take_in(&mut self, now: Timestamp, event: Event) -> Step {
        let Some(reign) = &mut self.reign else {
            refuse(event);
            return Effects::none();
        };
        let time = reign.time_at(now);
        match event {
            Event::Framework(conn, outbox) => {
                self.frameworks.insert(conn, outbox);
                reign.core.step(time, Input::FrameworkOpened { conn })
            }
            Event::Agent(conn, outbox) => {
                self.agents.insert(conn, outbox);
                reign.core.step(time, Input::AgentOpened { conn })
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
                reign.core.step(time, *input)
            }
            Event::Ask(request, answer) => self.ask(time, request, Waiting::Answer(answer)),
            Event::Watch(request, outbox) => {
                let waiting = if request.follow.unwrap_or(true) {
                    Waiting::Watcher(outbox)
                } else {
                    Waiting::Reader(outbox)
                };
                self.ask(time, Request::Events(request), waiting)
            }
            Event::StoreWatch(request, outbox) => {
                let waiting = Waiting::Store(Watcher::new(&request, outbox));
                self.ask(time, Request::StoreWatch(request), waiting)
            }
            Event::Stop(_) => Effects::none(),
        }
    }

    fn ask(&mut self, time: Timestamp, request: Request, waiting: Waiting) -> Step {
        let Some(reign) = &mut self.reign else {
            return Effects::none();
        };
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(id, waiting);
        reign.core.step(time, Input::Request { id, request })
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
            Effect::ToAgent { conn, mut message } => {
                let Some(outbox) = self.agents.get(&conn) else {
                    return;
                };
                // The fence: agents that heard a later leader refuse what an older one says.
                message.term = self.reign.as_ref().map(|reign| reign.term);
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
            Effect::StoreChanged(change) => self.store_watchers.show(&change),
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
            Some(Waiting::Store(watcher)) => self.store_watchers.add(watcher, reply),
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

/// Came through the door just before it closed.
fn refuse(event: Event) {
    match event {
        Event::Framework(_, outbox) => outbox.end(Err(not_leading(None))),
        Event::Agent(_, outbox) => outbox.end(Err(not_leading(None))),
        Event::Watch(_, outbox) => outbox.end(Err(not_leading(None))),
        Event::StoreWatch(_, outbox) => outbox.end(Err(not_leading(None))),
        // The end of the channel says that nothing is certain.
        Event::Ask(_, _) | Event::Input(_) | Event::Stop(_) => {}
    }
}
