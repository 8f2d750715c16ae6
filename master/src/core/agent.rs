//! One agent: its registration, its state, and what happens on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use allotment_proto::mesos::value;
use allotment_proto::{convert, mesos};
use allotment_types::{
    AgentId, Attribute, FaultDomain, FrameworkId, Resources, Role, TaskId, Timestamp,
};

use super::attempts::Attempts;
use super::executors::{Executor, ExecutorKey};
use super::inverse::Answer;
use super::io::ConnId;
use super::registry::{AgentRecord, Record};
use super::wishes::Wish;

/// An agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentState {
    /// It has a session.
    Registered { session: ConnId, since: Timestamp },
    /// It lost its session and is unreachable at `until`.
    Disconnected { since: Timestamp, until: Timestamp },
    /// Known from the registry; not heard since this master started.
    Recovering { since: Timestamp, until: Timestamp },
    /// Given up until it comes back; its tasks may still run.
    Unreachable { since: Timestamp },
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    /// With the id set.
    pub(super) info: mesos::AgentInfo,
    pub(super) hostname: Arc<str>,
    pub(super) url: Arc<str>,
    pub(super) wire_url: Option<mesos::Url>,
    pub(super) version: String,
    pub(super) total: Resources,
    pub(super) state: AgentState,
    pub(super) tasks: BTreeSet<(FrameworkId, TaskId)>,
    /// Those that tasks share.
    pub(super) executors: BTreeMap<ExecutorKey, Executor>,
    /// Numbers of the outstanding offers of its resources.
    pub(super) offers: BTreeSet<u64>,
    /// Sums of its tasks with executors, and of offers; of shared volumes, a copy for each.
    pub(super) allocated: Resources,
    pub(super) offered: Resources,
    /// Copies of shared volumes that tasks hold beyond those that the allocation module handed
    /// out: an offer brings one copy, and any number of tasks may use it.
    pub(super) unbacked: BTreeMap<(FrameworkId, Role), Resources>,
    /// What operators want of it.
    pub(super) wish: Wish,
    /// What frameworks said when they were asked to leave.
    pub(super) answers: BTreeMap<FrameworkId, Answer>,
    pub(super) attempts: Attempts,
}

impl Agent {
    pub(super) fn new(id: AgentId, info: mesos::AgentInfo, url: String, state: AgentState) -> Self {
        let total = convert::resources_from_wire(&info.resources).unwrap_or_default();
        Self {
            id,
            hostname: info.hostname.as_str().into(),
            wire_url: parse_url(&url),
            url: url.into(),
            version: String::new(),
            info,
            total,
            state,
            tasks: BTreeSet::new(),
            executors: BTreeMap::new(),
            offers: BTreeSet::new(),
            allocated: Resources::EMPTY,
            offered: Resources::EMPTY,
            unbacked: BTreeMap::new(),
            wish: Wish::default(),
            answers: BTreeMap::new(),
            attempts: Attempts::default(),
        }
    }

    pub(super) fn session(&self) -> Option<ConnId> {
        match self.state {
            AgentState::Registered { session, .. } => Some(session),
            AgentState::Disconnected { .. }
            | AgentState::Recovering { .. }
            | AgentState::Unreachable { .. } => None,
        }
    }

    /// Whether the allocation module counts its resources.
    pub(super) fn is_allocatable(&self) -> bool {
        match self.state {
            AgentState::Registered { .. } | AgentState::Disconnected { .. } => true,
            AgentState::Recovering { .. } | AgentState::Unreachable { .. } => false,
        }
    }

    /// What nobody holds; shared volumes are always here.
    pub(super) fn free(&self) -> Resources {
        let mut free = self.total.clone();
        free.subtract(&self.allocated.unshared());
        free.subtract(&self.offered.unshared());
        free
    }

    /// The same with each shared volume counted once, however many hold it.
    pub(super) fn once(&self, held: &Resources) -> Resources {
        let shared = held.shared();
        let once = self.total.filter(|name, lot| {
            lot.is_shared() && shared.iter().any(|(n, l, _)| n == name && l == lot)
        });
        held.unshared().plus(&once)
    }

    /// The resources became others of the same amounts.
    pub(super) fn convert(&mut self, from: &Resources, to: &Resources) {
        self.total.subtract(from);
        self.total.add(to);
        self.info.resources = convert::resources_to_wire(&self.total, None);
    }

