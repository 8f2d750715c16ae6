//! What goes into the core and what comes out of it.

use std::time::Duration;

use allotment_proto::{allot, executor, mesos};
use allotment_types::{AgentId, FaultDomain, Resources, Timestamp};

use super::check::{Probe, Probed, Which};
use super::enter::NoEntry;
use super::executor::ExecutorSettings;
use super::executors::CallRefusal;
use super::launch::Launch;
use super::logs::LogBound;
use super::nested::{Done, NestedId, NestedOrder, Nesting};
use super::sandbox::{ContainerId, SandboxId};

/// What stays the same while an agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the machine in offers.
    pub hostname: String,
    /// The host that others reach this agent by, and its port.
    pub address: (String, u16),
    /// Changes with every boot of the machine.
    pub boot_id: String,
    /// Everything there is to offer; in a core that runs, with what was reserved and made volumes
    /// at run time.
    pub resources: Resources,
    /// What frameworks choose by.
    pub attributes: Vec<mesos::Attribute>,
    /// Where it stands.
    pub domain: Option<FaultDomain>,
    /// How many masters there are to try.
    pub n_masters: usize,
    /// The first wait before connecting again.
    pub reconnect_min: Duration,
    /// The longest such wait.
    pub reconnect_max: Duration,
    /// The time between SIGTERM and SIGKILL for tasks without a kill policy.
    pub kill_grace: Duration,
    /// How long sandboxes of ended tasks are kept at most.
    pub gc_delay: Duration,
    /// Thousandths of the disk that are to stay free (Mesos' `--gc_disk_headroom`).
    pub gc_headroom_permille: u32,
    /// The absolute path of the work folder.
    pub work_dir: String,
    /// Environment variables that every task gets unless it sets them itself.
    pub environment: Vec<(String, String)>,
    /// Tasks go on without their agent and are found again by the next one.
    pub tasks_outlive_agent: bool,
    /// The bound of stdout and of stderr, for tasks that set none.
    pub log_bound: LogBound,
    /// How custom executors are dealt with.
    pub executors: ExecutorSettings,
}

impl Settings {
    /// Where this agent serves.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address.0, self.address.1)
    }
}

/// A fact that reaches the agent.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each message and moved once; a box would be an allocation for each"
)]
pub enum Input {
    /// Time passed; sent at [`super::Core::next_deadline`].
    Tick,
    /// The connection of this number stands.
    Connected {
        /// Counts connections, as [`Effect::Connect`] gave it.
        session: u64,
    },
    /// The connection of this number broke or never stood.
    Disconnected {
        /// Which connection.
        session: u64,
    },
    /// The master said something.
    Master {
        /// On which connection.
        session: u64,
        /// What.
        message: allot::MasterMessage,
    },
    /// The program of a task runs.
    Started {
        /// In which container.
        container: ContainerId,
        /// The container's first process.
        pid: i32,
    },
    /// Nothing runs in a container any more.
    Ended {
        /// Which.
        container: ContainerId,
        /// How it came.
        outcome: Outcome,
        /// What the task left.
        sandbox: allot::SandboxSummary,
    },
    /// A custom executor says something, or somebody who claims to be one. Answered by
    /// [`Effect::AnswerExecutor`].
    ExecutorCall {
        /// Counts calls; of a SUBSCRIBE it names the stream of events from then on.
        number: u64,
        /// What it proves itself with.
        token: Option<String>,
        /// What it says.
        call: Box<executor::Call>,
    },
    /// A stream of events ended.
    ExecutorClosed {
        /// Which.
        number: u64,
    },
    /// Somebody orders something of a nested container. Answered by [`Effect::AnswerNested`].
    Nested {
        /// Counts these orders.
        number: u64,
        /// Which.
        id: NestedId,
        /// What.
        order: NestedOrder,
    },
    /// A probe was made.
    Probed {
        /// Of the task in this container.
        container: ContainerId,
        /// Which of its checks.
        which: Which,
        /// What came of it.
        probed: Probed,
    },
    /// A sandbox of an earlier run lies in the work folder.
    SandboxFound {
        /// Whose.
        sandbox: SandboxId,
        /// Under which agent id.
        agent: AgentId,
        /// When it was last changed.
        modified: Timestamp,
    },
    /// How full the disk of the work folder is.
    DiskUsage {
        /// Thousandths that are in use.
        used_permille: u32,
    },
    /// The operator ends this agent for good: its tasks end, and the master is told.
    Stop,
    /// The process ends and another will go on in its place: its tasks run on.
    Leave,
}

