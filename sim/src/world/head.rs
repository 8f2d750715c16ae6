//! The master's end: what reaches it, what it asks for, and its death and rebirth.

use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_master::core::{self as master, ConnId, Core, CoreConfig};
use allotment_proto::mesos;

use super::faults::Relief;
use super::{Checked, Happening, Part, World};
use crate::ledger::Ledger;
use crate::mishaps;
use crate::net::{Down, Peer, Up};
use crate::plant::Plant;
use crate::watched::Watched;
use crate::words;

impl World {
    pub(super) fn start_master(&mut self) {
        if self.master.core.is_some() {
            return;
        }
        self.master.starts += 1;
        self.witness.on_new_master();
        let jumps = std::mem::take(&mut self.master.clock_jumps);
        self.master.clock = self.master.clock.jumped(jumps);
        let info = mesos::MasterInfo {
            id: format!("M{}", self.master.starts),
            ip: 0x0100_007f,
            port: 5050,
            hostname: Some("master".to_owned()),
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
            offer_timeout: self.master.offer_timeout.unwrap_or(defaults.offer_timeout),
            allocation_coalesce: defaults.allocation_coalesce,
            allocation_interval: defaults.allocation_interval,
        };
        self.master.allocator = Watched::new(self.master.module.build(), self.master.plant);
        self.ledger = Ledger::default();
        self.master.core = Some(Core::new(
            config,
            self.master.clock.local(self.now()),
            self.master.registry.clone(),
            Box::new(self.master.allocator.clone()) as Box<dyn Allocator>,
        ));
        self.rearm(Part::Master);
    }

    pub(super) fn on_up(&mut self, stream: u64, up: Up) -> Checked {
        let Some(up) = self.net.pass_up(stream, up) else {
            return Ok(());
        };
        let closing = matches!(up, Up::Closed);
        if self.master.core.is_none() {
            self.net.closed_at_master(stream);
            return Ok(());
        }
        let mut stream = stream;
        if !self.net.heard_by_master(stream, closing) {
            if closing || !self.saboteur.is(Plant::StaleStreamHeard) {
                return Ok(());
            }
            // Nobody looks which stream it came over.
            match self.net.newest_of_same_peer(stream) {
                Some(newest) => stream = newest,
                None => return Ok(()),
            }
        }
        let peer = self.net.peer(stream);
        let now = self.now();
        self.trace.note(now, || {
            format!(
                "master <- {} {}",
                words::stream(stream, peer),
                words::up(&up)
            )
        });
        let conn = ConnId(stream);
        let framework = matches!(peer, Some(Peer::Framework(_)));
        let input = match up {
            Up::Opened if framework => master::Input::FrameworkOpened { conn },
            Up::Opened => master::Input::AgentOpened { conn },
            Up::Call(call) => master::Input::FrameworkCall { conn, call: *call },
            Up::Message(message) => master::Input::AgentMessage {
                conn,
                message: *message,
            },
            Up::Closed => {
                self.net.closed_at_master(stream);
                if framework {
                    master::Input::FrameworkClosed { conn }
                } else {
                    master::Input::AgentClosed { conn }
                }
            }
        };
        self.master_step(input)
    }

    pub(super) fn master_effect(&mut self, effect: master::Effect) -> Checked {
        let net = &self.net;
        let effects = self
            .saboteur
            .effects(effect, |conn| net.stranger(conn.0).map(ConnId));
        for effect in effects {
            self.perform_effect(effect)?;
        }
        Ok(())
    }

    fn perform_effect(&mut self, effect: master::Effect) -> Checked {
        match effect {
            master::Effect::ToFramework { conn, event } => {
                if self.checked {
                    self.ledger.on_event(conn.0, &event)?;
                }
                self.down(conn.0, Down::Event(event));
            }
            master::Effect::ToAgent { conn, message } => {
                if self.checked {
                    self.ledger.on_order(conn.0, &message)?;
                }
                self.down(conn.0, Down::Message(Box::new(message)));
            }
            master::Effect::CloseFramework { conn, reason } => {
                self.ledger.on_framework_gone(conn.0);
                self.master_closes(conn.0, reason);
            }
            master::Effect::CloseAgent { conn, reason } => {
                self.ledger.on_agent_gone(conn.0);
                self.master_closes(conn.0, reason);
            }
            master::Effect::Reply { to, reply } => self.on_reply(to, reply)?,
            master::Effect::Publish(_) | master::Effect::StoreChanged(_) => {}
        }
        Ok(())
    }

    pub(super) fn down(&mut self, stream: u64, down: Down) {
        for copy in 0..self.copies(mishaps::of_down(&down)) {
            if let Some(at) = self.net.send_down(self.now(), stream) {
                if copy > 0 {
                    let now = self.now();
                    self.trace
                        .note(now, || format!("doubled: {}", words::down(&down)));
                }
                self.queue.at(at, Happening::Down(stream, down.clone()));
            }
        }
    }

    pub(super) fn master_closes(&mut self, stream: u64, reason: String) {
        if let Some(at) = self.net.close_by_master(self.now(), stream) {
            let closed = Down::Closed {
                reason,
                clean: true,
            };
            self.queue.at(at, Happening::Down(stream, closed));
        }
    }

    pub(super) fn crash_master(&mut self, down: Duration) {
        let now = self.now();
        self.trace.note(now, || format!("master dies for {down:?}"));
        self.master.core = None;
        self.master.crash = None;
        self.master.disk.lose();
        if self.saboteur.is(Plant::DiskForgets)
            && let Some(before) = self.master.before.take()
        {
            self.master.registry = before;
        }
        if let Some(ticket) = self.master.wake.take() {
            self.queue.cancel(ticket);
        }
        for stream in self.net.whole() {
            self.cut(stream, Duration::from_millis(50));
        }
        for (framework, process) in std::mem::take(&mut self.master.commits).into_values() {
            self.answer_store(framework, process, false);
        }
        self.queue
            .at(now + down, Happening::Relief(Relief::MasterBack));
    }
}
