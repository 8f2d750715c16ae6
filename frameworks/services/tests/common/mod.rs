//! A small language for scenarios: an imaginary cluster around the pure core.
//!
//! Every step is checked: records reach the store before effects happen, a launch fits its
//! offer and is durable before it is said, task ids are never used twice.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_framework_sdk::api::{
    Attribute, AttributeValue, Call, Event, Offer, Reason, Source, Task, TaskState, Update,
};
use allotment_services::Config;
use allotment_services::core::answer::Answer;
use allotment_services::core::health::Outcome;
use allotment_services::core::why::AgentRoom;
use allotment_services::core::{Core, Effect, Input, Probe, Settings, constraint, request};
use allotment_types::{AgentId, Resources, TaskId, Timestamp};
use bytes::Bytes;
use serde_json::Value;

pub(crate) struct Agent {
    pub(crate) total: Resources,
    pub(crate) free: Resources,
    pub(crate) attributes: Vec<String>,
}

pub(crate) struct Live {
    pub(crate) task: Task,
    pub(crate) agent: AgentId,
    pub(crate) state: TaskState,
    pub(crate) kill_wanted: bool,
}

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) store: BTreeMap<String, Vec<u8>>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) tasks: BTreeMap<TaskId, Live>,
    pub(crate) wants_offers: bool,
    pub(crate) revives: usize,
    pub(crate) probes: Vec<Probe>,
    pub(crate) reconciled: Vec<TaskId>,
    pub(crate) settings: Settings,
    offers: BTreeMap<String, (AgentId, Resources)>,
    n_offers: u64,
    used_ids: BTreeSet<TaskId>,
    unacknowledged: BTreeMap<Bytes, TaskId>,
    n_updates: u64,
    answer: Option<Answer>,
    seed: u64,
}

