//! The agent's real core over containers that are nothing but outcomes.
//!
//! A container takes a moment to start, lives as long as its command says (`sleep SECONDS`), ends
//! with an exit code or by a signal, and sometimes ignores SIGTERM. All of it from the seed.
//!
//! The agent's process may end while its containers go on ([`RealAgent::crash`]), or its machine
//! may lose power and with it every container and what was not forced to the disk
//! ([`RealAgent::lose_power`]). Another run goes on from what the disk holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_agent::core::{
    Checkpoint, ContainerId, Core, Effect, ExecutorSettings, Input, Launch, LogBound, Outcome,
    Owner, Record, Settings, outlasts_power,
};
use allotment_proto::allot::{MasterMessage, SandboxSummary, TaskExit, agent_message};
use allotment_types::{AgentId, Fixed, FrameworkId, Name, Ranges, Resources, TaskId, Timestamp};
use bytes::Bytes;
use fastrand::Rng;

use crate::host::{Act, Key};
use crate::rng;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

#[derive(Debug)]
struct Container {
    key: Key,
    resources: Resources,
    lifetime: Option<Duration>,
    /// Of a command that ends by itself.
    exit_code: i32,
    deaf_to_sigterm: bool,
    running: bool,
    /// It ended while no agent was there, and its journal says how.
    ended: Option<Outcome>,
    /// What happens to it next.
    next: Option<(Timestamp, Next)>,
}

#[derive(Debug, Clone)]
enum Next {
    Starts,
    Ends(Outcome),
}

/// One agent.
#[derive(Debug)]
pub(crate) struct RealAgent {
    core: Core,
    settings: Settings,
    total: Resources,
    rng: Rng,
    /// The disk, and how much of it outlasts a loss of power.
    records: Vec<Record>,
    n_durable: usize,
    n_boots: u32,
    /// Set while no process is there: when the next one begins.
    returns_at: Option<Timestamp>,
    /// Ends between the next write and what follows from it; back after that long.
    crash_after_persist: Option<Duration>,
    session: u64,
    containers: BTreeMap<ContainerId, Container>,
    /// Containers that ever were.
    begun: BTreeSet<ContainerId>,
    /// Updates that were sent at least once.
    sent: BTreeSet<Bytes>,
    /// Which part of the commands that end by themselves fail.
    failures: f64,
}

impl RealAgent {
    pub(crate) fn new(name: &str, total: Resources, mut rng: Rng, now: Timestamp) -> Self {
        let settings = settings(name, &total);
        Self {
            core: recovered(&settings, &[], rng.u64(..), now).0,
            settings,
            total,
            rng,
            records: Vec::new(),
            n_durable: 0,
            n_boots: 0,
            returns_at: None,
            crash_after_persist: None,
            session: 0,
            containers: BTreeMap::new(),
            begun: BTreeSet::new(),
            sent: BTreeSet::new(),
            failures: 0.1,
        }
    }

    /// Everything it has is gone, and it starts as a new agent with so many cores.
    pub(crate) fn reimage(&mut self, now: Timestamp, cpus: u64) {
        self.total = machine_resources(cpus);
        self.settings = settings(&self.settings.hostname, &self.total);
        self.n_boots += 1;
        self.settings.boot_id = format!("boot-{}", self.n_boots);
        self.core = recovered(&self.settings, &[], self.rng.u64(..), now).0;
        self.records.clear();
        self.n_durable = 0;
        self.returns_at = None;
        self.crash_after_persist = None;
        self.containers.clear();
    }

    /// What was written down is gone, and nobody else knows: a planted fault.
    pub(crate) fn forget_records(&mut self) {
        self.records.clear();
        self.n_durable = 0;
    }

    pub(crate) fn id(&self) -> Option<AgentId> {
        self.core.overview().agent
    }

    pub(crate) fn total(&self) -> &Resources {
        &self.total
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.returns_at.is_none() && self.core.overview().registered
    }

    pub(crate) fn updates_pending(&self) -> usize {
        self.core.overview().updates_pending
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let containers = self.containers.values();
        let events = containers.filter_map(|c| c.next.as_ref().map(|(at, _)| *at));
        let own = match self.returns_at {
            Some(at) => Some(at),
            None => self.core.next_deadline(),
        };
        events.chain(own).min()
    }

