//! What must be durable, as compact messages, and the queue rebuilt from it.
//!
//! A job that is as it was submitted has no record of its own: ten thousand of them cost what
//! their cluster costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_proto::allot::JobSpec;
use allotment_types::{AgentId, FrameworkId, TaskId, Timestamp};

use super::Core;
use super::job::{Cluster, Exit, Job, JobKey, Run, Running, State};

/// HTCondor's code for jobs that were submitted held.
pub(super) const HELD_AT_SUBMISSION: u32 = 15;

/// One durable change.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The id of the next cluster.
    NextCluster(u32),
    /// The framework's id; `None`: the master has ended it.
    Framework(Option<FrameworkId>),
    /// A new cluster.
    Cluster(u32, Box<StoredCluster>),
    /// The state of an unfinished job.
    Job(JobKey, Box<StoredJob>),
    /// The job has ended: its state goes, its end comes into the history.
    Ended(JobKey, Box<StoredEnd>),
    /// No job of the cluster is left.
    ClusterEnded(u32),
    /// Event-log text, to be appended to `path` exactly once.
    Log {
        /// Absolute.
        path: String,
        /// Whole events.
        text: String,
    },
}

/// A cluster as it was submitted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredCluster {
    /// Who submitted it.
    #[prost(string, tag = "1")]
    pub owner: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub batch_name: String,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "3")]
    pub submitted: u64,
    /// What its jobs share.
    #[prost(message, optional, tag = "4")]
    pub template: Option<JobSpec>,
    /// What they do not.
    #[prost(message, repeated, tag = "5")]
    pub runs: Vec<StoredChanges>,
    /// How many jobs.
    #[prost(uint32, tag = "6")]
    pub total: u32,
}

/// What the jobs from `first` on change to the template.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredChanges {
    /// The first job.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// Absent: nothing.
    #[prost(message, optional, tag = "2")]
    pub changes: Option<JobSpec>,
}

/// An unfinished job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredJob {
    /// 1 idle, 2 running, 5 held: HTCondor's JobStatus.
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "2")]
    pub since: u64,
    /// Launches.
    #[prost(uint32, tag = "3")]
    pub starts: u32,
    /// Runs that ended by themselves.
    #[prost(uint32, tag = "4")]
    pub completions: u32,
    /// Why it is held.
    #[prost(uint32, tag = "5")]
    pub hold_code: u32,
    /// Why it is held.
    #[prost(uint32, tag = "6")]
    pub hold_subcode: u32,
    /// In words.
    #[prost(string, optional, tag = "7")]
    pub reason: Option<String>,
    /// How the latest finished run ended.
    #[prost(message, optional, tag = "8")]
    pub exit: Option<StoredExit>,
    /// The run now, or the latest.
    #[prost(message, optional, tag = "9")]
    pub run: Option<StoredRun>,
}

/// How a run ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredExit {
    /// Exit code.
    #[prost(sint32, optional, tag = "1")]
    pub code: Option<i32>,
    /// Signal.
    #[prost(sint32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// CPU time.
    #[prost(uint64, tag = "3")]
    pub user_cpu_ns: u64,
    /// CPU time.
    #[prost(uint64, tag = "4")]
    pub system_cpu_ns: u64,
    /// Peak memory.
    #[prost(uint64, tag = "5")]
    pub max_rss_bytes: u64,
}

/// A run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredRun {
    /// Task id.
    #[prost(string, tag = "1")]
    pub task: String,
    /// Agent id.
    #[prost(string, tag = "2")]
    pub agent: String,
    /// The agent's host.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Where it serves.
    #[prost(string, tag = "4")]
    pub agent_url: String,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "5")]
    pub launched: u64,
    /// When it was seen running.
    #[prost(fixed64, optional, tag = "6")]
    pub started: Option<u64>,
}

/// A job's end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredEnd {
    /// Grows with every end.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Removed rather than completed.
    #[prost(bool, tag = "2")]
    pub removed: bool,
    /// With success.
    #[prost(bool, tag = "3")]
    pub success: bool,
    /// Nanoseconds since the epoch.
    #[prost(fixed64, tag = "4")]
    pub at: u64,
    /// Launches.
    #[prost(uint32, tag = "5")]
    pub starts: u32,
    /// Runs that ended by themselves.
    #[prost(uint32, tag = "6")]
    pub completions: u32,
    /// In words.
    #[prost(string, optional, tag = "7")]
    pub reason: Option<String>,
    /// How its last run ended.
    #[prost(message, optional, tag = "8")]
    pub exit: Option<StoredExit>,
    /// Its last run.
    #[prost(message, optional, tag = "9")]
    pub run: Option<StoredRun>,
}

/// All that was durable when the process started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durable {
    /// The framework's id.
    pub framework: Option<FrameworkId>,
    /// The id of the next cluster.
    pub next_cluster: u32,
    /// The sequence number of the next end.
    pub next_sequence: u64,
    /// Clusters with unfinished jobs.
    pub clusters: Vec<(u32, StoredCluster)>,
    /// Their unfinished jobs that are not as submitted.
    pub jobs: BTreeMap<JobKey, StoredJob>,
    /// Their jobs that have ended: removed, success.
    pub ended: BTreeMap<JobKey, (bool, bool)>,
}

impl From<Exit> for StoredExit {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            user_cpu_ns: exit.user_cpu_ns,
            system_cpu_ns: exit.system_cpu_ns,
            max_rss_bytes: exit.max_rss_bytes,
        }
    }
}

