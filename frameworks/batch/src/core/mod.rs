//! The queue as a pure state machine: facts in, durable records and effects out.
//!
//! - [`job`]: a cluster, a job and what is true in each of its states.
//! - [`idle`]: which jobs wait, in their order, by what they ask.
//! - [`record`]: what must be durable, and the queue rebuilt from it.
//! - [`event_log`]: HTCondor's event-log text.
//! - [`view`]: jobs as the API shows them.
//! - `asking`: which offers the master is asked for.
//! - `submit`, `actions`, `matching`, `life`: the handlers, one file per kind of input;
//!   `meaning` reads status updates, `outcome` plans what comes home.
//!
//! It knows neither clock, socket, file nor database. What it promises:
//! - a job is recorded complete once, and its event-log text is part of the same durable step;
//! - every run of a job has a task id of its own, durable before the launch is said;
//! - an update is acknowledged after what it means is durable.

mod actions;
mod asking;
pub mod event_log;
pub mod idle;
pub mod job;
mod life;
mod matching;
mod meaning;
mod outcome;
pub mod record;
mod submit;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::{Call, Offer, Update};
use allotment_proto::allot::{JobSelection, SubmitJobsRequest, SubmittedCluster};
use allotment_types::{AgentId, FrameworkId, OfferId, Role, TaskId, Timestamp};

use asking::Asking;
use idle::Idle;
use job::{Cluster, Job, JobKey};

pub use matching::SPOOL_SCHEME;
pub use record::{Durable, Record};

/// Names a caller that waits for an answer.
pub type Ticket = u64;

/// One step's outcome.
pub type Effects = allotment_types::Effects<Record, Effect>;

/// What the queue needs to know of its surroundings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What this machine is called.
    pub hostname: String,
    /// Memory of a job that asks for none, in MiB.
    pub default_memory_mib: u64,
    /// How many unfinished jobs the queue takes.
    pub queue_max: u64,
    /// The time zone of event logs.
    pub zone: jiff::tz::TimeZone,
    /// Makes task ids differ from those of an earlier database.
    pub seed: u64,
    /// The role that offers are taken in.
    pub role: Role,
}

/// What happens to the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The clock moved; due at [`Core::next_deadline`].
    Tick,
    /// Somebody is about to submit and wants cluster ids.
    Reserve {
        /// Who.
        ticket: Ticket,
        /// How many.
        count: u32,
    },
    /// Jobs come in.
    Submit {
        /// Who waits for the answer.
        ticket: Ticket,
        /// The jobs.
        request: SubmitJobsRequest,
    },
    /// A user acts on jobs.
    Act {
        /// Who waits for the answer.
        ticket: Ticket,
        /// What to do.
        action: Action,
        /// To which jobs.
        selection: JobSelection,
        /// In words, when given.
        reason: Option<String>,
    },
    /// The subscription stands.
    Subscribed(FrameworkId),
    /// The connection broke; offers are void.
    Disconnected,
    /// The master ended the framework for good.
    FrameworkEnded(String),
    /// Resources to use.
    Offers(Vec<Offer>),
    /// An offer is void.
    Rescinded(OfferId),
    /// A task changed.
    Update(Update),
    /// What a job left has been brought home, or not.
    Transferred {
        /// The run.
        task: TaskId,
        /// What came of it.
        outcome: Result<(), TransferProblem>,
    },
}

/// What a user does to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// End for good.
    Remove,
    /// Stop and keep.
    Hold,
    /// Let run again.
    Release,
}

/// Why output did not come home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferProblem {
    /// A file here cannot be written.
    Write {
        /// Which.
        path: String,
        /// What the system says.
        error: String,
        /// The system's error number.
        errno: u32,
        /// The standard output or error rather than another file.
        standard: bool,
    },
    /// A file cannot be had from the agent.
    Fetch {
        /// Which, in the sandbox.
        name: String,
        /// Why.
        error: String,
    },
}

/// What the edge is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Say this to the master.
    Call(Call),
    /// Answer whoever waits.
    Reply(Ticket, Answer),
    /// Bring home what a run left, then say [`Input::Transferred`].
    Transfer(Box<Transfer>),
    /// A job left the queue.
    Ended(Ended),
    /// A run is over; nobody fetches its input any more.
    RunOver(TaskId),
}

/// A job that left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub job: JobKey,
    /// Ended by itself and with success.
    pub success: bool,
    /// Removed rather than completed.
    pub removed: bool,
    /// The exit code of its last run.
    pub exit_code: Option<i32>,
    /// The signal that ended its last run.
    pub exit_signal: Option<i32>,
}

/// The answer to a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The first of the reserved ids.
    Reserved(u32),
    /// The clusters and their sizes.
    Submitted(Vec<SubmittedCluster>),
    /// How many jobs changed and how many did not.
    Acted {
        /// Changed.
        changed: u32,
        /// Were so already or cannot.
        unchanged: u32,
    },
    /// No.
    Refused(Refusal),
}

