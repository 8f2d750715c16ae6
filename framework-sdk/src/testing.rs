//! Drive a framework's core without a cluster.
//!
//! [`Harness`] plays the master and its agents for a closure that takes events and returns calls.
//! It holds the framework to the rules: an offer is used once, tasks fit into their offers, ids
//! are unique among live tasks. It knows one role and no filters: offers come when the test says
//! so, and what a real allocator would send is left to the simulator.
//!
//! ```
//! use allotment_framework_sdk::testing::Harness;
//! use allotment_framework_sdk::{Call, Command, Event, Task};
//!
//! // A framework that runs one task on the first offer it gets.
//! let mut launched = false;
//! let mut cluster = Harness::new(|_now, event| match event {
//!     Event::Offers(offers) if !launched => {
//!         launched = true;
//!         let (id, resources) = ("t1".parse().unwrap(), "cpus:1; mem:32".parse().unwrap());
//!         let task = Task::new(id, resources, Command::Shell("true".to_owned()));
//!         vec![Call::Accept {
//!             agent: offers[0].agent.clone(),
//!             offers: vec![offers[0].id.clone()],
//!             tasks: vec![task],
//!             refuse_for: None,
//!         }]
//!     }
//!     Event::Update(update) => update.acknowledgement().into_iter().collect(),
//!     _ => Vec::new(),
//! });
//! cluster.agent("a1", "cpus:4; mem:1024");
//! cluster.subscribed();
//! cluster.offer();
//! assert_eq!(cluster.launched(), ["t1"]);
//! cluster.finished("t1");
//! assert!(cluster.live().is_empty() && cluster.unacknowledged().is_empty());
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_proto::allot::TaskExit;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_types::{AgentId, FrameworkId, Lot, OfferId, Resources, Role, TaskId, Timestamp};
use bytes::Bytes;

use crate::api::{
    Call, Event, InverseOffer, Offer, Operation, Task, TaskState, Unavailability, Update,
};
use crate::carve::carve;
use crate::wants::{Demand, Wants};
use crate::wire;

/// A cluster of imaginary agents around a framework. Its methods panic, with a sentence, when the
/// framework breaks a rule or the test names what does not exist.
#[derive(Debug)]
pub struct Harness<F> {
    framework: F,
    now: Timestamp,
    id: FrameworkId,
    agents: BTreeMap<AgentId, Agent>,
    offers: BTreeMap<OfferId, (AgentId, Resources)>,
    tasks: BTreeMap<TaskId, Launched>,
    unacknowledged: BTreeMap<Bytes, TaskId>,
    events: VecDeque<Event>,
    calls: Vec<Call>,
    suppressed: bool,
    demands: BTreeMap<Role, Demand>,
    wants: Wants,
    asked_to_leave: BTreeMap<OfferId, AgentId>,
    leaving: BTreeMap<AgentId, bool>,
    torn_down: bool,
    counter: u64,
}

#[derive(Debug)]
struct Agent {
    free: Resources,
}

#[derive(Debug)]
struct Launched {
    agent: AgentId,
    task: Task,
    state: TaskState,
}

impl<F: FnMut(Timestamp, Event) -> Vec<Call>> Harness<F> {
    /// A cluster without agents.
    pub fn new(framework: F) -> Self {
        Self {
            framework,
            now: Timestamp::from_secs(1_000_000),
            id: parse("F1"),
            agents: BTreeMap::new(),
            offers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            events: VecDeque::new(),
            calls: Vec::new(),
            suppressed: false,
            demands: BTreeMap::new(),
            wants: Wants::default(),
            asked_to_leave: BTreeMap::new(),
            leaving: BTreeMap::new(),
            torn_down: false,
            counter: 0,
        }
    }

    /// What the clock says.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Time passes; nothing else happens.
    pub fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Adds an agent that has `resources`, such as "cpus:4; mem:1024; ports:[31000-31009]".
    pub fn agent(&mut self, name: &str, resources: &str) {
        let free = parse(resources);
        self.agents.insert(parse(name), Agent { free });
    }

    /// The framework hears that it is subscribed.
    pub fn subscribed(&mut self) {
        let framework = self.id.clone();
        self.deliver(Event::Subscribed { framework });
    }

