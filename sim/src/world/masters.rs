//! The masters: processes around the real replica, which leads or follows, and while it leads
//! around the real core.
//!
//! What stands here is what `master/src/edge` does with sockets, threads and a clock: records are
//! proposed and their effects held back (`Reign`), and nothing is taken in or told without a lease.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_master::core::registry::Registry;
use allotment_master::core::{self as master, Core, CoreConfig, RequestId};
use allotment_master::replica::reign::{Proposal, Reign};
use allotment_master::replica::{Effect, Input, Replica, entry};
use allotment_proto::mesos;
use allotment_raft::store::{MemoryFolder, Store};
use allotment_raft::{Input as RaftInput, Write};
use allotment_types::{Effects, Timestamp};

use super::disk::Disk;
use super::faults::Relief;
use super::{Checked, Happening, Part, World};
use crate::clock::Clock;
use crate::fault::CrashPoint;
use crate::ledger::{Heard, Ledger};
use crate::plant::Plant;
use crate::queue::Ticket;
use crate::rng;
use crate::watched::Watched;

/// The election timeout in ticks, as in the real edge.
pub(super) const ELECTION_TICKS: u32 = 12;
/// A log longer than this is replaced by a snapshot. The real bound is larger, and here it must
/// be reached.
const COMPACT_BYTES: usize = 24 * 1024;
/// How much of the log is kept in memory for masters that lag a little.
const KEEP_BYTES: usize = 4 * 1024;

/// One master's place: its disk, its clock, and the process that is there at times.
pub(super) struct MasterNode {
    /// The number of the member whose disk it is.
    pub(super) id: u64,
    pub(super) folder: MemoryFolder,
    pub(super) process: Option<Process>,
    /// Counts processes.
    pub(super) runs: u32,
    /// The process is stopped since then, and what reaches it waits.
    pub(super) paused: Option<(Timestamp, VecDeque<Happening>)>,
    pub(super) clock: Clock,
    /// How far its clock is off when it comes back.
    pub(super) clock_jumps: i32,
    pub(super) disk: Disk,
    /// Where it dies next while it leads, and for how long.
    pub(super) crash: Option<(CrashPoint, Duration)>,
    pub(super) wake: Option<Ticket>,
    /// Of the version that knows less of the wire and of the records.
    pub(super) older: bool,
}

/// A master that runs.
pub(super) struct Process {
    pub(super) replica: Replica,
    pub(super) store: Store,
    /// What waits for the disk, and what the disk is at.
    pub(super) writes: Vec<Write>,
    pub(super) writing: Vec<Write>,
    /// The reign that may act, and until when by its own clock.
    pub(super) lease: (u64, Timestamp),
    pub(super) reign: Option<Reign>,
    pub(super) allocator: Watched,
    /// What was offered and launched in this reign.
    pub(super) ledger: Ledger,
    /// Stepped inputs that the ledger has not heard of: it goes with what passes the door, and
    /// their effects wait. With each, whether it has any.
    turns: VecDeque<(Option<Heard>, bool)>,
    /// What waits for the core.
    backlog: VecDeque<master::Input>,
    /// Commits that wait for their reply: whose, of which process.
    pub(super) commits: BTreeMap<RequestId, (usize, u64)>,
    /// It took something in since the books were last compared.
    pub(super) stepped: bool,
    /// Steps since all books were compared.
    pub(super) unchecked: u32,
}

impl MasterNode {
    pub(super) fn new(seed: u64, place: usize, clock: Clock) -> Self {
        Self {
            id: u64::try_from(place).unwrap_or(u64::MAX).saturating_add(1),
            folder: MemoryFolder::default(),
            process: None,
            runs: 0,
            paused: None,
            clock,
            clock_jumps: 0,
            disk: Disk::new(rng::stream(seed, &format!("disk-{place}"))),
            crash: None,
            wake: None,
            older: false,
        }
    }

    /// Its number as an address.
    pub(super) fn address(id: u64) -> String {
        format!("m{id}:5050")
    }

    /// Whether it runs and is not stopped.
    pub(super) fn is_up(&self) -> bool {
        self.process.is_some() && self.paused.is_none()
    }
}

impl Process {
    /// Whether the core that lives here may do something at this moment.
    fn may_act(&self, local: Timestamp) -> bool {
        let (epoch, until) = self.lease;
        self.reign
            .as_ref()
            .is_some_and(|reign| reign.epoch == epoch && local < until)
    }
}

impl World {
    pub(super) fn process(&mut self, master: usize) -> Option<&mut Process> {
        self.masters.get_mut(master)?.process.as_mut()
    }

