//! Custom executors as they are connected: calls in, events out, through bounded queues.
//!
//! Who they are and what comes of their calls is decided by the core. An executor that does not
//! read its events loses its stream, never the agent its memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_proto::MESSAGE_LEN_MAX;
use allotment_proto::executor::{Call, Event, call, event};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::core::{CallRefusal, Input};

/// The largest call, in bytes.
pub(super) const CALL_LEN_MAX: usize = MESSAGE_LEN_MAX;
/// How many calls are read at the same time; with [`CALL_LEN_MAX`], a bound on their memory.
const READING_MAX: usize = 32;
/// Events that may wait for an executor that reads slowly; more end its stream.
const EVENTS_WAITING: usize = 4096;
/// Bytes of them past which messages of the framework, which may get lost, are not queued.
const MESSAGE_BYTES_WAITING: usize = 8 << 20;
/// So often an executor hears that its stream stands (Mesos: 30 min).
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);

/// Where executors come in.
#[derive(Debug, Clone)]
pub(super) struct ExecutorDoor {
    inside: Arc<Mutex<Inside>>,
    inputs: mpsc::Sender<Input>,
    /// A call without a token is refused before it is read.
    pub(super) authenticate: bool,
    /// Calls that may be read at the same time: anybody on the machine can begin one.
    pub(super) reading: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inside {
    n_calls: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<(), CallRefusal>>>,
    streams: BTreeMap<u64, Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    events: mpsc::Sender<Event>,
    bytes: Arc<AtomicUsize>,
}

/// Why a call had no effect.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Refused(#[from] CallRefusal),
    #[error("the agent is stopping; subscribe again once it is back")]
    Stopping,
}

/// The events of one subscription. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Events {
    number: u64,
    events: mpsc::Receiver<Event>,
    bytes: Arc<AtomicUsize>,
    heartbeat: Interval,
    door: ExecutorDoor,
}

impl ExecutorDoor {
    pub(super) fn new(inputs: mpsc::Sender<Input>, authenticate: bool) -> Self {
        Self {
            inside: Arc::default(),
            inputs,
            authenticate,
            reading: Arc::new(Semaphore::new(READING_MAX)),
        }
    }

    /// Brings a call to the core; the events that follow when it is SUBSCRIBE.
    pub(super) async fn call(
        &self,
        token: Option<String>,
        call: Call,
    ) -> Result<Option<Events>, CallError> {
        let subscribes = call.r#type() == call::Type::Subscribe;
        let (reply, answer) = oneshot::channel();
        let (number, events) = self.enter(reply, subscribes);
        let input = Input::ExecutorCall {
            number,
            token,
            call: Box::new(call),
        };
        let sent = self.inputs.send(input).await;
        if sent.is_err() {
            self.lock().waiting.remove(&number);
            return Err(CallError::Stopping);
        }
        match answer.await {
            Ok(Ok(())) => Ok(events),
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(_) => Err(CallError::Stopping),
        }
    }

    fn enter(
        &self,
        reply: oneshot::Sender<Result<(), CallRefusal>>,
        subscribes: bool,
    ) -> (u64, Option<Events>) {
        let mut inside = self.lock();
        inside.n_calls += 1;
        let number = inside.n_calls;
        inside.waiting.insert(number, reply);
        if !subscribes {
            return (number, None);
        }
        let (events, queue) = mpsc::channel(EVENTS_WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let outgoing = Outgoing {
            events,
            bytes: Arc::clone(&bytes),
        };
        inside.streams.insert(number, outgoing);
        let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = Events {
            number,
            events: queue,
            bytes,
            heartbeat,
            door: self.clone(),
        };
        (number, Some(events))
    }

    /// What came of a call.
    pub(super) fn answer(&self, number: u64, answer: Result<(), CallRefusal>) {
        if let Some(reply) = self.lock().waiting.remove(&number) {
            let _ = reply.send(answer);
        }
    }

    /// Queues an event.
    pub(super) fn send(&self, number: u64, event: Event) {
        let mut inside = self.lock();
        let Some(stream) = inside.streams.get(&number) else {
            return;
        };
        let len = event.encoded_len();
        let waiting = stream.bytes.load(Ordering::Relaxed);
        if event.r#type() == event::Type::Message && waiting + len > MESSAGE_BYTES_WAITING {
            tracing::debug!("an executor reads slowly; a message of its framework is dropped");
            return;
        }
        stream.bytes.fetch_add(len, Ordering::Relaxed);
        if stream.events.try_send(event).is_err() {
            tracing::warn!("an executor does not read its events; its stream is ended");
            inside.streams.remove(&number);
        }
    }

    /// Ends a stream after what is queued.
    pub(super) fn close(&self, number: u64) {
        self.lock().streams.remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing panics while it is held.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// The next event; `None` when the stream is to end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            event = self.events.recv() => {
                let event = event?;
                self.bytes.fetch_sub(event.encoded_len(), Ordering::Relaxed);
                Some(event)
            }
            _ = self.heartbeat.tick() => Some(Event {
                r#type: Some(event::Type::Heartbeat.into()),
                ..Default::default()
            }),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.door.close(self.number);
        let (inputs, number) = (self.door.inputs.clone(), self.number);
        // Its end may come on a thread without a runtime only when the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = inputs.send(Input::ExecutorClosed { number }).await;
            });
        }
    }
}