impl From<&StoredExit> for Exit {
    fn from(exit: &StoredExit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            user_cpu_ns: exit.user_cpu_ns,
            system_cpu_ns: exit.system_cpu_ns,
            max_rss_bytes: exit.max_rss_bytes,
        }
    }
}

impl From<&Run> for StoredRun {
    fn from(run: &Run) -> Self {
        Self {
            task: run.task.to_string(),
            agent: run.agent.to_string(),
            host: run.host.to_string(),
            agent_url: run.agent_url.to_string(),
            launched: run.launched.as_nanos(),
            started: run.started.map(Timestamp::as_nanos),
        }
    }
}

impl StoredRun {
    fn restore(&self) -> Option<Run> {
        Some(Run {
            task: TaskId::parse(&self.task).ok()?,
            agent: AgentId::parse(&self.agent).ok()?,
            host: self.host.as_str().into(),
            agent_url: self.agent_url.as_str().into(),
            launched: Timestamp::from_nanos(self.launched),
            started: self.started.map(Timestamp::from_nanos),
        })
    }
}

impl From<&Job> for StoredJob {
    fn from(job: &Job) -> Self {
        let (status, hold_code, hold_subcode) = match &job.state {
            State::Idle => (1, 0, 0),
            State::Running(_) => (2, 0, 0),
            State::Held { code, subcode } => (5, *code, *subcode),
        };
        let run = match &job.state {
            State::Running(running) => Some(&running.run),
            State::Idle | State::Held { .. } => job.last.as_deref(),
        };
        Self {
            status,
            since: job.since.as_nanos(),
            starts: job.starts,
            completions: job.completions,
            hold_code,
            hold_subcode,
            reason: job.reason.as_deref().map(str::to_owned),
            exit: job.exit.map(Into::into),
            run: run.map(Into::into),
        }
    }
}

impl StoredCluster {
    /// The cluster before any job has ended.
    pub fn restore(self) -> Cluster {
        Cluster {
            owner: self.owner.into(),
            batch_name: self.batch_name.into(),
            submitted: Timestamp::from_nanos(self.submitted),
            template: self.template.unwrap_or_default(),
            runs: self
                .runs
                .into_iter()
                .map(|run| (run.first, run.changes))
                .collect(),
            total: self.total,
            completed: 0,
            failed: 0,
            removed: 0,
        }
    }
}

impl Core {
    /// Puts the records back into memory. Runs whose agent or task is unreadable are lost.
    pub(super) fn restore(&mut self, durable: Durable) {
        let Durable {
            clusters,
            mut jobs,
            ended,
            ..
        } = durable;
        for (id, stored) in clusters {
            let mut cluster = stored.restore();
            for proc in 0..cluster.total {
                let key = JobKey { cluster: id, proc };
                match ended.get(&key) {
                    Some((true, _)) => cluster.removed += 1,
                    Some((false, true)) => cluster.completed += 1,
                    Some((false, false)) => cluster.failed += 1,
                    None => {
                        let mut job = self.as_submitted(&cluster, proc);
                        if let Some(stored) = jobs.remove(&key) {
                            apply(&mut job, &stored);
                        }
                        self.adopt(key, job, cluster.submitted);
                    }
                }
            }
            self.clusters.insert(id, cluster);
        }
    }

    /// Job `proc` of a new cluster.
    pub(super) fn as_submitted(&self, cluster: &Cluster, proc: u32) -> Job {
        let (size, priority) = cluster.asks(proc, self.settings.default_memory_mib);
        let mut job = Job::new(size, priority, cluster.submitted);
        if cluster.hold(proc) {
            job.state = State::Held {
                code: HELD_AT_SUBMISSION,
                subcode: 0,
            };
            job.reason = Some("submitted on hold at user's request".into());
        }
        job
    }

    /// Takes a job into the books.
    pub(super) fn adopt(&mut self, key: JobKey, job: Job, submitted: Timestamp) {
        match &job.state {
            State::Idle => {
                self.idle.insert(job.size, job.priority, submitted, key);
                self.asking.woken = true;
            }
            State::Running(running) => {
                self.tasks.insert(running.run.task.clone(), key);
            }
            State::Held { .. } => {}
        }
        self.jobs.insert(key, job);
    }

    /// Makes a job's state durable.
    pub(super) fn persist_job(&mut self, key: JobKey) {
        if let Some(job) = self.jobs.get(&key) {
            let record = Record::Job(key, Box::new(job.into()));
            self.out.persist.push(record);
        }
    }
}

fn apply(job: &mut Job, stored: &StoredJob) {
    job.since = Timestamp::from_nanos(stored.since);
    job.starts = stored.starts;
    job.completions = stored.completions;
    job.exit = stored.exit.as_ref().map(Into::into);
    job.reason = stored.reason.as_deref().map(Arc::from);
    let run = stored.run.as_ref().and_then(StoredRun::restore);
    job.state = match (stored.status, run) {
        (2, Some(run)) => State::Running(Box::new(Running {
            run,
            heard: false,
            unknown_since: None,
            ending: None,
        })),
        (5, run) => {
            job.last = run.map(Box::new);
            State::Held {
                code: stored.hold_code,
                subcode: stored.hold_subcode,
            }
        }
        (_, run) => {
            job.last = run.map(Box::new);
            State::Idle
        }
    };
}
