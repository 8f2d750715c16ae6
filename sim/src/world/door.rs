//! A master's door: what reaches it over streams, and what it says there.

use allotment_master::core::{self as master, ConnId};
use allotment_types::FrameworkId;

use super::{Checked, Happening, World};
use crate::mishaps;
use crate::net::{Down, Peer, Up};
use crate::words;

impl World {
    pub(super) fn on_up(&mut self, stream: u64, up: Up) -> Checked {
        let Some(up) = self.net.pass_up(stream, up) else {
            return Ok(());
        };
        let Some(master) = self.net.master(stream) else {
            return Ok(());
        };
        let closing = matches!(up, Up::Closed);
        if self.process(master).is_none() {
            self.net.closed_at_master(stream);
            return Ok(());
        }
        if !self.net.heard_by_master(stream, closing) {
            return Ok(());
        }
        let Some(up) = self.as_heard_up(stream, up) else {
            return Ok(());
        };
        let peer = self.net.peer(stream);
        let now = self.now();
        self.trace.note(now, || {
            format!(
                "master {master} <- {} {}",
                words::stream(stream, peer),
                words::up(&up)
            )
        });
        if self.process(master).is_some_and(|p| p.reign.is_none()) {
            if closing {
                self.net.closed_at_master(stream);
            } else {
                self.master_closes(stream, "this master does not lead".to_owned(), false);
            }
            return Ok(());
        }
        let conn = ConnId(stream);
        let framework = matches!(peer, Some(Peer::Framework(_)));
        let input = match up {
            Up::Opened if framework => master::Input::FrameworkOpened { conn },
            Up::Opened => master::Input::AgentOpened { conn },
            Up::Call(mut call) => {
                self.saboteur.hears(&mut call);
                master::Input::FrameworkCall { conn, call: *call }
            }
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
        self.put(master, input)
    }

    pub(super) fn master_effect(&mut self, master: usize, effect: master::Effect) -> Checked {
        let net = &self.net;
        let effects = self
            .saboteur
            .effects(effect, |conn| net.stranger(conn.0).map(ConnId));
        for effect in effects {
            self.perform_effect(master, effect)?;
        }
        Ok(())
    }

    fn perform_effect(&mut self, master: usize, effect: master::Effect) -> Checked {
        let checked = self.checked;
        let Some(process) = self.process(master) else {
            return Ok(());
        };
        match effect {
            master::Effect::ToFramework { conn, event } => {
                if checked {
                    process.ledger.on_event(conn.0, &event)?;
                }
                if let Some(subscribed) = &event.subscribed
                    && let Ok(id) = FrameworkId::try_from(&subscribed.framework_id)
                {
                    self.promises.on_subscribed(id);
                }
                self.down(conn.0, Down::Event(event));
            }
            master::Effect::ToAgent { conn, mut message } => {
                // The fence: agents that heard a later leader refuse what an older one says.
                message.term = process.reign.as_ref().map(|reign| reign.term);
                if checked {
                    process.ledger.on_order(conn.0, &message)?;
                }
                self.down(conn.0, Down::Message(Box::new(message)));
            }
            master::Effect::CloseFramework { conn, reason } => {
                process.ledger.on_framework_gone(conn.0);
                self.master_closes(conn.0, reason, true);
            }
            master::Effect::CloseAgent { conn, reason } => {
                process.ledger.on_agent_gone(conn.0);
                self.master_closes(conn.0, reason, true);
            }
            master::Effect::Reply { to, reply } => self.on_reply(master, to, reply)?,
            master::Effect::Publish(_) | master::Effect::StoreChanged(_) => {}
        }
        Ok(())
    }

    pub(super) fn down(&mut self, stream: u64, down: Down) {
        let mut may = mishaps::of_down(&down);
        may.be_lost = may.be_lost && self.lossy > 0 && self.will_be_repeated(&down);
        let mut left = Some(down);
        let n_copies = self.copies(may);
        for copy in 0..n_copies {
            let last = copy + 1 == n_copies;
            // An OFFERS event may be megabytes: the last copy is the message itself.
            let Some(down) = (if last { left.take() } else { left.clone() }) else {
                return;
            };
            if let Some(at) = self.net.send_down(self.now(), stream) {
                if copy > 0 {
                    let now = self.now();
                    self.trace
                        .note(now, || format!("doubled: {}", words::down(&down)));
                }
                self.queue.at(at, Happening::Down(stream, down));
            }
        }
    }

    /// Nobody but the agent that it came from repeats an update.
    fn will_be_repeated(&self, down: &Down) -> bool {
        let Down::Event(event) = down else {
            return true;
        };
        let Some(agent) = event
            .update
            .as_ref()
            .and_then(|u| u.status.agent_id.as_ref())
        else {
            return true;
        };
        let is_its = |id: &allotment_types::AgentId| id.as_str() == agent.value;
        let mut machines = self.machines.iter();
        machines.any(|node| node.host.id().as_ref().is_some_and(is_its))
    }

    pub(super) fn master_closes(&mut self, stream: u64, reason: String, clean: bool) {
        if let Some(at) = self.net.close_by_master(self.now(), stream) {
            let closed = Down::Closed { reason, clean };
            self.queue.at(at, Happening::Down(stream, closed));
        }
    }
}
