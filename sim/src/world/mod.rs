//! A whole cluster on virtual time: masters, machines, frameworks, and the streams between.
//!
//! The world performs the effects that the cores ask for, and shows everything that passes to the
//! checks. It decides nothing but delays and faults, and those from the seed.

mod disk;
mod door;
mod faults;
mod group;
mod masters;
mod operators;
mod peers;
mod store;
mod upgrade;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_framework_sdk::Config;
use allotment_framework_sdk::session::{self, Session};
use allotment_master::core::RequestId;
use allotment_proto::allot;
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};
use bytes::Bytes;
use fastrand::Rng;

use self::faults::Relief;
use self::group::{Goal, Mesh};
use self::masters::MasterNode;
use self::operators::Order;
use crate::brain::Brain;
use crate::clock::Clock;
use crate::elastic::Elastic;
use crate::fault::Fault;
use crate::host::Host;
use crate::lab::Tenant;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::module::Module;
use crate::net::{Down, Net, Peer, Up};
use crate::plant::{Plant, Saboteur};
use crate::promises::Promises;
use crate::queue::{Queue, Ticket};
use crate::real_agent::RealAgent;
use crate::rng;
use crate::trace::{Trace, TraceDepth};
use crate::watched::Watched;
use crate::witness::Witness;

/// More events than this at one instant are a loop that makes no progress.
const SAME_INSTANT_MAX: u64 = 200_000;
/// Ten times what the busiest hours take: an exchange that feeds itself never ends.
const STEPS_MAX: u64 = 5_000_000;

/// After so many steps of a master all books are compared; after each, those of the agents that it
/// touched.
const FULL_CHECK_EVERY: u32 = 64;

/// How many millionths clocks are too fast or too slow at most; a crystal is ten times as good,
/// and the masters' lease bears five times as much.
const DRIFT_MAX: i32 = 10_000;

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
    /// It is over.
    Relief(Relief),
    /// The stream of this peer breaks.
    Cut(Peer),
    /// The peer of this stream asks who leads, for the how manyeth time.
    Seek(u64, u32),
    /// What this run of a master was writing is durable.
    Written { master: usize, run: u32 },
    /// This run of a master has encoded its registry.
    Encoded {
        master: usize,
        run: u32,
        state: Bytes,
    },
    /// A message of one master reaches another.
    Raft {
        from: usize,
        message: Box<allot::RaftMessage>,
    },
    /// A run of a master hears what became of what it sent.
    Told {
        master: usize,
        run: u32,
        input: allotment_raft::Input,
    },
    /// The operator of the masters looks what is to be done.
    Operate,
    /// The operator of the cluster does.
    Administer,
    /// A framework's process of that number begins as soon as it can read what it kept.
    FrameworkBack(usize, u64),
    /// A commit reaches the master, from this framework's process of that number.
    StoreAsked(usize, u64),
    /// What became of it comes back.
    StoreAnswered {
        framework: usize,
        process: u64,
        done: bool,
    },
    /// Look at the utilisation.
    Sample,
}

/// Who has deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Master(usize),
    Machine(usize),
    Framework(usize),
}

struct MachineNode {
    host: Host,
    stream: Option<u64>,
    wake: Option<Ticket>,
    clock: Clock,
    /// The latest term of which a master gave it orders.
    term: u64,
    /// Of the version that knows less of the wire.
    older: bool,
}

struct FrameworkNode {
    config: Config,
    session: Session,
    brain: Brain,
    /// Counts its processes.
    process: u64,
    /// What must become durable in the store, repeated until it is.
    commit: Option<allot::StoreCommitRequest>,
    /// The session's number of its connection, and the stream that is it.
    link: Option<(u64, u64)>,
    wake: Option<Ticket>,
    id: Option<FrameworkId>,
    /// Its next stream is late by so much.
    late: Option<Duration>,
    /// Its process died, and another has not begun yet.
    away: bool,
    /// Its process ended for good, or was never there.
    gone: bool,
    /// An operator removed it.
    removed: bool,
    /// Of the version that knows less of the wire.
    older: bool,
}

/// A framework and how it subscribes.
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// It wants no offers yet.
    pub(crate) suppressed: bool,
    /// How long its tasks live without it.
    pub(crate) failover_timeout: Duration,
    /// It never comes: left out to see whether it matters.
    pub(crate) absent: bool,
    pub(crate) brain: Brain,
}

/// How long the tasks of a framework live without it, unless it says otherwise.
pub(crate) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Seat {
    /// A framework in a role of its own name that wants no offers yet.
    pub(crate) fn own_role(name: &str, brain: Brain) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            role: Role::parse(name).map_err(|e| e.to_string())?,
            suppressed: true,
            failover_timeout: FAILOVER_TIMEOUT,
            absent: false,
            brain,
        })
    }
}

