//! Wall clocks that do not agree.

use std::time::Duration;

use allotment_types::Timestamp;

/// How far every clock is ahead of the simulation at least, so that one may jump back.
const BASE: Duration = Duration::from_secs(10 * 3600);

/// A thousandth of a thousandth.
const MILLION: u128 = 1_000_000;

/// One process' clock: as in the real edges it is set once, when the process starts, and then
/// goes evenly, a little too fast or too slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    ahead: Duration,
    /// How many millionths of a second it goes in a second.
    rate: u32,
}

impl Clock {
    /// Right, but for so many seconds.
    pub(crate) fn off_by(seconds: i32) -> Self {
        Self {
            ahead: BASE,
            rate: 1_000_000,
        }
        .jumped(seconds)
    }

    /// The same, going so many millionths too fast, or too slow.
    pub(crate) fn drifting(self, millionths: i32) -> Self {
        Self {
            rate: self.rate.saturating_add_signed(millionths),
            ..self
        }
    }

    /// The same, set anew so many seconds later or earlier; no further back than it ever was right.
    pub(crate) fn jumped(self, seconds: i32) -> Self {
        let by = Duration::from_secs(seconds.unsigned_abs().into());
        let ahead = if seconds < 0 {
            self.ahead.saturating_sub(by)
        } else {
            self.ahead + by
        };
        Self { ahead, ..self }
    }

    /// What it shows.
    pub(crate) fn local(self, now: Timestamp) -> Timestamp {
        let gone = u128::from(now.as_nanos()) * u128::from(self.rate) / MILLION;
        nanos(gone) + self.ahead
    }

    /// The first moment at which it shows this or more; at once for what it showed before it
    /// began, and never for what never comes.
    pub(crate) fn global(self, local: Timestamp) -> Timestamp {
        if local == Timestamp::MAX {
            return local;
        }
        let gone = u128::from((local - self.ahead).as_nanos()) * MILLION;
        nanos(gone.div_ceil(u128::from(self.rate.max(1))))
    }
}

fn nanos(nanos: u128) -> Timestamp {
    Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_by_a_wrong_clock_comes_at_its_right_time() {
        let now = Timestamp::from_secs(100);
        for seconds in [-3600, 0, 250] {
            let clock = Clock::off_by(seconds);
            let deadline = clock.local(now) + Duration::from_secs(5);
            assert_eq!(clock.global(deadline), Timestamp::from_secs(105));
        }
    }

    #[test]
    fn a_deadline_by_a_clock_that_drifts_is_over_when_it_comes_and_not_before() {
        for millionths in [-20_000, -7, 3, 20_000] {
            let clock = Clock::off_by(5).drifting(millionths);
            let deadline = clock.local(Timestamp::from_nanos(123_456_789_012_345)) + BASE;
            let at = clock.global(deadline);
            assert!(clock.local(at) >= deadline);
            assert!(clock.local(at - Duration::from_nanos(1)) < deadline);
        }
    }
}
