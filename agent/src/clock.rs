//! The one place of the agent that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use allotment_types::Timestamp;

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge tells the core the time"
)]
pub(crate) fn now() -> Timestamp {
    of(SystemTime::now())
}

/// The same instant as the core counts it.
pub(crate) fn of(time: SystemTime) -> Timestamp {
    Timestamp::ZERO + time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}
