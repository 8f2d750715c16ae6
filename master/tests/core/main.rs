//! Stories about the master's core; see `cluster` for the language they are told in.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod agents;
mod cluster;
mod executors;
mod frameworks;
mod hostile;
mod offers;
mod operator;
mod random;
mod reservations;
mod shares;
mod store;
mod tasks;
