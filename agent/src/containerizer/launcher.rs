//! The launcher process: single-threaded, no runtime, one container init for each running task.
//!
//! It hears orders on a socket, forks inits, gathers their reports from one pipe, reaps them and
//! cleans up behind them. It ends with its agent. Containers do not, unless the agent said so:
//! the launcher of the next agent finds them in the journal ([`super::adopt`]). So nothing that
//! must not be lost is known here alone, and it may be killed at any instant.
//! What is started and when it is ended is decided by the agent's core.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{pipe2, setsid};

use super::adopt::{self, TakenOver, Unreleased};
use super::container::{Container, MemoryWatch, watch};
use super::enter::Sessions;
use super::init::{self, REPORT_FD};
use super::isolators::Isolators;
use super::isolators::cgroups::Group;
use super::journal::{JOURNAL_FD, Journal};
use super::pods::Pods;
use super::report;
use super::reuse::Idle;
use super::sys::{self, ChildStack};
use super::wire::{Failed, Inbox, News, Order, Ready, SetUp};
use super::wire::{news, order, put};

/// Orders handled before looking at what else happened: reaping must keep up with forking.
const ORDERS_PER_TURN: usize = 16;
/// How much is read at a time; whole records of reports.
const BUFFER_LEN: usize = 16 * 1024 / report::LEN * report::LEN;
/// How long an init in plain mode may take to kill its tree before it is killed itself, and how
/// often groups that could not be removed are tried again.
const RETRY: Duration = Duration::from_millis(50);
/// After how many retries a memory limit is watched.
const WATCH_RETRIES: u32 = 1;
/// How many retries before an init that does not end is killed.
const DESTROY_RETRIES: u32 = 40;

/// What processes of this kind are called; the kernel keeps 15 bytes.
pub(super) const NAME: &str = "allot-launcher";

const TOKEN_SOCKET: u64 = u64::MAX;
const TOKEN_REPORTS: u64 = u64::MAX - 1;
const TOKEN_CHILDREN: u64 = u64::MAX - 2;
/// With the number of a container: its first process, which is not our child, has ended.
pub(super) const TOKEN_ADOPTED: u64 = 1 << 63;

/// Runs the launcher on the socket `socket_fd` until the agent is gone; returns the exit status.
///
/// Must be the only thing that its process does, before any thread is started.
#[must_use]
pub fn launcher_main(socket_fd: i32) -> i32 {
    match Launcher::new(socket_fd).and_then(|mut launcher| launcher.run()) {
        Ok(()) => 0,
        Err(error) => {
            // The agent passes its standard error on to us; it has no other way to hear of this.
            let _ = writeln!(io::stderr(), "the launcher ended: {error}");
            1
        }
    }
}

pub(super) struct Launcher {
    socket: UnixStream,
    inbox: Inbox,
    /// Where bytes are read to. Not on the stack: each fork makes pages that are written to anew
    /// cost a fault.
    pub(super) buffer: Box<[u8]>,
    outbox: Vec<u8>,
    /// The socket took less than there was.
    waits_to_send: bool,
    pub(super) epoll: Epoll,
    pub(super) children: SignalFd,
    pub(super) reports: OwnedFd,
    pub(super) stack: ChildStack,
    /// Soft and hard limit of open files as tasks get them: those we were started with.
    pub(super) open_files: (u64, u64),
    pub(super) agent_gone: bool,
    /// Containers go on without us.
    pub(super) outlive: bool,
    /// Held until the end: no other launcher begins anything meanwhile.
    pub(super) lock: Option<File>,
    pub(super) journal: Option<Journal>,
    pub(super) isolators: Isolators,
    pub(super) containers: BTreeMap<u64, Container>,
    /// Those that are in another one: the uuid of that, and their numbers.
    pub(super) inside: BTreeSet<(u128, u64)>,
    pub(super) sessions: Sessions,
    pub(super) pods: Pods,
    pub(super) by_uuid: BTreeMap<u128, u64>,
    pub(super) by_pid: BTreeMap<i32, u64>,
    /// Inits without a container.
    pub(super) idle: Idle,
    /// Containers whose ends the agent has not written down yet.
    pub(super) unreleased: Unreleased,
    /// Groups whose removal the kernel refused for the moment.
    pub(super) leftover_groups: Vec<Group>,
}

