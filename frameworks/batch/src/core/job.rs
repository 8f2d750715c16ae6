//! A cluster, a job, and what is true in each of its states.

use std::fmt;
use std::sync::Arc;

use allotment_framework_sdk::Call;
use allotment_proto::allot::{FileTransfer, JobSpec};
use allotment_types::{AgentId, Fixed, Name, Resources, TaskId, Timestamp};

use crate::submit::spec;

/// `cluster.proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobKey {
    /// The cluster.
    pub cluster: u32,
    /// The number within the cluster, from 0.
    pub proc: u32,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.cluster, self.proc)
    }
}

/// What one submission made; its jobs share the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Who submitted it.
    pub owner: Arc<str>,
    /// For people.
    pub batch_name: Arc<str>,
    /// When.
    pub submitted: Timestamp,
    /// What all jobs share.
    pub template: JobSpec,
    /// Neighbouring jobs that differ from the template in the same way: the first number, and
    /// the changes.
    pub runs: Vec<(u32, Option<JobSpec>)>,
    /// How many jobs it was submitted with.
    pub total: u32,
    /// How many ended well.
    pub completed: u32,
    /// How many ended otherwise.
    pub failed: u32,
    /// How many were removed.
    pub removed: u32,
}

impl Cluster {
    /// What job `proc` changes to the template.
    fn changes(&self, proc: u32) -> Option<&JobSpec> {
        let after = self.runs.partition_point(|(first, _)| *first <= proc);
        self.runs.get(after.checked_sub(1)?)?.1.as_ref()
    }

    /// The whole description of job `proc`.
    pub fn spec(&self, proc: u32) -> JobSpec {
        match self.changes(proc) {
            Some(changes) => spec::overlay(&self.template, changes),
            None => self.template.clone(),
        }
    }

    /// Where job `proc` writes its events; `None`: nowhere.
    pub fn log(&self, proc: u32) -> Option<&str> {
        let changed = self.changes(proc);
        if changed.is_some_and(|spec| spec.reset.contains(&8)) {
            return None;
        }
        let own = changed.and_then(|spec| spec.log.as_deref());
        own.or(self.template.log.as_deref())
            .filter(|log| !log.is_empty())
    }

    /// Whether job `proc` is submitted held.
    pub fn hold(&self, proc: u32) -> bool {
        let changes = self.changes(proc);
        if changes.is_some_and(|spec| spec.reset.contains(&20)) {
            return false;
        }
        let own = changes.and_then(|spec| spec.hold);
        own.or(self.template.hold).unwrap_or(false)
    }

    /// What job `proc` asks of an agent, and its priority.
    pub fn asks(&self, proc: u32, default_memory_mib: u64) -> (Size, i32) {
        let changes = self.changes(proc);
        let pick = |of: fn(&JobSpec) -> Option<u64>, number: u32| {
            if changes.is_some_and(|spec| spec.reset.contains(&number)) {
                return None;
            }
            changes.and_then(of).or_else(|| of(&self.template))
        };
        let size = Size {
            cpus_milli: pick(|s| s.cpus_milli, 9).unwrap_or(1000),
            memory_mib: pick(|s| s.memory_mib, 10).unwrap_or(default_memory_mib),
            disk_mib: pick(|s| s.disk_kib, 11).map_or(0, |kib| kib.div_ceil(1024)),
        };
        let reset = changes.is_some_and(|spec| spec.reset.contains(&19));
        let prio = changes
            .and_then(|spec| spec.priority)
            .or_else(|| self.template.priority.filter(|_| !reset));
        (size, prio.unwrap_or(0))
    }
}

/// What a job asks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Thousandths of a core.
    pub cpus_milli: u64,
    /// MiB.
    pub memory_mib: u64,
    /// MiB; 0: none is asked.
    pub disk_mib: u64,
}

impl Size {
    /// As resources of an offer.
    pub fn resources(&self) -> Resources {
        let cpus = Fixed::from_thousandths(self.cpus_milli);
        let asked = Resources::cpus_mem(cpus, Fixed::units(self.memory_mib));
        if self.disk_mib == 0 {
            return asked;
        }
        asked.with_scalar(Name::DISK, Fixed::units(self.disk_mib))
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// The exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal, when one ended it.
    pub signal: Option<i32>,
    /// Of the whole process tree.
    pub user_cpu_ns: u64,
    /// Of the whole process tree.
    pub system_cpu_ns: u64,
    /// Of the whole process tree.
    pub max_rss_bytes: u64,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its task.
    pub task: TaskId,
    /// Where.
    pub agent: AgentId,
    /// The agent's host name.
    pub host: Arc<str>,
    /// Where the agent serves.
    pub agent_url: Arc<str>,
    /// When it was launched.
    pub launched: Timestamp,
    /// When it was first seen running.
    pub started: Option<Timestamp>,
}

/// What is true of a job in each state.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Waits for an offer.
    Idle,
    /// Launched.
    Running(Box<Running>),
    /// Waits for a user.
    Held {
        /// HTCondor's HoldReasonCode.
        code: u32,
        /// HTCondor's HoldReasonSubCode.
        subcode: u32,
    },
}

/// A run that has not been dealt with to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The run.
    pub run: Run,
    /// Something was heard of the task since the last subscription.
    pub heard: bool,
    /// Since when the master says that it knows neither the task nor its agent.
    pub unknown_since: Option<Timestamp>,
    /// It has ended and its output is on the way home.
    pub ending: Option<Ending>,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// How.
    pub exit: Exit,
    /// When, by the agent's clock or ours.
    pub at: Timestamp,
    /// What the agent adds: that the disk was full.
    pub remark: Option<String>,
    /// Bytes on the way home.
    pub sent: u64,
    /// Said once all is recorded.
    pub acknowledgement: Option<Call>,
}

/// An unfinished job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its state.
    pub state: State,
    /// When the state began.
    pub since: Timestamp,
    /// What it asks.
    pub size: Size,
    /// Higher first.
    pub priority: i32,
    /// How often it was launched.
    pub starts: u32,
    /// How often a run ended by itself.
    pub completions: u32,
    /// How the latest finished run ended.
    pub exit: Option<Exit>,
    /// The latest run, when it is over.
    pub last: Option<Box<Run>>,
    /// Why it is held or runs again.
    pub reason: Option<Arc<str>>,
}

impl Job {
    /// As submitted.
    pub fn new(size: Size, priority: i32, since: Timestamp) -> Self {
        Self {
            state: State::Idle,
            since,
            size,
            priority,
            starts: 0,
            completions: 0,
            exit: None,
            last: None,
            reason: None,
        }
    }
}

/// How a job wants its files moved.
pub fn file_transfer(spec: &JobSpec) -> FileTransfer {
    spec.file_transfer
        .and_then(|mode| FileTransfer::try_from(mode).ok())
        .unwrap_or(FileTransfer::IfNeeded)
}
