//! The process that keeps one session: inside the container's namespaces, beside its init.
//!
//! A fork of the launcher, as an init is, and never anything executed. What the session's program
//! leaves behind becomes this process' child and ends with it. It is in none of the container's
//! cgroups: a container that has used up its memory or its processes can still be looked into,
//! as far as the program itself fits.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Pid, Uid, fchown, getpid};

use super::init::{DESTROY, REPORT_FD, append};
use super::isolators::see_own_processes;
use super::report::Report;
use super::sys::{self, ChildStack, Stage, Streams, TaskPlan, Usage, Wait};
use super::tree;

/// What one keeper is for.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The session's uuid, for reports.
    pub(super) session: u128,
    /// A handle on the container's first process.
    pub(super) container: OwnedFd,
    /// What of the container's is not ours. The keeper was forked into its pid namespace already.
    pub(super) namespaces: CloneFlags,
    pub(super) task: TaskPlan,
    /// Stdin, stdout and stderr of the program.
    pub(super) streams: [OwnedFd; 3],
    /// They are one terminal.
    pub(super) terminal: bool,
}

impl Keeper {
    /// Lives the life of a keeper; never returns to the launcher's code.
    pub(super) fn run(self, stack: &mut ChildStack) -> ! {
        let mut kept = vec![0, 1, 2, REPORT_FD, self.container.as_raw_fd()];
        kept.extend(self.streams.iter().map(AsRawFd::as_raw_fd));
        kept.extend(self.task.descriptors());
        sys::close_all_but(kept);
        let _ = prctl::set_name(c"allot-session");
        let _ = prctl::set_child_subreaper(true);
        let _ = prctl::set_pdeathsig(DESTROY);
        if launcher_is_gone() {
            sys::exit_now(1);
        }
        let session = self.session;
        let in_pid_namespace = self.namespaces.contains(CloneFlags::CLONE_NEWPID);
        match self.start(stack) {
            Ok(main) => {
                report(session, Report::Started);
                let status = watch(main, in_pid_namespace);
                let usage = Usage::of_children();
                report(session, Report::Ended { status, usage });
                sys::exit_now(0)
            }
            Err((stage, errno)) => {
                report(
                    session,
                    Report::Failed {
                        stage: stage as i32,
                        errno: errno as i32,
                    },
                );
                sys::exit_now(1)
            }
        }
    }

    /// Starts the program. The streams are its alone from then on, so that their other ends see
    /// when it and all that it began are gone.
    fn start(self, stack: &mut ChildStack) -> Result<Pid, (Stage, Errno)> {
        let rest = self.namespaces - CloneFlags::CLONE_NEWPID;
        if !rest.is_empty() {
            setns(self.container.as_fd(), rest).map_err(|errno| (Stage::Enter, errno))?;
        }
        let [input, output, error] = &self.streams;
        let streams = if self.terminal {
            if let Some((uid, gid)) = self.task.owner() {
                // So that it may open its terminal by name.
                let _ = fchown(input, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            }
            Streams::Terminal(input.as_raw_fd())
        } else {
            Streams::All([input.as_raw_fd(), output.as_raw_fd(), error.as_raw_fd()])
        };
        sys::spawn_task(&self.task, streams, stack)
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
fn watch(main: Pid, in_pid_namespace: bool) -> i32 {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, DESTROY] {
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
    let mut status = None;
    loop {
        match sys::reap(Wait::Poll) {
            Ok(Some(reaped)) => {
                if reaped.pid == main {
                    status = Some(reaped.status);
                }
                continue;
            }
            Ok(None) => {}
            Err(_) => return status.unwrap_or(libc::SIGKILL),
        }
        if let Some(status) = status {
            kill_all();
            if !listed {
                return status;
            }
            let _ = sys::reap(Wait::Block);
            continue;
        }
        let Ok((signal, sender)) = sys::wait_signal(&signals) else {
            continue;
        };
        // Orders come from outside, which shows as sender 0; whoever is inside may not give them.
        if signal == DESTROY as i32 && (!in_pid_namespace || sender == 0) {
            kill_all();
        }
    }
}

fn report(session: u128, report: Report) {
    // A launcher that is gone needs no report.
    let _ = append(REPORT_FD, &report.encode(session));
}
