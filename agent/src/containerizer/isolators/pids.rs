//! The pids controller: a fork bomb stays inside its task.

use super::{Limits, Setting, Version};

pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let (Version::V1 | Version::V2) = version;
    vec![Setting {
        file: "pids.max",
        value: limits.pids_max.to_string(),
        optional: false,
    }]
}
