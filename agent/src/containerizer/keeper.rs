//! The process that keeps one more program in a running container: inside the container's
//! namespaces, beside its init. The program is a session's, or that of a nested container.
//!
//! A fork of the launcher, as an init is, and never anything executed. What the program leaves
//! behind becomes this process' child and ends with it. It is in none of the container's
//! cgroups: a container that has used up its memory or its processes can still be looked into,
//! as far as the program itself fits.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Pid, Uid, fchown, getpid};

use super::init::{
    DESTROY, REPORT_FD, TERMINATE, append, be_born, number_outside, pump_until_signal,
};
use super::isolators::see_own_processes;
use super::journal::JOURNAL_FD;
use super::logs::{Bound, Logs};
use super::report::Report;
use super::sys::{self, ChildStack, Stage, Streams, TaskPlan, Usage, Wait};
use super::tree;

/// What one keeper is for.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The uuid of the session or nested container, for reports.
    pub(super) uuid: u128,
    /// A handle on the container's first process.
    pub(super) container: OwnedFd,
    /// What of the container's is not ours. The keeper was forked into its pid namespace already.
    pub(super) namespaces: CloneFlags,
    pub(super) task: TaskPlan,
    pub(super) stdio: Stdio,
    pub(super) life: Life,
}

/// What the program finds as its standard streams.
#[derive(Debug)]
pub(super) enum Stdio {
    /// Those that somebody holds the other ends of.
    Passed {
        /// Stdin, stdout and stderr.
        streams: [OwnedFd; 3],
        /// They are one terminal.
        terminal: bool,
    },
    /// Nothing to read, and files in its sandbox to write to.
    Logged {
        /// What it reads.
        nothing: OwnedFd,
        folder: OwnedFd,
        /// `None`: the program writes into its files itself.
        bounds: Option<[Bound; 2]>,
    },
}

impl Stdio {
    fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Passed { streams, .. } => streams.iter().map(AsRawFd::as_raw_fd).collect(),
            Self::Logged {
                nothing, folder, ..
            } => vec![nothing.as_raw_fd(), folder.as_raw_fd()],
        }
    }
}

/// How long a keeper is there, unless its program or its container ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// As long as the launcher.
    Session,
    /// As any container: its reports go into the journal as well.
    Container {
        /// It goes on without the launcher.
        outlives: bool,
    },
}

impl Keeper {
    /// Lives the life of a keeper; never returns to the launcher's code.
    pub(super) fn run(self, stack: &mut ChildStack) -> ! {
        let (uuid, life) = (self.uuid, self.life);
        let in_pid_namespace = self.namespaces.contains(CloneFlags::CLONE_NEWPID);
        // As in an init: before the launcher's lock is let go with its other descriptors.
        let entered = match life {
            Life::Session => Ok(()),
            Life::Container { .. } => number_outside(in_pid_namespace)
                .and_then(|pid| be_born(uuid, pid, false))
                .map_err(|errno| (Stage::Journal, errno)),
        };
        let mut kept = vec![0, 1, 2, REPORT_FD, self.container.as_raw_fd()];
        kept.extend(self.stdio.descriptors());
        kept.extend(self.task.descriptors());
        if life != Life::Session {
            kept.push(JOURNAL_FD);
        }
        sys::close_all_but(kept);
        let _ = prctl::set_name(match life {
            Life::Session => c"allot-session",
            Life::Container { .. } => c"allot-nested",
        });
        let _ = prctl::set_child_subreaper(true);
        if life != (Life::Container { outlives: true }) {
            let _ = prctl::set_pdeathsig(DESTROY);
            if launcher_is_gone() {
                sys::exit_now(1);
            }
        }
        let report = |report: Report| {
            let record = report.encode(uuid);
            if life != Life::Session {
                // For whoever comes after, first.
                let _ = append(JOURNAL_FD, &record);
            }
            // A launcher that is gone needs no report.
            let _ = append(REPORT_FD, &record);
        };
        match entered.and_then(|()| self.start(stack)) {
            Ok((main, logs)) => {
                report(Report::Started);
                let status = watch(main, in_pid_namespace, logs);
                let usage = Usage::of_children();
                report(Report::Ended { status, usage });
                sys::exit_now(0)
            }
            Err((stage, errno)) => {
                report(Report::Failed {
                    stage: stage as i32,
                    errno: errno as i32,
                });
                sys::exit_now(1)
            }
        }
    }

