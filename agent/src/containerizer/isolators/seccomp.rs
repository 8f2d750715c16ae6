//! `linux/seccomp`: system calls that tasks have no business with are refused.
//!
//! A list of what is refused rather than of what is allowed: the kernel then answers all other
//! calls from a table, at no cost, and new ones work. On it are calls whose own checks have
//! failed before or that reach outside of namespaces: what the kernel keeps for the whole
//! machine (keys, modules, clocks, swap), powerful interfaces with a long record of holes
//! (io_uring, bpf, userfaultfd, perf events), mounts, and user namespaces, in which a task would
//! be root again. Follows Docker's default profile.

use std::collections::BTreeMap;
use std::rc::Rc;

use nix::libc;
use nix::sched::CloneFlags;

use super::super::sys::{self, Instruction};
use super::filter::{Answer, filter};
use super::{Host, Isolate, Walls, namespaces};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

/// Refused always.
const NEVER: [i64; 11] = [
    libc::SYS_add_key,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
];

/// Refused to a task without the capability of this number.
const GUARDED: [(u32, &[i64]); 7] = [
    (2, &[libc::SYS_open_by_handle_at]),
    (
        16,
        &[
            libc::SYS_delete_module,
            libc::SYS_finit_module,
            libc::SYS_init_module,
        ],
    ),
    (20, &[libc::SYS_acct]),
    (
        SYS_ADMIN,
        &[
            libc::SYS_bpf,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_perf_event_open,
            libc::SYS_pivot_root,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setns,
            libc::SYS_swapoff,
            libc::SYS_swapon,
            libc::SYS_umount2,
        ],
    ),
    (22, &[libc::SYS_reboot]),
    (25, &[libc::SYS_clock_settime, libc::SYS_settimeofday]),
    (
        17,
        &[
            #[cfg(target_arch = "x86_64")]
            libc::SYS_ioperm,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_iopl,
        ],
    ),
];

const SYS_ADMIN: u32 = 21;

#[derive(Debug, Default)]
pub(super) struct Seccomp {
    /// By the guarding capabilities that a task has.
    filters: BTreeMap<u64, Rc<[Instruction]>>,
}

impl Seccomp {
    fn filter(&mut self, capabilities: u64) -> Result<Rc<[Instruction]>, String> {
        let guarding = GUARDED
            .iter()
            .fold(0, |mask, (number, _)| mask | 1_u64 << number);
        let key = capabilities & guarding;
        if let Some(known) = self.filters.get(&key) {
            return Ok(Rc::clone(known));
        }
        let filter: Rc<[Instruction]> = filter(&answers(key))
            .ok_or("no filter for this processor")?
            .into();
        self.filters.insert(key, Rc::clone(&filter));
        Ok(filter)
    }
}

impl Isolate for Seccomp {
    fn isolator(&self) -> Isolator {
        Isolator::LinuxSeccomp
    }

    fn probe(&mut self, _host: &mut Host) -> Result<String, String> {
        let filter = self.filter(0)?;
        let trial = || sys::try_filter(Some(&filter)).map_or_else(|errno| errno as i32, |()| 0);
        namespaces::try_once(CloneFlags::empty(), trial)
            .map_err(|_| "the kernel takes no system call filter".to_owned())?;
        let guarded: usize = GUARDED.iter().map(|(_, calls)| calls.len()).sum();
        Ok(format!(
            "{} system calls and user namespaces are refused",
            NEVER.len() + guarded
        ))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let wish = launch.confinement.as_ref();
        if wish.is_some_and(|c| c.seccomp_unconfined) {
            return Ok(());
        }
        // Without a wall around capabilities, root has all of them.
        let root = launch.user.as_ref().is_none_or(|user| user.uid == 0);
        let capabilities = match (&walls.hardening.capabilities, root) {
            (Some(capabilities), _) => capabilities.bounding,
            (None, true) => u64::MAX,
            (None, false) => 0,
        };
        walls.hardening.seccomp = Some(self.filter(capabilities)?);
        // A filter may only be installed by who can gain nothing by it.
        walls.hardening.no_new_privs = true;
        Ok(())
    }

    fn enter(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        self.isolate(launch, walls)
    }
}

/// What is not simply allowed to a task with these capabilities.
fn answers(capabilities: u64) -> BTreeMap<i64, Answer> {
    let guarded = GUARDED
        .iter()
        .filter(|(number, _)| capabilities & (1 << number) == 0)
        .flat_map(|(_, calls)| calls.iter());
    let mut answers: BTreeMap<i64, Answer> = NEVER
        .iter()
        .chain(guarded)
        .map(|call| (*call, Answer::Refuse))
        .collect();
    if capabilities & (1 << SYS_ADMIN) == 0 {
        let flag = Answer::RefuseFlag(libc::CLONE_NEWUSER.unsigned_abs());
        answers.extend([(libc::SYS_clone, flag), (libc::SYS_unshare, flag)]);
        // Its flags lie in memory, where a filter cannot look; the C library then falls back to
        // `clone`, as under Docker.
        answers.insert(libc::SYS_clone3, Answer::Missing);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_with_powers_has_a_shorter_list_of_refusals() {
        let mut seccomp = Seccomp::default();
        let plain = seccomp.filter(0).unwrap().len();
        let administers = seccomp.filter(1 << SYS_ADMIN).unwrap().len();
        assert!(administers < plain, "{administers} {plain}");
        // Capabilities that guard nothing share a filter.
        seccomp.filter(1).unwrap();
        assert_eq!(seccomp.filters.len(), 2);
    }
}
