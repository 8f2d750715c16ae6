//! What an agent says of itself: attributes and where it stands.

use std::fmt;
use std::str::FromStr;

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

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no domain; write it as region/zone, such as eu-west/rack-7")]
pub struct DomainError {
    /// The text, cut to a readable length.
    pub given: String,
}

impl FromStr for FaultDomain {
    type Err = DomainError;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let parts = text.split_once('/');
        let wrong = |part: &str| part.is_empty() || part.contains(['/', ' ', '\t', '\n']);
        match parts {
            Some((region, zone)) if !wrong(region) && !wrong(zone) => Ok(Self {
                region: region.to_owned(),
                zone: zone.to_owned(),
            }),
            _ => Err(DomainError {
                given: text.chars().take(80).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_region_and_a_zone() {
        let domain: FaultDomain = "eu-west/rack-7".parse().unwrap();
        assert_eq!((&*domain.region, &*domain.zone), ("eu-west", "rack-7"));
        assert_eq!(domain.to_string(), "eu-west/rack-7");
        for wrong in ["", "eu", "eu/", "/a", "eu/a/b", "eu/a b"] {
            let told = wrong.parse::<FaultDomain>().unwrap_err().to_string();
            assert!(told.contains("region/zone"), "{told}");
        }
    }
}
