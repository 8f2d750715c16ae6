//! Resources in exact fixed point: what agents have, offers hold and tasks ask.
//!
//! Scalars count thousandths, as Mesos compares them (`src/common/values.cpp`), so that
//! conservation can be tested with `==`. Reservations, volumes and revocable resources are
//! not known here yet; whoever reads the wire refuses them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The name of a kind of resource: `cpus`, `mem`, `disk`, `gpus`, `ports` or a custom one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Cow<'static, str>);

impl Name {
    /// Cores.
    pub const CPUS: Self = Self(Cow::Borrowed("cpus"));
    /// MiB of memory.
    pub const MEM: Self = Self(Cow::Borrowed("mem"));
    /// MiB of disk.
    pub const DISK: Self = Self(Cow::Borrowed("disk"));
    /// Whole GPUs.
    pub const GPUS: Self = Self(Cow::Borrowed("gpus"));
    /// Host ports.
    pub const PORTS: Self = Self(Cow::Borrowed("ports"));

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit that people expect after a quantity, with a leading space; empty for custom names.
    pub fn unit(&self) -> &'static str {
        match self.as_str() {
            "mem" | "disk" => " MiB",
            _ => "",
        }
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        match name {
            "cpus" => Self::CPUS,
            "mem" => Self::MEM,
            "disk" => Self::DISK,
            "gpus" => Self::GPUS,
            "ports" => Self::PORTS,
            other => Self(Cow::Owned(other.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A non-negative amount in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fixed(u64);

/// Why a number is no amount.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is no amount; it must be between 0 and {max} with at most three decimals kept")]
pub struct AmountError {
    value: f64,
    max: u64,
}

impl Fixed {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The largest amount accepted from outside, in whole units: 10^12, a thousand times the
    /// memory in MiB of the largest machines, and small enough that the sum over a million
    /// agents cannot overflow.
    pub const MAX_UNITS: u64 = 1_000_000_000_000;

    /// `units` whole units.
    pub const fn units(units: u64) -> Self {
        Self(units * 1000)
    }

    /// `thousandths` thousandths of a unit.
    pub const fn from_thousandths(thousandths: u64) -> Self {
        Self(thousandths)
    }

    /// Rounds to thousandths, as Mesos does.
    ///
    /// # Errors
    /// [`AmountError`] for NaN, infinities, negative numbers and more than [`Self::MAX_UNITS`].
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked first"
    )]
    pub fn from_f64(value: f64) -> Result<Self, AmountError> {
        if !(0.0..=Self::MAX_UNITS as f64).contains(&value) {
            return Err(AmountError {
                value,
                max: Self::MAX_UNITS,
            });
        }
        Ok(Self((value * 1000.0).round() as u64))
    }

    /// Thousandths of a unit.
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// Whole units, rounded down.
    pub const fn whole(self) -> u64 {
        self.0 / 1000
    }

    /// As the wire writes it.
    #[expect(
        clippy::cast_precision_loss,
        reason = "amounts stay far below 2^53 thousandths"
    )]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// `self - other`, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self + other`, or the largest representable amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// No amount at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Fixed {
    /// Without trailing zeros: `1.5`, `64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// A set of numbers kept as sorted, disjoint, non-adjacent ranges with both ends included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// No number.
    pub const EMPTY: Self = Self(Vec::new());

    /// Sorts and joins; ranges whose end lies before their begin hold nothing.
    pub fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<(u64, u64)> = ranges.into_iter().filter(|(b, e)| b <= e).collect();
        sorted.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (begin, end) in sorted {
            match joined.last_mut() {
                Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => joined.push((begin, end)),
            }
        }
        Self(joined)
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Every number in ascending order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(b, e)| *b..=*e)
    }

    /// How many numbers; saturates.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (b, e)| {
            sum.saturating_add((e - b).saturating_add(1))
        })
    }

    /// No number at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every number of `other` is here.
    pub fn contains(&self, other: &Self) -> bool {
        let mut mine = self.0.iter();
        let mut current = mine.next();
        other.0.iter().all(|(b, e)| {
            while current.is_some_and(|(_, end)| end < b) {
                current = mine.next();
            }
            current.is_some_and(|(begin, end)| begin <= b && e <= end)
        })
    }

    /// The numbers of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.iter().chain(other.iter()))
    }

    /// The numbers that are here and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut kept = Vec::with_capacity(self.0.len() + other.0.len());
        let mut cuts = other.0.iter().copied().peekable();
        for (mut begin, end) in self.iter() {
            let mut open = true;
            while let Some(&(cut_begin, cut_end)) = cuts.peek() {
                if cut_end < begin {
                    cuts.next();
                    continue;
                }
                if cut_begin > end {
                    break;
                }
                if cut_begin > begin {
                    kept.push((begin, cut_begin - 1));
                }
                if cut_end >= end {
                    open = false;
                    break;
                }
                begin = cut_end + 1;
                cuts.next();
            }
            if open {
                kept.push((begin, end));
            }
        }
        Self(kept)
    }

    /// Whether the two share a number.
    pub fn intersects(&self, other: &Self) -> bool {
        self.difference(other) != *self
    }
}

