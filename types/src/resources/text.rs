//! The text form of Mesos' `--resources` flag.

use std::fmt;
use std::str::FromStr;

use super::{Fixed, Lot, Name, Ranges, Resources, Value};
use crate::Role;

impl fmt::Display for Resources {
    /// `cpus:1.5; cpus(web):2; ports:[31000-31004]`, as Mesos' `--resources` flag reads it, with
    /// what is special of a lot behind its name; `nothing` when empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (name, lot, value)) in self.iter().enumerate() {
            let semicolon = if i == 0 { "" } else { "; " };
            write!(f, "{semicolon}{name}{lot}:{value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text describes no resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read resource {part:?}: {reason}; write for example \
     `cpus:4; mem:2048; disk:10240; ports:[31000-32000]`"
)]
pub struct ParseError {
    part: String,
    reason: String,
}

impl FromStr for Resources {
    type Err = ParseError;

    /// Reads the text form of Mesos' `--resources` flag; `name(role)` is a static reservation, and
    /// `(*)` none.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut resources = Self::EMPTY;
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let refuse = |reason: String| ParseError {
                part: part.to_owned(),
                reason,
            };
            let (name, value) = part
                .split_once(':')
                .ok_or_else(|| refuse("there is no `:`".to_owned()))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() {
                return Err(refuse("the name is empty".to_owned()));
            }
            let (name, lot) = parse_name(name).map_err(refuse)?;
            if resources.get(&name, &lot).is_some() {
                return Err(refuse(format!("{name}{lot} is given twice")));
            }
            let value = parse_value(value).map_err(refuse)?;
            resources = resources.with(name, lot, value);
        }
        Ok(resources)
    }
}

/// `cpus` or `cpus(role)`.
fn parse_name(text: &str) -> Result<(Name, Lot), String> {
    let Some((name, rest)) = text.split_once('(') else {
        if let Some(odd) = text.find(['[', '{', '<']) {
            let odd = &text[odd..];
            return Err(format!("the text form has no {odd:?} behind a name"));
        }
        return Ok((Name::from(text), Lot::PLAIN));
    };
    let role = rest
        .strip_suffix(')')
        .ok_or_else(|| "the `(` is never closed".to_owned())?;
    let (name, role) = (name.trim(), role.trim());
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    let role = Role::parse(role).map_err(|e| e.to_string())?;
    let lot = if role == Role::star() {
        Lot::PLAIN
    } else {
        Lot::reserved_statically(role)
    };
    Ok((Name::from(name), lot))
}

fn parse_value(text: &str) -> Result<Value, String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let mut ranges = Vec::new();
        for range in inner.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            let (begin, end) = range.split_once('-').unwrap_or((range, range));
            let number = |n: &str| n.trim().parse::<u64>().map_err(|e| format!("{n:?}: {e}"));
            let (begin, end) = (number(begin)?, number(end)?);
            if begin > end {
                return Err(format!("the range {begin}-{end} ends before it begins"));
            }
            ranges.push((begin, end));
        }
        return Ok(Value::Ranges(Ranges::new(ranges)));
    }
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let items = inner
            .split(',')
            .map(|i| i.trim().to_owned())
            .filter(|i| !i.is_empty());
        return Ok(Value::Set(items.collect()));
    }
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    Fixed::from_f64(number)
        .map(Value::Scalar)
        .map_err(|e| e.to_string())
}
