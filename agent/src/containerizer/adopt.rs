//! Containers of an earlier launcher: found in the journal, watched by descriptor, ended when
//! nobody wants them any more.
//!
//! They are not children of this launcher. That one of them has ended shows on its descriptor,
//! and how it ended in the journal; what it used is known if its init lived to write it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::container::{self, Container, MemoryWatch};
use super::journal::{self, Journal, Past, Trace};
use super::launcher::{Launcher, NAME, TOKEN_ADOPTED};
use super::sys;
use super::wire::{Adopt, Gone, SetUp, Started, news};

const LOCK: &str = "launcher.lock";
/// An earlier launcher ends with its agent, within milliseconds. One that has not after this
/// many looks at the lock is killed.
const PATIENCE: u32 = 2500;
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The journal's folder, held by this launcher alone, and what earlier ones left in it.
#[derive(Debug)]
pub(super) struct TakenOver {
    pub(super) lock: File,
    pub(super) journal: Journal,
    past: Past,
}

impl TakenOver {
    /// Waits until no earlier launcher can begin anything any more, and reads what it began.
    ///
    /// # Errors
    /// Why not, as a clause.
    pub(super) fn of(folder: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{} cannot be used: {error}", folder.display());
        let lock = take_lock(folder)?;
        let boot_id = boot_id().map_err(failed)?;
        let past = journal::read(folder, boot_id).map_err(failed)?;
        let journal = Journal::begin(folder, boot_id, &past).map_err(failed)?;
        Ok(Self {
            lock,
            journal,
            past,
        })
    }

    /// Records that could not be read.
    pub(super) const fn n_damaged(&self) -> u64 {
        self.past.n_damaged
    }

    /// What of the past is left when the journal and the lock go to the launcher.
    pub(super) fn into_parts(self) -> (File, Journal, Past) {
        (self.lock, self.journal, self.past)
    }
}

