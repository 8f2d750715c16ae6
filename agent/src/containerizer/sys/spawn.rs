//! Starts a task: clone, a few system calls in the child, exec.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::exit_now;
use super::harden::{self, Hardening};

/// At which step the start of a task failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(in super::super) enum Stage {
    Cgroup = 1,
    Session,
    Directory,
    Output,
    Limits,
    Credentials,
    Exec,
    Clone,
    Mount,
    Journal,
    Volume,
    Sys,
    Capabilities,
    Seccomp,
    Enter,
}

impl Stage {
    /// The stage of this number.
    pub(in super::super) fn from_number(number: i32) -> Option<Self> {
        [
            Self::Cgroup,
            Self::Session,
            Self::Directory,
            Self::Output,
            Self::Limits,
            Self::Credentials,
            Self::Exec,
            Self::Clone,
            Self::Mount,
            Self::Journal,
            Self::Volume,
            Self::Sys,
            Self::Capabilities,
            Self::Seccomp,
            Self::Enter,
        ]
        .into_iter()
        .find(|stage| *stage as i32 == number)
    }
}

/// The user that a task runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Credentials {
    pub(in super::super) uid: u32,
    pub(in super::super) gid: u32,
    pub(in super::super) groups: Vec<u32>,
}

/// A file that moves its writer into a cgroup when `0` is written to it.
#[derive(Debug)]
pub(in super::super) enum Entrance {
    /// Opened by the child.
    Path(CString),
    /// Open already: where the child is, control groups cannot be opened for writing any more.
    Open(OwnedFd),
}

/// What a program finds as its standard streams.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Streams {
    /// Nothing to read, and the files `stdout` and `stderr` of the sandbox.
    Files,
    /// Nothing to read, and these descriptors.
    Outputs([c_int; 2]),
    /// These three.
    All([c_int; 3]),
    /// This terminal, which also controls it.
    Terminal(c_int),
}

/// Everything the start of a task needs, laid out before the fork so that nothing is allocated
/// after it.
#[derive(Debug)]
pub(in super::super) struct TaskPlan {
    cgroups: Vec<Entrance>,
    directory: CString,
    /// Paths to try in turn, as `execvp` would.
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    credentials: Option<Credentials>,
    open_files: (u64, u64),
    /// Die with the container's init (where no pid namespace sees to it).
    die_with_init: bool,
    hardening: Hardening,
}

/// A list of C strings as the kernel wants it: pointers with a null at the end.
fn pointers<'a>(texts: impl IntoIterator<Item = &'a CString>) -> Vec<*const c_char> {
    texts
        .into_iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

impl TaskPlan {
    #[expect(clippy::too_many_arguments, reason = "one private caller, plain data")]
    pub(in super::super) fn new(
        cgroups: Vec<Entrance>,
        directory: CString,
        programs: Vec<CString>,
        argv: Vec<CString>,
        env: Vec<CString>,
        credentials: Option<Credentials>,
        open_files: (u64, u64),
        die_with_init: bool,
        hardening: Hardening,
    ) -> Self {
        Self {
            cgroups,
            directory,
            programs,
            argv,
            env,
            credentials,
            open_files,
            die_with_init,
            hardening,
        }
    }

    /// The sandbox.
    pub(in super::super) fn directory(&self) -> &CStr {
        &self.directory
    }

    /// What it loses right before it runs.
    pub(in super::super) const fn hardening(&self) -> &Hardening {
        &self.hardening
    }

    /// The user and group that it runs as, where it is not ours.
    pub(in super::super) fn owner(&self) -> Option<(u32, u32)> {
        self.credentials.as_ref().map(|user| (user.uid, user.gid))
    }

    /// Descriptors that have to stay open until it is started.
    pub(in super::super) fn descriptors(&self) -> impl Iterator<Item = c_int> {
        self.cgroups.iter().filter_map(|entrance| match entrance {
            Entrance::Path(_) => None,
            Entrance::Open(fd) => Some(fd.as_raw_fd()),
        })
    }

    /// The paths that are tried, in order.
    #[cfg(test)]
    pub(in super::super) fn programs(&self) -> &[CString] {
        &self.programs
    }
}

/// Memory for the stack of a child between clone and exec.
#[derive(Debug)]
pub(in super::super) struct ChildStack(Vec<u8>);

impl ChildStack {
    /// Enough for a few frames of system calls.
    pub(in super::super) fn new() -> Self {
        Self(Vec::with_capacity(64 * 1024))
    }
}

/// What the child between clone and exec reads, and where it leaves its failure.
struct Handover<'a> {
    plan: &'a TaskPlan,
    streams: Streams,
    argv: &'a [*const c_char],
    /// The same after `/bin/sh`, for scripts without a first line that names an interpreter.
    /// Its slot 1 is filled in with the program.
    shell_argv: &'a [Cell<*const c_char>],
    env: &'a [*const c_char],
    failure: Cell<Option<(Stage, i32)>>,
}

