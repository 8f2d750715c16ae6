//! The one place where this crate reads a clock.

use allotment_types::Timestamp;
use tokio::time::Instant;

/// Time as [`Timestamp`]s that never step back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_at: Timestamp,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one clock function of this edge"
    )]
    pub(crate) fn start() -> Self {
        let epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_at: Timestamp::ZERO + epoch,
        }
    }

    pub(crate) fn now(self) -> Timestamp {
        self.start_at + self.start.elapsed()
    }

    /// When it will be `at`, for sleeping.
    pub(crate) fn instant(self, at: Timestamp) -> Instant {
        // A day suffices for any sleep: the sleeper looks again when it wakes.
        let ahead = at
            .since(self.start_at)
            .min(self.start.elapsed() + std::time::Duration::from_secs(86_400));
        self.start + ahead
    }
}
