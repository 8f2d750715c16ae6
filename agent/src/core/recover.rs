//! An agent goes on where an earlier run of it ended.
//!
//! Every task that was not over is taken up again. Of each of its containers the containerizer
//! tells in its time that it runs, that it ended and how, that it was never begun, or that it is
//! lost; until then the agent says of it what it said last.

use allotment_proto::allot;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_types::{Resources, Shortfall, Timestamp};

use super::checkpoint::{Checkpoint, Parts, SavedExecutor, agent_record};
use super::executor::{Executor, ExecutorKey, Kind, Phase};
use super::launch;
use super::sandbox::{ContainerId, Owner, SandboxId};
use super::task::{Host, Task, Verdict};
use super::{Core, Effect, Framework, Key, Outcome, Record, Settings, Step, Stopping};

/// Why an agent cannot go on where it ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{holders} on this agent hold {held}, but its settings offer {offered} ({}); offer at least \
     what they hold, or end them first: {remedy}",
    list(lacks)
)]
pub struct Shrunk {
    /// Who holds more than there is.
    pub holders: &'static str,
    /// How to end that.
    pub remedy: &'static str,
    /// What they hold.
    pub held: Resources,
    /// What the settings offer now.
    pub offered: Resources,
    /// Where it does not suffice.
    pub lacks: Vec<Shortfall>,
}

fn list(lacks: &[Shortfall]) -> String {
    let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    lacks.join(", ")
}

impl Core {
    /// An agent that goes on where the records of `checkpoint` end; an empty one begins anew.
    /// `seed` feeds ids and jitter, and must differ between runs.
    ///
    /// # Errors
    /// [`Shrunk`] when live tasks hold more than there is now.
    pub fn recover(
        mut settings: Settings,
        checkpoint: Checkpoint,
        seed: u64,
        now: Timestamp,
    ) -> Result<(Self, Step), Shrunk> {
        if let Some(kept) = checkpoint.resources() {
            match kept.reapplied_to(&settings.resources) {
                Ok(total) => settings.resources = total,
                Err(held) => {
                    let offered = settings.resources;
                    return Err(Shrunk {
                        holders: "the reservations and volumes",
                        remedy: "start the agent with its former resources and unreserve them",
                        lacks: offered.shortfalls(&held),
                        held,
                        offered,
                    });
                }
            }
        }
        if settings.tasks_outlive_agent {
            let held = checkpoint.held();
            let lacks = settings.resources.shortfalls(&held);
            if !lacks.is_empty() {
                let offered = settings.resources;
                return Err(Shrunk {
                    holders: "the tasks",
                    remedy: "start the agent with its former resources and send it SIGUSR1",
                    held,
                    offered,
                    lacks,
                });
            }
        }
        let rebooted = checkpoint.boot_id() != settings.boot_id;
        let mut core = Self::new(settings, checkpoint.agent().cloned(), seed, now);
        let mut step = Step::none();
        step.persist.push(core.agent_record());
        let Parts {
            frameworks,
            executors,
            tasks,
            nested,
        } = checkpoint.into_parts();
        for (id, info) in frameworks {
            core.frameworks.insert(id, Framework { info, n_users: 0 });
        }
        for (key, saved) in executors {
            let resources = saved.resources();
            let resources = resources.naming_volumes_of(&core.settings.resources);
            core.free.subtract(&resources.unshared());
            let (framework, id) = key.clone();
            let executor = Executor::recovered(saved, framework, id, resources, rebooted);
            core.executor_containers
                .insert(executor.container.clone(), key.clone());
            core.executors.insert(key.clone(), executor);
            core.use_framework(&key.0);
        }
        for (key, saved) in tasks {
            let resources = saved.resources();
            let resources = resources.naming_volumes_of(&core.settings.resources);
            core.free.subtract(&resources.unshared());
            core.take_up(key, Task::recovered(saved, resources, rebooted), &mut step);
        }
        core.take_up_nested(nested, &mut step);
        if !core.settings.tasks_outlive_agent {
            core.lose_all(now, &mut step);
        }
        core.take_up_executors(now, &mut step);
        core.settle_all(now, &mut step);
        Ok((core, step))
    }