impl World {
    /// A cluster without agents and a framework that is subscribed.
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let settings = Settings::from(&config);
        let mut world = Self {
            core: Core::new(settings.clone(), 7),
            now: Timestamp::from_secs(1_700_000_000),
            store: BTreeMap::new(),
            agents: BTreeMap::new(),
            tasks: BTreeMap::new(),
            wants_offers: false,
            revives: 0,
            probes: Vec::new(),
            reconciled: Vec::new(),
            settings,
            offers: BTreeMap::new(),
            n_offers: 0,
            used_ids: BTreeSet::new(),
            unacknowledged: BTreeMap::new(),
            n_updates: 0,
            answer: None,
            seed: 7,
        };
        world.subscribed();
        world
    }

    pub(crate) fn agent(mut self, name: &str, resources: &str) -> Self {
        self.add_agent(name, resources, &[]);
        self
    }

    pub(crate) fn add_agent(&mut self, name: &str, resources: &str, attributes: &[&str]) {
        let total: Resources = resources.parse().unwrap();
        let agent = Agent {
            free: total.clone(),
            total,
            attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
        };
        self.agents.insert(name.parse().unwrap(), agent);
    }

    pub(crate) fn subscribed(&mut self) {
        let framework = "F1".parse().unwrap();
        self.event(Event::Subscribed { framework });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.step(Input::Event(event));
    }

    pub(crate) fn step(&mut self, input: Input) {
        let effects = self.core.step(self.now, input);
        for record in effects.persist {
            match record.value {
                Some(value) => self.store.insert(record.key, value),
                None => self.store.remove(&record.key),
            };
        }
        for effect in effects.then {
            match effect {
                Effect::Call(call) => self.on_call(call),
                Effect::Answer { answer, .. } => {
                    assert!(self.answer.is_none(), "a request was answered twice");
                    self.answer = Some(answer);
                }
                Effect::Probe(probe) => self.probes.push(probe),
            }
        }
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Accept {
                agent,
                offers,
                tasks,
                ..
            } => {
                let mut held = Resources::EMPTY;
                for offer in offers {
                    let (on, resources) = self
                        .offers
                        .remove(offer.as_str())
                        .expect("an outstanding offer");
                    assert_eq!(on, agent);
                    held.add(&resources);
                }
                for task in tasks {
                    assert!(held.contains(&task.resources), "{} does not fit", task.id);
                    held.subtract(&task.resources);
                    assert!(self.used_ids.insert(task.id.clone()), "{} again", task.id);
                    let (instance, _) = task.id.as_str().rsplit_once("._app.").unwrap();
                    let key = format!("instance/{instance}");
                    assert!(self.store.contains_key(&key), "{key} is not durable");
                    let free = &mut self.agents.get_mut(&agent).unwrap().free;
                    free.subtract(&task.resources);
                    let live = Live {
                        agent: agent.clone(),
                        state: TaskState::TaskStaging,
                        kill_wanted: false,
                        task,
                    };
                    self.tasks.insert(live.task.id.clone(), live);
                }
            }
            Call::Decline { offers, .. } => {
                for offer in offers {
                    self.offers
                        .remove(offer.as_str())
                        .expect("an outstanding offer");
                }
            }
            Call::Revive => {
                self.wants_offers = true;
                self.revives += 1;
            }
            Call::Suppress => self.wants_offers = false,
            Call::Kill { task, .. } => {
                if let Some(live) = self.tasks.get_mut(&task) {
                    live.kill_wanted = true;
                }
            }
            Call::Acknowledge { uuid, task, .. } => {
                assert_eq!(self.unacknowledged.remove(&uuid), Some(task));
            }
            Call::Reconcile(tasks) => {
                self.reconciled
                    .extend(tasks.into_iter().map(|(task, _)| task));
            }
            unheard @ (Call::Operate { .. }
            | Call::Demand { .. }
            | Call::Update { .. }
            | Call::Message { .. }
            | Call::ShutdownExecutor { .. }
            | Call::AcceptInverse { .. }
            | Call::DeclineInverse { .. }
            | Call::Teardown) => panic!("services never says {unheard:?}"),
        }
    }

    /// A REST request; its answer.
    pub(crate) fn ask(&mut self, method: &str, target: &str, body: &str) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match request::read(method, path, query, body.as_bytes()) {
            Ok(request) => {
                if matches!(request, request::Request::Why { .. }) {
                    let rooms = self.rooms();
                    self.step(Input::Agents(rooms));
                }
                self.step(Input::Request { id: 1, request });
                self.answer.take().expect("an answer")
            }
            Err(answer) => answer,
        }
    }

    pub(crate) fn get(&mut self, target: &str) -> Value {
        let answer = self.ask("GET", target, "");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.body.unwrap()
    }

    pub(crate) fn post(&mut self, body: &str) -> Answer {
        self.ask("POST", "/v2/apps", body)
    }

    fn rooms(&self) -> Vec<AgentRoom> {
        self.agents
            .iter()
            .map(|(id, agent)| AgentRoom {
                id: id.to_string(),
                hostname: host(id),
                active: true,
                place: constraint::Place::from_texts(&host(id), &agent.attributes),
                total: agent.total.clone(),
                free: agent.free.clone(),
            })
            .collect()
    }

    /// Offers what is free on every agent, as one event.
    pub(crate) fn offer(&mut self) {
        let names: Vec<AgentId> = self.agents.keys().cloned().collect();
        self.offer_of(&names);
    }

    pub(crate) fn offer_of(&mut self, names: &[AgentId]) {
        let mut offers = Vec::new();
        for name in names {
            let agent = &self.agents[name];
            if agent.free.is_empty() {
                continue;
            }
            self.n_offers += 1;
            let id = format!("O{}", self.n_offers);
            self.offers
                .insert(id.clone(), (name.clone(), agent.free.clone()));
            let attributes = agent.attributes.iter().filter_map(|a| a.split_once(':'));
            offers.push(Offer {
                id: id.parse().unwrap(),
                agent: name.clone(),
                hostname: host(name),
                agent_url: "http://10.0.0.1:5051".to_owned(),
                role: "*".parse().unwrap(),
                resources: agent.free.clone(),
                attributes: attributes
                    .map(|(name, value)| Attribute {
                        name: name.to_owned(),
                        value: AttributeValue::Text(value.to_owned()),
                    })
                    .collect(),
                domain: None,
                unavailability: None,
            });
        }
        self.event(Event::Offers(offers));
        assert!(
            self.offers.is_empty(),
            "offers are answered in the turn they come in"
        );
    }

    /// Sends an update for a live task.
    pub(crate) fn update(&mut self, task: &TaskId, state: TaskState, message: &str) {
        self.update_because(task, state, message, None);
    }

    pub(crate) fn update_because(
        &mut self,
        task: &TaskId,
        state: TaskState,
        message: &str,
        reason: Option<Reason>,
    ) {
        self.say(task, state, message, reason, None);
    }

    /// The agent that checks a running task found this.
    pub(crate) fn found(&mut self, task: &TaskId, healthy: bool, message: &str) {
        let reason = Some(Reason::TaskHealthCheckStatusUpdated);
        self.say(task, TaskState::TaskRunning, message, reason, Some(healthy));
    }

    fn say(
        &mut self,
        task: &TaskId,
        state: TaskState,
        message: &str,
        reason: Option<Reason>,
        healthy: Option<bool>,
    ) {
        let live = self.tasks.get_mut(task).expect("a live task");
        live.state = state;
        let agent = live.agent.clone();
        if allotment_framework_sdk::api::TaskState::TaskUnreachable != state && is_terminal(state) {
            let live = self.tasks.remove(task).unwrap();
            if let Some(agent) = self.agents.get_mut(&agent) {
                agent.free.add(&live.task.resources);
            }
        }
        self.n_updates += 1;
        let uuid = Bytes::from(self.n_updates.to_string());
        self.unacknowledged.insert(uuid.clone(), task.clone());
        self.event(Event::Update(Update {
            task: task.clone(),
            agent: Some(agent),
            state,
            message: Some(message.to_owned()),
            reason,
            source: Source::Agent,
            exit: None,
            sandbox: None,
            healthy,
            timestamp: self.now.as_secs_f64(),
            uuid: Some(uuid),
        }));
        assert!(
            self.unacknowledged.is_empty(),
            "an update was not acknowledged"
        );
    }

    pub(crate) fn with_state(&self, state: TaskState) -> Vec<TaskId> {
        let tasks = self.tasks.values().filter(|live| live.state == state);
        tasks.map(|live| live.task.id.clone()).collect()
    }

    pub(crate) fn running(&self) -> Vec<TaskId> {
        self.with_state(TaskState::TaskRunning)
    }

    pub(crate) fn staging(&self) -> Vec<TaskId> {
        self.with_state(TaskState::TaskStaging)
    }

    pub(crate) fn kills(&self) -> Vec<TaskId> {
        let wanted = self.tasks.values().filter(|live| live.kill_wanted);
        wanted.map(|live| live.task.id.clone()).collect()
    }

    /// Everything that was launched runs.
    pub(crate) fn launches_run(&mut self) {
        for task in self.staging() {
            self.update(&task, TaskState::TaskRunning, "");
        }
    }

    /// Everything that was to be killed is dead.
    pub(crate) fn kills_end(&mut self) {
        for task in self.kills() {
            self.update(&task, TaskState::TaskKilled, "");
        }
    }

    /// Every probe that was asked for ends like this.
    pub(crate) fn probes_end(&mut self, outcome: &Outcome) {
        for probe in std::mem::take(&mut self.probes) {
            self.step(Input::Probed {
                task: probe.task,
                check: probe.check,
                outcome: outcome.clone(),
            });
        }
    }

    /// Time passes; deadlines on the way are met.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            turns += 1;
            assert!(turns < 10_000, "a deadline is never met");
            self.now = at.max(self.now);
            self.step(Input::Tick);
        }
        self.now = end;
    }

    /// Offers, launches, kills and good health until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200 {
            let before = (self.used_ids.len(), self.tasks.len());
            self.step(Input::Tick);
            if self.wants_offers {
                self.offer();
            }
            self.launches_run();
            self.step(Input::Tick);
            self.probes_end(&Outcome::Status(200));
            self.kills_end();
            if before == (self.used_ids.len(), self.tasks.len()) && self.kills().is_empty() {
                return;
            }
        }
        panic!("the cluster never settles");
    }

    /// The process dies and another takes over from the store.
    pub(crate) fn restart(&mut self) {
        self.seed += 1;
        let entries = self.store.clone();
        self.core = Core::load(self.settings.clone(), self.seed, entries).expect("a sound store");
        self.probes.clear();
        self.reconciled.clear();
        self.subscribed();
    }

    pub(crate) fn deployments(&mut self) -> usize {
        self.get("/v2/deployments").as_array().unwrap().len()
    }

    pub(crate) fn queue(&mut self) -> Value {
        self.get("/v2/queue")["queue"].clone()
    }

    /// `allot why`.
    pub(crate) fn why(&mut self, app: &str) -> Value {
        self.get(&format!("/v2/apps{app}/why"))
    }
}

fn host(agent: &AgentId) -> String {
    format!("host-{agent}")
}

fn is_terminal(state: TaskState) -> bool {
    use TaskState as S;
    !matches!(
        state,
        S::TaskStaging
            | S::TaskStarting
            | S::TaskRunning
            | S::TaskKilling
            | S::TaskUnreachable
            | S::TaskUnknown
    )
}

pub(crate) const AGENT: &str = "cpus:4; mem:4096; disk:10000; ports:[31000-31099]";
