//! Things going wrong, and getting right again.

use std::collections::VecDeque;
use std::time::Duration;

use allotment_master::replica;

use super::group::Goal;
use super::operators::{Order, Undo};
use super::{Checked, Happening, Part, World};
use crate::fault::{CrashPoint, Fault, Whom};
use crate::net::{Down, Peer, Up, Wall, Way};
use crate::plant::Plant;

/// The end of something that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relief {
    /// Messages take as long as ever.
    FastNetwork,
    /// Nothing is lost or doubled any more.
    Lossless,
    /// A way through a wall is free.
    Unblock(Wall, Way),
    /// A way from one master to another is free.
    Heal(usize, usize),
    /// A master that was stopped goes on.
    Resume(usize),
    /// A peer that did not read reads again.
    Reads(Peer),
    /// The peer's end of a half open stream breaks.
    PeerReset(u64),
    /// What was said over a half open stream arrives, and its end.
    Unstall(u64),
    /// An operator takes an order back.
    Order(Undo),
    /// A master begins again with what was durable.
    MasterBack(usize),
    /// A run of a master that was removed ends.
    Farewell(usize, u32),
}

/// How much may wait for a peer that does not read; the real master's bound is larger, and here
/// it must be reached.
const UNREAD_MAX: usize = 100;

impl World {
    pub(super) fn on_fault(&mut self, fault: Fault) -> Checked {
        let now = self.now();
        self.faults += 1;
        self.trace.note_fault(now, || fault.to_string());
        match fault {
            Fault::CutStream(peer) => self.cut_peer(peer, Duration::from_secs(2)),
            Fault::Partition {
                peer,
                from,
                to_master,
                from_master,
                lasts,
            } => {
                let wall = match from {
                    Some(whom) => Wall::Between(peer, self.place_of(whom)),
                    None => Wall::Peer(peer),
                };
                for way in Fault::ways(to_master, from_master) {
                    self.net.block(wall, way);
                    self.relieve(lasts, Relief::Unblock(wall, way));
                }
            }
            Fault::HalfOpen { peer, lasts } => {
                let stream = self.stream_of(peer);
                let may = |stream: &u64| self.net.has_spoken(*stream) || self.counts_attempts(peer);
                if let Some(stream) = stream.filter(may) {
                    self.half_open(stream, lasts);
                }
            }
            Fault::LateSubscribe { framework, lasts } => {
                let peer = Peer::Framework(framework);
                if self.counts_attempts(peer)
                    && let Some(node) = self.frameworks.get_mut(framework)
                {
                    node.late = Some(lasts);
                    self.cut_peer(peer, Duration::from_secs(2));
                }
            }
            Fault::Flapping(peer) => {
                for i in 0..6 {
                    let at = now + Duration::from_millis(1700) * i;
                    self.queue.at(at, Happening::Cut(peer));
                }
            }
            Fault::SlowNetwork(lasts) => {
                self.net.slowness = 50;
                self.relieve(lasts, Relief::FastNetwork);
            }
            Fault::Lossy(lasts) => {
                self.lossy += 1;
                self.relieve(lasts, Relief::Lossless);
            }
            Fault::SlowReader { peer, lasts } => {
                self.net.block(Wall::Peer(peer), Way::FromMaster);
                self.relieve(lasts, Relief::Reads(peer));
            }
            Fault::MasterCrash {
                master,
                at,
                down,
                clock_jumps,
            } => self.on_master_crash(self.place_of(master), at, down, clock_jumps),
            Fault::MastersCrash { down, clock_jumps } => {
                for master in 0..self.masters.len() {
                    self.on_master_crash(master, CrashPoint::Idle, down, clock_jumps);
                }
            }
            Fault::MasterPause { master, lasts } => self.pause(self.place_of(master), lasts),
            Fault::MasterCut {
                master,
                hears,
                is_heard,
                peers,
                lasts,
            } => self.isolate(self.place_of(master), (hears, is_heard), peers, lasts),
            Fault::MasterReplaced { master, running } => {
                self.replace(self.place_of(master), running)?;
            }
            Fault::Resign => {
                if let Some(leader) = self.acting() {
                    if self.saboteur.is(Plant::LedTwice) {
                        return self.lead_twice(leader);
                    }
                    let input = allotment_raft::Input::Resign;
                    self.step_replica(leader, replica::Input::Raft(input))?;
                    self.turn(leader)?;
                }
            }
            Fault::SlowDisk { master, lasts } => {
                let place = self.place_of(master);
                if let Some(node) = self.masters.get_mut(place) {
                    node.disk.slow_until = now + lasts;
                }
            }
            Fault::FullDisk { master, lasts } => {
                let place = self.place_of(master);
                if let Some(node) = self.masters.get_mut(place) {
                    node.disk.full_until = now + lasts;
                }
            }
            Fault::FrameworkCrash { framework, at } => self.on_framework_crash(framework, at)?,
            Fault::FrameworkLeaves(i) => self.leave(i),
            Fault::OperatorRemoves(i) => self.operator_removes(i)?,
            Fault::OperatorKills(pick) => self.operator_kills(pick)?,
            Fault::OperatorLimits {
                framework,
                cpus,
                lasts,
            } => {
                self.order(Order::Limit(framework, Some(cpus)));
                self.relieve(lasts, Relief::Order(Undo::Limit(framework)));
            }
            Fault::OperatorWeighs { framework, weight } => {
                self.order(Order::Weight(framework, weight));
            }
            Fault::OperatorDrains { machine, lasts } => {
                let host = self.machines.get(machine).and_then(|node| node.host.id());
                if let Some(agent) = host {
                    self.order(Order::Drain(agent));
                    self.relieve(lasts, Relief::Order(Undo::Drains));
                }
            }
            Fault::AgentCrash {
                machine,
                down,
                torn,
            } => self.crash_agent(machine, down, torn),
            Fault::PowerLoss { machine, down } => self.lose_power(machine, down)?,
            Fault::Reimage { machine, cpus } => self.reimage(machine, cpus),
            Fault::Upgrade(node) => self.upgrade(node)?,
        }
        Ok(())
    }

