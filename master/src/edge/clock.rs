//! The one place that reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use allotment_types::Timestamp;

/// Wall-clock time at the start, monotonic from there on: a stepped clock moves no deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    epoch: Timestamp,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the edge's clock")]
    pub(super) fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: Instant::now(),
            epoch: Timestamp::ZERO + since_epoch,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.epoch + self.started.elapsed()
    }
}
