//! The cpu controller: a task's part of contended cores. Idle cores stay free to use, as with
//! Mesos' default (no CFS quota).

use super::{Limits, Setting, Version};

/// The least share, as in Mesos (10 of 1024): a task without cpus still runs.
const SHARES_MIN: u64 = 10;

pub(super) fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let shares = limits.cpus_milli.saturating_mul(1024).div_euclid(1000);
    // The kernel's own bounds.
    let shares = shares.clamp(SHARES_MIN, 262_144);
    let (file, value) = match version {
        Version::V1 => ("cpu.shares", shares),
        // The kernel's mapping of [2, 262144] onto [1, 10000], as runc and systemd do it.
        Version::V2 => ("cpu.weight", 1 + (shares - 2) * 9999 / 262_142),
    };
    vec![Setting {
        file,
        value: value.to_string(),
        optional: false,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_cpus_within_the_kernels_bounds() {
        let value = |version, cpus_milli| {
            let limits = Limits {
                cpus_milli,
                memory_bytes: 0,
                pids_max: 1,
            };
            settings(version, &limits)[0].value.clone()
        };
        assert_eq!(value(Version::V1, 1500), "1536");
        assert_eq!(value(Version::V1, 0), "10");
        assert_eq!(value(Version::V1, u64::MAX), "262144");
        assert_eq!(value(Version::V2, 1000), "39");
        assert_eq!(value(Version::V2, u64::MAX), "10000");
    }
}
