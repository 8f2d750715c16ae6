//! What can go wrong, as values: drawn from the seed, printed in words, dropped by shrinking.

use std::fmt;
use std::time::Duration;

use allotment_types::Timestamp;
use fastrand::Rng;

use crate::cast;
use crate::net::{Peer, Way};
use crate::rng;
use crate::scenario::Scenario;

/// Where in a step a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// Between two steps.
    Idle,
    /// In the next step that writes, before the write is durable: the records are lost, and
    /// nobody has heard of them.
    BeforeSync,
    /// In the next step that writes, when the write is durable and nobody has heard of it.
    AfterSync,
    /// In the next step with more effects than this, after so many of them.
    AfterEffects(u8),
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A stream breaks with what is in flight; each end notices within two seconds.
    CutStream(Peer),
    /// One or both ways between the master and a peer are blocked for a while. Nobody is told:
    /// what is under way is held and goes on when the partition heals.
    Partition {
        peer: Peer,
        to_master: bool,
        from_master: bool,
        lasts: Duration,
    },
    /// The peer's end of a stream breaks and it comes back over another, while what it said over
    /// the old one reaches the master only later.
    HalfOpen { peer: Peer, lasts: Duration },
    /// The network is there and gone and there, again and again.
    Flapping(Peer),
    /// Every message takes many times as long, for a while.
    SlowNetwork(Duration),
    /// For a while some messages that the protocol repeats are lost, and some come twice.
    Lossy(Duration),
    /// A peer reads nothing for a while; the master gives it up when too much waits for it.
    SlowReader { peer: Peer, lasts: Duration },
    /// The master dies, and another begins after a while with what was durable, by a wall clock
    /// that may have jumped meanwhile.
    MasterCrash {
        at: CrashPoint,
        down: Duration,
        clock_jumps: i32,
    },
    /// The master's disk takes long for every write, for a while.
    SlowDisk(Duration),
    /// The master's disk is full for a while: every write fails and ends the master.
    FullDisk(Duration),
    /// A framework's process dies and another begins.
    FrameworkCrash { framework: usize, at: CrashPoint },
    /// A framework's process ends for good.
    FrameworkLeaves(usize),
    /// An operator removes a framework.
    OperatorRemoves(usize),
    /// An operator kills one of the tasks that run.
    OperatorKills(u32),
    /// An agent's process dies, its containers go on, and it is back after a while. With `torn`,
    /// it dies between its next write and what follows from that.
    AgentCrash {
        machine: usize,
        down: Duration,
        torn: bool,
    },
    /// A machine loses power, with its containers and what was not forced to its disk.
    PowerLoss { machine: usize, down: Duration },
    /// A machine is installed anew under its old name: its tasks and its id are gone, and its
    /// size is another.
    Reimage { machine: usize, cpus: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutStream(peer) => write!(f, "the stream of {peer} breaks"),
            Self::Partition {
                peer,
                to_master,
                from_master,
                lasts,
            } => {
                let what = match (to_master, from_master) {
                    (true, true) => "is cut off from the master",
                    (true, false) => "cannot reach the master",
                    (false, true) => "cannot be reached by the master",
                    (false, false) => "is not partitioned",
                };
                write!(f, "{peer} {what} for {lasts:.1?}")
            }
            Self::HalfOpen { peer, lasts } => write!(
                f,
                "{peer} comes back over a new stream, the old one is late by {lasts:.1?}"
            ),
            Self::Flapping(peer) => write!(f, "the network of {peer} flaps"),
            Self::SlowNetwork(lasts) => write!(f, "the network is slow for {lasts:.1?}"),
            Self::Lossy(lasts) => write!(f, "messages are lost and doubled for {lasts:.1?}"),
            Self::SlowReader { peer, lasts } => write!(f, "{peer} reads nothing for {lasts:.1?}"),
            Self::MasterCrash {
                at,
                down,
                clock_jumps,
            } => {
                write!(f, "the master dies {at} and is down for {down:.1?}")?;
                match clock_jumps {
                    0 => Ok(()),
                    seconds => write!(f, ", its clock jumps by {seconds} s"),
                }
            }
            Self::SlowDisk(lasts) => write!(f, "the master's disk is slow for {lasts:.1?}"),
            Self::FullDisk(lasts) => write!(f, "the master's disk is full for {lasts:.1?}"),
            Self::FrameworkCrash { framework, at } => {
                write!(f, "framework {framework} dies {at} and begins again")
            }
            Self::FrameworkLeaves(i) => write!(f, "framework {i} ends for good"),
            Self::OperatorRemoves(i) => write!(f, "an operator removes framework {i}"),
            Self::OperatorKills(pick) => write!(f, "an operator kills task number {pick}"),
            Self::AgentCrash {
                machine,
                down,
                torn,
            } => {
                let at = if *torn { " after its next write" } else { "" };
                write!(f, "the agent of machine {machine} dies{at} for {down:.1?}")
            }
            Self::PowerLoss { machine, down } => {
                write!(f, "machine {machine} loses power for {down:.1?}")
            }
            Self::Reimage { machine, cpus } => {
                write!(f, "machine {machine} is installed anew with {cpus} cpus")
            }
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("between two steps"),
            Self::BeforeSync => f.write_str("before its next write is durable"),
            Self::AfterSync => f.write_str("after its next write, before anybody hears of it"),
            Self::AfterEffects(n) => write!(f, "after {n} effects of a step"),
        }
    }
}

