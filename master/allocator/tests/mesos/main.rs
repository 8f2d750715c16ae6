//! The scenarios that Mesos' own allocator and sorter tests name, each named after the sentence
//! that it verifies. Every one is played to the reference, too.

#[path = "../support/mod.rs"]
mod support;

mod filters;
mod quota;
mod shares;