impl fmt::Display for Ranges {
    /// `[31000-31004, 31010-31010]`, as Mesos prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (begin, end)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{begin}-{end}")?;
        }
        f.write_str("]")
    }
}

/// One kind's quantity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// An amount, such as cores or MiB.
    Scalar(Fixed),
    /// Numbers, such as ports.
    Ranges(Ranges),
    /// Named things.
    Set(BTreeSet<String>),
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(amount) => amount.is_zero(),
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(items) => items.is_empty(),
        }
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(mine), Self::Scalar(theirs)) => mine >= theirs,
            (Self::Ranges(mine), Self::Ranges(theirs)) => mine.contains(theirs),
            (Self::Set(mine), Self::Set(theirs)) => mine.is_superset(theirs),
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(amount) => amount.fmt(f),
            Self::Ranges(ranges) => ranges.fmt(f),
            Self::Set(items) => {
                write!(
                    f,
                    "{{{}}}",
                    items
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(",")
                )
            }
        }
    }
}

/// A bundle of resources, one value per name; names with nothing are absent.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Resources(BTreeMap<Name, Value>);

/// One kind of which there is too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Which kind.
    pub name: Name,
    /// How much was asked.
    pub asked: Value,
    /// How much was there; `None` when there was none of this kind.
    pub held: Option<Value>,
}

impl fmt::Display for Shortfall {
    /// `cpus: asked 4, there is 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.name.unit();
        match &self.held {
            Some(held) => {
                write!(
                    f,
                    "{}: asked {}{unit}, there is {held}{unit}",
                    self.name, self.asked
                )
            }
            None => write!(
                f,
                "{}: asked {}{unit}, there is none",
                self.name, self.asked
            ),
        }
    }
}

impl Resources {
    /// Nothing.
    pub const EMPTY: Self = Self(BTreeMap::new());

    /// Cores and MiB of memory, the common pair.
    pub fn cpus_mem(cpus: Fixed, mem: Fixed) -> Self {
        Self::EMPTY
            .with_scalar(Name::CPUS, cpus)
            .with_scalar(Name::MEM, mem)
    }

    /// The same with `amount` of `name` instead of what was there.
    #[must_use]
    pub fn with_scalar(self, name: Name, amount: Fixed) -> Self {
        self.with(name, Value::Scalar(amount))
    }

    /// The same with these numbers of `name` instead of what was there.
    #[must_use]
    pub fn with_ranges(self, name: Name, ranges: Ranges) -> Self {
        self.with(name, Value::Ranges(ranges))
    }

    /// The same with `value` of `name` instead of what was there.
    #[must_use]
    pub fn with(mut self, name: Name, value: Value) -> Self {
        if value.is_empty() {
            self.0.remove(&name);
        } else {
            self.0.insert(name, value);
        }
        self
    }

    /// What there is of `name`.
    pub fn get(&self, name: &Name) -> Option<&Value> {
        self.0.get(name)
    }

    /// The amount of `name`; zero when absent or no scalar.
    pub fn scalar(&self, name: &Name) -> Fixed {
        match self.0.get(name) {
            Some(Value::Scalar(amount)) => *amount,
            _ => Fixed::ZERO,
        }
    }

    /// Cores.
    pub fn cpus(&self) -> Fixed {
        self.scalar(&Name::CPUS)
    }

    /// MiB of memory.
    pub fn mem(&self) -> Fixed {
        self.scalar(&Name::MEM)
    }

    /// MiB of disk.
    pub fn disk(&self) -> Fixed {
        self.scalar(&Name::DISK)
    }

    /// Host ports.
    pub fn ports(&self) -> Ranges {
        match self.0.get(&Name::PORTS) {
            Some(Value::Ranges(ranges)) => ranges.clone(),
            _ => Ranges::EMPTY,
        }
    }

    /// Names and values in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Value)> {
        self.0.iter()
    }

    /// The scalars in name order.
    pub fn scalars(&self) -> impl Iterator<Item = (&Name, Fixed)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Scalar(amount) => Some((name, *amount)),
            Value::Ranges(_) | Value::Set(_) => None,
        })
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of `other` is here.
    pub fn contains(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(name, value)| self.0.get(name).is_some_and(|v| v.contains(value)))
    }

    /// Every kind of which `asked` wants more than there is, in name order.
    pub fn shortfalls(&self, asked: &Self) -> Vec<Shortfall> {
        asked
            .0
            .iter()
            .filter(|(name, value)| !self.0.get(name).is_some_and(|v| v.contains(value)))
            .map(|(name, value)| Shortfall {
                name: name.clone(),
                asked: value.clone(),
                held: self.0.get(name).cloned(),
            })
            .collect()
    }

    /// Adds `other`. Where the two hold different types under one name the left one is kept;
    /// the wire refuses such bundles before they get here.
    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            match (self.0.get_mut(name), value) {
                (Some(Value::Scalar(mine)), Value::Scalar(more)) => {
                    *mine = mine.saturating_add(*more);
                }
                (Some(Value::Ranges(mine)), Value::Ranges(more)) => *mine = mine.union(more),
                (Some(Value::Set(mine)), Value::Set(more)) => mine.extend(more.iter().cloned()),
                (Some(_), _) => {}
                (None, _) => {
                    self.0.insert(name.clone(), value.clone());
                }
            }
        }
    }

    /// Takes `other` away; what is not here cannot be taken and leaves nothing behind.
    pub fn subtract(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            match (self.0.get_mut(name), value) {
                (Some(Value::Scalar(mine)), Value::Scalar(less)) => {
                    *mine = mine.saturating_sub(*less);
                }
                (Some(Value::Ranges(mine)), Value::Ranges(less)) => *mine = mine.difference(less),
                (Some(Value::Set(mine)), Value::Set(less)) => mine.retain(|i| !less.contains(i)),
                (Some(_) | None, _) => continue,
            }
            if self.0.get(name).is_some_and(Value::is_empty) {
                self.0.remove(name);
            }
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.add(other);
        sum
    }

    /// The difference, as [`Self::subtract`].
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }
}