/// Takes the lock that only one launcher of a work folder holds. It is let go when that process
/// has ended, and with it every fork that had not yet come so far as to enter the journal.
fn take_lock(folder: &Path) -> Result<File, String> {
    let path = folder.join(LOCK);
    let failed = |error: io::Error| format!("{} cannot be locked: {error}", path.display());
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    for look in 0..2 * PATIENCE {
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                write!(file, "{}", getpid()).map_err(failed)?;
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if look == PATIENCE {
            let mut holder = String::new();
            let read = file
                .rewind()
                .and_then(|()| file.read_to_string(&mut holder));
            if let (Ok(_), Ok(pid)) = (read, holder.trim().parse::<i32>())
                && is_launcher(pid)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(format!(
        "{} is held by an earlier launcher that does not end",
        path.display()
    ))
}

/// Whether the process of this number is a launcher; the one that wrote the number may have ended
/// long ago.
fn is_launcher(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    pid > 1 && name.is_ok_and(|name| name.trim_end() == NAME)
}

fn boot_id() -> io::Result<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    uuid::Uuid::try_parse(text.trim())
        .map(|id| id.as_u128())
        .map_err(io::Error::other)
}

/// The names of the containers that are to be kept.
pub(super) fn names(set_up: &SetUp) -> BTreeSet<String> {
    set_up
        .adopt
        .iter()
        .map(|adopt| adopt.name.clone())
        .collect()
}

impl Trace {
    /// A handle on the container's first process, if that lives.
    fn alive(&self) -> Option<OwnedFd> {
        // When its end is told nothing of it is left, and its init may serve another container.
        let over = self.ended.is_some() || self.failed.is_some();
        let born = self.born.filter(|_| self.of_this_boot && !over)?;
        let process = sys::pidfd_open(born.pid).ok()?;
        // Asked only now: the descriptor holds whatever process has the number at this moment.
        sys::began_by(born.pid, born.since_boot).then_some(process)
    }
}

impl Launcher {
    /// Takes up the containers that the agent wants and ends all others; how many of those live.
    pub(super) fn adopt_all(&mut self, wanted: &[Adopt], mut past: Past) -> u64 {
        for adopt in wanted {
            let uuid = uuid::Uuid::try_parse(&adopt.name).map(|id| id.as_u128());
            let trace = uuid.ok().and_then(|id| past.containers.remove(&id));
            self.adopt(adopt, trace, past.n_damaged > 0);
        }
        let mut n_strays = 0;
        // Above every number that an agent gives.
        let mut id = u64::MAX / 4;
        for (uuid, trace) in std::mem::take(&mut past.containers) {
            if let Some(process) = trace.alive() {
                let name = uuid::Uuid::from_u128(uuid).to_string();
                self.watch_adopted(id, &name, uuid, &trace, process);
                self.disown(id);
                self.destroy(id);
                id += 1;
                n_strays += 1;
            }
        }
        if let Some(journal) = &self.journal {
            journal.tidy(&past);
        }
        n_strays
    }

    fn adopt(&mut self, adopt: &Adopt, trace: Option<Trace>, damaged: bool) {
        let Adopt {
            id,
            name,
            parent,
            beside,
        } = adopt;
        let uuid = uuid::Uuid::try_parse(name).map_or(0, |id| id.as_u128());
        let Some(trace) = trace else {
            // Where records are missing, or something runs all the same, it may have begun.
            let group = self.isolators.adopt(name);
            let populated = group.as_ref().is_some_and(|group| group.is_populated());
            if let Some(group) = group {
                self.leftover_groups.push(group);
            }
            let never_begun = !damaged && !populated;
            return self.tell(news::Kind::Gone(Gone {
                id: *id,
                never_begun,
            }));
        };
        if let Some(journal) = &mut self.journal {
            journal.adopt(trace.file);
        }
        self.unreleased.insert(*id, trace.file);
        match trace.alive() {
            Some(process) => {
                self.watch_adopted(*id, name, uuid, &trace, process);
                let uuid_of = |name: &Option<String>| {
                    let uuid = uuid::Uuid::try_parse(name.as_deref()?).ok()?;
                    Some(uuid.as_u128())
                };
                if let Some(container) = self.containers.get_mut(id)
                    && !container.pid_namespace
                {
                    container.pod = uuid_of(parent);
                    container.beside = uuid_of(beside);
                    self.inside
                        .extend(container.beside.map(|parent| (parent, *id)));
                }
            }
            None => {
                let container = self.adopted(name, uuid, &trace, None);
                self.finish(*id, container, &sys::Usage::default());
            }
        }
    }

    fn adopted(
        &self,
        name: &str,
        uuid: u128,
        trace: &Trace,
        process: Option<OwnedFd>,
    ) -> Container {
        let born = trace.born;
        Container {
            init: Pid::from_raw(born.map_or(0, |born| born.pid)),
            uuid,
            pid_namespace: born.is_some_and(|born| born.pid_namespace),
            pod: None,
            beside: None,
            orders: None,
            adopted: Some(process),
            file: trace.file,
            disowned: false,
            group: self.isolators.adopt(name),
            memory_watch: MemoryWatch::Off,
            memory_exceeded: false,
            program: "its program".to_owned(),
            started: trace.started,
            failure: trace.failed,
            ended: trace.ended,
            destroying: None,
        }
    }

    fn watch_adopted(&mut self, id: u64, name: &str, uuid: u128, trace: &Trace, process: OwnedFd) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id | TOKEN_ADOPTED);
        let watched = self.epoll.add(&process, event);
        let mut container = self.adopted(name, uuid, trace, Some(process));
        if let Some(group) = &container.group {
            container.memory_watch = container::watch(&self.epoll, group, id);
        }
        let (started, pid) = (container.started, container.init.as_raw());
        self.containers.insert(id, container);
        if started {
            self.tell(news::Kind::Started(Started { id, pid }));
        }
        if watched.is_err() {
            // Out of descriptors: it cannot be told when this one ends, so it must end now.
            self.destroy(id);
        }
    }

    /// The first process of an adopted container has ended.
    pub(super) fn on_adopted_ended(&mut self, id: u64) {
        self.look_again(id);
        if let Some(container) = self.containers.remove(&id) {
            self.finish(id, container, &sys::Usage::default());
        }
    }

    /// Adopted containers that had not begun their programs yet say so in the journal alone.
    pub(super) fn look_for_starts(&mut self) {
        let waiting: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| container.is_starting_adopted())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.look_again(id);
        }
    }

    fn look_again(&mut self, id: u64) {
        let (Some(container), Some(journal)) = (self.containers.get_mut(&id), &self.journal) else {
            return;
        };
        let Some(trace) = journal.trace(container.file, container.uuid) else {
            return;
        };
        let starts = trace.started && !container.started;
        container.started = trace.started;
        container.failure = trace.failed;
        container.ended = trace.ended;
        let pid = container.init.as_raw();
        if starts && !container.disowned {
            self.tell(news::Kind::Started(Started { id, pid }));
        }
    }

    /// Nobody asks for it any more: it ends silently.
    fn disown(&mut self, id: u64) {
        if let Some(container) = self.containers.get_mut(&id) {
            container.disowned = true;
        }
    }
}

/// Containers by the file of the journal that holds them.
pub(super) type Unreleased = BTreeMap<u64, u64>;
