//! The few system calls that safe wrappers do not offer; all `unsafe` code of the agent is here.
//!
//! What makes the blocks sound is said beside each. Two facts hold for all of them: the launcher
//! and every container init have exactly one thread, so no lock can be held by somebody else at
//! a fork, and every pointer handed to the kernel points into memory that outlives the call.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

/// Takes ownership of a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` when it is not open.
#[expect(unsafe_code, reason = "descriptors arrive as numbers across exec")]
pub(super) fn adopt_fd(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_GETFD) only looks the number up.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and nothing else in this process knows the number: it was named by
    // whoever executed us, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Borrows a descriptor that the caller knows to be open for as long as the process lives.
#[expect(unsafe_code, reason = "the report pipe has a fixed number")]
pub(super) fn borrow_fd(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: only called with the number that the launcher parked the report pipe on, which is
    // never closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Moves `fd` to the number `to`, closed on exec, replacing what was there.
#[expect(
    unsafe_code,
    reason = "descriptor numbers are fixed for container inits"
)]
pub(super) fn park_fd(fd: OwnedFd, to: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == to {
        let _ = fd.into_raw_fd();
        return Ok(());
    }
    // SAFETY: dup3 has no memory arguments; `to` is not owned by any `OwnedFd` of this process,
    // as it is called before other descriptors are opened.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) })?;
    Ok(())
}

/// Duplicates `fd` to a number of at least `least`, closed on exec.
#[expect(unsafe_code, reason = "F_DUPFD_CLOEXEC returns a bare number")]
pub(super) fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) has no memory arguments.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes every descriptor from `first` up.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(super) fn close_from(first: RawFd) {
    // SAFETY: only container inits call this, right after the fork; they never return to code
    // that owns the descriptors, and they end with `_exit`, so nothing is closed twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

/// Which side of a fork this is.
#[derive(Debug)]
pub(super) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks, the child in new namespaces as `namespaces` says.
#[expect(unsafe_code, reason = "fork and clone have no safe wrapper")]
pub(super) fn fork_into(namespaces: CloneFlags) -> Result<Fork, Errno> {
    let pid = if namespaces.is_empty() {
        // SAFETY: the launcher has one thread, so the child may use every function, allocating
        // ones included.
        unsafe { libc::fork() }
    } else {
        // The C library offers no fork with flags. The bare call skips its fork handlers, of
        // which a single-threaded process has none that matter.
        let flags = namespaces.bits() | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and with a null stack the child continues on its own copy of
        // this stack, exactly as after fork(); the launcher has one thread.
        let raw =
            unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
        c_int::try_from(raw).unwrap_or(-1)
    };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid))),
    }
}

/// Ends this process at once, running nothing.
#[expect(
    unsafe_code,
    reason = "a forked child must not run the parent's exit handlers"
)]
pub(super) fn exit_now(status: c_int) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(status) }
}

/// A child that ended, and what it and its reaped descendants used.
#[derive(Debug)]
pub(super) struct Reaped {
    pub(super) pid: Pid,
    /// As `wait` returns it.
    pub(super) status: c_int,
    pub(super) usage: Usage,
}

/// CPU time and peak resident size.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) user: Duration,
    pub(super) system: Duration,
    pub(super) max_rss_bytes: u64,
}

impl Usage {
    fn from_raw(raw: &libc::rusage) -> Self {
        let duration = |time: libc::timeval| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        };
        Self {
            user: duration(raw.ru_utime),
            system: duration(raw.ru_stime),
            max_rss_bytes: u64::try_from(raw.ru_maxrss)
                .unwrap_or(0)
                .saturating_mul(1024),
        }
    }

    /// What the reaped children of this process used.
    #[expect(unsafe_code, reason = "getrusage fills a C struct")]
    pub(super) fn of_children() -> Self {
        // SAFETY: a zeroed rusage is a valid one, and getrusage only writes into it.
        let raw = unsafe {
            let mut raw: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut raw);
            raw
        };
        Self::from_raw(&raw)
    }
}

/// Whether waiting may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Block,
    Poll,
}

/// Reaps one ended child; `None` when there is none now, `ECHILD` when there are no children.
#[expect(unsafe_code, reason = "wait4 has no safe wrapper")]
pub(super) fn reap(wait: Wait) -> Result<Option<Reaped>, Errno> {
    let options = match wait {
        Wait::Block => 0,
        Wait::Poll => libc::WNOHANG,
    };
    let mut status: c_int = 0;
    // SAFETY: a zeroed rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = loop {
        // SAFETY: both pointers are to live locals that wait4 only writes to.
        let pid = Errno::result(unsafe {
            libc::wait4(-1, &raw mut status, options | libc::__WALL, &raw mut usage)
        });
        if pid != Err(Errno::EINTR) {
            break pid?;
        }
    };
    Ok((pid != 0).then(|| Reaped {
        pid: Pid::from_raw(pid),
        status,
        usage: Usage::from_raw(&usage),
    }))
}