    /// The peer's end breaks soon, and what was said over the stream arrives later.
    pub(super) fn half_open(&mut self, stream: u64, lasts: Duration) {
        self.net.stall(stream, true);
        self.relieve(lasts / 4, Relief::PeerReset(stream));
        self.relieve(lasts, Relief::Unstall(stream));
    }

    fn relieve(&mut self, after: Duration, relief: Relief) {
        self.queue.at(self.now() + after, Happening::Relief(relief));
    }

    pub(super) fn on_relief(&mut self, relief: Relief) -> Checked {
        let now = self.now();
        self.trace.note(now, || format!("relief: {relief:?}"));
        match relief {
            Relief::FastNetwork => self.net.slowness = 1,
            Relief::Lossless => self.lossy = self.lossy.saturating_sub(1),
            Relief::Unblock(wall, way) => return self.unblock(wall, way),
            Relief::Reads(peer) => return self.unblock(Wall::Peer(peer), Way::FromMaster),
            Relief::Heal(from, to) => self.mesh.heal(from, to),
            Relief::Resume(master) => return self.resume(master),
            Relief::PeerReset(stream) => {
                let closed = Down::Closed {
                    reason: "connection reset".to_owned(),
                    clean: false,
                };
                return self.on_down(stream, closed);
            }
            Relief::Unstall(stream) => {
                self.net.stall(stream, false);
                self.release(stream)?;
                return self.on_up(stream, Up::Closed);
            }
            Relief::Order(undo) => self.undo(undo),
            Relief::MasterBack(master) => return self.start_master(master),
            Relief::Farewell(master, run) => {
                if self
                    .masters
                    .get(master)
                    .is_some_and(|node| node.runs == run)
                {
                    self.crash_master(master, None);
                }
            }
        }
        Ok(())
    }

    fn unblock(&mut self, wall: Wall, way: Way) -> Checked {
        for stream in self.net.unblock(wall, way) {
            self.release(stream)?;
        }
        Ok(())
    }

    pub(super) fn release(&mut self, stream: u64) -> Checked {
        for up in self.net.released_up(stream) {
            self.on_up(stream, up)?;
        }
        for down in self.net.released_down(stream) {
            self.on_down(stream, down)?;
        }
        Ok(())
    }

    /// The master's edge gives a peer up for which too much waits.
    pub(super) fn bound_unread(&mut self, stream: u64) -> Checked {
        if self.net.n_held_down(stream) <= UNREAD_MAX {
            return Ok(());
        }
        let now = self.now();
        self.trace.note(now, || {
            format!("stream {stream} is given up: it is not read")
        });
        self.cut(stream, Duration::from_secs(1));
        Ok(())
    }

    /// The place of a master that something happens to.
    fn place_of(&self, whom: Whom) -> usize {
        match whom {
            Whom::Place(place) => place,
            Whom::Leader => self.acting().unwrap_or_default(),
        }
    }

    pub(super) fn on_master_crash(
        &mut self,
        master: usize,
        at: CrashPoint,
        down: Duration,
        clock_jumps: i32,
    ) {
        let Some(node) = self.masters.get_mut(master) else {
            return;
        };
        let Some(process) = &node.process else {
            return;
        };
        node.clock_jumps = clock_jumps;
        match at {
            CrashPoint::BeforeSync | CrashPoint::AfterSync | CrashPoint::AfterEffects(_)
                if process.reign.is_some() =>
            {
                node.crash = Some((at, down));
            }
            _ => self.crash_master(master, Some(down)),
        }
    }

    fn pause(&mut self, master: usize, lasts: Duration) {
        let now = self.now();
        if let Some(node) = self.masters.get_mut(master)
            && node.is_up()
        {
            node.paused = Some((now, VecDeque::new()));
            self.relieve(lasts, Relief::Resume(master));
        }
    }