    /// Executors go on with the tasks that they had, and with what was ordered of them.
    fn take_up_executors(&mut self, now: Timestamp, step: &mut Step) {
        let lost = self.state_of_executorless();
        for (key, state) in lost {
            if let Some(task) = self.tasks.get_mut(&key) {
                let verdict = Verdict {
                    state,
                    reason: Some(Reason::AgentRestarted),
                    message: "What the agent had written down of its executor is lost".to_owned(),
                };
                self.free.add(&task.resources().unshared());
                task.end_hosted(now, &verdict, &mut self.random);
            }
        }
        let keys: Vec<ExecutorKey> = self.executors.keys().cloned().collect();
        for key in keys {
            let Some(executor) = self.executors.get_mut(&key) else {
                continue;
            };
            let (empty, container) = (executor.tasks.is_empty(), executor.container.clone());
            match &executor.kind {
                // Its last task ended in the same instant as the agent.
                Kind::Default if empty => self.forget_executor(now, &key, Some(0), step),
                Kind::Default => {}
                Kind::Custom(custom) => {
                    if let Phase::ShuttingDown { destroy_at } = custom.phase {
                        step.then.push(match destroy_at {
                            Some(_) => Effect::Terminate(container),
                            None => Effect::Destroy(container),
                        });
                    }
                    self.settle_executor(now, &key, step);
                }
            }
        }
    }

    /// Live tasks that a custom executor has of which nothing is known any more.
    fn state_of_executorless(&self) -> Vec<(Key, TaskState)> {
        let lost = self.tasks.iter().filter(|(key, task)| {
            let Host::Executor(hosted) = task.host() else {
                return false;
            };
            let executor = (key.0.clone(), hosted.executor.clone());
            !task.is_ended() && !self.executors.contains_key(&executor)
        });
        lost.map(|(key, _)| (key.clone(), self.state_of_loss(&key.0, TaskState::TaskGone)))
            .collect()
    }

    fn take_up(&mut self, key: Key, task: Task, step: &mut Step) {
        if !task.is_ended() {
            if !matches!(task.host(), Host::Executor(_)) {
                self.containers
                    .insert(task.container().clone(), key.clone());
            }
            task.order_again(&mut step.then);
            self.rejoin(&key, &task);
        }
        self.use_framework(&key.0);
        self.tasks.insert(key, task);
    }

    /// A live task is one of its executor's again.
    fn rejoin(&mut self, key: &Key, task: &Task) {
        let Some(id) = task.executor() else {
            return;
        };
        let executor_key = (key.0.clone(), id.clone());
        if let Host::Group { parent, .. } = task.host()
            && !self.executors.contains_key(&executor_key)
            && let Some(info) = task.info().executor.clone()
        {
            // Its record was lost; the task tells what it was.
            let saved = SavedExecutor {
                agent: task.agent().clone(),
                info: *info,
                container: parent.clone(),
                token: None,
                progress: None,
            };
            let resources = saved.resources();
            self.free.subtract(&resources.unshared());
            let (framework, id) = executor_key.clone();
            let executor = Executor::recovered(saved, framework, id, resources, false);
            self.executor_containers
                .insert(parent.clone(), executor_key.clone());
            self.executors.insert(executor_key.clone(), executor);
            self.use_framework(&key.0);
        }
        let Some(executor) = self.executors.get_mut(&executor_key) else {
            return;
        };
        executor.tasks.insert(key.1.clone());
        let group = match task.host() {
            Host::Group { group, .. } => Some(*group),
            Host::Executor(hosted) => hosted.group,
            Host::Alone => None,
        };
        executor.next_group = executor.next_group.max(group.unwrap_or(0));
        if let (Host::Executor(hosted), Some(custom)) = (task.host(), executor.custom())
            && !hosted.sent
        {
            custom.queue.push_back(key.1.clone());
        }
    }

