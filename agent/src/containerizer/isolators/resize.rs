//! A running container is to hold another amount: its executor was given a task, or one ended.
//!
//! Shares of cpu follow at once. The limit of memory only grows, as in Mesos: an executor gives
//! back what a task used in its own time, and must not be ended for it.

use super::Isolators;
use super::cgroups::{Controller, Group};
use super::walls::Walls;
use crate::containerizer::wire::{Launch, Resize};
use crate::isolation::Isolator;

impl Isolators {
    /// Changes what a container may use. What the kernel refuses stays as it was.
    pub(in super::super) fn resize(&mut self, resize: &Resize, group: Option<&mut Group>) {
        let Some(group) = group else {
            return;
        };
        let launch = Launch {
            cpus_milli: resize.cpus_milli,
            memory_bytes: resize.memory_bytes,
            ..Default::default()
        };
        let mut walls = Walls::default();
        for isolator in &mut self.active {
            let resizes = [Isolator::CgroupsCpu, Isolator::CgroupsMem];
            if resizes.contains(&isolator.isolator()) {
                let _ = isolator.isolate(&launch, &mut walls);
            }
        }
        let grows = group.grow(resize.memory_bytes);
        // The limit of memory and swap together is written last and must be raised first (v1).
        for setting in walls.settings.iter().rev() {
            if setting.controller != Controller::Memory || grows {
                group.change(setting);
            }
        }
    }
}
