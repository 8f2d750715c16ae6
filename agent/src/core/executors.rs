//! Custom executors: begun with their first task, told of tasks, heard, and ended.
//!
//! The rules are Mesos' (`slave.cpp`): an executor that does not subscribe in time is ended, one
//! that ends takes its tasks with it (TASK_FAILED, REASON_EXECUTOR_TERMINATED), updates are
//! acknowledged to it once they are written down, and one that a restarted agent finds again
//! brings along what it has not heard an acknowledgement of.

use std::collections::BTreeSet;

use allotment_proto::allot;
use allotment_proto::convert::{is_terminal, resources_from_wire};
use allotment_proto::executor::{self, call, event};
use allotment_proto::mesos::framework_info::capability::Type as Capability;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, TaskId, Timestamp};
use prost::Message;

use super::executor::{Custom, Executor, ExecutorKey, Fate, Kind, Phase, event_of};
use super::launch::{self, Refusal};
use super::sandbox::{ContainerId, Owner, SandboxId};
use super::task::{Host, Hosted, Taken, Task, UPDATE_LEN_MAX, Verdict};
use super::{Core, Effect, Key, Outcome, Record, Step, send};

/// The largest message between an executor and its framework, in bytes.
const MESSAGE_DATA_MAX: usize = 4 << 20;

/// Why a call of an executor was refused; nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallRefusal {
    /// It does not prove that it is that executor.
    #[error("{0}")]
    Unauthorized(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is not subscribed, or must not say this now.
    #[error("{0}")]
    Forbidden(String),
    /// More waits than is kept; it may say it again later.
    #[error("{0}")]
    TooMany(String),
}

/// Where tasks come from.
#[derive(Debug)]
pub(super) struct Launcher<'a> {
    pub(super) agent: AgentId,
    pub(super) framework: FrameworkId,
    pub(super) info: &'a mesos::FrameworkInfo,
    /// Executors that the master believes to be here.
    pub(super) running: &'a [mesos::ExecutorId],
}

impl Core {
    /// Gives tasks to a custom executor, which is begun where it is not there.
    pub(super) fn launch_in_executor(
        &mut self,
        now: Timestamp,
        from: &Launcher<'_>,
        info: &mesos::ExecutorInfo,
        (tasks, is_group): (Vec<(TaskId, mesos::TaskInfo)>, bool),
        step: &mut Step,
    ) {
        let found = ExecutorId::try_from(&info.executor_id)
            .map_err(|error| Refusal::invalid(error.to_string()))
            .and_then(|id| {
                let wanted: Vec<_> = tasks
                    .iter()
                    .flat_map(|(_, t)| t.resources.clone())
                    .collect();
                let key = (from.framework.clone(), id);
                let fresh = self.find_or_begin(from, &key, info, &wanted, step)?;
                Ok((key, fresh))
            });
        let (key, fresh) = match found {
            Ok(found) => found,
            Err(refusal) => {
                for (id, task) in tasks {
                    self.refuse(now, from, (id, task), &refusal, step);
                }
                return;
            }
        };
        let group = if is_group {
            self.executors.get_mut(&key).map(Executor::take_group)
        } else {
            None
        };
        for (id, task) in tasks {
            let fitting = launch::fitting(
                &self.settings,
                &from.agent,
                from.info,
                &format!("task {id}"),
                &task,
                &self.free,
            );
            let mountable = fitting.and_then(|resources| {
                if !fresh && resources.volumes().next().is_some() {
                    return Err(Refusal::invalid(format!(
                        "task {id} asks for a persistent volume, but its executor runs already \
                         and finds no new ones; name it in the executor's first task"
                    )));
                }
                Ok(resources)
            });
            let resources = match mountable {
                Ok(resources) => resources,
                Err(refusal) => {
                    self.refuse(now, from, (id, task), &refusal, step);
                    continue;
                }
            };
            let Some(executor) = self.executors.get_mut(&key) else {
                return;
            };
            executor.tasks.insert(id.clone());
            let container = executor.container.clone();
            if let Some(custom) = executor.custom() {
                custom.queue.push_back(id.clone());
            }
            self.free.subtract(&resources.unshared());
            let hosted = Hosted::new(key.1.clone(), group);
            let (agent, framework) = (&from.agent, &from.framework);
            let task = Task::hosted(agent, framework, task, container, resources, hosted);
            self.take_on(now, (from.framework.clone(), id), task, step);
        }
        self.resize(&key, step);
        self.deliver(now, &key, step);
    }

