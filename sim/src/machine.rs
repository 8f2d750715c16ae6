//! A machine of the cluster: the agent's side of the protocol, with containers that are nothing
//! but outcomes.
//!
//! [`Machine`] follows the contract in `allot/v1/agent.proto` by the letter and decides nothing
//! else; what a task does is read from its command (`sleep SECONDS`, `sleep infinity`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_proto::allot::{AgentMessage, MasterMessage, agent_message, master_message};
use allotment_proto::mesos::{TaskState, task_status};
use allotment_proto::{allot, convert, mesos};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId, Timestamp};
use bytes::Bytes;
use fastrand::Rng;

use crate::host::{Act, Key};

/// How long until an unacknowledged update is sent again, the first time and at most (Mesos:
/// 10 s doubling to 10 min).
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// Between two attempts to reach the master.
const RECONNECT: Duration = Duration::from_secs(1);

/// From a kill to the end of its container.
const DYING: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Update {
    status: mesos::TaskStatus,
    retry_at: Timestamp,
    pause: Duration,
}

#[derive(Debug)]
struct Task {
    info: mesos::TaskInfo,
    state: TaskState,
    /// When its container ends, and how; `None`: it ended, or runs until it is killed.
    ends: Option<(Timestamp, TaskState)>,
    /// Not acknowledged yet, oldest first; only the first was sent.
    updates: VecDeque<Update>,
}

#[derive(Debug, PartialEq)]
enum Link {
    Down {
        retry_at: Timestamp,
    },
    Opening,
    Registered {
        deaf_at: Timestamp,
        patience: Duration,
    },
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    total: Resources,
    rng: Rng,
    id: Option<AgentId>,
    link: Link,
    n_sessions: u64,
    tasks: BTreeMap<Key, Task>,
    frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
    /// Container ends and retries, so that finding the next one is cheap.
    alarms: BTreeSet<(Timestamp, Key)>,
}

impl Machine {
    pub(crate) fn new(name: String, total: Resources, rng: Rng, starts_at: Timestamp) -> Self {
        Self {
            name,
            total,
            rng,
            id: None,
            link: Link::Down {
                retry_at: starts_at,
            },
            n_sessions: 0,
            tasks: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    pub(crate) fn id(&self) -> Option<&AgentId> {
        self.id.as_ref()
    }

    pub(crate) fn total(&self) -> &Resources {
        &self.total
    }

    pub(crate) fn is_registered(&self) -> bool {
        matches!(self.link, Link::Registered { .. })
    }

    pub(crate) fn updates_pending(&self) -> usize {
        self.tasks.values().map(|task| task.updates.len()).sum()
    }

    /// When [`Self::on_tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let link = match self.link {
            Link::Down { retry_at } => Some(retry_at),
            Link::Opening => None,
            Link::Registered { deaf_at, .. } => Some(deaf_at),
        };
        let alarm = self.alarms.first().map(|(at, _)| *at);
        link.into_iter().chain(alarm).min()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
        match self.link {
            Link::Down { retry_at } if retry_at <= now => {
                self.link = Link::Opening;
                acts.push(Act::Connect);
            }
            Link::Registered { deaf_at, .. } if deaf_at <= now => {
                acts.push(Act::Disconnect);
                self.on_closed(now);
            }
            Link::Down { .. } | Link::Opening | Link::Registered { .. } => {}
        }
        while let Some((at, key)) = self.alarms.first().cloned()
            && at <= now
        {
            self.alarms.pop_first();
            self.on_alarm(now, &key, &mut acts);
        }
        acts
    }

