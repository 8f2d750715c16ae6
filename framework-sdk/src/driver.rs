//! The connection between a framework and its master, on tokio; it keeps itself up.
//!
//! One task owns the [`Session`] and the stream. What to say and when to reconnect is the
//! session's; this file moves bytes, in batches.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use allotment_proto::allot::scheduler_client::SchedulerClient;
use allotment_proto::{MESSAGE_LEN_MAX, scheduler};
use allotment_types::FrameworkId;
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::api::{Call, Event};
use crate::channel;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::leader;
use crate::session::{Effect, Input, Session, Step};

/// How many messages are taken in one turn, in either direction.
const BATCH: usize = 256;
/// How long a clean stop waits for the last calls to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The framework has ended; no call reaches a master any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has ended; the call went nowhere")]
pub struct Ended;

/// A framework's subscription: hear events here, say calls here or through a [`Handle`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use allotment_framework_sdk::{Call, Config, Event, Scheduler};
///
/// let config = Config::new("127.0.0.1:5050", "declines everything");
/// let mut scheduler = Scheduler::connect(config)?;
/// while let Some(event) = scheduler.next().await {
///     if let Event::Offers(offers) = event {
///         let offers = offers.into_iter().map(|offer| offer.id).collect();
///         scheduler.call(Call::Decline { offers, refuse_for: None }).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Scheduler {
    events: mpsc::Receiver<Event>,
    /// Taken from `events` in one go, not handed out yet.
    taken: VecDeque<Event>,
    handle: Handle,
    framework: Arc<OnceLock<FrameworkId>>,
    task: JoinHandle<()>,
}

/// Says calls for a framework; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    calls: mpsc::Sender<Call>,
}

impl Handle {
    /// Says one call, in order. Waits when [`Config::calls_max`] calls wait already, so a
    /// framework that calls from the task that also reads events must keep reading them.
    ///
    /// # Errors
    /// [`Ended`] when the subscription is over.
    pub async fn call(&self, call: Call) -> Result<(), Ended> {
        self.calls.send(call).await.map_err(|_| Ended)
    }

    /// Says one call without waiting; gives it back when the queue is full or the subscription
    /// is over.
    ///
    /// # Errors
    /// The call that found no room.
    pub fn try_call(&self, call: Call) -> Result<(), Call> {
        self.calls
            .try_send(call)
            .map_err(mpsc::error::TrySendError::into_inner)
    }
}

impl Scheduler {
    /// Starts connecting and returns at once; the first event is [`Event::Subscribed`], or
    /// [`Event::Disconnected`] with what to check. Reconnects by itself from then on.
    ///
    /// # Errors
    /// [`ConfigError`] from [`Config::validate`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(config: Config) -> Result<Self, ConfigError> {
        // Frameworks that start together must not stay together: any seed will do.
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let session = Session::new(&config, seed)?;
        let (calls, calls_out) = mpsc::channel(config.calls_max);
        let (events_in, events) = mpsc::channel(config.events_max);
        let driver = Driver {
            session,
            clock: Clock::start(),
            calls: calls_out,
            events: events_in,
            undelivered: VecDeque::new(),
            undelivered_max: config.events_max.saturating_add(BATCH),
            unsent: VecDeque::new(),
            link: Link::Closed,
            framework: Arc::default(),
            ended: false,
        };
        Ok(Self {
            events,
            taken: VecDeque::new(),
            handle: Handle { calls },
            framework: driver.framework.clone(),
            task: tokio::spawn(driver.run()),
        })
    }

    /// The next event; `None` after [`Event::Error`], or once a [`Call::Teardown`] went through.
    ///
    /// Cancel-safe: an event is never lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        if self.taken.is_empty() {
            let mut batch = Vec::new();
            self.next_batch(&mut batch).await;
            self.taken.extend(batch);
        }
        self.taken.pop_front()
    }

    /// Appends all events that are here, waiting for the first; returns how many, 0 when the
    /// subscription is over. A framework with a pure core steps them all before it acts.
    ///
    /// Cancel-safe.
    pub async fn next_batch(&mut self, into: &mut Vec<Event>) -> usize {
        if !self.taken.is_empty() {
            let n = self.taken.len();
            into.extend(self.taken.drain(..));
            return n;
        }
        self.events.recv_many(into, BATCH).await
    }

    /// The framework's id, from the first [`Event::Subscribed`] on.
    pub fn framework(&self) -> Option<&FrameworkId> {
        self.framework.get()
    }

    /// Says one call; see [`Handle::call`].
    ///
    /// # Errors
    /// [`Ended`] when the subscription is over.
    pub async fn call(&self, call: Call) -> Result<(), Ended> {
        self.handle.call(call).await
    }

    /// Says calls in order, as a framework's core returns them.
    ///
    /// # Errors
    /// [`Ended`] when the subscription is over.
    pub async fn call_all(&self, calls: impl IntoIterator<Item = Call>) -> Result<(), Ended> {
        for call in calls {
            self.handle.call(call).await?;
        }
        Ok(())
    }

    /// Another way to say calls.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the framework for good: its tasks are killed, and its id is worth nothing any more.
    /// Returns once a master has confirmed it, which takes as long as no master is there.
    pub async fn teardown(mut self) {
        if self.call(Call::Teardown).await.is_ok() {
            let mut last = Vec::new();
            while self.next_batch(&mut last).await > 0 {
                last.clear();
            }
        }
    }

    /// Leaves without a teardown: says what was called so far, closes the stream and returns. The
    /// tasks live on for the failover timeout.
    pub async fn stop(self) {
        let Self {
            events,
            handle,
            task,
            taken: _,
            framework: _,
        } = self;
        // The driver notices the closed queue, and flushes.
        drop((events, handle));
        // A driver that panicked has nothing left to stop.
        let _ = task.await;
    }
}

