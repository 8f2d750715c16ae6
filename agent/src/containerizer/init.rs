//! The first process of a container: builds the walls, starts the task, reaps everything and
//! reports how it ended. It is a fork of the launcher that never executes anything, so that a
//! task costs a few dozen KiB of memory beside its own. Where it can, it then serves the next
//! container ([`super::reuse`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, getppid, write};

use super::isolators::Mounts;
use super::journal::JOURNAL_FD;
use super::logs::{self, Bound, Logs};
use super::plan::task_plan;
use super::pods;
use super::report::{Born, Report};
use super::reuse::{self, Arrived};
use super::sys::{self, ChildStack, Stage, Streams, TaskPlan, Usage, Wait};
use super::terminal::WindowSize;
use super::wire::{self, Launch};

/// Where the launcher parks the write end of the report pipe.
pub(super) const REPORT_FD: RawFd = 3;

/// Where an init that may serve again has its socket.
const ORDERS_FD: RawFd = JOURNAL_FD + 1;

/// Where an init has its side of its task's terminal.
pub(super) const TERMINAL_FD: RawFd = JOURNAL_FD + 2;

/// Where an init holds on to the first process of the pod that it is in.
pub(super) const POD_FD: RawFd = JOURNAL_FD + 3;

/// Where an init that may serve again has the mounts that each of its containers begins with.
const LASTING_MOUNTS_FD: RawFd = JOURNAL_FD + 4;

/// Asks an init to pass SIGTERM on to its whole tree.
pub(super) const TERMINATE: Signal = Signal::SIGTERM;
/// Asks an init to kill its whole tree.
pub(super) const DESTROY: Signal = Signal::SIGINT;

/// What one init is for.
#[derive(Debug)]
pub(super) struct Init {
    /// The container's uuid, for reports.
    pub(super) container: u128,
    pub(super) task: TaskPlan,
    /// The bounds of stdout and stderr; `None`: the task writes into its files itself.
    pub(super) logs: Option<[Bound; 2]>,
    /// What it mounts first; `None` where it has the machine's mounts.
    pub(super) mounts: Option<Mounts>,
    /// The size of the terminal that the task is to have.
    pub(super) terminal: Option<WindowSize>,
    /// Whether this process is the first of its own pid namespace.
    pub(super) pid_namespace: bool,
    /// It is in the pid namespace of a pod, whose first process lives as long as this is open.
    pub(super) pod: Option<OwnedFd>,
    /// The launcher that the container ends with; `None`: it outlives it.
    pub(super) bound_to: Option<Pid>,
    /// Soft and hard limit of open files as tasks get them.
    pub(super) open_files: (u64, u64),
    /// Where the next container comes from; `None`: it serves one.
    pub(super) orders: Option<OwnedFd>,
    /// The namespaces that each container gets anew.
    pub(super) renewed: CloneFlags,
    /// The number of this process as the host counts, once it is known.
    pub(super) number: Option<i32>,
}

/// The bounds that a launch puts to stdout and stderr.
pub(super) fn bounds(launch: &Launch) -> Option<[Bound; 2]> {
    let bound = |size_max, files_max| Bound {
        size_max,
        files_max,
    };
    let of = |logs: &wire::Logs| {
        [
            bound(logs.stdout_size_max, logs.stdout_files_max),
            bound(logs.stderr_size_max, logs.stderr_files_max),
        ]
    };
    launch.logs.as_ref().map(of)
}

impl Init {
    /// Lives the life of an init; never returns to the launcher's code.
    pub(super) fn run(mut self, stack: &mut ChildStack) -> ! {
        // Before the launcher's lock is let go with its other descriptors: whoever gets the lock
        // finds every init in the journal.
        let born = self.enter_journal();
        // Volumes come as descriptors, so they are mounted before these are closed.
        let mounted = self.mount();
        let mut kept = vec![0, 1, 2, REPORT_FD, JOURNAL_FD];
        let orders = self.orders.take();
        let mut serves_again = orders.is_some_and(|fd| sys::park_fd(fd, ORDERS_FD).is_ok());
        if serves_again {
            kept.push(ORDERS_FD);
        }
        let mounted = mounted.map(|lasting| {
            if let Some(lasting) = lasting {
                serves_again &= sys::park_fd(lasting, LASTING_MOUNTS_FD).is_ok();
                kept.push(LASTING_MOUNTS_FD);
            }
        });
        if let Some(pod) = &self.pod {
            // Nothing has that number that is still needed here.
            let _ = pods::keep(pod, POD_FD);
            kept.push(POD_FD);
        }
        // The launcher's socket, above all: it must close when the launcher dies.
        sys::close_all_but(kept);
        let walled = born.map_err(|errno| (Stage::Journal, errno)).and(mounted);
        self.serve(walled.and_then(|()| self.start(stack)));
        while serves_again && let Some(arrived) = reuse::next(ORDERS_FD) {
            let begun = self.take(arrived);
            self.serve(begun.and_then(|()| self.spawn(stack)));
        }
        sys::exit_now(0)
    }

