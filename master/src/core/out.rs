//! What one step has decided so far: records, effects, and events for people.

use std::collections::VecDeque;
use std::sync::Arc;

use allotment_proto::allot::master_message::Message;
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, Effects, FrameworkId, TaskId, Timestamp};

use super::io::{ConnId, Effect, Refusal, Reply, RequestId};
use super::metrics::Counters;
use super::registry::{Record, StoreRecord};

/// How many events are kept for those who come later.
const EVENTS_KEPT: usize = 10_000;
/// How many of offers, apart, so that they do not drive out what is rarer.
const OFFER_EVENTS_KEPT: usize = 1000;

/// The ids an event is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct About<'a> {
    pub(super) agent: Option<&'a AgentId>,
    pub(super) framework: Option<&'a FrameworkId>,
    pub(super) task: Option<&'a TaskId>,
}

impl<'a> About<'a> {
    pub(super) fn agent(agent: &'a AgentId) -> Self {
        Self {
            agent: Some(agent),
            ..Self::default()
        }
    }

    pub(super) fn framework(framework: &'a FrameworkId) -> Self {
        Self {
            framework: Some(framework),
            ..Self::default()
        }
    }
}

/// Collects the outcome of a step; also holds what belongs to every step: the time, the ring of
/// recent events and the counters.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) now: Timestamp,
    pub(super) counters: Counters,
    effects: Effects<Record, Effect>,
    events: VecDeque<Arc<allot::ClusterEvent>>,
    offer_events: VecDeque<Arc<allot::ClusterEvent>>,
    sequence: u64,
}

impl Out {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            counters: Counters::default(),
            effects: Effects::none(),
            events: VecDeque::new(),
            offer_events: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn take(&mut self) -> Effects<Record, Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn persist(&mut self, record: Record) {
        self.effects.persist.push(record);
    }

    pub(super) fn send_framework(&mut self, conn: ConnId, event: scheduler::Event) {
        let event = Box::new(event);
        self.effects.then.push(Effect::ToFramework { conn, event });
    }

    pub(super) fn close_framework(&mut self, conn: ConnId, reason: String) {
        self.effects
            .then
            .push(Effect::CloseFramework { conn, reason });
    }

    /// Sends the final ERROR and ends the stream.
    pub(super) fn fail_framework(&mut self, conn: ConnId, message: String) {
        self.error(conn, message.clone());
        self.close_framework(conn, message);
    }

    /// The final ERROR; the caller ends the stream.
    pub(super) fn error(&mut self, conn: ConnId, message: String) {
        let mut event = event_of(scheduler::event::Type::Error);
        event.error = Some(scheduler::event::Error { message });
        self.send_framework(conn, event);
    }

    pub(super) fn update(&mut self, conn: ConnId, status: mesos::TaskStatus) {
        let mut event = event_of(scheduler::event::Type::Update);
        event.update = Some(scheduler::event::Update { status });
        self.counters.updates_sent += 1;
        self.send_framework(conn, event);
    }

    pub(super) fn reject_call(
        &mut self,
        conn: ConnId,
        call: scheduler::call::Type,
        message: String,
    ) {
        self.counters.calls_rejected += 1;
        let mut event = event_of(scheduler::event::Type::CallRejected);
        event.call_rejected = Some(Box::new(scheduler::event::CallRejected {
            call: call.into(),
            message,
        }));
        self.send_framework(conn, event);
    }

    pub(super) fn send_agent(&mut self, conn: ConnId, message: Message) {
        let message = allot::MasterMessage {
            message: Some(message),
            // Put in by whoever knows it.
            term: None,
        };
        self.effects.then.push(Effect::ToAgent { conn, message });
    }

    pub(super) fn close_agent(&mut self, conn: ConnId, reason: String) {
        self.effects.then.push(Effect::CloseAgent { conn, reason });
    }

    pub(super) fn reply(&mut self, to: RequestId, reply: Result<Reply, Refusal>) {
        self.effects.then.push(Effect::Reply { to, reply });
    }

    pub(super) fn store_changed(&mut self, change: StoreRecord) {
        self.effects
            .then
            .push(Effect::StoreChanged(Arc::new(change)));
    }

    pub(super) fn publish(&mut self, kind: impl Into<String>, about: About<'_>, message: String) {
        let event = self.event(kind.into(), about, message);
        keep(&mut self.events, EVENTS_KEPT, &event);
        self.effects.then.push(Effect::Publish(event));
    }

    pub(super) fn publish_offers(&mut self, kind: &str, about: About<'_>, message: String) {
        let event = self.event(kind.to_owned(), about, message);
        keep(&mut self.offer_events, OFFER_EVENTS_KEPT, &event);
        self.effects.then.push(Effect::Publish(event));
    }

    fn event(
        &mut self,
        kind: String,
        about: About<'_>,
        message: String,
    ) -> Arc<allot::ClusterEvent> {
        self.sequence += 1;
        Arc::new(allot::ClusterEvent {
            sequence: self.sequence,
            time: self.now.as_secs_f64(),
            kind,
            agent_id: about.agent.map(|id| id.as_str().to_owned()),
            framework_id: about.framework.map(|id| id.as_str().to_owned()),
            task_id: about.task.map(|id| id.as_str().to_owned()),
            message,
        })
    }

    pub(super) fn recent_events(&self) -> Vec<Arc<allot::ClusterEvent>> {
        let mut all: Vec<_> = self
            .events
            .iter()
            .chain(&self.offer_events)
            .cloned()
            .collect();
        all.sort_unstable_by_key(|event| event.sequence);
        all
    }
}

fn keep(
    ring: &mut VecDeque<Arc<allot::ClusterEvent>>,
    max: usize,
    event: &Arc<allot::ClusterEvent>,
) {
    if ring.len() >= max {
        ring.pop_front();
    }
    ring.push_back(Arc::clone(event));
}

/// An event of this type with nothing in it yet.
pub(super) fn event_of(kind: scheduler::event::Type) -> scheduler::Event {
    scheduler::Event {
        r#type: Some(kind.into()),
        ..Default::default()
    }
}
