//! The life of one executor: a custom one, which is a program of the framework's in a container,
//! or a default one, which the agent plays itself (`groups`).
//!
//! An executor holds its own resources from its first task until it is gone. What its tasks hold
//! comes on top, and the container of a custom one grows and shrinks with it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use allotment_proto::allot::executor_progress::Phase as WirePhase;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::{allot, executor};
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, TaskId, Timestamp};
use ring::hmac;

use super::checkpoint::SavedExecutor;
use super::sandbox::ContainerId;
use super::task::Verdict;
use super::{Outcome, Settings};

/// How many ended tasks an executor is remembered to have had: it may repeat their last updates.
const PAST_MAX: usize = 1000;

/// An executor's framework and id.
pub(super) type ExecutorKey = (FrameworkId, ExecutorId);

/// How custom executors are dealt with.
#[derive(Clone)]
pub struct ExecutorSettings {
    /// From the start of its container to its first SUBSCRIBE (Mesos: 1 min).
    pub registration_timeout: Duration,
    /// From the start of another agent to its SUBSCRIBE (Mesos: 2 s).
    pub reregistration_timeout: Duration,
    /// From SHUTDOWN to the end of its container, where it sets none (Mesos: 5 s).
    pub shutdown_grace: Duration,
    /// How long it may be without a stream before it is ended, and how long it is told to wait for
    /// an agent (Mesos: 15 min).
    pub recovery_timeout: Duration,
    /// A call without the executor's token is refused. Otherwise only one with a wrong token is,
    /// for executors that know of none.
    pub authenticate: bool,
    /// Tokens are made of it; no two agents have the same.
    pub secret: [u8; 32],
}

impl fmt::Debug for ExecutorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorSettings")
            .field("registration_timeout", &self.registration_timeout)
            .field("reregistration_timeout", &self.reregistration_timeout)
            .field("shutdown_grace", &self.shutdown_grace)
            .field("recovery_timeout", &self.recovery_timeout)
            .field("authenticate", &self.authenticate)
            .finish_non_exhaustive()
    }
}

impl Default for ExecutorSettings {
    fn default() -> Self {
        Self {
            registration_timeout: Duration::from_secs(60),
            reregistration_timeout: Duration::from_secs(2),
            shutdown_grace: Duration::from_secs(5),
            recovery_timeout: Duration::from_secs(15 * 60),
            authenticate: true,
            secret: [0; 32],
        }
    }
}

impl Settings {
    /// How long an executor has to exit after SHUTDOWN.
    pub(super) fn shutdown_grace(&self, info: &mesos::ExecutorInfo) -> Duration {
        let own = info.shutdown_grace_period.as_ref();
        own.map_or(self.executors.shutdown_grace, |grace| {
            Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0))
        })
    }

    /// What the executor in this container proves itself with. Neither a neighbour nor the
    /// executor itself can tell another's from it.
    pub(super) fn executor_token(&self, container: &ContainerId) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.executors.secret);
        let tag = hmac::sign(&key, container.as_str().as_bytes());
        tag.as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Whether an executor is the default one.
pub(super) fn is_default(info: &mesos::ExecutorInfo) -> bool {
    info.r#type() == mesos::executor_info::Type::Default
}

/// One executor on this agent.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) agent: AgentId,
    pub(super) framework: FrameworkId,
    pub(super) id: ExecutorId,
    pub(super) info: mesos::ExecutorInfo,
    /// Of a default one, a name in paths.
    pub(super) container: ContainerId,
    /// Its own, without its tasks'.
    pub(super) resources: Resources,
    /// Those that are live.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Given to its next group.
    pub(super) next_group: u64,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Played by the agent.
    Default,
    /// A program.
    Custom(Box<Custom>),
}

impl Kind {
    pub(super) const fn is_custom(&self) -> bool {
        matches!(self, Self::Custom(_))
    }
}

/// A custom executor's program and connection.
#[derive(Debug)]
pub(super) struct Custom {
    pub(super) token: String,
    pub(super) phase: Phase,
    /// The stream of events that it has open.
    pub(super) stream: Option<u64>,
    /// It subscribed at least once.
    pub(super) subscribed: bool,
    /// When it must have subscribed, again or for the first time.
    pub(super) due_at: Option<Timestamp>,
    /// Tasks that it was not told of yet, in their order.
    pub(super) queue: VecDeque<TaskId>,
    /// Tasks that it had.
    pub(super) past: VecDeque<TaskId>,
    /// An earlier run of the agent began it: it may have had tasks that this one never heard of.
    pub(super) recovered: bool,
    /// Set when this run of the agent did not hear of its container yet.
    pub(super) recovering: bool,
    pub(super) of_earlier_boot: bool,
    /// What its tasks are told in the end, where it is not simply its end.
    pub(super) fate: Option<Fate>,
    /// What its container holds.
    pub(super) held: Resources,
    pub(super) changed: bool,
    /// Where the core's index of deadlines holds it.
    pub(super) noted_deadline: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its container is being made.
    Starting,
    Running {
        pid: i32,
    },
    /// It is to exit.
    ShuttingDown {
        /// When its container is destroyed; `None` once that is ordered.
        destroy_at: Option<Timestamp>,
    },
}

