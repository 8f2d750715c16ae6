//! Nested containers under the ids that Mesos' clients give them: launched by one connection, fed
//! and watched, waited for and killed by others.
//!
//! As in Mesos, a session is a nested container that lives as long as the connection that
//! launched it, and is known here alone; its end is remembered until somebody removes it, or many
//! others have ended. Any other one writes to files of its own and is the core's to remember
//! ([`super::inner`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_proto::agent::process_io::{Control, Data, control, data};
use allotment_proto::agent::{ProcessIo, process_io};
use allotment_proto::allot::SandboxChunk;
use allotment_proto::mesos;
use axum::http::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, mpsc, watch};
use tonic::{Code, Status};

use super::driver::{Beside, Until};
use super::exec::Doors;
use crate::containerizer::session::{
    Heard, Session, SessionInput, SessionOutput, Source, Stdio, WindowSize,
};
use crate::core::{
    Attachable, Command, ContainerId, Done, Harshness, NestedEnd, NestedId, NestedState,
};

/// Pieces that may wait for a slow reader, who holds up the session.
const PIECES_WAITING: usize = 4;
/// Readers learn so often that the session is still there, and we that they are.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Ends that are remembered.
const ENDED_MAX: usize = 256;
const ID_LEN_MAX: usize = 255;
/// How many ids may stand above one.
const DEPTH_MAX: usize = 16;

/// Why not, as HTTP puts it.
pub(super) type Refusal = (StatusCode, String);
/// What comes out of a session.
pub(super) type Pieces = mpsc::Receiver<ProcessIo>;

/// The sessions of one agent.
#[derive(Debug, Clone)]
pub(super) struct Nested {
    doors: Doors,
    books: Arc<Mutex<Books>>,
}

/// Parent and own id.
type Key = (String, String);

#[derive(Debug, Default)]
struct Books {
    /// `None` while one is being started.
    sessions: BTreeMap<Key, Option<Entry>>,
    /// Tasks to whose terminals somebody types.
    typed_to: BTreeSet<ContainerId>,
    ended: VecDeque<Key>,
}

#[derive(Debug, Clone)]
struct Entry {
    input: Arc<AsyncMutex<SessionInput>>,
    watchers: Arc<Mutex<Vec<mpsc::Sender<ProcessIo>>>>,
    kill: Arc<Notify>,
    /// The wait status, once it has ended.
    status: watch::Receiver<Option<i32>>,
}

/// The input of a session or a task, which one connection holds at a time.
#[derive(Debug)]
pub(super) struct Attached {
    input: Hold,
    status: watch::Receiver<Option<i32>>,
}

#[derive(Debug)]
enum Hold {
    Session(OwnedMutexGuard<SessionInput>),
    Task {
        input: SessionInput,
        /// Nobody else may meanwhile.
        _typing: Typing,
    },
}

/// Somebody types to the terminal of a task.
#[derive(Debug)]
struct Typing {
    nested: Nested,
    container: ContainerId,
}

impl Drop for Typing {
    fn drop(&mut self) {
        self.nested.books().typed_to.remove(&self.container);
    }
}

/// Whether anything stands in it but that it is a container of Mesos'.
fn asks_for_something(container: &mesos::ContainerInfo) -> bool {
    let nothing = mesos::ContainerInfo {
        r#type: container.r#type,
        ..Default::default()
    };
    *container != nothing
}

fn taken() -> Refusal {
    let text = "its input is attached by another connection already".to_owned();
    (StatusCode::CONFLICT, text)
}

