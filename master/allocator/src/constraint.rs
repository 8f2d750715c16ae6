//! Offer constraints: which agents a framework wants offers of (Mesos 1.11:
//! `allocator.proto`, `OfferConstraints`).
//!
//! Groups are alternatives; the constraints of a group must all hold. An attribute that is no
//! text meets every constraint but `exists` and `not_exists`, which look at the name alone.

use std::fmt;

use allotment_types::{Attribute, AttributeValue, FaultDomain};
use regex::{Regex, RegexBuilder};

/// The most bytes a compiled expression may take: enough for patterns people write by hand, and
/// small enough that a thousand of them are no load.
const REGEX_BYTES_MAX: usize = 64 * 1024;

/// Any of these groups; none at all excludes every agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constraints {
    /// The alternatives.
    pub groups: Vec<Vec<Constraint>>,
}

/// One condition on an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// What to look at.
    pub selector: Selector,
    /// What must hold of it.
    pub predicate: Predicate,
}

/// What a constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The attributes of this name; any of them may meet the condition, for the negative ones all
    /// must.
    Attribute(String),
    /// The host name.
    Hostname,
    /// The region; absent when the agent names none.
    Region,
    /// The zone; absent when the agent names none.
    Zone,
}

/// What must hold.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
    /// It is there and this text (or no text).
    Equals(String),
    /// It is absent, or another text (or no text).
    NotEquals(String),
    /// It is there and the whole of it matches (or is no text).
    Matches(Regex),
    /// It is absent, or the whole of it does not match (or is no text).
    NotMatches(Regex),
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} cannot be used: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// Compiles a pattern that must match a text as a whole.
///
/// # Errors
/// [`PatternError`] when it is malformed or too large.
pub fn pattern(pattern: &str) -> Result<Regex, PatternError> {
    let refuse = |reason: String| PatternError {
        pattern: pattern.chars().take(80).collect(),
        reason,
    };
    // On its own first: `a)(b` must not become valid by what is put around it.
    Regex::new(pattern).map_err(|e| refuse(e.to_string()))?;
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|e| refuse(e.to_string()))
}

/// What constraints look at of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// Its attributes.
    pub attributes: &'a [Attribute],
    /// Where it stands.
    pub domain: Option<&'a FaultDomain>,
}

impl Constraints {
    /// Whether the agent is wanted.
    pub fn wants(&self, agent: Described<'_>) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.iter().all(|constraint| constraint.holds(agent)))
    }

    /// The first constraint that fails, of the group that gets farthest; `None` when the agent is
    /// wanted.
    pub fn failing(&self, agent: Described<'_>) -> Option<String> {
        let mut farthest: Option<(usize, &Constraint)> = None;
        for group in &self.groups {
            let at = group.iter().position(|c| !c.holds(agent))?;
            if farthest.is_none_or(|(best, _)| at > best) {
                farthest = Some((at, &group[at]));
            }
        }
        Some(farthest.map_or_else(
            || "the framework wants no agent at all".to_owned(),
            |(_, constraint)| constraint.to_string(),
        ))
    }
}

impl Constraint {
    /// Whether the agent meets it.
    pub fn holds(&self, agent: Described<'_>) -> bool {
        let found: Vec<Option<&str>> = match &self.selector {
            Selector::Hostname => vec![Some(agent.hostname)],
            Selector::Region => agent
                .domain
                .map(|d| Some(d.region.as_str()))
                .into_iter()
                .collect(),
            Selector::Zone => agent
                .domain
                .map(|d| Some(d.zone.as_str()))
                .into_iter()
                .collect(),
            Selector::Attribute(name) => agent
                .attributes
                .iter()
                .filter(|attribute| attribute.name == *name)
                .map(|attribute| match &attribute.value {
                    AttributeValue::Text(text) => Some(text.as_str()),
                    AttributeValue::Scalar(_)
                    | AttributeValue::Ranges(_)
                    | AttributeValue::Set(_) => None,
                })
                .collect(),
        };
        // `None` in the list is a value that is no text, of which Mesos says it always matches.
        let text = |test: &dyn Fn(&str) -> bool, value: Option<&str>| value.is_none_or(test);
        match &self.predicate {
            Predicate::Exists => !found.is_empty(),
            Predicate::NotExists => found.is_empty(),
            Predicate::Equals(wanted) => found.iter().any(|v| text(&|t| t == wanted, *v)),
            Predicate::NotEquals(wanted) => found.iter().all(|v| text(&|t| t != wanted, *v)),
            Predicate::Matches(regex) => found.iter().any(|v| text(&|t| regex.is_match(t), *v)),
            Predicate::NotMatches(regex) => found.iter().all(|v| text(&|t| !regex.is_match(t), *v)),
        }
    }
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exists, Self::Exists) | (Self::NotExists, Self::NotExists) => true,
            (Self::Equals(a), Self::Equals(b)) | (Self::NotEquals(a), Self::NotEquals(b)) => a == b,
            (Self::Matches(a), Self::Matches(b)) | (Self::NotMatches(a), Self::NotMatches(b)) => {
                a.as_str() == b.as_str()
            }
            _ => false,
        }
    }
}