/// How a world is set up.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) masters: usize,
    /// How long a master must be silent before another is elected.
    pub(crate) election_timeout: Duration,
    pub(crate) machines: Vec<Resources>,
    pub(crate) frameworks: Vec<Seat>,
    pub(crate) module: Module,
    /// How long an offer stands; `None`: as long as the master's default.
    pub(crate) offer_timeout: Option<Duration>,
    pub(crate) delay: (Duration, Duration),
    pub(crate) trace: TraceDepth,
    pub(crate) plant: Plant,
    /// Compare every book after every step.
    pub(crate) checked: bool,
    /// The agent's core rather than the model.
    pub(crate) real_agents: bool,
}

/// The cluster.
pub(crate) struct World {
    seed: u64,
    queue: Queue<Happening>,
    net: Net,
    mesh: Mesh,
    pub(crate) trace: Trace,
    masters: Vec<MasterNode>,
    /// Raft's.
    tick: Duration,
    module: Module,
    offer_timeout: Option<Duration>,
    plant: Plant,
    /// An allocation module for masters that do not lead.
    idle: Watched,
    promises: Promises,
    /// What the operator of the masters wants, in order.
    goals: VecDeque<Goal>,
    next_request: u64,
    /// What operators of the cluster want, in order; the first may have been given to a master,
    /// so many looks ago.
    orders: VecDeque<Order>,
    ordered: Option<(RequestId, u32)>,
    /// Agents that are drained, the longest first.
    drained: VecDeque<AgentId>,
    /// How many cores each role may have, as far as operators were promised.
    limits: BTreeMap<String, u64>,
    machines: Vec<MachineNode>,
    frameworks: Vec<FrameworkNode>,
    pub(crate) witness: Witness,
    checked: bool,
    saboteur: Saboteur,
    instant: (Timestamp, u64),
    pub(crate) faults: u64,
    /// How many faults lose and double messages now.
    lossy: u32,
    mischief: Rng,
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
        let mut skews = rng::stream(seed, "clocks");
        let mut starts = rng::stream(seed, "starts");
        let mut start = || Timestamp::from_millis(starts.u64(0..2000));
        let machines = setup.machines.into_iter().enumerate().map(|(i, total)| {
            let rng = rng::stream(seed, &format!("machine-{i}"));
            let clock = skewed(&mut skews, 300);
            let (name, at) = (format!("m{i}"), clock.local(start()));
            let host = if setup.real_agents {
                Host::Real(Box::new(RealAgent::new(&name, total, rng, at)))
            } else {
                Host::Model(Box::new(Machine::new(name, total, rng, at)))
            };
            MachineNode {
                host,
                stream: None,
                wake: None,
                clock,
                term: 0,
                older: false,
            }
        });
        let machines = machines.collect();
        let mut frameworks = Vec::new();
        for (i, seat) in setup.frameworks.into_iter().enumerate() {
            let config = Config {
                name: seat.name,
                roles: vec![seat.role],
                failover_timeout: seat.failover_timeout,
                suppressed: seat.suppressed,
                ..Config::default()
            };
            let jitter = rng::stream(seed, &format!("session-{i}")).u64(..);
            let session = Session::new(&config, jitter).map_err(|e| e.to_string())?;
            frameworks.push(FrameworkNode {
                config,
                session,
                brain: seat.brain,
                process: 0,
                commit: None,
                link: None,
                wake: None,
                id: None,
                late: None,
                away: false,
                gone: seat.absent,
                removed: false,
                older: false,
            });
        }
        let mut clocks = rng::stream(seed, "master-clocks");
        let masters = (0..setup.masters)
            .map(|place| MasterNode::new(seed, place, skewed(&mut clocks, 60)))
            .collect();
        let idle = Watched::new(setup.module.build(), Plant::None, false);
        let mut world = Self {
            seed,
            queue: Queue::default(),
            net: Net::new(rng::stream(seed, "net"), setup.delay),
            mesh: Mesh::default(),
            trace: Trace::new(setup.trace),
            masters,
            tick: setup.election_timeout / masters::ELECTION_TICKS,
            module: setup.module,
            offer_timeout: setup.offer_timeout,
            plant: setup.plant,
            idle,
            promises: Promises::default(),
            goals: VecDeque::new(),
            next_request: 0,
            orders: VecDeque::new(),
            ordered: None,
            drained: VecDeque::new(),
            limits: BTreeMap::new(),
            machines,
            frameworks,
            witness: Witness::default(),
            checked: setup.checked,
            saboteur: Saboteur::new(setup.plant),
            instant: (Timestamp::ZERO, 0),
            faults: 0,
            lossy: 0,
            mischief: rng::stream(seed, "mischief"),
            sample_every: None,
            samples: Vec::new(),
        };
        world.found_group()?;
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