    /// Whether a master's core may act now.
    fn may_act(&self, master: usize) -> bool {
        let Some(node) = self.masters.get(master).filter(|node| node.is_up()) else {
            return false;
        };
        let Some(process) = &node.process else {
            return false;
        };
        let careless = self.saboteur.is(Plant::LeaseIgnored) && process.reign.is_some();
        careless || process.may_act(node.clock.local(self.now()))
    }

    /// The master that leads and may act, if there is one.
    pub(super) fn acting(&self) -> Option<usize> {
        (0..self.masters.len()).find(|master| self.may_act(*master))
    }

    /// Whom a master would send others to.
    pub(super) fn believed_leader(&self, master: usize) -> Option<usize> {
        let process = self.masters.get(master)?.process.as_ref()?;
        if process.reign.is_some() {
            return Some(master);
        }
        let leader = process.replica.member().standing().leader?;
        self.masters.iter().position(|node| node.id == leader)
    }

    /// A master's process begins with what its disk holds.
    pub(super) fn start_master(&mut self, master: usize) -> Checked {
        let now = self.now();
        let tick = self.tick;
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        if node.process.is_some() {
            return Ok(());
        }
        node.runs += 1;
        node.paused = None;
        node.clock = node.clock.jumped(std::mem::take(&mut node.clock_jumps));
        let opened = Store::open(Box::new(node.folder.clone()));
        let opened = opened.map_err(|error| {
            format!("what a crash leaves on a disk can be read: master {master}: {error}")
        })?;
        let Some((store, recovered)) = opened else {
            return Err(format!("the disk of master {master} holds a store"));
        };
        let config = allotment_raft::Config {
            id: node.id,
            tick,
            election_ticks: ELECTION_TICKS,
            seed: rng::stream(self.seed, &format!("member-{master}-{}", node.runs)).u64(..),
            compact_bytes: COMPACT_BYTES,
            keep_bytes: KEEP_BYTES,
        };
        let made = Replica::new(config, node.clock.local(now), recovered);
        let (replica, effects) =
            made.map_err(|error| format!("a master goes on: master {master}: {error}"))?;
        node.process = Some(Process {
            replica,
            store,
            writes: Vec::new(),
            writing: Vec::new(),
            lease: (0, Timestamp::ZERO),
            reign: None,
            allocator: self.idle.clone(),
            ledger: Ledger::default(),
            turns: VecDeque::new(),
            backlog: VecDeque::new(),
            commits: BTreeMap::new(),
            stepped: false,
            unchecked: 0,
        });
        self.trace.note(now, || format!("master {master} begins"));
        self.perform_replica(master, effects)?;
        self.turn(master)
    }

    /// The process dies with all it had in memory; it is back after a while, or never by itself.
    pub(super) fn crash_master(&mut self, master: usize, down: Option<Duration>) {
        let now = self.now();
        self.trace
            .note(now, || format!("master {master} dies for {down:?}"));
        self.tear(master);
        let Some(node) = self.masters.get_mut(master) else {
            return;
        };
        let commits = node.process.take().map(|process| process.commits);
        node.crash = None;
        node.paused = None;
        if let Some(ticket) = node.wake.take() {
            self.queue.cancel(ticket);
        }
        for stream in self.net.whole(master) {
            self.cut(stream, Duration::from_millis(50));
        }
        for (framework, process) in commits.unwrap_or_default().into_values() {
            self.answer_store(framework, process, false);
        }
        if let Some(down) = down {
            self.queue
                .at(now + down, Happening::Relief(Relief::MasterBack(master)));
        }
    }

    /// A deadline of the replica or of the core.
    pub(super) fn wake_master(&mut self, master: usize) -> Checked {
        let now = self.now();
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        node.wake = None;
        let local = node.clock.local(now);
        let due = |p: &Process| p.replica.next_deadline() <= local;
        if node.process.as_ref().is_some_and(due) {
            self.step_replica(master, Input::Raft(RaftInput::Tick))?;
        }
        self.turn(master)
    }

    pub(super) fn step_replica(&mut self, master: usize, input: Input) -> Checked {
        let now = self.now();
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        let local = node.clock.local(now);
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        let effects = process.replica.step(local, input);
        self.perform_replica(master, effects)
    }

