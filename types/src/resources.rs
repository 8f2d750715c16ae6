//! Resources in exact fixed point: what agents have, offers hold and tasks ask.
//!
//! Scalars count thousandths, as Mesos compares them (`src/common/values.cpp`), so that
//! conservation can be tested with `==`. Reserved, persistent, revocable and shared resources
//! are lots of their own; see [`Lot`].

mod fixed;
mod lot;
mod name;
mod ranges;
mod text;
mod value;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;

pub use fixed::{AmountError, Fixed};
pub use lot::{Disk, DiskSource, Lot, LotInfo, PersistentVolume, Reservation, ReservationKind};
pub use name::Name;
pub use ranges::Ranges;
pub use text::ParseError;
pub use value::Value;

/// A bundle of resources, one value per name and lot; those with nothing are absent.
///
/// Every sum and difference is taken lot by lot: a reserved core never stands in for a plain
/// one. Copies of a shared volume are counted by its amount: held three times, 64 MiB are 192.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Resources(BTreeMap<(Name, Lot), Value>);

/// One kind of which there is too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Which kind.
    pub name: Name,
    /// Which lot of it.
    pub lot: Lot,
    /// How much was asked.
    pub asked: Value,
    /// How much was there; `None` when there was none of this kind.
    pub held: Option<Value>,
}

impl fmt::Display for Shortfall {
    /// `cpus: asked 4, there is 2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.name.unit();
        let (name, lot, asked) = (&self.name, &self.lot, &self.asked);
        match &self.held {
            Some(held) => write!(f, "{name}{lot}: asked {asked}{unit}, there is {held}{unit}"),
            None => write!(f, "{name}{lot}: asked {asked}{unit}, there is none"),
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

    /// The same with `amount` of plain `name` instead of what was there.
    #[must_use]
    pub fn with_scalar(self, name: Name, amount: Fixed) -> Self {
        self.with(name, Lot::PLAIN, Value::Scalar(amount))
    }

    /// The same with these numbers of plain `name` instead of what was there.
    #[must_use]
    pub fn with_ranges(self, name: Name, ranges: Ranges) -> Self {
        self.with(name, Lot::PLAIN, Value::Ranges(ranges))
    }

    /// The same with `value` of `name` in `lot` instead of what was there.
    #[must_use]
    pub fn with(mut self, name: Name, lot: Lot, value: Value) -> Self {
        let key = (name, lot);
        if value.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, value);
        }
        self
    }

    /// What there is of `name` in `lot`.
    pub fn get(&self, name: &Name, lot: &Lot) -> Option<&Value> {
        self.0.get(&(name.clone(), lot.clone()))
    }

    /// The amount of `name` over all lots; zero when absent or no scalar.
    pub fn scalar(&self, name: &Name) -> Fixed {
        self.scalars()
            .filter(|(found, _)| *found == name)
            .fold(Fixed::ZERO, |sum, (_, amount)| sum.saturating_add(amount))
    }

    /// Cores, over all lots.
    pub fn cpus(&self) -> Fixed {
        self.scalar(&Name::CPUS)
    }

    /// MiB of memory, over all lots.
    pub fn mem(&self) -> Fixed {
        self.scalar(&Name::MEM)
    }

    /// MiB of disk, over all lots.
    pub fn disk(&self) -> Fixed {
        self.scalar(&Name::DISK)
    }

    /// Host ports, over all lots.
    pub fn ports(&self) -> Ranges {
        self.iter()
            .fold(Ranges::EMPTY, |sum, (name, _, value)| match value {
                Value::Ranges(ranges) if *name == Name::PORTS => sum.union(ranges),
                _ => sum,
            })
    }

    /// Names, lots and values, by name and then by lot.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Lot, &Value)> {
        self.0.iter().map(|((name, lot), value)| (name, lot, value))
    }

    /// The scalars by name and then by lot; a name comes once per lot.
    pub fn scalars(&self) -> impl Iterator<Item = (&Name, Fixed)> {
        self.iter().filter_map(|(name, _, value)| match value {
            Value::Scalar(amount) => Some((name, *amount)),
            Value::Ranges(_) | Value::Set(_) => None,
        })
    }

    /// The part whose name and lot `keep` picks.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Name, &Lot) -> bool) -> Self {
        let kept = self.0.iter().filter(|((name, lot), _)| keep(name, lot));
        Self(
            kept.map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        )
    }

    /// The part that is unreserved, not revocable, not shared and no particular disk.
    #[must_use]
    pub fn plain(&self) -> Self {
        self.filter(|_, lot| lot.is_plain())
    }

    /// The same amounts as if all were plain.
    #[must_use]
    pub fn flattened(&self) -> Self {
        let mut sum = Self::EMPTY;
        for (name, _, value) in self.iter() {
            sum.add(&Self::EMPTY.with(name.clone(), Lot::PLAIN, value.clone()));
        }
        sum
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
            .all(|(key, value)| self.0.get(key).is_some_and(|v| v.contains(value)))
    }

    /// Every kind of which `asked` wants more than there is, by name and then by lot.
    pub fn shortfalls(&self, asked: &Self) -> Vec<Shortfall> {
        asked
            .0
            .iter()
            .filter(|(key, value)| !self.0.get(key).is_some_and(|v| v.contains(value)))
            .map(|(key, value)| Shortfall {
                name: key.0.clone(),
                lot: key.1.clone(),
                asked: value.clone(),
                held: self.0.get(key).cloned(),
            })
            .collect()
    }

    /// Adds `other`. Where the two hold different types under one name and lot the left one is
    /// kept; the wire refuses such bundles before they get here.
    pub fn add(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            match (self.0.get_mut(key), value) {
                (Some(Value::Scalar(mine)), Value::Scalar(more)) => {
                    *mine = mine.saturating_add(*more);
                }
                (Some(Value::Ranges(mine)), Value::Ranges(more)) => *mine = mine.union(more),
                (Some(Value::Set(mine)), Value::Set(more)) => mine.extend(more.iter().cloned()),
                (Some(_), _) => {}
                (None, _) => {
                    self.0.insert(key.clone(), value.clone());
                }
            }
        }
    }

    /// Takes `other` away; what is not here cannot be taken and leaves nothing behind.
    pub fn subtract(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            match (self.0.get_mut(key), value) {
                (Some(Value::Scalar(mine)), Value::Scalar(less)) => {
                    *mine = mine.saturating_sub(*less);
                }
                (Some(Value::Ranges(mine)), Value::Ranges(less)) => *mine = mine.difference(less),
                (Some(Value::Set(mine)), Value::Set(less)) => mine.retain(|i| !less.contains(i)),
                (Some(_) | None, _) => continue,
            }
            if self.0.get(key).is_some_and(Value::is_empty) {
                self.0.remove(key);
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

#[cfg(test)]
mod tests;
