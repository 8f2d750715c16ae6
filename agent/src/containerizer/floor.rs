//! The floor under launching a task: what the kernel alone takes for a process with namespaces
//! and cgroups of its own. Benchmarks hold the agent against it, in the same run.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{execv, getpid};

use super::sys::{self, Fork, Wait};

/// What one container's groups are told, by controller (version 1).
const SETTINGS: [(&str, &str, &str); 3] = [
    ("cpu", "cpu.shares", "102"),
    ("memory", "memory.limit_in_bytes", "67108864"),
    ("pids", "pids.max", "4096"),
];

/// What a container gets of its own with the default isolators.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Starts and reaps `/bin/true` so many times, one after the other, each in new pid, mount, IPC
/// and host name namespaces and in cpu, memory and pids cgroups of its own. Nothing else is done:
/// no sandbox, no output files, no init, no mounts.
///
/// Must be the only thing that its process does. Needs root and cgroups of version 1.
///
/// # Errors
/// The first thing that the machine refuses.
pub fn run_floor(times: u32) -> io::Result<()> {
    let program = CString::from(c"/bin/true");
    for _ in 0..times {
        let groups: Vec<PathBuf> = SETTINGS
            .iter()
            .map(|(controller, ..)| {
                format!("/sys/fs/cgroup/{controller}/allotment-floor-{}", getpid()).into()
            })
            .collect();
        for (group, (_, file, value)) in groups.iter().zip(SETTINGS) {
            fs::create_dir(group)?;
            fs::write(group.join(file), value)?;
        }
        let entrances: Vec<PathBuf> = groups.iter().map(|group| group.join("tasks")).collect();
        match sys::fork_into(NAMESPACES).map_err(io::Error::from)? {
            Fork::Child => {
                if entrances
                    .iter()
                    .all(|entrance| fs::write(entrance, "0").is_ok())
                {
                    let _ = execv(&program, std::slice::from_ref(&program));
                }
                sys::exit_now(1)
            }
            Fork::Parent(_) => match sys::reap(Wait::Block) {
                Ok(Some(reaped)) if reaped.status == 0 => {}
                other => return Err(io::Error::other(format!("a trial ended as {other:?}"))),
            },
        }
        for group in groups {
            // The kernel needs a moment after the last process.
            while let Err(error) = fs::remove_dir(&group) {
                if error.raw_os_error() != Some(Errno::EBUSY as i32) {
                    return Err(error);
                }
                std::thread::yield_now();
            }
        }
    }
    Ok(())
}
