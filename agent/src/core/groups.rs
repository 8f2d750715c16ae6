//! The default executor, which the agent plays itself: groups of tasks that start together and
//! end together, as in Mesos' `default_executor.cpp`.
//!
//! Each task of a group has a container of its own; its sandbox lies in the executor's, whose
//! folders the tasks may share as volumes. TASK_RUNNING is told once all of them run. A task that
//! ends in any other way than TASK_FINISHED takes the others of its group along. The executor is
//! there as long as one of its tasks is.

use allotment_proto::convert::resources_from_wire;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{ExecutorId, Resources, TaskId, Timestamp};

use super::executor::{Executor, ExecutorKey, Kind};
use super::executors::Launcher;
use super::launch::{self, Launch, Nest, Refusal};
use super::sandbox::ContainerId;
use super::task::{Host, Kill, Task, Why};
use super::volumes::{self, Mounted};
use super::{Core, Effect, Key, Step};

impl Core {
    /// Starts the tasks of a group, or none of them.
    pub(super) fn launch_group(
        &mut self,
        now: Timestamp,
        from: &Launcher<'_>,
        info: &mesos::ExecutorInfo,
        tasks: Vec<(TaskId, mesos::TaskInfo)>,
        step: &mut Step,
    ) {
        match self.plan_group(from, info, &tasks) {
            Ok((key, own, nest, launches)) => {
                if let Some(own) = own {
                    let container = nest.container.clone();
                    self.begin_executor(from, &key, info, (container, own), Kind::Default, step);
                }
                let Some(executor) = self.executors.get_mut(&key) else {
                    return;
                };
                let group = executor.take_group();
                executor
                    .tasks
                    .extend(tasks.iter().map(|(id, _)| id.clone()));
                for ((id, task), launch) in tasks.into_iter().zip(launches) {
                    let task_key = (from.framework.clone(), id);
                    let (container, resources) =
                        (launch.container.clone(), launch.resources.clone());
                    self.free.subtract(&resources.unshared());
                    self.containers.insert(container.clone(), task_key.clone());
                    let task =
                        Task::starting(&from.agent, &from.framework, task, container, resources)
                            .in_group(key.1.clone(), group, nest.container.clone());
                    step.then.push(Effect::Start(Box::new(launch)));
                    self.take_on(now, task_key, task, step);
                }
            }
            Err(refusal) => {
                for (id, task) in tasks {
                    self.refuse(now, from, (id, task), &refusal, step);
                }
            }
        }
    }

    /// Lays out everything before anything is begun; with the executor's resources when it is
    /// not there yet.
    fn plan_group(
        &mut self,
        from: &Launcher<'_>,
        info: &mesos::ExecutorInfo,
        tasks: &[(TaskId, mesos::TaskInfo)],
    ) -> Result<(ExecutorKey, Option<Resources>, Nest, Vec<Launch>), Refusal> {
        let invalid = |message: String| Refusal {
            reason: Reason::TaskGroupInvalid,
            ..Refusal::invalid(message)
        };
        let id =
            ExecutorId::try_from(&info.executor_id).map_err(|error| invalid(error.to_string()))?;
        let key = (from.framework.clone(), id);
        let mut free = self.free.clone();
        let (container, own) = match self.executors.get(&key) {
            Some(Executor {
                kind: Kind::Default,
                container,
                ..
            }) => (container.clone(), None),
            Some(_) => {
                return Err(invalid(format!(
                    "executor {} is a custom one; choose another id for the default executor",
                    key.1
                )));
            }
            None if from.running.iter().any(|id| id.value == key.1.as_str()) => {
                return Err(Refusal::executor_gone(from.info, &key.1));
            }
            None => {
                let own = resources_from_wire(&info.resources)
                    .map_err(|error| invalid(format!("executor {}: {error}", key.1)))?
                    .naming_volumes_of(&self.settings.resources);
                let lacks = free.shortfalls(&own);
                if let Some(lacking) = lacks.first() {
                    return Err(Refusal {
                        state: launch::dropped(from.info),
                        reason: Reason::ResourcesUnknown,
                        message: format!(
                            "executor {} does not fit on agent {} any more: {lacking}; wait for \
                             the next offer",
                            key.1, from.agent
                        ),
                    });
                }
                free.subtract(&own.unshared());
                (ContainerId::from_random(&mut self.random), Some(own))
            }
        };
        let nest = Nest {
            executor: key.1.clone(),
            container,
        };
        let volumes = self.volumes_of(&key, info).map_err(invalid)?;
        let mut launches = Vec::with_capacity(tasks.len());
        for (id, task) in tasks {
            let container = ContainerId::from_random(&mut self.random);
            let mut launch = launch::plan(
                &self.settings,
                &from.agent,
                from.info,
                (&from.framework, id, &container),
                task,
                (&free, Some(&nest)),
            )?;
            volumes::lend(&mut launch, &volumes, &self.settings.work_dir)
                .map_err(|what| invalid(format!("task {id} asks for {what}")))?;
            free.subtract(&launch.resources.unshared());
            launches.push(launch);
        }
        Ok((key, own, nest, launches))
    }