    /// Mounts what the container has of its own; what lasts beyond it, where this init may serve
    /// another one.
    fn mount(&mut self) -> Result<Option<OwnedFd>, (Stage, Errno)> {
        let Some(mounts) = &mut self.mounts else {
            return Ok(None);
        };
        mounts.put_up_lasting()?;
        let mut lasting = None;
        if self.orders.is_some() {
            let failed = |errno| (Stage::Mount, errno);
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let namespace = open("/proc/self/ns/mnt", flags, Mode::empty()).map_err(failed)?;
            unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
            lasting = Some(namespace);
        }
        mounts.put_up_own()?;
        mounts.let_go();
        Ok(lasting)
    }

    /// Sees a container through to its end; ends itself when there was none.
    fn serve(&self, begun: Result<(Pid, Option<Logs>), (Stage, Errno)>) {
        match begun {
            Ok((main, mut logs)) => {
                self.report(Report::Started);
                let (status, usage) = self.watch(main, logs.as_mut());
                if let Some(logs) = &mut logs {
                    logs.drain();
                }
                self.report(Report::Ended { status, usage });
            }
            Err((stage, errno)) => {
                self.report(Report::Failed {
                    stage: stage as i32,
                    errno: errno as i32,
                });
                sys::exit_now(1)
            }
        }
    }

    /// Becomes the init of another container, behind walls like those of the last.
    fn take(&mut self, arrived: Arrived) -> Result<(), (Stage, Errno)> {
        let Arrived {
            launch,
            entrances,
            journal,
            lock,
            trees,
        } = arrived;
        // It may be another file by now.
        let _ = sys::park_fd(journal, JOURNAL_FD);
        let uuid = uuid::Uuid::try_parse(&launch.name).map(|id| id.as_u128());
        self.container = uuid.map_err(|_| (Stage::Journal, Errno::EINVAL))?;
        self.logs = bounds(&launch);
        // The launcher has laid it out as well, and would have refused what cannot be.
        let hardening = self.task.hardening().clone();
        self.task = task_plan(
            &launch,
            entrances,
            self.open_files,
            !self.pid_namespace,
            hardening,
        )
        .map_err(|_| (Stage::Exec, Errno::EINVAL))?;
        self.enter_journal()
            .map_err(|errno| (Stage::Journal, errno))?;
        drop(lock);
        let failed = |errno| (Stage::Mount, errno);
        if self.mounts.is_some() {
            setns(sys::borrow_fd(LASTING_MOUNTS_FD), CloneFlags::CLONE_NEWNS).map_err(failed)?;
        }
        if !self.renewed.is_empty() {
            unshare(self.renewed).map_err(failed)?;
        }
        if let Some(mounts) = &mut self.mounts {
            let sandbox = Path::new(OsStr::from_bytes(&launch.directory));
            mounts.take(trees.into_iter(), sandbox);
            mounts.put_up_own()?;
            mounts.let_go();
        }
        Ok(())
    }

    /// An init that the next launcher could not find must not begin anything.
    fn enter_journal(&mut self) -> Result<(), Errno> {
        let pid = match self.number {
            Some(number) => number,
            None => number_outside(self.is_walled())?,
        };
        self.number = Some(pid);
        be_born(self.container, pid, self.pid_namespace)
    }

    fn start(&self, stack: &mut ChildStack) -> Result<(Pid, Option<Logs>), (Stage, Errno)> {
        let _ = prctl::set_name(c"allot-init");
        if self.bound_to.is_some() {
            // With the first process of a pid namespace, all others die.
            let signal = if self.pid_namespace {
                Signal::SIGKILL
            } else {
                DESTROY
            };
            let _ = prctl::set_pdeathsig(signal);
        }
        if self.is_walled() {
            // A task of root sees this process: it must not get at this program's file or
            // memory through `/proc/1` (runc's CVE-2019-5736).
            let _ = prctl::set_dumpable(false);
        }
        if !self.pid_namespace {
            let _ = prctl::set_child_subreaper(true);
            if self
                .bound_to
                .is_some_and(|launcher| self.has_lost(launcher))
            {
                sys::exit_now(1);
            }
        }
        self.spawn(stack)
    }

    /// What is in this process' namespace cannot send it orders, and does not number processes as
    /// the host does.
    const fn is_walled(&self) -> bool {
        self.pid_namespace || self.pod.is_some()
    }

    /// Whether the launcher ended before this process asked to be told of it.
    fn has_lost(&self, launcher: Pid) -> bool {
        if self.pod.is_some() {
            // From inside, every parent outside has the number 0.
            super::keeper::launcher_is_gone()
        } else {
            getppid() != launcher
        }
    }

