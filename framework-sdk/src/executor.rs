//! Write an executor: a program that agents start and that runs tasks for its framework.
//!
//! [`Executor::connect`] subscribes with the agent that the environment names and keeps the
//! subscription up. What must not get lost is kept here until the agent has it in writing: tasks
//! that were launched and updates that were sent are told again after every reconnection.
//!
//! ```no_run
//! use allotment_framework_sdk::executor::{Event, Executor};
//! use allotment_framework_sdk::api::TaskState;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut executor = Executor::connect()?;
//! while let Some(event) = executor.next().await {
//!     match event {
//!         Event::Launch(task) => {
//!             executor.update(&task.id, TaskState::TaskRunning, None);
//!             executor.update(&task.id, TaskState::TaskFinished, Some("done"));
//!         }
//!         Event::Kill { task, .. } => executor.update(&task, TaskState::TaskKilled, None),
//!         Event::Message(_) | Event::Subscribed => {}
//!         Event::Shutdown => break,
//!     }
//! }
//! executor.close().await;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_proto::allot::executor_client::ExecutorClient;
use allotment_proto::executor::{Call, Event as Wire, call, event};
use allotment_proto::mesos::task_status::Source;
use allotment_proto::mesos::{self, TaskStatus};
use allotment_proto::{MESSAGE_LEN_MAX, convert};
pub use allotment_types::TaskId;
use allotment_types::{ExecutorId, FrameworkId, Resources};
use bytes::Bytes;
use indexmap::IndexMap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use crate::api::TaskState;
use crate::clock::Clock;

/// Calls that may wait for the agent.
const CALLS_WAITING: usize = 1024;
/// Events that may wait for the executor; then the agent waits.
const EVENTS_WAITING: usize = 256;
/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_millis(100);
/// An update that was not acknowledged is told again after so long.
const REPEAT: Duration = Duration::from_secs(5);
/// How long [`Executor::close`] waits for the agent to have everything.
const CLOSING: Duration = Duration::from_secs(5);

/// What an executor hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is subscribed, for the first time or again.
    Subscribed,
    /// Run this task, and say TASK_RUNNING once it does.
    Launch(Task),
    /// End this task, and say TASK_KILLED once it has.
    Kill {
        /// Which.
        task: TaskId,
        /// How long it may take; `None`: as the executor likes.
        grace: Option<Duration>,
    },
    /// The framework says something.
    Message(Bytes),
    /// End every task and exit, within the grace period.
    Shutdown,
}

/// A task to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name in updates.
    pub id: TaskId,
    /// For people.
    pub name: String,
    /// What the framework wants of it.
    pub data: Bytes,
    /// What it may use.
    pub resources: Resources,
    /// Free-form.
    pub labels: BTreeMap<String, String>,
}

/// Why an executor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The agent sets this variable; the program was started by hand, or cleared it.
    #[error("{name} is not set; start this program as an executor, which the agent does")]
    Environment {
        /// Which variable.
        name: &'static str,
    },
    /// A variable holds what the agent would not put there.
    #[error("{name} is {value:?}: {reason}")]
    Malformed {
        /// Which variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An executor's subscription.
#[derive(Debug)]
pub struct Executor {
    events: mpsc::Receiver<Event>,
    said: mpsc::UnboundedSender<Said>,
    driver: JoinHandle<()>,
    clock: Clock,
}

/// What the program tells the driver.
#[derive(Debug)]
enum Said {
    Update(Box<TaskStatus>),
    Message(Bytes),
    Close,
}

impl Executor {
    /// Subscribes with the agent that started this program.
    ///
    /// # Errors
    /// [`ExecutorError`] when the environment is not that of an executor.
    pub fn connect() -> Result<Self, ExecutorError> {
        let driver = Driver::from_environment(|name| std::env::var(name).ok())?;
        let (events_in, events) = mpsc::channel(EVENTS_WAITING);
        // The program's own words: it bounds them itself.
        let (said, said_queue) = mpsc::unbounded_channel();
        let driver = tokio::spawn(driver.run(events_in, said_queue));
        Ok(Self {
            events,
            said,
            driver,
            clock: Clock::start(),
        })
    }

    /// The next event; `None` once the agent has ended this executor for good.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Says how a task does. It is told again until the agent has it in writing.
    pub fn update(&self, task: &TaskId, state: TaskState, message: Option<&str>) {
        self.report(TaskStatus {
            task_id: task.into(),
            state: state.into(),
            message: message.map(str::to_owned),
            ..Default::default()
        });
    }

    /// The same with everything that a status can hold; what identifies it is filled in.
    pub fn report(&self, status: TaskStatus) {
        let _ = self.said.send(Said::Update(Box::new(TaskStatus {
            uuid: Some(Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes())),
            source: Some(Source::Executor.into()),
            timestamp: Some(self.clock.now().as_secs_f64()),
            ..status
        })));
    }

    /// Says something to the framework; it may get lost.
    pub fn message(&self, data: Bytes) {
        let _ = self.said.send(Said::Message(data));
    }

    /// Waits, for a while, until the agent has every update; what to do last.
    pub async fn close(self) {
        let Self {
            said, mut driver, ..
        } = self;
        let _ = said.send(Said::Close);
        if tokio::time::timeout(CLOSING, &mut driver).await.is_err() {
            driver.abort();
        }
    }
}

