//! What an agent decides: when to register, what to start and end, what to report.
//!
//! - [`io`]: what goes in and comes out.
//! - [`session`]: finding a master and staying registered with it.
//! - [`task`]: the life of one task and its stream of status updates.
//! - `executor`: the life of one executor; `executors`: what is said to and by custom ones;
//!   `groups`: the default executor, which the agent plays itself.
//! - [`check`]: whether it does what it should.
//! - [`confinement`]: what a task asks of its container beyond a command.
//! - [`enter`]: further programs beside a task; [`nested`]: those that nobody listens to.
//! - `garbage`: how long sandboxes are kept.
//! - [`sandbox`]: names of containers, and where their files lie.
//! - [`launch`]: from a task as the wire describes it to a container, or to a refusal.
//! - [`logs`]: how large its output may grow.
//! - [`checkpoint`]: what an earlier run wrote down; [`recover`]: going on from there.
//! - [`volumes`]: reservations and volumes, made at run time.
//! - [`random`]: the seeded generator behind ids and jitter.
//! - `register`: what the agent says of itself when it comes to a master.
//!
//! [`Core`] is input and time in, effects out. How processes are started, files fetched and
//! bytes sent is left to the edge.

pub mod check;
pub mod checkpoint;
pub mod confinement;
pub mod enter;
mod executor;
mod executors;
mod garbage;
mod groups;
pub mod io;
pub mod launch;
pub mod logs;
pub mod nested;
pub mod random;
pub mod recover;
mod register;
pub mod sandbox;
pub mod session;
pub mod task;
pub mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_proto::{allot, mesos};
use allotment_types::{AgentId, Effects, ExecutorId, FrameworkId, Resources, TaskId, Timestamp};

pub use check::{Probe, Probed, Which};
pub use checkpoint::{Checkpoint, Earlier};
pub use confinement::Confinement;
pub use enter::{Attachable, Command, NoEntry};
pub use executor::ExecutorSettings;
use executor::{Executor, ExecutorKey, Kind};
pub use executors::CallRefusal;
use executors::Launcher;
pub use io::{Counts, Effect, Input, Outcome, Overview, Record, Settings, outlasts_power, tells};
pub use launch::Launch;
pub use logs::{LogBound, LogBounds};
pub use nested::{
    Done, Harshness, NestedEnd, NestedId, NestedOrder, NestedState, NestedView, Nesting,
};
use random::Random;
pub use recover::Shrunk;
pub use sandbox::{ContainerId, Owner, SandboxId};
use session::Session;
use task::{Host, Kill, Task};

/// How long an agent that leaves for good waits for frameworks to acknowledge what it has told them,
/// so that it can tell them the rest.
const TELLING_MAX: Duration = Duration::from_secs(2);

type Step = Effects<Record, Effect>;
type Key = (FrameworkId, TaskId);

/// The whole state of one agent.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    random: Random,
    agent: Option<AgentId>,
    session: Session,
    tasks: BTreeMap<Key, Task>,
    containers: BTreeMap<ContainerId, Key>,
    /// When each task next has something to do, so that a step costs the same with ten tasks
    /// and with ten thousand.
    deadlines: BTreeSet<(Timestamp, Key)>,
    frameworks: BTreeMap<FrameworkId, Framework>,
    executors: BTreeMap<ExecutorKey, Executor>,
    executor_containers: BTreeMap<ContainerId, ExecutorKey>,
    /// Streams that custom executors have open.
    executor_streams: BTreeMap<u64, ExecutorKey>,
    executor_deadlines: BTreeSet<(Timestamp, ExecutorKey)>,
    nested: nested::Books,
    free: Resources,
    /// Sandboxes of ended tasks by the time of their deletion.
    collect_at: BTreeMap<(Timestamp, SandboxId), AgentId>,
    /// By how much earlier they go because the disk is full.
    collect_early: Duration,
    stopping: Stopping,
    counts: Counts,
}

/// A framework with tasks or executors here.
#[derive(Debug)]
struct Framework {
    info: mesos::FrameworkInfo,
    /// Its tasks and executors.
    n_users: usize,
}

