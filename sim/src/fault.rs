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

/// Which master it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The one that leads then.
    Leader,
    /// The one at this place.
    Place(usize),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leading master"),
            Self::Place(place) => write!(f, "master {place}"),
        }
    }
}

/// A process that can be exchanged for one of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// By its place.
    Master(usize),
    /// An agent or a framework.
    Peer(Peer),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(place) => write!(f, "master {place}"),
            Self::Peer(peer) => write!(f, "{peer}"),
        }
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A stream breaks with what is in flight; each end notices within two seconds.
    CutStream(Peer),
    /// One or both ways between the masters and a peer are blocked for a while. Nobody is told:
    /// what is under way is held and goes on when the partition heals.
    Partition {
        peer: Peer,
        /// From this master alone.
        from: Option<Whom>,
        to_master: bool,
        from_master: bool,
        lasts: Duration,
    },
    /// The peer's end of a stream breaks and it comes back over another, while what it said over
    /// the old one reaches the master only later.
    HalfOpen { peer: Peer, lasts: Duration },
    /// A framework's stream breaks, and the SUBSCRIBE that follows is late by so much: the one after
    /// it comes first.
    LateSubscribe { framework: usize, lasts: Duration },
    /// The network is there and gone and there, again and again.
    Flapping(Peer),
    /// Every message takes many times as long, for a while.
    SlowNetwork(Duration),
    /// For a while some messages that the protocol repeats are lost, and some come twice.
    Lossy(Duration),
    /// A peer reads nothing for a while; the master gives it up when too much waits for it.
    SlowReader { peer: Peer, lasts: Duration },
    /// A master dies, what it was writing is lost or torn, and another process begins after a
    /// while with what was durable, by a wall clock that may have jumped meanwhile.
    MasterCrash {
        master: Whom,
        at: CrashPoint,
        down: Duration,
        clock_jumps: i32,
    },
    /// All masters lose power.
    MastersCrash { down: Duration, clock_jumps: i32 },
    /// A master is stopped for a while (SIGSTOP), and believes that no time has passed.
    MasterPause { master: Whom, lasts: Duration },
    /// A master hears or is heard by no other, or neither, and maybe by nobody else.
    MasterCut {
        master: Whom,
        hears: bool,
        is_heard: bool,
        /// Agents and frameworks too.
        peers: bool,
        lasts: Duration,
    },
    /// A master's disk is exchanged, with the process running or with the disk gone at once; an
    /// operator removes the member and another joins in its place.
    MasterReplaced { master: Whom, running: bool },
    /// An operator asks the leading master to let another lead.
    Resign,
    /// A master's disk takes long for every write, for a while.
    SlowDisk { master: Whom, lasts: Duration },
    /// A master's disk is full for a while: every write fails and ends the master.
    FullDisk { master: Whom, lasts: Duration },
    /// A framework's process dies and another begins.
    FrameworkCrash { framework: usize, at: CrashPoint },
    /// A framework's process ends for good.
    FrameworkLeaves(usize),
    /// An operator removes a framework.
    OperatorRemoves(usize),
    /// An operator kills one of the tasks that run.
    OperatorKills(u32),
    /// An operator limits the role of a framework for a while.
    OperatorLimits {
        framework: usize,
        cpus: u64,
        lasts: Duration,
    },
    /// An operator changes how much the role of a framework counts.
    OperatorWeighs { framework: usize, weight: u8 },
    /// An operator drains a machine for a while.
    OperatorDrains { machine: usize, lasts: Duration },
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
    /// A process that was of an older version until now gives way to one of the present version.
    Upgrade(Node),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutStream(peer) => write!(f, "the stream of {peer} breaks"),
            Self::Partition {
                peer,
                from,
                to_master,
                from_master,
                lasts,
            } => {
                let what = match (to_master, from_master) {
                    (true, true) => "is cut off from",
                    (true, false) => "cannot reach",
                    (false, true) => "cannot be reached by",
                    (false, false) => "is not cut off from",
                };
                match from {
                    Some(master) => write!(f, "{peer} {what} {master} for {lasts:.1?}"),
                    None => write!(f, "{peer} {what} the masters for {lasts:.1?}"),
                }
            }
            Self::HalfOpen { peer, lasts } => write!(
                f,
                "{peer} comes back over a new stream, the old one is late by {lasts:.1?}"
            ),
            Self::LateSubscribe { framework, lasts } => write!(
                f,
                "the stream of framework {framework} breaks, and the next SUBSCRIBE is late by \
                 {lasts:.1?}"
            ),
            Self::Flapping(peer) => write!(f, "the network of {peer} flaps"),
            Self::SlowNetwork(lasts) => write!(f, "the network is slow for {lasts:.1?}"),
            Self::Lossy(lasts) => write!(f, "messages are lost and doubled for {lasts:.1?}"),
            Self::SlowReader { peer, lasts } => write!(f, "{peer} reads nothing for {lasts:.1?}"),
            Self::MasterCrash {
                master,
                at,
                down,
                clock_jumps,
            } => {
                write!(f, "{master} dies {at} and is down for {down:.1?}")?;
                jump(f, *clock_jumps)
            }
            Self::MastersCrash { down, clock_jumps } => {
                write!(f, "all masters lose power for {down:.1?}")?;
                jump(f, *clock_jumps)
            }
            Self::MasterPause { master, lasts } => {
                write!(f, "{master} is stopped for {lasts:.1?}")
            }
            Self::MasterCut {
                master,
                hears,
                is_heard,
                peers,
                lasts,
            } => {
                let whom = if *peers { "anybody" } else { "other masters" };
                let what = match (hears, is_heard) {
                    (false, false) => "neither hears nor is heard by",
                    (true, false) => "hears but is not heard by",
                    (false, true) => "is heard by but does not hear",
                    (true, true) => "is not cut off from",
                };
                write!(f, "{master} {what} {whom} for {lasts:.1?}")
            }
            Self::MasterReplaced { master, running } => {
                let how = if *running { "replaced" } else { "lost" };
                write!(f, "the disk of {master} is {how}")
            }
            Self::Resign => f.write_str("the leading master is asked to let another lead"),
            Self::SlowDisk { master, lasts } => {
                write!(f, "the disk of {master} is slow for {lasts:.1?}")
            }
            Self::FullDisk { master, lasts } => {
                write!(f, "the disk of {master} is full for {lasts:.1?}")
            }
            Self::FrameworkCrash { framework, at } => {
                write!(f, "framework {framework} dies {at} and begins again")
            }
            Self::FrameworkLeaves(i) => write!(f, "framework {i} ends for good"),
            Self::OperatorRemoves(i) => write!(f, "an operator removes framework {i}"),
            Self::OperatorKills(pick) => write!(f, "an operator kills task number {pick}"),
            Self::OperatorLimits {
                framework,
                cpus,
                lasts,
            } => write!(
                f,
                "an operator limits the role of framework {framework} to {cpus} cpus for \
                 {lasts:.1?}"
            ),
            Self::OperatorWeighs { framework, weight } => write!(
                f,
                "an operator gives the role of framework {framework} weight {weight}"
            ),
            Self::OperatorDrains { machine, lasts } => {
                write!(f, "an operator drains machine {machine} for {lasts:.1?}")
            }
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
            Self::Upgrade(node) => write!(f, "{node} is upgraded"),
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

