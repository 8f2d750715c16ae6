//! The memory controller: a task that needs more than it asked for ends.

use std::fs;
use std::path::Path;

use super::{Limits, Setting, Version};

pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let bytes = limits.memory_bytes.to_string();
    let setting = |file, value: &str, optional| Setting {
        file,
        value: value.to_owned(),
        optional,
    };
    match version {
        Version::V1 => vec![
            setting("memory.limit_in_bytes", &bytes, false),
            // Memory and swap together: no swapping past the limit.
            setting("memory.memsw.limit_in_bytes", &bytes, true),
        ],
        Version::V2 => vec![
            setting("memory.max", &bytes, false),
            setting("memory.swap.max", "0", true),
            // The kernel ends the whole group, which v1 leaves to us.
            setting("memory.oom.group", "1", true),
        ],
    }
}

/// The limit of the group in bytes; 0 where it cannot be read.
pub(super) fn limit_bytes(version: Version, group: &Path) -> u64 {
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    let text = fs::read_to_string(group.join(file)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// How often the kernel killed a process of the group for want of memory.
pub(super) fn oom_kills(version: Version, group: &Path) -> u64 {
    let file = match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    let text = fs::read_to_string(group.join(file)).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// The most memory the group ever held, in bytes; `None` where the kernel does not say (v2
/// before Linux 5.19).
pub(super) fn peak_bytes(version: Version, group: &Path) -> Option<u64> {
    let file = match version {
        Version::V1 => "memory.max_usage_in_bytes",
        Version::V2 => "memory.peak",
    };
    fs::read_to_string(group.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}