type Events = Box<ReadyChunks<Streaming<scheduler::Event>>>;
type Opened = Result<Events, String>;

enum Link {
    Closed,
    Opening {
        connection: u64,
        out: mpsc::Sender<scheduler::Call>,
        opening: Pin<Box<dyn Future<Output = Opened> + Send>>,
    },
    Open {
        connection: u64,
        place: String,
        out: mpsc::Sender<scheduler::Call>,
        stream: Events,
    },
}

/// What the link had to say.
enum Heard {
    Opened(Opened),
    Batch(Vec<Result<scheduler::Event, tonic::Status>>),
    End,
}

impl Link {
    async fn next(&mut self) -> Heard {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening { opening, .. } => Heard::Opened(opening.await),
            Self::Open { stream, .. } => stream.next().await.map_or(Heard::End, Heard::Batch),
        }
    }

    fn out(&self) -> Option<&mpsc::Sender<scheduler::Call>> {
        match self {
            Self::Closed => None,
            Self::Opening { out, .. } | Self::Open { out, .. } => Some(out),
        }
    }
}

/// What woke the driver.
enum Turn {
    Calls(usize),
    Heard(Heard),
    /// The framework dropped its [`Scheduler`].
    Abandoned,
    /// There is room in a queue, or a deadline has come.
    Again,
}

