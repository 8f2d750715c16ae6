//! A whole cluster on virtual time: one master, machines, frameworks, and the streams between.
//!
//! The world performs the effects that the cores ask for, and shows everything that passes to the
//! checks. It decides nothing but delays and faults, and those from the seed.

mod disk;
mod faults;
mod head;
mod peers;
mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_framework_sdk::Config;
use allotment_framework_sdk::session::{self, Session};
use allotment_master::core::registry::Registry;
use allotment_master::core::{self as master, Core};
use allotment_proto::allot;
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};
use fastrand::Rng;

use self::disk::Disk;
use self::faults::Relief;
use crate::brain::Brain;
use crate::clock::Clock;
use crate::elastic::Elastic;
use crate::fault::{CrashPoint, Fault};
use crate::host::Host;
use crate::lab::Tenant;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::module::Module;
use crate::net::{Down, Net, Peer, Up};
use crate::plant::{Plant, Saboteur};
use crate::queue::{Queue, Ticket};
use crate::real_agent::RealAgent;
use crate::rng;
use crate::trace::{Trace, TraceDepth};
use crate::watched::Watched;
use crate::witness::Witness;

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
    /// It is over.
    Relief(Relief),
    /// The stream of this peer breaks.
    Cut(Peer),
    /// What this run of the master wrote is durable.
    Written(u32),
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
    Master,
    Machine(usize),
    Framework(usize),
}

struct Master {
    core: Option<Core>,
    registry: Registry,
    /// As it was before the last write, for [`Plant::DiskForgets`].
    before: Option<Registry>,
    plant: Plant,
    allocator: Watched,
    module: Module,
    offer_timeout: Option<Duration>,
    starts: u32,
    wake: Option<Ticket>,
    clock: Clock,
    /// How far its clock is off when it comes back.
    clock_jumps: i32,
    disk: Disk,
    /// Where it dies next, and for how long.
    crash: Option<(CrashPoint, Duration)>,
    /// It took something in since the books were last compared.
    stepped: bool,
    /// Commits that wait for their reply: whose, of which process.
    commits: BTreeMap<master::RequestId, (usize, u64)>,
    next_request: u64,
}

struct MachineNode {
    host: Host,
    stream: Option<u64>,
    wake: Option<Ticket>,
    clock: Clock,
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
    /// Its process ended for good, or was never there.
    gone: bool,
    /// An operator removed it.
    removed: bool,
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
    queue: Queue<Happening>,
    net: Net,
    pub(crate) trace: Trace,
    master: Master,
    machines: Vec<MachineNode>,
    frameworks: Vec<FrameworkNode>,
    ledger: Ledger,
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
            let clock = Clock::off_by(skews.i32(-300..=300));
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
                gone: seat.absent,
                removed: false,
            });
        }
        let mut world = Self {
            queue: Queue::default(),
            net: Net::new(rng::stream(seed, "net"), setup.delay),
            trace: Trace::new(setup.trace),
            master: Master {
                core: None,
                registry: Registry::default(),
                allocator: Watched::new(setup.module.build(), setup.plant),
                plant: setup.plant,
                before: None,
                module: setup.module,
                offer_timeout: setup.offer_timeout,
                starts: 0,
                wake: None,
                clock: Clock::off_by(0),
                clock_jumps: 0,
                disk: Disk::new(rng::stream(seed, "disk")),
                crash: None,
                stepped: false,
                commits: BTreeMap::new(),
                next_request: 0,
            },
            machines,
            frameworks,
            ledger: Ledger::default(),
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

    /// The allocation module, to be asked.
    pub(crate) fn allocator(&self) -> &dyn Allocator {
        &self.master.allocator
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
            if self.checked && std::mem::take(&mut self.master.stepped) {
                self.check()?;
            }
        }
        Ok(())
    }

    /// The books of master, module and simulator, whenever everything that the master decided
    /// has passed its door.
    fn check(&self) -> Checked {
        if self.master.disk.is_writing() {
            return Ok(());
        }
        if let Some(core) = &self.master.core {
            self.ledger.compare(&self.master.allocator)?;
            core.check()
                .map_err(|e| format!("the master's books: {e}"))?;
        }
        Ok(())
    }

    /// After a quiet time: every view of the cluster is the same.
    pub(crate) fn check_settled(&self) -> Checked {
        let there = |i: usize| self.frameworks.get(i).is_some_and(|node| !node.gone);
        self.witness.check_settled(there)?;
        for (i, node) in self.machines.iter().enumerate() {
            let Some(id) = node.host.id().filter(|_| node.host.is_registered()) else {
                return Err(format!("views converge: machine {i} is not registered"));
            };
            let (runs, books) = (self.witness.on_machine(i), self.ledger.tasks(&id));
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

    fn happen(&mut self, happening: Happening) -> Checked {
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
            Happening::Written(run) => self.on_written(run),
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
            Part::Master => {
                self.master.wake = None;
                let broken = self.saboteur.is(Plant::TimersForgotten);
                if broken && now > Timestamp::from_secs(200) {
                    return Ok(());
                }
                self.master_step(master::Input::Tick)
            }
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
                if node.gone {
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
            Part::Master => {
                let core = self.master.core.as_ref();
                let core = core.filter(|_| !self.master.disk.is_writing());
                let deadline = core.and_then(Core::next_deadline);
                (
                    deadline.map(|at| self.master.clock.global(at)),
                    self.master.wake,
                )
            }
            Part::Machine(i) => match self.machines.get(i) {
                Some(node) => {
                    let deadline = node.host.next_deadline();
                    (deadline.map(|at| node.clock.global(at)), node.wake)
                }
                None => return,
            },
            Part::Framework(i) => match self.frameworks.get(i) {
                Some(node) if node.gone => return,
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