/// Waits for one of the blocked signals of `set`; also says who sent it (0: from outside this
/// pid namespace, or the kernel).
#[expect(unsafe_code, reason = "sigwaitinfo has no safe wrapper")]
pub(super) fn wait_signal(set: &SigSet) -> Result<(c_int, libc::pid_t), Errno> {
    // SAFETY: a zeroed siginfo_t is a valid one; both pointers outlive the call.
    let (signal, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::sigwaitinfo(set.as_ref(), &raw mut info), info)
    };
    let signal = Errno::result(signal)?;
    // SAFETY: si_pid is plain data in the zeroed union, filled in or not.
    Ok((signal, unsafe { info.si_pid() }))
}

/// At which step the start of a task failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Stage {
    Cgroup = 1,
    Session,
    Directory,
    Output,
    Limits,
    Credentials,
    Exec,
    Clone,
    Mount,
}

impl Stage {
    /// The stage of this number.
    pub(super) fn from_number(number: i32) -> Option<Self> {
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
        ]
        .into_iter()
        .find(|stage| *stage as i32 == number)
    }
}

/// The user that a task runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Everything the start of a task needs, laid out before the fork so that nothing is allocated
/// after it.
#[derive(Debug)]
pub(super) struct TaskPlan {
    /// Files that move their writer into a cgroup when `0` is written to them.
    cgroups: Vec<CString>,
    directory: CString,
    /// Paths to try in turn, as `execvp` would.
    programs: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    credentials: Option<Credentials>,
    open_files: (u64, u64),
    /// Die with the container's init (where no pid namespace sees to it).
    die_with_init: bool,
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
    pub(super) fn new(
        cgroups: Vec<CString>,
        directory: CString,
        programs: Vec<CString>,
        argv: Vec<CString>,
        env: Vec<CString>,
        credentials: Option<Credentials>,
        open_files: (u64, u64),
        die_with_init: bool,
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
        }
    }

    /// The paths that are tried, in order.
    #[cfg(test)]
    pub(super) fn programs(&self) -> &[CString] {
        &self.programs
    }
}

/// Memory for the stack of a child between clone and exec.
#[derive(Debug)]
pub(super) struct ChildStack(Vec<u8>);

impl ChildStack {
    /// Enough for a few frames of system calls.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(64 * 1024))
    }
}

/// What the child between clone and exec reads, and where it leaves its failure.
struct Handover<'a> {
    plan: &'a TaskPlan,
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
pub(super) fn spawn_task(plan: &TaskPlan, stack: &mut ChildStack) -> Result<Pid, (Stage, Errno)> {
    let argv = pointers(&plan.argv);
    let env = pointers(&plan.env);
    let shell_argv: Vec<Cell<*const c_char>> = [SHELL.as_ptr(), std::ptr::null()]
        .into_iter()
        .chain(argv.iter().skip(1).copied())
        .map(Cell::new)
        .collect();
    let handover = Handover {
        plan,
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
    for path in &plan.cgroups {
        // `tasks` (v1) takes one thread and so spares the kernel a lock over all processes; this
        // child is one thread.
        let moved = unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            fd >= 0 && libc::write(fd, c"0".as_ptr().cast(), 1) == 1 && libc::close(fd) == 0
        };
        if !moved {
            return Stage::Cgroup;
        }
    }
    if unsafe { libc::setsid() } < 0 {
        return Stage::Session;
    }
    if unsafe { libc::chdir(plan.directory.as_ptr()) } != 0 {
        return Stage::Directory;
    }
    unsafe { libc::umask(0o022) };
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if null < 0 || unsafe { libc::dup2(null, 0) } < 0 {
        return Stage::Output;
    }
    for (name, number) in [(c"stdout", 1), (c"stderr", 2)] {
        let flags =
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let fd = unsafe { libc::open(name.as_ptr(), flags, 0o644 as libc::c_uint) };
        if fd < 0 || unsafe { libc::dup2(fd, number) } < 0 {
            return Stage::Output;
        }
        if let Some(user) = &plan.credentials
            && unsafe { libc::fchown(fd, user.uid, user.gid) } != 0
        {
            return Stage::Output;
        }
    }
    let limit = libc::rlimit {
        rlim_cur: plan.open_files.0,
        rlim_max: plan.open_files.1,
    };
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Stage::Limits;
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
        // Numbers that are no signal are refused, harmlessly.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    execute(handover);
    Stage::Exec
}

/// Tries every program in turn as `execvp` does; returns with `errno` set when none could run.
#[expect(
    unsafe_code,
    reason = "execve has no safe wrapper that allocates nothing"
)]
fn execute(handover: &Handover<'_>) {
    let mut telling = libc::ENOENT;
    for program in &handover.plan.programs {
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

/// Makes this thread, and no other, touch files as another user; for good.
///
/// # Errors
/// `EPERM` when this process may not.
#[expect(
    unsafe_code,
    reason = "the safe wrappers change every thread of the process"
)]
pub(crate) fn act_as(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the bare calls change the calling thread only; the pointer is to a live slice. The
    // caller lets the thread end, so nobody else meets its changed credentials.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // They return the former id; asking again tells whether the change took place.
        let (now_gid, now_uid) = (
            libc::syscall(libc::SYS_setfsgid, u32::MAX),
            libc::syscall(libc::SYS_setfsuid, u32::MAX),
        );
        if (now_gid, now_uid) != (i64::from(gid), i64::from(uid)) {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}