/// Why a caller's wish was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The cluster is there already.
    #[error("cluster {0} was submitted already; `allot job list {0}` shows it")]
    Exists(u32),
    /// No such job.
    #[error("there is no unfinished job {0}; see `allot job list` and `allot job history`")]
    NoJob(String),
    /// The queue is full.
    #[error(
        "the queue holds {held} unfinished jobs and takes at most {max}, so {asked} more do not \
         fit; wait for some to end, or raise the batch framework's queue_max"
    )]
    Full {
        /// Unfinished jobs now.
        held: u64,
        /// The bound.
        max: u64,
        /// What was to come.
        asked: u64,
    },
}

/// What to bring home of one run, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// Whose.
    pub job: JobKey,
    /// The run.
    pub task: TaskId,
    /// Where its sandbox is.
    pub agent_url: String,
    /// File by file, in order.
    pub files: Vec<TransferFile>,
    /// More files than the update named: list the sandbox, leave these out, and bring the rest
    /// into this folder.
    pub rest: Option<(String, Vec<String>)>,
}

/// One file to bring home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferFile {
    /// Its name in the sandbox.
    pub name: String,
    /// Its size, when known; an empty one need not be read.
    pub size: Option<u64>,
    /// Where it goes, absolute.
    pub to: String,
    /// Behind what is there: standard error into the file of standard output.
    pub append: bool,
    /// The standard output or error.
    pub standard: bool,
}

/// Counts for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs submitted in this run of the process.
    pub submitted: u64,
    /// Runs launched.
    pub launched: u64,
    /// Jobs recorded complete.
    pub completed: u64,
    /// Of these, without success.
    pub failed: u64,
    /// Jobs removed.
    pub removed: u64,
    /// Runs that were lost and go back to idle.
    pub lost: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    framework: Option<FrameworkId>,
    connected: bool,
    asking: Asking,
    next_cluster: u32,
    /// Ids that were given out and not used yet.
    reserved: BTreeSet<u32>,
    next_sequence: u64,
    nonce: u64,
    clusters: BTreeMap<u32, Cluster>,
    jobs: BTreeMap<JobKey, Job>,
    /// The job of every current run.
    tasks: BTreeMap<TaskId, JobKey>,
    idle: Idle,
    /// Since when the present subscription stands.
    subscribed_at: Timestamp,
    /// When runs that nobody has heard of are asked about, and how long after that again.
    reconcile_at: Timestamp,
    reconcile_pause: Duration,
    hosts: BTreeMap<AgentId, (Arc<str>, Arc<str>)>,
    counts: Counts,
    out: Effects,
}

impl Core {
    /// The queue as the records left it.
    pub fn recover(settings: Settings, durable: Durable, now: Timestamp) -> Self {
        let mut core = Self {
            nonce: settings.seed,
            settings,
            framework: durable.framework.clone(),
            connected: false,
            asking: Asking::default(),
            next_cluster: durable.next_cluster.max(1),
            reserved: BTreeSet::new(),
            next_sequence: durable.next_sequence,
            clusters: BTreeMap::new(),
            jobs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            idle: Idle::default(),
            subscribed_at: now,
            reconcile_at: now,
            reconcile_pause: life::UNHEARD_AFTER,
            hosts: BTreeMap::new(),
            counts: Counts::default(),
            out: Effects::none(),
        };
        core.restore(durable);
        core
    }

    /// Takes one input and says what follows.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Effects {
        match input {
            Input::Tick => self.on_tick(now),
            Input::Reserve { ticket, count } => self.on_reserve(ticket, count),
            Input::Submit { ticket, request } => self.on_submit(now, ticket, request),
            Input::Act {
                ticket,
                action,
                selection,
                reason,
            } => self.on_act(now, ticket, action, &selection, reason),
            Input::Subscribed(framework) => self.on_subscribed(now, framework),
            Input::Disconnected => self.connected = false,
            Input::FrameworkEnded(reason) => self.on_ended(now, &reason),
            Input::Offers(offers) => self.on_offers(now, offers),
            // Offers are used or declined in the step that brings them; what was rescinded on its
            // way is asked for again.
            Input::Rescinded(_) => self.asking.woken = true,
            Input::Update(update) => self.on_update(now, update),
            Input::Transferred { task, outcome } => self.on_transferred(now, &task, outcome),
        }
        self.ask(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let reconcile = (self.connected && !self.tasks.is_empty()).then_some(self.reconcile_at);
        reconcile.into_iter().chain(self.demand_at()).min()
    }

    /// The framework's id, once a master gave it.
    pub fn framework(&self) -> Option<&FrameworkId> {
        self.framework.as_ref()
    }

    /// Unfinished jobs.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether every job has ended.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Unfinished jobs that wait for an offer.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Runs that were launched and have not ended.
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// What happened since the process started.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a master is connected.
    pub fn connected(&self) -> bool {
        self.connected
    }

    fn call(&mut self, call: Call) {
        self.out.then.push(Effect::Call(call));
    }

    fn reply(&mut self, ticket: Ticket, answer: Answer) {
        self.out.then.push(Effect::Reply(ticket, answer));
    }
}
