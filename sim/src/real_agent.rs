//! The agent's real core over containers that are nothing but outcomes.
//!
//! A container takes a moment to start, lives as long as its command says (`sleep SECONDS`), ends
//! with an exit code or by a signal, and sometimes ignores SIGTERM. All of it from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_agent::core::{ContainerId, Core, Effect, Input, Launch, Outcome, Record, Settings};
use allotment_proto::allot::{MasterMessage, SandboxSummary, TaskExit, agent_message};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId, Timestamp};
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
    total: Resources,
    rng: Rng,
    /// Survives the process.
    id: Option<AgentId>,
    session: u64,
    containers: BTreeMap<ContainerId, Container>,
    /// Updates that were sent at least once.
    sent: BTreeSet<Bytes>,
    /// Which part of the commands that end by themselves fail.
    failures: f64,
}

impl RealAgent {
    pub(crate) fn new(name: &str, total: Resources, mut rng: Rng, now: Timestamp) -> Self {
        let defaults = allotment_agent::Config::default();
        let settings = Settings {
            hostname: name.to_owned(),
            address: (name.to_owned(), 5051),
            boot_id: "boot".to_owned(),
            resources: total.clone(),
            attributes: Vec::new(),
            n_masters: 1,
            reconnect_min: defaults.reconnect_min,
            reconnect_max: defaults.reconnect_max,
            kill_grace: defaults.kill_grace,
            gc_delay: defaults.gc_delay,
            work_dir: "/sim".to_owned(),
            environment: Vec::new(),
        };
        Self {
            core: Core::new(settings, None, rng.u64(..), now),
            total,
            rng,
            id: None,
            session: 0,
            containers: BTreeMap::new(),
            sent: BTreeSet::new(),
            failures: 0.1,
        }
    }

    pub(crate) fn id(&self) -> Option<AgentId> {
        self.id.clone()
    }

    pub(crate) fn total(&self) -> &Resources {
        &self.total
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.core.overview().registered
    }

    pub(crate) fn updates_pending(&self) -> usize {
        self.core.overview().updates_pending
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let containers = self.containers.values();
        let events = containers.filter_map(|c| c.next.as_ref().map(|(at, _)| *at));
        events.chain(self.core.next_deadline()).min()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
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
        if self.core.next_deadline().is_some_and(|at| at <= now) {
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
        if let Some(container) = self.containers.remove(id)
            && container.running
        {
            acts.push(Act::Ended { key: container.key });
        }
        let input = Input::Ended {
            container: id.clone(),
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
        let effects = self.core.step(now, input);
        for record in effects.persist {
            match record {
                Record::Registered { agent } => self.id = Some(agent),
            }
        }
        for effect in effects.then {
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
                Effect::Collect { .. } | Effect::Warn(_) | Effect::Stopped => {}
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
        let container = Container {
            key: (launch.sandbox.framework, launch.sandbox.task),
            resources: launch.resources,
            lifetime: lifetime(&launch.argv),
            exit_code: i32::from(self.rng.f64() < self.failures),
            deaf_to_sigterm: self.rng.f64() < 0.1,
            running: false,
            next: Some((now + preparing, fate)),
        };
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

fn exited(exit: TaskExit) -> Outcome {
    Outcome::Exited {
        exit,
        memory: None,
        disk_full: false,
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
