//! Write a framework: subscribe, receive offers, launch tasks, hear how they do.
//!
//! - [`api`]: the typed events a framework hears and calls it makes.

pub mod api;

pub use api::{Attribute, AttributeValue, Call, Command, Event, Offer, Task, Update, Uri};
