//! What must survive the master: its records, and the state they add up to.
//!
//! Records are protobuf messages so that they can be kept on disk and be replicated; fields are
//! only ever added. Tasks and offers are not here: agents and frameworks bring them back.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_proto::mesos;
use allotment_types::{AgentId, FrameworkId};
use bytes::Bytes;

/// The version of the records' meaning. A registry of a later version is refused.
pub const FORMAT: u64 = 1;

/// A change of the registry. Applying the same record twice changes nothing more.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Record {
    /// An agent was admitted or changed.
    #[prost(message, tag = "1")]
    Agent(AgentRecord),
    /// An agent is no longer a member.
    #[prost(string, tag = "2")]
    AgentRemoved(String),
    /// A framework registered, changed, or was removed for good.
    #[prost(message, tag = "3")]
    Framework(FrameworkRecord),
    /// A removed framework was so long ago that its id is forgotten.
    #[prost(string, tag = "4")]
    FrameworkForgotten(String),
    /// A commit to the key-value store.
    #[prost(message, tag = "5")]
    Store(StoreRecord),
    /// The weight of a role changed.
    #[prost(message, tag = "6")]
    Weight(WeightRecord),
    /// The quota of a role changed; without amounts it is removed.
    #[prost(message, tag = "7")]
    Quota(QuotaRecord),
    /// Operators want something else of an agent.
    #[prost(message, tag = "8")]
    Wish(WishRecord),
}

/// How much a role counts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WeightRecord {
    /// Which role.
    #[prost(string, required, tag = "1")]
    pub role: String,
    /// 1000 unless set.
    #[prost(uint64, required, tag = "2")]
    pub thousandths: u64,
}

/// What a role may have and is promised.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaRecord {
    /// Which role.
    #[prost(string, required, tag = "1")]
    pub role: String,
    /// In thousandths, by name.
    #[prost(btree_map = "string, uint64", tag = "2")]
    pub guarantees: BTreeMap<String, u64>,
    /// In thousandths, by name.
    #[prost(btree_map = "string, uint64", tag = "3")]
    pub limits: BTreeMap<String, u64>,
}

/// What operators want of an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WishRecord {
    /// Which agent.
    #[prost(string, required, tag = "1")]
    pub agent: String,
    /// Not to be offered.
    #[prost(bool, required, tag = "2")]
    pub deactivated: bool,
    /// Nothing is to run there.
    #[prost(bool, required, tag = "3")]
    pub draining: bool,
    /// Of a drain: nanoseconds between SIGTERM and SIGKILL; absent: what each task says.
    #[prost(uint64, optional, tag = "4")]
    pub grace: Option<u64>,
    /// When it is planned to be away: nanoseconds since the Unix epoch.
    #[prost(uint64, optional, tag = "5")]
    pub unavailable_from: Option<u64>,
    /// For how many nanoseconds; absent: for good.
    #[prost(uint64, optional, tag = "6")]
    pub unavailable_for: Option<u64>,
}

/// An admitted agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentRecord {
    /// As it registered, with its id.
    #[prost(message, required, tag = "1")]
    pub info: mesos::AgentInfo,
    /// Where it serves.
    #[prost(string, required, tag = "2")]
    pub url: String,
    /// Its software version.
    #[prost(string, required, tag = "3")]
    pub version: String,
    /// Nanoseconds since the Unix epoch; absent while it is reachable.
    #[prost(uint64, optional, tag = "4")]
    pub unreachable_since: Option<u64>,
}

/// A registered framework.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FrameworkRecord {
    /// As it subscribed, with its id.
    #[prost(message, required, tag = "1")]
    pub info: mesos::FrameworkInfo,
    /// Nanoseconds since the Unix epoch; absent while it is connected.
    #[prost(uint64, optional, tag = "2")]
    pub disconnected_since: Option<u64>,
    /// Nanoseconds since the Unix epoch; set: its id must never subscribe again.
    #[prost(uint64, optional, tag = "3")]
    pub removed_at: Option<u64>,
}

/// One commit to the key-value store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreRecord {
    /// Whose keys.
    #[prost(string, required, tag = "1")]
    pub namespace: String,
    /// The version of every key written here.
    #[prost(uint64, required, tag = "2")]
    pub version: u64,
    /// In any order, each key once.
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<StoreChange>,
}

/// One key of a commit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreChange {
    /// Which key.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Absent: the key is deleted.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub value: Option<Bytes>,
    /// With a value: how many milliseconds it stays unless it is written again.
    #[prost(uint64, optional, tag = "3")]
    pub lease_ms: Option<u64>,
}