/// Keeps the subscription.
#[derive(Debug)]
struct Driver {
    framework: FrameworkId,
    executor: ExecutorId,
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
    /// Tasks of which no update was acknowledged, as they were launched.
    tasks: IndexMap<TaskId, mesos::TaskInfo>,
    /// Updates that were not acknowledged, oldest first.
    updates: IndexMap<Bytes, TaskStatus>,
    closing: bool,
}

impl Driver {
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ExecutorError> {
        let needed = |name: &'static str| variable(name).ok_or(ExecutorError::Environment { name });
        fn malformed(name: &'static str, value: &str) -> impl FnOnce(String) -> ExecutorError {
            let value = value.to_owned();
            move |reason| ExecutorError::Malformed {
                name,
                value,
                reason,
            }
        }
        let framework = needed("MESOS_FRAMEWORK_ID")?;
        let executor = needed("MESOS_EXECUTOR_ID")?;
        let agent = needed("MESOS_AGENT_ENDPOINT")?;
        let token_name = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN";
        let token = variable(token_name).map(|token| {
            let value = format!("Bearer {token}").parse();
            value.map_err(|_| malformed(token_name, "...")("it is no token".to_owned()))
        });
        Ok(Self {
            framework: FrameworkId::parse(&framework)
                .map_err(|e| malformed("MESOS_FRAMEWORK_ID", &framework)(e.to_string()))?,
            executor: ExecutorId::parse(&executor)
                .map_err(|e| malformed("MESOS_EXECUTOR_ID", &executor)(e.to_string()))?,
            endpoint: Endpoint::from_shared(format!("http://{agent}"))
                .map_err(|e| malformed("MESOS_AGENT_ENDPOINT", &agent)(e.to_string()))?,
            token: token.transpose()?,
            tasks: IndexMap::new(),
            updates: IndexMap::new(),
            closing: false,
        })
    }

