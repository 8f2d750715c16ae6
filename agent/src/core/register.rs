//! What an agent says of itself when it comes to a master.

use allotment_proto::convert::{domain_to_wire, resources_to_wire};
use allotment_proto::{allot, mesos};
use allotment_types::Timestamp;

use super::task::Task;
use super::{Core, Step, send};

impl Core {
    /// The connection stands: says who this agent is and what runs on it.
    pub(super) fn on_connected(&mut self, now: Timestamp, session: u64, step: &mut Step) {
        if !self.session.on_connected(now, session) {
            return;
        }
        let tasks = self.tasks.values().filter(|task| !task.is_forgotten());
        let register = allot::Register {
            agent: self.agent_info(),
            url: self.settings.url(),
            version: allotment_proto::VERSION.to_owned(),
            boot_id: self.settings.boot_id.clone(),
            tasks: tasks.clone().map(Task::record).collect(),
            frameworks: self
                .frameworks
                .iter()
                .filter(|(id, _)| {
                    tasks.clone().any(|task| task.framework() == *id)
                        || self.executors.keys().any(|(framework, _)| framework == *id)
                })
                .map(|(_, framework)| framework.info.clone())
                .collect(),
            executors: self
                .executors
                .values()
                .map(|executor| allot::ExecutorRecord {
                    framework_id: (&executor.framework).into(),
                    executor: executor.info.clone(),
                })
                .collect(),
            attempt: Some(self.session.attempt(session)),
        };
        send(
            step,
            session,
            allot::agent_message::Message::Register(register),
        );
    }

    pub(super) fn agent_info(&self) -> mesos::AgentInfo {
        mesos::AgentInfo {
            hostname: self.settings.hostname.clone(),
            port: Some(i32::from(self.settings.address.1)),
            resources: resources_to_wire(&self.settings.resources, None),
            attributes: self.settings.attributes.clone(),
            id: self.agent.as_ref().map(mesos::AgentId::from),
            domain: self.settings.domain.as_ref().map(domain_to_wire),
        }
    }
}
