//! The other ends: machines and frameworks, and the streams they open.

use std::collections::VecDeque;
use std::time::Duration;

use allotment_framework_sdk::{Call, Event, session};

use super::masters::MasterNode;
use super::{Checked, FAILOVER_TIMEOUT, Happening, Part, World};
use crate::brain::Deed;
use crate::host::Act;
use crate::mishaps;
use crate::net::{Down, Peer, Up};
use crate::words;

/// How often a peer that finds no leader asks again, and how long it waits in between: a few
/// elections in all, as in the real edges.
const SEEK_TRIES: u32 = 16;
const SEEK_PAUSE: Duration = Duration::from_millis(250);

impl World {
    pub(super) fn on_down(&mut self, stream: u64, down: Down) -> Checked {
        let Some(down) = self.net.pass_down(stream, down) else {
            return self.bound_unread(stream);
        };
        let closing = matches!(down, Down::Closed { .. });
        let Some(peer) = self.net.heard_by_peer(stream, closing) else {
            return Ok(());
        };
        let Some(down) = self.as_said_down(stream, down) else {
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
                let local = node.clock.local(now);
                let acts = match down {
                    Down::Message(message) if node.stream == Some(stream) => {
                        let term = message.term.unwrap_or_default();
                        if term < node.term {
                            return Err(format!(
                                "nobody obeys a master that was replaced: machine {i} heard an \
                                 order of term {term} after one of term {}",
                                node.term
                            ));
                        }
                        node.term = term;
                        node.host.on_message(local, *message)
                    }
                    Down::Message(_) => Vec::new(),
                    Down::Closed { .. } => {
                        if node.stream == Some(stream) {
                            node.stream = None;
                            node.host.on_closed(local)
                        } else {
                            Vec::new()
                        }
                    }
                    Down::Event(_) => Vec::new(),
                };
                self.perform_acts(i, acts)
            }
            Peer::Framework(i) => {
                let link = self.frameworks.get(i).and_then(|f| f.link);
                let Some((connection, _)) = link.filter(|(_, current)| *current == stream) else {
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

    /// A new stream to whoever leads; it closes again when nobody does for too long.
    pub(super) fn open(&mut self, peer: Peer) -> u64 {
        let now = self.now();
        let stream = self.net.open(now, peer);
        if let Peer::Framework(i) = peer
            && let Some(lasts) = self.frameworks.get_mut(i).and_then(|f| f.late.take())
        {
            self.half_open(stream, lasts);
        }
        self.up(stream, Up::Opened);
        let at = now + self.net.delay();
        self.queue.at(at, Happening::Seek(stream, 0));
        stream
    }

    /// As the real edges do, a peer asks any master that it reaches who leads, and goes there.
    pub(super) fn on_seek(&mut self, stream: u64, tries: u32) -> Checked {
        let Some(peer) = self.net.seeker(stream) else {
            self.net.closed_at_master(stream);
            return Ok(());
        };
        let answers = |world: &Self, master: usize| {
            world.masters.get(master).is_some_and(MasterNode::is_up)
                && world.net.is_reachable(peer, master)
        };
        let n = self.masters.len().max(1);
        let first = self.mischief.usize(0..n);
        let asked = (0..n)
            .map(|i| (first + i) % n)
            .find(|master| answers(self, *master));
        let leader = asked.and_then(|master| self.believed_leader(master));
        if let Some(leader) = leader.filter(|leader| answers(self, *leader)) {
            self.net.connect(stream, leader);
            return self.release(stream);
        }
        let now = self.now();
        if tries < SEEK_TRIES {
            let seek = Happening::Seek(stream, tries + 1);
            self.queue.at(now + SEEK_PAUSE, seek);
        } else if let Some(at) = self.net.close_by_master(now, stream) {
            let closed = Down::Closed {
                reason: "no master leads right now".to_owned(),
                clean: false,
            };
            self.queue.at(at, Happening::Down(stream, closed));
        }
        Ok(())
    }

    pub(super) fn up(&mut self, stream: u64, up: Up) {
        let Some(up) = self.as_said_up(stream, up) else {
            return;
        };
        let n_copies = self.copies(mishaps::of_up(&up));
        let mut left = Some(up);
        for copy in 0..n_copies {
            let last = copy + 1 == n_copies;
            let Some(up) = (if last { left.take() } else { left.clone() }) else {
                return;
            };
            if let Some(at) = self.net.send_up(self.now(), stream) {
                if copy > 0 {
                    let now = self.now();
                    self.trace
                        .note(now, || format!("doubled: {}", words::up(&up)));
                }
                self.queue.at(at, Happening::Up(stream, up));
            }
        }
    }

    /// How often a message arrives: once, unless messages are being lost and doubled.
    pub(super) fn copies(&mut self, may: mishaps::May) -> u32 {
        if self.lossy == 0 {
            return 1;
        }
        match self.mischief.u8(0..6) {
            0 if may.be_lost => 0,
            1 if may.come_twice => 2,
            _ => 1,
        }
    }

    pub(super) fn peer_closes(&mut self, stream: u64) {
        if let Some(at) = self.net.close_by_peer(self.now(), stream) {
            self.queue.at(at, Happening::Up(stream, Up::Closed));
        }
    }

    pub(super) fn perform_acts(&mut self, i: usize, acts: Vec<Act>) -> Checked {
        let now = self.now();
        for act in acts {
            let Some(node) = self.machines.get_mut(i) else {
                break;
            };
            match act {
                Act::Connect => {
                    let stream = self.open(Peer::Agent(i));
                    let Some(node) = self.machines.get_mut(i) else {
                        break;
                    };
                    node.stream = Some(stream);
                    let local = node.clock.local(now);
                    let register = node.host.on_connected(local);
                    self.perform_acts(i, register)?;
                }
                Act::Disconnect => {
                    if let Some(stream) = node.stream.take() {
                        self.peer_closes(stream);
                    }
                }
                Act::Send(mut message) => {
                    if self.saboteur.says(&mut message)
                        && let Some(stream) = node.stream
                    {
                        self.up(stream, Up::Message(message));
                    }
                }
                Act::Started { key, resources } => {
                    let total = node.host.total().clone();
                    self.witness.on_started(i, &total, &key, &resources)?;
                    if self.saboteur.starts_twice(key.1.as_str()) {
                        self.witness.on_started(i, &total, &key, &resources)?;
                    }
                }
                Act::Ended { key } => self.witness.on_ended(i, &key),
                Act::Updated { key, uuid } => {
                    if self.checked {
                        self.witness.on_emitted(&key, uuid);
                    }
                }
                Act::Withdrawn { key, uuid } => self.witness.on_withdrawn(&key, &uuid),
            }
        }
        self.rearm(Part::Machine(i));
        Ok(())
    }

    pub(super) fn session_steps(&mut self, i: usize, inputs: Vec<session::Input>) -> Checked {
        let now = self.now();
        let mut inputs: VecDeque<_> = inputs.into();
        let Some(process) = self.frameworks.get(i).map(|node| node.process) else {
            return Ok(());
        };
        while let Some(input) = inputs.pop_front() {
            let Some(node) = self.frameworks.get_mut(i) else {
                return Ok(());
            };
            if node.process != process {
                // It died meanwhile.
                break;
            }
            for effect in node.session.step(now, input).then {
                inputs.extend(self.session_effect(i, effect)?);
            }
        }
        self.rearm(Part::Framework(i));
        Ok(())
    }

    pub(super) fn session_effect(
        &mut self,
        i: usize,
        effect: session::Effect,
    ) -> Result<Vec<session::Input>, String> {
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

    pub(super) fn deliver(
        &mut self,
        i: usize,
        event: &Event,
    ) -> Result<Vec<session::Input>, String> {
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
            Event::Error(_) if self.is_removed(i) || self.may_be_late(i) => {
                if let Some(node) = self.frameworks.get_mut(i) {
                    node.gone = true;
                }
            }
            Event::Error(text) => {
                return Err(format!("framework {i} was turned away for good: {text}"));
            }
            Event::Rejected { call, message } => {
                // Kills and reconciliations while disconnected are refused by the session itself.
                if !message.contains("no connection to a master") && !self.is_removed(i) {
                    return Err(format!("framework {i}'s {call} was refused: {message}"));
                }
            }
            Event::Update(_)
            | Event::Offers(_)
            | Event::Rescinded(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Disconnected { .. } => {}
        }
        let Some(node) = self.frameworks.get_mut(i) else {
            return Ok(Vec::new());
        };
        let deeds = node.brain.on_event(now, event)?;
        self.calls_among(i, deeds)
    }

    /// A framework that is out of reach for longer than it may be is turned away for good.
    fn may_be_late(&self, i: usize) -> bool {
        let node = self.frameworks.get(i);
        node.is_some_and(|node| node.config.failover_timeout < FAILOVER_TIMEOUT)
    }

    fn is_removed(&self, i: usize) -> bool {
        self.frameworks.get(i).is_some_and(|node| node.removed)
    }

    /// Starts what a brain wants done; its calls come back as the session's inputs.
    pub(super) fn calls_among(
        &mut self,
        i: usize,
        deeds: Vec<Deed>,
    ) -> Result<Vec<session::Input>, String> {
        let mut inputs = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Call(call) => {
                    if self.checked
                        && let Call::Accept { agent, tasks, .. } = &call
                    {
                        let mut machines = self.machines.iter();
                        let machine = machines.position(|m| m.host.id().as_ref() == Some(agent));
                        for task in tasks {
                            self.witness.on_launch(i, &task.id, machine)?;
                        }
                        if let Some(node) = self.frameworks.get(i) {
                            node.brain.check_kept(tasks, self.promises.promised())?;
                        }
                    }
                    inputs.push(session::Input::Call(call));
                }
                Deed::Die => {
                    // What it said before is on its way.
                    self.session_steps(i, inputs)?;
                    self.kill_framework(i)?;
                    return Ok(Vec::new());
                }
                Deed::Commit(request) => {
                    let Some(node) = self.frameworks.get_mut(i) else {
                        continue;
                    };
                    node.commit = Some(request);
                    let process = node.process;
                    self.ask_store(i, process, Duration::ZERO);
                }
            }
        }
        Ok(inputs)
    }
}