    /// The process ends; another begins after a while. With `torn` it ends only at its next
    /// write, before anything follows from that.
    pub(crate) fn crash(&mut self, now: Timestamp, down: Duration, torn: bool) {
        if torn {
            self.crash_after_persist = Some(down);
        } else if self.returns_at.is_none() {
            self.returns_at = Some(now + down);
        }
    }

    /// The machine goes down and is started anew after a while.
    pub(crate) fn lose_power(&mut self, now: Timestamp, down: Duration) -> Vec<Act> {
        self.returns_at = Some(now + down);
        self.crash_after_persist = None;
        self.n_boots += 1;
        self.settings.boot_id = format!("boot-{}", self.n_boots);
        let mut acts = Vec::new();
        for record in self.records.split_off(self.n_durable) {
            // What was said and not forced to the disk may never be said again.
            if let Record::Progress(progress) = record
                && let (Ok(framework), Ok(task)) = (
                    FrameworkId::try_from(&progress.framework_id),
                    TaskId::try_from(&progress.task_id),
                )
            {
                for uuid in progress.pending.into_iter().filter_map(|s| s.uuid) {
                    let key = (framework.clone(), task.clone());
                    acts.push(Act::Withdrawn { key, uuid });
                }
            }
        }
        for container in std::mem::take(&mut self.containers).into_values() {
            if container.running {
                acts.push(Act::Ended { key: container.key });
            }
        }
        acts
    }

