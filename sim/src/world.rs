//! A whole cluster on virtual time: one master, machines, frameworks, and the streams between.
//!
//! The world performs the effects that the cores ask for, and shows everything that passes to the
//! checks. It decides nothing but delays and faults, and those from the seed.

use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_framework_sdk::session::{self, Session};
use allotment_framework_sdk::{Call, Config, Event};
use allotment_master::core::registry::Registry;
use allotment_master::core::{self as master, ConnId, Core, CoreConfig};
use allotment_proto::mesos;
use allotment_types::{FrameworkId, Resources, Role, Timestamp};

use crate::elastic::Elastic;
use crate::ledger::Ledger;
use crate::machine::{Act, Machine};
use crate::net::{Down, Net, Peer, Up};
use crate::queue::{Queue, Ticket};
use crate::rng;
use crate::trace::{Trace, TraceDepth};
use crate::watched::{Plant, Watched};
use crate::witness::Witness;
use crate::words;

/// More events than this at one instant are a loop that makes no progress.
const SAME_INSTANT_MAX: u64 = 200_000;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    /// A deadline that a part announced.
    Wake(Part),
    /// Something reaches the master over a stream.
    Up(u64, Up),
    /// Something reaches the other end of a stream.
    Down(u64, Down),
    /// Something goes wrong.
    Fault(Fault),
    /// Look at the utilisation.
    Sample,
}

/// Who has deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Master,
    Machine(usize),
    Framework(usize),
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A stream breaks with what is in flight; the peer comes back when it likes.
    CutStream(Peer),
    /// A machine is out of reach for a while.
    Partition(usize, Duration),
    /// The master dies and is back after a while, with its registry. With `torn`, it dies between
    /// the next durable write and the effects that follow it.
    MasterCrash { down: Duration, torn: bool },
    /// Every message takes many times as long, for a while.
    Slow(Duration),
    /// The slowness is over.
    Fast,
    /// A new master takes over the registry.
    MasterBack,
}

struct Master {
    core: Option<Core>,
    registry: Registry,
    allocator: Watched,
    starts: u32,
    wake: Option<Ticket>,
    crash_after_persist: Option<Duration>,
}

struct MachineNode {
    machine: Machine,
    stream: Option<u64>,
    wake: Option<Ticket>,
    away_until: Timestamp,
}

struct FrameworkNode {
    session: Session,
    brain: Elastic,
    /// The session's number of its connection, and the stream that is it.
    link: Option<(u64, u64)>,
    wake: Option<Ticket>,
    id: Option<FrameworkId>,
}

/// How a world is set up.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) machines: Vec<Resources>,
    pub(crate) frameworks: Vec<(String, Elastic)>,
    pub(crate) delay: (Duration, Duration),
    pub(crate) trace: TraceDepth,
    pub(crate) plant: Plant,
    /// Compare every book after every step.
    pub(crate) checked: bool,
}

/// The cluster.
pub(crate) struct World {
    queue: Queue<Happening>,
    net: Net,
    pub(crate) trace: Trace,
    master: Master,
    machines: Vec<MachineNode>,
    frameworks: Vec<FrameworkNode>,
    ledger: Ledger,
    pub(crate) witness: Witness,
    checked: bool,
    plant: Plant,
    instant: (Timestamp, u64),
    pub(crate) faults: u64,
    sample_every: Option<Duration>,
    pub(crate) samples: Vec<Sample>,
}

/// The cluster at one instant.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) in_use: Resources,
    /// Per framework, instances that should run and that do.
    pub(crate) instances: Vec<(usize, usize)>,
    /// Tasks that wait for an offer.
    pub(crate) waiting: usize,
}

type Checked = Result<(), String>;

