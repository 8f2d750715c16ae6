//! A whole cluster on virtual time: one master, machines, frameworks, and the streams between.
//!
//! The world performs the effects that the cores ask for, and shows everything that passes to the
//! checks. It decides nothing but delays and faults, and those from the seed.

mod faults;
mod head;
mod peers;
mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_framework_sdk::Config;
use allotment_framework_sdk::session::{self, Session};
use allotment_master::core::registry::Registry;
use allotment_master::core::{self as master, Core};
use allotment_proto::allot;
use allotment_types::{FrameworkId, Resources, Role, Timestamp};

use crate::brain::Brain;
use crate::elastic::Elastic;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::net::{Down, Net, Peer, Up};
use crate::queue::{Queue, Ticket};
use crate::real_agent::RealAgent;
use crate::rng;
use crate::trace::{Trace, TraceDepth};
use crate::watched::{Plant, Watched};
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
    /// A framework's process dies and another begins.
    KillFramework(usize),
    /// An agent's process dies, its containers go on, and it is back after a while. With `torn`,
    /// it dies between its next write and what follows from that.
    AgentCrash {
        machine: usize,
        down: Duration,
        torn: bool,
    },
    /// A machine loses power, with its containers and what was not forced to its disk.
    PowerLoss { machine: usize, down: Duration },
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
    /// Commits that wait for their reply: whose, of which process.
    commits: BTreeMap<master::RequestId, (usize, u64)>,
    next_request: u64,
}

struct MachineNode {
    host: Host,
    stream: Option<u64>,
    wake: Option<Ticket>,
    away_until: Timestamp,
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
}

/// How a world is set up.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) machines: Vec<Resources>,
    pub(crate) frameworks: Vec<(String, Brain)>,
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
            let (name, at) = (format!("m{i}"), start());
            let host = if setup.real_agents {
                Host::Real(Box::new(RealAgent::new(&name, total, rng, at)))
            } else {
                Host::Model(Box::new(Machine::new(name, total, rng, at)))
            };
            MachineNode {
                host,
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
                config,
                session,
                brain,
                process: 0,
                commit: None,
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
                commits: BTreeMap::new(),
                next_request: 0,
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

    pub(crate) fn brains(&self) -> impl Iterator<Item = &Elastic> {
        self.frameworks.iter().filter_map(|f| f.brain.elastic())
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
        for node in &self.frameworks {
            node.brain.check_settled()?;
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
                self.master_step(master::Input::Tick)
            }
            Part::Machine(i) => {
                let Some(node) = self.machines.get_mut(i) else {
                    return Ok(());
                };
                node.wake = None;
                let acts = node.host.on_tick(now);
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
                (core.and_then(Core::next_deadline), self.master.wake)
            }
            Part::Machine(i) => match self.machines.get(i) {
                Some(node) => (node.host.next_deadline(), node.wake),
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
