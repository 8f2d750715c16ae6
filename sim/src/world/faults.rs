//! Things going wrong, and getting right again.

use std::time::Duration;

use allotment_master::core as master;
use allotment_proto::allot;

use super::{Checked, Happening, Part, World};
use crate::fault::{CrashPoint, Fault};
use crate::net::{Down, Peer, Up, Way};

/// The end of something that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relief {
    /// Messages take as long as ever.
    FastNetwork,
    /// Nothing is lost or doubled any more.
    Lossless,
    /// A way to or from a peer is free.
    Unblock(Peer, Way),
    /// A peer that did not read reads again.
    Reads(Peer),
    /// The peer's end of a half open stream breaks.
    PeerReset(u64),
    /// What was said over a half open stream arrives, and its end.
    Unstall(u64),
    /// A new master takes over what was durable.
    MasterBack,
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
                to_master,
                from_master,
                lasts,
            } => {
                for way in Fault::ways(to_master, from_master) {
                    self.net.block(peer, way);
                    self.relieve(lasts, Relief::Unblock(peer, way));
                }
            }
            Fault::HalfOpen { peer, lasts } => {
                if let Some(stream) = self.stream_of(peer) {
                    self.net.stall(stream, true);
                    self.relieve(lasts / 4, Relief::PeerReset(stream));
                    self.relieve(lasts, Relief::Unstall(stream));
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
                self.net.block(peer, Way::FromMaster);
                self.relieve(lasts, Relief::Reads(peer));
            }
            Fault::MasterCrash {
                at,
                down,
                clock_jumps,
            } => self.on_master_crash(at, down, clock_jumps),
            Fault::SlowDisk(lasts) => self.master.disk.slow_until = now + lasts,
            Fault::FullDisk(lasts) => self.master.disk.full_until = now + lasts,
            Fault::FrameworkCrash { framework, at } => self.on_framework_crash(framework, at)?,
            Fault::FrameworkLeaves(i) => self.leave(i),
            Fault::OperatorRemoves(i) => self.operator_removes(i)?,
            Fault::OperatorKills(pick) => self.operator_kills(pick)?,
            Fault::AgentCrash {
                machine,
                down,
                torn,
            } => self.crash_agent(machine, down, torn),
            Fault::PowerLoss { machine, down } => self.lose_power(machine, down)?,
            Fault::Reimage { machine, cpus } => self.reimage(machine, cpus),
        }
        Ok(())
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
            Relief::Unblock(peer, way) => return self.unblock(peer, way),
            Relief::Reads(peer) => return self.unblock(peer, Way::FromMaster),
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
            Relief::MasterBack => self.start_master(),
        }
        Ok(())
    }

    fn unblock(&mut self, peer: Peer, way: Way) -> Checked {
        for stream in self.net.unblock(peer, way) {
            self.release(stream)?;
        }
        Ok(())
    }

    fn release(&mut self, stream: u64) -> Checked {
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

    fn on_master_crash(&mut self, at: CrashPoint, down: Duration, clock_jumps: i32) {
        if self.master.core.is_none() {
            return;
        }
        self.master.clock_jumps = clock_jumps;
        match at {
            CrashPoint::Idle => self.crash_master(down),
            CrashPoint::BeforeSync | CrashPoint::AfterSync | CrashPoint::AfterEffects(_) => {
                self.master.crash = Some((at, down));
            }
        }
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

    fn operator_removes(&mut self, i: usize) -> Checked {
        let Some(id) = self.frameworks.get(i).and_then(|node| node.id.clone()) else {
            return Ok(());
        };
        if self.master.core.is_none() {
            return Ok(());
        }
        // It is turned away for good, if it still is there to hear it.
        if let Some(node) = self.frameworks.get_mut(i) {
            node.removed = true;
        }
        self.operator(master::Request::RemoveFramework(
            allot::RemoveFrameworkRequest {
                framework_id: id.to_string(),
            },
        ))
    }

    fn operator_kills(&mut self, pick: u32) -> Checked {
        let tasks = self.witness.running();
        let n = u32::try_from(tasks.len()).unwrap_or(u32::MAX).max(1);
        let Some((framework, task)) = tasks.into_iter().nth((pick % n) as usize) else {
            return Ok(());
        };
        self.operator(master::Request::KillTask(allot::KillTaskRequest {
            framework_id: Some(framework.to_string()),
            task_id: task.to_string(),
        }))
    }

    fn operator(&mut self, request: master::Request) -> Checked {
        if self.master.core.is_none() {
            return Ok(());
        }
        let id = self.next_request();
        self.master_step(master::Input::Request { id, request })
    }

    fn crash_agent(&mut self, machine: usize, down: Duration, torn: bool) {
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
