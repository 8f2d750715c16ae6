//! Placement constraints: which offers an app accepts for reasons other than amounts.
//!
//! Operators follow Marathon; where Marathon's GROUP_BY without a value divides by zero, ours
//! spreads over the values seen so far.

use std::collections::{BTreeMap, BTreeSet};

use allotment_framework_sdk::{Attribute, AttributeValue};
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a field is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// No two instances share a value.
    Unique,
    /// All instances share one value.
    Cluster,
    /// Instances are spread evenly over values.
    GroupBy,
    /// At most so many instances share a value.
    MaxPer,
    /// The value matches a regular expression in full.
    Like,
    /// The value does not match, or is missing.
    Unlike,
    /// The value is this.
    Is,
}

impl Operator {
    /// Reads the operator's name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "UNIQUE" => Self::Unique,
            "CLUSTER" => Self::Cluster,
            "GROUP_BY" => Self::GroupBy,
            "MAX_PER" => Self::MaxPer,
            "LIKE" => Self::Like,
            "UNLIKE" => Self::Unlike,
            "IS" => Self::Is,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unique => "UNIQUE",
            Self::Cluster => "CLUSTER",
            Self::GroupBy => "GROUP_BY",
            Self::MaxPer => "MAX_PER",
            Self::Like => "LIKE",
            Self::Unlike => "UNLIKE",
            Self::Is => "IS",
        }
    }
}

/// `["hostname", "UNIQUE"]`.
#[derive(Debug, Clone)]
pub struct Constraint {
    /// `hostname`, `@hostname` or an agent attribute.
    pub field: String,
    /// How it is judged.
    pub operator: Operator,
    /// What with.
    pub value: Option<String>,
    regex: Option<Regex>,
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        (&self.field, self.operator, &self.value) == (&other.field, other.operator, &other.value)
    }
}

/// Compiled expressions stay below this many bytes, so that no definition can take all memory.
const REGEX_LEN_MAX: usize = 256 * 1024;

impl Constraint {
    /// Checks a constraint from outside.
    ///
    /// # Errors
    /// A sentence when the operator is unknown, its value is missing, superfluous or malformed.
    pub fn new(parts: &[String]) -> Result<Self, String> {
        let (field, operator, value) = match parts {
            [field, operator] => (field, operator, None),
            [field, operator, value] => (field, operator, Some(value.clone())),
            _ => {
                return Err(format!(
                    "a constraint has 2 or 3 parts, [field, operator, value?], not {}",
                    parts.len()
                ));
            }
        };
        if field.is_empty() {
            return Err("the field is empty; name hostname or an agent attribute".to_owned());
        }
        if matches!(field.as_str(), "@region" | "@zone") {
            return Err(format!(
                "{field} is not supported yet: agents have no fault domains here"
            ));
        }
        let operator = Operator::parse(operator).ok_or_else(|| {
            format!(
                "operator {operator:?} is unknown; use one of UNIQUE, CLUSTER, GROUP_BY, \
                 MAX_PER, LIKE, UNLIKE, IS"
            )
        })?;
        let mut regex = None;
        match (operator, &value) {
            (Operator::Unique, Some(_)) => return Err("UNIQUE takes no value".to_owned()),
            (Operator::Unique, None) | (Operator::Cluster, _) | (Operator::GroupBy, None) => {}
            (Operator::GroupBy, Some(text)) => {
                if text.parse::<u32>().is_err() && text != "inf" {
                    return Err(format!("GROUP_BY takes a number, not {text:?}"));
                }
            }
            (Operator::MaxPer, Some(text)) if text.parse::<u32>().is_ok() => {}
            (Operator::MaxPer, _) => return Err("MAX_PER needs a number as its value".to_owned()),
            (Operator::Like | Operator::Unlike, Some(text)) => {
                let built = regex::RegexBuilder::new(&format!("^(?:{text})$"))
                    .size_limit(REGEX_LEN_MAX)
                    .build()
                    .map_err(|e| format!("{text:?} is no regular expression: {e}"))?;
                regex = Some(built);
            }
            (Operator::Like | Operator::Unlike, None) => {
                return Err(format!(
                    "{} needs a regular expression as its value",
                    operator.name()
                ));
            }
            (Operator::Is, Some(text)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
                if !text.chars().all(plain) {
                    return Err(format!("IS takes letters, digits and `_/.-`, not {text:?}"));
                }
            }
            (Operator::Is, None) => return Err("IS needs a value".to_owned()),
        }
        Ok(Self {
            field: field.clone(),
            operator,
            value,
            regex,
        })
    }