impl fmt::Display for Resources {
    /// `cpus:1.5; mem:64; ports:[31000-31004]`, as Mesos' `--resources` flag reads it;
    /// `nothing` when empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (name, value)) in self.0.iter().enumerate() {
            let semicolon = if i == 0 { "" } else { "; " };
            write!(f, "{semicolon}{name}:{value}")?;
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

    /// Reads the text form of Mesos' `--resources` flag.
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
            if name.contains('(') {
                return Err(refuse("reservations are not supported yet".to_owned()));
            }
            let name = Name::from(name);
            if resources.get(&name).is_some() {
                return Err(refuse(format!("{name} is given twice")));
            }
            let value = parse_value(value).map_err(refuse)?;
            resources = resources.with(name, value);
        }
        Ok(resources)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resources(text: &str) -> Resources {
        text.parse().expect("a valid text in a test")
    }

    #[test]
    fn text_survives_a_round_trip() {
        let text = "cpus:1.5; disk:10; mem:64.001; ports:[31000-31004, 31010-31010]; tags:{a,b}";
        assert_eq!(resources(text).to_string(), text);
    }

    #[test]
    fn amounts_that_no_machine_has_are_refused() {
        for text in [
            "cpus:-1",
            "cpus:NaN",
            "cpus:inf",
            "mem:1e300",
            "cpus:x",
            "cpus",
            ":1",
        ] {
            assert!(text.parse::<Resources>().is_err(), "{text} was accepted");
        }
        assert!("cpus:1; cpus:2".parse::<Resources>().is_err());
        assert!("ports:[5-4]".parse::<Resources>().is_err());
    }

    #[test]
    fn a_tenth_added_ten_times_is_exactly_one() {
        let mut sum = Resources::EMPTY;
        for _ in 0..10 {
            sum.add(&resources("cpus:0.1"));
        }
        assert_eq!(sum, resources("cpus:1"));
    }

    #[test]
    fn a_shortfall_says_what_was_asked_and_what_was_there() {
        let lacks = resources("cpus:2; mem:64").shortfalls(&resources("cpus:4; mem:32; gpus:1"));
        let lines: Vec<String> = lacks.iter().map(Shortfall::to_string).collect();
        assert_eq!(
            lines,
            ["cpus: asked 4, there is 2", "gpus: asked 1, there is none"]
        );
    }

    fn any_ranges() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((0_u64..40, 0_u64..6), 0..6)
            .prop_map(|v| Ranges::new(v.into_iter().map(|(b, n)| (b, b + n))))
    }

    proptest! {
        #[test]
        fn ranges_behave_like_the_sets_they_stand_for(a in any_ranges(), b in any_ranges()) {
            let set = |r: &Ranges| r.numbers().collect::<BTreeSet<u64>>();
            let (sa, sb) = (set(&a), set(&b));
            prop_assert_eq!(set(&a.union(&b)), sa.union(&sb).copied().collect::<BTreeSet<_>>());
            let difference = a.difference(&b);
            prop_assert_eq!(&Ranges::new(difference.iter()), &difference);
            prop_assert_eq!(set(&difference), sa.difference(&sb).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(a.contains(&b), sa.is_superset(&sb));
            prop_assert_eq!(a.intersects(&b), !sa.is_disjoint(&sb));
            prop_assert_eq!(usize::try_from(a.count()).unwrap(), sa.len());
        }

        #[test]
        fn what_is_added_can_be_taken_away(a in any_ranges(), cpus in 0_u64..9999) {
            let free = Resources::EMPTY.with_ranges(Name::PORTS, Ranges::new([(100, 200)]));
            let more = Resources::EMPTY
                .with_scalar(Name::CPUS, Fixed::from_thousandths(cpus))
                .with_ranges(Name::PORTS, a);
            let both = free.plus(&more);
            prop_assert!(both.contains(&free) && both.contains(&more));
            prop_assert_eq!(both.minus(&more), free);
        }
    }
}