    fn on_alarm(&mut self, now: Timestamp, key: &Key, acts: &mut Vec<Act>) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if let Some((at, how)) = task.ends
            && at <= now
        {
            task.ends = None;
            acts.push(Act::Ended { key: key.clone() });
            self.update(now, key, how, acts);
            return;
        }
        let due = task.updates.front().is_some_and(|u| u.retry_at <= now);
        if due {
            self.send_first(now, key, acts);
        }
    }

    /// The stream is open: register.
    pub(crate) fn on_connected(&mut self) -> Vec<Act> {
        self.n_sessions += 1;
        let info = mesos::AgentInfo {
            hostname: self.name.clone(),
            port: Some(5051),
            resources: convert::resources_to_wire(&self.total, None),
            id: self.id.as_ref().map(Into::into),
            ..Default::default()
        };
        let tasks = self.tasks.iter().map(|(key, task)| allot::TaskRecord {
            framework_id: (&key.0).into(),
            task: task.info.clone(),
            state: task.state.into(),
        });
        let register = allot::Register {
            agent: info,
            url: format!("http://{}:5051", self.name),
            version: allotment_proto::VERSION.to_owned(),
            boot_id: "boot".to_owned(),
            tasks: tasks.collect(),
            frameworks: self.frameworks.values().cloned().collect(),
            // No simulated framework has any.
            executors: Vec::new(),
            attempt: Some(allot::Attempt {
                process: 1,
                number: self.n_sessions,
            }),
        };
        vec![send(agent_message::Message::Register(register))]
    }

    pub(crate) fn on_closed(&mut self, now: Timestamp) {
        self.link = Link::Down {
            retry_at: now + RECONNECT,
        };
    }

    pub(crate) fn on_message(&mut self, now: Timestamp, message: MasterMessage) -> Vec<Act> {
        use master_message::Message as M;
        let mut acts = Vec::new();
        if let Link::Registered { deaf_at, patience } = &mut self.link {
            *deaf_at = now + *patience;
        }
        match message.message {
            Some(M::Registered(registered)) => self.on_registered(now, &registered, &mut acts),
            Some(M::Rejected(_)) => {
                // Nothing is known of it any more: start over as a new agent, without tasks.
                self.id = None;
                for (key, task) in std::mem::take(&mut self.tasks) {
                    if !convert::is_terminal(task.state) {
                        acts.push(Act::Ended { key });
                    }
                }
                self.alarms.clear();
            }
            Some(M::ApplyResources(apply)) => {
                if let Ok(total) = convert::resources_from_wire(&apply.total) {
                    self.total = total;
                }
            }
            Some(M::Launch(launch)) => self.on_launch(now, launch, &mut acts),
            Some(M::Kill(kill)) => {
                if let Some(key) = key(&kill.framework_id, &kill.task_id) {
                    self.kill(now, &key);
                }
            }
            Some(M::Acknowledge(ack)) => {
                if let Some(key) = key(&ack.framework_id, &ack.task_id) {
                    self.on_acknowledge(now, &key, &ack.uuid, &mut acts);
                }
            }
            Some(M::ShutdownFramework(shutdown)) => {
                if let Ok(framework) = FrameworkId::try_from(&shutdown.framework_id) {
                    self.on_shutdown(&framework, &mut acts);
                }
            }
            Some(M::Ping(ping)) => {
                let pong = allot::Pong {
                    sequence: ping.sequence,
                };
                acts.push(send(agent_message::Message::Pong(pong)));
            }
            Some(M::ExecutorMessage(_) | M::ShutdownExecutor(_)) | None => {}
        }
        acts
    }

    fn on_registered(
        &mut self,
        now: Timestamp,
        registered: &allot::Registered,
        acts: &mut Vec<Act>,
    ) {
        self.id = AgentId::try_from(&registered.agent_id).ok();
        let patience = Duration::from_secs_f64(registered.ping_timeout_seconds.clamp(1.0, 3600.0));
        self.link = Link::Registered {
            deaf_at: now + patience,
            patience,
        };
        let keys: Vec<Key> = self.tasks.keys().cloned().collect();
        for key in keys {
            self.send_first(now, &key, acts);
        }
    }

    fn on_launch(&mut self, now: Timestamp, launch: allot::Launch, acts: &mut Vec<Act>) {
        let Some(Ok(framework)) = launch.framework.id.as_ref().map(FrameworkId::try_from) else {
            return;
        };
        self.frameworks.insert(framework.clone(), launch.framework);
        for info in launch.tasks {
            let Ok(id) = TaskId::try_from(&info.task_id) else {
                continue;
            };
            let key = (framework.clone(), id);
            if self.tasks.contains_key(&key) {
                continue;
            }
            let ends = lifetime(&info).map(|d| (now + d, TaskState::TaskFinished));
            if let Some((at, _)) = ends {
                self.alarms.insert((at, key.clone()));
            }
            let resources = convert::resources_from_wire(&info.resources).unwrap_or_default();
            let task = Task {
                info,
                state: TaskState::TaskStaging,
                ends,
                updates: VecDeque::new(),
            };
            self.tasks.insert(key.clone(), task);
            acts.push(Act::Started {
                key: key.clone(),
                resources,
            });
            self.update(now, &key, TaskState::TaskRunning, acts);
        }
    }

    fn kill(&mut self, now: Timestamp, key: &Key) {
        if let Some(task) = self.tasks.get_mut(key)
            && !convert::is_terminal(task.state)
        {
            let at = now + DYING;
            task.ends = Some((at, TaskState::TaskKilled));
            self.alarms.insert((at, key.clone()));
        }
    }

    fn on_shutdown(&mut self, framework: &FrameworkId, acts: &mut Vec<Act>) {
        let gone: Vec<Key> = self
            .tasks
            .keys()
            .filter(|(f, _)| f == framework)
            .cloned()
            .collect();
        for key in gone {
            if let Some(task) = self.tasks.remove(&key)
                && !convert::is_terminal(task.state)
            {
                acts.push(Act::Ended { key });
            }
        }
        self.frameworks.remove(framework);
    }

    fn on_acknowledge(&mut self, now: Timestamp, key: &Key, uuid: &Bytes, acts: &mut Vec<Act>) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let first = task.updates.front().and_then(|u| u.status.uuid.as_ref());
        if first != Some(uuid) {
            return;
        }
        task.updates.pop_front();
        if task.updates.is_empty() {
            if convert::is_terminal(task.state) {
                self.tasks.remove(key);
            }
        } else {
            self.send_first(now, key, acts);
        }
    }

    /// A new update of a task; it is sent when those before it are acknowledged.
    fn update(&mut self, now: Timestamp, key: &Key, state: TaskState, acts: &mut Vec<Act>) {
        let uuid = Bytes::copy_from_slice(&self.rng.u128(..).to_be_bytes());
        let agent_id = self.id.as_ref().map(Into::into);
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        task.state = state;
        let status = mesos::TaskStatus {
            task_id: (&key.1).into(),
            state: state.into(),
            source: Some(task_status::Source::Executor.into()),
            agent_id,
            timestamp: Some(now.as_secs_f64()),
            uuid: Some(uuid.clone()),
            ..Default::default()
        };
        task.updates.push_back(Update {
            status,
            retry_at: Timestamp::MAX,
            pause: RETRY.0,
        });
        let alone = task.updates.len() == 1;
        acts.push(Act::Updated {
            key: key.clone(),
            uuid,
        });
        if alone {
            self.send_first(now, key, acts);
        }
    }

    fn send_first(&mut self, now: Timestamp, key: &Key, acts: &mut Vec<Act>) {
        if !self.is_registered() {
            return;
        }
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let latest_state = task.state.into();
        let Some(update) = task.updates.front_mut() else {
            return;
        };
        self.alarms.remove(&(update.retry_at, key.clone()));
        update.retry_at = now + update.pause;
        update.pause = (update.pause * 2).min(RETRY.1);
        self.alarms.insert((update.retry_at, key.clone()));
        acts.push(send(agent_message::Message::Update(allot::StatusUpdate {
            framework_id: (&key.0).into(),
            status: update.status.clone(),
            latest_state,
        })));
    }
}

fn send(message: agent_message::Message) -> Act {
    Act::Send(Box::new(AgentMessage {
        message: Some(message),
    }))
}

fn key(framework: &mesos::FrameworkId, task: &mesos::TaskId) -> Option<Key> {
    Some((
        FrameworkId::try_from(framework).ok()?,
        TaskId::try_from(task).ok()?,
    ))
}

/// How long `sleep SECONDS` runs; `None` for what runs until it is killed.
fn lifetime(task: &mesos::TaskInfo) -> Option<Duration> {
    let line = task.command.as_ref()?.value.as_deref()?;
    let seconds: f64 = line.strip_prefix("sleep ")?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