/// How a container came to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The main process ended.
    Exited {
        /// How, and what it used.
        exit: allot::TaskExit,
        /// Set when it exceeded its memory: the limit, and the most it held where known, in bytes.
        memory: Option<(u64, Option<u64>)>,
        /// It failed, and there is no space left where its sandbox lies.
        disk_full: bool,
        /// Set when it was ended because its sandbox held too much: the limit and what it held,
        /// in bytes.
        disk: Option<(u64, u64)>,
    },
    /// It never ran.
    NotStarted {
        /// One sentence.
        message: String,
    },
    /// No process of it ever was, and none can come to be any more: it may be begun elsewhere.
    NeverBegun,
    /// It was lost sight of and killed.
    Lost {
        /// One sentence.
        message: String,
    },
    /// It ended with an earlier run of the agent or the machine.
    Restarted {
        /// One sentence.
        message: String,
    },
}

/// What must be written down before anybody hears of a step.
pub type Record = allot::checkpoint_record::Record;

/// Whether a record must outlast a loss of power too, not only the agent's end: what others are
/// about to be told.
///
/// A launch that nobody was told of yet is none of it. Should power fail, its task is missing when
/// the agent registers, and its framework, which has heard nothing, asks. Of a task that was said
/// to run nobody might ever ask: a master that was started anew meanwhile knows of it from us
/// alone.
pub fn outlasts_power(record: &Record) -> bool {
    match record {
        Record::Agent(_) => true,
        Record::Progress(progress) => !progress.pending.is_empty(),
        Record::Framework(_)
        | Record::Task(_)
        | Record::Acknowledged(_)
        | Record::Over(_)
        | Record::Executor(_)
        | Record::ExecutorProgress(_)
        | Record::ExecutorOver(_)
        | Record::Nested(_)
        | Record::NestedEnded(_)
        | Record::NestedOver(_) => false,
    }
}

/// Whether an effect tells somebody something that must still be true after a loss of power.
///
/// The others act on this machine, and a loss of power undoes them: an edge may do them as soon
/// as their records outlast the end of its process, before earlier effects that tell, in the
/// order among themselves. What makes or destroys volumes is between the two: nothing may pass it.
pub fn tells(effect: &Effect) -> bool {
    match effect {
        Effect::Start(_)
        | Effect::Terminate(_)
        | Effect::Destroy(_)
        | Effect::Resize { .. }
        // Executors end with the power, too.
        | Effect::AnswerExecutor { .. }
        | Effect::ToExecutor { .. }
        | Effect::CloseExecutor { .. }
        | Effect::AnswerNested { .. }
        | Effect::RemoveNest { .. }
        | Effect::Probe { .. }
        | Effect::Warn(_) => false,
        Effect::Connect { .. }
        | Effect::Disconnect { .. }
        | Effect::Send { .. }
        | Effect::Release(_)
        | Effect::Collect { .. }
        | Effect::MakeVolume { .. }
        | Effect::DestroyVolume { .. }
        | Effect::Stopped => true,
    }
}

