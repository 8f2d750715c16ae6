//! Write a framework: subscribe, receive offers, launch tasks, hear how they do.
//!
//! - [`api`]: the typed events a framework hears and calls it makes.
//! - [`config`]: who the framework is and where its masters are.
//! - [`driver`]: the connection that keeps itself up, on tokio.
//! - [`executor`]: the other side, a program that runs tasks.
//! - [`session`]: the same as a pure state machine, for simulators.
//! - [`leader`]: which of several masters leads.
//! - [`election`]: which of a framework's own processes leads.
//! - [`store`]: state that outlives the framework's machine, kept by the masters.
//! - [`cluster`]: what agents there are and what they have free, to tell people why something waits.
//! - [`sandbox`]: what tasks write, while they write it.
//! - [`wants`]: which offers a framework wants.
//! - [`testing`]: drive a framework's core without a cluster.
//!
//! A first framework is explained line by line in `docs/writing-a-framework.md`.

#![warn(missing_docs)]

pub mod api;
mod carve;
mod channel;
mod clock;
pub mod cluster;
pub mod config;
pub mod driver;
pub mod election;
pub mod executor;
mod launched;
pub mod leader;
pub mod sandbox;
pub mod session;
pub mod store;
pub mod testing;
pub mod wants;
mod wire;

pub use api::{
    Attribute, AttributeValue, Call, Command, Event, Executor, ExecutorNews, InverseOffer, Offer,
    Operation, Task, TerminalSize, Unavailability, Update, Uri,
};
pub use cluster::Cluster;
pub use config::{Config, ConfigError};
pub use driver::{Handle, Scheduler};
pub use election::{Candidate, Election, LeaseError, Standing, Terms};
pub use store::{Entry, Expected, Store, StoreError, StoreOp, Watch, WatchEvent};
pub use wants::{Capability, Demand, Wants};
