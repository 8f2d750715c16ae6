//! Everything that the services framework decides, as one pure state machine.
//!
//! [`Core::step`] takes a fact and the time and says what to make durable and what to do.
//! It knows neither sockets nor clocks; randomness comes from a seed.
//!
//! - [`id`], [`app`], [`parse`], [`json`], [`answer`], [`label`], [`constraint`]: what apps are,
//!   how they are read and refused.
//! - [`deployment`], [`rolling`], `change`: how apps change.
//! - [`instance`], [`health`], [`backoff`], `converge`: what is wanted against what runs.
//! - [`place`], [`funnel`], `offers`: which offers are used, and why others are not.
//! - `events`: what the master and the probes report.
//! - [`request`], `reads`, `writes`, `view`, [`why`]: the REST API without HTTP.
//! - [`record`]: what is durable, and how a core is loaded from it.

pub mod answer;
pub mod app;
pub mod backoff;
mod change;
pub mod constraint;
mod converge;
pub mod deployment;
mod events;
pub mod funnel;
pub mod health;
pub mod id;
pub mod instance;
pub mod json;
pub mod label;
mod offers;
pub mod parse;
pub mod place;
mod reads;
pub mod record;
pub mod request;
mod rng;
pub mod rolling;
#[cfg(test)]
pub(crate) mod testing;
mod view;
pub mod why;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::{Call, Event};
use allotment_types::{AgentId, Effects, FrameworkId, Role, TaskId, Timestamp};

use answer::Answer;
use app::App;
use backoff::Backoff;
use constraint::Place;
use deployment::Deployment;
use funnel::Funnel;
use health::Outcome;
use id::{AppId, InstanceId, Version};
use instance::Instance;
pub use record::{LoadError, Record};
pub use request::Request;
use rng::Rng;
use why::AgentRoom;

/// What a core must know beside its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The framework's name, for answers.
    pub name: String,
    /// The master's address, for answers.
    pub master: String,
    /// The role it takes offers in.
    pub role: Role,
    /// First and last service port.
    pub service_ports: (u16, u16),
    /// How long what fits nothing is refused.
    pub decline_for: Duration,
    /// Until a launch that nothing is heard of is given up.
    pub launch_timeout: Duration,
    /// Between two attempts to kill.
    pub kill_retry: Duration,
    /// Between two reconciliations.
    pub reconcile_interval: Duration,
    /// The most deployments at once.
    pub deployments_max: usize,
}

impl From<&crate::Config> for Settings {
    fn from(config: &crate::Config) -> Self {
        Self {
            name: config.name.clone(),
            master: config.master.clone(),
            role: config.role.clone(),
            service_ports: (config.service_port_min, config.service_port_max),
            decline_for: config.decline_for,
            launch_timeout: config.launch_timeout,
            kill_retry: config.kill_retry,
            reconcile_interval: config.reconcile_interval,
            deployments_max: config.deployments_max,
        }
    }
}

/// Names a request until it is answered.
pub type RequestId = u64;

/// What a core is told.
#[derive(Debug)]
pub enum Input {
    /// Somebody asks over REST.
    Request {
        /// Comes back with the answer.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
    /// The master says something.
    Event(Event),
    /// A probe ended.
    Probed {
        /// From [`Effect::Probe`].
        task: TaskId,
        /// From [`Effect::Probe`].
        check: usize,
        /// How it ended.
        outcome: Outcome,
    },
    /// What agents there are and what they have free; asked for before `why` is answered.
    Agents(Vec<AgentRoom>),
    /// The master removed the framework while no process was there; its tasks are being killed.
    /// The next subscription makes a new one.
    Removed,
    /// A deadline passed.
    Tick,
}

/// What a core asks of the edge.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Say this to the master.
    Call(Call),
    /// Answer a request.
    Answer {
        /// Which.
        id: RequestId,
        /// With what.
        answer: Answer,
    },
    /// Ask an instance whether it is alive.
    Probe(Probe),
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Which task.
    pub task: TaskId,
    /// Which of its health checks.
    pub check: usize,
    /// The agent's address.
    pub address: String,
    /// The port.
    pub port: u16,
    /// HTTP: the path; `None`: only connect.
    pub path: Option<String>,
    /// Longer is a failure.
    pub timeout: Duration,
}

/// What an app that exists needs beside its definition.
#[derive(Debug)]
struct AppState {
    spec: Arc<App>,
    backoff: Backoff,
    funnel: Funnel,
    last_failure: Option<record::Failure>,
}

impl AppState {
    fn new(spec: Arc<App>) -> Self {
        Self {
            spec,
            backoff: Backoff::default(),
            funnel: Funnel::default(),
            last_failure: None,
        }
    }
}

/// The connection to the master, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Up,
    Away { reason: String },
}

