//! The master as a state machine: facts in, effects out; no socket, clock or randomness.
//!
//! Each submodule is one idea: [`registry`] (what is durable), [`io`] (inputs and effects),
//! `subscribe` and `removal` (a framework's life), `checkin`, `register`, `adopt`
//! and `liveness` (an agent's life),
//! `wants` (what a framework wants to be offered), `offers`, `accept`, `launch` and `operations`
//! (resources on their way to tasks), `inverse` (resources asked back), `calls` and `reconcile`
//! (the other calls), `updates` (how tasks do), `shares`, `wishes` and `reserve` (what operators
//! set), `recovery` (waiting after a restart), `views`, `why`, `why_sharing` and `offer_news` (what operators
//! see), `kv` and `leases` (the store), `check` (the invariants).
//!
//! Who is offered what is left to the allocation module; see [`allotment_allocator`].

mod accept;
mod adopt;
mod agent;
mod attempts;
mod calls;
mod check;
mod checkin;
mod executors;
mod framework;
mod inverse;
pub mod io;
mod kv;
mod launch;
mod leases;
mod liveness;
mod metrics;
mod offer_news;
mod offers;
mod operations;
mod out;
mod reconcile;
mod recovery;
mod register;
pub mod registry;
mod removal;
mod reserve;
mod shares;
mod subscribe;
mod tally;
mod task;
mod timers;
mod updates;
mod views;
mod wants;
mod why;
mod why_sharing;
mod wishes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_proto::mesos;
use allotment_types::{AgentId, Effects, FrameworkId, Timestamp};

use agent::{Agent, AgentState};
use framework::{Checked, Framework, FrameworkState};
use inverse::InverseOffers;
pub use io::{ConnId, Effect, Input, Refusal, Reply, Request, RequestId};
use kv::Store;
pub use metrics::{Counters, Metrics};
use offers::Offers;
use out::{About, Out};
use recovery::Recovery;
use register::Session;
use registry::{Record, Registry};
use shares::Shares;
use tally::Tally;
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
    inverse: InverseOffers,
    shares: Shares,
    /// Set while nothing is offered after a restart.
    recovery: Option<Recovery>,
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
            inverse: InverseOffers::default(),
            shares: Shares::from_registry(&registry),
            recovery: None,
            store: Store::new(registry.store, registry.store_version, now),
            completed: VecDeque::new(),
            tombstones: VecDeque::new(),
            barred: BTreeSet::new(),
            next_framework: 0,
            next_agent: 0,
        };
        core.apply_shares();
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
        for (id, record) in &registry.wishes {
            core.recover_wish(id, record);
        }
        core.hold_off();
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
        // A clock that was set back since must not make it wait longer than it may.
        let since = record.disconnected_since.map_or(now, Timestamp::from_nanos);
        let since = since.min(now);
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
                let since = Timestamp::from_nanos(since).min(now);
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
        let mut agent = Agent::new(id.clone(), record.info, record.url, state);
        agent.version = record.version;
        self.agents.insert(id, agent);
    }

    fn recover_wish(&mut self, id: &AgentId, record: &registry::WishRecord) {
        if let Some(agent) = self.agents.get_mut(id) {
            agent.wish = wishes::Wish::from_record(record);
            if let Some(at) = agent.wish.back_at() {
                self.timers.set(at, Timer::MaintenanceOver(id.clone()));
            }
        }
    }

    /// Takes one fact in.
    ///
    /// Allocation rounds and everything timed happen on [`Input::Tick`] alone: send one whenever
    /// [`Self::next_deadline`] is reached, at the latest after the inputs that were waiting.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Effects<Record, Effect> {
        self.out.now = self.out.now.max(now);
        self.offers.begin_step();
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
        let (timer, offer) = (self.timers.next(), self.offers.next_expiry());
        [timer, offer, self.store.next_expiry(), round]
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
                Timer::MaintenanceOver(id) => self.on_maintenance_over(&id),
                Timer::RecoveryOver => self.on_recovery_over(),
            }
        }
        self.expire_offers();
        for deletion in self.store.expire(self.out.now) {
            self.on_store_changed(deletion);
        }
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
            Request::SetWeight(request) => {
                let set = self.operator_set_weight(&request)?;
                Ok(Reply::Role(Box::new(set)))
            }
            Request::SetQuota(request) => {
                let set = self.operator_set_quota(&request)?;
                Ok(Reply::Quota(Box::new(set)))
            }
            Request::SetAgent(request) => {
                let set = self.operator_set_agent(&request)?;
                Ok(Reply::Agent(Box::new(set)))
            }
            Request::SetMaintenance(request) => {
                let set = self.operator_set_maintenance(&request)?;
                Ok(Reply::Agent(Box::new(set)))
            }
            Request::Reserve(request) => {
                let set = self.operator_reserve(request)?;
                Ok(Reply::Agent(Box::new(set)))
            }
            Request::Unreserve(request) => {
                let set = self.operator_unreserve(request)?;
                Ok(Reply::Agent(Box::new(set)))
            }
            Request::Why(request) => self.why(&request).map(Reply::Why),
            Request::Events(request) => Ok(Reply::Events(if request.replay {
                self.out.recent_events()
            } else {
                Vec::new()
            })),
            Request::StoreCommit(request) => {
                let (version, record) = self.store.commit(self.out.now, request)?;
                if let Some(record) = record {
                    self.on_store_changed(record);
                }
                Ok(Reply::Committed(version))
            }
            Request::StoreWatch(request) => {
                let (entries, version) = self.store.watch(request)?;
                Ok(Reply::Watched { entries, version })
            }
            Request::StoreList(request) => Ok(Reply::Entries(self.store.list(&request))),
            Request::Metrics => Ok(Reply::Metrics(Box::new(self.metrics()))),
        }
    }

    fn on_store_changed(&mut self, change: registry::StoreRecord) {
        self.out.store_changed(change.clone());
        self.out.persist(Record::Store(change));
    }
}
