//! How executors and their tasks end: asked to, in time, or by themselves.

use allotment_proto::allot;
use allotment_proto::executor::event;
use allotment_proto::mesos::framework_info::capability::Type as Capability;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{ExecutorId, FrameworkId, Timestamp};

use super::super::executor::{Executor, ExecutorKey, Fate, Kind, Phase, event_of};
use super::super::sandbox::{Owner, SandboxId};
use super::super::task::Verdict;
use super::super::{Core, Effect, Key, Outcome, Record, Step, send};
use super::{kill_event, say};

impl Core {
    /// Asks an executor to kill a task; one that it was not told of ends at once.
    pub(in super::super) fn kill_hosted(
        &mut self,
        now: Timestamp,
        key: &Key,
        policy: Option<mesos::KillPolicy>,
        step: &mut Step,
    ) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let Some(hosted) = task.in_executor() else {
            return;
        };
        let executor = (key.0.clone(), hosted.executor.clone());
        if hosted.sent {
            task.change_hosted(|hosted| hosted.kill = Some(policy));
            if let Some(Kind::Custom(custom)) = self.executors.get(&executor).map(|e| &e.kind)
                && let Some(number) = custom.stream
            {
                say(step, number, kill_event(&key.1, policy));
            }
            return;
        }
        let verdict = Verdict {
            state: TaskState::TaskKilled,
            reason: Some(Reason::TaskKilledDuringLaunch),
            message: "Killed before its executor was told of it".to_owned(),
        };
        let group = hosted.group;
        let mut doomed = vec![key.1.clone()];
        if group.is_some() {
            // Together or not at all.
            let others = self.tasks_of(&executor).into_iter();
            doomed = others
                .filter(|id| self.group_of(&key.0, id) == group)
                .collect();
        }
        for id in doomed {
            let key = (key.0.clone(), id);
            if let Some(task) = self.tasks.get_mut(&key) {
                task.end_hosted(now, &verdict, &mut self.random);
                self.counts.add(verdict.state);
                self.on_hosted_over(&key, step);
            }
            self.settle(now, &key, step);
        }
    }

    pub(in super::super) fn on_shutdown_executor(
        &mut self,
        now: Timestamp,
        shutdown: &allot::ShutdownExecutor,
        step: &mut Step,
    ) {
        let (Ok(framework), Ok(executor)) = (
            FrameworkId::try_from(&shutdown.framework_id),
            ExecutorId::try_from(&shutdown.executor_id),
        ) else {
            return;
        };
        let key = (framework, executor);
        let message = "Its framework ended the executor".to_owned();
        self.shut_down(now, &key, Some((Reason::ExecutorTerminated, message)), step);
    }

    /// Ends an executor and its tasks, with its grace period.
    pub(in super::super) fn shut_down(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        why: Option<(Reason, String)>,
        step: &mut Step,
    ) {
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let grace = self.settings.shutdown_grace(&executor.info);
        let container = executor.container.clone();
        let Some(custom) = executor.custom() else {
            return self.kill_all_groups(now, key, step);
        };
        let destroy_at = match custom.phase {
            Phase::ShuttingDown { .. } => return,
            Phase::Starting => {
                step.then.push(Effect::Destroy(container));
                None
            }
            Phase::Running { .. } => {
                match custom.stream {
                    Some(number) => say(step, number, event_of(event::Type::Shutdown)),
                    // It cannot hear us; a signal reaches it.
                    None => step.then.push(Effect::Terminate(container)),
                }
                Some(now + grace)
            }
        };
        custom.phase = Phase::ShuttingDown { destroy_at };
        custom.fate = why.map(|(reason, message)| Fate { reason, message });
        custom.changed = true;
        self.settle_executor(now, key, step);
    }

    /// The agent leaves for good.
    pub(in super::super) fn end_executors_with_agent(&mut self, now: Timestamp, step: &mut Step) {
        let keys: Vec<ExecutorKey> = self.executors.keys().cloned().collect();
        for key in keys {
            let Some(executor) = self.executors.get_mut(&key) else {
                continue;
            };
            let container = executor.container.clone();
            if let Some(custom) = executor.custom() {
                custom.phase = Phase::ShuttingDown { destroy_at: None };
                custom.fate = Some(Fate {
                    reason: Reason::AgentRemoved,
                    message: "The agent was stopped, and its tasks with it".to_owned(),
                });
                custom.changed = true;
                step.then.push(Effect::Destroy(container));
            }
            self.settle_executor(now, &key, step);
        }
    }

    pub(in super::super) fn on_executor_started(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        pid: i32,
        step: &mut Step,
    ) {
        let settings = &self.settings.executors;
        let Some(custom) = self.executors.get_mut(key).and_then(Executor::custom) else {
            return;
        };
        let recovering = std::mem::replace(&mut custom.recovering, false);
        if custom.phase == Phase::Starting {
            custom.phase = Phase::Running { pid };
            custom.changed = true;
        }
        if custom.stream.is_none() && matches!(custom.phase, Phase::Running { .. }) {
            let wait = if recovering && custom.subscribed {
                settings.reregistration_timeout
            } else {
                settings.registration_timeout
            };
            custom.due_at = Some(now + wait);
        }
        if recovering {
            // The earlier run may have ended before it said so.
            self.resize(key, step);
        }
        self.deliver(now, key, step);
        self.settle_executor(now, key, step);
    }

    /// Nothing of a custom executor runs any more.
    pub(in super::super) fn on_executor_ended(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        outcome: Outcome,
        step: &mut Step,
    ) {
        let status = wait_status(&outcome);
        let gone = self.state_of_loss(&key.0, TaskState::TaskGone);
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let tasks = std::mem::take(&mut executor.tasks);
        let Some(custom) = executor.custom() else {
            return;
        };
        if let Some(number) = custom.stream.take() {
            step.then.push(Effect::CloseExecutor { number });
            self.executor_streams.remove(&number);
        }
        let verdict = custom.verdict(outcome, gone);
        for id in tasks {
            let task_key = (key.0.clone(), id);
            if let Some(task) = self.tasks.get_mut(&task_key) {
                self.free.add(&task.resources().unshared());
                task.end_hosted(now, &verdict, &mut self.random);
                self.counts.add(verdict.state);
            }
            self.settle(now, &task_key, step);
        }
        self.forget_executor(now, key, status, step);
    }

    /// An executor is gone: what it held is free, and the master hears of it.
    pub(in super::super) fn forget_executor(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        status: Option<i32>,
        step: &mut Step,
    ) {
        let Some(mut executor) = self.executors.remove(key) else {
            return;
        };
        self.executor_containers.remove(&executor.container);
        if let Some(at) = executor.custom().and_then(|c| c.noted_deadline.take()) {
            self.executor_deadlines.remove(&(at, key.clone()));
        }
        self.free.add(&executor.resources.unshared());
        step.persist.push(Record::ExecutorOver(allot::ExecutorOver {
            framework_id: (&key.0).into(),
            executor_id: (&key.1).into(),
        }));
        if let Some(session) = self.session.current_registered() {
            let ended = allot::ExecutorEnded {
                framework_id: (&key.0).into(),
                executor_id: (&key.1).into(),
                status,
            };
            send(
                step,
                session,
                allot::agent_message::Message::ExecutorEnded(ended),
            );
        }
        let sandbox = SandboxId {
            framework: key.0.clone(),
            owner: Owner::Executor(key.1.clone()),
            container: executor.container,
        };
        let at = now + self.settings.gc_delay;
        self.collect_at.insert((at, sandbox), executor.agent);
        self.unuse_framework(&key.0);
    }

    /// Lets an executor that changed do what is due, and notes when it is due again.
    pub(in super::super) fn settle_executor(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        step: &mut Step,
    ) {
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let container = executor.container.clone();
        let Some(custom) = executor.custom() else {
            return;
        };
        if let Some(at) = custom.noted_deadline.take() {
            self.executor_deadlines.remove(&(at, key.clone()));
        }
        let due = custom.next_deadline().is_some_and(|at| at <= now);
        match &mut custom.phase {
            Phase::ShuttingDown { destroy_at } if due => {
                *destroy_at = None;
                custom.changed = true;
                step.then.push(Effect::Destroy(container));
            }
            Phase::Starting | Phase::Running { .. } if due => {
                custom.due_at = None;
                let (reason, message) = if custom.subscribed {
                    let reason = Reason::ExecutorReregistrationTimeout;
                    (
                        reason,
                        "Executor did not subscribe again in time".to_owned(),
                    )
                } else {
                    let reason = Reason::ExecutorRegistrationTimeout;
                    let wait = self.settings.executors.registration_timeout;
                    let message =
                        format!("Executor did not subscribe within {} s", wait.as_secs_f64());
                    (reason, message)
                };
                custom.phase = Phase::ShuttingDown { destroy_at: None };
                custom.fate = Some(Fate { reason, message });
                custom.changed = true;
                step.then.push(Effect::Destroy(container));
            }
            Phase::ShuttingDown { .. } | Phase::Starting | Phase::Running { .. } => {}
        }
        let changed = std::mem::replace(&mut custom.changed, false);
        if let Some(at) = custom.next_deadline() {
            custom.noted_deadline = Some(at);
            self.executor_deadlines.insert((at, key.clone()));
        }
        if changed && let Some(progress) = executor.progress() {
            step.persist.push(Record::ExecutorProgress(progress));
        }
    }

    /// `finer`, or TASK_LOST for frameworks that know no finer one.
    pub(in super::super) fn state_of_loss(
        &self,
        framework: &FrameworkId,
        finer: TaskState,
    ) -> TaskState {
        let known = self.frameworks.get(framework);
        if known.is_some_and(|known| known.can(Capability::PartitionAware)) {
            finer
        } else {
            TaskState::TaskLost
        }
    }
}

/// As `wait` returns it.
pub(in super::super) fn wait_status(outcome: &Outcome) -> Option<i32> {
    let Outcome::Exited { exit, .. } = outcome else {
        return None;
    };
    exit.code.map(|code| code << 8).or(exit.signal)
}