impl Framework {
    fn can(&self, wanted: mesos::framework_info::capability::Type) -> bool {
        launch::can(&self.info, wanted)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// Killing tasks.
    Ending,
    /// Nothing runs any more, but how something ended was not told yet: each task's updates go one
    /// at a time.
    Telling {
        /// For no longer than this.
        until: Timestamp,
    },
    Done,
}

impl Core {
    /// An agent without tasks. `agent` is the id of an earlier run.
    fn new(settings: Settings, agent: Option<AgentId>, seed: u64, now: Timestamp) -> Self {
        // A generator of its own, for the other one's numbers are told to nobody.
        let process = Random::new(!seed).next_u64();
        let random = Random::new(seed);
        let session = Session::new(now, process);
        Self {
            free: settings.resources.clone(),
            settings,
            random,
            agent,
            session,
            tasks: BTreeMap::new(),
            containers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            frameworks: BTreeMap::new(),
            executors: BTreeMap::new(),
            executor_containers: BTreeMap::new(),
            executor_streams: BTreeMap::new(),
            executor_deadlines: BTreeSet::new(),
            nested: nested::Books::default(),
            collect_at: BTreeMap::new(),
            collect_early: Duration::ZERO,
            stopping: Stopping::No,
            counts: Counts::default(),
        }
    }

    /// Takes in one fact.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Step {
        let mut step = Step::none();
        match input {
            Input::Tick => {}
            Input::Connected { session } => self.on_connected(now, session, &mut step),
            Input::Disconnected { session } => {
                self.session
                    .on_disconnected(now, session, &self.settings, &mut self.random);
            }
            Input::Master { session, message } => {
                self.on_master(now, session, message, &mut step);
            }
            Input::Started { container, pid } => self.on_started(now, &container, pid, &mut step),
            Input::Ended {
                container,
                outcome,
                sandbox,
            } => self.on_ended(now, container, (outcome, sandbox), &mut step),
            Input::ExecutorCall {
                number,
                token,
                call,
            } => self.on_executor_call(now, (number, token), *call, &mut step),
            Input::ExecutorClosed { number } => self.on_executor_closed(now, number, &mut step),
            Input::Nested { number, id, order } => {
                self.on_nested_order(number, &id, order, &mut step);
            }
            Input::Probed {
                container,
                which,
                probed,
            } => self.on_probed(now, &container, which, &probed, &mut step),
            Input::SandboxFound {
                sandbox,
                agent,
                modified,
            } => {
                if !self.is_in_use(&sandbox) {
                    let at = modified + self.settings.gc_delay;
                    self.collect_at.insert((at, sandbox), agent);
                }
            }
            Input::DiskUsage { used_permille } => {
                self.collect_early = garbage::early(&self.settings, used_permille);
            }
            Input::Stop => self.on_stop(now, &mut step),
            Input::Leave => self.on_leave(&mut step),
        }
        self.act_on_time(now, &mut step);
        step
    }