    /// The persistent volumes of a default executor, that is there or asked for, with their places
    /// in its sandbox.
    fn volumes_of(
        &self,
        key: &ExecutorKey,
        asked: &mesos::ExecutorInfo,
    ) -> Result<Vec<Mounted>, String> {
        let info = self.executors.get(key).map_or(asked, |there| &there.info);
        let resources = resources_from_wire(&info.resources)
            .map_err(|error| format!("executor {}: {error}", key.1))?;
        volumes::mounted(&resources).map_err(|what| {
            format!(
                "executor {} asks for {what}, which this agent does not support yet; mount a \
                 volume of the work folder's disk under a relative path",
                key.1
            )
        })
    }

    /// The group of a task, and the others in it that are live.
    fn mates(&self, key: &Key) -> Option<(ExecutorKey, Vec<Key>)> {
        let Host::Group {
            executor, group, ..
        } = self.tasks.get(key)?.host()
        else {
            return None;
        };
        let executor = (key.0.clone(), executor.clone());
        let mates = self.executors.get(&executor)?.tasks.iter();
        let mates = mates.filter(|id| **id != key.1);
        let mates = mates.map(|id| (key.0.clone(), id.clone())).filter(|mate| {
            let host = self.tasks.get(mate).map(Task::host);
            matches!(host, Some(Host::Group { group: other, .. }) if other == group)
        });
        let mates = mates.collect();
        Some((executor, mates))
    }

    /// The program of a task in a group runs: once all do, their framework hears.
    pub(super) fn on_group_task_started(&mut self, now: Timestamp, key: &Key, step: &mut Step) {
        let Some((_, mut group)) = self.mates(key) else {
            return;
        };
        group.push(key.clone());
        let waits = |key: &Key| self.tasks.get(key).is_some_and(Task::is_starting);
        if group.iter().any(waits) {
            return;
        }
        for key in group {
            if let Some(task) = self.tasks.get_mut(&key)
                && task.is_silent()
            {
                task.announce(now, &self.settings, &mut self.random);
                self.settle(now, &key, step);
            }
        }
    }

    /// A task in a group is over, in this state.
    pub(super) fn on_group_task_over(
        &mut self,
        now: Timestamp,
        key: &Key,
        state: TaskState,
        step: &mut Step,
    ) {
        let Some((executor, mates)) = self.mates(key) else {
            return;
        };
        if state == TaskState::TaskFinished {
            // The others may have waited for it alone.
            if let Some(mate) = mates.first() {
                self.on_group_task_started(now, &mate.clone(), step);
            }
        } else {
            self.kill_each(now, &mates, Why::Group, step);
        }
        if let Some(held) = self.executors.get_mut(&executor) {
            held.on_task_over(&key.1);
            if held.tasks.is_empty() {
                self.forget_executor(now, &executor, Some(0), step);
            }
        }
    }

    /// Its framework ends a default executor.
    pub(super) fn kill_all_groups(&mut self, now: Timestamp, key: &ExecutorKey, step: &mut Step) {
        let tasks = self.executors.get(key).map(|executor| &executor.tasks);
        let tasks = tasks.into_iter().flatten();
        let tasks: Vec<Key> = tasks.map(|id| (key.0.clone(), id.clone())).collect();
        self.kill_each(now, &tasks, Why::ExecutorShutdown, step);
    }

    fn kill_each(&mut self, now: Timestamp, keys: &[Key], why: Why, step: &mut Step) {
        for key in keys {
            let tells_killing = self.tells_killing(&key.0);
            if let Some(task) = self.tasks.get_mut(key) {
                let order = Kill {
                    grace: task.own_grace().unwrap_or(self.settings.kill_grace),
                    why,
                    tells_killing,
                };
                task.kill(now, &order, &mut self.random, &mut step.then);
            }
            self.settle(now, key, step);
        }
    }
}