impl Fault {
    /// The ways that a partition blocks.
    pub(crate) fn ways(to_master: bool, from_master: bool) -> impl Iterator<Item = Way> {
        let up = to_master.then_some(Way::ToMaster);
        up.into_iter().chain(from_master.then_some(Way::FromMaster))
    }
}

/// The faults of a run and when they happen, soonest first.
pub(crate) fn draw(seed: u64, scenario: &Scenario) -> Vec<(Timestamp, Fault)> {
    let mut rng = rng::stream(seed, "faults");
    let mut faults: Vec<(Timestamp, Fault)> = (0..scenario.faults)
        .map(|_| {
            let at = rng::between(&mut rng, Duration::ZERO, scenario.busy);
            (Timestamp::ZERO + at, one(&mut rng, scenario.agents))
        })
        .collect();
    // Somebody goes for good in most runs, so that failover timers have work.
    if scenario.faults > 0 && rng.u8(0..4) > 0 {
        let at = rng::between(&mut rng, scenario.busy / 4, scenario.busy);
        faults.push((Timestamp::ZERO + at, Fault::FrameworkLeaves(cast::PASSING)));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn one(rng: &mut Rng, agents: usize) -> Fault {
    let peer = |rng: &mut Rng| {
        if rng.bool() {
            Peer::Agent(rng.usize(0..agents.max(1)))
        } else {
            Peer::Framework(rng.usize(0..cast::FRAMEWORKS))
        }
    };
    let seconds = |rng: &mut Rng, low, high| {
        rng::between(rng, Duration::from_secs(low), Duration::from_secs(high))
    };
    match rng.u8(0..31) {
        0 | 1 => Fault::CutStream(peer(rng)),
        2..=5 => {
            let (to_master, from_master) = match rng.u8(0..4) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            Fault::Partition {
                peer: peer(rng),
                to_master,
                from_master,
                lasts: seconds(rng, 1, 150),
            }
        }
        6 | 7 => Fault::HalfOpen {
            peer: peer(rng),
            lasts: seconds(rng, 2, 60),
        },
        8 => Fault::Flapping(peer(rng)),
        9 | 10 => Fault::SlowNetwork(seconds(rng, 1, 20)),
        11 | 12 => Fault::Lossy(seconds(rng, 5, 60)),
        13 => Fault::SlowReader {
            peer: peer(rng),
            lasts: seconds(rng, 5, 60),
        },
        14..=18 => Fault::MasterCrash {
            at: crash_point(rng),
            down: seconds(rng, 1, 30),
            clock_jumps: match rng.u8(0..4) {
                0 => rng.i32(-3600..=3600),
                _ => 0,
            },
        },
        19 => Fault::SlowDisk(seconds(rng, 5, 60)),
        20 => Fault::FullDisk(seconds(rng, 1, 20)),
        21..=23 => Fault::FrameworkCrash {
            framework: cast::DURABLE[rng.usize(0..cast::DURABLE.len())],
            at: crash_point(rng),
        },
        24..=26 => Fault::AgentCrash {
            machine: rng.usize(0..agents.max(1)),
            down: seconds(rng, 0, 60),
            torn: rng.bool(),
        },
        27 | 28 => Fault::PowerLoss {
            machine: rng.usize(0..agents.max(1)),
            down: seconds(rng, 5, 150),
        },
        29 => Fault::OperatorKills(rng.u32(0..1000)),
        _ => match rng.u8(0..3) {
            0 => Fault::OperatorRemoves(cast::PASSING),
            _ => Fault::Reimage {
                machine: rng.usize(0..agents.max(1)),
                cpus: rng.u64(2..=8),
            },
        },
    }
}

fn crash_point(rng: &mut Rng) -> CrashPoint {
    match rng.u8(0..4) {
        0 => CrashPoint::Idle,
        1 => CrashPoint::BeforeSync,
        2 => CrashPoint::AfterSync,
        _ => CrashPoint::AfterEffects(rng.u8(0..4)),
    }
}