    /// When [`Input::Tick`] next matters.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.stopping == Stopping::Done {
            return None;
        }
        self.deadlines
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(self.executor_deadlines.first().map(|(at, _)| *at))
            .chain(self.session.next_deadline())
            .chain(match self.stopping {
                Stopping::Telling { until } => Some(until),
                Stopping::No | Stopping::Ending | Stopping::Done => None,
            })
            .chain(self.next_collection())
            .min()
    }

    /// What there is to see.
    pub fn overview(&self) -> Overview {
        let count = |wanted: fn(&Task) -> bool| self.tasks.values().filter(|t| wanted(t)).count();
        Overview {
            agent: self.agent.clone(),
            registered: self.session.registered(),
            tasks_starting: count(Task::is_starting),
            tasks_running: count(Task::is_running),
            tasks_killing: count(Task::is_killing),
            tasks_recovering: count(Task::is_recovering),
            executors: self.executors.len(),
            updates_pending: self.tasks.values().map(Task::n_pending).sum(),
            sandboxes_kept: self.collect_at.len(),
            total: self.settings.resources.clone(),
            free: self.free.clone(),
            counts: self.counts,
        }
    }

    /// Whether anything of a task runs here or is about to.
    pub fn is_live(&self, framework: &FrameworkId, task: &TaskId) -> bool {
        let key = (framework.clone(), task.clone());
        self.tasks.get(&key).is_some_and(|task| !task.is_ended())
    }

    /// The custom executor that has a task, while anything of it is known here.
    pub fn custom_executor_of(&self, framework: &FrameworkId, task: &TaskId) -> Option<ExecutorId> {
        match self.tasks.get(&(framework.clone(), task.clone()))?.host() {
            Host::Executor(hosted) => Some(hosted.executor.clone()),
            Host::Alone | Host::Group { .. } => None,
        }
    }

    /// The task of a container in which something runs or is about to.
    pub fn task_of(&self, container: &ContainerId) -> Option<(FrameworkId, TaskId)> {
        self.containers.get(container).cloned()
    }

    fn act_on_time(&mut self, now: Timestamp, step: &mut Step) {
        if self.stopping != Stopping::Done
            && let Some(effect) = self
                .session
                .act_on_time(now, &self.settings, &mut self.random)
        {
            step.then.push(effect);
        }
        let online = self.session.current_registered();
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
            && let Some((_, key)) = self.deadlines.pop_first()
        {
            self.settle(now, &key, step);
        }
        while let Some((at, _)) = self.executor_deadlines.first()
            && *at <= now
            && let Some((_, key)) = self.executor_deadlines.pop_first()
        {
            self.settle_executor(now, &key, step);
        }
        self.collect_garbage(now, step);
        let empty =
            self.containers.is_empty() && self.executors.is_empty() && !self.nested.any_live();
        if self.stopping == Stopping::Ending && empty {
            let until = now + TELLING_MAX;
            self.stopping = Stopping::Telling { until };
        }
        if let Stopping::Telling { until } = self.stopping
            && (until <= now || online.is_none() || !self.tasks.values().any(Task::has_unsent))
        {
            self.stopping = Stopping::Done;
            if let Some(session) = online {
                send(
                    step,
                    session,
                    allot::agent_message::Message::Unregister(allot::Unregister {}),
                );
            }
            step.then.push(Effect::Stopped);
        }
    }

    /// Lets a task that changed do what is due, notes when it is due again, and drops it once
    /// nothing runs and nothing is left to say.
    fn settle(&mut self, now: Timestamp, key: &Key, step: &mut Step) {
        let online = self.session.current_registered();
        let tells_killing = self.tells_killing(&key.0);
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if let Some(at) = task.noted_deadline.take() {
            self.deadlines.remove(&(at, key.clone()));
        }
        let defaults = (self.settings.kill_grace, tells_killing);
        task.act_on_time(now, online, &mut self.random, defaults, &mut step.then);
        let changed = task.take_changed() && !task.is_untouched();
        if task.is_over() {
            step.persist.push(Record::Over(allot::TaskOver {
                framework_id: (&key.0).into(),
                task_id: (&key.1).into(),
            }));
            self.tasks.remove(key);
            self.unuse_framework(&key.0);
            return;
        }
        if changed {
            step.persist.push(Record::Progress(task.progress()));
        }
        if let Some(at) = task.next_deadline(online.is_some()) {
            task.noted_deadline = Some(at);
            self.deadlines.insert((at, key.clone()));
        }
    }

    /// One more task or executor of a framework is here.
    fn use_framework(&mut self, id: &FrameworkId) {
        if let Some(framework) = self.frameworks.get_mut(id) {
            framework.n_users += 1;
        }
    }

    /// One of them is gone.
    fn unuse_framework(&mut self, id: &FrameworkId) {
        if let Some(framework) = self.frameworks.get_mut(id) {
            framework.n_users = framework.n_users.saturating_sub(1);
            if framework.n_users == 0 {
                self.frameworks.remove(id);
            }
        }
    }

    fn settle_all(&mut self, now: Timestamp, step: &mut Step) {
        let keys: Vec<Key> = self.tasks.keys().cloned().collect();
        for key in keys {
            self.settle(now, &key, step);
        }
    }

    fn on_master(
        &mut self,
        now: Timestamp,
        session: u64,
        message: allot::MasterMessage,
        step: &mut Step,
    ) {
        use allot::master_message::Message;
        if !self.session.on_heard(now, session) {
            return;
        }
        match message.message {
            Some(Message::Registered(registered)) => {
                self.on_registered(now, session, &registered, step);
            }
            Some(Message::Rejected(rejected)) => {
                let reason = format!("the master refused this agent: {}", rejected.message);
                step.then.push(Effect::Disconnect { session, reason });
                self.session
                    .on_rejected(now, session, &self.settings, &mut self.random);
            }
            Some(Message::Ping(ping)) => {
                let sequence = ping.sequence;
                send(
                    step,
                    session,
                    allot::agent_message::Message::Pong(allot::Pong { sequence }),
                );
            }
            Some(Message::Launch(launch)) => self.on_launch(now, launch, step),
            Some(Message::ApplyResources(apply)) => self.on_apply_resources(&apply, step),
            Some(Message::Kill(kill)) => self.on_kill(now, &kill, step),
            Some(Message::Acknowledge(acknowledge)) => self.on_acknowledge(now, &acknowledge, step),
            Some(Message::ShutdownFramework(shutdown)) => {
                if let Ok(framework) = FrameworkId::try_from(&shutdown.framework_id) {
                    self.on_shutdown_framework(now, &framework, step);
                }
            }
            Some(Message::ExecutorMessage(message)) => self.on_framework_message(message, step),
            Some(Message::ShutdownExecutor(shutdown)) => {
                self.on_shutdown_executor(now, &shutdown, step);
            }
            // A newer master; what it cannot do without, it negotiates at registration.
            None => {}
        }
    }

    fn on_registered(
        &mut self,
        now: Timestamp,
        session: u64,
        registered: &allot::Registered,
        step: &mut Step,
    ) {
        let agent = match AgentId::try_from(&registered.agent_id) {
            Ok(agent) => agent,
            Err(error) => {
                let reason = format!("the master gave this agent an id that is none: {error}");
                step.then.push(Effect::Disconnect { session, reason });
                return;
            }
        };
        self.session
            .on_registered(now, registered.ping_timeout_seconds);
        if self.agent.as_ref() != Some(&agent) {
            self.agent = Some(agent);
            step.persist.push(self.agent_record());
        }
        for task in self.tasks.values_mut() {
            task.on_new_session();
        }
        self.settle_all(now, step);
    }

    fn on_launch(&mut self, now: Timestamp, launch: allot::Launch, step: &mut Step) {
        let Some(agent) = self.agent.clone() else {
            return;
        };
        let id = launch.framework.id.as_ref().map(FrameworkId::try_from);
        let Some(Ok(framework)) = id else {
            step.then.push(Effect::Warn(
                "the master sent a launch without a usable framework id; it is ignored".to_owned(),
            ));
            return;
        };
        self.know_framework(&framework, &launch.framework, step);
        let mut tasks = Vec::with_capacity(launch.tasks.len());
        for info in launch.tasks {
            let id = match TaskId::try_from(&info.task_id) {
                Ok(id) => id,
                Err(error) => {
                    step.then.push(Effect::Warn(format!(
                        "the master sent a task that cannot be named, which is ignored: {error}"
                    )));
                    continue;
                }
            };
            if let Some(held) = self.tasks.get(&(framework.clone(), id.clone())) {
                // Started at most once: whoever asked hears of the task that is here.
                step.then.push(Effect::Warn(format!(
                    "framework {framework} asked again for task {id}, which is {} here; ids must \
                     not be used again before the terminal update is acknowledged",
                    held.state().as_str_name()
                )));
                continue;
            }
            tasks.push((id, info));
        }
        let from = Launcher {
            agent,
            framework: framework.clone(),
            info: &launch.framework,
            running: &launch.running_executors,
        };
        match launch.group_executor.as_deref() {
            Some(_) if tasks.is_empty() => {}
            Some(executor) if executor::is_default(executor) => {
                self.launch_group(now, &from, executor, tasks, step);
            }
            Some(executor) => self.launch_in_executor(now, &from, executor, (tasks, true), step),
            None => {
                for (id, info) in tasks {
                    match info.executor.clone() {
                        None => self.launch_alone(now, &from, (id, info), step),
                        Some(executor) => {
                            let tasks = (vec![(id, info)], false);
                            self.launch_in_executor(now, &from, &executor, tasks, step);
                        }
                    }
                }
            }
        }
        if self
            .frameworks
            .get(&framework)
            .is_some_and(|known| known.n_users == 0)
        {
            self.frameworks.remove(&framework);
        }
    }

    /// Starts a task in a container of its own.
    fn launch_alone(
        &mut self,
        now: Timestamp,
        from: &Launcher<'_>,
        (id, info): (TaskId, mesos::TaskInfo),
        step: &mut Step,
    ) {
        let container = ContainerId::from_random(&mut self.random);
        let planned = launch::plan(
            &self.settings,
            &from.agent,
            from.info,
            (&from.framework, &id, &container),
            &info,
            (&self.free, None),
        );
        let launch = match planned {
            Ok(launch) => launch,
            Err(refusal) => return self.refuse(now, from, (id, info), &refusal, step),
        };
        let key = (from.framework.clone(), id);
        // Shared volumes stay for the others.
        self.free.subtract(&launch.resources.unshared());
        self.containers.insert(container.clone(), key.clone());
        let resources = launch.resources.clone();
        let task = Task::starting(&from.agent, &from.framework, info, container, resources);
        step.then.push(Effect::Start(Box::new(launch)));
        self.take_on(now, key, task, step);
    }

    /// Says why a task is not started.
    fn refuse(
        &mut self,
        now: Timestamp,
        from: &Launcher<'_>,
        (id, info): (TaskId, mesos::TaskInfo),
        refusal: &launch::Refusal,
        step: &mut Step,
    ) {
        self.counts.other += 1;
        let container = ContainerId::from_random(&mut self.random);
        let owner = (&from.agent, &from.framework);
        let task = Task::refused(now, owner, info, container, refusal, &mut self.random);
        self.take_on(now, (from.framework.clone(), id), task, step);
    }

    /// Enters a task in the books.
    fn take_on(&mut self, now: Timestamp, key: Key, task: Task, step: &mut Step) {
        step.persist.push(Record::Task(task.checkpoint()));
        self.tasks.insert(key.clone(), task);
        self.use_framework(&key.0);
        self.settle(now, &key, step);
    }

    fn know_framework(&mut self, id: &FrameworkId, info: &mesos::FrameworkInfo, step: &mut Step) {
        let known = self.frameworks.get(id);
        if known.is_some_and(|known| known.info == *info) {
            return;
        }
        let known = Framework {
            info: info.clone(),
            n_users: known.map_or(0, |known| known.n_users),
        };
        step.persist.push(known.record());
        self.frameworks.insert(id.clone(), known);
    }

    fn on_kill(&mut self, now: Timestamp, kill: &allot::Kill, step: &mut Step) {
        let (Ok(framework), Ok(id)) = (
            FrameworkId::try_from(&kill.framework_id),
            TaskId::try_from(&kill.task_id),
        ) else {
            return;
        };
        let tells_killing = self.tells_killing(&framework);
        let Some(task) = self.tasks.get_mut(&(framework.clone(), id.clone())) else {
            // The master answers frameworks about tasks that it does not find here.
            step.then.push(Effect::Warn(format!(
                "the master asked to kill task {id} of framework {framework}, which is not here"
            )));
            return;
        };
        let grace = task::grace(kill.kill_policy.as_ref())
            .or_else(|| task.own_grace())
            .unwrap_or(self.settings.kill_grace);
        let order = Kill {
            grace,
            why: task::Why::Asked,
            tells_killing,
        };
        task.kill(now, &order, &mut self.random, &mut step.then);
        let key = (framework, id);
        self.kill_hosted(now, &key, kill.kill_policy, step);
        self.settle(now, &key, step);
    }

    fn tells_killing(&self, framework: &FrameworkId) -> bool {
        use mesos::framework_info::capability::Type;
        self.frameworks
            .get(framework)
            .is_some_and(|known| known.can(Type::TaskKillingState))
    }

    fn on_acknowledge(
        &mut self,
        now: Timestamp,
        acknowledge: &allot::Acknowledge,
        step: &mut Step,
    ) {
        let (Ok(framework), Ok(id)) = (
            FrameworkId::try_from(&acknowledge.framework_id),
            TaskId::try_from(&acknowledge.task_id),
        ) else {
            return;
        };
        let key = (framework, id);
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        if task.on_acknowledged(&acknowledge.uuid) && !task.is_over() {
            step.persist
                .push(Record::Acknowledged(allot::TaskAcknowledged {
                    framework_id: (&key.0).into(),
                    task_id: (&key.1).into(),
                    uuid: acknowledge.uuid.clone(),
                }));
        }
        self.settle(now, &key, step);
    }

    fn on_shutdown_framework(&mut self, now: Timestamp, framework: &FrameworkId, step: &mut Step) {
        let keys: Vec<Key> = self.tasks.keys().cloned().collect();
        for key in keys.iter().filter(|key| key.0 == *framework) {
            if let Some(task) = self.tasks.get_mut(key) {
                task.forget(&mut step.then);
            }
            self.settle(now, key, step);
        }
        let executors: Vec<ExecutorKey> = self.executors.keys().cloned().collect();
        for key in executors.iter().filter(|key| key.0 == *framework) {
            if matches!(
                self.executors.get(key).map(|e| &e.kind),
                Some(Kind::Custom(_))
            ) {
                self.shut_down(now, key, None, step);
            }
        }
    }

    fn on_started(&mut self, now: Timestamp, container: &ContainerId, pid: i32, step: &mut Step) {
        if let Some(key) = self.executor_containers.get(container).cloned() {
            return self.on_executor_started(now, &key, pid, step);
        }
        if self.on_nested_started(container) {
            return;
        }
        let Some(key) = self.containers.get(container).cloned() else {
            return;
        };
        if let Some(task) = self.tasks.get_mut(&key) {
            task.on_started(now, pid, &self.settings, &mut self.random);
            if matches!(task.host(), Host::Group { .. }) {
                self.on_group_task_started(now, &key, step);
            }
        }
        self.settle(now, &key, step);
    }

    fn on_probed(
        &mut self,
        now: Timestamp,
        container: &ContainerId,
        which: Which,
        probed: &Probed,
        step: &mut Step,
    ) {
        let Some(key) = self.containers.get(container).cloned() else {
            return;
        };
        let order = Kill {
            grace: self.settings.kill_grace,
            why: task::Why::Unhealthy,
            tells_killing: self.tells_killing(&key.0),
        };
        if let Some(task) = self.tasks.get_mut(&key) {
            let order = Kill {
                grace: task.own_grace().unwrap_or(order.grace),
                ..order
            };
            task.on_probed(
                now,
                which,
                probed,
                &order,
                (&mut self.random, &mut step.then),
            );
        }
        self.settle(now, &key, step);
    }

    fn on_ended(
        &mut self,
        now: Timestamp,
        container: ContainerId,
        (outcome, left): (Outcome, allot::SandboxSummary),
        step: &mut Step,
    ) {
        if self.on_nested_ended(&container, &outcome, step) {
            return;
        }
        if outcome == Outcome::NeverBegun && self.relaunch(now, &container, step) {
            return;
        }
        if let Some(key) = self.executor_containers.get(&container).cloned() {
            self.end_nested_in(&container, step);
            step.then.push(Effect::Release(container));
            return self.on_executor_ended(now, &key, outcome, step);
        }
        let Some(key) = self.containers.remove(&container) else {
            return;
        };
        self.end_nested_in(&container, step);
        step.then.push(Effect::Release(container.clone()));
        let gone = self.state_of_loss(&key.0, mesos::TaskState::TaskGone);
        let mut group_state = None;
        let mut alone = true;
        if let Some(task) = self.tasks.get_mut(&key) {
            self.free.add(&task.resources().unshared());
            let state = task.on_ended(now, gone, (outcome, left), &mut self.random);
            self.counts.add(state);
            alone = matches!(task.host(), Host::Alone);
            group_state = (!alone).then_some(state);
        }
        if let Some(agent) = self.agent.clone().filter(|_| alone) {
            let (framework, task) = key.clone();
            let sandbox = SandboxId {
                framework,
                owner: Owner::Task(task),
                container,
            };
            let at = now + self.settings.gc_delay;
            self.collect_at.insert((at, sandbox), agent);
        }
        if let Some(state) = group_state {
            self.on_group_task_over(now, &key, state, step);
        }
        self.settle(now, &key, step);
    }

    fn on_stop(&mut self, now: Timestamp, step: &mut Step) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Ending;
            for task in self.tasks.values_mut() {
                task.end_with_agent(&mut step.then);
            }
            self.end_executors_with_agent(now, step);
            self.settle_all(now, step);
        }
    }
}

fn send(step: &mut Step, session: u64, message: allot::agent_message::Message) {
    let message = Box::new(allot::AgentMessage {
        message: Some(message),
    });
    step.then.push(Effect::Send { session, message });
}
