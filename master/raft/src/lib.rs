//! The masters' replicated log: Raft as a pure state machine, and the files it is kept in.
//!
//! - [`member`]: one member of the group. Facts in, effects out; no socket, clock, thread or
//!   randomness of its own. It wraps `raft`'s `RawNode` and adds what that leaves open: a lease on
//!   monotonic time, members with addresses, promotion of learners, compaction.
//! - [`store`]: blocks with checksums in files, group commit, snapshots; a torn tail is cut, a
//!   damaged block is named. The files are behind a trait, so that a simulator can tear them.
//! - [`wire`]: Raft's messages in our own encoding.
//!
//! What the entries mean is left to the application: they are bytes here.

mod clock;
mod lease;
mod log;
pub mod member;
pub mod members;
pub mod store;
pub mod wire;

pub use member::{Config, Effect, Input, Member, MemberError, Standing, Write};
pub use members::{Change, ChangeError, MemberInfo, Members};