impl fmt::Display for Constraint {
    /// `zone equals a`, `attribute rack exists`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Attribute(name) => write!(f, "attribute {name} ")?,
            Selector::Hostname => f.write_str("hostname ")?,
            Selector::Region => f.write_str("region ")?,
            Selector::Zone => f.write_str("zone ")?,
        }
        match &self.predicate {
            Predicate::Exists => f.write_str("exists"),
            Predicate::NotExists => f.write_str("does not exist"),
            Predicate::Equals(text) => write!(f, "equals {text:?}"),
            Predicate::NotEquals(text) => write!(f, "does not equal {text:?}"),
            Predicate::Matches(regex) => write!(f, "matches {:?}", regex.as_str()),
            Predicate::NotMatches(regex) => write!(f, "does not match {:?}", regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_types::Fixed;

    fn holds(selector: Selector, predicate: Predicate) -> bool {
        let attributes = [
            Attribute {
                name: "rack".to_owned(),
                value: AttributeValue::Text("r12".to_owned()),
            },
            Attribute {
                name: "level".to_owned(),
                value: AttributeValue::Scalar(Fixed::units(3)),
            },
        ];
        let agent = Described {
            hostname: "node-7",
            attributes: &attributes,
            domain: None,
        };
        Constraint {
            selector,
            predicate,
        }
        .holds(agent)
    }

    #[test]
    fn absent_selectors_meet_the_negative_conditions_alone() {
        let rack = || Selector::Attribute("rack".to_owned());
        assert!(holds(
            rack(),
            Predicate::Matches(pattern("r[0-9]+").unwrap())
        ));
        assert!(!holds(
            rack(),
            Predicate::Matches(pattern("[0-9]+").unwrap())
        ));
        assert!(!holds(Selector::Zone, Predicate::Exists));
        assert!(!holds(Selector::Zone, Predicate::Equals("a".to_owned())));
        assert!(holds(Selector::Zone, Predicate::NotEquals("a".to_owned())));
        assert!(holds(
            Selector::Hostname,
            Predicate::Equals("node-7".to_owned())
        ));
    }

    #[test]
    fn attributes_that_are_no_text_always_match() {
        let level = || Selector::Attribute("level".to_owned());
        assert!(holds(level(), Predicate::Equals("x".to_owned())));
        assert!(holds(level(), Predicate::NotEquals("3".to_owned())));
        assert!(!holds(level(), Predicate::NotExists));
    }

    #[test]
    fn hostile_patterns_are_refused() {
        assert!(pattern("(").is_err());
        assert!(pattern("a)(b").is_err());
        assert!(pattern("((a{100}){100}){100}").is_err());
    }

    #[test]
    fn the_failing_constraint_is_named_in_words() {
        let exists = |name: &str| Constraint {
            selector: Selector::Attribute(name.to_owned()),
            predicate: Predicate::Exists,
        };
        let constraints = Constraints {
            groups: vec![vec![exists("x")], vec![exists("y"), exists("z")]],
        };
        let y = Attribute {
            name: "y".to_owned(),
            value: AttributeValue::Text(String::new()),
        };
        let agent = Described {
            hostname: "h",
            attributes: &[y],
            domain: None,
        };
        let failing = constraints.failing(agent);
        assert_eq!(failing.as_deref(), Some("attribute z exists"));
        assert!(Constraints::default().failing(agent).is_some());
    }
}
