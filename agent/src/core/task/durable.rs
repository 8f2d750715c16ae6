//! A task as it is written down and read again.

use allotment_proto::allot;
use allotment_proto::allot::task_progress::{Phase as WirePhase, Why as WireWhy};
use allotment_types::{Resources, Timestamp};

use super::super::checkpoint::Saved;
use super::{Host, Hosted, Phase, Task, Why};

impl Task {
    /// A task of an earlier run, as it stood when that ended.
    pub(in crate::core) fn recovered(saved: Saved, resources: Resources, rebooted: bool) -> Self {
        let Saved {
            agent,
            framework,
            info,
            container,
            progress,
            host,
        } = saved;
        let why = progress.why.map(|_| Why::from_wire(progress.why()));
        let pid = progress.pid.unwrap_or(0);
        let at = |nanos: Option<u64>| nanos.map(Timestamp::from_nanos);
        let phase = match (progress.phase(), &host) {
            (WirePhase::Ended, _) => Phase::Ended,
            (_, Host::Executor(_)) => Phase::Hosted,
            (WirePhase::Starting, _) => Phase::Starting { killed: why },
            (WirePhase::Running, _) => Phase::Running {
                pid,
                complete_by: at(progress.complete_by_ns),
            },
            (WirePhase::Killing, _) => Phase::Killing {
                pid,
                destroy_at: at(progress.destroy_at_ns),
                why: why.unwrap_or(Why::Asked),
            },
        };
        let state = progress.state();
        let forgotten = progress.forgotten();
        let host = match host {
            Host::Executor(hosted) => Host::Executor(Hosted {
                sent: progress.sent(),
                kill: progress.kill_asked().then_some(progress.kill_policy),
                received: progress.received.into(),
                ..hosted
            }),
            other => other,
        };
        let in_container = !matches!(phase, Phase::Ended | Phase::Hosted);
        Self {
            host,
            phase,
            state,
            forgotten,
            pending: progress.pending.into(),
            changed: false,
            recovering: in_container,
            of_earlier_boot: in_container && rebooted,
            ..Self::starting(&agent, &framework, info, container, resources)
        }
    }

    /// Everything about it that does not change while its container stays the same.
    pub(in crate::core) fn checkpoint(&self) -> allot::TaskCheckpoint {
        let (group, parent) = match &self.host {
            Host::Alone => (None, None),
            Host::Group { group, parent, .. } => (Some(*group), Some(parent)),
            Host::Executor(hosted) => (hosted.group, None),
        };
        allot::TaskCheckpoint {
            framework_id: (&self.framework).into(),
            task: self.info.clone(),
            container_id: self.container.as_str().to_owned(),
            agent_id: (&self.agent).into(),
            group,
            parent_container_id: parent.map(|parent| parent.as_str().to_owned()),
        }
    }

    /// Where it stands.
    pub(in crate::core) fn progress(&self) -> allot::TaskProgress {
        let (phase, pid, complete_by, destroy_at, why) = match self.phase {
            Phase::Starting { killed } => (WirePhase::Starting, None, None, None, killed),
            Phase::Running { pid, complete_by } => {
                (WirePhase::Running, Some(pid), complete_by, None, None)
            }
            Phase::Killing {
                pid,
                destroy_at,
                why,
            } => (WirePhase::Killing, Some(pid), None, destroy_at, Some(why)),
            Phase::Hosted => (WirePhase::Running, None, None, None, None),
            Phase::Ended => (WirePhase::Ended, None, None, None, None),
        };
        let hosted = match &self.host {
            Host::Executor(hosted) => Some(hosted),
            Host::Alone | Host::Group { .. } => None,
        };
        allot::TaskProgress {
            framework_id: (&self.framework).into(),
            task_id: self.info.task_id.clone(),
            phase: phase.into(),
            state: self.state.into(),
            pid,
            complete_by_ns: complete_by.map(Timestamp::as_nanos),
            destroy_at_ns: destroy_at.map(Timestamp::as_nanos),
            why: why.map(|why| why.to_wire().into()),
            forgotten: self.forgotten.then_some(true),
            pending: self.pending.iter().cloned().collect(),
            sent: hosted.map(|hosted| hosted.sent),
            kill_asked: hosted.and_then(|hosted| hosted.kill.as_ref()).map(|_| true),
            kill_policy: hosted.and_then(|hosted| hosted.kill.flatten()),
            received: hosted.map_or_else(Vec::new, |h| h.received.iter().cloned().collect()),
        }
    }
}

impl Why {
    const fn to_wire(self) -> WireWhy {
        match self {
            Self::Asked => WireWhy::Asked,
            Self::MaxCompletionTime => WireWhy::MaxCompletionTime,
            Self::AgentStops => WireWhy::AgentStops,
            Self::Unhealthy => WireWhy::Unhealthy,
            Self::Group => WireWhy::Group,
            Self::ExecutorShutdown => WireWhy::ExecutorShutdown,
        }
    }

    const fn from_wire(why: WireWhy) -> Self {
        match why {
            WireWhy::Asked => Self::Asked,
            WireWhy::MaxCompletionTime => Self::MaxCompletionTime,
            WireWhy::AgentStops => Self::AgentStops,
            WireWhy::Unhealthy => Self::Unhealthy,
            WireWhy::Group => Self::Group,
            WireWhy::ExecutorShutdown => Self::ExecutorShutdown,
        }
    }
}
