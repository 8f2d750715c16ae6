//! What this machine has and is called.

use std::fs;
use std::path::Path;

use allotment_types::{Fixed, Name, Ranges, Resources};
use nix::sys::statvfs::statvfs;

/// Ports that are offered unless told otherwise, as in Mesos.
const PORTS: (u64, u64) = (31_000, 32_000);
const MIB: u64 = 1 << 20;

/// Everything there is to offer, keeping a part for the system, as Mesos does: 1 GiB of memory
/// and 5 GiB of disk, or half where there is less than twice that.
pub(super) fn resources(work_dir: &Path) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = sysinfo::System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    let disk = statvfs(work_dir).map_or(0, |stat| {
        stat.blocks_available().saturating_mul(stat.fragment_size())
    });
    let keep = |bytes: u64, kept_mib: u64| {
        let mib = bytes / MIB;
        let offered = if mib >= 2 * kept_mib {
            mib - kept_mib
        } else {
            mib / 2
        };
        Fixed::units(offered.min(Fixed::MAX_UNITS))
    };
    Resources::cpus_mem(
        Fixed::units(u64::try_from(cores).unwrap_or(1)),
        keep(memory, 1024),
    )
    .with_scalar(Name::DISK, keep(disk, 5 * 1024))
    .with_ranges(Name::PORTS, Ranges::new([PORTS]))
}

/// How much of the disk below a folder is in use; `None` where it cannot be told.
pub(super) fn disk_used_permille(folder: &Path) -> Option<u32> {
    let stat = statvfs(folder).ok()?;
    // As `df` counts: what is reserved for the system is neither used nor to be had.
    let used = stat.blocks().checked_sub(stat.blocks_free())?;
    let all = used.saturating_add(stat.blocks_available());
    u32::try_from(used.saturating_mul(1000).checked_div(all)?).ok()
}

/// The machine's own name.
pub(super) fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Changes with every boot.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// What every task finds in its environment: our own search path with this program's folder at
/// its end, so that tasks can call it, and what programs need to write text well. Nothing else of
/// ours: it may be secret.
pub(super) fn environment() -> Vec<(String, String)> {
    let mut path = std::env::var("PATH")
        .ok()
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| {
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()
        });
    if let Ok(program) = std::env::current_exe()
        && let Some(folder) = program.parent().and_then(Path::to_str)
        && !path.split(':').any(|part| part == folder)
    {
        path = format!("{path}:{folder}");
    }
    let mut environment = vec![("PATH".to_owned(), path)];
    for name in ["LANG", "LC_ALL", "TZ"] {
        if let Ok(value) = std::env::var(name) {
            environment.push((name.to_owned(), value));
        }
    }
    environment
}
