//! The master as a state machine: facts in, effects out; no socket, clock or randomness.
//!
//! Each submodule is one idea: [`registry`] (what is durable), [`io`] (inputs and effects),
//! `subscribe` and `removal` (a framework's life), `checkin`, `register`, `adopt`
//! and `liveness` (an agent's life),
//! `offers` and `accept` (resources on their way to tasks), `calls` and `reconcile` (the other
//! calls), `updates` (how tasks do), `views`, `why` and `offer_news` (what operators see), `kv` (the store),
//! `check` (the invariants).
//!
//! Who is offered what is left to the allocation module; see [`allotment_allocator`].

mod accept;
mod adopt;
mod agent;
mod calls;
mod check;
mod checkin;
mod framework;
pub mod io;
mod kv;
mod liveness;
mod metrics;
mod offer_news;
mod offers;
mod out;
mod reconcile;
mod register;
pub mod registry;
mod removal;
mod subscribe;
mod tally;
mod task;
mod timers;
mod updates;
mod views;
mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_proto::mesos;
use allotment_types::{AgentId, Effects, FrameworkId, Timestamp};

use agent::{Agent, AgentState, parse_url};
use framework::{Checked, Framework, FrameworkState};
pub use io::{ConnId, Effect, Input, Refusal, Reply, Request, RequestId};
use kv::Store;
pub use metrics::{Counters, Metrics};
use offers::Offers;
use out::{About, Out};
use register::Session;
use registry::{Record, Registry};
use timers::{Timer, Timers};

/// How long a new connection may take to say who it is.
const FIRST_WORD: Duration = Duration::from_secs(15);

/// How many removed frameworks are remembered with their tasks (Mesos: 50).
const COMPLETED_KEPT: usize = 50;

/// How many ids of removed frameworks are barred from subscribing again.
const TOMBSTONES_KEPT: usize = 1000;

/// What the core must know of its surroundings; see [`crate::Config`] for the meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreConfig {
    /// As frameworks hear it; its `id` names this run of the master and begins every id it gives.
    pub info: mesos::MasterInfo,
    /// The time between two heartbeats to a framework.
    pub heartbeat_interval: Duration,
    /// The time between two pings to an agent.
    pub agent_ping_interval: Duration,
    /// How many unanswered pings end a session.
    pub agent_ping_misses: u32,
    /// How long an agent may be silent.
    pub agent_timeout: Duration,
    /// How long an offer stands.
    pub offer_timeout: Duration,
    /// The least time between two rounds.
    pub allocation_coalesce: Duration,
    /// The most time between two rounds.
    pub allocation_interval: Duration,
}

/// A framework that is gone, with the tasks it ran.
#[derive(Debug)]
struct Completed {
    id: FrameworkId,
    name: String,
    ended: VecDeque<task::EndedTask>,
}

/// The master's state.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    started_at: Timestamp,
    allocator: Box<dyn Allocator>,
    out: Out,
    timers: Timers,
    frameworks: BTreeMap<FrameworkId, Framework>,
    /// Connections of frameworks; `None` until they subscribe.
    framework_conns: BTreeMap<ConnId, Option<FrameworkId>>,
    agents: BTreeMap<AgentId, Agent>,
    /// Connections of agents; `None` until they register.
    agent_conns: BTreeMap<ConnId, Option<Session>>,
    offers: Offers,
    store: Store,
    completed: VecDeque<Completed>,
    /// Ids that may not subscribe again, oldest first.
    tombstones: VecDeque<FrameworkId>,
    barred: BTreeSet<FrameworkId>,
    next_framework: u64,
    next_agent: u64,
}

impl Core {
    /// A master that starts at `now` with what an earlier one left in the registry.
    pub fn new(
        config: CoreConfig,
        now: Timestamp,
        registry: Registry,
        allocator: Box<dyn Allocator>,
    ) -> Self {
        let mut core = Self {
            offers: Offers::new(&config),
            config,
            started_at: now,
            allocator,
            out: Out::new(now),
            timers: Timers::default(),
            frameworks: BTreeMap::new(),
            framework_conns: BTreeMap::new(),
            agents: BTreeMap::new(),
            agent_conns: BTreeMap::new(),
            store: Store::new(registry.store, registry.store_version),
            completed: VecDeque::new(),
            tombstones: VecDeque::new(),
            barred: BTreeSet::new(),
            next_framework: 0,
            next_agent: 0,
        };
        let mut removed = Vec::new();
        for (id, record) in registry.frameworks {
            match record.removed_at {
                Some(at) => removed.push((at, id)),
                None => core.recover_framework(id, record),
            }
        }
        removed.sort_unstable();
        for (_, id) in removed {
            core.barred.insert(id.clone());
            core.tombstones.push_back(id);
        }
        for (id, record) in registry.agents {
            core.recover_agent(id, record);
        }
        core.out.publish(
            "master-started",
            About::default(),
            format!(
                "master {} started; it knows {} agents and {} frameworks from before",
                core.config.info.id,
                core.agents.len(),
                core.frameworks.len()
            ),
        );
        core
    }

