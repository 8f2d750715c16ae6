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

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

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
///
/// Cheap to clone, copied when changed: a cluster of equal machines keeps one bundle.
#[derive(Clone, Default)]
pub struct Resources(
    /// Sorted by name and lot, no two alike; `None` instead of an empty list.
    Option<Arc<Vec<Entry>>>,
);

/// One value of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Entry {
    name: Name,
    lot: Lot,
    value: Value,
}

impl Entry {
    fn key(&self) -> (&Name, &Lot) {
        (&self.name, &self.lot)
    }
}

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
    pub const EMPTY: Self = Self(None);

    fn entries(&self) -> &[Entry] {
        self.0.as_ref().map_or(&[], |entries| entries.as_slice())
    }

    /// Takes entries that are in order and hold something each.
    fn from_sorted(entries: Vec<Entry>) -> Self {
        Self((!entries.is_empty()).then(|| Arc::new(entries)))
    }

    fn find(&self, name: &Name, lot: &Lot) -> Result<usize, usize> {
        self.entries()
            .binary_search_by(|entry| entry.key().cmp(&(name, lot)))
    }

    fn value(&self, entry: &Entry) -> Option<&Value> {
        let at = self.find(&entry.name, &entry.lot).ok()?;
        self.entries().get(at).map(|found| &found.value)
    }

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
        match (self.find(&name, &lot), value.is_empty()) {
            (Err(_), true) => {}
            (Ok(at), true) => self.remove(at),
            (Ok(at), false) => {
                if let Some(entry) = self.entries_mut().get_mut(at) {
                    entry.value = value;
                }
            }
            (Err(at), false) => self.entries_mut().insert(at, Entry { name, lot, value }),
        }
        self
    }

    fn entries_mut(&mut self) -> &mut Vec<Entry> {
        Arc::make_mut(self.0.get_or_insert_with(Arc::default))
    }

    fn remove(&mut self, at: usize) {
        let entries = self.entries_mut();
        entries.remove(at);
        if entries.is_empty() {
            self.0 = None;
        }
    }

    /// What there is of `name` in `lot`.
    pub fn get(&self, name: &Name, lot: &Lot) -> Option<&Value> {
        let at = self.find(name, lot).ok()?;
        self.entries().get(at).map(|entry| &entry.value)
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
        self.entries()
            .iter()
            .map(|entry| (&entry.name, &entry.lot, &entry.value))
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
    pub fn filter(&self, keep: impl Fn(&Name, &Lot) -> bool + Copy) -> Self {
        let kept = self.entries().iter().filter(|e| keep(&e.name, &e.lot));
        if kept.clone().count() == self.entries().len() {
            return self.clone();
        }
        Self::from_sorted(kept.cloned().collect())
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
        self.0.is_none()
    }

    /// Whether all of `other` is here.
    pub fn contains(&self, other: &Self) -> bool {
        self.is_same(other)
            || other
                .entries()
                .iter()
                .all(|entry| self.value(entry).is_some_and(|v| v.contains(&entry.value)))
    }

    /// Whether the two are one in memory: equal, found out at no cost.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, None) => true,
            _ => false,
        }
    }

    /// Every kind of which `asked` wants more than there is, by name and then by lot.
    pub fn shortfalls(&self, asked: &Self) -> Vec<Shortfall> {
        asked
            .entries()
            .iter()
            .filter(|entry| !self.value(entry).is_some_and(|v| v.contains(&entry.value)))
            .map(|entry| Shortfall {
                name: entry.name.clone(),
                lot: entry.lot.clone(),
                asked: entry.value.clone(),
                held: self.value(entry).cloned(),
            })
            .collect()
    }

    /// Adds `other`. Where the two hold different types under one name and lot the left one is
    /// kept; the wire refuses such bundles before they get here.
    pub fn add(&mut self, other: &Self) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        for more in other.entries() {
            match self.find(&more.name, &more.lot) {
                Err(at) => self.entries_mut().insert(at, more.clone()),
                Ok(at) => {
                    if let Some(entry) = self.entries_mut().get_mut(at) {
                        entry.value.add(&more.value);
                    }
                }
            }
        }
    }

    /// Takes `other` away; what is not here cannot be taken and leaves nothing behind.
    pub fn subtract(&mut self, other: &Self) {
        if self.is_same(other) {
            self.0 = None;
            return;
        }
        for less in other.entries() {
            if let Ok(at) = self.find(&less.name, &less.lot)
                && let Some(entry) = self.entries_mut().get_mut(at)
            {
                entry.value.subtract(&less.value);
                if entry.value.is_empty() {
                    self.remove(at);
                }
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

impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.entries() == other.entries()
    }
}

impl Eq for Resources {}

impl PartialOrd for Resources {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Resources {
    /// By content, entry by entry: an order to look bundles up by, not one of more and less.
    fn cmp(&self, other: &Self) -> Ordering {
        if self.is_same(other) {
            return Ordering::Equal;
        }
        self.entries().cmp(other.entries())
    }
}

impl Hash for Resources {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.entries().hash(state);
    }
}

#[cfg(test)]
mod tests;