/// Why an executor is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Executor {
    pub(super) const fn custom(&mut self) -> Option<&mut Custom> {
        match &mut self.kind {
            Kind::Custom(custom) => Some(custom),
            Kind::Default => None,
        }
    }

    /// Whether it may be given another task.
    pub(super) fn takes_tasks(&self) -> bool {
        match &self.kind {
            Kind::Default => true,
            Kind::Custom(custom) => !matches!(custom.phase, Phase::ShuttingDown { .. }),
        }
    }

    /// A task of it is over.
    pub(super) fn on_task_over(&mut self, task: &TaskId) {
        self.tasks.remove(task);
        if let Kind::Custom(custom) = &mut self.kind {
            custom.queue.retain(|queued| queued != task);
            custom.past.push_back(task.clone());
            if custom.past.len() > PAST_MAX {
                custom.past.pop_front();
            }
        }
    }

    /// Everything about it that does not change.
    pub(super) fn checkpoint(&self) -> allot::ExecutorCheckpoint {
        allot::ExecutorCheckpoint {
            framework_id: (&self.framework).into(),
            executor: self.info.clone(),
            container_id: self.container.as_str().to_owned(),
            agent_id: (&self.agent).into(),
            token: match &self.kind {
                Kind::Custom(custom) => Some(custom.token.clone()),
                Kind::Default => None,
            },
        }
    }

    /// Where a custom one stands.
    pub(super) fn progress(&self) -> Option<allot::ExecutorProgress> {
        let Kind::Custom(custom) = &self.kind else {
            return None;
        };
        let (phase, pid, destroy_at) = match custom.phase {
            Phase::Starting => (WirePhase::Starting, None, None),
            Phase::Running { pid } => (WirePhase::Running, Some(pid), None),
            Phase::ShuttingDown { destroy_at } => (WirePhase::ShuttingDown, None, destroy_at),
        };
        let fate = custom.fate.as_ref();
        Some(allot::ExecutorProgress {
            framework_id: (&self.framework).into(),
            executor_id: (&self.id).into(),
            phase: phase.into(),
            pid,
            destroy_at_ns: destroy_at.map(Timestamp::as_nanos),
            reason: fate.map(|fate| fate.reason.into()),
            message: fate.map(|fate| fate.message.clone()),
            subscribed: Some(custom.subscribed),
        })
    }

    /// An executor of an earlier run, as it stood when that ended.
    pub(super) fn recovered(
        saved: SavedExecutor,
        framework: FrameworkId,
        id: ExecutorId,
        resources: Resources,
        rebooted: bool,
    ) -> Self {
        let kind = saved.token.map_or(Kind::Default, |token| {
            let progress = saved.progress.unwrap_or_default();
            let phase = match progress.phase() {
                WirePhase::Starting => Phase::Starting,
                WirePhase::Running => Phase::Running {
                    pid: progress.pid.unwrap_or(0),
                },
                WirePhase::ShuttingDown => Phase::ShuttingDown {
                    destroy_at: progress.destroy_at_ns.map(Timestamp::from_nanos),
                },
            };
            let fate = progress.reason.map(|_| Fate {
                reason: progress.reason(),
                message: progress.message().to_owned(),
            });
            Kind::Custom(Box::new(Custom {
                phase,
                subscribed: progress.subscribed(),
                recovered: true,
                recovering: true,
                of_earlier_boot: rebooted,
                fate,
                ..Custom::new(token)
            }))
        });
        Self {
            agent: saved.agent,
            framework,
            id,
            info: saved.info,
            container: saved.container,
            resources,
            tasks: BTreeSet::new(),
            next_group: 0,
            kind,
        }
    }
}

impl Custom {
    pub(super) fn new(token: String) -> Self {
        Self {
            token,
            phase: Phase::Starting,
            stream: None,
            subscribed: false,
            due_at: None,
            queue: VecDeque::new(),
            past: VecDeque::new(),
            recovered: false,
            recovering: false,
            of_earlier_boot: false,
            fate: None,
            held: Resources::EMPTY,
            changed: false,
            noted_deadline: None,
        }
    }

    pub(super) const fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Running { pid } => Some(pid),
            Phase::Starting | Phase::ShuttingDown { .. } => None,
        }
    }

    /// Whether it had this task, as far as is known.
    pub(super) fn may_have_had(&self, task: &TaskId) -> bool {
        self.recovered || self.past.contains(task)
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::ShuttingDown { destroy_at } => destroy_at,
            Phase::Starting | Phase::Running { .. } => self.due_at,
        }
    }

    /// What its end means for a task that it did not end itself; `gone` is the state that tells
    /// of loss. Mesos: TASK_FAILED, unless the machine or the agent took it.
    pub(super) fn verdict(&self, outcome: Outcome, gone: TaskState) -> Verdict {
        let outcome = if self.of_earlier_boot && !matches!(outcome, Outcome::Exited { .. }) {
            Outcome::Restarted {
                message: "The machine was started anew, and what ran on it is lost".to_owned(),
            }
        } else {
            outcome
        };
        let mut verdict = Verdict::of(None, &outcome, gone);
        let Outcome::Exited { memory, disk, .. } = &outcome else {
            return verdict;
        };
        if memory.is_some() || disk.is_some() {
            return verdict;
        }
        verdict.state = TaskState::TaskFailed;
        verdict.reason = Some(Reason::ExecutorTerminated);
        let how = verdict.message.strip_prefix("Command ").unwrap_or_default();
        verdict.message = format!("Executor {how}");
        if let Some(fate) = &self.fate {
            verdict.reason = Some(fate.reason);
            verdict.message.clone_from(&fate.message);
            if fate.reason == Reason::AgentRemoved {
                verdict.state = gone;
            }
        }
        verdict
    }
}

/// An event of this type with nothing in it yet.
pub(super) fn event_of(kind: executor::event::Type) -> executor::Event {
    executor::Event {
        r#type: Some(kind.into()),
        ..Default::default()
    }
}