    /// Starts the program. The streams are its alone from then on, so that their other ends see
    /// when it and all that it began are gone.
    fn start(self, stack: &mut ChildStack) -> Result<(Pid, Option<Logs>), (Stage, Errno)> {
        let rest = self.namespaces - CloneFlags::CLONE_NEWPID;
        if !rest.is_empty() {
            setns(self.container.as_fd(), rest).map_err(|errno| (Stage::Enter, errno))?;
        }
        let owner = self.task.owner();
        let mut logs = None;
        let (streams, terminal) = match self.stdio {
            Stdio::Passed { streams, terminal } => (streams, terminal),
            Stdio::Logged {
                nothing,
                folder,
                bounds,
            } => {
                let failed = |errno| (Stage::Output, errno);
                let [out, err] = match bounds {
                    None => Logs::files_in(&folder, owner).map_err(failed)?,
                    Some(bounds) => {
                        let opened = Logs::open_in(&folder, owner, bounds);
                        let (opened, ends) = opened.map_err(failed)?;
                        logs = Some(opened);
                        ends
                    }
                };
                ([nothing, out, err], false)
            }
        };
        let [input, output, error] = &streams;
        let given = if terminal {
            if let Some((uid, gid)) = owner {
                // So that it may open its terminal by name.
                let _ = fchown(input, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            }
            Streams::Terminal(input.as_raw_fd())
        } else {
            Streams::All([input.as_raw_fd(), output.as_raw_fd(), error.as_raw_fd()])
        };
        Ok((sys::spawn_task(&self.task, given, stack)?, logs))
    }
}

/// Whether nobody reads reports any more. It was asked to be told of the launcher's end, but that
/// may have been before.
pub(super) fn launcher_is_gone() -> bool {
    let reports = sys::borrow_fd(REPORT_FD);
    let mut pipe = [PollFd::new(reports, PollFlags::empty())];
    let polled = poll(&mut pipe, PollTimeout::ZERO);
    let [pipe] = pipe;
    let broken = pipe
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLERR));
    polled.is_ok() && broken
}

/// Reaps until the program has ended, then ends and reaps what it left; its wait status.
fn watch(main: Pid, in_pid_namespace: bool, mut logs: Option<Logs>) -> i32 {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, TERMINATE, DESTROY] {
        signals.add(signal);
    }
    // In a pid namespace without a `/proc` of its own, processes are listed by numbers that mean
    // others here. Should another one not be had either, what the program leaves behind ends with
    // the container.
    let is_listed = || {
        fs::read_link("/proc/self").is_ok_and(|link| link.to_str() == Some(&getpid().to_string()))
    };
    let listed = is_listed() || see_own_processes().is_ok() && is_listed();
    let kill_all = || {
        let _ = kill(Pid::from_raw(-main.as_raw()), Signal::SIGKILL);
        if listed {
            tree::kill_tree(getpid(), &BTreeSet::new());
        }
    };
    let terminate_all = || {
        if listed {
            tree::signal_tree(getpid(), Signal::SIGTERM, &BTreeSet::new());
        } else {
            let _ = kill(Pid::from_raw(-main.as_raw()), Signal::SIGTERM);
        }
    };
    let mut status = None;
    let status = loop {
        match sys::reap(Wait::Poll) {
            Ok(Some(reaped)) => {
                if reaped.pid == main {
                    status = Some(reaped.status);
                }
                continue;
            }
            Ok(None) => {}
            Err(_) => break status.unwrap_or(libc::SIGKILL),
        }
        if let Some(status) = status {
            kill_all();
            if !listed {
                break status;
            }
            let _ = sys::reap(Wait::Block);
            continue;
        }
        if let Some(logs) = &mut logs
            && pump_until_signal(&signals, logs).is_err()
        {
            // As in an init.
            logs.drain();
        }
        let Ok((signal, sender)) = sys::wait_signal(&signals) else {
            continue;
        };
        // Orders come from outside, which shows as sender 0; whoever is inside may not give them.
        let ordered = !in_pid_namespace || sender == 0;
        if signal == TERMINATE as i32 && ordered {
            terminate_all();
        } else if signal == DESTROY as i32 && ordered {
            kill_all();
        }
    };
    if let Some(logs) = &mut logs {
        logs.drain();
    }
    status
}
