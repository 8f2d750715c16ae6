//! Further programs in running containers, each kept by a [`Keeper`]: sessions and nested
//! containers.
//!
//! A session ends when its program does, when the agent says so, when its container ends and
//! when this launcher does. Nothing of it is written down: nobody could go on with it.
//!
//! A nested container is one of the launcher's containers like any other, but for its walls and
//! groups, which are those of the container that it is in, and that it ends with that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::container::Container;
use super::init::{self, DESTROY};
use super::isolators::cgroups::Group;
use super::keeper::{Keeper, Life, Stdio};
use super::launcher::Launcher;
use super::launching::Begun;
use super::plan::{failure_message, task_plan};
use super::report::Report;
use super::sys::{self, Fork};
use super::tree;
use super::wire::{Enter, Failed, Launch, Left, news};

/// How many retries before a keeper that does not end is killed.
const EJECT_RETRIES: u32 = 40;

/// Namespaces as `/proc` names them.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("uts", CloneFlags::CLONE_NEWUTS),
];

/// The launcher's books of sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Descriptors that came and belong to orders that are about to be read.
    passed: VecDeque<OwnedFd>,
    open: BTreeMap<u64, Session>,
    by_uuid: BTreeMap<u128, u64>,
    by_pid: BTreeMap<i32, u64>,
}

#[derive(Debug)]
struct Session {
    keeper: Pid,
    uuid: u128,
    container: u64,
    program: String,
    started: bool,
    failure: Option<(i32, i32)>,
    ended: Option<i32>,
    /// Set when it is being ended: how often that was retried.
    ejecting: Option<u32>,
}

impl Sessions {
    /// Takes in descriptors that came over the socket.
    pub(super) fn pass(&mut self, descriptors: impl IntoIterator<Item = OwnedFd>) {
        self.passed.extend(descriptors);
    }

    /// The descriptor that came with an order which takes one.
    pub(super) fn passed(&mut self) -> Option<OwnedFd> {
        self.passed.pop_front()
    }