const SHELL: &CStr = c"/bin/sh";

/// Starts the task of `plan` as a child of this process; returns once it runs.
///
/// As `posix_spawn`: the child borrows this process' memory until it executes the program, which
/// costs no copying of page tables and lets it report a failure through a plain variable.
///
/// # Errors
/// The step that failed and its `errno`.
#[expect(
    unsafe_code,
    reason = "a child that shares memory until exec has no safe wrapper"
)]
pub(in super::super) fn spawn_task(
    plan: &TaskPlan,
    streams: Streams,
    stack: &mut ChildStack,
) -> Result<Pid, (Stage, Errno)> {
    let argv = pointers(&plan.argv);
    let env = pointers(&plan.env);
    let shell_argv: Vec<Cell<*const c_char>> = [SHELL.as_ptr(), std::ptr::null()]
        .into_iter()
        .chain(argv.iter().skip(1).copied())
        .map(Cell::new)
        .collect();
    let handover = Handover {
        plan,
        streams,
        argv: &argv,
        shell_argv: &shell_argv,
        env: &env,
        failure: Cell::new(None),
    };
    // SAFETY: one past the end of the allocation, rounded down for the ABI.
    let top = unsafe { stack.0.as_mut_ptr().add(stack.0.capacity() & !15) };
    // SAFETY: CLONE_VFORK suspends this thread (the only one) until the child has executed the
    // program or exited, so the borrowed stack, `handover` and everything it points to stay
    // alive and unaliased for as long as the child uses them. The child runs `child_main`, which
    // only makes async-signal-safe calls and never returns. All signals are blocked, so no
    // handler can run on the shared memory.
    let pid = unsafe {
        libc::clone(
            child_main,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const handover).cast_mut().cast(),
        )
    };
    let pid = Errno::result(pid).map_err(|errno| (Stage::Clone, errno))?;
    match handover.failure.get() {
        None => Ok(Pid::from_raw(pid)),
        Some((stage, errno)) => Err((stage, Errno::from_raw(errno))),
    }
}

extern "C" fn child_main(handover: *mut c_void) -> c_int {
    #[expect(unsafe_code, reason = "clone passes its argument as a bare pointer")]
    // SAFETY: `spawn_task` passes a pointer to a live `Handover` and is suspended meanwhile.
    let handover: &Handover<'_> = unsafe { &*handover.cast::<Handover<'_>>() };
    let stage = become_task(handover);
    handover.failure.set(Some((stage, Errno::last_raw())));
    exit_now(127)
}

/// Turns this process into the task; returns only the step that failed, with `errno` set.
#[expect(
    unsafe_code,
    reason = "between clone and exec only bare system calls are safe"
)]
fn become_task(handover: &Handover<'_>) -> Stage {
    let plan = handover.plan;
    // SAFETY (all blocks of this function): the pointers are to NUL-terminated strings and
    // null-terminated arrays of `plan` and `handover`, alive until exec; the calls are
    // async-signal-safe and act on this process alone, because descriptors, directory, signal
    // handlers, credentials and limits are not shared with the parent (no CLONE_FILES, CLONE_FS,
    // CLONE_SIGHAND, CLONE_THREAD). The credential calls are made bare because the C library's
    // wrappers walk a list of threads.
    for entrance in &plan.cgroups {
        // `tasks` (v1) takes one thread and so spares the kernel a lock over all processes; this
        // child is one thread.
        let moved = unsafe {
            let fd = match entrance {
                Entrance::Path(path) => libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC),
                Entrance::Open(fd) => fd.as_raw_fd(),
            };
            // Those that were open already are closed on exec.
            fd >= 0
                && libc::write(fd, c"0".as_ptr().cast(), 1) == 1
                && (matches!(entrance, Entrance::Open(_)) || libc::close(fd) == 0)
        };
        if !moved {
            return Stage::Cgroup;
        }
    }
    let hardening = &plan.hardening;
    // Not before: the groups are entered through `/sys`.
    if hardening.sys_read_only && harden::make_sys_read_only().is_err() {
        return Stage::Sys;
    }
    if unsafe { libc::setsid() } < 0 {
        return Stage::Session;
    }
    if unsafe { libc::chdir(plan.directory.as_ptr()) } != 0 {
        return Stage::Directory;
    }
    unsafe { libc::umask(0o022) };
    if !direct_input(handover.streams) || !direct_outputs(handover) {
        return Stage::Output;
    }
    let limit = libc::rlimit {
        rlim_cur: plan.open_files.0,
        rlim_max: plan.open_files.1,
    };
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Stage::Limits;
    }
    for (kind, soft, hard) in &hardening.rlimits {
        if harden::set_rlimit(*kind, *soft, *hard).is_err() {
            return Stage::Limits;
        }
    }
    let bounded = hardening
        .capabilities
        .as_ref()
        .map_or(Ok(()), |c| c.bound());
    if bounded.is_err() {
        return Stage::Capabilities;
    }
    if let Some(user) = &plan.credentials {
        let became = unsafe {
            libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) == 0
                && libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) == 0
        };
        if !became {
            return Stage::Credentials;
        }
    }
    let root = plan.credentials.as_ref().is_none_or(|user| user.uid == 0);
    let settled = hardening
        .capabilities
        .as_ref()
        .map_or(Ok(()), |c| c.settle(root));
    if settled.is_err() {
        return Stage::Capabilities;
    }
    if plan.die_with_init {
        // After the credentials, whose change clears it.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    unsafe {
        // No descriptor of the agent's reaches the task (runc's CVE-2024-21626).
        libc::syscall(
            libc::SYS_close_range,
            3,
            c_int::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        // The launcher gave every signal its default action, once for all tasks.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    if hardening.no_new_privs && harden::forbid_new_privileges().is_err() {
        return Stage::Seccomp;
    }
    if let Some(filter) = &hardening.seccomp
        && harden::install_filter(filter).is_err()
    {
        return Stage::Seccomp;
    }
    execute(handover);
    Stage::Exec
}

