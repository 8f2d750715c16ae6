//! Attributes: what an agent says about itself beyond resources, for frameworks to choose by.

use std::fmt;
use std::str::FromStr;

use allotment_proto::mesos;
use allotment_types::{Fixed, Ranges, Resources, Value};

/// What an attribute says.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Scalar(Fixed),
    Ranges(Ranges),
    Text(String),
}

/// A list of named facts; names may repeat and the order is kept, as in Mesos.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attributes(Vec<(String, Said)>);

/// Why a text holds no attributes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read attribute {part:?}: {reason}; write for example `rack:r7; cores:8; vlan:[1-4]`"
)]
pub struct AttributesError {
    part: String,
    reason: &'static str,
}

impl Attributes {
    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(held, _)| held == name)
    }

    /// Appends a text.
    pub fn push_text(&mut self, name: &str, text: &str) {
        self.0.push((name.to_owned(), Said::Text(text.to_owned())));
    }

    /// As the wire carries them.
    pub fn to_wire(&self) -> Vec<mesos::Attribute> {
        let wire = |(name, said): &(String, Said)| {
            let mut attribute = mesos::Attribute {
                name: name.clone(),
                ..Default::default()
            };
            match said {
                Said::Scalar(amount) => {
                    attribute.set_type(mesos::value::Type::Scalar);
                    attribute.scalar = Some(mesos::value::Scalar {
                        value: amount.as_f64(),
                    });
                }
                Said::Ranges(ranges) => {
                    attribute.set_type(mesos::value::Type::Ranges);
                    let range = ranges
                        .iter()
                        .map(|(begin, end)| mesos::value::Range { begin, end })
                        .collect();
                    attribute.ranges = Some(mesos::value::Ranges { range });
                }
                Said::Text(text) => {
                    attribute.set_type(mesos::value::Type::Text);
                    attribute.text = Some(mesos::value::Text {
                        value: text.clone(),
                    });
                }
            }
            attribute
        };
        self.0.iter().map(wire).collect()
    }
}

impl FromStr for Attributes {
    type Err = AttributesError;

    /// Reads the text form of Mesos' `--attributes` flag: a number is a scalar, `[1-4]` are
    /// ranges, everything else is a text.
    fn from_str(text: &str) -> Result<Self, AttributesError> {
        let mut attributes = Vec::new();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let refuse = |reason| AttributesError {
                part: part.to_owned(),
                reason,
            };
            let (name, value) = part
                .split_once(':')
                .ok_or_else(|| refuse("there is no `:`"))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() {
                return Err(refuse("the name is empty"));
            }
            if value.is_empty() {
                return Err(refuse("the value is empty"));
            }
            let said = if value.starts_with('[') {
                // Ranges of attributes are written like ranges of resources.
                let ranges: Resources = format!("ports:{value}")
                    .parse()
                    .map_err(|_| refuse("these are no ranges"))?;
                Said::Ranges(ranges.ports())
            } else {
                match value.parse().map(Fixed::from_f64) {
                    Ok(Ok(amount)) => Said::Scalar(amount),
                    Ok(Err(_)) | Err(_) => Said::Text(value.to_owned()),
                }
            };
            attributes.push((name.to_owned(), said));
        }
        Ok(Self(attributes))
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, said)) in self.0.iter().enumerate() {
            let semicolon = if i == 0 { "" } else { "; " };
            let said = match said {
                Said::Scalar(amount) => Value::Scalar(*amount).to_string(),
                Said::Ranges(ranges) => ranges.to_string(),
                Said::Text(text) => text.clone(),
            };
            write!(f, "{semicolon}{name}:{said}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_keep_their_order_types_and_repetitions() {
        let text = "rack:r7; cores:8.5; vlan:[1-4, 7-7]; rack:r8; zone:a:b";
        let attributes: Attributes = text.parse().unwrap();
        assert_eq!(attributes.to_string(), text);
        let types: Vec<_> = attributes.to_wire().iter().map(|a| a.r#type()).collect();
        use mesos::value::Type::{Ranges, Scalar, Text};
        assert_eq!(types, [Text, Scalar, Ranges, Text, Text]);
    }

    #[test]
    fn what_is_no_attribute_is_named() {
        for text in ["rack", ":x", "rack:", "vlan:[4-1]"] {
            assert!(text.parse::<Attributes>().is_err(), "{text} was accepted");
        }
    }
}
