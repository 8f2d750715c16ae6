//! What a framework wants to be offered: where, how much at least, and how much in all.

use std::collections::BTreeMap;

use allotment_types::{Fixed, Name, Resources, Role};

/// What a framework wants in its roles; the default wants anything from anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wants {
    /// By role, which agents it wants offers of; a role that is missing: of all.
    pub constraints: BTreeMap<Role, Constraints>,
    /// By role, the smallest offers that are worth anything: at least all amounts of any one of
    /// these. A role that is missing: what the cluster is configured to; an empty list: anything.
    pub min_allocatable: BTreeMap<Role, Vec<BTreeMap<Name, Fixed>>>,
}

/// Which agents: those that meet every constraint of at least one group. There must be a group,
/// and none may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Constraints {
    /// The alternatives, such as one for each kind of task.
    pub groups: Vec<Vec<Constraint>>,
}

/// One condition on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// What to look at.
    pub selector: Selector,
    /// What must hold of it.
    pub predicate: Predicate,
}

/// What a constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The attribute of this name.
    Attribute(String),
    /// The host name.
    Hostname,
    /// The region the agent says it is in.
    Region,
    /// The zone the agent says it is in.
    Zone,
}

/// What must hold. An attribute that is no text meets all but the first two, so that the
/// framework looks for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
    /// It is there and this text.
    Equals(String),
    /// It is absent, or another text.
    NotEquals(String),
    /// It is there and the whole of it matches this regular expression.
    Matches(String),
    /// It is absent, or the whole of it does not match.
    NotMatches(String),
}

impl Constraint {
    /// The attribute `name` must be `text`.
    pub fn attribute_is(name: &str, text: &str) -> Self {
        Self {
            selector: Selector::Attribute(name.to_owned()),
            predicate: Predicate::Equals(text.to_owned()),
        }
    }
}

/// What a framework would use at once in one role; see [`crate::Call::Demand`].
///
/// It is offered agents where a bundle fits, as many bundles of each as fit, until `count` were
/// offered, and nothing else. Bundles that it declines do not come back by themselves: whoever
/// still wants them says so again. A demand ends with the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The smallest useful bundle: plain amounts; of `ports` only how many there are counts.
    pub bundle: Resources,
    /// How many bundles; 0: no offers until another demand is stated.
    pub count: u32,
    /// When no agent has room for one, keep what becomes free on one agent until it has. Bounded
    /// in time and per role.
    pub hole: bool,
}

/// What a framework can deal with beside the usual; without it, such resources are left out of
/// its offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Resources that may be taken away at any time.
    Revocable,
    /// Volumes that several tasks use at once.
    Shared,
    /// Agents with GPUs.
    Gpus,
    /// Agents in other regions than the master's.
    RegionAware,
}