    /// True when it is begun now.
    fn find_or_begin(
        &mut self,
        from: &Launcher<'_>,
        key: &ExecutorKey,
        info: &mesos::ExecutorInfo,
        wanted: &[mesos::Resource],
        step: &mut Step,
    ) -> Result<bool, Refusal> {
        let gone = || Refusal::executor_gone(from.info, &key.1);
        match self.executors.get(key) {
            Some(held) if held.takes_tasks() => return Ok(false),
            Some(_) => return Err(gone()),
            None if from.running.iter().any(|id| id.value == key.1.as_str()) => {
                return Err(gone());
            }
            None => {}
        }
        let container = ContainerId::from_random(&mut self.random);
        let token = self.settings.executor_token(&container);
        let held: Vec<_> = info.resources.iter().chain(wanted).cloned().collect();
        let launch = launch::plan_executor(
            &self.settings,
            &from.agent,
            from.info,
            (&key.0, &key.1, &container),
            (info, &held, &token),
            &self.free,
        )?;
        let own = resources_from_wire(&info.resources)
            .map_err(|error| Refusal::invalid(format!("executor {}: {error}", key.1)))?
            .naming_volumes_of(&self.settings.resources);
        let custom = Custom {
            held: launch.resources.clone(),
            ..Custom::new(token)
        };
        self.begin_executor(
            from,
            key,
            info,
            (container, own),
            Kind::Custom(Box::new(custom)),
            step,
        );
        step.then.push(Effect::Start(Box::new(launch)));
        Ok(true)
    }

    /// Enters an executor in the books.
    pub(super) fn begin_executor(
        &mut self,
        from: &Launcher<'_>,
        key: &ExecutorKey,
        info: &mesos::ExecutorInfo,
        (container, resources): (ContainerId, Resources),
        kind: Kind,
        step: &mut Step,
    ) {
        self.free.subtract(&resources.unshared());
        let executor = Executor {
            agent: from.agent.clone(),
            framework: key.0.clone(),
            id: key.1.clone(),
            info: info.clone(),
            container: container.clone(),
            resources,
            tasks: BTreeSet::new(),
            next_group: 0,
            kind,
        };
        step.persist.push(Record::Executor(executor.checkpoint()));
        self.executor_containers.insert(container, key.clone());
        self.executors.insert(key.clone(), executor);
        self.use_framework(&key.0);
    }

    /// Its container is to hold what it and its tasks do.
    pub(super) fn resize(&mut self, key: &ExecutorKey, step: &mut Step) {
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let mut held = executor.resources.clone();
        for task in &executor.tasks {
            if let Some(task) = self.tasks.get(&(key.0.clone(), task.clone())) {
                held.add(&task.resources().unshared());
            }
        }
        let container = executor.container.clone();
        let Some(custom) = executor.custom() else {
            return;
        };
        if custom.held != held {
            custom.held = held.clone();
            step.then.push(Effect::Resize {
                container,
                memory_bytes: launch::memory_bytes(&held),
                disk_limit_bytes: launch::disk_bytes(&held),
                resources: held,
            });
        }
    }

