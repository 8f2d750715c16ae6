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
use nix::sched::CloneFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Pid, getpid, pipe2, read, setsid};

use super::adopt::{self, TakenOver, Unreleased};
use super::container::{Container, MemoryWatch, watch};
use super::enter::{Sessions, fork_beside};
use super::init::{self, Init, REPORT_FD};
use super::isolators::cgroups::Group;
use super::isolators::{Isolators, Mounts, Walls};
use super::journal::{JOURNAL_FD, Journal};
use super::plan::{failure_message, task_plan};
use super::pods::Pods;
use super::report::{self, Report};
use super::reuse::{Idle, Kind, Orders};
use super::sys::{self, ChildStack, Entrance, Fork, Usage, Wait};
use super::tree;
use super::wire::{Ended, Failed, Gone, Inbox, Launch, News, Next, Order, Ready, SetUp, Started};
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
    buffer: Box<[u8]>,
    outbox: Vec<u8>,
    /// The socket took less than there was.
    waits_to_send: bool,
    pub(super) epoll: Epoll,
    children: SignalFd,
    reports: OwnedFd,
    pub(super) stack: ChildStack,
    /// Soft and hard limit of open files as tasks get them: those we were started with.
    pub(super) open_files: (u64, u64),
    agent_gone: bool,
    /// Containers go on without us.
    outlive: bool,
    /// Held until the end: no other launcher begins anything meanwhile.
    lock: Option<File>,
    pub(super) journal: Option<Journal>,
    pub(super) isolators: Isolators,
    pub(super) containers: BTreeMap<u64, Container>,
    pub(super) sessions: Sessions,
    pub(super) pods: Pods,
    by_uuid: BTreeMap<u128, u64>,
    by_pid: BTreeMap<i32, u64>,
    /// Inits without a container.
    idle: Idle,
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

    /// Forks an init for one container.
    fn launch(&mut self, launch: Launch) -> Result<(), String> {
        let id = launch.id;
        let uuid = uuid::Uuid::try_parse(&launch.name)
            .map_err(|_| format!("the container's name {:?} is no uuid", launch.name))?
            .as_u128();
        let pod = launch.pod.as_deref().map(pod_name).transpose()?;
        let journal = self.journal.as_mut().ok_or("the launcher is not set up")?;
        let file = journal
            .enter()
            .map_err(|error| format!("the container cannot be entered in the journal: {error}"))?;
        let Begun {
            init,
            orders,
            group,
        } = match self.begin(&launch, uuid) {
            Ok(begun) => begun,
            Err(clause) => {
                self.isolators.cleanup(&launch.name);
                if let Some(pod) = pod {
                    self.leave_pod(pod);
                }
                if let Some(journal) = &mut self.journal {
                    journal.leave(file);
                }
                return Err(clause);
            }
        };
        self.by_pid.insert(init.as_raw(), id);
        self.by_uuid.insert(uuid, id);
        self.unreleased.insert(id, file);
        let container = Container {
            init,
            uuid,
            pid_namespace: self.isolators.pid_namespaces() && pod.is_none(),
            pod,
            orders,
            adopted: None,
            file,
            disowned: false,
            memory_watch: match &group {
                Some(group) if group.needs_watch() => MemoryWatch::Later(0),
                _ => MemoryWatch::Off,
            },
            group,
            memory_exceeded: false,
            program: launch.program,
            started: false,
            failure: None,
            ended: None,
            destroying: None,
        };
        self.containers.insert(id, container);
        Ok(())
    }

    fn begin(&mut self, launch: &Launch, uuid: u128) -> Result<Begun, String> {
        let (walls, mut group) = self.isolators.prepare(launch)?;
        match self.begin_behind(launch, uuid, walls, group.as_ref()) {
            Ok((init, orders)) => Ok(Begun {
                init,
                orders,
                group,
            }),
            Err(clause) => {
                if let Some(group) = &mut group {
                    group.remove();
                }
                Err(clause)
            }
        }
    }

    fn begin_behind(
        &mut self,
        launch: &Launch,
        uuid: u128,
        walls: Walls,
        group: Option<&Group>,
    ) -> Result<(Pid, Option<Orders>), String> {
        let terminal = launch.confinement.as_ref().and_then(|c| c.terminal);
        let kind = Kind::of(launch, &walls);
        let pod = match launch.pod.as_deref().map(pod_name).transpose()? {
            Some(pod) => Some(self.pod(pod)?),
            None => None,
        };
        let pid_namespace = self.isolators.pid_namespaces() && pod.is_none();
        let (pod_process, pod) = pod.unzip();
        let entrances = group.map(Group::entrances).unwrap_or_default();
        let next = match &kind {
            Some(kind) if !self.idle.is_empty() => Some((kind, next(launch, &entrances))),
            _ => None,
        };
        let task = task_plan(
            launch,
            entrances,
            self.open_files,
            !pid_namespace,
            walls.hardening,
        )?;
        if let Some((kind, next)) = next
            && let Some(lock) = &self.lock
        {
            let mut passed = vec![JOURNAL_FD, lock.as_raw_fd()];
            passed.extend(walls.mounts.iter().flat_map(Mounts::trees));
            if let Some((init, orders)) = self.idle.give(kind, &next, &passed) {
                return Ok((init, Some(orders)));
            }
        }
        let (ours, theirs) = kind.and_then(Orders::new).unzip();
        let init = Init {
            container: uuid,
            task,
            logs: init::bounds(launch),
            terminal: terminal.map(Into::into),
            mounts: walls.mounts,
            pid_namespace,
            pod,
            bound_to: (!self.outlive).then(getpid),
            open_files: self.open_files,
            orders: theirs,
            renewed: walls.namespaces - CloneFlags::CLONE_NEWPID,
            number: None,
        };
        let forked = match pod_process {
            Some(process) => fork_beside(&process, walls.namespaces),
            None => sys::fork_into(walls.namespaces),
        };
        match forked {
            Ok(Fork::Child) => init.run(&mut self.stack),
            Ok(Fork::Parent(pid)) => Ok((pid, ours)),
            Err(errno) => Err(format!(
                "the machine cannot fork a process: {}; it may have too many",
                errno.desc()
            )),
        }
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

    /// Reaps ended inits and tells what became of their tasks.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        let (mut ended, mut others) = (Vec::new(), Vec::new());
        while let Ok(Some(reaped)) = sys::reap(Wait::Poll) {
            if let Some(id) = self.by_pid.remove(&reaped.pid.as_raw()) {
                ended.push((id, reaped));
            } else {
                others.push(reaped.pid.as_raw());
            }
        }
        // An init writes its report before it ends: after reaping, the report is in the pipe.
        self.read_reports();
        for pid in others {
            self.idle.forget(pid);
            self.on_keeper_reaped(pid);
        }
        for (id, reaped) in ended {
            if let Some(container) = self.containers.remove(&id) {
                self.finish(id, container, &reaped.usage);
            }
        }
    }

    fn read_reports(&mut self) {
        loop {
            let n = match read(&self.reports, &mut self.buffer) {
                Ok(n) if n > 0 => n,
                Err(Errno::EINTR) => continue,
                Ok(_) | Err(_) => return,
            };
            let (records, _) = self.buffer.get(..n).unwrap_or_default().as_chunks();
            let reports: Vec<_> = records.iter().filter_map(Report::decode).collect();
            for (uuid, report) in reports {
                match self.by_uuid.get(&uuid) {
                    Some(id) => self.on_report(*id, report),
                    None => self.on_session_report(uuid, report),
                }
            }
        }
    }

    fn on_report(&mut self, id: u64, report: Report) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        match report {
            Report::Born(_) => {}
            Report::Started => {
                container.started = true;
                let pid = container.init.as_raw();
                self.tell(news::Kind::Started(Started { id, pid }));
            }
            Report::Failed { stage, errno } => container.failure = Some((stage, errno)),
            Report::Ended { status, usage } => {
                container.ended = Some((status, usage));
                self.free_init(id);
            }
        }
    }

    /// An init that may serve again has seen its container through.
    fn free_init(&mut self, id: u64) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let Some(orders) = container.orders.take() else {
            return;
        };
        let init = container.init;
        if self.agent_gone {
            // It ends, and its container with it.
            return;
        }
        self.idle.add(init, orders);
        self.by_pid.remove(&init.as_raw());
        if let Some(container) = self.containers.remove(&id) {
            self.finish(id, container, &Usage::default());
        }
    }

    /// The init of a container has ended and itself used that much: tells how the task ended and
    /// cleans up.
    pub(super) fn finish(&mut self, id: u64, mut container: Container, own_usage: &Usage) {
        container.memory_watch = MemoryWatch::Off;
        self.by_uuid.remove(&container.uuid);
        let name = uuid::Uuid::from_u128(container.uuid).to_string();
        self.isolators.cleanup(&name);
        self.sessions.kill_those_of(id);
        if let Some(pod) = container.pod {
            self.leave_pod(pod);
        }
        if container.ended.is_none() && container.failure.is_none() && !container.pid_namespace {
            // The init was killed; what it guarded has become ours.
            self.kill_orphans();
        }
        let verdict = container.group.as_ref().and_then(Group::memory_verdict);
        let undisturbed = container.ended.is_some() && container.destroying.is_none();
        let as_it_was = undisturbed && verdict.is_none_or(|verdict| !verdict.exceeded);
        let group = match container.group.take() {
            Some(group) if as_it_was => self.isolators.keep(group),
            group => group,
        };
        // Usually nothing is left in it, and then there is nothing to kill.
        if let Some(mut group) = group
            && !group.remove()
        {
            group.kill_members();
            if !group.remove() {
                self.leftover_groups.push(group);
            }
        }
        let verdict = verdict.map(|mut verdict| {
            verdict.exceeded |= container.memory_exceeded;
            verdict
        });
        if container.disowned {
            return;
        }
        let exceeded = verdict.is_some_and(|verdict| verdict.exceeded);
        let unexplained = container.ended.is_none() && container.destroying.is_none() && !exceeded;
        let kind = match container.failure {
            Some((stage, errno)) if !exceeded => news::Kind::Failed(Failed {
                id,
                message: failure_message(&container.program, stage, errno),
            }),
            None if container.adopted.is_some() && unexplained => news::Kind::Gone(Gone {
                id,
                never_begun: false,
            }),
            None if !container.started && container.destroying.is_none() => {
                news::Kind::Failed(Failed {
                    id,
                    message: format!(
                        "the container's first process ended before it could run {:?}; the \
                         machine may be out of memory",
                        container.program
                    ),
                })
            }
            Some(_) | None => {
                // A destroyed init reports nothing; its own usage then holds that of its tree.
                let (status, usage) = container.ended.unwrap_or((libc::SIGKILL, *own_usage));
                let nanos =
                    |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
                news::Kind::Ended(Ended {
                    id,
                    status,
                    user_cpu_ns: nanos(usage.user),
                    system_cpu_ns: nanos(usage.system),
                    max_rss_bytes: usage.max_rss_bytes,
                    memory_limit_bytes: verdict.filter(|v| v.exceeded).map(|v| v.limit_bytes),
                    memory_peak_bytes: verdict.and_then(|v| v.peak_bytes),
                })
            }
        };
        self.tell(kind);
    }

    /// Kills every child that is neither init nor keeper, with all below it.
    fn kill_orphans(&mut self) {
        let inits: BTreeSet<i32> = self
            .by_pid
            .keys()
            .copied()
            .chain(self.sessions.pids())
            .chain(self.idle.pids())
            .chain(self.pods.pids())
            .collect();
        while !tree::descendants(getpid(), &inits).is_empty() {
            tree::kill_tree(getpid(), &inits);
            match sys::reap(Wait::Block) {
                // The turn after the next finishes it: its report, if any, is in the pipe.
                Ok(Some(reaped)) if self.by_pid.contains_key(&reaped.pid.as_raw()) => {
                    self.read_reports();
                    if let Some(id) = self.by_pid.remove(&reaped.pid.as_raw())
                        && let Some(container) = self.containers.remove(&id)
                    {
                        self.finish(id, container, &reaped.usage);
                        return;
                    }
                }
                Ok(Some(reaped)) => {
                    self.read_reports();
                    self.on_keeper_reaped(reaped.pid.as_raw());
                }
                Ok(None) => {}
                Err(_) => return,
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

/// An order to an init that is there already.
fn next(launch: &Launch, entrances: &[Entrance]) -> Next {
    let path = |entrance: &Entrance| match entrance {
        Entrance::Path(path) => Some(path.to_bytes().to_vec()),
        Entrance::Open(_) => None,
    };
    Next {
        launch: launch.clone(),
        entrances: entrances.iter().filter_map(path).collect(),
    }
}

/// An executor's run by its name.
fn pod_name(name: &str) -> Result<u128, String> {
    uuid::Uuid::try_parse(name)
        .map(|id| id.as_u128())
        .map_err(|_| format!("the pod's name {name:?} is no uuid"))
}

/// A container that has an init.
struct Begun {
    init: Pid,
    orders: Option<Orders>,
    group: Option<Group>,
}

/// With the first process of a pid namespace, all others die, surely and at once.
const fn destroy_signal(pid_namespace: bool) -> Signal {
    if pid_namespace {
        Signal::SIGKILL
    } else {
        init::DESTROY
    }
}
