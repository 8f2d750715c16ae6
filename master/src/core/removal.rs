//! Frameworks leave: for a while when their stream ends, for good when their time is over.

use allotment_proto::allot;
use allotment_types::{FrameworkId, TaskId};

use super::framework::FrameworkState;
use super::io::{ConnId, Refusal};
use super::out::About;
use super::registry::Record;
use super::task::KillWish;
use super::timers::Timer;
use super::{COMPLETED_KEPT, Completed, Core, TOMBSTONES_KEPT};

impl Core {
    pub(super) fn on_framework_closed(&mut self, conn: ConnId) {
        let Some(Some(id)) = self.framework_conns.remove(&conn) else {
            return;
        };
        let Some(framework) = self.frameworks.get_mut(&id) else {
            return;
        };
        if framework.conn() != Some(conn) {
            return;
        }
        let now = self.out.now;
        let until = now + framework.failover_timeout;
        framework.state = FrameworkState::Disconnected { since: now, until };
        let name = framework.info.name.clone();
        if framework.failover_timeout.is_zero() {
            self.remove_framework(&id, "it disconnected and its failover_timeout is 0");
            return;
        }
        self.out.persist(framework.record());
        self.out.publish(
            "framework-disconnected",
            About::framework(&id),
            format!(
                "framework {name} disconnected; it may come back within {:?}",
                framework.failover_timeout
            ),
        );
        self.timers.set(until, Timer::Failover(id.clone()));
        self.allocator.deactivate_framework(&id);
        self.withdraw_offers_of_framework(&id);
        self.withdraw_inverse_offers_of_framework(&id);
    }

    pub(super) fn on_failover_timeout(&mut self, id: &FrameworkId) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        match framework.state {
            FrameworkState::Disconnected { until, .. }
            | FrameworkState::Recovered { until, .. }
                if until <= self.out.now =>
            {
                self.remove_framework(id, "it did not come back within its failover_timeout");
            }
            FrameworkState::Connected { .. }
            | FrameworkState::Disconnected { .. }
            | FrameworkState::Recovered { .. }
            | FrameworkState::Removed { .. } => {}
        }
    }

    /// Ends a framework for good: its offers go back, its tasks are killed, its id is barred.
    /// What its tasks hold stays theirs until they are dead.
    pub(super) fn remove_framework(&mut self, id: &FrameworkId, why: &str) {
        let Some(framework) = self.frameworks.get_mut(id) else {
            return;
        };
        let previous = framework.state;
        if framework.is_removed() {
            return;
        }
        let since = self.out.now;
        framework.state = FrameworkState::Removed { since };
        self.out.persist(framework.record());
        let name = framework.info.name.clone();
        self.out.publish(
            "framework-removed",
            About::framework(id),
            format!("framework {name} was removed: {why}"),
        );
        match previous {
            FrameworkState::Connected { conn, .. } => {
                self.framework_conns.remove(&conn);
                self.out
                    .close_framework(conn, format!("the framework was removed: {why}"));
            }
            FrameworkState::Disconnected { until, .. }
            | FrameworkState::Recovered { until, .. } => {
                self.timers.cancel(until, Timer::Failover(id.clone()));
            }
            FrameworkState::Removed { .. } => {}
        }
        self.bar(id);
        self.allocator.deactivate_framework(id);
        self.withdraw_offers_of_framework(id);
        self.withdraw_inverse_offers_of_framework(id);
        self.shut_down_executors_of(id);
        self.kill_all_tasks(id);
    }

    fn bar(&mut self, id: &FrameworkId) {
        if !self.barred.insert(id.clone()) {
            return;
        }
        self.tombstones.push_back(id.clone());
        if self.tombstones.len() > TOMBSTONES_KEPT
            && let Some(oldest) = self.tombstones.pop_front()
        {
            self.barred.remove(&oldest);
            self.out
                .persist(Record::FrameworkForgotten(oldest.to_string()));
        }
    }

    fn kill_all_tasks(&mut self, id: &FrameworkId) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        let tasks: Vec<TaskId> = framework.tasks.keys().cloned().collect();
        for task_id in &tasks {
            let task = self.frameworks.get(id).and_then(|f| f.tasks.get(task_id));
            let Some(task) = task else {
                continue;
            };
            if task.holds {
                self.kill_task(id, task_id, KillWish::default());
            } else {
                // Ended but for an acknowledgement, or on an agent that is unreachable, which
                // will be told to kill it when it is back.
                self.forget_task(id, task_id);
            }
        }
        if self.frameworks.get(id).is_some_and(|f| f.is_over()) {
            self.finish_removal(id);
        }
    }

    /// The last task of a removed framework is over.
    pub(super) fn finish_removal(&mut self, id: &FrameworkId) {
        let Some(framework) = self.frameworks.remove(id) else {
            return;
        };
        self.allocator.remove_framework(id);
        self.completed.push_back(Completed {
            id: id.clone(),
            name: framework.info.name,
            ended: framework.ended,
        });
        if self.completed.len() > COMPLETED_KEPT {
            self.completed.pop_front();
        }
    }

    pub(super) fn operator_remove(
        &mut self,
        request: &allot::RemoveFrameworkRequest,
    ) -> Result<(), Refusal> {
        let id = FrameworkId::parse(&request.framework_id).ok();
        let framework = id.and_then(|id| self.frameworks.get(&id));
        let Some(framework) = framework.filter(|f| !f.is_removed()) else {
            return Err(Refusal::NotFound(format!(
                "no framework {} is registered; `allot framework list` shows those that are",
                super::accept::truncated(&request.framework_id)
            )));
        };
        let id = framework.id.clone();
        if let Some(conn) = framework.conn() {
            let message = "Framework has been removed by an operator; subscribe without an id to \
                           begin anew";
            self.out.error(conn, message.to_owned());
        }
        self.remove_framework(&id, "an operator asked for it");
        Ok(())
    }
}