    /// Those that came with an order to start a program beside another.
    pub(super) fn take_streams(&mut self) -> Result<[OwnedFd; 3], String> {
        let mut passed = self.passed.drain(..3.min(self.passed.len()));
        match (passed.next(), passed.next(), passed.next()) {
            (Some(input), Some(output), Some(error)) => Ok([input, output, error]),
            _ => Err("its descriptors did not come".to_owned()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Keepers, by number.
    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.by_pid.keys().copied()
    }

    pub(super) fn needs_retry(&self) -> bool {
        self.open.values().any(|session| session.ejecting.is_some())
    }

    /// Asks keepers to end that have not ended yet.
    pub(super) fn retry(&mut self) {
        for session in self.open.values_mut() {
            if let Some(retries) = &mut session.ejecting {
                *retries += 1;
                if *retries > EJECT_RETRIES {
                    // Stopped, perhaps, by root inside the container.
                    session.kill();
                } else {
                    session.eject();
                }
            }
        }
    }

    /// Everything in a session is to end.
    pub(super) fn eject(&mut self, session: u64) {
        if let Some(session) = self.open.get_mut(&session) {
            session.ejecting.get_or_insert(0);
            session.eject();
        }
    }

    /// Every session is to end.
    pub(super) fn eject_all(&mut self) {
        for session in self.open.values_mut() {
            session.ejecting.get_or_insert(0);
            session.eject();
        }
    }

    /// Kills every session of a container that has ended.
    pub(super) fn kill_those_of(&mut self, container: u64) {
        for session in self.open.values_mut() {
            if session.container == container {
                session.ejecting.get_or_insert(0);
                session.kill();
            }
        }
    }

    /// A keeper said something.
    fn on_report(&mut self, uuid: u128, report: Report) -> Option<news::Kind> {
        let id = self.by_uuid.get(&uuid)?;
        let session = self.open.get_mut(id)?;
        match report {
            Report::Born(_) => None,
            Report::Started => {
                session.started = true;
                Some(news::Kind::Entered(*id))
            }
            Report::Failed { stage, errno } => {
                session.failure = Some((stage, errno));
                None
            }
            Report::Ended { status, .. } => {
                session.ended = Some(status);
                None
            }
        }
    }

    /// A child ended; what to tell when it was a keeper.
    fn on_reaped(&mut self, pid: i32) -> Option<news::Kind> {
        let id = self.by_pid.remove(&pid)?;
        let session = self.open.remove(&id)?;
        self.by_uuid.remove(&session.uuid);
        Some(match session.failure {
            Some((stage, errno)) => news::Kind::Refused(Failed {
                id,
                message: failure_message(&session.program, stage, errno),
            }),
            // Killed with the container before it came so far.
            None if !session.started => news::Kind::Refused(Failed {
                id,
                message: ENDING.to_owned(),
            }),
            // A keeper that was killed reports nothing.
            None => news::Kind::Left(Left {
                session: id,
                status: session.ended.unwrap_or(libc::SIGKILL),
            }),
        })
    }
}

impl Session {
    fn eject(&self) {
        // Our child keeps its number until we have reaped it.
        let _ = kill(self.keeper, DESTROY);
    }

    /// Without asking the keeper.
    fn kill(&self) {
        tree::kill_tree(self.keeper, &BTreeSet::new());
        let _ = kill(self.keeper, Signal::SIGKILL);
    }
}

impl Launcher {
    /// Starts a program in a running container.
    pub(super) fn enter(&mut self, enter: Enter) {
        let streams = self.sessions.take_streams();
        let id = enter.session;
        let entered = streams.and_then(|streams| self.try_enter(enter, streams));
        if let Err(message) = entered {
            self.tell(news::Kind::Refused(Failed { id, message }));
        }
    }

    fn try_enter(&mut self, enter: Enter, streams: [OwnedFd; 3]) -> Result<(), String> {
        let Enter {
            session,
            name,
            launch,
            terminal,
        } = enter;
        let uuid = uuid::Uuid::try_parse(&name)
            .map_err(|_| format!("the session's name {name:?} is no uuid"))?
            .as_u128();
        let stdio = Stdio::Passed { streams, terminal };
        let keeper = self.keeper(uuid, launch.id, &launch, stdio, Life::Session)?;
        let keeper = self.fork_keeper(keeper)?;
        self.sessions.by_pid.insert(keeper.as_raw(), session);
        self.sessions.by_uuid.insert(uuid, session);
        let entry = Session {
            keeper,
            uuid,
            container: launch.id,
            program: launch.program,
            started: false,
            failure: None,
            ended: None,
            ejecting: None,
        };
        self.sessions.open.insert(session, entry);
        Ok(())
    }

    /// What it takes to keep the program of `launch` in a running container.
    fn keeper(
        &mut self,
        uuid: u128,
        container: u64,
        launch: &Launch,
        stdio: Stdio,
        life: Life,
    ) -> Result<Keeper, String> {
        let container = self
            .containers
            .get_mut(&container)
            .filter(|container| container.can_be_entered())
            .ok_or(ENDING)?;
        // What is entered may be there when the task has ended.
        container.orders = None;
        let container_uuid = container.uuid;
        let handle = container.handle().map_err(|_| ENDING)?;
        let namespaces = foreign_namespaces(container.init)
            .map_err(|error| format!("the container's namespaces cannot be seen: {error}"))?;
        // The number was the container's all along: its handle still names a process.
        if !is_alive(&handle) {
            return Err(ENDING.to_owned());
        }
        let around = self.group_around(container_uuid);
        let entrances = around.map_or_else(|| Ok(Vec::new()), Group::open_entrances)?;
        let hardening = self.isolators.enter(launch)?;
        let task = task_plan(launch, entrances, self.open_files, true, hardening)?;
        Ok(Keeper {
            uuid,
            container: handle,
            namespaces,
            task,
            stdio,
            life,
        })
    }

    /// The group of the container of this uuid, or of the one that it is in.
    fn group_around(&self, mut uuid: u128) -> Option<&Group> {
        loop {
            let container = self.containers.values().find(|c| c.uuid == uuid)?;
            if let Some(group) = &container.group {
                return Some(group);
            }
            uuid = container.beside?;
        }
    }

    /// Starts a program in the running container of this number that is a container itself: the
    /// journal knows it, and it goes on when this launcher ends.
    pub(super) fn begin_beside(
        &mut self,
        launch: &Launch,
        uuid: u128,
        (parent, folder): (u64, OwnedFd),
    ) -> Result<Begun, String> {
        // Not the container's, where it may be anything.
        let nothing = File::open("/dev/null");
        let nothing = nothing.map_err(|error| format!("nothing to read can be had: {error}"))?;
        let stdio = Stdio::Logged {
            nothing: nothing.into(),
            folder,
            bounds: init::bounds(launch),
        };
        let life = Life::Container {
            outlives: self.outlive,
        };
        let keeper = self.keeper(uuid, parent, launch, stdio, life)?;
        let init = self.fork_keeper(keeper)?;
        let beside = self.containers.get(&parent).map(|parent| parent.uuid);
        Ok(Begun {
            init,
            orders: None,
            group: None,
            beside,
        })
    }

    /// Kills every container that is in this one, which has ended.
    pub(super) fn kill_those_in(&mut self, uuid: u128) {
        for (_, id) in self.inside.range((uuid, 0)..=(uuid, u64::MAX)) {
            let Some(container) = self.containers.get_mut(id) else {
                continue;
            };
            container.destroying.get_or_insert(0);
            if container.handle().is_ok_and(|handle| is_alive(&handle)) {
                tree::kill_tree(container.init, &BTreeSet::new());
            }
            let _ = container.signal(Signal::SIGKILL);
        }
    }

    /// Forks into the pid namespace of the container, where it has one. That namespace is the
    /// children's alone: this process stays in its own, and so do its later children.
    fn fork_keeper(&mut self, keeper: Keeper) -> Result<Pid, String> {
        let enters_pids = keeper.namespaces.contains(CloneFlags::CLONE_NEWPID);
        let forked = if enters_pids {
            fork_beside(&keeper.container, CloneFlags::empty())
        } else {
            sys::fork_into(CloneFlags::empty())
        };
        match forked {
            Ok(Fork::Child) => keeper.run(&mut self.stack),
            Ok(Fork::Parent(pid)) => Ok(pid),
            // A namespace whose first process is gone takes no more.
            Err(Errno::ENOMEM) => Err(ENDING.to_owned()),
            Err(errno) => Err(format!("the container cannot be entered: {}", errno.desc())),
        }
    }

    /// A record of a session.
    pub(super) fn on_session_report(&mut self, uuid: u128, report: Report) {
        if let Some(kind) = self.sessions.on_report(uuid, report) {
            self.tell(kind);
        }
    }

    /// A child that is no init ended.
    pub(super) fn on_keeper_reaped(&mut self, pid: i32) {
        if let Some(kind) = self.sessions.on_reaped(pid) {
            self.tell(kind);
        }
    }
}

/// Forks into the pid namespace of a process and into new `namespaces`; the child is not dumpable.
pub(super) fn fork_beside(process: &OwnedFd, namespaces: CloneFlags) -> Result<Fork, Errno> {
    let number = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let own = File::open("/proc/self/ns/pid").map_err(number)?;
    // Inside, the child is seen by root before it can do anything about that itself: until then
    // this program's file and memory must be out of reach (runc's CVE-2019-5736).
    let dumpable = prctl::get_dumpable().unwrap_or(true);
    setns(process.as_fd(), CloneFlags::CLONE_NEWPID)?;
    let _ = prctl::set_dumpable(false);
    let forked = sys::fork_into(namespaces);
    if matches!(forked, Ok(Fork::Child)) {
        return forked;
    }
    let _ = prctl::set_dumpable(dumpable);
    if setns(own.as_fd(), CloneFlags::CLONE_NEWPID).is_err() {
        // Every later container would be a part of this one. The agent starts another launcher,
        // which takes up the containers.
        sys::exit_now(1);
    }
    forked
}

/// Why nothing more can be started in a container.
pub(super) const ENDING: &str = "the task does not run any more, or is just ending";

impl Container {
    pub(super) fn can_be_entered(&self) -> bool {
        self.started && self.ended.is_none() && self.destroying.is_none()
    }

    /// A handle on its first process.
    pub(super) fn handle(&self) -> io::Result<OwnedFd> {
        match &self.adopted {
            // Our child keeps its number until we have reaped it.
            None => Ok(sys::pidfd_open(self.init.as_raw())?),
            Some(Some(handle)) => handle.try_clone(),
            Some(None) => Err(Errno::ESRCH.into()),
        }
    }
}

/// Whether a process has not ended yet.
pub(super) fn is_alive(handle: &OwnedFd) -> bool {
    let mut waiting = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, PollTimeout::ZERO) == Ok(0)
}

/// In which namespaces a process is and we are not.
pub(super) fn foreign_namespaces(pid: Pid) -> io::Result<CloneFlags> {
    let mut foreign = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let of = |whose: &str| {
            let namespace = fs::metadata(format!("/proc/{whose}/ns/{name}"))?;
            Ok::<_, io::Error>((namespace.dev(), namespace.ino()))
        };
        if of(&pid.to_string())? != of("self")? {
            foreign |= flag;
        }
    }
    Ok(foreign)
}