/// What the edge is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Connect to the master of this index.
    Connect {
        /// The number of the new connection.
        session: u64,
        /// Which of the configured masters.
        master: usize,
    },
    /// Drop a connection.
    Disconnect {
        /// Which.
        session: u64,
        /// Why, for the log.
        reason: String,
    },
    /// Send to the master.
    Send {
        /// On which connection.
        session: u64,
        /// What.
        message: Box<allot::AgentMessage>,
    },
    /// Make a sandbox, fetch files and start a container.
    Start(Box<Launch>),
    /// SIGTERM to everything in a container.
    Terminate(ContainerId),
    /// SIGKILL to everything in a container, or stop preparing it.
    Destroy(ContainerId),
    /// How a container ended is written down: nobody else has to remember it.
    Release(ContainerId),
    /// An executor's container is to hold this much from now on.
    Resize {
        /// Which.
        container: ContainerId,
        /// What the executor and its tasks hold.
        resources: Resources,
        /// Its limit of memory in bytes.
        memory_bytes: u64,
        /// Bytes that its sandbox may hold; `None`: not counted.
        disk_limit_bytes: Option<u64>,
    },
    /// Tell a custom executor what came of its call.
    AnswerExecutor {
        /// Which call.
        number: u64,
        /// Whether it was taken.
        answer: Result<(), CallRefusal>,
    },
    /// Send to a custom executor.
    ToExecutor {
        /// On which stream.
        number: u64,
        /// What.
        event: Box<executor::Event>,
    },
    /// End a custom executor's stream, after what was sent on it.
    CloseExecutor {
        /// Which.
        number: u64,
    },
    /// Tell whoever ordered something of a nested container what came of it.
    AnswerNested {
        /// Which order.
        number: u64,
        /// What came of it.
        answer: Result<Done, NoEntry>,
    },
    /// Remove the sandbox of a nested container that never ran.
    RemoveNest {
        /// The sandbox of the topmost container above it, relative to the work folder.
        sandbox: String,
        /// Where it is.
        nesting: Nesting,
    },
    /// Make a probe.
    Probe {
        /// Of the task in this container.
        container: ContainerId,
        /// Which of its checks.
        which: Which,
        /// What to try.
        probe: Probe,
        /// For how long.
        timeout: Duration,
    },
    /// Delete a sandbox.
    Collect {
        /// Under which agent id.
        agent: AgentId,
        /// Which.
        sandbox: SandboxId,
    },
    /// Make an empty folder for a volume. Whatever lies there was left by one that is gone.
    MakeVolume {
        /// Relative to the work folder.
        folder: String,
    },
    /// Do away with a volume and what is in it.
    DestroyVolume {
        /// Relative to the work folder.
        folder: String,
    },
    /// A line for the log that an operator may want to act on.
    Warn(String),
    /// Everything is ended and said: the agent may go.
    Stopped,
}

/// How many tasks ended how since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// TASK_FINISHED.
    pub finished: u64,
    /// TASK_FAILED.
    pub failed: u64,
    /// TASK_KILLED.
    pub killed: u64,
    /// Any other end.
    pub other: u64,
}

impl Counts {
    /// One more task ended, in this state.
    pub(super) const fn add(&mut self, state: mesos::TaskState) {
        match state {
            mesos::TaskState::TaskFinished => self.finished += 1,
            mesos::TaskState::TaskFailed => self.failed += 1,
            mesos::TaskState::TaskKilled => self.killed += 1,
            _ => self.other += 1,
        }
    }
}

/// What an agent has and does now, for metrics and people.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// Its id, once registered.
    pub agent: Option<AgentId>,
    /// Whether a master knows it now.
    pub registered: bool,
    /// Tasks that are being prepared.
    pub tasks_starting: usize,
    /// Tasks that run.
    pub tasks_running: usize,
    /// Tasks that are being killed.
    pub tasks_killing: usize,
    /// Tasks of an earlier run whose containers were not heard of yet.
    pub tasks_recovering: usize,
    /// Custom executors, and default ones with tasks.
    pub executors: usize,
    /// Updates that no framework has acknowledged.
    pub updates_pending: usize,
    /// Sandboxes that wait to be deleted.
    pub sandboxes_kept: usize,
    /// Everything there is.
    pub total: Resources,
    /// What no task holds.
    pub free: Resources,
    /// Since the start.
    pub counts: Counts,
}