impl World {
    pub(crate) fn new(setup: Setup) -> Result<Self, String> {
        let seed = setup.seed;
        let mut starts = rng::stream(seed, "starts");
        let mut start = || Timestamp::from_millis(starts.u64(0..2000));
        let machines = setup.machines.into_iter().enumerate().map(|(i, total)| {
            let rng = rng::stream(seed, &format!("machine-{i}"));
            MachineNode {
                machine: Machine::new(format!("m{i}"), total, rng, start()),
                stream: None,
                wake: None,
                away_until: Timestamp::ZERO,
            }
        });
        let machines = machines.collect();
        let mut frameworks = Vec::new();
        for (i, (name, brain)) in setup.frameworks.into_iter().enumerate() {
            let role = Role::parse(&name).map_err(|e| e.to_string())?;
            let config = Config {
                name,
                roles: vec![role],
                failover_timeout: Duration::from_secs(7 * 24 * 3600),
                suppressed: true,
                ..Config::default()
            };
            let jitter = rng::stream(seed, &format!("session-{i}")).u64(..);
            let session = Session::new(&config, jitter).map_err(|e| e.to_string())?;
            frameworks.push(FrameworkNode {
                session,
                brain,
                link: None,
                wake: None,
                id: None,
            });
        }
        let mut world = Self {
            queue: Queue::default(),
            net: Net::new(rng::stream(seed, "net"), setup.delay),
            trace: Trace::new(setup.trace),
            master: Master {
                core: None,
                registry: Registry::default(),
                allocator: Watched::default(),
                starts: 0,
                wake: None,
                crash_after_persist: None,
            },
            machines,
            frameworks,
            ledger: Ledger::default(),
            witness: Witness::default(),
            checked: setup.checked,
            plant: setup.plant,
            instant: (Timestamp::ZERO, 0),
            faults: 0,
            sample_every: None,
            samples: Vec::new(),
        };
        world.start_master();
        for i in 0..world.machines.len() {
            world.rearm(Part::Machine(i));
        }
        for i in 0..world.frameworks.len() {
            world.rearm(Part::Framework(i));
        }
        Ok(world)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.queue.now()
    }

    pub(crate) fn framework(&self, i: usize) -> Option<&Elastic> {
        self.frameworks.get(i).map(|f| &f.brain)
    }

    pub(crate) fn brains(&self) -> impl Iterator<Item = &Elastic> {
        self.frameworks.iter().map(|f| &f.brain)
    }

    /// Every job is submitted and done.
    pub(crate) fn batch_is_done(&self) -> bool {
        self.brains().all(|brain| {
            brain.next_deadline().is_none() && brain.jobs().iter().all(|job| job.done.is_some())
        })
    }

    pub(crate) fn schedule(&mut self, at: Timestamp, fault: Fault) {
        self.queue.at(at, Happening::Fault(fault));
    }

    pub(crate) fn sample_every(&mut self, every: Duration) {
        self.sample_every = Some(every);
        self.queue.at(self.queue.now(), Happening::Sample);
    }