/// What the master was last told about offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Unknown,
    Revived,
    Suppressed,
}

/// Counts for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Apps.
    pub apps: u64,
    /// Deployments under way.
    pub deployments: u64,
    /// Instances that wait for an offer.
    pub waiting: u64,
    /// Tasks launched and not yet running.
    pub staged: u64,
    /// Tasks running.
    pub running: u64,
    /// Tasks on agents that cannot be reached.
    pub unreachable: u64,
    /// Launches since the start of this process.
    pub launched: u64,
    /// Kills asked for since then, repetitions aside.
    pub killed: u64,
    /// Tasks that failed or finished since then.
    pub ended: u64,
    /// 1 while a master is connected.
    pub connected: u64,
}

/// The services framework's state and what follows from it.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    rng: Rng,
    framework: Option<FrameworkId>,
    link: Link,
    apps: BTreeMap<AppId, AppState>,
    /// Every definition that is still needed, by app and version.
    history: BTreeMap<AppId, BTreeMap<Version, Arc<App>>>,
    fleets: BTreeMap<AppId, BTreeMap<InstanceId, Instance>>,
    /// In the order of their making.
    deployments: BTreeMap<u64, Deployment>,
    next_deployment: u64,
    last_version: Version,
    wish: Wish,
    /// Something changed that filters of earlier offers may hide.
    news: bool,
    agents: BTreeMap<AgentId, Place>,
    /// Every value of each field over `agents`.
    seen: BTreeMap<String, BTreeSet<String>>,
    rooms: Option<Vec<AgentRoom>>,
    dirty: BTreeSet<AppId>,
    reconcile_at: Option<Timestamp>,
    /// When tasks that are unconfirmed are asked about again, and how long after that again.
    confirm: Option<(Timestamp, Duration)>,
    sizes: BTreeMap<String, usize>,
    stored: usize,
    counters: Stats,
    out: Effects<Record, Effect>,
}

impl Core {
    /// A core without apps. `seed` makes its uuids and its choices of ports.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let reason = "no master was reached yet".to_owned();
        Self {
            settings,
            rng: Rng::new(seed),
            framework: None,
            link: Link::Away { reason },
            apps: BTreeMap::new(),
            history: BTreeMap::new(),
            fleets: BTreeMap::new(),
            deployments: BTreeMap::new(),
            next_deployment: 0,
            last_version: Version::default(),
            wish: Wish::Unknown,
            news: false,
            agents: BTreeMap::new(),
            seen: BTreeMap::new(),
            rooms: None,
            dirty: BTreeSet::new(),
            reconcile_at: None,
            confirm: None,
            sizes: BTreeMap::new(),
            stored: 0,
            counters: Stats::default(),
            out: Effects::none(),
        }
    }

    /// The framework's id, once the master gave it; subscribe with it.
    pub fn framework(&self) -> Option<&FrameworkId> {
        self.framework.as_ref()
    }

    /// Takes in a fact.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Effects<Record, Effect> {
        match input {
            Input::Request { id, request } => {
                let answer = self.on_request(now, request);
                self.out.then.push(Effect::Answer { id, answer });
            }
            Input::Event(event) => self.on_event(now, event),
            Input::Probed {
                task,
                check,
                outcome,
            } => self.on_probed(now, &task, check, &outcome),
            Input::Agents(rooms) => self.rooms = Some(rooms),
            Input::Removed => self.on_removed(),
            Input::Tick => self.on_tick(now),
        }
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        use allotment_framework_sdk::api::TaskState as S;
        let mut stats = Stats {
            apps: self.apps.len() as u64,
            deployments: self.deployments.len() as u64,
            connected: u64::from(self.link == Link::Up),
            ..self.counters
        };
        for instance in self.fleets.values().flat_map(BTreeMap::values) {
            match instance.task.as_ref().map(|task| task.state) {
                None => stats.waiting += 1,
                Some(S::TaskStaging | S::TaskStarting) => stats.staged += 1,
                Some(S::TaskRunning) => stats.running += 1,
                Some(S::TaskUnreachable) => stats.unreachable += 1,
                Some(_) => {}
            }
        }
        stats
    }

    fn call(&mut self, call: Call) {
        self.out.then.push(Effect::Call(call));
    }

    fn fleet(&self, app: &AppId) -> impl Iterator<Item = &Instance> {
        self.fleets.get(app).into_iter().flat_map(BTreeMap::values)
    }

    fn instance_mut(&mut self, app: &AppId, id: &InstanceId) -> Option<&mut Instance> {
        self.fleets.get_mut(app)?.get_mut(id)
    }

    /// A version later than every one before.
    fn next_version(&mut self, now: Timestamp) -> Version {
        let version = Version(now.as_millis().max(self.last_version.0 + 1));
        self.last_version = version;
        version
    }
}
