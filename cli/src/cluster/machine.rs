//! Measuring this machine.

use std::path::Path;

use super::plan::Machine;

const MIB: u64 = 1024 * 1024;

/// Cores and memory that this process may use, and the free disk space below `folder`.
pub(crate) fn measure(folder: &Path) -> Machine {
    let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_memory(memory),
    );
    // Inside a container the machine's memory is not ours.
    let total = match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 => limits.total_memory.min(system.total_memory()),
        _ => system.total_memory(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let disk = nix::sys::statvfs::statvfs(folder)
        .map_or(0, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
    Machine {
        cores: u64::try_from(cores).unwrap_or(1),
        mem_mib: total / MIB,
        disk_mib: disk / MIB,
    }
}