    /// Another process goes on from what the disk holds.
    fn returns(&mut self, now: Timestamp, acts: &mut Vec<Act>) {
        self.returns_at = None;
        let seed = self.rng.u64(..);
        let (core, effects, known) = recovered(&self.settings, &self.records, seed, now);
        self.core = core;
        self.records = self.core.snapshot();
        self.n_durable = self.records.len();
        self.perform(now, effects, acts);
        // The launcher tells of every container that the agent knows, and ends all others.
        let strays: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in strays.iter().filter(|id| !known.contains(id)) {
            self.signal(now, id, SIGKILL);
        }
        for id in known {
            let found = self.containers.get(&id);
            let (running, ended) = found.map_or((false, None), |c| (c.running, c.ended.clone()));
            if let Some(outcome) = ended {
                self.containers.remove(&id);
                self.tell_end(now, id, outcome, acts);
            } else if running {
                let container = id.clone();
                self.step(now, Input::Started { container, pid: 1 }, acts);
            } else if found.is_none() {
                let outcome = if self.begun.contains(&id) {
                    let message = "its first process is gone".to_owned();
                    Outcome::Lost { message }
                } else {
                    Outcome::NeverBegun
                };
                self.tell_end(now, id, outcome, acts);
            }
        }
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
        if self.returns_at.is_some_and(|at| at <= now) {
            self.returns(now, &mut acts);
        }
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, c)| c.next.as_ref().is_some_and(|(at, _)| *at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(container) = self.containers.get_mut(&id) else {
                continue;
            };
            match container.next.take() {
                Some((_, Next::Starts)) => self.on_starts(now, &id, &mut acts),
                Some((_, Next::Ends(outcome))) => self.on_ends(now, &id, outcome, &mut acts),
                None => {}
            }
        }
        if self.returns_at.is_none() && self.core.next_deadline().is_some_and(|at| at <= now) {
            self.step(now, Input::Tick, &mut acts);
        }
        acts
    }

    fn on_starts(&mut self, now: Timestamp, id: &ContainerId, acts: &mut Vec<Act>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.running = true;
        let (code, lifetime) = (container.exit_code, container.lifetime);
        container.next = lifetime.map(|lifetime| {
            let exit = TaskExit {
                code: Some(code),
                ..TaskExit::default()
            };
            (now + lifetime, Next::Ends(exited(exit)))
        });
        acts.push(Act::Started {
            key: container.key.clone(),
            resources: container.resources.clone(),
        });
        let container = id.clone();
        self.step(now, Input::Started { container, pid: 1 }, acts);
    }

    fn on_ends(&mut self, now: Timestamp, id: &ContainerId, outcome: Outcome, acts: &mut Vec<Act>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut container.running, false) {
            let key = container.key.clone();
            acts.push(Act::Ended { key });
        }
        if self.returns_at.is_some() {
            container.ended = Some(outcome);
        } else {
            self.containers.remove(id);
            self.tell_end(now, id.clone(), outcome, acts);
        }
    }

    fn tell_end(
        &mut self,
        now: Timestamp,
        container: ContainerId,
        outcome: Outcome,
        acts: &mut Vec<Act>,
    ) {
        let input = Input::Ended {
            container,
            outcome,
            sandbox: SandboxSummary::default(),
        };
        self.step(now, input, acts);
    }

    pub(crate) fn on_connected(&mut self, now: Timestamp) -> Vec<Act> {
        let session = self.session;
        self.stepped(now, Input::Connected { session })
    }

    pub(crate) fn on_closed(&mut self, now: Timestamp) -> Vec<Act> {
        let session = self.session;
        self.stepped(now, Input::Disconnected { session })
    }

    pub(crate) fn on_message(&mut self, now: Timestamp, message: MasterMessage) -> Vec<Act> {
        let session = self.session;
        self.stepped(now, Input::Master { session, message })
    }

    fn stepped(&mut self, now: Timestamp, input: Input) -> Vec<Act> {
        let mut acts = Vec::new();
        self.step(now, input, &mut acts);
        acts
    }

    fn step(&mut self, now: Timestamp, input: Input, acts: &mut Vec<Act>) {
        if self.returns_at.is_some() {
            // What happens reaches nobody.
            return;
        }
        let effects = self.core.step(now, input);
        if !effects.persist.is_empty() {
            let forced = effects.persist.iter().any(outlasts_power);
            self.records.extend(effects.persist);
            if forced {
                self.n_durable = self.records.len();
            }
            if let Some(down) = self.crash_after_persist.take() {
                self.returns_at = Some(now + down);
                acts.push(Act::Disconnect);
                return;
            }
        }
        self.perform(now, effects.then, acts);
    }

    fn perform(&mut self, now: Timestamp, effects: Vec<Effect>, acts: &mut Vec<Act>) {
        for effect in effects {
            match effect {
                Effect::Connect { session, .. } => {
                    self.session = session;
                    acts.push(Act::Connect);
                }
                Effect::Disconnect { session, .. } => {
                    if session == self.session {
                        acts.push(Act::Disconnect);
                    }
                }
                Effect::Send { session, message } => {
                    if session == self.session {
                        self.note_update(&message, acts);
                        acts.push(Act::Send(message));
                    }
                }
                Effect::Start(launch) => self.start(now, *launch),
                Effect::Terminate(container) => self.signal(now, &container, SIGTERM),
                Effect::Destroy(container) => self.signal(now, &container, SIGKILL),
                Effect::Release(_)
                | Effect::Collect { .. }
                | Effect::MakeVolume { .. }
                | Effect::DestroyVolume { .. }
                // No simulated framework has its tasks checked, or executors.
                | Effect::Probe { .. }
                | Effect::Resize { .. }
                | Effect::AnswerExecutor { .. }
                | Effect::ToExecutor { .. }
                | Effect::CloseExecutor { .. }
                | Effect::AnswerNested { .. }
                | Effect::RemoveNest { .. }
                | Effect::Warn(_)
                | Effect::Stopped => {}
            }
        }
    }

    /// An update that is sent for the first time: the core sends them in order, one at a time.
    fn note_update(&mut self, message: &allotment_proto::allot::AgentMessage, acts: &mut Vec<Act>) {
        let Some(agent_message::Message::Update(update)) = &message.message else {
            return;
        };
        if let Some(uuid) = &update.status.uuid
            && self.sent.insert(uuid.clone())
            && let Ok(framework) = FrameworkId::try_from(&update.framework_id)
            && let Ok(task) = TaskId::try_from(&update.status.task_id)
        {
            acts.push(Act::Updated {
                key: (framework, task),
                uuid: uuid.clone(),
            });
        }
    }

    fn start(&mut self, now: Timestamp, launch: Launch) {
        let preparing = rng::between(
            &mut self.rng,
            Duration::from_millis(1),
            Duration::from_millis(80),
        );
        let fate = if self.rng.f64() < 0.01 {
            let message = "the sandbox's disk is full".to_owned();
            Next::Ends(Outcome::NotStarted { message })
        } else {
            Next::Starts
        };
        let Owner::Task(task) = launch.sandbox.owner else {
            unreachable!("no simulated framework has executors");
        };
        let container = Container {
            key: (launch.sandbox.framework, task),
            resources: launch.resources,
            lifetime: lifetime(&launch.argv),
            exit_code: i32::from(self.rng.f64() < self.failures),
            deaf_to_sigterm: self.rng.f64() < 0.1,
            running: false,
            ended: None,
            next: Some((now + preparing, fate)),
        };
        self.begun.insert(launch.container.clone());
        self.containers.insert(launch.container, container);
    }

    fn signal(&mut self, now: Timestamp, id: &ContainerId, signal: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if signal == SIGTERM && container.deaf_to_sigterm {
            return;
        }
        let dying = rng::between(
            &mut self.rng,
            Duration::from_millis(1),
            Duration::from_millis(if signal == SIGKILL { 20 } else { 500 }),
        );
        let at = now + dying;
        if container
            .next
            .as_ref()
            .is_some_and(|(next, what)| matches!(what, Next::Ends(_)) && *next <= at)
        {
            return;
        }
        let exit = TaskExit {
            signal: Some(signal),
            ..TaskExit::default()
        };
        container.next = Some((at, Next::Ends(exited(exit))));
    }
}

