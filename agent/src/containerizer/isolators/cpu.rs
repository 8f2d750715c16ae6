//! `cgroups/cpu`: a task's part of contended cores. Idle cores stay free to use, as with Mesos'
//! default; a ceiling (CFS quota) stands where the operator wants one for everybody or the task
//! names a limit.

use super::cgroups::Controller;
use super::{Host, Isolate, Setting, Version, Walls};
use crate::containerizer::wire::Launch;
use crate::core::Confinement;
use crate::isolation::Isolator;

/// The least share, as in Mesos (10 of 1024): a task without cpus still runs.
const SHARES_MIN: u64 = 10;
/// The kernel's default period, and Mesos'.
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes (1 ms of each period).
const QUOTA_MIN_US: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Cpu {
    version: Version,
    /// Every task's request is its ceiling, too (Mesos' `--cgroups_enable_cfs`).
    quota_for_all: bool,
}

impl Cpu {
    pub(super) fn new(quota_for_all: bool) -> Self {
        Self {
            version: Version::V1,
            quota_for_all,
        }
    }

    /// Thousandths of a core that the task may never exceed.
    fn ceiling(&self, launch: &Launch) -> Option<u64> {
        match launch.confinement.as_ref().and_then(|c| c.cpus_limit_milli) {
            Some(Confinement::UNLIMITED) => None,
            Some(limit) => Some(limit),
            None => self.quota_for_all.then_some(launch.cpus_milli),
        }
    }
}

impl Isolate for Cpu {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsCpu
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (version, at) = host.cgroups.add(Controller::Cpu)?;
        self.version = version;
        let quota = if self.quota_for_all {
            "shares, and the request as a ceiling"
        } else {
            "shares, and a ceiling for tasks that name a limit"
        };
        Ok(format!("{quota} ({at})"))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        walls.settings.push(share(self.version, launch.cpus_milli));
        if let Some(milli) = self.ceiling(launch) {
            let quota = (milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US);
            walls.settings.push(match self.version {
                Version::V1 => Setting::must(Controller::Cpu, "cpu.cfs_quota_us", quota),
                Version::V2 => {
                    Setting::must(Controller::Cpu, "cpu.max", format!("{quota} {PERIOD_US}"))
                }
            });
        }
        Ok(())
    }
}

fn share(version: Version, cpus_milli: u64) -> Setting {
    let shares = cpus_milli.saturating_mul(1024).div_euclid(1000);
    // The kernel's own bounds.
    let shares = shares.clamp(SHARES_MIN, 262_144);
    match version {
        Version::V1 => Setting::must(Controller::Cpu, "cpu.shares", shares),
        // The kernel's mapping of [2, 262144] onto [1, 10000], as runc and systemd do it.
        Version::V2 => Setting::must(
            Controller::Cpu,
            "cpu.weight",
            1 + (shares - 2) * 9999 / 262_142,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_cpus_within_the_kernels_bounds() {
        let value = |version, cpus_milli| share(version, cpus_milli).value;
        assert_eq!(value(Version::V1, 1500), "1536");
        assert_eq!(value(Version::V1, 0), "10");
        assert_eq!(value(Version::V1, u64::MAX), "262144");
        assert_eq!(value(Version::V2, 1000), "39");
        assert_eq!(value(Version::V2, u64::MAX), "10000");
    }

    fn settings(cpu: &mut Cpu, limit: Option<u64>) -> Vec<(&'static str, String)> {
        let launch = Launch {
            cpus_milli: 500,
            confinement: Some(Box::new(Confinement {
                cpus_limit_milli: limit,
                ..Default::default()
            })),
            ..Default::default()
        };
        let mut walls = Walls::default();
        cpu.isolate(&launch, &mut walls).unwrap();
        walls
            .settings
            .into_iter()
            .map(|s| (s.file, s.value))
            .collect()
    }

    #[test]
    fn a_ceiling_stands_for_who_names_a_limit_or_for_all() {
        let mut cpu = Cpu::new(false);
        assert_eq!(settings(&mut cpu, None), [("cpu.shares", "512".to_owned())]);
        let limited = settings(&mut cpu, Some(1500));
        assert_eq!(limited[1], ("cpu.cfs_quota_us", "150000".to_owned()));
        cpu.quota_for_all = true;
        assert_eq!(
            settings(&mut cpu, None)[1],
            ("cpu.cfs_quota_us", "50000".to_owned())
        );
        assert_eq!(settings(&mut cpu, Some(Confinement::UNLIMITED)).len(), 1);
        cpu.version = Version::V2;
        assert_eq!(
            settings(&mut cpu, Some(0))[1],
            ("cpu.max", "1000 100000".to_owned())
        );
    }
}
