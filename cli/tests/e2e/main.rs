//! End to end: the real binary, real processes, real sockets.
//!
//! Few and fast; each waits on states with a deadline. One test binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod batch;
mod common;
mod demo;
mod exec;
mod executors;
mod faults;
mod framework;
mod full_disk;
mod full_disk_start;
mod local;
mod masters;
mod nonroot;
mod offers;
mod operator;
mod regions;
mod restarts;
mod run;
mod sharing;
mod standby;
