//! Namespaces: a task sees its own processes, mounts, IPC objects and host name.

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::super::init;
use super::super::sys::{self, Fork};

/// What a container gets of its own. The network stays the host's: tasks are offered host ports.
pub(in super::super) const FLAGS: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Tries them once, mounts included.
///
/// # Errors
/// Why this machine or user cannot have them, as a clause.
pub(in super::super) fn probe() -> Result<(), String> {
    match sys::fork_into(FLAGS) {
        Err(errno) => Err(format!(
            "the kernel refuses new namespaces: {}",
            errno.desc()
        )),
        Ok(Fork::Child) => {
            let status = init::mount_own().map_or_else(|errno| errno as i32, |()| 0);
            sys::exit_now(status)
        }
        Ok(Fork::Parent(_)) => match sys::reap(sys::Wait::Block) {
            Ok(Some(reaped)) if reaped.status == 0 => Ok(()),
            Ok(Some(reaped)) => Err(format!(
                "mounting a container's own /proc fails: {}",
                Errno::from_raw(reaped.status >> 8).desc()
            )),
            Ok(None) => Err("the trial container vanished".to_owned()),
            Err(errno) => Err(format!("the trial container vanished: {}", errno.desc())),
        },
    }
}
