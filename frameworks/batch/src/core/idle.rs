//! Jobs that wait for an offer, in their order, by what they ask.
//!
//! Jobs of one size stand in one line, so that filling an offer looks at the head of each line
//! and not at every job: the cost of a launch grows with the number of different sizes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use allotment_types::Timestamp;

use super::job::{JobKey, Size};

/// Priority first, then submission, then number.
type Place = (Reverse<i32>, Timestamp, JobKey);

/// All idle jobs.
#[derive(Debug, Default)]
pub struct Idle {
    lines: BTreeMap<Size, BTreeSet<Place>>,
    len: usize,
}

impl Idle {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The one size that all ask, and how many wait; `None`: none waits, or sizes differ.
    pub fn only_size(&self) -> Option<(Size, usize)> {
        let mut lines = self.lines.iter();
        let (size, line) = lines.next()?;
        lines.next().is_none().then_some((*size, line.len()))
    }

    /// Puts a job into its line.
    pub fn insert(&mut self, size: Size, priority: i32, submitted: Timestamp, job: JobKey) {
        let line = self.lines.entry(size).or_default();
        if line.insert((Reverse(priority), submitted, job)) {
            self.len += 1;
        }
    }

    /// Takes a job out.
    pub fn remove(&mut self, size: Size, priority: i32, submitted: Timestamp, job: JobKey) {
        let Some(line) = self.lines.get_mut(&size) else {
            return;
        };
        if line.remove(&(Reverse(priority), submitted, job)) {
            self.len -= 1;
        }
        if line.is_empty() {
            self.lines.remove(&size);
        }
    }

    /// How many wait before this place, whatever they ask. Linear in that number.
    pub fn ahead(&self, priority: i32, submitted: Timestamp, job: JobKey) -> usize {
        let place = (Reverse(priority), submitted, job);
        let before = |line: &BTreeSet<Place>| line.range(..place).count();
        self.lines.values().map(before).sum()
    }

    /// Takes out the first job that `fits`.
    pub fn pop_first(&mut self, fits: impl Fn(Size) -> bool) -> Option<(JobKey, Size)> {
        let heads = self
            .lines
            .iter()
            .filter_map(|(size, line)| Some((*line.first()?, *size)));
        let (place, size) = heads.filter(|(_, size)| fits(*size)).min()?;
        let (priority, submitted, job) = place;
        self.remove(size, priority.0, submitted, job);
        Some((job, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_goes_first() {
        let small = Size {
            cpus_milli: 500,
            memory_mib: 1,
            disk_mib: 0,
        };
        let big = Size {
            cpus_milli: 4000,
            ..small
        };
        let key = |proc| JobKey { cluster: 1, proc };
        let mut idle = Idle::default();
        idle.insert(small, 0, Timestamp::ZERO, key(0));
        idle.insert(big, 5, Timestamp::ZERO, key(1));
        idle.insert(small, 1, Timestamp::ZERO, key(2));
        let two_cores = |size: Size| size.cpus_milli <= 2000;
        assert_eq!(idle.pop_first(two_cores), Some((key(2), small)));
        assert_eq!(idle.pop_first(|_| true), Some((key(1), big)));
        assert_eq!(idle.pop_first(two_cores), Some((key(0), small)));
        assert!(idle.is_empty());
    }
}
