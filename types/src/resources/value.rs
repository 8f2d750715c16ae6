//! One kind's quantity.

use std::collections::BTreeSet;
use std::fmt;

use super::{Fixed, Ranges};

/// One kind's quantity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An amount, such as cores or MiB.
    Scalar(Fixed),
    /// Numbers, such as ports.
    Ranges(Ranges),
    /// Named things.
    Set(BTreeSet<String>),
}

impl Value {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(amount) => amount.is_zero(),
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(items) => items.is_empty(),
        }
    }

    /// Adds a value of the same type; of another nothing.
    pub(super) fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::Scalar(mine), Self::Scalar(more)) => *mine = mine.saturating_add(*more),
            (Self::Ranges(mine), Self::Ranges(more)) => *mine = mine.union(more),
            (Self::Set(mine), Self::Set(more)) => mine.extend(more.iter().cloned()),
            _ => {}
        }
    }

    /// Takes a value of the same type away; of another nothing.
    pub(super) fn subtract(&mut self, less: &Self) {
        match (self, less) {
            (Self::Scalar(mine), Self::Scalar(less)) => *mine = mine.saturating_sub(*less),
            (Self::Ranges(mine), Self::Ranges(less)) => *mine = mine.difference(less),
            (Self::Set(mine), Self::Set(less)) => mine.retain(|i| !less.contains(i)),
            _ => {}
        }
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
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
