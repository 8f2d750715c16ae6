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
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::super::sys::{self, Instruction};
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
        let filter: Rc<[Instruction]> = build(key)?.into();
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
}

fn build(capabilities: u64) -> Result<Vec<Instruction>, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let guarded = GUARDED
        .iter()
        .filter(|(number, _)| capabilities & (1 << number) == 0)
        .flat_map(|(_, calls)| calls.iter());
    for call in NEVER.iter().chain(guarded) {
        rules.insert(*call, Vec::new());
    }
    let administers = capabilities & (1 << SYS_ADMIN) != 0;
    if !administers {
        let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
        let condition = SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(flag),
            flag,
        );
        let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
        let rule = rule.map_err(|error| format!("no rule on user namespaces: {error}"))?;
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            rules.insert(call, vec![rule.clone()]);
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        architecture()?,
    );
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let program = program.map_err(|error| format!("no system call filter: {error}"))?;
    let rest = program.iter().map(|i| Instruction {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    });
    Ok(preamble(administers).into_iter().chain(rest).collect())
}

/// Refuses with `ENOSYS` what a filter by number cannot judge: `clone3`, whose flags lie in
/// memory (the C library then falls back to `clone`, as under Docker), and x86-64's second set
/// of numbers (x32), under which every call exists once more.
fn preamble(administers: bool) -> Vec<Instruction> {
    let number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let refuse = instruction(libc::BPF_RET | libc::BPF_K, 0, refused);
    // Over the refusal when the test fails.
    let unless = |test: u32, k: u32| instruction(libc::BPF_JMP | test | libc::BPF_K, 1, k);
    let mut preamble = vec![number];
    if cfg!(target_arch = "x86_64") {
        preamble.extend([unless(libc::BPF_JGE, 0x4000_0000), refuse]);
    }
    if !administers && let Ok(clone3) = u32::try_from(libc::SYS_clone3) {
        preamble.extend([unless(libc::BPF_JEQ, clone3), refuse]);
    }
    preamble
}

fn instruction(code: u32, jf: u8, k: u32) -> Instruction {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "operation codes are 16 bits, whatever the constants' type"
    )]
    let code = code as u16;
    Instruction { code, jt: 0, jf, k }
}

fn architecture() -> Result<TargetArch, String> {
    std::env::consts::ARCH
        .try_into()
        .map_err(|_| format!("no filter for {}", std::env::consts::ARCH))
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
