//! Wall clocks that do not agree.

use std::time::Duration;

use allotment_types::Timestamp;

/// How far every clock is ahead of the simulation at least, so that one may jump back.
const BASE: Duration = Duration::from_secs(10 * 3600);

/// One process' clock: as in the real edges it is set once, when the process starts, and then
/// goes evenly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    ahead: Duration,
}

impl Clock {
    /// Right, but for so many seconds.
    pub(crate) fn off_by(seconds: i32) -> Self {
        Self { ahead: BASE }.jumped(seconds)
    }

    /// The same, set anew so many seconds later or earlier; no further back than it ever was right.
    pub(crate) fn jumped(self, seconds: i32) -> Self {
        let by = Duration::from_secs(seconds.unsigned_abs().into());
        let ahead = if seconds < 0 {
            self.ahead.saturating_sub(by)
        } else {
            self.ahead + by
        };
        Self { ahead }
    }

    /// What it shows.
    pub(crate) fn local(self, now: Timestamp) -> Timestamp {
        now + self.ahead
    }

    /// When it will show this; at once for what it never shows.
    pub(crate) fn global(self, local: Timestamp) -> Timestamp {
        if local == Timestamp::MAX {
            local
        } else {
            local - self.ahead
        }
    }
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
}
