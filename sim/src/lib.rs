//! Whole clusters on virtual time, from one seed.
//!
//! The cores here are the real ones: the master with its allocation module, the agents, and behind
//! the SDK's sessions the services and batch frameworks. Sockets, disks, clocks, users and
//! containers are simulated. After every step
//! the invariants of the design are checked, by books that are kept independently of the system's
//! own.
//!
//! - [`run_seed`]: one cluster with faults, until it has settled. [`run_seeds`]: a range of them.
//! - [`Scenario`]: its size, load and faults. [`Report`], [`Violation`]: how it went.
//! - [`fairness`]: who gets what over hours, and how long anybody waits.
//! - [`shrink`]: a failing seed with all left out that it does not need. [`replay`]: the same run
//!   again, line by line.
//! - [`Plant`]: faults in the system under test, which must be found.
//! - [`lab`]: what-if experiments from a scenario file.
//! - [`sharing`]: what sharing one cluster gains over splitting it.

mod batch;
mod brain;
mod cast;
mod chart;
mod clock;
mod elastic;
pub mod fairness;
mod fault;
mod host;
pub mod lab;
mod ledger;
mod machine;
mod mishaps;
mod module;
mod net;
mod plan;
mod plant;
mod promises;
mod queue;
mod real_agent;
mod report;
mod rng;
mod run;
mod scenario;
mod services;
pub mod sharing;
mod shrink;
mod trace;
mod watched;
mod wire;
mod witness;
mod words;
mod world;

pub use plant::Plant;
pub use report::{Report, Violation};
pub use run::{Summary, run_seed, run_seeds};
pub use scenario::Scenario;
pub use shrink::{Divergence, replay, shrink};
pub use trace::TraceDepth;