    fn spawn(&self, stack: &mut ChildStack) -> Result<(Pid, Option<Logs>), (Stage, Errno)> {
        if let Some(size) = self.terminal {
            let place = (size, TERMINAL_FD);
            let (directory, owner) = (self.task.directory(), self.task.owner());
            let (logs, terminal) = Logs::of_terminal(directory, owner, self.logs, place)
                .map_err(|errno| (Stage::Output, errno))?;
            let main = sys::spawn_task(&self.task, Streams::Terminal(terminal), stack)?;
            return Ok((main, Some(logs)));
        }
        let Some(bounds) = self.logs else {
            return Ok((sys::spawn_task(&self.task, Streams::Files, stack)?, None));
        };
        let (logs, ends) = Logs::open(self.task.directory(), self.task.owner(), bounds)
            .map_err(|errno| (Stage::Output, errno))?;
        let streams = Streams::Outputs(logs::numbers(&ends));
        let main = sys::spawn_task(&self.task, streams, stack)?;
        Ok((main, Some(logs)))
    }

    /// Reaps until the main process has ended, then ends and reaps the rest. The wait status of
    /// the main process and what all of them used.
    fn watch(&self, main: Pid, mut logs: Option<&mut Logs>) -> (i32, Usage) {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGCHLD, TERMINATE, DESTROY] {
            signals.add(signal);
        }
        let mut main_status = None;
        let mut usage = Usage::default();
        loop {
            match sys::reap(Wait::Poll) {
                Ok(Some(reaped)) => {
                    usage.add(&reaped.usage);
                    if reaped.pid == main {
                        main_status = Some(reaped.status);
                    }
                    continue;
                }
                Ok(None) => {}
                // No child is left. Without the main process among them that cannot be, except
                // for a kernel that lies; SIGKILL is the honest guess then.
                Err(_) => return (main_status.unwrap_or(libc::SIGKILL), usage),
            }
            if main_status.is_some() {
                // The task is its main process, as with Mesos' command executor: what it left
                // behind ends with it. Again and again, for what was forked meanwhile.
                self.kill_all();
                if let Ok(Some(reaped)) = sys::reap(Wait::Block) {
                    usage.add(&reaped.usage);
                }
                continue;
            }
            if let Some(logs) = &mut logs
                && pump_until_signal(&signals, logs).is_err()
            {
                // Without a way to wait for both, the task's end is what matters.
                logs.drain();
            }
            let Ok((signal, sender)) = sys::wait_signal(&signals) else {
                continue;
            };
            // In a pid namespace orders come from outside, which shows as sender 0; whoever is
            // inside may not give them.
            let ordered = !self.is_walled() || sender == 0;
            if signal == TERMINATE as i32 && ordered {
                self.signal_all(Signal::SIGTERM);
            } else if signal == DESTROY as i32 && ordered {
                self.kill_all();
            }
        }
    }

    fn signal_all(&self, signal: Signal) {
        if self.pid_namespace {
            // Everything in the namespace but its first process, which is this one.
            let _ = kill(Pid::from_raw(-1), signal);
        } else {
            super::tree::signal_tree(getpid(), signal, &BTreeSet::new());
        }
    }

    fn kill_all(&self) {
        if self.pid_namespace {
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        } else {
            super::tree::kill_tree(getpid(), &BTreeSet::new());
        }
    }

    fn report(&self, report: Report) {
        let record = report.encode(self.container);
        // For whoever comes after, first. Room was reserved; should it fail all the same, the
        // launcher still hears of it.
        let _ = append(JOURNAL_FD, &record);
        // A launcher that is gone needs no report.
        let _ = append(REPORT_FD, &record);
    }
}

/// The number of this process as the host counts. Before it leaves the launcher's mounts.
pub(super) fn number_outside(is_walled: bool) -> Result<i32, Errno> {
    if !is_walled {
        return Ok(getpid().as_raw());
    }
    // `/proc` is still the launcher's.
    let link = std::fs::read_link("/proc/self").ok();
    let number = link.and_then(|link| link.to_str()?.parse().ok());
    number.ok_or(Errno::ESRCH)
}

/// Enters this process in the journal as the first of a container.
pub(super) fn be_born(container: u128, pid: i32, pid_namespace: bool) -> Result<(), Errno> {
    let born = Report::Born(Born {
        pid,
        since_boot: sys::since_boot(),
        pid_namespace,
    });
    append(JOURNAL_FD, &born.encode(container))
}

/// Moves what the task writes until one of the blocked `signals` is there to be taken.
pub(super) fn pump_until_signal(signals: &SigSet, logs: &mut Logs) -> Result<(), Errno> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let arrival = SignalFd::with_flags(signals, flags)?;
    loop {
        let mut waiting = vec![PollFd::new(arrival.as_fd(), PollFlags::POLLIN)];
        waiting.extend(
            logs.pipes()
                .map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)),
        );
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let arrived = waiting
            .first()
            .is_some_and(|first| first.any() == Some(true));
        // Also when a signal has come: who writes without end must not hold back its own end, and
        // who sends signals without end not its output.
        logs.pump();
        if arrived {
            return Ok(());
        }
    }
}

/// Writes one record: short enough to be written whole or not at all.
pub(super) fn append(fd: RawFd, record: &[u8]) -> Result<(), Errno> {
    loop {
        match write(sys::borrow_fd(fd), record) {
            Err(Errno::EINTR) => {}
            Ok(n) if n < record.len() => return Err(Errno::ENOSPC),
            other => return other.map(drop),
        }
    }
}
