//! Sets of numbers, such as ports.

use std::fmt;

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