    /// The framework loses its master; its offers are void.
    pub fn disconnected(&mut self) {
        for (_, (agent, resources)) in std::mem::take(&mut self.offers) {
            self.give_back(&agent, &resources);
        }
        let reason = "the test says so".to_owned();
        self.deliver(Event::Disconnected { reason });
    }

    /// Offers everything that is free, one offer for each agent; nothing while the framework
    /// suppresses offers.
    pub fn offer(&mut self) {
        if self.suppressed {
            return;
        }
        let mut offers = Vec::new();
        for (agent, state) in &mut self.agents {
            if state.free.is_empty() {
                continue;
            }
            self.counter += 1;
            let id: OfferId = parse(&format!("O{}", self.counter));
            let resources = std::mem::take(&mut state.free);
            self.offers
                .insert(id.clone(), (agent.clone(), resources.clone()));
            offers.push(Offer {
                id,
                agent: agent.clone(),
                hostname: agent.to_string(),
                agent_url: format!("http://{agent}:5051"),
                role: Role::star(),
                resources,
                attributes: Vec::new(),
                domain: None,
                unavailability: None,
            });
        }
        if !offers.is_empty() {
            self.deliver(Event::Offers(offers));
        }
    }

    /// Asks the framework to leave an agent that will be away from `after` on, for good.
    pub fn ask_to_leave(&mut self, name: &str, after: Duration) {
        let agent: AgentId = parse(name);
        assert!(
            self.agents.contains_key(&agent),
            "there is no agent {agent}"
        );
        self.counter += 1;
        let id: OfferId = parse(&format!("O{}", self.counter));
        self.asked_to_leave.insert(id.clone(), agent.clone());
        let unavailability = Unavailability {
            start: self.now + after,
            duration: None,
        };
        self.deliver(Event::InverseOffers(vec![InverseOffer {
            id,
            agent,
            unavailability,
        }]));
    }

    /// What the framework said when it was asked to leave this agent: whether it will.
    pub fn is_leaving(&self, name: &str) -> Option<bool> {
        self.leaving.get(&parse::<AgentId>(name)).copied()
    }

    /// What the framework would use in the harness' only role, as it said last.
    pub fn demand(&self) -> Option<&Demand> {
        self.demands.values().next()
    }

    /// What the framework wants to be offered, as it said last.
    pub fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Takes back every outstanding offer.
    pub fn rescind(&mut self) {
        for (offer, (agent, resources)) in std::mem::take(&mut self.offers) {
            self.give_back(&agent, &resources);
            self.deliver(Event::Rescinded(offer));
        }
    }

    /// The task's agent reports TASK_RUNNING.
    pub fn running(&mut self, task: &str) {
        self.update(task, TaskState::TaskRunning);
    }

    /// The task ends with exit code 0.
    pub fn finished(&mut self, task: &str) {
        self.ended(task, TaskState::TaskFinished, Some(0), None);
    }

    /// The task ends with `code`.
    pub fn failed(&mut self, task: &str, code: i32) {
        self.ended(task, TaskState::TaskFailed, Some(code), None);
    }

    /// The task ends because it was killed.
    pub fn killed(&mut self, task: &str) {
        self.ended(task, TaskState::TaskKilled, None, None);
    }

    /// The agent is gone, with its tasks.
    pub fn agent_lost(&mut self, name: &str) {
        let agent: AgentId = parse(name);
        assert!(
            self.agents.remove(&agent).is_some(),
            "there is no agent {agent}"
        );
        self.offers.retain(|_, (at, _)| *at != agent);
        self.deliver(Event::AgentLost(agent.clone()));
        let there = self.tasks.iter().filter(|(_, t)| t.agent == agent);
        for task in there.map(|(id, _)| id.to_string()).collect::<Vec<_>>() {
            self.ended(&task, TaskState::TaskGone, None, Some(Reason::AgentRemoved));
        }
    }

    /// The task's agent reports `state`.
    pub fn update(&mut self, task: &str, state: TaskState) {
        self.ended(task, state, None, None);
    }