/// A value of the store and the commit that wrote it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredEntry {
    /// The commit.
    #[prost(uint64, required, tag = "1")]
    pub version: u64,
    /// The value.
    #[prost(bytes = "bytes", required, tag = "2")]
    pub value: Bytes,
    /// How many milliseconds it stays unless it is written again; absent: for good.
    #[prost(uint64, optional, tag = "3")]
    pub lease_ms: Option<u64>,
}

/// The keys of one namespace.
pub type Namespace = BTreeMap<Arc<str>, StoredEntry>;

/// What all records so far add up to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registry {
    /// Admitted agents.
    pub agents: BTreeMap<AgentId, AgentRecord>,
    /// Registered and lately removed frameworks.
    pub frameworks: BTreeMap<FrameworkId, FrameworkRecord>,
    /// The key-value store.
    pub store: BTreeMap<Arc<str>, Namespace>,
    /// The version of the latest commit to the store.
    pub store_version: u64,
    /// Weights other than 1, in thousandths.
    pub weights: BTreeMap<String, u64>,
    /// Quotas, by role.
    pub quotas: BTreeMap<String, QuotaRecord>,
    /// What operators want of agents beside the usual.
    pub wishes: BTreeMap<AgentId, WishRecord>,
}

impl Registry {
    /// Takes a record in. One whose ids are malformed is ignored: the core never writes such.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Agent(agent) => {
                let id = agent.info.id.as_ref().map(AgentId::try_from);
                if let Some(Ok(id)) = id {
                    self.agents.insert(id, agent);
                }
            }
            Record::AgentRemoved(id) => {
                if let Ok(id) = AgentId::parse(&id) {
                    self.agents.remove(&id);
                    self.wishes.remove(&id);
                }
            }
            Record::Framework(framework) => {
                let id = framework.info.id.as_ref().map(FrameworkId::try_from);
                if let Some(Ok(id)) = id {
                    self.frameworks.insert(id, framework);
                }
            }
            Record::FrameworkForgotten(id) => {
                if let Ok(id) = FrameworkId::parse(&id) {
                    self.frameworks.remove(&id);
                }
            }
            Record::Weight(weight) => {
                if weight.thousandths == 1000 {
                    self.weights.remove(&weight.role);
                } else {
                    self.weights.insert(weight.role, weight.thousandths);
                }
            }
            Record::Quota(quota) => {
                if quota.guarantees.is_empty() && quota.limits.is_empty() {
                    self.quotas.remove(&quota.role);
                } else {
                    self.quotas.insert(quota.role.clone(), quota);
                }
            }
            Record::Wish(wish) => {
                if let Ok(id) = AgentId::parse(&wish.agent) {
                    let usual =
                        !wish.deactivated && !wish.draining && wish.unavailable_from.is_none();
                    if usual {
                        self.wishes.remove(&id);
                    } else {
                        self.wishes.insert(id, wish);
                    }
                }
            }
            Record::Store(commit) => {
                let version = commit.version;
                self.store_version = self.store_version.max(version);
                let namespace = self
                    .store
                    .entry(commit.namespace.as_str().into())
                    .or_default();
                for change in commit.changes {
                    match change.value {
                        Some(value) => {
                            let entry = StoredEntry {
                                version,
                                value,
                                lease_ms: change.lease_ms,
                            };
                            namespace.insert(change.key.as_str().into(), entry);
                        }
                        None => {
                            namespace.remove(change.key.as_str());
                        }
                    }
                }
                if namespace.is_empty() {
                    self.store.remove(commit.namespace.as_str());
                }
            }
        }
    }

    /// Records that add up to this registry.
    pub fn into_records(self) -> Vec<Record> {
        // By name, so that a new field cannot be forgotten here.
        let Self {
            agents,
            frameworks,
            store,
            store_version,
            weights,
            quotas,
            wishes,
        } = self;
        let mut records = Vec::new();
        records.extend(agents.into_values().map(Record::Agent));
        records.extend(frameworks.into_values().map(Record::Framework));
        for (namespace, entries) in store {
            records.extend(entries.into_iter().map(|(key, entry)| {
                Record::Store(StoreRecord {
                    namespace: namespace.to_string(),
                    version: entry.version,
                    changes: vec![StoreChange {
                        key: key.to_string(),
                        value: Some(entry.value),
                        lease_ms: entry.lease_ms,
                    }],
                })
            }));
        }
        let weight = |(role, thousandths)| Record::Weight(WeightRecord { role, thousandths });
        records.extend(weights.into_iter().map(weight));
        records.extend(quotas.into_values().map(Record::Quota));
        records.extend(wishes.into_values().map(Record::Wish));
        // The latest commit may have deleted its keys; its version must not be given again.
        records.push(Record::Store(StoreRecord {
            namespace: String::new(),
            version: store_version,
            changes: Vec::new(),
        }));
        records
    }
}