    /// Tasks that end with their agent ended with the earlier run.
    fn lose_all(&mut self, now: Timestamp, step: &mut Step) {
        step.then.clear();
        self.lose_nested(step);
        let tasks = self.containers.keys().cloned();
        let custom = self.executors.values().filter(|e| e.kind.is_custom());
        let executors = custom.map(|executor| executor.container.clone());
        let containers: Vec<ContainerId> = tasks.chain(executors).collect();
        for container in containers {
            let message = "The agent ended, and its tasks with it".to_owned();
            let outcome = Outcome::Restarted { message };
            let left = allot::SandboxSummary::default();
            self.on_ended(now, container, (outcome, left), step);
        }
        // Whatever they held of what there was then, now all there is is free.
        self.free = self.settings.resources.clone();
    }

    /// Everything that a later run needs, in records.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![self.agent_record()];
        for framework in self.frameworks.values() {
            records.push(framework.record());
        }
        for executor in self.executors.values() {
            records.push(Record::Executor(executor.checkpoint()));
            records.extend(executor.progress().map(Record::ExecutorProgress));
        }
        for task in self.tasks.values() {
            records.push(Record::Task(task.checkpoint()));
            if !task.is_untouched() {
                records.push(Record::Progress(task.progress()));
            }
        }
        records.extend(self.nested.snapshot());
        records
    }

    pub(super) fn agent_record(&self) -> Record {
        let (agent, settings) = (self.agent.as_ref(), &self.settings);
        agent_record(agent, &settings.boot_id, &settings.resources)
    }

    /// No process of a container ever was: its task is begun in another one, unless it must not.
    /// False: it must not.
    pub(super) fn relaunch(
        &mut self,
        now: Timestamp,
        container: &ContainerId,
        step: &mut Step,
    ) -> bool {
        let (Some(key), Some(agent)) =
            (self.containers.get(container).cloned(), self.agent.clone())
        else {
            return false;
        };
        let (Some(task), Some(framework)) = (self.tasks.get_mut(&key), self.frameworks.get(&key.0))
        else {
            return false;
        };
        if !task.may_relaunch() {
            return false;
        }
        let fresh = ContainerId::from_random(&mut self.random);
        let room = self.free.plus(&task.resources().unshared());
        let nest = task.nest();
        let planned = launch::plan(
            &self.settings,
            &agent,
            &framework.info,
            (&key.0, &key.1, &fresh),
            task.info(),
            (&room, nest.as_ref()),
        );
        let Ok(launch) = planned else {
            return false;
        };
        if nest.is_none() {
            let (framework, id) = key.clone();
            let former = SandboxId {
                framework,
                owner: Owner::Task(id),
                container: container.clone(),
            };
            let at = now + self.settings.gc_delay;
            self.collect_at.insert((at, former), task.agent().clone());
        }
        task.relaunch(&agent, fresh.clone());
        step.persist.push(Record::Task(task.checkpoint()));
        self.containers.remove(container);
        self.containers.insert(fresh, key.clone());
        step.then.push(Effect::Release(container.clone()));
        step.then.push(Effect::Start(Box::new(launch)));
        self.settle(now, &key, step);
        true
    }

    /// Whether a sandbox belongs to something that runs or is about to.
    pub(super) fn is_in_use(&self, sandbox: &SandboxId) -> bool {
        self.containers.contains_key(&sandbox.container)
            || self.executor_containers.contains_key(&sandbox.container)
    }

    pub(super) fn on_leave(&mut self, step: &mut Step) {
        if self.stopping != Stopping::Done {
            self.stopping = Stopping::Done;
            step.then.push(Effect::Stopped);
        }
    }
}

impl Framework {
    pub(super) fn record(&self) -> Record {
        Record::Framework(allot::FrameworkCheckpoint {
            framework: self.info.clone(),
        })
    }
}