/// A core that goes on from records, what it does first, and the containers that it knows.
fn recovered(
    settings: &Settings,
    records: &[Record],
    seed: u64,
    now: Timestamp,
) -> (Core, Vec<Effect>, BTreeSet<ContainerId>) {
    let mut checkpoint = Checkpoint::default();
    for record in records {
        // A record about a task whose own record was lost says nothing.
        let _ = checkpoint.apply(record.clone());
    }
    let known = checkpoint.containers().into_iter().map(|c| c.container);
    let known = known.collect();
    match Core::recover(settings.clone(), checkpoint, seed, now) {
        Ok((core, step)) => (core, step.then, known),
        Err(shrunk) => unreachable!("nothing changes the resources of a simulated agent: {shrunk}"),
    }
}

fn exited(exit: TaskExit) -> Outcome {
    Outcome::Exited {
        exit,
        memory: None,
        disk_full: false,
        disk: None,
    }
}

/// How long `sleep SECONDS` runs, by itself or in a shell; `None` for what runs until it is
/// killed.
fn lifetime(argv: &[String]) -> Option<Duration> {
    let line = argv.join(" ");
    let (_, seconds) = line.rsplit_once("sleep ")?;
    let seconds: f64 = seconds.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A machine of the cluster with faults: memory and ports go with its cores.
pub(crate) fn machine_resources(cpus: u64) -> Resources {
    Resources::cpus_mem(Fixed::units(cpus), Fixed::units(cpus * 2048))
        .with_ranges(Name::PORTS, Ranges::new([(31_000, 31_099)]))
}

fn settings(name: &str, total: &Resources) -> Settings {
    let defaults = allotment_agent::Config::default();
    Settings {
        hostname: name.to_owned(),
        address: (name.to_owned(), 5051),
        boot_id: "boot".to_owned(),
        resources: total.clone(),
        attributes: Vec::new(),
        domain: None,
        n_masters: 1,
        reconnect_min: defaults.reconnect_min,
        reconnect_max: defaults.reconnect_max,
        kill_grace: defaults.kill_grace,
        gc_delay: defaults.gc_delay,
        gc_headroom_permille: 100,
        work_dir: "/sim".to_owned(),
        environment: Vec::new(),
        tasks_outlive_agent: true,
        log_bound: LogBound {
            size_max: None,
            files_max: 0,
        },
        executors: ExecutorSettings::default(),
    }
}
