//! The masters' store as frameworks reach it, and the processes that live from it.

use std::time::Duration;

use allotment_framework_sdk::Config;
use allotment_framework_sdk::session::Session;
use allotment_master::core as master;

use super::{Checked, Happening, Part, World};

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
        if self.master.core.is_none() {
            self.answer_store(framework, process, false);
            return Ok(());
        }
        let id = self.next_request();
        self.master.commits.insert(id, (framework, process));
        self.master_step(master::Input::Request {
            id,
            request: master::Request::StoreCommit(request),
        })
    }

    pub(super) fn next_request(&mut self) -> master::RequestId {
        self.master.next_request += 1;
        master::RequestId(self.master.next_request)
    }

    pub(super) fn on_reply(
        &mut self,
        to: master::RequestId,
        reply: Result<master::Reply, master::Refusal>,
    ) -> Checked {
        let Some((framework, process)) = self.master.commits.remove(&to) else {
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
        let now = self.now();
        let Some(node) = self.frameworks.get_mut(i).filter(|node| !node.gone) else {
            return Ok(());
        };
        let Some(id) = node.brain.restart(now, &self.master.registry) else {
            return Ok(());
        };
        let config = Config {
            framework_id: id?,
            ..node.config.clone()
        };
        let jitter = node.process;
        node.session = Session::new(&config, jitter).map_err(|e| e.to_string())?;
        node.process += 1;
        node.commit = None;
        let old = node.link.take();
        if let Some(ticket) = node.wake.take() {
            self.queue.cancel(ticket);
        }
        if let Some((_, stream)) = old {
            self.peer_closes(stream);
        }
        self.rearm(Part::Framework(i));
        Ok(())
    }
}
