//! The containerizer: one small launcher process that starts, watches and ends containers.

mod launcher;

pub use launcher::launcher_main;
