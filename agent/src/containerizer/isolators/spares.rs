//! Groups whose containers are over, kept for a moment for the next ones.
//!
//! To make the groups of a container and to take them down again costs the kernel of cgroups v1
//! about half a millisecond, a fifth of a short task. So groups that a container left as it found
//! them wait for the next one with the same limits, and get its name. v2 cannot rename a group;
//! there a container needs a single one.
//!
//! Nothing of the container before is left in them but cached pages that are charged to them
//! still: at most [`LEFT_BYTES_MAX`], which the kernel takes back before a limit is hit.

use std::fs;
use std::path::Path;

use super::Version;
use super::cgroups::{Controller, Group, write_existing};
use super::walls::{Setting, Walls};

/// How many wait at most.
const WAITING_MAX: usize = 64;
/// How many retries of the launcher each of them waits: about a second.
const PATIENCE: u32 = 20;
/// What may still be charged to a group that is kept. The kernel charges each core 256 KiB in
/// advance.
const LEFT_BYTES_MAX: u64 = 2 << 20;
/// And no more than this part of the limit.
const LEFT_PART_MAX: u64 = 16;
/// `CAP_SYS_ADMIN`: with it root makes `/sys` writable again.
const SYS_ADMIN: u64 = 1 << 21;

/// Groups without a container.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// Those that wait for the shortest time last, each with how often it was looked at.
    waiting: Vec<(Group, u32)>,
}

impl Spares {
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A container is over; gives its groups back when they are not kept.
    pub(super) fn keep(&mut self, group: Group) -> Option<Group> {
        if self.waiting.len() >= WAITING_MAX || !group.is_as_new() {
            return Some(group);
        }
        self.waiting.push((group, 0));
        None
    }

    /// Groups with just these settings, under the name of another container.
    pub(super) fn take(&mut self, container: &str, settings: &[Setting]) -> Option<Group> {
        let fits = |(group, _): &(Group, u32)| group.settings == settings;
        let found = self.waiting.iter().rposition(fits)?;
        let (mut group, _) = self.waiting.remove(found);
        if group.rename(container) {
            return Some(group);
        }
        // What it left in its place goes with this agent's leftovers at the latest.
        group.remove();
        None
    }

    /// Removes those that have waited long enough; gives back what the kernel does not remove.
    pub(super) fn trim(&mut self) -> Vec<Group> {
        let mut left = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        for (mut group, n_looks) in waiting {
            if n_looks + 1 < PATIENCE {
                self.waiting.push((group, n_looks + 1));
            } else if !group.remove() {
                left.push(group);
            }
        }
        left
    }
}

/// Whether a container behind these walls cannot have changed its groups, nor made any below.
pub(super) fn are_out_of_reach(walls: &Walls) -> bool {
    let hardening = &walls.hardening;
    let as_root = hardening.sys_read_only
        && (hardening.capabilities).is_some_and(|of_root| of_root.bounding & SYS_ADMIN == 0);
    let as_user = !hardening.sys_read_only && hardening.no_new_privs;
    walls.mounts.is_some() && (as_root || as_user)
}

/// Whether groups with these settings may be kept: those of cpusets change while they are used.
pub(super) fn may_keep(version: Version, settings: &[Setting]) -> bool {
    let is_steady = |setting: &Setting| setting.controller != Controller::Cpuset;
    version == Version::V1 && settings.iter().all(is_steady)
}

impl Group {
    /// Whether nothing is in it and next to nothing charged to it.
    fn is_as_new(&self) -> bool {
        let is_deserted = |path: &Path| fs::read(path.join("tasks")).is_ok_and(|t| t.is_empty());
        self.may_keep
            && self.paths.iter().all(|(_, path)| is_deserted(path))
            && self
                .memory
                .as_ref()
                .is_none_or(|(_, path)| self.is_light(path))
    }

    /// Whether little is charged to its memory; its peak begins anew.
    fn is_light(&self, memory: &Path) -> bool {
        let charged = fs::read_to_string(memory.join("memory.usage_in_bytes"));
        let charged: Option<u64> = charged.ok().and_then(|text| text.trim().parse().ok());
        let left_max = LEFT_BYTES_MAX.min(self.limit_bytes / LEFT_PART_MAX);
        charged.is_some_and(|bytes| bytes <= left_max)
            && write_existing(&memory.join("memory.max_usage_in_bytes"), "0").is_ok()
    }

    /// Gives it to another container; false when the kernel refuses it in part.
    fn rename(&mut self, container: &str) -> bool {
        let paths = self.paths.iter_mut().chain(&mut self.memory);
        let mut renamed = Vec::new();
        for (_, path) in paths {
            let new = path.with_file_name(container);
            // The memory group stands twice.
            if !renamed.contains(&new) && fs::rename(&*path, &new).is_err() {
                return false;
            }
            renamed.push(new.clone());
            *path = new;
        }
        true
    }
}