struct Driver {
    session: Session,
    clock: Clock,
    calls: mpsc::Receiver<Call>,
    events: mpsc::Sender<Event>,
    /// Events that the framework's queue has no room for yet. The stream is not read meanwhile,
    /// so this holds one batch and what the session itself says; HTTP/2 flow control holds the
    /// rest back, until the master's own bound.
    undelivered: VecDeque<Event>,
    undelivered_max: usize,
    /// Messages that the stream has no room for yet; no call is taken meanwhile.
    unsent: VecDeque<scheduler::Call>,
    link: Link,
    framework: Arc<OnceLock<FrameworkId>>,
    ended: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut calls = Vec::with_capacity(BATCH);
        while !self.ended {
            self.flush();
            let deadline = self.session.next_deadline();
            let now = self.clock.now();
            if deadline.is_some_and(|at| at <= now) && self.undelivered.is_empty() {
                // What has arrived already counts before a heartbeat is missed.
                if !self.take_ready() {
                    let step = self.session.step(self.clock.now(), Input::Tick);
                    self.perform(step);
                }
                continue;
            }
            let wake = deadline.map(|at| self.clock.instant(at));
            // Only when the stream is behind: a clone of the sender is cheap, not free.
            let full = (!self.unsent.is_empty())
                .then(|| self.link.out().cloned())
                .flatten();
            let delivered = self.undelivered.is_empty();
            let takes_calls =
                self.unsent.is_empty() && self.undelivered.len() < self.undelivered_max;
            let turn = tokio::select! {
                n = self.calls.recv_many(&mut calls, BATCH), if takes_calls => Turn::Calls(n),
                heard = self.link.next(), if delivered => Turn::Heard(heard),
                () = self.events.closed() => Turn::Abandoned,
                // This task is the only sender: the room is still there in `flush`.
                _ = self.events.reserve(), if !delivered => Turn::Again,
                () = room(full.as_ref()), if full.is_some() => Turn::Again,
                () = sleep_until(wake), if delivered => Turn::Again,
            };
            match turn {
                Turn::Calls(0) | Turn::Abandoned => break,
                Turn::Calls(_) => self.take_calls(&mut calls),
                Turn::Heard(heard) => self.on_heard(heard),
                Turn::Again => {}
            }
        }
        self.leave(calls).await;
    }

    fn take_calls(&mut self, calls: &mut Vec<Call>) {
        let now = self.clock.now();
        for call in calls.drain(..) {
            let step = self.session.step(now, Input::Call(call));
            self.perform(step);
        }
    }

    /// Hands over what has room, without waiting.
    fn flush(&mut self) {
        while let Some(event) = self.undelivered.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.undelivered.push_front(event);
                break;
            }
        }
        let Some(out) = self.link.out() else {
            self.unsent.clear();
            return;
        };
        while let Some(call) = self.unsent.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(call)) = out.try_send(call) {
                self.unsent.push_front(call);
                break;
            }
        }
    }

    /// Takes what the link has right now; whether it had anything.
    fn take_ready(&mut self) -> bool {
        use futures_util::FutureExt;
        let heard = self.link.next().now_or_never();
        let any = heard.is_some();
        if let Some(heard) = heard {
            self.on_heard(heard);
        }
        any
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Opened(Ok(stream)) => {
                if let Link::Opening {
                    connection, out, ..
                } = std::mem::replace(&mut self.link, Link::Closed)
                {
                    self.link = Link::Open {
                        connection,
                        place: self.session.master_name().to_owned(),
                        out,
                        stream,
                    };
                }
            }
            Heard::Opened(Err(reason)) => self.on_closed(reason, false),
            Heard::Batch(batch) => {
                let Link::Open {
                    connection, place, ..
                } = &self.link
                else {
                    return;
                };
                let (connection, place) = (*connection, place.clone());
                let now = self.clock.now();
                for message in batch {
                    match message {
                        Ok(event) => {
                            let event = Box::new(event);
                            let input = Input::Received { connection, event };
                            let step = self.session.step(now, input);
                            self.perform(step);
                        }
                        Err(status) => {
                            let text = channel::status_text(&status);
                            // The master's way to say that it ends the stream on purpose, after
                            // everything that came before on it was dealt with.
                            let clean = status.code() == tonic::Code::FailedPrecondition;
                            self.on_closed(format!("master {place}: {text}"), clean);
                        }
                    }
                }
            }
            Heard::End => {
                let place = match &self.link {
                    Link::Open { place, .. } => place.clone(),
                    Link::Closed | Link::Opening { .. } => String::new(),
                };
                let reason = format!("master {place} closed the stream; it may be stopping");
                self.on_closed(reason, true);
            }
        }
    }

    fn on_closed(&mut self, reason: String, clean: bool) {
        let connection = match &self.link {
            Link::Closed => return,
            Link::Opening { connection, .. } | Link::Open { connection, .. } => *connection,
        };
        self.link = Link::Closed;
        let input = Input::Closed {
            connection,
            reason,
            clean,
        };
        let step = self.session.step(self.clock.now(), input);
        self.perform(step);
    }

    fn perform(&mut self, step: Step) {
        for effect in step.then {
            match effect {
                Effect::Connect {
                    connection,
                    master,
                    subscribe,
                } => self.open(connection, master, *subscribe),
                Effect::Disconnect => self.link = Link::Closed,
                Effect::Send(call) => self.unsent.push_back(*call),
                Effect::Deliver(event) => {
                    if let Event::Disconnected { reason } = &event {
                        // The framework is told, and says it in its own words.
                        tracing::debug!(%reason, "disconnected from the master");
                    }
                    if let Event::Subscribed { framework } = &event {
                        // A session keeps its id, so the first one is the one.
                        let _ = self.framework.set(framework.clone());
                    }
                    self.undelivered.push_back(event);
                }
                Effect::Refused(reason) => {
                    tracing::warn!(%reason, "refused what the master sent");
                }
                Effect::End => self.ended = true,
            }
        }
    }

    fn open(&mut self, connection: u64, master: String, subscribe: scheduler::Call) {
        let (out, calls) = mpsc::channel(BATCH);
        // The queue is new and holds more than one.
        let _ = out.try_send(subscribe);
        self.unsent.clear();
        let opening = Box::pin(async move {
            let leader = leader::connect(&master).await?;
            let mut client =
                SchedulerClient::new(leader.channel).max_decoding_message_size(MESSAGE_LEN_MAX);
            match client.connect(ReceiverStream::new(calls)).await {
                Ok(response) => Ok(Box::new(response.into_inner().ready_chunks(BATCH))),
                Err(status) => {
                    let place = leader.url.strip_prefix("http://").unwrap_or(&leader.url);
                    let text = channel::status_text(&status);
                    Err(format!("master {place} refused the stream: {text}"))
                }
            }
        });
        self.link = Link::Opening {
            connection,
            out,
            opening,
        };
    }

    /// Says what was called before everybody left, and closes the stream in good order.
    async fn leave(mut self, mut calls: Vec<Call>) {
        if self.ended {
            self.deliver_last().await;
            return;
        }
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            calls.push(call);
        }
        self.take_calls(&mut calls);
        let Link::Open {
            out, mut stream, ..
        } = std::mem::replace(&mut self.link, Link::Closed)
        else {
            return;
        };
        let unsent = std::mem::take(&mut self.unsent);
        let flushed = tokio::time::timeout(FLUSH_TIMEOUT, async move {
            for call in unsent {
                if out.send(call).await.is_err() {
                    break;
                }
            }
            drop(out);
            // The master ends its side once it has read ours to the end.
            while stream.next().await.is_some() {}
        });
        if flushed.await.is_err() {
            tracing::debug!("the master did not close the stream in time");
        }
    }

    async fn deliver_last(&mut self) {
        while let Some(event) = self.undelivered.pop_front() {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }
}

async fn room(out: Option<&mpsc::Sender<scheduler::Call>>) {
    match out {
        // A closed queue is noticed on the stream's other half.
        Some(out) if !out.is_closed() => drop(out.reserve().await),
        _ => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
