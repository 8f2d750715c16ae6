//! What a framework hears and says, typed and checked; wire messages stay outside.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_proto::{allot, mesos};
use allotment_types::{
    AgentId, ExecutorId, FrameworkId, OfferId, Resources, Role, TaskId, Timestamp,
};
use bytes::Bytes;

use crate::wants::{Demand, Wants};

pub use allotment_proto::mesos::task_status::{Reason, Source};
pub use allotment_proto::mesos::{CommandInfo, HealthCheck, TaskState, health_check};
pub use allotment_types::{Attribute, AttributeValue, FaultDomain};

/// What a framework hears, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The subscription stands. Comes again after every reconnection; calls made while
    /// disconnected are not replayed, so reconcile here.
    Subscribed {
        /// The framework's id; keep it durable and subscribe with it next time.
        framework: FrameworkId,
    },
    /// The connection broke; the SDK is reconnecting. All offers are void.
    Disconnected {
        /// In words.
        reason: String,
    },
    /// Resources to use or decline. Until then nobody else gets them.
    Offers(Vec<Offer>),
    /// An agent is going away: leave it before, and say whether that is possible with
    /// [`Call::AcceptInverse`] or [`Call::DeclineInverse`]. Nothing but a hint to the operator.
    InverseOffers(Vec<InverseOffer>),
    /// The agent stays after all; the question is void.
    InverseRescinded(OfferId),
    /// The offer is void; accepting it now ends in TASK_LOST or TASK_DROPPED.
    Rescinded(OfferId),
    /// A task changed. Acknowledge it (once what it means is durable) when it has a uuid.
    Update(Update),
    /// The agent is gone from the cluster; updates for its tasks come on their own.
    AgentLost(AgentId),
    /// Something of an executor of this framework, other than how its tasks do.
    Executor {
        /// Its agent.
        agent: AgentId,
        /// Which.
        executor: ExecutorId,
        /// What.
        news: ExecutorNews,
    },
    /// A call was refused and had no effect.
    Rejected {
        /// Which call, as Mesos names it: "ACCEPT".
        call: String,
        /// Why and what to do.
        message: String,
    },
    /// The master ended this subscription for good; nothing more comes.
    Error(String),
}

/// What is heard of an executor. None of it is repeated, so it may get lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorNews {
    /// It said something.
    Message(Bytes),
    /// It is gone; its tasks have updates of their own. As `wait` returns it, where it ran.
    Ended(Option<i32>),
}

/// Resources of one agent offered in one role.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Names the offer in calls.
    pub id: OfferId,
    /// Whose resources they are.
    pub agent: AgentId,
    /// The agent's host name.
    pub hostname: String,
    /// Where the agent serves, `http://host:port`.
    pub agent_url: String,
    /// The role they are allocated to.
    pub role: Role,
    /// What may be used.
    pub resources: Resources,
    /// What the agent says of itself, in its order.
    pub attributes: Vec<Attribute>,
    /// Where the agent stands, when it says.
    pub domain: Option<FaultDomain>,
    /// When the agent is planned to be away; what runs there then may be killed.
    pub unavailability: Option<Unavailability>,
}

/// When an agent is planned to be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailability {
    /// From when.
    pub start: Timestamp,
    /// For how long; `None`: for good.
    pub duration: Option<Duration>,
}

/// A request to leave an agent before it goes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InverseOffer {
    /// Names the request in calls.
    pub id: OfferId,
    /// Which agent.
    pub agent: AgentId,
    /// When it will be away.
    pub unavailability: Unavailability,
}

impl Offer {
    /// The call that launches `tasks` here and gives back what they leave, for Mesos' 5 s; with no
    /// tasks it declines.
    pub fn accept(self, tasks: Vec<Task>) -> Call {
        Call::Accept {
            agent: self.agent,
            offers: vec![self.id],
            tasks,
            refuse_for: None,
        }
    }

    /// The call that wants nothing of this for `refuse_for`.
    pub fn decline(self, refuse_for: Duration) -> Call {
        Call::Decline {
            offers: vec![self.id],
            refuse_for: Some(refuse_for),
        }
    }
}

/// How one task does.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which task.
    pub task: TaskId,
    /// Its agent, when known.
    pub agent: Option<AgentId>,
    /// Its state.
    pub state: TaskState,
    /// In words.
    pub message: Option<String>,
    /// Why, as Mesos classifies it.
    pub reason: Option<Reason>,
    /// Who says so.
    pub source: Source,
    /// How the main process ended, when it ran.
    pub exit: Option<allot::TaskExit>,
    /// What the sandbox holds, on terminal updates of tasks that ran.
    pub sandbox: Option<allot::SandboxSummary>,
    /// The verdict of the task's health check, when it has one.
    pub healthy: Option<bool>,
    /// Seconds since the Unix epoch, by the sender's clock.
    pub timestamp: f64,
    /// Present on updates that are repeated until acknowledged.
    pub uuid: Option<Bytes>,
}

