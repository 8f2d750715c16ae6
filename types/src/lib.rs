//! The words every part of Allotment shares, free of sockets, clocks and protobuf.
//!
//! - [`attribute`]: what an agent says of itself.
//! - [`id`]: newtypes for the ids of agents, frameworks, tasks and offers.
//! - [`resources`]: what agents have and tasks ask, in exact fixed point.
//! - [`role`]: the names that allocations are made to.
//! - [`time`]: instants as plain numbers, so that any test can stand anywhere.
//! - [`effects`]: what one step of a pure core asks of the edge.
//!
//! What a part decides with them is left to that part.

pub mod attribute;
pub mod effects;
pub mod id;
pub mod resources;
pub mod role;
pub mod time;

pub use attribute::{Attribute, AttributeValue, DomainError, FaultDomain};
pub use effects::Effects;
pub use id::{AgentId, ExecutorId, FrameworkId, IdError, OfferId, TaskId};
pub use resources::{Fixed, Lot, Name, Ranges, Resources, Shortfall, Value};
pub use role::Role;
pub use time::Timestamp;