    pub(crate) fn brains(&self) -> impl Iterator<Item = &Elastic> {
        self.frameworks.iter().filter_map(|f| f.brain.elastic())
    }

    pub(crate) fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.frameworks.iter().filter_map(|f| f.brain.tenant())
    }

    #[cfg(test)]
    pub(crate) fn batch_jobs_launched(&self) -> u64 {
        let batches = self.frameworks.iter().filter_map(|f| f.brain.batch());
        batches.map(crate::batch::Batch::n_launched).sum()
    }

    /// The machines that the master knows, and what they have.
    pub(crate) fn machines(&self) -> impl Iterator<Item = (AgentId, Resources)> {
        let known = self.machines.iter();
        known.filter_map(|node| Some((node.host.id()?, node.host.total().clone())))
    }

    /// The allocation module of the master that leads, to be asked; one that knows nothing when
    /// nobody does.
    pub(crate) fn allocator(&self) -> &dyn Allocator {
        let leader = self.acting().and_then(|master| self.masters.get(master));
        let process = leader.and_then(|node| node.process.as_ref());
        process.map_or(&self.idle, |process| &process.allocator)
    }

    /// Every job is submitted and done.
    pub(crate) fn batch_is_done(&self) -> bool {
        self.brains().all(|brain| {
            brain.script_is_over() && brain.jobs().iter().all(|job| job.done.is_some())
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
            if self.checked && self.trace.steps() > STEPS_MAX {
                return Err(format!(
                    "work is bounded: more than {STEPS_MAX} events, the last one {happening:?}"
                ));
            }
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

    /// The books of master, module and simulator, whenever everything that a leading master
    /// decided has passed its door.
    fn check(&mut self) -> Checked {
        for node in &mut self.masters {
            let Some(process) = &mut node.process else {
                continue;
            };
            let Some(reign) = process.reign.as_ref().filter(|reign| reign.is_settled()) else {
                continue;
            };
            if !std::mem::take(&mut process.stepped) {
                continue;
            }
            let wrong = |e| format!("the master's books: {e}");
            let mut touched = process.ledger.take_touched();
            touched.append(&mut process.allocator.take_touched());
            process.unchecked += 1;
            if process.unchecked < FULL_CHECK_EVERY {
                process.ledger.compare_some(&touched, &process.allocator)?;
                reign.core.check_some(&touched).map_err(wrong)?;
            } else {
                process.unchecked = 0;
                process.ledger.compare(&process.allocator)?;
                reign.core.check().map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// After a quiet time: every view of the cluster is the same.
    pub(crate) fn check_settled(&self) -> Checked {
        let ledger = self.check_masters()?;
        let there = |i: usize| self.frameworks.get(i).is_some_and(|node| !node.gone);
        self.witness.check_settled(there)?;
        for (i, node) in self.machines.iter().enumerate() {
            let Some(id) = node.host.id().filter(|_| node.host.is_registered()) else {
                return Err(format!("views converge: machine {i} is not registered"));
            };
            let (runs, books) = (self.witness.on_machine(i), ledger.tasks(&id));
            if runs != books {
                return Err(format!(
                    "views converge: machine {i} runs {runs:?}, but by the books it is {books:?}"
                ));
            }
            let pending = node.host.updates_pending();
            if pending > 0 {
                return Err(format!(
                    "updates get through: machine {i} still has {pending} that no framework \
                     acknowledged"
                ));
            }
        }
        for (i, node) in self.frameworks.iter().enumerate() {
            if node.gone {
                self.witness.check_left_nothing(i)?;
                continue;
            }
            node.brain.check_settled()?;
            if !node.session.is_subscribed() {
                return Err(format!("views converge: framework {i} is not subscribed"));
            }
        }
        Ok(())
    }

    /// All masters run and have one registry, and one leads, whose ledger it is.
    fn check_masters(&self) -> Result<&Ledger, String> {
        for (place, node) in self.masters.iter().enumerate() {
            let Some(process) = node.process.as_ref().filter(|_| node.is_up()) else {
                return Err(format!("views converge: master {place} does not run"));
            };
            self.promises
                .check_copy(self.now(), place, process.replica.registry())?;
        }
        if let Some(goal) = self.goals.front() {
            return Err(format!(
                "views converge: an operator still waits for {goal:?}"
            ));
        }
        let leader = self.acting().and_then(|master| self.masters.get(master));
        let process = leader.and_then(|node| node.process.as_ref());
        let process = process.ok_or("views converge: no master leads")?;
        Ok(&process.ledger)
    }

    /// What reaches a process that is stopped waits until it goes on.
    fn held_by_pause(&mut self, happening: Happening) -> Option<Happening> {
        let at = match &happening {
            Happening::Wake(Part::Master(master))
            | Happening::Written { master, .. }
            | Happening::Encoded { master, .. }
            | Happening::Told { master, .. } => Some(*master),
            Happening::Up(stream, _) => self.net.master(*stream),
            Happening::Raft { message, .. } => {
                self.masters.iter().position(|node| node.id == message.to)
            }
            _ => None,
        };
        let Some(at) = at else {
            return Some(happening);
        };
        match self
            .masters
            .get_mut(at)
            .map(|node| (&mut node.paused, &mut node.wake))
        {
            Some((Some((_, held)), wake)) => {
                if matches!(happening, Happening::Wake(_)) {
                    *wake = None;
                }
                held.push_back(happening);
                None
            }
            _ => Some(happening),
        }
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        let Some(happening) = self.held_by_pause(happening) else {
            return Ok(());
        };
        match happening {
            Happening::Wake(part) => self.wake(part),
            Happening::Up(stream, up) => self.on_up(stream, up),
            Happening::Down(stream, down) => self.on_down(stream, down),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::Relief(relief) => self.on_relief(relief),
            Happening::Cut(peer) => {
                self.cut_peer(peer, Duration::from_millis(500));
                Ok(())
            }
            Happening::Seek(stream, tries) => self.on_seek(stream, tries),
            Happening::Written { master, run } => self.on_written(master, run),
            Happening::Encoded { master, run, state } => {
                let made = allotment_raft::Input::SnapshotMade(state);
                self.on_told(master, run, made)
            }
            Happening::Raft { from, message } => self.on_raft(from, message),
            Happening::Told { master, run, input } => self.on_told(master, run, input),
            Happening::Operate => self.operate(),
            Happening::Administer => self.administer(),
            Happening::FrameworkBack(i, process) => self.framework_begins(i, process),
            Happening::StoreAsked(i, process) => self.on_store_asked(i, process),
            Happening::StoreAnswered {
                framework,
                process,
                done,
            } => self.on_store_answered(framework, process, done),
            Happening::Sample => {
                self.sample();
                Ok(())
            }
        }
    }

    fn sample(&mut self) {
        let instances = |brain: &Elastic| (brain.instances_wanted(), brain.instances_up());
        self.samples.push(Sample {
            at: self.now(),
            in_use: self.witness.in_use(),
            instances: self.brains().map(instances).collect(),
            waiting: self.brains().map(Elastic::waiting).sum(),
        });
        if let Some(every) = self.sample_every {
            self.queue.at(self.now() + every, Happening::Sample);
        }
    }

    fn wake(&mut self, part: Part) -> Checked {
        let now = self.now();
        match part {
            Part::Master(master) => self.wake_master(master),
            Part::Machine(i) => {
                let Some(node) = self.machines.get_mut(i) else {
                    return Ok(());
                };
                node.wake = None;
                let acts = node.host.on_tick(node.clock.local(now));
                self.perform_acts(i, acts)
            }
            Part::Framework(i) => {
                let Some(node) = self.frameworks.get_mut(i) else {
                    return Ok(());
                };
                node.wake = None;
                if node.gone || node.away {
                    return Ok(());
                }
                let mut inputs = Vec::new();
                if node.session.next_deadline().is_some_and(|at| at <= now) {
                    inputs.push(session::Input::Tick);
                }
                if node.brain.next_deadline().is_some_and(|at| at <= now) {
                    let deeds = node.brain.on_tick(now)?;
                    inputs.extend(self.calls_among(i, deeds)?);
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
            Part::Master(master) => {
                let held = self.masters.get(master).and_then(|node| node.wake);
                (self.master_deadline(master), held)
            }
            Part::Machine(i) => match self.machines.get(i) {
                Some(node) => {
                    let deadline = node.host.next_deadline();
                    (deadline.map(|at| node.clock.global(at)), node.wake)
                }
                None => return,
            },
            Part::Framework(i) => match self.frameworks.get(i) {
                Some(node) if node.gone || node.away => return,
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
            Part::Master(master) => {
                if let Some(node) = self.masters.get_mut(master) {
                    node.wake = ticket;
                }
            }
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

/// A clock that is off by so many seconds at most, and goes a little wrong.
fn skewed(rng: &mut Rng, seconds: i32) -> Clock {
    let clock = Clock::off_by(rng.i32(-seconds..=seconds));
    clock.drifting(rng.i32(-DRIFT_MAX..=DRIFT_MAX))
}
