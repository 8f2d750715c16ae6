//! Whole clusters on virtual time, from one seed.
//!
//! The master here is the real core with the real allocation module, and frameworks speak through
//! the SDK's real sessions; sockets, disks, clocks and containers are simulated. After every step
//! the invariants of the design are checked, by books that are kept independently of the system's
//! own.
//!
//! - [`run_seed`]: one cluster with faults, until it has settled.
//! - [`Scenario`]: its size, load and faults. [`Report`], [`Violation`]: how it went.
//! - [`sharing`]: what sharing one cluster gains over splitting it.

mod elastic;
mod ledger;
mod machine;
mod net;
mod queue;
mod report;
mod rng;
mod run;
mod scenario;
pub mod sharing;
mod trace;
mod watched;
mod witness;
mod words;
mod world;

pub use report::{Report, Violation};
pub use run::run_seed;
pub use scenario::Scenario;
pub use trace::TraceDepth;
pub use watched::Plant;
