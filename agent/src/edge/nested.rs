//! Sessions under the ids that Mesos' clients give them: launched by one connection, fed and
//! watched by others.
//!
//! As in Mesos, a session is a nested container that lives as long as the connection that
//! launched it. Its end is remembered until somebody removes it, or many others have ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_proto::agent::process_io::{Control, Data, control, data};
use allotment_proto::agent::{ProcessIo, process_io};
use allotment_proto::mesos;
use axum::http::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, mpsc, watch};
use tonic::{Code, Status};

use super::driver::Beside;
use super::exec::Doors;
use crate::containerizer::session::{
    Heard, Session, SessionInput, SessionOutput, Source, Stdio, WindowSize,
};
use crate::core::{Command, ContainerId};

/// Pieces that may wait for a slow reader, who holds up the session.
const PIECES_WAITING: usize = 4;
/// Readers learn so often that the session is still there, and we that they are.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Ends that are remembered.
const ENDED_MAX: usize = 256;
const ID_LEN_MAX: usize = 255;

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

/// The input of a session, which one connection holds at a time.
#[derive(Debug)]
pub(super) struct Attached {
    input: OwnedMutexGuard<SessionInput>,
    status: watch::Receiver<Option<i32>>,
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
        let key = key(id)?;
        let parent = ContainerId::parse(&key.0).ok_or_else(|| not_found(&key.0))?;
        let command = Command::of(command).map_err(|what| bad(format!("the command {what}")))?;
        let stdio = match container.and_then(|container| container.tty_info.as_ref()) {
            Some(terminal) => Stdio::Terminal(size(terminal)?),
            None => Stdio::Pipes { stdin: true },
        };
        if self.books().sessions.contains_key(&key) {
            return Err((
                StatusCode::CONFLICT,
                format!("container {} is there already; choose another id", key.1),
            ));
        }
        self.books().sessions.insert(key.clone(), None);
        let starting = Starting { nested: self, key };
        let beside = Beside::Container(parent);
        let launch = self
            .doors
            .entrance(beside, command)
            .await
            .map_err(refusal)?;
        let session = self.doors.start(launch, stdio).await.map_err(refusal)?;
        Ok(starting.started(session))
    }

    fn find(&self, id: &mesos::ContainerId) -> Result<(Key, Entry), Refusal> {
        let key = key(id)?;
        let entry = self.books().sessions.get(&key).cloned().flatten();
        entry
            .map(|entry| (key.clone(), entry))
            .ok_or_else(|| not_found(&key.1))
    }

    /// Takes hold of the input of a session.
    pub(super) fn attach_input(&self, id: &mesos::ContainerId) -> Result<Attached, Refusal> {
        let (key, entry) = self.find(id)?;
        if entry.status.borrow().is_some() {
            // What Mesos' clients take for "it has ended already".
            let text = format!("container {} has ended", key.1);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let input = entry.input.try_lock_owned().map_err(|_| {
            let text = "its input is attached by another connection already".to_owned();
            (StatusCode::CONFLICT, text)
        })?;
        Ok(Attached {
            input,
            status: entry.status,
        })
    }

    /// What a session writes from now on.
    pub(super) fn attach_output(&self, id: &mesos::ContainerId) -> Result<Pieces, Refusal> {
        if id.parent.is_none() {
            return Err(bad(
                "the outputs of tasks are files of their sandboxes: read them at /files/read"
                    .to_owned(),
            ));
        }
        let (key, entry) = self.find(id)?;
        if entry.status.borrow().is_some() {
            let text = format!("container {} has ended", key.1);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let (pieces, stream) = mpsc::channel(PIECES_WAITING);
        lock(&entry.watchers).push(pieces);
        Ok(stream)
    }

    /// Waits for the end of a session; its wait status.
    pub(super) async fn wait(&self, id: &mesos::ContainerId) -> Result<i32, Refusal> {
        let (_, mut entry) = self.find(id)?;
        let status = entry.status.wait_for(Option::is_some).await;
        Ok(status
            .ok()
            .and_then(|status| *status)
            .unwrap_or(libc::SIGKILL))
    }

    /// Ends a session.
    pub(super) fn kill(&self, id: &mesos::ContainerId) -> Result<(), Refusal> {
        let (_, entry) = self.find(id)?;
        entry.kill.notify_one();
        Ok(())
    }

    /// Forgets a session that has ended.
    pub(super) fn remove(&self, id: &mesos::ContainerId) -> Result<(), Refusal> {
        let (key, entry) = self.find(id)?;
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
                    let _ = self.input.write_all(&bytes).await;
                } else if !matches!(*self.input, SessionInput::Terminal(_)) {
                    self.input.close().await;
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
                        self.input.resize(size(&info)?);
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
