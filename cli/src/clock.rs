//! The one place where this crate reads a monotonic clock.

use std::time::Instant;

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line is an edge; nothing it decides is replayed"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
