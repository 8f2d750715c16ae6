//! Tasks that are not alone in a container of their own: in a group of the default executor, or
//! run by a custom executor, which alone knows how they do.

use std::collections::VecDeque;

use allotment_proto::convert::is_terminal;
use allotment_proto::mesos::task_status::Source;
use allotment_proto::mesos::{self, TaskState, TaskStatus};
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, Timestamp};
use bytes::Bytes;
use prost::Message;

use super::super::launch::Nest;
use super::super::random::Random;
use super::super::sandbox::ContainerId;
use super::{Phase, Task, Verdict};

/// Updates of one task that may wait for their acknowledgement. An executor that makes more is
/// told to wait, and keeps them; the last one, terminal, is always taken.
const PENDING_MAX: usize = 64;
/// Bytes of them.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// The largest update, in bytes.
pub(in crate::core) const UPDATE_LEN_MAX: usize = 1 << 20;
/// Updates that are known again when an executor repeats them.
const RECEIVED_MAX: usize = 2 * PENDING_MAX;

/// What a task runs in.
#[derive(Debug)]
pub(in crate::core) enum Host {
    /// A container of its own.
    Alone,
    /// A container of its own, in a group of the default executor.
    Group {
        executor: ExecutorId,
        group: u64,
        /// The executor's run.
        parent: ContainerId,
    },
    /// A custom executor.
    Executor(Hosted),
}

/// A task as its custom executor is told of it.
#[derive(Debug)]
pub(in crate::core) struct Hosted {
    pub(in crate::core) executor: ExecutorId,
    /// It was launched together with others.
    pub(in crate::core) group: Option<u64>,
    /// The executor was told to launch it.
    pub(in crate::core) sent: bool,
    /// It is to be killed, by this policy.
    pub(in crate::core) kill: Option<Option<mesos::KillPolicy>>,
    /// Updates that arrived, the latest last.
    pub(super) received: VecDeque<Bytes>,
}

impl Hosted {
    pub(in crate::core) const fn new(executor: ExecutorId, group: Option<u64>) -> Self {
        Self {
            executor,
            group,
            sent: false,
            kill: None,
            received: VecDeque::new(),
        }
    }
}

/// What became of an executor's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Taken {
    /// It was news.
    News,
    /// It was known, or said nothing any more.
    Known,
    /// Too many wait already.
    TooMany,
}

impl Task {
    /// A task that a custom executor is to run.
    pub(in crate::core) fn hosted(
        agent: &AgentId,
        framework: &FrameworkId,
        info: mesos::TaskInfo,
        container: ContainerId,
        resources: Resources,
        hosted: Hosted,
    ) -> Self {
        Self {
            phase: Phase::Hosted,
            checks: Vec::new(),
            host: Host::Executor(hosted),
            ..Self::starting(agent, framework, info, container, resources)
        }
    }

    /// The same task in a group of the default executor.
    pub(in crate::core) fn in_group(
        mut self,
        executor: ExecutorId,
        group: u64,
        parent: ContainerId,
    ) -> Self {
        self.host = Host::Group {
            executor,
            group,
            parent,
        };
        self
    }

    pub(in crate::core) const fn host(&self) -> &Host {
        &self.host
    }

    /// The default executor's run that it belongs to.
    pub(in crate::core) fn nest(&self) -> Option<Nest> {
        match &self.host {
            Host::Group {
                executor, parent, ..
            } => Some(Nest {
                executor: executor.clone(),
                container: parent.clone(),
            }),
            Host::Alone | Host::Executor(_) => None,
        }
    }

    /// The executor that it shares with others, or may.
    pub(in crate::core) const fn executor(&self) -> Option<&ExecutorId> {
        match &self.host {
            Host::Alone => None,
            Host::Group { executor, .. } | Host::Executor(Hosted { executor, .. }) => {
                Some(executor)
            }
        }
    }

    /// Set for one that a custom executor runs and has not ended.
    pub(in crate::core) const fn in_executor(&mut self) -> Option<&mut Hosted> {
        match (&mut self.host, &self.phase) {
            (Host::Executor(hosted), Phase::Hosted) => Some(hosted),
            _ => None,
        }
    }

    /// Changes what its executor is told of it, to be written down first.
    pub(in crate::core) fn change_hosted(&mut self, change: impl FnOnce(&mut Hosted)) {
        if let Some(hosted) = self.in_executor() {
            change(hosted);
            self.changed = true;
        }
    }

    /// Its executor says how it does; the status is complete but for what the agent adds.
    pub(in crate::core) fn take_update(&mut self, status: TaskStatus) -> Taken {
        let uuid = status.uuid.clone().unwrap_or_default();
        let terminal = is_terminal(status.state());
        let bytes = |status: &TaskStatus| status.encoded_len();
        let n_pending = self.pending.len();
        let n_bytes: usize = self.pending.iter().map(bytes).sum();
        let Some(hosted) = self.in_executor() else {
            return Taken::Known;
        };
        if hosted.received.contains(&uuid) {
            return Taken::Known;
        }
        let full = n_pending >= PENDING_MAX || n_bytes + bytes(&status) > PENDING_BYTES_MAX;
        if full && !terminal {
            return Taken::TooMany;
        }
        hosted.received.push_back(uuid);
        if hosted.received.len() > RECEIVED_MAX {
            hosted.received.pop_front();
        }
        if terminal {
            self.phase = Phase::Ended;
        }
        self.push(status);
        Taken::News
    }

    /// Its executor is gone, or never heard of it.
    pub(in crate::core) fn end_hosted(
        &mut self,
        now: Timestamp,
        verdict: &Verdict,
        random: &mut Random,
    ) {
        let mut status = self.status(now, verdict.state, random);
        status.source = Some(Source::Agent.into());
        status.reason = verdict.reason.map(Into::into);
        status.message = Some(verdict.message.clone());
        self.phase = Phase::Ended;
        self.push(status);
    }

    /// In a group, and its program runs, but not that of all the others yet.
    pub(in crate::core) fn is_silent(&self) -> bool {
        matches!(self.host, Host::Group { .. })
            && matches!(self.phase, Phase::Running { .. })
            && self.state == TaskState::TaskStaging
    }

    /// Fills in what an executor's status leaves out.
    pub(in crate::core) fn complete(
        &mut self,
        now: Timestamp,
        mut status: TaskStatus,
        (pid, address): (Option<i32>, &str),
        random: &mut Random,
    ) -> TaskStatus {
        let ours = self.status(now, status.state(), random);
        status.agent_id = ours.agent_id;
        status.executor_id = ours.executor_id;
        status.source = Some(Source::Executor.into());
        status.timestamp = status.timestamp.or(ours.timestamp);
        let theirs = status.container_status.take().unwrap_or_default();
        let mut container = mesos::ContainerStatus {
            container_id: ours.container_status.and_then(|c| c.container_id),
            executor_pid: pid.and_then(|pid| u32::try_from(pid).ok()),
            ..theirs
        };
        if container.network_infos.is_empty() {
            container.network_infos = super::host_network(address);
        }
        status.container_status = Some(container);
        status
    }
}