    async fn run(mut self, events: mpsc::Sender<Event>, mut said: mpsc::UnboundedReceiver<Said>) {
        while !self.is_done() {
            match self.session(&events, &mut said).await {
                Ended::Over => return,
                Ended::Lost(reason) => {
                    tracing::debug!(%reason, "no connection to the agent; trying again");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn is_done(&self) -> bool {
        self.closing && self.updates.is_empty()
    }

    fn call(&self, kind: call::Type) -> Call {
        Call {
            executor_id: (&self.executor).into(),
            framework_id: (&self.framework).into(),
            r#type: Some(kind.into()),
            ..Default::default()
        }
    }

    fn update(&self, status: &TaskStatus) -> Call {
        Call {
            update: Some(call::Update {
                status: status.clone(),
            }),
            ..self.call(call::Type::Update)
        }
    }

    /// One connection, as long as it stands.
    async fn session(
        &mut self,
        events: &mpsc::Sender<Event>,
        said: &mut mpsc::UnboundedReceiver<Said>,
    ) -> Ended {
        let lost = |error: &dyn std::fmt::Display| Ended::Lost(error.to_string());
        let channel = match self.endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return lost(&error),
        };
        let mut client = ExecutorClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        let (calls, queue) = mpsc::channel(CALLS_WAITING);
        let updates = self.updates.values().cloned();
        let subscribe = Call {
            subscribe: Some(call::Subscribe {
                unacknowledged_tasks: self.tasks.values().cloned().collect(),
                unacknowledged_updates: updates.map(|status| call::Update { status }).collect(),
            }),
            ..self.call(call::Type::Subscribe)
        };
        let _ = calls.try_send(subscribe);
        let mut request = Request::new(ReceiverStream::new(queue));
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        let mut heard = match client.connect(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.refused(&status),
        };
        let mut repeat = tokio::time::interval(REPEAT);
        repeat.reset();
        loop {
            tokio::select! {
                event = heard.message() => match event {
                    Ok(Some(event)) => {
                        if !self.on_event(event, events).await {
                            return Ended::Over;
                        }
                        if self.is_done() {
                            return Ended::Over;
                        }
                    }
                    Ok(None) => return lost(&"the agent closed the stream"),
                    Err(status) => return self.refused(&status),
                },
                word = said.recv() => {
                    let call = match word {
                        Some(Said::Update(status)) => {
                            let call = self.update(&status);
                            let uuid = status.uuid.clone().unwrap_or_default();
                            self.updates.insert(uuid, *status);
                            call
                        }
                        Some(Said::Message(data)) => Call {
                            message: Some(call::Message { data }),
                            ..self.call(call::Type::Message)
                        },
                        // Dropped without a word: what it said last still counts.
                        Some(Said::Close) | None => {
                            self.closing = true;
                            if self.is_done() {
                                return Ended::Over;
                            }
                            if word.is_none() {
                                return lost(&"the program is done with it");
                            }
                            continue;
                        }
                    };
                    if calls.send(call).await.is_err() {
                        return lost(&"the agent takes no calls");
                    }
                }
                _ = repeat.tick() => {
                    for status in self.updates.values() {
                        if calls.try_send(self.update(status)).is_err() {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// The agent says no: for good, when it knows this executor no more.
    fn refused(&self, status: &tonic::Status) -> Ended {
        match status.code() {
            tonic::Code::InvalidArgument
            | tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied => {
                tracing::warn!(%status, "the agent refuses this executor");
                Ended::Over
            }
            _ => Ended::Lost(status.to_string()),
        }
    }

    /// Passes an event on; false when nobody listens any more.
    async fn on_event(&mut self, wire: Wire, events: &mpsc::Sender<Event>) -> bool {
        let kind = wire.r#type();
        let mut heard = Vec::new();
        match kind {
            event::Type::Subscribed => heard.push(Event::Subscribed),
            event::Type::Launch => heard.extend(wire.launch.and_then(|l| self.launched(l.task))),
            event::Type::LaunchGroup => {
                let tasks = wire.launch_group.map(|group| group.task_group.tasks);
                for task in tasks.into_iter().flatten() {
                    heard.extend(self.launched(task));
                }
            }
            event::Type::Kill => {
                if let Some(kill) = wire.kill
                    && let Ok(task) = TaskId::try_from(&kill.task_id)
                {
                    let grace = kill.kill_policy.and_then(|policy| policy.grace_period);
                    let grace = grace.map(|grace| {
                        Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0))
                    });
                    heard.push(Event::Kill { task, grace });
                }
            }
            event::Type::Acknowledged => {
                if let Some(acknowledged) = wire.acknowledged {
                    self.updates.shift_remove(&acknowledged.uuid);
                    if let Ok(task) = TaskId::try_from(&acknowledged.task_id) {
                        self.tasks.shift_remove(&task);
                    }
                }
            }
            event::Type::Message => {
                heard.extend(wire.message.map(|message| Event::Message(message.data)));
            }
            event::Type::Shutdown => heard.push(Event::Shutdown),
            event::Type::Error | event::Type::Heartbeat | event::Type::Unknown => {}
        }
        for event in heard {
            if events.send(event).await.is_err() && !self.closing {
                // The program dropped its end without closing.
                return false;
            }
        }
        true
    }

    fn launched(&mut self, info: mesos::TaskInfo) -> Option<Event> {
        let id = TaskId::try_from(&info.task_id).ok()?;
        let labels = info.labels.iter().flat_map(|labels| &labels.labels);
        let task = Task {
            id: id.clone(),
            name: info.name.clone(),
            data: info.data.clone().unwrap_or_default(),
            resources: convert::resources_from_wire(&info.resources).unwrap_or_default(),
            labels: labels
                .map(|label| (label.key.clone(), label.value.clone().unwrap_or_default()))
                .collect(),
        };
        self.tasks.insert(id, info);
        Some(Event::Launch(task))
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    /// For good.
    Over,
    Lost(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        Some(match name {
            "MESOS_FRAMEWORK_ID" => "m-0001".to_owned(),
            "MESOS_EXECUTOR_ID" => "e".to_owned(),
            "MESOS_AGENT_ENDPOINT" => "127.0.0.1:5051".to_owned(),
            _ => return None,
        })
    }

    #[test]
    fn a_program_that_no_agent_started_is_told_so() {
        let error = Driver::from_environment(|_| None).unwrap_err().to_string();
        assert!(error.contains("MESOS_FRAMEWORK_ID is not set"), "{error}");
        let wrong = |name: &str| match name {
            "MESOS_EXECUTOR_ID" => Some("a/b".to_owned()),
            other => environment(other),
        };
        let error = Driver::from_environment(wrong).unwrap_err().to_string();
        assert!(error.contains("MESOS_EXECUTOR_ID"), "{error}");
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_not_told_again() {
        let mut driver = Driver::from_environment(environment).unwrap();
        let (events, mut heard) = mpsc::channel(8);
        let info = mesos::TaskInfo {
            task_id: mesos::TaskId {
                value: "t".to_owned(),
            },
            ..Default::default()
        };
        let launch = Wire {
            r#type: Some(event::Type::Launch.into()),
            launch: Some(event::Launch { task: info }),
            ..Default::default()
        };
        assert!(driver.on_event(launch, &events).await);
        assert!(matches!(heard.recv().await, Some(Event::Launch(_))));
        let uuid = Bytes::from_static(&[7; 16]);
        driver.updates.insert(uuid.clone(), TaskStatus::default());
        assert_eq!((driver.tasks.len(), driver.updates.len()), (1, 1));
        let acknowledged = Wire {
            r#type: Some(event::Type::Acknowledged.into()),
            acknowledged: Some(event::Acknowledged {
                task_id: mesos::TaskId {
                    value: "t".to_owned(),
                },
                uuid,
            }),
            ..Default::default()
        };
        assert!(driver.on_event(acknowledged, &events).await);
        assert_eq!((driver.tasks.len(), driver.updates.len()), (0, 0));
    }
}
