//! CPU time of running processes, from `/proc`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// Itself, all threads, user and system.
    pub(crate) own: Duration,
    /// Children that it has waited for, and theirs.
    pub(crate) reaped: Duration,
}

impl Times {
    /// What was used since an earlier look.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            own: self.own.saturating_sub(earlier.own),
            reaped: self.reaped.saturating_sub(earlier.reaped),
        }
    }
}

/// Looks at a process.
///
/// # Errors
/// It is gone.
pub(crate) fn times(pid: u32) -> anyhow::Result<Times> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    let after_name = stat.rsplit_once(')').context("a /proc stat line")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Linux tells ticks of 10 ms, whatever its own clock.
    let ticks = |i: usize| {
        let ticks = fields.get(i).and_then(|t| t.parse::<u64>().ok());
        Duration::from_millis(ticks.unwrap_or(0) * 10)
    };
    // utime, stime, cutime, cstime: fields 14 to 17 of the line.
    Ok(Times {
        own: ticks(11) + ticks(12),
        reaped: ticks(13) + ticks(14),
    })
}

/// The processes that a process has started and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/task")));
    let mut found = Vec::new();
    for task in tasks.into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_child_is_found_and_its_time_read() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(times(child.id()).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
