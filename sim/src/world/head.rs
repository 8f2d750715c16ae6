//! The master's end: what reaches it, what it asks for, and its death and rebirth.

use std::time::Duration;

use allotment_allocator::Allocator;
use allotment_master::core::{self as master, ConnId, Core, CoreConfig};
use allotment_proto::mesos;

use super::{Checked, Fault, Happening, Part, World};
use crate::ledger::Ledger;
use crate::net::{Down, Peer, Up};
use crate::watched::Watched;
use crate::words;

impl World {
    pub(super) fn start_master(&mut self) {
        self.master.starts += 1;
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
            offer_timeout: defaults.offer_timeout,
            allocation_coalesce: defaults.allocation_coalesce,
            allocation_interval: defaults.allocation_interval,
        };
        self.master.allocator = Watched::new(self.plant);
        self.ledger = Ledger::default();
        self.master.core = Some(Core::new(
            config,
            self.now(),
            self.master.registry.clone(),
            Box::new(self.master.allocator.clone()) as Box<dyn Allocator>,
        ));
        self.rearm(Part::Master);
    }

    pub(super) fn on_up(&mut self, stream: u64, up: Up) -> Checked {
        let closing = matches!(up, Up::Closed);
        if self.master.core.is_none() {
            self.net.closed_at_master(stream);
            return Ok(());
        }
        if !self.net.heard_by_master(stream, closing) {
            return Ok(());
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
            Up::Call(call) => {
                if self.checked {
                    self.ledger.on_call(stream, &call);
                }
                master::Input::FrameworkCall { conn, call: *call }
            }
            Up::Message(message) => {
                if self.checked {
                    self.ledger.on_message(stream, &message);
                }
                master::Input::AgentMessage {
                    conn,
                    message: *message,
                }
            }
            Up::Closed => {
                self.net.closed_at_master(stream);
                if framework {
                    self.ledger.on_framework_gone(stream);
                    master::Input::FrameworkClosed { conn }
                } else {
                    self.ledger.on_agent_gone(stream);
                    master::Input::AgentClosed { conn }
                }
            }
        };
        self.master_step(input)
    }

    pub(super) fn master_step(&mut self, input: master::Input) -> Checked {
        let now = self.now();
        let Some(core) = &mut self.master.core else {
            return Ok(());
        };
        let effects = core.step(now, input);
        let wrote = !effects.persist.is_empty();
        for record in effects.persist {
            self.master.registry.apply(record);
        }
        if wrote && let Some(down) = self.master.crash_after_persist.take() {
            // The records are durable and nobody has heard of them.
            self.crash_master(down);
            return Ok(());
        }
        for effect in effects.then {
            self.master_effect(effect)?;
        }
        self.rearm(Part::Master);
        Ok(())
    }

    pub(super) fn master_effect(&mut self, effect: master::Effect) -> Checked {
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
            master::Effect::Publish(_) => {}
        }
        Ok(())
    }

    pub(super) fn down(&mut self, stream: u64, down: Down) {
        if let Some(at) = self.net.send_down(self.now(), stream) {
            self.queue.at(at, Happening::Down(stream, down));
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
            .at(now + down, Happening::Fault(Fault::MasterBack));
    }
}
