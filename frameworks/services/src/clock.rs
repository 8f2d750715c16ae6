//! The one place of this crate that reads a clock.

use allotment_types::Timestamp;

/// Now, as time since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge tells the core the time; this is the only reader"
)]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_nanos(since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
}
