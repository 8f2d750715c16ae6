//! `cgroups/mem`: a task that needs more than it may have ends, and its status says the limit
//! and the use.

use std::fs;
use std::path::Path;

use super::cgroups::Controller;
use super::{Host, Isolate, Setting, Version, Walls};
use crate::containerizer::wire::Launch;
use crate::core::Confinement;
use crate::isolation::Isolator;

#[derive(Debug, Default)]
pub(super) struct Memory {
    version: Option<Version>,
}

impl Isolate for Memory {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsMem
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (version, at) = host.cgroups.add(Controller::Memory)?;
        self.version = Some(version);
        Ok(format!("a hard limit that ends the task ({at})"))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let Some(version) = self.version else {
            return Ok(());
        };
        let confinement = launch.confinement.as_ref();
        walls.memory_limit_bytes = Some(launch.memory_bytes);
        walls.settings.extend(settings(
            version,
            launch.memory_bytes,
            confinement.and_then(|c| c.memory_request_bytes),
        ));
        Ok(())
    }
}

/// `request` is set where it differs from the limit: what the kernel takes back from this task
/// last when memory is short.
fn settings(version: Version, limit_bytes: u64, request: Option<u64>) -> Vec<Setting> {
    let must = |file, value: &str| Setting::must(Controller::Memory, file, value);
    let may = |file, value: &str| Setting::may(Controller::Memory, file, value);
    let unlimited = limit_bytes == Confinement::UNLIMITED;
    let mut settings = match (version, unlimited) {
        // A new group has no limit.
        (Version::V1 | Version::V2, true) => Vec::new(),
        (Version::V1, false) => {
            let bytes = limit_bytes.to_string();
            vec![
                must("memory.limit_in_bytes", &bytes),
                // Memory and swap together: no swapping past the limit.
                may("memory.memsw.limit_in_bytes", &bytes),
            ]
        }
        (Version::V2, false) => vec![
            must("memory.max", &limit_bytes.to_string()),
            may("memory.swap.max", "0"),
            // The kernel ends the whole group, which v1 leaves to us.
            may("memory.oom.group", "1"),
        ],
    };
    if let Some(request) = request {
        let file = match version {
            Version::V1 => "memory.soft_limit_in_bytes",
            Version::V2 => "memory.low",
        };
        settings.push(may(file, &request.to_string()));
    }
    settings
}

/// The limit of the group in bytes; `None` where this is no group of the memory controller.
pub(super) fn limit_bytes(version: Version, group: &Path) -> Option<u64> {
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    let text = fs::read_to_string(group.join(file)).ok()?;
    Some(text.trim().parse().unwrap_or(Confinement::UNLIMITED))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_above_the_request_leaves_the_request_as_the_soft_limit() {
        let files = |version, limit, request| -> Vec<&'static str> {
            let settings = settings(version, limit, request);
            settings.iter().map(|setting| setting.file).collect()
        };
        assert_eq!(
            files(Version::V1, 200, Some(100)),
            [
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.soft_limit_in_bytes"
            ]
        );
        assert_eq!(
            files(Version::V2, Confinement::UNLIMITED, Some(100)),
            ["memory.low"]
        );
    }
}
