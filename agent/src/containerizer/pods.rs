//! Process namespaces that several containers share: tasks of a group that ask for their
//! executor's (Mesos' `share_pid_namespace`).
//!
//! Such a namespace has a first process of its own, a fork of the launcher that does nothing but
//! reap: with the first process of a namespace all others in it die, and none of the tasks may
//! take the others along. It ends when nobody holds the pipe that it reads any more: the launcher
//! holds it as long as it knows a container in it, and so does the init of each. So it lives on
//! without a launcher, and nobody has to write down that it is there.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, pipe2};

use super::enter::{foreign_namespaces, is_alive};
use super::init::POD_FD;
use super::launcher::Launcher;
use super::sys::{self, Fork, Wait};

/// The launcher's books of pods, by the uuid of the executor's run.
#[derive(Debug, Default)]
pub(super) struct Pods(BTreeMap<u128, Pod>);

/// One namespace.
#[derive(Debug)]
pub(super) struct Pod {
    /// A process in it.
    process: OwnedFd,
    /// Its first process, where that is our child.
    first: Option<Pid>,
    /// What keeps that alive.
    hold: OwnedFd,
}

impl Pods {
    /// First processes that are our children, by number.
    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        let first = self.0.values().filter_map(|pod| pod.first);
        first.map(Pid::as_raw)
    }
}

impl Launcher {
    /// The namespace of the executor's run `name`, made when there is none: a process in it, and
    /// what keeps it alive.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn pod(&mut self, name: u128) -> Result<(OwnedFd, OwnedFd), String> {
        let there = self.pods.0.get(&name);
        if !there.is_some_and(|pod| is_alive(&pod.process)) {
            let pod = match self.find_pod(name) {
                Some(pod) => pod,
                None => begin().map_err(|errno| {
                    format!("no process namespace can be made: {}", errno.desc())
                })?,
            };
            self.pods.0.insert(name, pod);
        }
        let copies = self.pods.0.get(&name).map(|pod| {
            let process = pod.process.try_clone()?;
            Ok::<_, std::io::Error>((process, pod.hold.try_clone()?))
        });
        match copies {
            Some(Ok(copies)) => Ok(copies),
            Some(Err(error)) => Err(format!("its pod cannot be entered: {error}")),
            None => Err("its pod is gone".to_owned()),
        }
    }

    /// The namespace that containers of an earlier launcher are in.
    fn find_pod(&self, name: u128) -> Option<Pod> {
        let members = self.containers.values().filter(|c| c.pod == Some(name));
        members.into_iter().find_map(|member| {
            let process = member.handle().ok()?;
            // Others in the same executor may see the machine's processes, in plain mode.
            let own = foreign_namespaces(member.init).ok()?;
            if !own.contains(CloneFlags::CLONE_NEWPID) {
                return None;
            }
            let hold = OpenOptions::new()
                .write(true)
                .custom_flags(OFlag::O_CLOEXEC.bits())
                .open(format!("/proc/{}/fd/{POD_FD}", member.init))
                .ok()?;
            // Its number was its own all along.
            is_alive(&process).then(|| Pod {
                process,
                first: None,
                hold: hold.into(),
            })
        })
    }

    /// A container is over: the pod that it was in ends with the last one.
    pub(super) fn leave_pod(&mut self, name: u128) {
        if !self.containers.values().any(|c| c.pod == Some(name)) {
            self.pods.0.remove(&name);
        }
    }
}

/// Begins a namespace.
fn begin() -> Result<Pod, Errno> {
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork_into(CloneFlags::CLONE_NEWPID)? {
        Fork::Child => be_first(theirs),
        Fork::Parent(pid) => Ok(Pod {
            process: sys::pidfd_open(pid.as_raw())?,
            first: Some(pid),
            hold: sys::dup_above(ours.as_fd(), 10)?,
        }),
    }
}

/// Lives the life of a first process: reaps what nobody else does, until it is not needed.
fn be_first(held: OwnedFd) -> ! {
    sys::close_all_but(vec![0, 1, 2, held.as_raw_fd()]);
    let _ = prctl::set_name(c"allot-pod");
    // As an init's: nothing in its namespace may get at this program's file or memory.
    let _ = prctl::set_dumpable(false);
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let Ok(signals) = SignalFd::with_flags(&children, flags) else {
        sys::exit_now(1);
    };
    loop {
        let mut waiting = [
            PollFd::new(held.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let polled = poll(&mut waiting, PollTimeout::NONE);
        let [held, _] = waiting;
        match polled {
            Err(Errno::EINTR) => continue,
            // Nothing is ever written: there is something to read once nobody could write any more.
            Ok(_) if held.any() != Some(true) => {}
            Ok(_) | Err(_) => sys::exit_now(0),
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Ok(Some(_)) = sys::reap(Wait::Poll) {}
    }
}

/// In an init: keeps its pod alive with a descriptor of this number.
pub(super) fn keep(hold: &OwnedFd, number: RawFd) -> Result<(), Errno> {
    sys::park_fd(hold.try_clone().map_err(|_| Errno::EMFILE)?, number)
}