    pub(super) fn perform_replica(&mut self, master: usize, effects: Vec<Effect>) -> Checked {
        let now = self.now();
        for effect in effects {
            // It may have died of the effect before.
            let Some(node) = self.masters.get_mut(master) else {
                return Ok(());
            };
            let run = node.runs;
            let Some(process) = &mut node.process else {
                return Ok(());
            };
            match effect {
                Effect::Send(message) => self.send_raft(master, message),
                Effect::Write(write) => {
                    process.writes.push(write);
                    self.start_write(master)?;
                }
                Effect::Encode(mut registry, time) => {
                    if self.saboteur.is(Plant::SnapshotIncomplete) {
                        registry.agents.pop_last();
                    }
                    let state = entry::encode_registry(*registry, time);
                    let at = now + Duration::from_millis(20);
                    self.queue.at(at, Happening::Encoded { master, run, state });
                }
                Effect::Lead {
                    epoch,
                    term,
                    registry,
                    time,
                } => self.on_lead(master, epoch, term, *registry, time)?,
                Effect::Follow => {
                    process.lease.1 = Timestamp::ZERO;
                    self.abdicate(master);
                }
                Effect::Committed { epoch, sequence } => {
                    if let Some(reign) = &mut process.reign {
                        reign.on_committed(epoch, sequence);
                        self.promises.on_committed(now, reign.term, sequence);
                    }
                }
                Effect::Lease(until) => process.lease.1 = until,
                Effect::Changed => self.on_members_changed(master),
                Effect::Refused(reason) => {
                    return Err(format!("masters understand each other: {reason}"));
                }
                Effect::Failed(error) => {
                    return Err(format!("a master goes on: master {master}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// A master leads from now on: a core of its own, and books that begin empty.
    fn on_lead(
        &mut self,
        master: usize,
        epoch: u64,
        term: u64,
        registry: Registry,
        time: Timestamp,
    ) -> Checked {
        let now = self.now();
        self.trace
            .note(now, || format!("master {master} leads in term {term}"));
        self.promises.on_lead(master, term, &registry)?;
        self.witness.on_new_master();
        let info = mesos::MasterInfo {
            id: format!("M{}", self.promises.n_reigns()),
            ip: 0x0100_007f,
            port: 5050,
            hostname: Some(format!("master{master}")),
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
            offer_timeout: self.offer_timeout.unwrap_or(defaults.offer_timeout),
            allocation_coalesce: defaults.allocation_coalesce,
            allocation_interval: defaults.allocation_interval,
        };
        let allocator = Watched::new(self.module.build(), self.plant, self.checked);
        let module = Box::new(allocator.clone()) as Box<dyn Allocator>;
        let core = Core::new(config, time, registry, module);
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        let local = node.clock.local(now);
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        process.reign = Some(Reign::new(core, term, epoch, (time, local)));
        process.lease.0 = epoch;
        process.allocator = allocator;
        process.ledger = Ledger::new(self.limits.clone());
        process.turns.clear();
        process.backlog.clear();
        Ok(())
    }

    /// For a planted fault: the leader gives its reign up and begins another in the same term, with
    /// what is applied by now.
    pub(super) fn lead_twice(&mut self, master: usize) -> Checked {
        let now = self.now();
        let Some(node) = self.masters.get(master) else {
            return Ok(());
        };
        let local = node.clock.local(now);
        let Some(process) = &node.process else {
            return Ok(());
        };
        let Some(reign) = &process.reign else {
            return Ok(());
        };
        let again = Effect::Lead {
            epoch: reign.epoch,
            term: reign.term,
            registry: Box::new(process.replica.registry().clone()),
            time: reign.time_at(local),
        };
        self.perform_replica(master, vec![Effect::Follow, again])
    }

    /// Drops the core and everything that it was about to do or say.
    fn abdicate(&mut self, master: usize) {
        let now = self.now();
        self.trace
            .note(now, || format!("master {master} does not lead any more"));
        let Some(process) = self.process(master) else {
            return;
        };
        process.reign = None;
        process.backlog.clear();
        process.turns.clear();
        let commits = std::mem::take(&mut process.commits);
        for stream in self.net.whole(master) {
            self.master_closes(
                stream,
                "this master does not lead any more".to_owned(),
                false,
            );
        }
        for (framework, process) in commits.into_values() {
            self.answer_store(framework, process, false);
        }
    }

    /// Something reaches the core, if one lives here.
    pub(super) fn put(&mut self, master: usize, input: master::Input) -> Checked {
        if let Some(process) = self.process(master)
            && process.reign.is_some()
        {
            process.backlog.push_back(input);
        }
        self.turn(master)
    }

    /// Does what has become certain and takes in what waits, as far as that may be.
    pub(super) fn turn(&mut self, master: usize) -> Checked {
        loop {
            self.act(master)?;
            if !self.may_act(master) {
                break;
            }
            let now = self.now();
            let Some(node) = self.masters.get_mut(master) else {
                break;
            };
            let local = node.clock.local(now);
            let Some(process) = &mut node.process else {
                break;
            };
            let Some(reign) = process.reign.as_ref().filter(|reign| reign.has_room()) else {
                break;
            };
            let time = reign.time_at(local);
            let due = reign.core.next_deadline().is_some_and(|at| at <= time);
            let input = match process.backlog.pop_front() {
                Some(input) => input,
                None if due && !self.forgets_time() => master::Input::Tick,
                None => break,
            };
            self.step_core(master, input)?;
        }
        self.rearm(Part::Master(master));
        Ok(())
    }

    /// Whether the master's timers are broken by now.
    pub(super) fn forgets_time(&self) -> bool {
        self.saboteur.is(Plant::TimersForgotten) && self.now() > Timestamp::from_secs(200)
    }

    fn step_core(&mut self, master: usize, input: master::Input) -> Checked {
        if self.saboteur.ignores(&input) {
            return Ok(());
        }
        if let Some(made_up) = self.saboteur.swallows(&input) {
            return self.master_effect(master, made_up);
        }
        let now = self.now();
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        let local = node.clock.local(now);
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        let Some(reign) = &mut process.reign else {
            return Ok(());
        };
        let time = reign.time_at(local);
        let heard = self.checked.then(|| Heard::of(&input));
        let Effects { mut persist, then } = reign.core.step(time, input);
        process.stepped = true;
        if let Some(heard) = heard {
            process.turns.push_back((heard, !then.is_empty()));
        }
        persist.retain(|record| self.saboteur.writes(record));
        let early = self.saboteur.is(Plant::ToldBeforeWritten);
        let (now_told, then) = if early {
            (then, Vec::new())
        } else {
            (Vec::new(), then)
        };
        let term = reign.term;
        let proposals = reign.hold(Effects { persist, then });
        for effect in now_told {
            self.master_effect(master, effect)?;
        }
        for Proposal {
            epoch,
            sequence,
            records,
            ..
        } in proposals
        {
            self.promises.on_proposed(term, &records);
            let input = Input::Propose {
                epoch,
                sequence,
                records,
            };
            self.step_replica(master, input)?;
        }
        Ok(())
    }

    /// Performs what has become certain, as long as nobody else can lead.
    fn act(&mut self, master: usize) -> Checked {
        while self.may_act(master) {
            let Some(process) = self.process(master) else {
                break;
            };
            let Some(effects) = process.reign.as_mut().and_then(Reign::next_ready) else {
                break;
            };
            self.hear_turns(master, false);
            self.check_alone(master)?;
            self.perform_core(master, effects)?;
        }
        let settled = |p: &Process| p.reign.as_ref().is_some_and(Reign::is_settled);
        if self.process(master).is_some_and(|p| settled(p)) {
            self.hear_turns(master, true);
        }
        Ok(())
    }

    /// Shows the ledger what was taken in before what is told now, or all of it.
    fn hear_turns(&mut self, master: usize, all: bool) {
        let Some(process) = self.process(master) else {
            return;
        };
        while let Some((heard, tells)) = process.turns.pop_front() {
            if let Some(heard) = heard {
                process.ledger.on_heard(heard);
            }
            if tells && !all {
                break;
            }
        }
    }

    /// Nobody else may act at the moment at which somebody does.
    fn check_alone(&self, master: usize) -> Checked {
        let other = (0..self.masters.len()).find(|m| *m != master && self.may_act(*m));
        match other {
            Some(other) => Err(format!(
                "two masters never act at once: master {master} acts while master {other} may"
            )),
            None => Ok(()),
        }
    }

    fn perform_core(&mut self, master: usize, effects: Vec<master::Effect>) -> Checked {
        let crash = self.masters.get(master).and_then(|node| node.crash);
        let enough = match crash {
            Some((CrashPoint::AfterEffects(n), down)) if effects.len() > usize::from(n) => {
                Some((usize::from(n), down))
            }
            _ => None,
        };
        for (i, effect) in effects.into_iter().enumerate() {
            if let Some((n, down)) = enough
                && i == n
            {
                self.crash_master(master, Some(down));
                return Ok(());
            }
            self.master_effect(master, effect)?;
        }
        Ok(())
    }

    /// What a master announces to wake up for.
    pub(super) fn master_deadline(&self, master: usize) -> Option<Timestamp> {
        let node = self.masters.get(master).filter(|node| node.is_up())?;
        let process = node.process.as_ref()?;
        let mut at = process.replica.next_deadline();
        let reign = process.reign.as_ref().filter(|reign| reign.has_room());
        if let Some(reign) = reign.filter(|_| self.may_act(master) && !self.forgets_time())
            && let Some(core) = reign.core.next_deadline()
        {
            at = at.min(reign.machine_time(core));
        }
        Some(node.clock.global(at))
    }
}