    /// Tells an executor of the tasks that wait for it.
    fn deliver(&mut self, now: Timestamp, key: &ExecutorKey, step: &mut Step) {
        loop {
            let Some(custom) = self.executors.get_mut(key).and_then(Executor::custom) else {
                return;
            };
            let Phase::Running { .. } = custom.phase else {
                return;
            };
            let Some(number) = custom.stream else {
                return;
            };
            let Some(first) = custom.queue.pop_front() else {
                return;
            };
            let group = self.group_of(&key.0, &first);
            let mut ids = vec![first];
            if group.is_some() {
                let queue = custom_queue(&mut self.executors, key);
                ids.extend(
                    queue
                        .into_iter()
                        .filter(|id| self.group_of(&key.0, id) == group),
                );
                if let Some(custom) = self.executors.get_mut(key).and_then(Executor::custom) {
                    custom.queue.retain(|id| !ids.contains(id));
                }
            }
            let mut infos = Vec::new();
            for id in ids {
                let key = (key.0.clone(), id);
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.change_hosted(|hosted| hosted.sent = true);
                    infos.push(task.info().clone());
                }
                self.settle(now, &key, step);
            }
            let mut event = event_of(event::Type::Launch);
            if group.is_some() {
                event = event_of(event::Type::LaunchGroup);
                let task_group = mesos::TaskGroupInfo { tasks: infos };
                event.launch_group = Some(event::LaunchGroup { task_group });
            } else {
                event.launch = infos.pop().map(|task| event::Launch { task });
            }
            say(step, number, event);
        }
    }

    fn group_of(&self, framework: &FrameworkId, task: &TaskId) -> Option<u64> {
        let task = self.tasks.get(&(framework.clone(), task.clone()))?;
        match task.host() {
            Host::Executor(hosted) => hosted.group,
            Host::Group { .. } | Host::Alone => None,
        }
    }

    pub(super) fn on_executor_call(
        &mut self,
        now: Timestamp,
        (number, token): (u64, Option<String>),
        call: executor::Call,
        step: &mut Step,
    ) {
        let answer = match self.authenticate(&call, token.as_deref()) {
            Ok(key) => match call.r#type() {
                call::Type::Subscribe => {
                    let subscribe = call.subscribe.unwrap_or_default();
                    // The stream begins with its answer.
                    let answer = Ok(());
                    step.then.push(Effect::AnswerExecutor { number, answer });
                    return self.on_subscribe(now, &key, number, subscribe, step);
                }
                call::Type::Update => match call.update {
                    Some(update) => self.on_executor_update(now, &key, update.status, step),
                    None => Err(CallRefusal::Invalid(
                        "the UPDATE has no `update`".to_owned(),
                    )),
                },
                call::Type::Message => match call.message {
                    Some(message) => self.on_executor_message(&key, message.data, step),
                    None => Err(CallRefusal::Invalid(
                        "the MESSAGE has no `message`".to_owned(),
                    )),
                },
                call::Type::Heartbeat => Ok(()),
                call::Type::Unknown => Err(CallRefusal::Invalid(
                    "the call's type is unknown; SUBSCRIBE, UPDATE, MESSAGE and HEARTBEAT are \
                     known"
                        .to_owned(),
                )),
            },
            Err(refusal) => Err(refusal),
        };
        step.then.push(Effect::AnswerExecutor { number, answer });
    }

    /// Which executor it is, surely.
    fn authenticate(
        &self,
        call: &executor::Call,
        token: Option<&str>,
    ) -> Result<ExecutorKey, CallRefusal> {
        let invalid = |error: allotment_types::IdError| CallRefusal::Invalid(error.to_string());
        let framework = FrameworkId::try_from(&call.framework_id).map_err(invalid)?;
        let id = ExecutorId::try_from(&call.executor_id).map_err(invalid)?;
        let key = (framework, id);
        let custom = match self.executors.get(&key).map(|executor| &executor.kind) {
            Some(Kind::Custom(custom)) => custom,
            Some(Kind::Default) | None => {
                return Err(CallRefusal::Invalid(format!(
                    "executor {} of framework {} is not on this agent; it may have been ended",
                    key.1, key.0
                )));
            }
        };
        match token {
            Some(token) if same(token, &custom.token) => {}
            Some(_) => {
                return Err(CallRefusal::Unauthorized(format!(
                    "the token is not that of executor {}; send \
                     MESOS_EXECUTOR_AUTHENTICATION_TOKEN of its own environment",
                    key.1
                )));
            }
            None if self.settings.executors.authenticate => {
                return Err(CallRefusal::Unauthorized(
                    "send `Authorization: Bearer TOKEN` with \
                     MESOS_EXECUTOR_AUTHENTICATION_TOKEN of the environment; for executors that \
                     cannot, run the agent with --authenticate-http-executors=false"
                        .to_owned(),
                ));
            }
            None => {}
        }
        let subscribes = call.r#type() == call::Type::Subscribe;
        if !subscribes && !custom.subscribed {
            return Err(CallRefusal::Forbidden(format!(
                "executor {} is not subscribed; SUBSCRIBE first",
                key.1
            )));
        }
        Ok(key)
    }

    fn on_subscribe(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        number: u64,
        subscribe: call::Subscribe,
        step: &mut Step,
    ) {
        let agent_info = self.agent_info();
        let framework_info = self.frameworks.get(&key.0).map(|known| known.info.clone());
        let Some(executor) = self.executors.get_mut(key) else {
            return;
        };
        let mut subscribed = event_of(event::Type::Subscribed);
        let mut executor_info = executor.info.clone();
        executor_info.framework_id = Some((&key.0).into());
        subscribed.subscribed = Some(event::Subscribed {
            executor_info,
            framework_info: framework_info.unwrap_or_default(),
            agent_info,
            container_id: Some(mesos::ContainerId {
                value: executor.container.as_str().to_owned(),
                parent: None,
            }),
        });
        let idle = executor.tasks.is_empty();
        let Some(custom) = executor.custom() else {
            return;
        };
        if let Some(former) = custom.stream.replace(number) {
            // As in Mesos: the newer one counts.
            step.then.push(Effect::CloseExecutor { number: former });
            self.executor_streams.remove(&former);
        }
        custom.due_at = None;
        custom.changed = true;
        let first = !std::mem::replace(&mut custom.subscribed, true);
        let ending = matches!(custom.phase, Phase::ShuttingDown { .. });
        self.executor_streams.insert(number, key.clone());
        say(step, number, subscribed);
        let heard: BTreeSet<String> = subscribe
            .unacknowledged_tasks
            .iter()
            .map(|task| task.task_id.value.clone())
            .collect();
        for update in subscribe.unacknowledged_updates {
            if let Err(refusal) = self.on_executor_update(now, key, update.status, step) {
                step.then.push(Effect::Warn(format!(
                    "executor {} brought an update that is not taken: {refusal}",
                    key.1
                )));
            }
        }
        self.drop_unheard(now, key, &heard, step);
        if ending {
            say(step, number, event_of(event::Type::Shutdown));
        } else if first && idle {
            let message = "it subscribed after all its tasks had been killed".to_owned();
            self.shut_down(now, key, Some((Reason::ExecutorTerminated, message)), step);
        } else {
            self.repeat_kills(key, number, step);
            self.deliver(now, key, step);
        }
        self.settle_executor(now, key, step);
    }

    /// Tasks that were sent to the executor and that it has never heard of: lost on the way, and
    /// a second time might start them twice.
    fn drop_unheard(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        heard: &BTreeSet<String>,
        step: &mut Step,
    ) {
        let state = self.state_of_loss(&key.0, TaskState::TaskDropped);
        for id in self.tasks_of(key) {
            let task_key = (key.0.clone(), id.clone());
            let Some(task) = self.tasks.get_mut(&task_key) else {
                continue;
            };
            let staging = task.state() == TaskState::TaskStaging;
            let lost = task.in_executor().is_some_and(|hosted| hosted.sent)
                && staging
                && !heard.contains(id.as_str());
            if lost {
                let verdict = Verdict {
                    state,
                    reason: Some(Reason::AgentRestarted),
                    message: "The connection to the executor broke before it heard of the task"
                        .to_owned(),
                };
                task.end_hosted(now, &verdict, &mut self.random);
                self.counts.add(state);
                self.on_hosted_over(&task_key, step);
                self.settle(now, &task_key, step);
            }
        }
    }

    fn repeat_kills(&self, key: &ExecutorKey, number: u64, step: &mut Step) {
        for id in self.tasks_of(key) {
            if let Some(task) = self.tasks.get(&(key.0.clone(), id.clone()))
                && let Host::Executor(hosted) = task.host()
                && let (true, Some(policy)) = (hosted.sent, &hosted.kill)
            {
                say(step, number, kill_event(&id, *policy));
            }
        }
    }

    fn tasks_of(&self, key: &ExecutorKey) -> Vec<TaskId> {
        let tasks = self.executors.get(key).map(|executor| &executor.tasks);
        tasks.into_iter().flatten().cloned().collect()
    }

    fn on_executor_update(
        &mut self,
        now: Timestamp,
        key: &ExecutorKey,
        status: mesos::TaskStatus,
        step: &mut Step,
    ) -> Result<(), CallRefusal> {
        let id = check_update(key, &status)?;
        let uuid = status.uuid.clone().unwrap_or_default();
        let Some(executor) = self.executors.get_mut(key) else {
            return Ok(());
        };
        let has = executor.tasks.contains(&id);
        let Some(custom) = executor.custom() else {
            return Ok(());
        };
        if !has && !custom.may_have_had(&id) {
            return Err(CallRefusal::Invalid(format!(
                "executor {} has no task {id}; it may report on its own tasks only",
                key.1
            )));
        }
        let (stream, pid) = (custom.stream, custom.pid());
        let task_key = (key.0.clone(), id.clone());
        let task = self.tasks.get_mut(&task_key).filter(|_| has);
        if let Some(task) = task {
            let address = &self.settings.address.0;
            let status = task.complete(now, status, (pid, address), &mut self.random);
            let state = status.state();
            match task.take_update(status) {
                Taken::News if is_terminal(state) => {
                    self.counts.add(state);
                    self.on_hosted_over(&task_key, step);
                }
                Taken::News | Taken::Known => {}
                Taken::TooMany => {
                    return Err(CallRefusal::TooMany(format!(
                        "too many updates of task {id} wait for the framework's \
                         acknowledgement; send this one again later"
                    )));
                }
            }
            self.settle(now, &task_key, step);
        }
        if let Some(number) = stream {
            let mut event = event_of(event::Type::Acknowledged);
            event.acknowledged = Some(event::Acknowledged {
                task_id: (&id).into(),
                uuid,
            });
            say(step, number, event);
        }
        Ok(())
    }

    /// A task that an executor ran is over: what it held is free.
    fn on_hosted_over(&mut self, key: &Key, step: &mut Step) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        self.free.add(&task.resources().unshared());
        let Some(executor) = task.executor().cloned() else {
            return;
        };
        let executor = (key.0.clone(), executor);
        if let Some(held) = self.executors.get_mut(&executor) {
            held.on_task_over(&key.1);
        }
        self.resize(&executor, step);
    }

    fn on_executor_message(
        &self,
        key: &ExecutorKey,
        data: bytes::Bytes,
        step: &mut Step,
    ) -> Result<(), CallRefusal> {
        if data.len() > MESSAGE_DATA_MAX {
            return Err(CallRefusal::Invalid(format!(
                "the message has {} bytes; at most {MESSAGE_DATA_MAX} are passed on",
                data.len()
            )));
        }
        if let Some(session) = self.session.current_registered() {
            let message = allot::ExecutorMessage {
                framework_id: (&key.0).into(),
                executor_id: (&key.1).into(),
                data,
            };
            send(
                step,
                session,
                allot::agent_message::Message::ExecutorMessage(message),
            );
        }
        Ok(())
    }

    /// From the framework to its executor.
    pub(super) fn on_framework_message(&self, message: allot::ExecutorMessage, step: &mut Step) {
        let (Ok(framework), Ok(executor)) = (
            FrameworkId::try_from(&message.framework_id),
            ExecutorId::try_from(&message.executor_id),
        ) else {
            return;
        };
        let executor = self.executors.get(&(framework, executor));
        // Best effort: nobody is told that it was lost.
        if let Some(Kind::Custom(custom)) = executor.map(|executor| &executor.kind)
            && let Some(number) = custom.stream
        {
            let mut event = event_of(event::Type::Message);
            event.message = Some(event::Message { data: message.data });
            say(step, number, event);
        }
    }

    pub(super) fn on_executor_closed(&mut self, now: Timestamp, number: u64, step: &mut Step) {
        let Some(key) = self.executor_streams.remove(&number) else {
            return;
        };
        let wait = self.settings.executors.recovery_timeout;
        if let Some(custom) = self.executors.get_mut(&key).and_then(Executor::custom)
            && custom.stream == Some(number)
        {
            custom.stream = None;
            custom.due_at = Some(now + wait);
        }
        self.settle_executor(now, &key, step);
    }

    /// Asks an executor to kill a task; one that it was not told of ends at once.
    pub(super) fn kill_hosted(
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

    pub(super) fn on_shutdown_executor(
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
    pub(super) fn shut_down(
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
    pub(super) fn end_executors_with_agent(&mut self, now: Timestamp, step: &mut Step) {
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

    pub(super) fn on_executor_started(
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
    pub(super) fn on_executor_ended(
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
    pub(super) fn forget_executor(
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
    pub(super) fn settle_executor(&mut self, now: Timestamp, key: &ExecutorKey, step: &mut Step) {
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
    pub(super) fn state_of_loss(&self, framework: &FrameworkId, finer: TaskState) -> TaskState {
        let known = self.frameworks.get(framework);
        if known.is_some_and(|known| known.can(Capability::PartitionAware)) {
            finer
        } else {
            TaskState::TaskLost
        }
    }
}

impl Executor {
    pub(super) const fn take_group(&mut self) -> u64 {
        self.next_group += 1;
        self.next_group
    }
}

fn custom_queue(
    executors: &mut std::collections::BTreeMap<ExecutorKey, Executor>,
    key: &ExecutorKey,
) -> Vec<TaskId> {
    let custom = executors.get_mut(key).and_then(Executor::custom);
    custom.map_or_else(Vec::new, |custom| custom.queue.iter().cloned().collect())
}

/// What every update must be, whatever its task.
fn check_update(key: &ExecutorKey, status: &mesos::TaskStatus) -> Result<TaskId, CallRefusal> {
    let invalid = |message: String| Err(CallRefusal::Invalid(message));
    let id = match TaskId::try_from(&status.task_id) {
        Ok(id) => id,
        Err(error) => return invalid(error.to_string()),
    };
    let uuid_len = status.uuid.as_ref().map_or(0, bytes::Bytes::len);
    if uuid_len != 16 {
        return invalid(format!(
            "the update of task {id} has a uuid of {uuid_len} bytes; give each update 16 random \
             bytes of its own"
        ));
    }
    if let Some(named) = &status.executor_id
        && named.value != key.1.as_str()
    {
        return invalid(format!(
            "the update of task {id} names executor {:?}, but it comes from {}",
            named.value, key.1
        ));
    }
    if status.source.is_some() && status.source() != Source::Executor {
        return invalid(format!(
            "the update of task {id} has source {}; an executor's is SOURCE_EXECUTOR",
            status.source().as_str_name()
        ));
    }
    match status.state() {
        TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling
        | TaskState::TaskFinished
        | TaskState::TaskFailed
        | TaskState::TaskKilled
        | TaskState::TaskError
        | TaskState::TaskLost => {}
        TaskState::TaskStaging
        | TaskState::TaskDropped
        | TaskState::TaskUnreachable
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator
        | TaskState::TaskUnknown => {
            return invalid(format!(
                "the update of task {id} says {}, which is not an executor's to say",
                status.state().as_str_name()
            ));
        }
    }
    let len = status.encoded_len();
    if len > UPDATE_LEN_MAX {
        return invalid(format!(
            "the update of task {id} has {len} bytes; at most {UPDATE_LEN_MAX} are taken"
        ));
    }
    Ok(id)
}

/// Compares without telling by its duration how much is right.
fn same(given: &str, token: &str) -> bool {
    let differences = given.bytes().zip(token.bytes()).map(|(a, b)| a ^ b);
    given.len() == token.len() && differences.fold(0, |all, one| all | one) == 0
}

fn kill_event(id: &TaskId, kill_policy: Option<mesos::KillPolicy>) -> executor::Event {
    let mut event = event_of(event::Type::Kill);
    event.kill = Some(event::Kill {
        task_id: id.into(),
        kill_policy,
    });
    event
}

fn say(step: &mut Step, number: u64, event: executor::Event) {
    let event = Box::new(event);
    step.then.push(Effect::ToExecutor { number, event });
}

/// As `wait` returns it.
fn wait_status(outcome: &Outcome) -> Option<i32> {
    let Outcome::Exited { exit, .. } = outcome else {
        return None;
    };
    exit.code.map(|code| code << 8).or(exit.signal)
}
