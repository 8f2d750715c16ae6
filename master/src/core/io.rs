//! What the core is told and what it asks: the closed enums between it and the edge.

use std::sync::Arc;

use allotment_proto::{allot, scheduler};

use super::registry::{StoreRecord, StoredEntry};

/// One connection of a framework or an agent; the edge never gives a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One request that awaits its reply; the edge never gives a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A fact that arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed; see [`super::Core::next_deadline`].
    Tick,
    /// A framework opened a stream.
    FrameworkOpened {
        /// Its connection.
        conn: ConnId,
    },
    /// A framework said something.
    FrameworkCall {
        /// Its connection.
        conn: ConnId,
        /// What it said.
        call: scheduler::Call,
    },
    /// A framework's stream ended.
    FrameworkClosed {
        /// Its connection.
        conn: ConnId,
    },
    /// An agent opened a stream.
    AgentOpened {
        /// Its connection.
        conn: ConnId,
    },
    /// An agent said something.
    AgentMessage {
        /// Its connection.
        conn: ConnId,
        /// What it said.
        message: allot::AgentMessage,
    },
    /// An agent's stream ended.
    AgentClosed {
        /// Its connection.
        conn: ConnId,
    },
    /// An operator or a store client asks.
    Request {
        /// Whom to reply to.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
}

/// Something to do, after the records of the same step are durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send an event to a framework.
    ToFramework {
        /// Its connection.
        conn: ConnId,
        /// The event.
        event: Box<scheduler::Event>,
    },
    /// End a framework's stream, after what was sent to it.
    CloseFramework {
        /// Its connection.
        conn: ConnId,
        /// Why, for the peer.
        reason: String,
    },
    /// Send a message to an agent.
    ToAgent {
        /// Its connection.
        conn: ConnId,
        /// The message.
        message: allot::MasterMessage,
    },
    /// End an agent's stream, after what was sent to it.
    CloseAgent {
        /// Its connection.
        conn: ConnId,
        /// Why, for the peer.
        reason: String,
    },
    /// Answer a request.
    Reply {
        /// Whose request.
        to: RequestId,
        /// The answer.
        reply: Result<Reply, Refusal>,
    },
    /// Show an event to everyone who watches.
    Publish(Arc<allot::ClusterEvent>),
    /// Show a commit to the store to everyone who watches keys of it.
    StoreChanged(Arc<StoreRecord>),
}

/// What operators and store clients ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// The cluster in numbers.
    GetCluster,
    /// Every agent.
    ListAgents,
    /// Every framework.
    ListFrameworks,
    /// Tasks that match.
    ListTasks(allot::ListTasksRequest),
    /// Every role.
    ListRoles,
    /// Kill a task.
    KillTask(allot::KillTaskRequest),
    /// Remove a framework for good.
    RemoveFramework(allot::RemoveFrameworkRequest),
    /// Set the weight of a role.
    SetWeight(allot::SetWeightRequest),
    /// Set or remove the quota of a role.
    SetQuota(allot::SetQuotaRequest),
    /// Deactivate, drain or activate an agent.
    SetAgent(allot::SetAgentRequest),
    /// Plan or cancel an agent's absence.
    SetMaintenance(allot::SetMaintenanceRequest),
    /// Reserve resources of an agent.
    Reserve(allot::ReserveRequest),
    /// End reservations on an agent.
    Unreserve(allot::ReserveRequest),
    /// Why things stand as they do.
    Why(allot::WhyRequest),
    /// The recent events; from then on the edge forwards every [`Effect::Publish`].
    Events(allot::EventsRequest),
    /// Change the key-value store.
    StoreCommit(allot::StoreCommitRequest),
    /// Read the key-value store.
    StoreList(allot::StoreListRequest),
    /// What a watcher begins with; the edge shows it every [`Effect::StoreChanged`] that it
    /// performs after the reply.
    StoreWatch(allot::StoreWatchRequest),
    /// Numbers for `/metrics`.
    Metrics,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::GetCluster`].
    Cluster(allot::ClusterView),
    /// To [`Request::ListAgents`].
    Agents(Vec<allot::AgentView>),
    /// To [`Request::ListFrameworks`].
    Frameworks(Vec<allot::FrameworkView>),
    /// To [`Request::ListTasks`].
    Tasks(Vec<allot::TaskView>),
    /// To [`Request::ListRoles`].
    Roles(Vec<allot::RoleView>),
    /// To requests that only act.
    Done,
    /// To requests that change a role.
    Role(Box<allot::RoleView>),
    /// To [`Request::SetQuota`].
    Quota(Box<allot::SetQuotaResponse>),
    /// To requests that change an agent.
    Agent(Box<allot::AgentView>),
    /// To [`Request::Why`].
    Why(allot::WhyResponse),
    /// To [`Request::Events`]: the past to show first.
    Events(Vec<Arc<allot::ClusterEvent>>),
    /// To [`Request::StoreCommit`]: the version of every key written.
    Committed(u64),
    /// To [`Request::StoreList`], in key order.
    Entries(Vec<(Arc<str>, StoredEntry)>),
    /// To [`Request::StoreWatch`].
    Watched {
        /// In key order.
        entries: Vec<(Arc<str>, StoredEntry)>,
        /// Of the latest commit.
        version: u64,
    },
    /// To [`Request::Metrics`].
    Metrics(Box<super::Metrics>),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It contradicts how things stand.
    #[error("{0}")]
    Precondition(String),
    /// A key of the store is not at the version that was expected.
    #[error(
        "key {:?} was expected at version {} but is at version {}; read it again and retry",
        .0.key, .0.expected_version, .0.found_version
    )]
    Conflict(allot::StoreConflict),
    /// A size limit was reached.
    #[error("{0}")]
    Exhausted(String),
}