    fn ended(&mut self, task: &str, state: TaskState, code: Option<i32>, reason: Option<Reason>) {
        let task: TaskId = parse(task);
        let Some(launched) = self.tasks.get_mut(&task) else {
            panic!("task {task} is not live, so it cannot become {state:?}");
        };
        launched.state = state;
        let agent = launched.agent.clone();
        if allotment_proto::convert::is_terminal(state)
            && let Some(launched) = self.tasks.remove(&task)
        {
            self.give_back(&agent, &launched.task.resources);
        }
        self.counter += 1;
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.counter.to_be_bytes());
        let uuid = Bytes::copy_from_slice(&uuid);
        self.unacknowledged.insert(uuid.clone(), task.clone());
        self.deliver(Event::Update(Update {
            task,
            agent: Some(agent),
            state,
            message: None,
            reason,
            source: Source::Agent,
            exit: code.map(|code| TaskExit {
                code: Some(code),
                ..TaskExit::default()
            }),
            sandbox: None,
            healthy: None,
            timestamp: self.now.as_secs_f64(),
            uuid: Some(uuid),
        }));
    }

    /// Hands any event to the framework and performs its calls.
    pub fn deliver(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let calls = (self.framework)(self.now, event);
            self.perform(calls);
        }
    }

    /// Performs calls that the framework made by itself, on a timer for example.
    pub fn perform(&mut self, calls: Vec<Call>) {
        for call in calls {
            assert!(
                !self.torn_down,
                "{} came after the teardown",
                wire::call_name(&call)
            );
            self.calls.push(call.clone());
            match call {
                Call::Accept {
                    agent,
                    offers,
                    tasks,
                    ..
                } => {
                    let mut pool = self.pool(&agent, &offers);
                    self.launch(&agent, &mut pool, tasks, true);
                    self.give_back(&agent, &pool);
                }
                Call::Operate {
                    agent,
                    offers,
                    operations,
                    ..
                } => self.operate(&agent, &offers, operations),
                Call::Demand { role, demand } => {
                    assert!(role == Role::star(), "a demand names role {role}");
                    match demand {
                        Some(demand) => self.demands.insert(role, demand),
                        None => self.demands.remove(&role),
                    };
                }
                Call::Update { wants, .. } => self.wants = wants,
                Call::AcceptInverse { offers, .. } => self.answer(offers, true),
                Call::DeclineInverse { offers, .. } => self.answer(offers, false),
                Call::Decline { offers, .. } => {
                    for offer in offers {
                        let (agent, resources) = self.take(&offer);
                        self.give_back(&agent, &resources);
                    }
                }
                Call::Acknowledge { uuid, task, .. } => {
                    let known = self.unacknowledged.remove(&uuid);
                    assert_eq!(known, Some(task), "this update is not to be acknowledged");
                }
                Call::Reconcile(tasks) => self.reconcile(tasks),
                Call::Revive => self.suppressed = false,
                Call::Suppress => self.suppressed = true,
                Call::Teardown => self.torn_down = true,
                Call::Kill { .. } | Call::Message { .. } | Call::ShutdownExecutor { .. } => {}
            }
        }
    }

    fn answer(&mut self, offers: Vec<OfferId>, leaving: bool) {
        for offer in offers {
            match self.asked_to_leave.remove(&offer) {
                Some(agent) => self.leaving.insert(agent, leaving),
                None => panic!("nothing was asked under {offer}"),
            };
        }
    }

    fn pool(&mut self, agent: &AgentId, offers: &[OfferId]) -> Resources {
        let mut pool = Resources::EMPTY;
        for offer in offers {
            let (at, resources) = self.take(offer);
            assert_eq!(at, *agent, "offer {offer} is of another agent");
            pool.add(&resources);
        }
        pool
    }

    fn operate(&mut self, agent: &AgentId, offers: &[OfferId], operations: Vec<Operation>) {
        let mut pool = self.pool(agent, offers);
        for operation in operations {
            let (from, to) = match operation {
                Operation::Launch(tasks) => {
                    self.launch(agent, &mut pool, tasks, false);
                    continue;
                }
                Operation::LaunchGroup { executor, tasks } => {
                    assert!(
                        pool.contains(&executor.resources),
                        "executor {} asks for {} but the offers hold only {pool}",
                        executor.id,
                        executor.resources
                    );
                    pool.subtract(&executor.resources);
                    self.launch(agent, &mut pool, tasks, false);
                    continue;
                }
                Operation::Reserve(to) => (unreserved(&to), to),
                Operation::Unreserve(from) => {
                    let to = unreserved(&from);
                    (from, to)
                }
                Operation::Create(to) => (to.relotted(Lot::without_volume), to),
                Operation::Destroy(from) => {
                    let to = from.relotted(Lot::without_volume);
                    (from, to)
                }
            };
            assert!(
                pool.contains(&from),
                "{from} should become {to} but the offers hold only {pool}"
            );
            pool.subtract(&from);
            pool.add(&to);
        }
        self.give_back(agent, &pool);
    }

    /// With `carved`, plain amounts may come from what is reserved.
    fn launch(&mut self, agent: &AgentId, pool: &mut Resources, tasks: Vec<Task>, carved: bool) {
        for mut task in tasks {
            let id = task.id.clone();
            if carved && let Some(taken) = carve(&mut pool.clone(), &task.resources) {
                task.resources = taken;
            }
            assert!(
                pool.contains(&task.resources),
                "task {id} asks {} but its offers hold only {pool}",
                task.resources
            );
            pool.subtract(&task.resources);
            let launched = Launched {
                agent: agent.clone(),
                task,
                state: TaskState::TaskStaging,
            };
            assert!(
                self.tasks.insert(id.clone(), launched).is_none(),
                "task id {id} is in use by a live task"
            );
        }
    }

    fn reconcile(&mut self, asked: Vec<(TaskId, Option<AgentId>)>) {
        let asked = if asked.is_empty() {
            self.tasks.keys().cloned().collect()
        } else {
            asked.into_iter().map(|(task, _)| task).collect::<Vec<_>>()
        };
        for task in asked {
            let known = self.tasks.get(&task);
            self.events.push_back(Event::Update(Update {
                agent: known.map(|launched| launched.agent.clone()),
                state: known.map_or(TaskState::TaskUnknown, |launched| launched.state),
                task,
                message: None,
                reason: Some(Reason::Reconciliation),
                source: Source::Master,
                exit: None,
                sandbox: None,
                healthy: None,
                timestamp: self.now.as_secs_f64(),
                uuid: None,
            }));
        }
    }

    fn take(&mut self, offer: &OfferId) -> (AgentId, Resources) {
        match self.offers.remove(offer) {
            Some(held) => held,
            None => panic!("offer {offer} is not outstanding: it was used, rescinded or voided"),
        }
    }

    fn give_back(&mut self, agent: &AgentId, resources: &Resources) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.free.add(resources);
        }
    }

    /// The calls made since the last look, in order.
    pub fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.calls)
    }

    /// The ids of the tasks launched since the last look at the calls, in order.
    pub fn launched(&mut self) -> Vec<String> {
        let calls = self.calls().into_iter();
        calls
            .flat_map(|call| match call {
                Call::Accept { tasks, .. } => tasks,
                Call::Operate { operations, .. } => {
                    let tasks = operations
                        .into_iter()
                        .filter_map(|operation| match operation {
                            Operation::Launch(tasks) | Operation::LaunchGroup { tasks, .. } => {
                                Some(tasks)
                            }
                            _ => None,
                        });
                    tasks.flatten().collect()
                }
                _ => Vec::new(),
            })
            .map(|task| task.id.to_string())
            .collect()
    }

    /// A live task as it was launched.
    pub fn task(&self, task: &str) -> &Task {
        match self.tasks.get(&parse::<TaskId>(task)) {
            Some(launched) => &launched.task,
            None => panic!("task {task} is not live"),
        }
    }

    /// The ids of live tasks, sorted.
    pub fn live(&self) -> Vec<String> {
        self.tasks.keys().map(ToString::to_string).collect()
    }

    /// The tasks with updates that were not acknowledged yet.
    pub fn unacknowledged(&self) -> Vec<String> {
        self.unacknowledged
            .values()
            .map(ToString::to_string)
            .collect()
    }

    /// How many offers the framework neither used nor declined.
    pub fn held_offers(&self) -> usize {
        self.offers.len()
    }

    /// Whether the framework wants no offers.
    pub fn is_suppressed(&self) -> bool {
        self.suppressed
    }

    /// Whether the framework is gone for good.
    pub fn is_torn_down(&self) -> bool {
        self.torn_down
    }
}

/// The same without the innermost reservation of each.
fn unreserved(resources: &Resources) -> Resources {
    resources.relotted(|lot| {
        lot.with(|info| {
            info.reservations.pop();
        })
    })
}

fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Display,
{
    match text.parse() {
        Ok(value) => value,
        Err(error) => panic!("{text:?}: {error}"),
    }
}