    /// The constraint as its parts.
    pub fn parts(&self) -> Vec<&str> {
        let mut parts = vec![self.field.as_str(), self.operator.name()];
        parts.extend(self.value.as_deref());
        parts
    }

    /// Judges `place`, given where the other instances are.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub fn judge(&self, place: &Place, peers: &Peers<'_>) -> Result<(), String> {
        let value = place.get(&self.field);
        let Some(value) = value else {
            return match self.operator {
                Operator::Unlike => Ok(()),
                _ => Err(format!("the agent has no attribute {:?}", self.field)),
            };
        };
        let groups = peers.groups(&self.field);
        let here = groups.get(value).copied().unwrap_or(0);
        let field = &self.field;
        match self.operator {
            Operator::Unique if here > 0 => Err(format!(
                "an instance is already on {field} {value} and {field} must be UNIQUE"
            )),
            Operator::Unique => Ok(()),
            Operator::Cluster => {
                let wanted = self.value.as_deref().filter(|v| !v.is_empty());
                let wanted = wanted.or_else(|| groups.keys().next().copied());
                match wanted {
                    Some(wanted) if wanted != value => Err(format!(
                        "{field} is {value} and all instances go to {wanted}"
                    )),
                    _ => Ok(()),
                }
            }
            Operator::MaxPer => {
                let most = self.number().unwrap_or(0);
                if here < most {
                    Ok(())
                } else {
                    Err(format!(
                        "{here} instances are on {field} {value} and MAX_PER is {most}"
                    ))
                }
            }
            Operator::GroupBy => self.judge_group(value, here, &groups, peers),
            Operator::Like => match &self.regex {
                Some(regex) if regex.is_match(value) => Ok(()),
                _ => Err(format!(
                    "{field} is {value}, which is not LIKE {}",
                    self.value.as_deref().unwrap_or_default()
                )),
            },
            Operator::Unlike => match &self.regex {
                Some(regex) if regex.is_match(value) => Err(format!(
                    "{field} is {value}, which must be UNLIKE {}",
                    self.value.as_deref().unwrap_or_default()
                )),
                _ => Ok(()),
            },
            Operator::Is => {
                let wanted = self.value.as_deref().unwrap_or_default();
                if same_text_or_number(wanted, value) {
                    Ok(())
                } else {
                    Err(format!("{field} is {value}, not {wanted}"))
                }
            }
        }
    }

    fn judge_group(
        &self,
        value: &str,
        here: u32,
        groups: &BTreeMap<&str, u32>,
        peers: &Peers<'_>,
    ) -> Result<(), String> {
        let field = &self.field;
        if self.value.as_deref() == Some("inf") {
            return if here == 0 {
                Ok(())
            } else {
                Err(format!("{field} {value} already has an instance"))
            };
        }
        let given = self.number().filter(|n| *n > 0);
        let Some(wanted) = given else {
            // Even over every value seen: never more than the emptiest has.
            let known = peers.seen.get(field);
            let least = known
                .into_iter()
                .flatten()
                .map(|v| groups.get(v.as_str()).copied().unwrap_or(0))
                .chain(groups.values().copied())
                .min()
                .unwrap_or(0);
            return if here <= least {
                Ok(())
            } else {
                Err(format!(
                    "{field} {value} has {here} instances while another value has {least}"
                ))
            };
        };
        let n_groups = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        if here == 0 && n_groups >= wanted {
            return Err(format!(
                "instances are already spread over {n_groups} values of {field}, as many as asked"
            ));
        }
        let floor = peers.instances / wanted;
        let larger = peers.instances % wanted;
        let n_larger = groups.values().filter(|n| **n > floor).count();
        let n_larger = u32::try_from(n_larger).unwrap_or(u32::MAX);
        if here < floor || (here == floor && n_larger < larger) {
            Ok(())
        } else {
            Err(format!(
                "{field} {value} has {here} instances, its share of {} over {wanted} values",
                peers.instances
            ))
        }
    }

    fn number(&self) -> Option<u32> {
        self.value.as_deref().and_then(|v| v.parse().ok())
    }
}

