//! What an agent says of itself: attributes and where it stands.

use std::fmt;

use crate::{Fixed, Ranges};

/// One attribute of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name; names may repeat.
    pub name: String,
    /// Its value.
    pub value: AttributeValue,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A number.
    Scalar(Fixed),
    /// Ranges of numbers.
    Ranges(Ranges),
    /// A set of texts.
    Set(Vec<String>),
}

/// Where a machine stands; machines of one zone fail together (Mesos: `DomainInfo.FaultDomain`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultDomain {
    /// The larger part: far apart and slow to reach from each other.
    pub region: String,
    /// The smaller part, within the region.
    pub zone: String,
}

impl fmt::Display for FaultDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.zone)
    }
}
