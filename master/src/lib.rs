//! The master: collects what agents have, offers it to frameworks, and keeps the books.
//!
//! - [`config`]: what an operator may set, with units and checks.
//! - [`core`]: the master as a pure state machine.
//! - [`replica`]: one master's copy of the replicated registry, and whether it leads; pure.
//! - [`edge`]: sockets, disk and clock around the core; [`start`] and [`Running`].
//!
//! Who is offered what is decided by the allocation module (`allotment-allocator`); a program of
//! your own may link another one, see [`start_with`] and `docs/allocator-modules.md`.

pub mod config;
pub mod core;
pub mod edge;
pub mod replica;

pub use allotment_allocator::modules;
pub use config::{Config, ConfigError};
pub use edge::{
    JoinError, RegistryError, RunError, Running, StartError, restore, start, start_with,
};