fn same_text_or_number(a: &str, b: &str) -> bool {
    let number = |text: &str| {
        let value: f64 = text.parse().ok()?;
        value.is_finite().then(|| format!("{value:.3}"))
    };
    a == b || number(a).is_some_and(|x| number(b) == Some(x))
}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parts().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = Vec::<String>::deserialize(deserializer)?;
        Self::new(&parts).map_err(serde::de::Error::custom)
    }
}

/// What constraints can see of an agent: field to value, `hostname` among them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place(BTreeMap<String, String>);

impl Place {
    /// The place with this host name and these attributes; the first of a name counts.
    pub fn new(hostname: &str, attributes: &[Attribute]) -> Self {
        let mut fields = BTreeMap::new();
        for attribute in attributes {
            fields
                .entry(attribute.name.clone())
                .or_insert_with(|| attribute_text(&attribute.value));
        }
        fields.insert("hostname".to_owned(), hostname.to_owned());
        Self(fields)
    }

    /// The place with this host name and attributes written `name:value`.
    pub fn from_texts(hostname: &str, attributes: &[String]) -> Self {
        let mut fields = BTreeMap::new();
        for (name, value) in attributes.iter().filter_map(|a| a.split_once(':')) {
            fields
                .entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        fields.insert("hostname".to_owned(), hostname.to_owned());
        Self(fields)
    }

    /// Every field and its value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(field, value)| (field.as_str(), value.as_str()))
    }

    /// The same place with only these fields.
    #[must_use]
    pub fn only<'a>(&self, fields: impl Iterator<Item = &'a str>) -> Self {
        let kept = fields.filter_map(|field| Some((field.to_owned(), self.get(field)?.to_owned())));
        Self(kept.collect())
    }

    /// The value of `field`.
    pub fn get(&self, field: &str) -> Option<&str> {
        let plain = if field == "@hostname" {
            "hostname"
        } else {
            field
        };
        self.0
            .get(plain)
            .or_else(|| self.0.get(field))
            .map(String::as_str)
    }
}

/// Attributes as Marathon prints them.
fn attribute_text(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Scalar(number) => number.to_string(),
        AttributeValue::Ranges(ranges) => {
            let parts: Vec<String> = ranges.iter().map(|(b, e)| format!("{b}-{e}")).collect();
            format!("[{}]", parts.join(","))
        }
        AttributeValue::Set(items) => {
            let mut items = items.clone();
            items.sort();
            format!("{{{}}}", items.join(","))
        }
    }
}

/// The other instances of an app, as constraints see them.
#[derive(Debug)]
pub struct Peers<'a> {
    /// Where they are.
    pub places: Vec<&'a Place>,
    /// How many the app wants in all.
    pub instances: u32,
    /// Every value seen of each field, of the agents known so far.
    pub seen: &'a BTreeMap<String, BTreeSet<String>>,
}