impl Nested {
    pub(super) fn new(doors: Doors) -> Self {
        Self {
            doors,
            books: Arc::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command in the container that `id` names as its parent. It ends when what it
    /// writes is not received any more.
    pub(super) async fn launch(
        &self,
        id: &mesos::ContainerId,
        command: &mesos::CommandInfo,
        container: Option<&mesos::ContainerInfo>,
    ) -> Result<Pieces, Refusal> {
        let (key, nested) = (key(id)?, nested_id(id)?);
        let command = Command::of(command).map_err(|what| bad(format!("the command {what}")))?;
        let stdio = match container.and_then(|container| container.tty_info.as_ref()) {
            Some(terminal) => Stdio::Terminal(size(terminal)?),
            None => Stdio::Pipes { stdin: true },
        };
        if self.books().sessions.contains_key(&key) {
            return Err(there_already(&key.1));
        }
        self.books().sessions.insert(key.clone(), None);
        let starting = Starting { nested: self, key };
        let there = self.doors.inner.look(&nested, Until::Now).await;
        if there.map_err(refusal)?.is_some() {
            return Err(there_already(&nested.name));
        }
        let beside = Beside::Container(nested.parents);
        let launch = self
            .doors
            .entrance(beside, command)
            .await
            .map_err(refusal)?;
        let session = self.doors.start(launch, stdio).await.map_err(refusal)?;
        Ok(starting.started(session))
    }

    /// Starts a command that nobody listens to, in a sandbox of its own in that of the container
    /// that `id` names as its parent.
    pub(super) async fn launch_alone(
        &self,
        id: &mesos::ContainerId,
        command: &mesos::CommandInfo,
        container: Option<&mesos::ContainerInfo>,
    ) -> Result<Done, Refusal> {
        let (key, nested) = (key(id)?, nested_id(id)?);
        if matches!(key.1.as_str(), "." | "..") {
            return Err(bad(format!("{:?} is no name for a sandbox", key.1)));
        }
        let command = Command::of(command).map_err(|what| bad(format!("the command {what}")))?;
        if container.is_some_and(asks_for_something) {
            let text = "a nested container shares everything with its parent here: leave \
                        `container` out, or launch a task group";
            return Err(bad(text.to_owned()));
        }
        if self.books().sessions.contains_key(&key) {
            return Err(there_already(&key.1));
        }
        let launched = self.doors.inner.launch(&nested, command).await;
        launched.map_err(refusal)
    }

    fn find(&self, id: &mesos::ContainerId) -> Result<(Key, Entry), Refusal> {
        let key = key(id)?;
        let entry = self.books().sessions.get(&key).cloned().flatten();
        entry
            .map(|entry| (key.clone(), entry))
            .ok_or_else(|| not_found(&key.1))
    }

    /// The session of this id; `None`: it may be a task's.
    fn session(&self, id: &mesos::ContainerId) -> Result<Option<(Key, Entry)>, Refusal> {
        if id.parent.is_none() {
            return Ok(None);
        }
        match self.find(id) {
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The task of this id that was started with a terminal.
    async fn terminal(&self, id: &mesos::ContainerId) -> Result<Attachable, Refusal> {
        let ids = lineage(id).ok_or_else(|| not_found(&id.value))?;
        let terminal = self.doors.terminal(Beside::Container(ids)).await;
        terminal.map_err(refusal)
    }

    /// Takes hold of the input of a session, or of a task that has a terminal.
    pub(super) async fn attach_input(&self, id: &mesos::ContainerId) -> Result<Attached, Refusal> {
        let Some((key, entry)) = self.session(id)? else {
            return self.attach_input_of_task(id).await;
        };
        if entry.status.borrow().is_some() {
            // What Mesos' clients take for "it has ended already".
            let text = format!("container {} has ended", key.1);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let input = entry.input.try_lock_owned().map_err(|_| taken())?;
        Ok(Attached {
            input: Hold::Session(input),
            status: entry.status,
        })
    }

    async fn attach_input_of_task(&self, id: &mesos::ContainerId) -> Result<Attached, Refusal> {
        let task = self.terminal(id).await?;
        let container = task.container.clone();
        if !self.books().typed_to.insert(container.clone()) {
            return Err(taken());
        }
        let typing = Typing {
            nested: self.clone(),
            container,
        };
        let input = self.doors.attach_input_to(&task).await.map_err(refusal)?;
        let (ended, status) = watch::channel(None);
        let doors = self.doors.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = doors.end_of(task) => drop(ended.send_replace(Some(0))),
                () = ended.closed() => {}
            }
        });
        Ok(Attached {
            input: Hold::Task {
                input,
                _typing: typing,
            },
            status,
        })
    }

    /// What a session, or a task that has a terminal, writes from now on.
    pub(super) async fn attach_output(&self, id: &mesos::ContainerId) -> Result<Pieces, Refusal> {
        let Some((key, entry)) = self.session(id)? else {
            let task = self.terminal(id).await?;
            let chunks = self.doors.watch(task).await.map_err(refusal)?;
            let (pieces, stream) = mpsc::channel(PIECES_WAITING);
            tokio::spawn(show(chunks, pieces));
            return Ok(stream);
        };
        if entry.status.borrow().is_some() {
            let text = format!("container {} has ended", key.1);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let (pieces, stream) = mpsc::channel(PIECES_WAITING);
        lock(&entry.watchers).push(pieces);
        Ok(stream)
    }

    /// Waits for the end of one.
    pub(super) async fn wait(&self, id: &mesos::ContainerId) -> Result<NestedEnd, Refusal> {
        let Some((_, mut entry)) = self.session(id)? else {
            let view = self.doors.inner.look(&nested_id(id)?, Until::Ended).await;
            return match view.map_err(refusal)?.map(|view| view.state) {
                Some(NestedState::Ended(end)) => Ok(end),
                _ => Err(not_found(&id.value)),
            };
        };
        let status = entry.status.wait_for(Option::is_some).await;
        let status = status.ok().and_then(|status| *status);
        Ok(NestedEnd {
            status: Some(status.unwrap_or(libc::SIGKILL)),
            message: None,
            refused: false,
        })
    }

    /// Ends one with a signal; none is SIGKILL.
    pub(super) async fn kill(
        &self,
        id: &mesos::ContainerId,
        signal: Option<i32>,
    ) -> Result<(), Refusal> {
        let how = match signal {
            None | Some(libc::SIGKILL) => Harshness::Destroy,
            Some(libc::SIGTERM) => Harshness::Terminate,
            Some(other) => {
                return Err(bad(format!(
                    "signal {other} is not passed on; {} and {} are",
                    libc::SIGKILL,
                    libc::SIGTERM
                )));
            }
        };
        let Some((_, entry)) = self.session(id)? else {
            let ended = self.doors.inner.end(&nested_id(id)?, how).await;
            return ended.map(drop).map_err(refusal);
        };
        if how == Harshness::Terminate {
            let text = "SIGKILL is the only signal for sessions";
            return Err(bad(text.to_owned()));
        }
        entry.kill.notify_one();
        Ok(())
    }

    /// Forgets one that has ended.
    pub(super) async fn remove(&self, id: &mesos::ContainerId) -> Result<(), Refusal> {
        let Some((key, entry)) = self.session(id)? else {
            let removed = self.doors.inner.remove(&nested_id(id)?).await;
            return match removed {
                Ok(_) => Ok(()),
                // As Mesos says it.
                Err(status) if status.code() == Code::FailedPrecondition => Err((
                    StatusCode::INTERNAL_SERVER_ERROR,
                    status.message().to_owned(),
                )),
                Err(status) => Err(refusal(status)),
            };
        };
        if entry.status.borrow().is_none() {
            let text = format!("container {} still runs; kill it first", key.1);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let mut books = self.books();
        books.sessions.remove(&key);
        books.ended.retain(|ended| *ended != key);
        Ok(())
    }

    /// Remembers that one has ended, and forgets the oldest of many.
    fn note_end(&self, key: Key) {
        let mut books = self.books();
        books.ended.push_back(key);
        if books.ended.len() > ENDED_MAX
            && let Some(oldest) = books.ended.pop_front()
        {
            books.sessions.remove(&oldest);
        }
    }
}

/// A session that has its place and is not there yet; it loses the place when dropped.
struct Starting<'a> {
    nested: &'a Nested,
    key: Key,
}

impl Starting<'_> {
    fn started(self, session: Session) -> Pieces {
        let Session { input, output } = session;
        let (ended, status) = watch::channel(None);
        let entry = Entry {
            input: Arc::new(AsyncMutex::new(input)),
            watchers: Arc::default(),
            kill: Arc::new(Notify::new()),
            status,
        };
        let (nested, key) = (self.nested.clone(), self.key.clone());
        nested
            .books()
            .sessions
            .insert(key.clone(), Some(entry.clone()));
        let (pieces, stream) = mpsc::channel(PIECES_WAITING);
        tokio::spawn(async move {
            let status = tokio::select! {
                status = carry(output, &pieces, &entry.watchers) => status,
                () = entry.kill.notified() => None,
                () = pieces.closed() => None,
            };
            lock(&entry.watchers).clear();
            // However it was cut short, it is killed.
            ended.send_replace(Some(status.unwrap_or(libc::SIGKILL)));
            nested.note_end(key);
            *entry.input.lock().await = SessionInput::None;
        });
        stream
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut books = self.nested.books();
        if let Some(None) = books.sessions.get(&self.key) {
            books.sessions.remove(&self.key);
        }
    }
}

/// Passes on what a session writes, to whoever launched it and to all who watch; its wait status
/// if it ended by itself.
async fn carry(
    mut output: SessionOutput,
    pieces: &mpsc::Sender<ProcessIo>,
    watchers: &Mutex<Vec<mpsc::Sender<ProcessIo>>>,
) -> Option<i32> {
    loop {
        let piece = tokio::select! {
            heard = output.next() => match heard {
                Heard::Wrote(source, bytes) => written(source, bytes),
                Heard::Left(status) => return Some(status),
                Heard::Refused(_) | Heard::Lost => return None,
            },
            () = tokio::time::sleep(HEARTBEAT) => heartbeat(),
        };
        let all = lock(watchers).clone();
        for watcher in &all {
            // One that is gone is taken out below.
            let _ = watcher.send(piece.clone()).await;
        }
        lock(watchers).retain(|watcher| !watcher.is_closed());
        pieces.send(piece).await.ok()?;
    }
}

/// Passes on what a task writes until it has ended or nobody listens.
async fn show(
    mut chunks: mpsc::Receiver<Result<SandboxChunk, Status>>,
    pieces: mpsc::Sender<ProcessIo>,
) {
    loop {
        let piece = tokio::select! {
            chunk = chunks.recv() => match chunk {
                Some(Ok(chunk)) => written(Source::Stdout, chunk.data),
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => heartbeat(),
            () = pieces.closed() => return,
        };
        if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn written(source: Source, bytes: bytes::Bytes) -> ProcessIo {
    let kind = match source {
        Source::Stdout => data::Type::Stdout,
        Source::Stderr => data::Type::Stderr,
    };
    ProcessIo {
        r#type: Some(process_io::Type::Data.into()),
        data: Some(Data {
            r#type: Some(kind.into()),
            data: Some(bytes),
        }),
        control: None,
    }
}

fn heartbeat() -> ProcessIo {
    let nanoseconds = i64::try_from(HEARTBEAT.as_nanos()).unwrap_or(i64::MAX);
    ProcessIo {
        r#type: Some(process_io::Type::Control.into()),
        data: None,
        control: Some(Control {
            r#type: Some(control::Type::Heartbeat.into()),
            heartbeat: Some(control::Heartbeat {
                interval: Some(mesos::DurationInfo { nanoseconds }),
            }),
            tty_info: None,
        }),
    }
}

impl Attached {
    /// Waits for the end of the session.
    pub(super) fn watch(&self) -> impl Future<Output = ()> + use<> {
        let mut status = self.status.clone();
        async move {
            // A sender that is gone has said it before.
            let _ = status.wait_for(Option::is_some).await;
        }
    }

    fn input(&mut self) -> &mut SessionInput {
        match &mut self.input {
            Hold::Session(input) => input,
            Hold::Task { input, .. } => input,
        }
    }

    /// Passes one message on.
    pub(super) async fn take(&mut self, message: ProcessIo) -> Result<(), Refusal> {
        match message.r#type() {
            process_io::Type::Data => {
                let part = message.data.unwrap_or_default();
                if part.r#type() != data::Type::Stdin {
                    return Err(bad("process_io.data.type must be STDIN".to_owned()));
                }
                let bytes = part
                    .data
                    .ok_or_else(|| bad("process_io.data.data is missing".to_owned()))?;
                if !bytes.is_empty() {
                    // What the program does not read any more is gone, as in a shell's pipe.
                    let _ = self.input().write_all(&bytes).await;
                } else if !matches!(self.input(), SessionInput::Terminal(_)) {
                    self.input().close().await;
                }
                Ok(())
            }
            process_io::Type::Control => {
                let part = message.control.unwrap_or_default();
                match part.r#type() {
                    control::Type::Heartbeat => Ok(()),
                    control::Type::TtyInfo => {
                        let info = part.tty_info.unwrap_or_default();
                        if info.window_size.is_none() {
                            let text = "process_io.control.tty_info.window_size is missing";
                            return Err(bad(text.to_owned()));
                        }
                        self.input().resize(size(&info)?);
                        Ok(())
                    }
                    control::Type::Unknown => {
                        Err(bad("process_io.control.type is missing".to_owned()))
                    }
                }
            }
            process_io::Type::Unknown => Err(bad("process_io.type is missing".to_owned())),
        }
    }
}

fn key(id: &mesos::ContainerId) -> Result<Key, Refusal> {
    let parent = id.parent.as_ref().ok_or_else(|| {
        bad("container_id has no parent; name the container of a task as its parent".to_owned())
    })?;
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    for value in [&id.value, &parent.value] {
        if value.is_empty() || value.len() > ID_LEN_MAX || value.contains(is_odd) {
            return Err(bad(format!(
                "{value:?} is no container id; it has 1 to {ID_LEN_MAX} characters, no spaces and \
                 no slashes"
            )));
        }
    }
    Ok((parent.value.clone(), id.value.clone()))
}

/// Its own id and those above it, the nearest first; `None`: there are too many.
fn lineage(id: &mesos::ContainerId) -> Option<Vec<String>> {
    let mut ids = vec![id.value.clone()];
    let mut above = id.parent.as_deref();
    while let Some(parent) = above {
        if ids.len() > DEPTH_MAX {
            return None;
        }
        ids.push(parent.value.clone());
        above = parent.parent.as_deref();
    }
    Some(ids)
}

fn nested_id(id: &mesos::ContainerId) -> Result<NestedId, Refusal> {
    let ids = lineage(id).ok_or_else(|| {
        bad(format!(
            "container_id has more than {DEPTH_MAX} parents; no container lies so deep"
        ))
    })?;
    let mut parents = ids;
    let name = parents.remove(0);
    Ok(NestedId { name, parents })
}

fn there_already(id: &str) -> Refusal {
    let text = format!("container {id} is there already; choose another id");
    (StatusCode::CONFLICT, text)
}

fn size(info: &mesos::TtyInfo) -> Result<WindowSize, Refusal> {
    let side = |n: u32| {
        u16::try_from(n).map_err(|_| bad(format!("a window of {n} characters; at most 65535 are")))
    };
    match info.window_size {
        None => Ok(WindowSize::default()),
        Some(size) => Ok(WindowSize {
            rows: side(size.rows)?,
            columns: side(size.columns)?,
        }),
    }
}

pub(super) fn bad(text: String) -> Refusal {
    (StatusCode::BAD_REQUEST, text)
}

fn not_found(id: &str) -> Refusal {
    (
        StatusCode::NOT_FOUND,
        format!("container {id} cannot be found"),
    )
}

fn refusal(status: Status) -> Refusal {
    let code = match status.code() {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    (code, status.message().to_owned())
}