    /// Of what a task lets go, the part that the allocation module must hear of.
    pub(super) fn settle(
        &mut self,
        framework: &FrameworkId,
        role: &Role,
        released: &Resources,
    ) -> Resources {
        let key = (framework.clone(), role.clone());
        let Some(unbacked) = self.unbacked.get_mut(&key) else {
            return released.clone();
        };
        let mut backed = released.clone();
        backed.subtract(&unbacked.clone());
        unbacked.subtract(released);
        if unbacked.is_empty() {
            self.unbacked.remove(&key);
        }
        backed
    }

    /// What it says of itself; what cannot be understood was refused when it registered.
    pub(super) fn attributes(&self) -> Vec<Attribute> {
        let read = self
            .info
            .attributes
            .iter()
            .map(convert::attribute_from_wire);
        read.filter_map(Result::ok).collect()
    }

    pub(super) fn domain(&self) -> Option<FaultDomain> {
        convert::domain_from_wire(self.info.domain.as_ref()?)
    }

    pub(super) fn record(&self) -> Record {
        let unreachable_since = match self.state {
            AgentState::Unreachable { since } => Some(since.as_nanos()),
            AgentState::Registered { .. }
            | AgentState::Disconnected { .. }
            | AgentState::Recovering { .. } => None,
        };
        Record::Agent(AgentRecord {
            info: self.info.clone(),
            url: self.url.to_string(),
            version: self.version.clone(),
            unreachable_since,
        })
    }
}

/// The agent's `http://host:port` in Mesos' parts; `None` when it is no such URL.
pub(super) fn parse_url(url: &str) -> Option<mesos::Url> {
    let rest = url.strip_prefix("http://")?;
    let authority = rest.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty()
        || bare.contains(['/', '?', '#', '@'])
        || bare.chars().any(char::is_whitespace)
    {
        return None;
    }
    let is_ip = bare.parse::<std::net::IpAddr>().is_ok();
    if host.contains(':') && !(is_ip && host.starts_with('[') && host.ends_with(']')) {
        return None;
    }
    Some(mesos::Url {
        scheme: "http".to_owned(),
        address: mesos::Address {
            hostname: Some(host.to_owned()),
            ip: is_ip.then(|| bare.to_owned()),
            port: port.into(),
        },
        ..Default::default()
    })
}

/// `name:value`, as an agent declares it.
pub(super) fn print_attribute(attribute: &mesos::Attribute) -> String {
    let name = &attribute.name;
    let value = match attribute.r#type() {
        value::Type::Scalar => attribute.scalar.as_ref().map(|s| s.value.to_string()),
        value::Type::Text => attribute.text.as_ref().map(|t| t.value.clone()),
        value::Type::Ranges => attribute.ranges.as_ref().map(|r| {
            let ranges: Vec<String> = r
                .range
                .iter()
                .map(|r| format!("{}-{}", r.begin, r.end))
                .collect();
            format!("[{}]", ranges.join(", "))
        }),
        value::Type::Set => attribute
            .set
            .as_ref()
            .map(|s| format!("{{{}}}", s.item.join(","))),
    };
    format!("{name}:{}", value.unwrap_or_default())
}

/// Why an attribute was refused; `None` when it is fine.
pub(super) fn attribute_fault(attribute: &mesos::Attribute) -> Option<&'static str> {
    if attribute.name.is_empty() {
        return Some("has no name");
    }
    if attribute.name.len() > 1024 {
        return Some("has a name longer than 1024 bytes");
    }
    match attribute.r#type() {
        value::Type::Scalar => match &attribute.scalar {
            Some(scalar) if scalar.value.is_finite() => None,
            Some(_) => Some("is no finite number"),
            None => Some("says it is a scalar but carries none"),
        },
        value::Type::Text => match &attribute.text {
            Some(text) if text.value.len() <= 4096 => None,
            Some(_) => Some("has a text longer than 4096 bytes"),
            None => Some("says it is a text but carries none"),
        },
        value::Type::Ranges => match &attribute.ranges {
            Some(ranges) if ranges.range.iter().all(|r| r.begin <= r.end) => None,
            Some(_) => Some("has a range that ends before it begins"),
            None => Some("says it is ranges but carries none"),
        },
        value::Type::Set => {
            if attribute.set.is_some() {
                None
            } else {
                Some("says it is a set but carries none")
            }
        }
    }
}