/// Makes stdin what it is to be; false with `errno` set when that fails.
#[expect(
    unsafe_code,
    reason = "between clone and exec only bare system calls are safe"
)]
fn direct_input(streams: Streams) -> bool {
    // SAFETY (all blocks of this function): as in `become_task`.
    match streams {
        Streams::Files | Streams::Outputs(_) => unsafe {
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            null >= 0 && libc::dup2(null, 0) >= 0
        },
        Streams::All([input, ..]) => unsafe { libc::dup2(input, 0) >= 0 },
        // This process leads a session of its own by now.
        Streams::Terminal(terminal) => unsafe {
            libc::dup2(terminal, 0) >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0
        },
    }
}

/// Makes stdout and stderr what they are to be; false with `errno` set when that fails.
#[expect(
    unsafe_code,
    reason = "between clone and exec only bare system calls are safe"
)]
fn direct_outputs(handover: &Handover<'_>) -> bool {
    // SAFETY (all blocks of this function): as in `become_task`.
    let numbers = match handover.streams {
        Streams::Files => None,
        Streams::Outputs([out, err]) | Streams::All([_, out, err]) => Some((out, err)),
        Streams::Terminal(terminal) => Some((terminal, terminal)),
    };
    if let Some((out, err)) = numbers {
        return unsafe { libc::dup2(out, 1) >= 0 && libc::dup2(err, 2) >= 0 };
    }
    for (name, number) in [(c"stdout", 1), (c"stderr", 2)] {
        let flags =
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let fd = unsafe { libc::open(name.as_ptr(), flags, 0o644 as libc::c_uint) };
        if fd < 0 || unsafe { libc::dup2(fd, number) } < 0 {
            return false;
        }
        if let Some(user) = &handover.plan.credentials
            && unsafe { libc::fchown(fd, user.uid, user.gid) } != 0
        {
            return false;
        }
    }
    true
}

/// Tries every program in turn as `execvp` does; returns with `errno` set when none could run.
#[expect(
    unsafe_code,
    reason = "execve has no safe wrapper that allocates nothing"
)]
fn execute(handover: &Handover<'_>) {
    let mut telling = libc::ENOENT;
    let alone = handover.plan.programs.len() == 1;
    for program in &handover.plan.programs {
        // SAFETY: as in `become_task`. An execve that finds nothing costs a new address space.
        if !alone && unsafe { libc::access(program.as_ptr(), libc::F_OK) } != 0 {
            if Errno::last_raw() == libc::EACCES {
                telling = libc::EACCES;
            }
            continue;
        }
        // SAFETY: as in `become_task`.
        unsafe {
            libc::execve(
                program.as_ptr(),
                handover.argv.as_ptr(),
                handover.env.as_ptr(),
            )
        };
        match Errno::last_raw() {
            libc::ENOENT | libc::ENOTDIR => {}
            // Seen but not allowed: a later directory may hold another, else this is the reason.
            libc::EACCES => telling = libc::EACCES,
            libc::ENOEXEC => {
                if let Some(slot) = handover.shell_argv.get(1) {
                    slot.set(program.as_ptr());
                }
                // SAFETY: as above; `Cell<T>` has the layout of `T`.
                unsafe {
                    libc::execve(
                        SHELL.as_ptr(),
                        handover.shell_argv.as_ptr().cast(),
                        handover.env.as_ptr(),
                    )
                };
                return;
            }
            _ => return,
        }
    }
    Errno::set_raw(telling);
}
