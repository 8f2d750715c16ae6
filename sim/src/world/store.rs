//! The masters' store as frameworks reach it, and the processes that live from it.

use std::time::Duration;

use allotment_framework_sdk::Config;
use allotment_framework_sdk::session::Session;
use allotment_master::core as master;

use super::masters::Process;
use super::{Checked, Happening, Part, World};
use crate::net::Peer;
use crate::rng;

impl World {
    pub(super) fn ask_store(&mut self, framework: usize, process: u64, pause: Duration) {
        let at = self.now() + pause + self.net.delay();
        self.queue.at(at, Happening::StoreAsked(framework, process));
    }

    pub(super) fn answer_store(&mut self, framework: usize, process: u64, done: bool) {
        let at = self.now() + self.net.delay();
        let answered = Happening::StoreAnswered {
            framework,
            process,
            done,
        };
        self.queue.at(at, answered);
    }

    pub(super) fn on_store_asked(&mut self, framework: usize, process: u64) -> Checked {
        let node = self.frameworks.get(framework);
        let Some(request) = node
            .filter(|node| node.process == process)
            .and_then(|node| node.commit.clone())
        else {
            return Ok(());
        };
        let peer = Peer::Framework(framework);
        let leads = |world: &Self, master: &usize| {
            let node = world.masters.get(*master);
            node.is_some_and(|node| {
                node.is_up() && node.process.as_ref().is_some_and(|p| p.reign.is_some())
            }) && world.net.is_reachable(peer, *master)
        };
        let leader = (0..self.masters.len()).find(|master| leads(self, master));
        let id = self.next_request();
        let Some((leader, there)) = leader.and_then(|m| Some((m, self.process(m)?))) else {
            self.answer_store(framework, process, false);
            return Ok(());
        };
        there.commits.insert(id, (framework, process));
        self.put(
            leader,
            master::Input::Request {
                id,
                request: master::Request::StoreCommit(request),
            },
        )
    }

    pub(super) fn next_request(&mut self) -> master::RequestId {
        self.next_request += 1;
        master::RequestId(self.next_request)
    }

    pub(super) fn on_reply(
        &mut self,
        master: usize,
        to: master::RequestId,
        reply: Result<master::Reply, master::Refusal>,
    ) -> Checked {
        if self.ordered.is_some_and(|(id, _)| id == to) {
            self.on_ordered(reply.is_ok());
            return Ok(());
        }
        let waits = self.process(master).and_then(|p| p.commits.remove(&to));
        let Some((framework, process)) = waits else {
            return Ok(());
        };
        if let Err(refusal) = reply {
            return Err(format!(
                "the store takes what framework {framework} must keep: {refusal}"
            ));
        }
        self.answer_store(framework, process, true);
        Ok(())
    }

    pub(super) fn on_store_answered(
        &mut self,
        framework: usize,
        process: u64,
        done: bool,
    ) -> Checked {
        let now = self.now();
        self.trace.note(now, || {
            let what = if done { "is durable" } else { "failed" };
            format!("framework {framework}'s commit {what}")
        });
        let node = self.frameworks.get_mut(framework);
        let Some(node) = node.filter(|node| node.process == process && node.commit.is_some())
        else {
            return Ok(());
        };
        if !done {
            self.ask_store(framework, process, Duration::from_millis(500));
            return Ok(());
        }
        node.commit = None;
        let deeds = node.brain.on_stored(now)?;
        let inputs = self.calls_among(framework, deeds)?;
        self.session_steps(framework, inputs)
    }

    /// A framework's process dies with all it had in memory, and another begins.
    pub(super) fn kill_framework(&mut self, i: usize) -> Checked {
        let Some(node) = self.frameworks.get_mut(i) else {
            return Ok(());
        };
        if node.gone || node.away || !node.brain.keeps_state() {
            return Ok(());
        }
        node.away = true;
        node.process += 1;
        node.commit = None;
        let (process, wake, link) = (node.process, node.wake.take(), node.link.take());
        if let Some(ticket) = wake {
            self.queue.cancel(ticket);
        }
        if let Some((_, stream)) = link {
            self.peer_closes(stream);
        }
        self.framework_begins(i, process)
    }

    /// A new process of a framework goes on from what is kept of the old one; what the masters
    /// keep it reads from the one that leads.
    pub(super) fn framework_begins(&mut self, i: usize, process: u64) -> Checked {
        let now = self.now();
        let leader = self.acting().and_then(|master| self.masters.get(master));
        let there = leader.and_then(|node| node.process.as_ref());
        // What the old process asked for and is under way is part of what the new one reads.
        let under_way = |p: &&Process| p.commits.values().any(|(framework, _)| *framework == i);
        let registry = there
            .filter(|p| !under_way(p))
            .map(|p| p.replica.registry());
        let Some(node) = self
            .frameworks
            .get_mut(i)
            .filter(|node| node.process == process && !node.gone)
        else {
            return Ok(());
        };
        let Some(registry) = registry else {
            let at = now + Duration::from_millis(500);
            self.queue.at(at, Happening::FrameworkBack(i, process));
            return Ok(());
        };
        let id = node.brain.restart(now, registry);
        let config = Config {
            framework_id: id?,
            ..node.config.clone()
        };
        let name = rng::stream(self.seed, &format!("session-{i}-{process}")).u64(..);
        node.session = Session::new(&config, name).map_err(|e| e.to_string())?;
        node.away = false;
        self.rearm(Part::Framework(i));
        Ok(())
    }
}
