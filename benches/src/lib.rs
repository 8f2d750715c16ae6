//! What benchmarks and tests share: a load that keeps its own books, and a cluster of real
//! processes on a network that can be broken.
//!
//! - [`ledger`]: one account for every task that was launched, and what must never happen to it.
//! - [`load`]: the framework that launches them.
//! - [`faults`]: hosts, links and disks that fail while the load goes on.

pub mod faults;
pub mod ledger;
pub mod load;

use std::time::Instant;

/// The one clock of the benchmarks.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn clock() -> Instant {
    Instant::now()
}
