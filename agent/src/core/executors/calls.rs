//! What executors say: who they are, how their tasks do, and messages to and from frameworks.

use std::collections::BTreeSet;

use allotment_proto::allot;
use allotment_proto::convert::is_terminal;
use allotment_proto::executor::{self, call, event};
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::mesos::{self, TaskState};
use allotment_types::{ExecutorId, FrameworkId, TaskId, Timestamp};
use prost::Message;

use super::super::executor::{Executor, ExecutorKey, Kind, Phase, event_of};
use super::super::task::{Host, Taken, UPDATE_LEN_MAX, Verdict};
use super::super::{Core, Effect, Key, Step, send};
use super::{CallRefusal, MESSAGE_DATA_MAX, kill_event, say};

impl Core {
    pub(in super::super) fn on_executor_call(
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
    pub(super) fn authenticate(
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

    pub(super) fn on_subscribe(
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
    pub(super) fn drop_unheard(
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

    pub(super) fn repeat_kills(&self, key: &ExecutorKey, number: u64, step: &mut Step) {
        for id in self.tasks_of(key) {
            if let Some(task) = self.tasks.get(&(key.0.clone(), id.clone()))
                && let Host::Executor(hosted) = task.host()
                && let (true, Some(policy)) = (hosted.sent, &hosted.kill)
            {
                say(step, number, kill_event(&id, *policy));
            }
        }
    }

    pub(super) fn tasks_of(&self, key: &ExecutorKey) -> Vec<TaskId> {
        let tasks = self.executors.get(key).map(|executor| &executor.tasks);
        tasks.into_iter().flatten().cloned().collect()
    }

    pub(super) fn on_executor_update(
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
    pub(super) fn on_hosted_over(&mut self, key: &Key, step: &mut Step) {
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

    pub(super) fn on_executor_message(
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
    pub(in super::super) fn on_framework_message(
        &self,
        message: allot::ExecutorMessage,
        step: &mut Step,
    ) {
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

    pub(in super::super) fn on_executor_closed(
        &mut self,
        now: Timestamp,
        number: u64,
        step: &mut Step,
    ) {
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