impl Update {
    /// Whether the task will never run again.
    pub fn is_terminal(&self) -> bool {
        allotment_proto::convert::is_terminal(self.state)
    }

    /// The call that acknowledges this update; `None` when it wants no acknowledgement.
    pub fn acknowledgement(&self) -> Option<Call> {
        let (agent, uuid) = (self.agent.clone()?, self.uuid.clone()?);
        Some(Call::Acknowledge {
            agent,
            task: self.task.clone(),
            uuid,
        })
    }
}

/// What a framework says.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// Launch `tasks` on the resources of `offers`, all of `agent` and one role. What they leave
    /// is declined with `refuse_for`.
    Accept {
        /// The agent of all the offers.
        agent: AgentId,
        /// Which offers; their resources are pooled.
        offers: Vec<OfferId>,
        /// What to launch, in order; none is a decline.
        tasks: Vec<Task>,
        /// How long not to offer the rest again; `None`: 5 s, Mesos' default.
        refuse_for: Option<Duration>,
    },
    /// Do `operations` one after the other on the resources of `offers`, all of `agent` and one
    /// role. What they leave is declined with `refuse_for`. One that is refused is told of as
    /// [`Event::Rejected`], and the others are done.
    Operate {
        /// The agent of all the offers.
        agent: AgentId,
        /// Which offers; their resources are pooled.
        offers: Vec<OfferId>,
        /// What to do, in order; none is a decline.
        operations: Vec<Operation>,
        /// How long not to offer the rest again; `None`: 5 s, Mesos' default.
        refuse_for: Option<Duration>,
    },
    /// Want none of these for a while.
    Decline {
        /// Which offers.
        offers: Vec<OfferId>,
        /// How long; `None`: 5 s, Mesos' default.
        refuse_for: Option<Duration>,
    },
    /// Want offers again (in all roles) and forget every filter.
    Revive,
    /// Want no offers (in any role) until [`Call::Revive`].
    Suppress,
    /// State what would be used in this role, and be offered that and no crumbs; `None`: be
    /// offered whatever the share brings, again.
    Demand {
        /// One of the framework's roles.
        role: Role,
        /// What would be used.
        demand: Option<Demand>,
    },
    /// Want something else from now on: other roles, agents or smallest offers. Offers in roles
    /// that are left are rescinded.
    Update {
        /// The roles to take offers in.
        roles: Vec<Role>,
        /// What to be offered in them.
        wants: Wants,
    },
    /// The framework will have left these agents in time.
    AcceptInverse {
        /// Which requests.
        offers: Vec<OfferId>,
        /// How long not to be asked again; `None`: 5 s, Mesos' default.
        refuse_for: Option<Duration>,
    },
    /// The framework would rather stay.
    DeclineInverse {
        /// Which requests.
        offers: Vec<OfferId>,
        /// How long not to be asked again; `None`: 5 s, Mesos' default.
        refuse_for: Option<Duration>,
    },
    /// End a task. An unknown task is answered with its state.
    Kill {
        /// Which task.
        task: TaskId,
        /// Its agent, when known.
        agent: Option<AgentId>,
        /// From SIGTERM to SIGKILL; `None`: what the task said, else the agent's default.
        grace: Option<Duration>,
    },
    /// Say something to a custom executor; it may get lost.
    Message {
        /// Its agent.
        agent: AgentId,
        /// Which.
        executor: ExecutorId,
        /// What, at most 4 MiB.
        data: Bytes,
    },
    /// End an executor and its tasks; it has its grace period.
    ShutdownExecutor {
        /// Its agent.
        agent: AgentId,
        /// Which.
        executor: ExecutorId,
    },
    /// The update is dealt with; see [`Update::acknowledgement`].
    Acknowledge {
        /// The task's agent.
        agent: AgentId,
        /// Which task.
        task: TaskId,
        /// Which update.
        uuid: Bytes,
    },
    /// Ask how these tasks do; all that the master knows of this framework when empty. Those that
    /// are named are asked about again until something is heard of each.
    Reconcile(Vec<(TaskId, Option<AgentId>)>),
    /// Kill all tasks and remove the framework for good.
    Teardown,
}