impl Launcher {
    fn new(socket_fd: i32) -> io::Result<Self> {
        let _ = prctl::set_name(&CString::new(NAME).unwrap_or_default());
        // A Ctrl-C on the agent's terminal is the agent's to answer.
        let _ = setsid();
        // Orphans of inits that were killed come to us instead of leaving.
        prctl::set_child_subreaper(true)?;
        SigSet::all().thread_block()?;
        sys::default_signals();
        let given = sys::adopt_fd(socket_fd)?;
        let socket = UnixStream::from(sys::dup_above(given.as_fd(), 10)?);
        // The agent hands the socket over as standard input, which tasks must not see.
        let null = File::open("/dev/null")?;
        if socket_fd == 0 {
            let _ = given.into_raw_fd();
        } else {
            drop(given);
        }
        sys::park_fd(null.into(), 0)?;
        // Taken now, so that nothing else gets this number before the journal does.
        sys::park_fd(File::open("/dev/null")?.into(), JOURNAL_FD)?;
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let reports = sys::dup_above(read_end.as_fd(), 10)?;
        let write_end = sys::dup_above(write_end.as_fd(), 10)?;
        drop(read_end);
        // Inits wait when the pipe is full, rather than lose a report.
        nix::fcntl::fcntl(&write_end, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
        sys::park_fd(write_end, REPORT_FD)?;
        socket.set_nonblocking(true)?;
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&chld, flags)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&socket, readable(TOKEN_SOCKET))?;
        epoll.add(&reports, readable(TOKEN_REPORTS))?;
        epoll.add(&children, readable(TOKEN_CHILDREN))?;
        let open_files = getrlimit(Resource::RLIMIT_NOFILE)?;
        // Each container may take a descriptor of ours.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, open_files.1, open_files.1);
        Ok(Self {
            socket,
            inbox: Inbox::default(),
            buffer: vec![0; BUFFER_LEN].into(),
            outbox: Vec::new(),
            waits_to_send: false,
            epoll,
            children,
            reports,
            stack: ChildStack::new(),
            open_files,
            agent_gone: false,
            outlive: false,
            lock: None,
            journal: None,
            isolators: Isolators::none(),
            containers: BTreeMap::new(),
            inside: BTreeSet::new(),
            sessions: Sessions::default(),
            pods: Pods::default(),
            by_uuid: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            idle: Idle::default(),
            unreleased: BTreeMap::new(),
            leftover_groups: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let mut more_orders = false;
        let mut busy_turns = 0;
        while !(self.agent_gone
            && self.sessions.is_empty()
            && (self.outlive || self.containers.is_empty()))
        {
            let timeout = if more_orders {
                EpollTimeout::ZERO
            } else if self.needs_retry() {
                EpollTimeout::try_from(RETRY).unwrap_or(EpollTimeout::ZERO)
            } else {
                EpollTimeout::NONE
            };
            let n_ready = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            // Under load the timeout never passes; every so many turns count as one.
            busy_turns = if n_ready == 0 { 0 } else { busy_turns + 1 };
            let idle = (n_ready == 0 && !more_orders) || busy_turns % 256 == 255;
            for event in events.iter().take(n_ready) {
                match event.data() {
                    TOKEN_SOCKET => self.receive(event.events()),
                    TOKEN_REPORTS | TOKEN_CHILDREN => {}
                    token if token & TOKEN_ADOPTED != 0 => {
                        self.on_adopted_ended(token & !TOKEN_ADOPTED);
                    }
                    id => self.on_memory_limit(id),
                }
            }
            self.reap();
            if idle {
                self.retry();
            }
            more_orders = self.obey()?;
            self.send();
        }
        if self.containers.is_empty() {
            self.isolators.tear_down();
        }
        Ok(())
    }

    fn receive(&mut self, flags: EpollFlags) {
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        let mut control = nix::cmsg_space!([RawFd; 3]);
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let n = match received {
            Ok(message) => {
                for control in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmRights(numbers) = control {
                        let passed = numbers.into_iter().map(sys::adopt_fd);
                        self.sessions.pass(passed.filter_map(Result::ok));
                    }
                }
                message.bytes
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => 0,
        };
        if n == 0 {
            return self.on_agent_gone();
        }
        self.inbox.extend(self.buffer.get(..n).unwrap_or_default());
    }

    fn on_agent_gone(&mut self) {
        if self.agent_gone {
            return;
        }
        self.agent_gone = true;
        self.outbox.clear();
        let _ = self.epoll.delete(&self.socket);
        self.idle.clear();
        // Whom they talk to is gone with the agent.
        self.sessions.eject_all();
        if self.outlive {
            return;
        }
        let all: Vec<u64> = self.containers.keys().copied().collect();
        for id in all {
            self.destroy(id);
        }
    }

    /// Handles some orders; true when there are more.
    fn obey(&mut self) -> io::Result<bool> {
        for _ in 0..ORDERS_PER_TURN {
            let order: Option<Order> = self.inbox.next().map_err(io::Error::other)?;
            let Some(order) = order else {
                return Ok(false);
            };
            if self.agent_gone {
                continue;
            }
            match order.kind {
                Some(order::Kind::SetUp(set_up)) => self.set_up(&set_up),
                Some(order::Kind::Launch(launch)) => {
                    let id = launch.id;
                    if let Err(message) = self.launch(launch) {
                        self.tell(news::Kind::Failed(Failed { id, message }));
                    }
                }
                Some(order::Kind::Terminate(id)) => {
                    if let Some(container) = self.containers.get_mut(&id) {
                        let _ = container.signal(init::TERMINATE);
                    }
                }
                Some(order::Kind::Destroy(id)) => self.destroy(id),
                Some(order::Kind::Release(id)) => self.release(id),
                Some(order::Kind::Enter(enter)) => self.enter(enter),
                Some(order::Kind::Eject(session)) => self.sessions.eject(session),
                Some(order::Kind::Attach(id)) => self.attach(id),
                Some(order::Kind::Resize(resize)) => {
                    if let Some(container) = self.containers.get_mut(&resize.id) {
                        self.isolators.resize(&resize, container.group.as_mut());
                    }
                }
                None => {}
            }
        }
        Ok(true)
    }

    fn set_up(&mut self, set_up: &SetUp) {
        let mut ready = Ready::default();
        let folder = Path::new(OsStr::from_bytes(&set_up.journal));
        let taken_over = match TakenOver::of(folder) {
            Ok(taken_over) => taken_over,
            Err(clause) => {
                ready.refused = Some(clause);
                return self.tell(news::Kind::Ready(ready));
            }
        };
        self.outlive = set_up.outlive;
        let (isolators, found) = Isolators::set_up(set_up, &adopt::names(set_up));
        self.isolators = isolators;
        ready.isolators = found;
        ready.n_damaged = taken_over.n_damaged();
        let (lock, journal, past) = taken_over.into_parts();
        self.lock = Some(lock);
        self.journal = Some(journal);
        // The agent waits for this before all other news.
        let news = std::mem::take(&mut self.outbox);
        ready.n_strays = self.adopt_all(&set_up.adopt, past);
        let adopted = std::mem::replace(&mut self.outbox, news);
        self.tell(news::Kind::Ready(ready));
        self.outbox.extend(adopted);
    }

    /// Watches the limits of those containers that have lived for a moment.
    fn watch_limits(&mut self) {
        let mut hit = Vec::new();
        for (id, container) in &mut self.containers {
            let MemoryWatch::Later(retries) = &mut container.memory_watch else {
                continue;
            };
            *retries += 1;
            let Some(group) = container
                .group
                .as_ref()
                .filter(|_| *retries > WATCH_RETRIES)
            else {
                continue;
            };
            container.memory_watch = watch(&self.epoll, group, *id);
            // What happened before shows as well.
            if group.memory_verdict().is_some_and(|v| v.exceeded) {
                hit.push(*id);
            }
        }
        for id in hit {
            self.on_memory_limit(id);
        }
    }

    fn on_memory_limit(&mut self, id: u64) {
        if let Some(container) = self.containers.get_mut(&id) {
            container.memory_watch = MemoryWatch::Off;
            container.memory_exceeded = true;
            self.destroy(id);
        }
    }

    pub(super) fn destroy(&mut self, id: u64) {
        if let Some(container) = self.containers.get_mut(&id) {
            container.destroying.get_or_insert(0);
            let _ = container.signal(destroy_signal(container.pid_namespace));
        }
    }

    fn release(&mut self, id: u64) {
        if let (Some(file), Some(journal)) = (self.unreleased.remove(&id), &mut self.journal) {
            journal.leave(file);
        }
    }

    fn needs_retry(&self) -> bool {
        !self.leftover_groups.is_empty()
            || !self.idle.is_empty()
            || self.isolators.has_spares()
            || self.sessions.needs_retry()
            || self
                .containers
                .values()
                .any(|c| c.destroying.is_some() || c.is_starting_adopted() || c.is_unwatched())
    }

    /// Orders that were not followed and groups that were not removed, once more.
    fn retry(&mut self) {
        self.idle.trim();
        self.leftover_groups.append(&mut self.isolators.trim());
        self.leftover_groups.retain_mut(|group| {
            group.kill_members();
            !group.remove()
        });
        self.look_for_starts();
        self.watch_limits();
        self.sessions.retry();
        for container in self.containers.values_mut() {
            if let Some(retries) = &mut container.destroying {
                *retries += 1;
                // An init in plain mode that cannot be reached (stuck in an exec on a dead
                // network file system) goes first; its orphans come to us.
                let signal = if *retries > DESTROY_RETRIES {
                    Signal::SIGKILL
                } else {
                    destroy_signal(container.pid_namespace)
                };
                let _ = container.signal(signal);
            }
        }
    }

    pub(super) fn tell(&mut self, kind: news::Kind) {
        if !self.agent_gone {
            put(&News { kind: Some(kind) }, &mut self.outbox);
        }
    }

    /// Sends what the socket takes. What it does not take waits; that is at most a few messages
    /// for each container, and the agent bounds those.
    fn send(&mut self) {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.on_agent_gone(),
            }
        }
        if self.agent_gone {
            return;
        }
        let waits = !self.outbox.is_empty();
        if waits != self.waits_to_send {
            self.waits_to_send = waits;
            let mut interest = EpollFlags::EPOLLIN;
            interest.set(EpollFlags::EPOLLOUT, waits);
            let mut event = EpollEvent::new(interest, TOKEN_SOCKET);
            let _ = self.epoll.modify(&self.socket, &mut event);
        }
    }
}

/// With the first process of a pid namespace, all others die, surely and at once.
const fn destroy_signal(pid_namespace: bool) -> Signal {
    if pid_namespace {
        Signal::SIGKILL
    } else {
        init::DESTROY
    }
}
