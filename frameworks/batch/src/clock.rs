//! The only place that reads the clock.

use allotment_types::Timestamp;

/// Now, by the wall clock: what is recorded must make sense to people and after a restart.
#[expect(
    clippy::disallowed_methods,
    reason = "the one clock function of this edge"
)]
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