    fn recover_framework(&mut self, id: FrameworkId, record: registry::FrameworkRecord) {
        // It was valid when it was written; one that no longer is must subscribe anew.
        let Ok(checked) = Checked::new(&record.info) else {
            return;
        };
        let now = self.out.now;
        let since = record.disconnected_since.map_or(now, Timestamp::from_nanos);
        // The time that the master itself was away is not held against the framework.
        let until = (since + checked.failover_timeout).max(now + self.config.agent_timeout);
        let state = FrameworkState::Recovered { since, until };
        let mut framework = Framework::new(id.clone(), record.info, checked, state);
        framework.registered = true;
        self.allocator.add_framework(&id, framework.spec());
        self.allocator.deactivate_framework(&id);
        self.timers.set(until, Timer::Failover(id.clone()));
        self.frameworks.insert(id, framework);
    }

    fn recover_agent(&mut self, id: AgentId, record: registry::AgentRecord) {
        let now = self.out.now;
        let state = match record.unreachable_since {
            Some(since) => {
                let since = Timestamp::from_nanos(since);
                let forgotten = since + liveness::UNREACHABLE_KEPT;
                self.timers
                    .set(forgotten, Timer::AgentForgotten(id.clone()));
                AgentState::Unreachable { since }
            }
            None => {
                let until = now + self.config.agent_timeout;
                self.timers.set(until, Timer::AgentSilent(id.clone()));
                AgentState::Recovering { since: now, until }
            }
        };
        let total = allotment_proto::convert::resources_from_wire(&record.info.resources)
            .unwrap_or_default();
        let agent = Agent {
            hostname: record.info.hostname.as_str().into(),
            url: record.url.as_str().into(),
            wire_url: parse_url(&record.url),
            version: record.version,
            info: record.info,
            total,
            state,
            tasks: BTreeSet::new(),
            offers: BTreeSet::new(),
            allocated: allotment_types::Resources::EMPTY,
            offered: allotment_types::Resources::EMPTY,
            id: id.clone(),
        };
        self.agents.insert(id, agent);
    }

    /// Takes one fact in.
    ///
    /// Allocation rounds and everything timed happen on [`Input::Tick`] alone: send one whenever
    /// [`Self::next_deadline`] is reached, at the latest after the inputs that were waiting.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Effects<Record, Effect> {
        self.out.now = self.out.now.max(now);
        match input {
            Input::Tick => self.on_tick(),
            Input::FrameworkOpened { conn } => {
                self.framework_conns.insert(conn, None);
                let at = self.out.now + FIRST_WORD;
                self.timers.set(at, Timer::FrameworkMute(conn));
            }
            Input::FrameworkCall { conn, call } => self.on_framework_call(conn, call),
            Input::FrameworkClosed { conn } => self.on_framework_closed(conn),
            Input::AgentOpened { conn } => {
                self.agent_conns.insert(conn, None);
                let at = self.out.now + FIRST_WORD;
                self.timers.set(at, Timer::AgentMute(conn));
            }
            Input::AgentMessage { conn, message } => self.on_agent_message(conn, message),
            Input::AgentClosed { conn } => self.on_agent_closed(conn),
            Input::Request { id, request } => {
                let reply = self.on_request(request);
                self.out.reply(id, reply);
            }
        }
        self.out.take()
    }

    /// When the next [`Input::Tick`] matters; may lie in the past when a round is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let round = self.next_round();
        [self.timers.next(), self.offers.next_expiry(), round]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_tick(&mut self) {
        while let Some(timer) = self.timers.pop_due(self.out.now) {
            match timer {
                Timer::FrameworkMute(conn) => self.on_framework_mute(conn),
                Timer::AgentMute(conn) => self.on_agent_mute(conn),
                Timer::Heartbeat(conn) => self.on_heartbeat(conn),
                Timer::Ping(conn) => self.on_ping_due(conn),
                Timer::OfferNews(id) => self.on_offer_news_due(&id),
                Timer::Failover(id) => self.on_failover_timeout(&id),
                Timer::AgentSilent(id) => self.on_agent_silent(&id),
                Timer::AgentForgotten(id) => self.on_agent_forgotten(&id),
            }
        }
        self.expire_offers();
        if self.next_round().is_some_and(|at| at <= self.out.now) {
            self.allocate();
        }
    }

    fn on_request(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::GetCluster => Ok(Reply::Cluster(self.cluster_view())),
            Request::ListAgents => Ok(Reply::Agents(self.agent_views())),
            Request::ListFrameworks => Ok(Reply::Frameworks(self.framework_views())),
            Request::ListTasks(request) => self.task_views(&request).map(Reply::Tasks),
            Request::ListRoles => Ok(Reply::Roles(self.role_views())),
            Request::KillTask(request) => self.operator_kill(&request).map(|()| Reply::Done),
            Request::RemoveFramework(request) => {
                self.operator_remove(&request).map(|()| Reply::Done)
            }
            Request::Why(request) => self.why(&request.subject).map(Reply::Why),
            Request::Events(request) => Ok(Reply::Events(if request.replay {
                self.out.recent_events()
            } else {
                Vec::new()
            })),
            Request::StoreCommit(request) => {
                let (version, record) = self.store.commit(request)?;
                if let Some(record) = record {
                    self.out.persist(record);
                }
                Ok(Reply::Committed(version))
            }
            Request::StoreList(request) => Ok(Reply::Entries(self.store.list(&request))),
            Request::Metrics => Ok(Reply::Metrics(Box::new(self.metrics()))),
        }
    }
}