impl Peers<'_> {
    fn groups(&self, field: &str) -> BTreeMap<&str, u32> {
        let mut groups = BTreeMap::new();
        for value in self.places.iter().filter_map(|place| place.get(field)) {
            *groups.entry(value).or_insert(0) += 1;
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constraint(parts: &[&str]) -> Result<Constraint, String> {
        let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
        Constraint::new(&parts)
    }

    fn place(text: &str) -> Place {
        let mut words = text.split(' ');
        let host = words.next().unwrap_or_default();
        Place::from_texts(host, &words.map(str::to_owned).collect::<Vec<_>>())
    }

    fn judged(parts: &[&str], instances: u32, peers: &[&str], here: &str) -> bool {
        let places: Vec<Place> = peers.iter().map(|p| place(p)).collect();
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for p in places.iter().chain([&place(here)]) {
            for (field, value) in &p.0 {
                seen.entry(field.clone()).or_default().insert(value.clone());
            }
        }
        let peers = Peers {
            places: places.iter().collect(),
            instances,
            seen: &seen,
        };
        let judged = constraint(parts).unwrap().judge(&place(here), &peers);
        judged.is_ok()
    }

    #[test]
    fn operators_accept_what_marathon_accepts() {
        assert!(judged(&["hostname", "UNIQUE"], 2, &["a"], "b"));
        assert!(!judged(&["hostname", "unique"], 2, &["a"], "a"));
        assert!(!judged(&["@hostname", "UNIQUE"], 2, &["a"], "a"));
        assert!(judged(&["rack", "CLUSTER", "r1"], 2, &[], "a rack:r1"));
        assert!(!judged(&["rack", "CLUSTER", "r1"], 2, &[], "a rack:r2"));
        assert!(!judged(
            &["rack", "CLUSTER"],
            2,
            &["a rack:r1"],
            "b rack:r2"
        ));
        assert!(judged(&["rack", "CLUSTER"], 2, &[], "b rack:r2"));
        assert!(judged(
            &["rack", "MAX_PER", "2"],
            5,
            &["a rack:r1"],
            "a rack:r1"
        ));
        assert!(!judged(
            &["rack", "MAX_PER", "1"],
            5,
            &["a rack:r1"],
            "b rack:r1"
        ));
        assert!(judged(&["hostname", "LIKE", "a.*"], 1, &[], "abc"));
        assert!(!judged(&["hostname", "LIKE", "b"], 1, &[], "abc"));
        assert!(!judged(&["hostname", "UNLIKE", "a.*"], 1, &[], "abc"));
        assert!(judged(&["gpu", "UNLIKE", "x"], 1, &[], "abc"));
        assert!(!judged(&["gpu", "LIKE", "x"], 1, &[], "abc"));
        assert!(judged(&["ram", "IS", "2.0"], 1, &[], "a ram:2"));
        assert!(!judged(&["ram", "IS", "3"], 1, &[], "a ram:2"));
    }

    #[test]
    fn group_by_spreads_evenly() {
        let two = ["a rack:r1", "b rack:r2"];
        assert!(judged(&["rack", "GROUP_BY", "2"], 4, &two, "c rack:r1"));
        assert!(!judged(&["rack", "GROUP_BY", "2"], 4, &two, "c rack:r3"));
        let uneven = ["a rack:r1", "a rack:r1", "b rack:r2"];
        assert!(!judged(&["rack", "GROUP_BY", "2"], 4, &uneven, "c rack:r1"));
        assert!(judged(&["rack", "GROUP_BY", "2"], 5, &two, "c rack:r1"));
        assert!(!judged(&["rack", "GROUP_BY"], 4, &uneven, "c rack:r1"));
        assert!(judged(&["rack", "GROUP_BY"], 4, &uneven, "c rack:r2"));
        assert!(judged(&["rack", "GROUP_BY"], 4, &uneven, "c rack:r3"));
    }

    #[test]
    fn malformed_constraints_are_refused_with_a_sentence() {
        for parts in [
            &["hostname"][..],
            &["hostname", "NEAR"],
            &["hostname", "UNIQUE", "x"],
            &["rack", "MAX_PER"],
            &["rack", "MAX_PER", "x"],
            &["rack", "GROUP_BY", "x"],
            &["rack", "LIKE"],
            &["rack", "LIKE", "("],
            &["rack", "LIKE", "(a{1000}){1000}"],
            &["rack", "IS", "a b"],
            &["rack", "IS"],
            &["@zone", "GROUP_BY"],
            &["", "UNIQUE"],
            &["a", "LIKE", "b", "c"],
        ] {
            assert!(constraint(parts).is_err(), "{parts:?} was accepted");
        }
    }
}
