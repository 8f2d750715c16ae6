//! What goes wrong.

use std::time::Duration;

use super::{Checked, Fault, Happening, Part, World};
use crate::net::{Down, Peer, Up};

impl World {
    pub(super) fn on_fault(&mut self, fault: Fault) -> Checked {
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
            Fault::KillFramework(i) => self.kill_framework(i)?,
            Fault::AgentCrash {
                machine,
                down,
                torn,
            } => {
                if let Some(node) = self.machines.get_mut(machine) {
                    node.host.crash(now, down, torn);
                }
                if !torn {
                    self.hang_up(machine);
                }
                self.rearm(Part::Machine(machine));
            }
            Fault::PowerLoss { machine, down } => {
                self.cut_peer(Peer::Agent(machine), Duration::from_secs(20));
                if let Some(node) = self.machines.get_mut(machine) {
                    node.stream = None;
                    let acts = node.host.lose_power(now, down);
                    self.perform_acts(machine, acts)?;
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

    /// The kernel closes the streams of a process that ended.
    fn hang_up(&mut self, machine: usize) {
        let stream = self.machines.get_mut(machine).and_then(|m| m.stream.take());
        if let Some(stream) = stream {
            self.peer_closes(stream);
        }
    }

    pub(super) fn cut_peer(&mut self, peer: Peer, noticed_within: Duration) {
        let stream = match peer {
            Peer::Agent(i) => self.machines.get(i).and_then(|m| m.stream),
            Peer::Framework(i) => self.frameworks.get(i).and_then(|f| f.link.map(|l| l.1)),
        };
        if let Some(stream) = stream {
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
