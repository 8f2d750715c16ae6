//! Names of the metadata beside sessions; `agent.proto` says what those of agents are for.

/// Of the request: the `http://host:port` of the leader that the agent lost.
pub const LOST: &str = "allot-lost";
/// Of the request: the id of the cluster in which it was lost.
pub const OF_CLUSTER: &str = "allot-cluster";
/// Of the answer: the `host:port` of the master whose turn it is to lead next.
pub const HEIR: &str = "allot-heir";
/// Of the answer: the seconds over which all agents return then.
pub const SPREAD: &str = "allot-spread";
/// Of every refusal by a master that does not lead: the `http://host:port` of the one that does.
pub const LEADER: &str = "allot-leader";