fn jump(f: &mut fmt::Formatter<'_>, seconds: i32) -> fmt::Result {
    match seconds {
        0 => Ok(()),
        seconds => write!(f, ", its clock jumps by {seconds} s"),
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
            (Timestamp::ZERO + at, one(&mut rng, scenario))
        })
        .collect();
    // Somebody goes for good in most runs, so that failover timers have work.
    if scenario.faults > 0 && rng.u8(0..4) > 0 {
        let at = rng::between(&mut rng, scenario.busy / 4, scenario.busy);
        faults.push((Timestamp::ZERO + at, Fault::FrameworkLeaves(cast::PASSING)));
    }
    if scenario.faults > 0 {
        faults.append(&mut rolling_upgrade(seed, scenario));
        faults.extend(late_subscribe(seed, scenario));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// In one of three runs a framework subscribes twice and the first is heard after the second.
fn late_subscribe(seed: u64, scenario: &Scenario) -> Option<(Timestamp, Fault)> {
    let mut rng = rng::stream(seed, "late subscribe");
    if rng.u8(0..3) > 0 {
        return None;
    }
    let at = rng::between(&mut rng, Duration::ZERO, scenario.busy);
    let fault = Fault::LateSubscribe {
        framework: rng.usize(0..cast::FRAMEWORKS),
        lasts: seconds(&mut rng, 4, 60),
    };
    Some((Timestamp::ZERO + at, fault))
}

/// In one of three runs all processes begin in an older version and are upgraded one after the
/// other, in the order that operators are told to keep: masters, agents, frameworks.
fn rolling_upgrade(seed: u64, scenario: &Scenario) -> Vec<(Timestamp, Fault)> {
    let mut rng = rng::stream(seed, "upgrade");
    if rng.u8(0..3) > 0 {
        return Vec::new();
    }
    let masters = (0..scenario.masters).map(Node::Master);
    let agents = (0..scenario.agents).map(|i| Node::Peer(Peer::Agent(i)));
    let frameworks = (0..cast::FRAMEWORKS).map(|i| Node::Peer(Peer::Framework(i)));
    let nodes: Vec<Node> = masters.chain(agents).chain(frameworks).collect();
    let begun = rng::between(&mut rng, Duration::ZERO, scenario.busy / 2);
    let each = (scenario.busy - begun) / u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
    let mut at = Timestamp::ZERO + begun;
    let upgrade = |node| {
        at = at + rng::between(&mut rng, each / 8, each);
        (at, Fault::Upgrade(node))
    };
    nodes.into_iter().map(upgrade).collect()
}

fn one(rng: &mut Rng, scenario: &Scenario) -> Fault {
    let agents = scenario.agents.max(1);
    let peer = |rng: &mut Rng| {
        if rng.bool() {
            Peer::Agent(rng.usize(0..agents))
        } else {
            Peer::Framework(rng.usize(0..cast::FRAMEWORKS))
        }
    };
    match rng.u8(0..66) {
        0..=2 => Fault::CutStream(peer(rng)),
        3..=8 => {
            let (to_master, from_master) = ways(rng);
            Fault::Partition {
                peer: peer(rng),
                from: (rng.u8(0..3) == 0).then(|| whom(rng, scenario)),
                to_master,
                from_master,
                lasts: seconds(rng, 1, 150),
            }
        }
        9..=11 => Fault::HalfOpen {
            peer: peer(rng),
            lasts: seconds(rng, 2, 60),
        },
        12 => Fault::Flapping(peer(rng)),
        13 | 14 => Fault::SlowNetwork(seconds(rng, 1, 20)),
        15..=17 => Fault::Lossy(seconds(rng, 5, 60)),
        18 => Fault::SlowReader {
            peer: peer(rng),
            lasts: seconds(rng, 5, 60),
        },
        19..=38 => of_masters(rng, scenario),
        39..=42 => Fault::FrameworkCrash {
            framework: cast::DURABLE[rng.usize(0..cast::DURABLE.len())],
            at: crash_point(rng),
        },
        43..=48 => Fault::AgentCrash {
            machine: rng.usize(0..agents),
            down: seconds(rng, 0, 60),
            torn: rng.bool(),
        },
        49..=52 => Fault::PowerLoss {
            machine: rng.usize(0..agents),
            down: seconds(rng, 5, 150),
        },
        53 | 54 => Fault::OperatorKills(rng.u32(0..1000)),
        55 => Fault::OperatorRemoves(cast::PASSING),
        56..=61 => of_operators(rng, scenario),
        _ => Fault::Reimage {
            machine: rng.usize(0..agents),
            cpus: rng.u64(2..=8),
        },
    }
}

fn of_operators(rng: &mut Rng, scenario: &Scenario) -> Fault {
    let framework = rng.usize(0..cast::FRAMEWORKS);
    match rng.u8(0..6) {
        0..=2 => Fault::OperatorLimits {
            framework,
            cpus: rng.u64(1..=8),
            lasts: seconds(rng, 30, 300),
        },
        3 => Fault::OperatorWeighs {
            framework,
            weight: rng.u8(1..=5),
        },
        _ => Fault::OperatorDrains {
            machine: rng.usize(0..scenario.agents.max(1)),
            lasts: seconds(rng, 10, 200),
        },
    }
}

fn of_masters(rng: &mut Rng, scenario: &Scenario) -> Fault {
    let clock_jumps = match rng.u8(0..4) {
        0 => rng.i32(-3600..=3600),
        _ => 0,
    };
    let master = whom(rng, scenario);
    match rng.u8(0..20) {
        0..=7 => Fault::MasterCrash {
            master,
            at: crash_point(rng),
            down: seconds(rng, 1, 30),
            clock_jumps,
        },
        8 => Fault::MastersCrash {
            down: seconds(rng, 1, 30),
            clock_jumps,
        },
        9..=11 => Fault::MasterPause {
            master,
            lasts: seconds(rng, 1, 40),
        },
        12..=14 => {
            let (is_heard, hears) = ways(rng);
            Fault::MasterCut {
                master,
                hears: !hears,
                is_heard: !is_heard,
                peers: rng.bool(),
                lasts: seconds(rng, 1, 60),
            }
        }
        15 | 16 => Fault::MasterReplaced {
            master,
            running: rng.bool(),
        },
        17 => Fault::Resign,
        18 => Fault::SlowDisk {
            master,
            lasts: seconds(rng, 5, 60),
        },
        _ => Fault::FullDisk {
            master,
            lasts: seconds(rng, 1, 20),
        },
    }
}

fn whom(rng: &mut Rng, scenario: &Scenario) -> Whom {
    if rng.bool() {
        Whom::Leader
    } else {
        Whom::Place(rng.usize(0..scenario.masters.max(1)))
    }
}

/// One way or both are blocked.
fn ways(rng: &mut Rng) -> (bool, bool) {
    match rng.u8(0..4) {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    }
}

fn seconds(rng: &mut Rng, low: u64, high: u64) -> Duration {
    rng::between(rng, Duration::from_secs(low), Duration::from_secs(high))
}

fn crash_point(rng: &mut Rng) -> CrashPoint {
    match rng.u8(0..4) {
        0 => CrashPoint::Idle,
        1 => CrashPoint::BeforeSync,
        2 => CrashPoint::AfterSync,
        _ => CrashPoint::AfterEffects(rng.u8(0..4)),
    }
}
