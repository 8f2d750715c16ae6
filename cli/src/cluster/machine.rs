//! Measuring this machine.

use std::path::Path;

use super::plan::Machine;

const MIB: u64 = 1024 * 1024;

/// Cores and memory that this process may use, and the free disk space below `folder`.
pub(crate) fn measure(folder: &Path) -> Machine {
    let mem = memory().unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let disk = nix::sys::statvfs::statvfs(folder).map_or(0, |fs| {
        fs.blocks_available().saturating_mul(fs.fragment_size())
    });
    Machine {
        cores: u64::try_from(cores).unwrap_or(1),
        mem_mib: mem / MIB,
        disk_mib: disk / MIB,
    }
}

/// Bytes of memory; inside a container those of the container, not of the machine.
fn memory() -> Option<u64> {
    let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let wanted = sysinfo::RefreshKind::nothing().with_memory(memory);
    let system = sysinfo::System::new_with_specifics(wanted).ok()?;
    let total = system.total_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    Some(
        limit
            .filter(|limit| *limit > 0)
            .map_or(total, |l| l.min(total)),
    )
}