/// Something to do with offered resources. Reservations and volumes stay with the agent, across
/// its restarts too, and are offered again until they are ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Start tasks.
    Launch(Vec<Task>),
    /// Start tasks in one executor: all of them or none. In the default executor they also end
    /// together, as soon as one of them fails or is killed.
    LaunchGroup {
        /// The executor: one of this description that runs there already, or a new one.
        executor: Executor,
        /// At least one.
        tasks: Vec<Task>,
    },
    /// Reserve: the resources as they are to be, see [`Resources::reserved`].
    Reserve(Resources),
    /// End the innermost reservation: the resources as they are.
    Unreserve(Resources),
    /// Make volumes of reserved disk: as they are to be, see [`Resources::as_volume`].
    Create(Resources),
    /// Destroy volumes, with what is in them: as they are.
    Destroy(Resources),
}

/// A task to launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Unique among the framework's live tasks.
    pub id: TaskId,
    /// For people.
    pub name: String,
    /// What it may use. [`Call::Accept`] serves plain amounts from what the offers hold reserved,
    /// too; [`Operation::Launch`] takes them as they are.
    pub resources: Resources,
    /// What to run.
    pub command: Command,
    /// Environment variables beside those the agent sets.
    pub env: BTreeMap<String, String>,
    /// Files to bring into the sandbox first.
    pub uris: Vec<Uri>,
    /// The Unix user; `None`: the framework's.
    pub user: Option<String>,
    /// From SIGTERM to SIGKILL; `None`: the agent's default.
    pub kill_grace: Option<Duration>,
    /// Free-form, shown to operators.
    pub labels: BTreeMap<String, String>,
    /// Run by the agent; its verdict comes as [`Update::healthy`].
    pub health_check: Option<mesos::HealthCheck>,
    /// For service discovery.
    pub discovery: Option<mesos::DiscoveryInfo>,
    /// Of a task in a group of the default executor: folders that it shares with the others, by
    /// where it finds them, each a path in the executor's sandbox.
    pub shared_folders: BTreeMap<String, String>,
    /// It is started at a terminal, to which people may attach (`allot task attach`).
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal in characters; 0 for unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What tasks run in that share it. It holds its own resources as long as it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Executor {
    /// Unique among the framework's executors on one agent.
    pub id: ExecutorId,
    /// What it uses beside what its tasks do.
    pub resources: Resources,
    /// The program that speaks the executor API ([`crate::executor`]); `None`: the agent's default
    /// executor, which runs each task in a container of its own.
    pub command: Option<Command>,
    /// Environment variables of that program beside those the agent sets.
    pub env: BTreeMap<String, String>,
    /// Files that it needs.
    pub uris: Vec<Uri>,
    /// From being asked to exit to being killed; `None`: the agent's default.
    pub shutdown_grace: Option<Duration>,
}

impl Executor {
    /// The default executor: tasks in containers of their own that start and end together.
    pub fn default_one(id: ExecutorId) -> Self {
        Self {
            id,
            resources: Resources::EMPTY,
            command: None,
            env: BTreeMap::new(),
            uris: Vec::new(),
            shutdown_grace: None,
        }
    }

    /// An executor of the framework's own.
    pub fn custom(id: ExecutorId, resources: Resources, command: Command) -> Self {
        Self {
            resources,
            command: Some(command),
            ..Self::default_one(id)
        }
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `/bin/sh -c LINE`.
    Shell(String),
    /// A program (looked up in PATH when it has no slash) and its arguments without `argv[0]`.
    Exec {
        /// The program.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// Whatever a custom executor makes of `data`.
    InExecutor {
        /// The executor: one of this description that runs there already, or a new one.
        executor: Box<Executor>,
        /// What the executor is told beside the task's id, name, resources and labels.
        data: Bytes,
    },
}

/// A file to bring into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// `file:///path`, `/path`, `http://...` or `https://...`.
    pub value: String,
    /// Make it executable.
    pub executable: bool,
    /// Unpack it when its name is that of an archive.
    pub extract: bool,
    /// Keep it on the agent for other tasks of the same user.
    pub cache: bool,
    /// Name in the sandbox; `None`: the last part of the URI.
    pub output_file: Option<String>,
}

impl Task {
    /// A task that runs `command` with `resources` and defaults for the rest.
    pub fn new(id: TaskId, resources: Resources, command: Command) -> Self {
        Self {
            name: id.as_str().to_owned(),
            id,
            resources,
            command,
            env: BTreeMap::new(),
            uris: Vec::new(),
            user: None,
            kill_grace: None,
            labels: BTreeMap::new(),
            health_check: None,
            discovery: None,
            shared_folders: BTreeMap::new(),
            terminal: None,
        }
    }
}