    /// Runs until `end`, or until something is not as it must be.
    pub(crate) fn run_until(&mut self, end: Timestamp) -> Checked {
        while let Some(happening) = self.queue.pop_until(end) {
            self.trace.step();
            if self.instant.0 == self.now() {
                self.instant.1 += 1;
                if self.instant.1 > SAME_INSTANT_MAX {
                    return Err(format!(
                        "time goes on: more than {SAME_INSTANT_MAX} events happened at one \
                         instant, the last one {happening:?}"
                    ));
                }
            } else {
                self.instant = (self.now(), 0);
            }
            self.happen(happening)?;
            if self.checked {
                self.check()?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Checked {
        if let Some(core) = &self.master.core {
            self.ledger.compare(&self.master.allocator)?;
            core.check()
                .map_err(|e| format!("the master's books: {e}"))?;
        }
        Ok(())
    }

    /// After a quiet time: every view of the cluster is the same.
    pub(crate) fn check_settled(&self) -> Checked {
        self.witness.check_settled()?;
        for (i, node) in self.machines.iter().enumerate() {
            let Some(id) = node.machine.id().filter(|_| node.machine.is_registered()) else {
                return Err(format!("views converge: machine {i} is not registered"));
            };
            let (runs, books) = (self.witness.on_machine(i), self.ledger.tasks(id));
            if runs != books {
                return Err(format!(
                    "views converge: machine {i} runs {runs:?}, but by the books it is {books:?}"
                ));
            }
            let known: Vec<_> = node.machine.known().map(|(key, _)| key.clone()).collect();
            if known != runs {
                return Err(format!(
                    "updates get through: machine {i} runs {runs:?} and still keeps {known:?}"
                ));
            }
        }
        match self
            .frameworks
            .iter()
            .position(|f| !f.session.is_subscribed())
        {
            Some(i) => Err(format!("views converge: framework {i} is not subscribed")),
            None => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Wake(part) => self.wake(part),
            Happening::Up(stream, up) => self.on_up(stream, up),
            Happening::Down(stream, down) => self.on_down(stream, down),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::Sample => {
                self.sample();
                Ok(())
            }
        }
    }

    fn sample(&mut self) {
        let instances = |f: &FrameworkNode| (f.brain.instances_wanted(), f.brain.instances_up());
        self.samples.push(Sample {
            at: self.now(),
            in_use: self.witness.in_use(),
            instances: self.frameworks.iter().map(instances).collect(),
            waiting: self.brains().map(Elastic::waiting).sum(),
        });
        if let Some(every) = self.sample_every {
            self.queue.at(self.now() + every, Happening::Sample);
        }
    }

    fn wake(&mut self, part: Part) -> Checked {
        let now = self.now();
        match part {
            Part::Master => {
                self.master.wake = None;
                self.master_step(master::Input::Tick)
            }
            Part::Machine(i) => {
                let Some(node) = self.machines.get_mut(i) else {
                    return Ok(());
                };
                node.wake = None;
                let acts = node.machine.on_tick(now);
                self.perform_acts(i, acts)
            }
            Part::Framework(i) => {
                let Some(node) = self.frameworks.get_mut(i) else {
                    return Ok(());
                };
                node.wake = None;
                let mut inputs = Vec::new();
                if node.session.next_deadline().is_some_and(|at| at <= now) {
                    inputs.push(session::Input::Tick);
                }
                if node.brain.next_deadline().is_some_and(|at| at <= now) {
                    let calls = node.brain.on_tick(now);
                    inputs.extend(calls.into_iter().map(session::Input::Call));
                }
                self.session_steps(i, inputs)
            }
        }
    }

    /// Schedules the next deadline of a part. A wake-up that comes too early does no harm, so a
    /// deadline that moved back keeps the one it has.
    fn rearm(&mut self, part: Part) {
        let now = self.now();
        let (deadline, held) = match part {
            Part::Master => {
                let core = self.master.core.as_ref();
                (core.and_then(Core::next_deadline), self.master.wake)
            }
            Part::Machine(i) => match self.machines.get(i) {
                Some(node) => (node.machine.next_deadline(), node.wake),
                None => return,
            },
            Part::Framework(i) => match self.frameworks.get(i) {
                Some(node) => {
                    let session = node.session.next_deadline();
                    let brain = node.brain.next_deadline();
                    (session.into_iter().chain(brain).min(), node.wake)
                }
                None => return,
            },
        };
        let Some(at) = deadline.map(|at| at.max(now)) else {
            return;
        };
        if held.is_some_and(|ticket| ticket.due() <= at) {
            return;
        }
        if let Some(ticket) = held {
            self.queue.cancel(ticket);
        }
        let ticket = Some(self.queue.at(at, Happening::Wake(part)));
        match part {
            Part::Master => self.master.wake = ticket,
            Part::Machine(i) => {
                if let Some(node) = self.machines.get_mut(i) {
                    node.wake = ticket;
                }
            }
            Part::Framework(i) => {
                if let Some(node) = self.frameworks.get_mut(i) {
                    node.wake = ticket;
                }
            }
        }
    }
}

/// The master.
impl World {
    fn start_master(&mut self) {
        self.master.starts += 1;
        let info = mesos::MasterInfo {
            id: format!("M{}", self.master.starts),
            ip: 0x0100_007f,
            port: 5050,
            hostname: Some("master".to_owned()),
            version: Some(allotment_proto::VERSION.to_owned()),
            ..Default::default()
        };
        let defaults = allotment_master::Config::default();
        let config = CoreConfig {
            info,
            heartbeat_interval: defaults.heartbeat_interval,
            agent_ping_interval: defaults.agent_ping_interval,
            agent_ping_misses: defaults.agent_ping_misses,
            agent_timeout: defaults.agent_timeout,
            offer_timeout: defaults.offer_timeout,
            allocation_coalesce: defaults.allocation_coalesce,
            allocation_interval: defaults.allocation_interval,
        };
        self.master.allocator = Watched::new(self.plant);
        self.ledger = Ledger::default();
        self.master.core = Some(Core::new(
            config,
            self.now(),
            self.master.registry.clone(),
            Box::new(self.master.allocator.clone()) as Box<dyn Allocator>,
        ));
        self.rearm(Part::Master);
    }

    fn on_up(&mut self, stream: u64, up: Up) -> Checked {
        let closing = matches!(up, Up::Closed);
        if self.master.core.is_none() {
            self.net.closed_at_master(stream);
            return Ok(());
        }
        if !self.net.heard_by_master(stream, closing) {
            return Ok(());
        }
        let peer = self.net.peer(stream);
        let now = self.now();
        self.trace.note(now, || {
            format!(
                "master <- {} {}",
                words::stream(stream, peer),
                words::up(&up)
            )
        });
        let conn = ConnId(stream);
        let framework = matches!(peer, Some(Peer::Framework(_)));
        let input = match up {
            Up::Opened if framework => master::Input::FrameworkOpened { conn },
            Up::Opened => master::Input::AgentOpened { conn },
            Up::Call(call) => {
                if self.checked {
                    self.ledger.on_call(stream, &call);
                }
                master::Input::FrameworkCall { conn, call: *call }
            }
            Up::Message(message) => {
                if self.checked {
                    self.ledger.on_message(stream, &message);
                }
                master::Input::AgentMessage {
                    conn,
                    message: *message,
                }
            }
            Up::Closed => {
                self.net.closed_at_master(stream);
                if framework {
                    self.ledger.on_framework_gone(stream);
                    master::Input::FrameworkClosed { conn }
                } else {
                    self.ledger.on_agent_gone(stream);
                    master::Input::AgentClosed { conn }
                }
            }
        };
        self.master_step(input)
    }

    fn master_step(&mut self, input: master::Input) -> Checked {
        let now = self.now();
        let Some(core) = &mut self.master.core else {
            return Ok(());
        };
        let effects = core.step(now, input);
        let wrote = !effects.persist.is_empty();
        for record in effects.persist {
            self.master.registry.apply(record);
        }
        if wrote && let Some(down) = self.master.crash_after_persist.take() {
            // The records are durable and nobody has heard of them.
            self.crash_master(down);
            return Ok(());
        }
        for effect in effects.then {
            self.master_effect(effect)?;
        }
        self.rearm(Part::Master);
        Ok(())
    }

    fn master_effect(&mut self, effect: master::Effect) -> Checked {
        match effect {
            master::Effect::ToFramework { conn, event } => {
                if self.checked {
                    self.ledger.on_event(conn.0, &event)?;
                }
                self.down(conn.0, Down::Event(event));
            }
            master::Effect::ToAgent { conn, message } => {
                if self.checked {
                    self.ledger.on_order(conn.0, &message);
                }
                self.down(conn.0, Down::Message(Box::new(message)));
            }
            master::Effect::CloseFramework { conn, reason } => {
                self.ledger.on_framework_gone(conn.0);
                self.master_closes(conn.0, reason);
            }
            master::Effect::CloseAgent { conn, reason } => {
                self.ledger.on_agent_gone(conn.0);
                self.master_closes(conn.0, reason);
            }
            master::Effect::Reply { .. } | master::Effect::Publish(_) => {}
        }
        Ok(())
    }

    fn down(&mut self, stream: u64, down: Down) {
        if let Some(at) = self.net.send_down(self.now(), stream) {
            self.queue.at(at, Happening::Down(stream, down));
        }
    }

    fn master_closes(&mut self, stream: u64, reason: String) {
        if let Some(at) = self.net.close_by_master(self.now(), stream) {
            let closed = Down::Closed {
                reason,
                clean: true,
            };
            self.queue.at(at, Happening::Down(stream, closed));
        }
    }

    fn crash_master(&mut self, down: Duration) {
        let now = self.now();
        self.trace.note(now, || format!("master dies for {down:?}"));
        self.master.core = None;
        if let Some(ticket) = self.master.wake.take() {
            self.queue.cancel(ticket);
        }
        for stream in self.net.whole() {
            self.cut(stream, Duration::from_millis(50));
        }
        self.queue
            .at(now + down, Happening::Fault(Fault::MasterBack));
    }
}

/// The other ends.
impl World {
    fn on_down(&mut self, stream: u64, down: Down) -> Checked {
        let closing = matches!(down, Down::Closed { .. });
        let Some(peer) = self.net.heard_by_peer(stream, closing) else {
            return Ok(());
        };
        let now = self.now();
        self.trace.note(now, || {
            format!(
                "{} <- {}",
                words::stream(stream, Some(peer)),
                words::down(&down)
            )
        });
        if closing {
            self.net.closed_at_peer(stream);
        }
        match peer {
            Peer::Agent(i) => {
                let Some(node) = self.machines.get_mut(i) else {
                    return Ok(());
                };
                let acts = match down {
                    Down::Message(message) => node.machine.on_message(now, *message),
                    Down::Closed { .. } => {
                        node.stream = None;
                        node.machine.on_closed(now);
                        node.machine.stay_away(node.away_until);
                        Vec::new()
                    }
                    Down::Event(_) => Vec::new(),
                };
                self.perform_acts(i, acts)
            }
            Peer::Framework(i) => {
                let Some((connection, _)) = self.frameworks.get(i).and_then(|f| f.link) else {
                    return Ok(());
                };
                let input = match down {
                    Down::Event(event) => session::Input::Received { connection, event },
                    Down::Closed { reason, clean } => session::Input::Closed {
                        connection,
                        reason,
                        clean,
                    },
                    Down::Message(_) => return Ok(()),
                };
                self.session_steps(i, vec![input])
            }
        }
    }

    /// A new stream; towards a dead master it closes again.
    fn open(&mut self, peer: Peer) -> u64 {
        let now = self.now();
        let stream = self.net.open(now, peer);
        if self.master.core.is_some() {
            self.up(stream, Up::Opened);
        } else if let Some(at) = self.net.close_by_master(now, stream) {
            let closed = Down::Closed {
                reason: "connection refused".to_owned(),
                clean: false,
            };
            self.queue.at(at, Happening::Down(stream, closed));
        }
        stream
    }

    fn up(&mut self, stream: u64, up: Up) {
        if let Some(at) = self.net.send_up(self.now(), stream) {
            self.queue.at(at, Happening::Up(stream, up));
        }
    }

    fn peer_closes(&mut self, stream: u64) {
        if let Some(at) = self.net.close_by_peer(self.now(), stream) {
            self.queue.at(at, Happening::Up(stream, Up::Closed));
        }
    }

    fn perform_acts(&mut self, i: usize, acts: Vec<Act>) -> Checked {
        for act in acts {
            let Some(node) = self.machines.get_mut(i) else {
                break;
            };
            match act {
                Act::Connect => {
                    let register = node.machine.on_connected();
                    let stream = self.open(Peer::Agent(i));
                    if let Some(node) = self.machines.get_mut(i) {
                        node.stream = Some(stream);
                    }
                    self.perform_acts(i, register)?;
                }
                Act::Disconnect => {
                    if let Some(stream) = node.stream.take() {
                        self.peer_closes(stream);
                    }
                }
                Act::Send(message) => {
                    if let Some(stream) = node.stream {
                        self.up(stream, Up::Message(message));
                    }
                }
                Act::Started { key, resources } => {
                    let total = node.machine.total().clone();
                    self.witness.on_started(i, &total, &key, &resources)?;
                }
                Act::Ended { key } => self.witness.on_ended(i, &key),
                Act::Updated { key, uuid } => {
                    if self.checked {
                        self.witness.on_emitted(&key, uuid);
                    }
                }
            }
        }
        self.rearm(Part::Machine(i));
        Ok(())
    }

    fn session_steps(&mut self, i: usize, inputs: Vec<session::Input>) -> Checked {
        let now = self.now();
        let mut inputs: std::collections::VecDeque<_> = inputs.into();
        while let Some(input) = inputs.pop_front() {
            let Some(node) = self.frameworks.get_mut(i) else {
                return Ok(());
            };
            for effect in node.session.step(now, input).then {
                let calls = self.session_effect(i, effect)?;
                inputs.extend(calls.into_iter().map(session::Input::Call));
            }
        }
        self.rearm(Part::Framework(i));
        Ok(())
    }

    fn session_effect(&mut self, i: usize, effect: session::Effect) -> Result<Vec<Call>, String> {
        let now = self.now();
        let link = self.frameworks.get(i).and_then(|f| f.link);
        match effect {
            session::Effect::Connect {
                connection,
                subscribe,
                ..
            } => {
                let stream = self.open(Peer::Framework(i));
                if let Some(node) = self.frameworks.get_mut(i) {
                    node.link = Some((connection, stream));
                }
                self.up(stream, Up::Call(subscribe));
            }
            session::Effect::Disconnect => {
                if let Some((_, stream)) = link {
                    self.peer_closes(stream);
                }
            }
            session::Effect::Send(call) => {
                if let Some((_, stream)) = link {
                    self.up(stream, Up::Call(call));
                }
            }
            session::Effect::Deliver(event) => return self.deliver(i, &event),
            session::Effect::Refused(text) => {
                return Err(format!("the master sends nothing malformed: {text}"));
            }
            session::Effect::End => {
                self.trace.note(now, || format!("framework {i} has ended"));
            }
        }
        Ok(Vec::new())
    }

    fn deliver(&mut self, i: usize, event: &Event) -> Result<Vec<Call>, String> {
        let now = self.now();
        match event {
            Event::Subscribed { framework } => {
                if let Some(node) = self.frameworks.get_mut(i) {
                    let before = node.id.replace(framework.clone());
                    if before.is_some_and(|id| id != *framework) {
                        return Err(format!(
                            "a framework keeps its id: framework {i} became {framework}"
                        ));
                    }
                }
            }
            Event::Update(update) if self.checked => self.witness.on_heard(i, update)?,
            Event::Error(text) => {
                return Err(format!("framework {i} was turned away for good: {text}"));
            }
            Event::Rejected { call, message } => {
                // Kills and reconciliations while disconnected are refused by the session itself.
                if !message.contains("no connection to a master") {
                    return Err(format!("framework {i}'s {call} was refused: {message}"));
                }
            }
            Event::Update(_)
            | Event::Offers(_)
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::Disconnected { .. } => {}
        }
        let Some(node) = self.frameworks.get_mut(i) else {
            return Ok(Vec::new());
        };
        let calls = node.brain.on_event(now, event);
        if self.checked {
            for call in &calls {
                if let Call::Accept { tasks, .. } = call {
                    for task in tasks {
                        self.witness.on_launch(i, &task.id)?;
                    }
                }
            }
        }
        Ok(calls)
    }
}

/// What goes wrong.
impl World {
    fn on_fault(&mut self, fault: Fault) -> Checked {
        let now = self.now();
        self.trace.note(now, || format!("fault: {fault:?}"));
        if !matches!(fault, Fault::Fast | Fault::MasterBack) {
            self.faults += 1;
        }
        match fault {
            Fault::CutStream(peer) => self.cut_peer(peer, Duration::from_secs(2)),
            Fault::Partition(i, lasts) => {
                if let Some(node) = self.machines.get_mut(i) {
                    node.away_until = now + lasts;
                    node.machine.stay_away(now + lasts);
                }
                self.cut_peer(Peer::Agent(i), Duration::from_secs(2));
            }
            Fault::MasterCrash { down, torn } => {
                if self.master.core.is_some() {
                    if torn {
                        self.master.crash_after_persist = Some(down);
                    } else {
                        self.crash_master(down);
                    }
                }
            }
            Fault::MasterBack => self.start_master(),
            Fault::Slow(lasts) => {
                self.net.slowness = 50;
                self.queue.at(now + lasts, Happening::Fault(Fault::Fast));
            }
            Fault::Fast => self.net.slowness = 1,
        }
        Ok(())
    }

    fn cut_peer(&mut self, peer: Peer, noticed_within: Duration) {
        let stream = match peer {
            Peer::Agent(i) => self.machines.get(i).and_then(|m| m.stream),
            Peer::Framework(i) => self.frameworks.get(i).and_then(|f| f.link.map(|l| l.1)),
        };
        if let Some(stream) = stream {
            self.cut(stream, noticed_within);
        }
    }

    fn cut(&mut self, stream: u64, noticed_within: Duration) {
        let now = self.now();
        if let Some((master, peer)) = self.net.cut(now, stream, noticed_within) {
            self.queue.at(master, Happening::Up(stream, Up::Closed));
            let closed = Down::Closed {
                reason: "connection reset".to_owned(),
                clean: false,
            };
            self.queue.at(peer, Happening::Down(stream, closed));
        }
    }
}