    /// The process goes on in the middle of what it did, and only then hears what has come.
    fn resume(&mut self, master: usize) -> Checked {
        let now = self.now();
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        let Some((since, held)) = node.paused.take() else {
            return Ok(());
        };
        if self.saboteur.is(Plant::LeaseFrozen)
            && let Some(process) = &mut node.process
        {
            process.lease.1 = process.lease.1 + now.since(since);
        }
        self.turn(master)?;
        for happening in held {
            self.happen(happening)?;
        }
        self.turn(master)
    }

    fn isolate(
        &mut self,
        master: usize,
        (hears, is_heard): (bool, bool),
        peers: bool,
        lasts: Duration,
    ) {
        for other in (0..self.masters.len()).filter(|other| *other != master) {
            let ways = [(!hears, other, master), (!is_heard, master, other)];
            for (_, from, to) in ways.into_iter().filter(|(cut, ..)| *cut) {
                self.mesh.cut(from, to);
                self.relieve(lasts, Relief::Heal(from, to));
            }
        }
        if peers {
            let wall = Wall::Master(master);
            for way in Fault::ways(!hears, !is_heard) {
                self.net.block(wall, way);
                self.relieve(lasts, Relief::Unblock(wall, way));
            }
        }
    }

    /// A member's disk is exchanged. One at a time: a group that loses a majority of its disks is
    /// lost, and nothing could be asked of it.
    fn replace(&mut self, master: usize, running: bool) -> Checked {
        let now = self.now();
        if !self.is_whole() || self.masters.len() < 3 {
            self.trace
                .note(now, || "spared: another master is missing".to_owned());
            return Ok(());
        }
        let Some(old) = self.masters.get(master).map(|node| node.id) else {
            return Ok(());
        };
        if !running {
            self.crash_master(master, None);
        }
        if self.saboteur.is(Plant::DiskEmptied) {
            return self.renew_as(master, old);
        }
        self.want(Goal::Leave(old));
        self.want(Goal::Renew(master));
        self.want(Goal::Join(master));
        Ok(())
    }

    fn on_framework_crash(&mut self, i: usize, at: CrashPoint) -> Checked {
        match at {
            CrashPoint::BeforeSync | CrashPoint::AfterSync => {
                if let Some(node) = self.frameworks.get_mut(i) {
                    node.brain.die_at(at);
                }
                Ok(())
            }
            CrashPoint::Idle | CrashPoint::AfterEffects(_) => self.kill_framework(i),
        }
    }

    /// A framework's process ends and no other begins.
    fn leave(&mut self, i: usize) {
        let Some(node) = self.frameworks.get_mut(i).filter(|node| !node.gone) else {
            return;
        };
        node.gone = true;
        node.commit = None;
        let wake = node.wake.take();
        let link = node.link.take();
        if let Some(ticket) = wake {
            self.queue.cancel(ticket);
        }
        if let Some((_, stream)) = link {
            self.peer_closes(stream);
        }
    }

    pub(super) fn crash_agent(&mut self, machine: usize, down: Duration, torn: bool) {
        let now = self.now();
        let Some(node) = self.machines.get_mut(machine) else {
            return;
        };
        node.host.crash(node.clock.local(now), down, torn);
        // The kernel closes the streams of a process that ended.
        let stream = node.stream.take_if(|_| !torn);
        if let Some(stream) = stream {
            self.peer_closes(stream);
        }
        self.rearm(Part::Machine(machine));
    }

    fn lose_power(&mut self, machine: usize, down: Duration) -> Checked {
        let now = self.now();
        self.cut_peer(Peer::Agent(machine), Duration::from_secs(20));
        let Some(node) = self.machines.get_mut(machine) else {
            return Ok(());
        };
        node.stream = None;
        let acts = node.host.lose_power(node.clock.local(now), down);
        self.witness.on_forgotten(machine);
        self.perform_acts(machine, acts)
    }

    fn reimage(&mut self, i: usize, cpus: u64) {
        let now = self.now();
        let Some(node) = self.machines.get_mut(i) else {
            return;
        };
        node.host.reimage(node.clock.local(now), cpus);
        let stream = node.stream.take();
        if let Some(stream) = stream {
            self.cut(stream, Duration::from_secs(2));
        }
        self.witness.on_reimaged(i);
        self.rearm(Part::Machine(i));
    }

    fn stream_of(&self, peer: Peer) -> Option<u64> {
        match peer {
            Peer::Agent(i) => self.machines.get(i).and_then(|m| m.stream),
            Peer::Framework(i) => self.frameworks.get(i).and_then(|f| f.link.map(|l| l.1)),
        }
    }

    pub(super) fn cut_peer(&mut self, peer: Peer, noticed_within: Duration) {
        if let Some(stream) = self.stream_of(peer) {
            self.cut(stream, noticed_within);
        }
    }

    pub(super) fn cut(&mut self, stream: u64, noticed_within: Duration) {
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
