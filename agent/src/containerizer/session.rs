//! A session from the agent's side: pipes or a terminal to a program in a running container.
//!
//! The agent holds one end of each, the program the other. Nothing is buffered here: what nobody
//! reads stays in the pipe, and a program that writes on waits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use nix::fcntl::OFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::handle::Order;
use super::prepare::User;
use super::terminal::Terminal;
pub(crate) use super::terminal::WindowSize;
use crate::core::{ContainerId, Launch};

/// How much is read at a time.
const CHUNK_LEN: usize = 32 * 1024;
/// A session starts, or not, and ends: no more is ever said of it.
const EVENTS_MAX: usize = 4;
/// What a terminal takes for the end of its input (`VEOF`) unless its program sets another.
const END_OF_INPUT: &[u8] = &[4];

/// What a program is to find as its standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// Nothing to read, and one pipe for all that it writes.
    Captured,
    /// A pipe each; without `stdin` nothing to read.
    Pipes {
        /// Whether there is something to read.
        stdin: bool,
    },
    /// A terminal of this size.
    Terminal(WindowSize),
}

/// What the launcher says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SessionEvent {
    /// Its program runs.
    Started,
    /// Its program could not be started; one sentence.
    Refused(String),
    /// Its program ended, and all that it had begun: the wait status.
    Left(i32),
    /// It was killed with the launcher, or there is none.
    Lost,
}

/// Where the program of a session reads from.
#[derive(Debug)]
pub(crate) enum SessionInput {
    None,
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

/// What the program of a session writes, and how it ends. When this is dropped, the session is
/// ended.
#[derive(Debug)]
pub(crate) struct SessionOutput {
    outputs: Outputs,
    events: mpsc::Receiver<SessionEvent>,
    /// Somebody may still write.
    open: bool,
    left: Option<i32>,
}

/// The next thing that is heard of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Its program wrote.
    Wrote(Source, Bytes),
    /// Its program ended, with this wait status, and everything it wrote was heard.
    Left(i32),
    /// Its program could not be started; one sentence.
    Refused(String),
    /// It was killed with the launcher, or there is none.
    Lost,
}

#[derive(Debug)]
enum Outputs {
    Pipes {
        stdout: Option<pipe::Receiver>,
        stderr: Option<pipe::Receiver>,
    },
    Terminal(Option<Arc<Terminal>>),
}

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// One more program in a running container.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) input: SessionInput,
    pub(crate) output: SessionOutput,
}

/// An order to start one.
#[derive(Debug)]
pub(crate) struct Entering {
    pub(super) launch: Launch,
    pub(super) user: User,
    pub(super) streams: [OwnedFd; 3],
    pub(super) terminal: bool,
    pub(super) events: mpsc::Sender<SessionEvent>,
}

/// Starts sessions; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) switch_user: bool,
}

impl Sessions {
    /// Starts the program of `launch` in its container, which must be running.
    ///
    /// # Errors
    /// A sentence when the streams cannot be made or the user is unknown; all else is an event.
    pub(crate) async fn enter(&self, launch: Launch, stdio: Stdio) -> Result<Session, String> {
        let (name, switch_user) = (launch.user.clone(), self.switch_user);
        let user = spawn_blocking(move || User::find(name.as_deref(), switch_user))
            .await
            .map_err(|error| error.to_string())??;
        let failed = |error: io::Error| format!("no pipes or terminal for the session: {error}");
        let (input, outputs, streams) = open(stdio).map_err(failed)?;
        let (events, said) = mpsc::channel(EVENTS_MAX);
        let entering = Entering {
            launch,
            user,
            streams,
            terminal: matches!(stdio, Stdio::Terminal(_)),
            events,
        };
        self.order(entering).await?;
        let output = SessionOutput {
            outputs,
            events: said,
            open: true,
            left: None,
        };
        Ok(Session { input, output })
    }

    async fn order(&self, entering: Entering) -> Result<(), String> {
        let order = Order::Enter(Box::new(entering));
        let sent = self.orders.send(order).await;
        sent.map_err(|_| "the agent is stopping".to_owned())
    }
}

impl Entering {
    /// In which container.
    pub(super) const fn container(&self) -> &ContainerId {
        &self.launch.container
    }
}

/// Our ends and the program's.
fn open(stdio: Stdio) -> io::Result<(SessionInput, Outputs, [OwnedFd; 3])> {
    let nothing = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    let reading = || -> io::Result<_> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
    };
    Ok(match stdio {
        Stdio::Captured => {
            let (stdout, out) = reading()?;
            let err = out.try_clone()?;
            let output = Outputs::Pipes {
                stdout: Some(stdout),
                stderr: None,
            };
            (SessionInput::None, output, [nothing()?, out, err])
        }
        Stdio::Pipes { stdin } => {
            let ((stdout, out), (stderr, err)) = (reading()?, reading()?);
            let output = Outputs::Pipes {
                stdout: Some(stdout),
                stderr: Some(stderr),
            };
            let (input, theirs) = if stdin {
                let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
                let ours = pipe::Sender::from_owned_fd(ours)?;
                (SessionInput::Pipe(ours), theirs)
            } else {
                (SessionInput::None, nothing()?)
            };
            (input, output, [theirs, out, err])
        }
        Stdio::Terminal(size) => {
            let (terminal, theirs) = Terminal::open(size)?;
            let terminal = Arc::new(terminal);
            let streams = [theirs.try_clone()?, theirs.try_clone()?, theirs];
            let output = Outputs::Terminal(Some(Arc::clone(&terminal)));
            (SessionInput::Terminal(terminal), output, streams)
        }
    })
}

impl SessionInput {
    /// Passes bytes on; returns when the program's pipe or terminal has taken them. An error means
    /// that it reads no more.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }

    /// Nothing more comes.
    pub(crate) async fn close(&mut self) {
        if let Self::Terminal(terminal) = self {
            let _ = terminal.write_all(END_OF_INPUT).await;
        } else {
            *self = Self::None;
        }
    }

    /// The window has this size now; nothing happens where there is none.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let Self::Terminal(terminal) = self {
            // Refused only for a terminal that is gone.
            let _ = terminal.resize(size);
        }
    }
}

impl SessionOutput {
    /// Waits until the program runs.
    ///
    /// # Errors
    /// Why it never will.
    pub(crate) async fn started(&mut self) -> Result<(), Heard> {
        match self.events.recv().await {
            Some(SessionEvent::Started) => Ok(()),
            Some(SessionEvent::Refused(why)) => Err(Heard::Refused(why)),
            Some(SessionEvent::Left(_) | SessionEvent::Lost) | None => Err(Heard::Lost),
        }
    }

    /// The next thing; after all but `Wrote` nothing more comes. May be dropped and called again
    /// without losing anything.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some(status) = self.left {
                return match self.outputs.rest() {
                    Some((source, bytes)) => Heard::Wrote(source, bytes),
                    None => Heard::Left(status),
                };
            }
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(SessionEvent::Started) => {}
                    Some(SessionEvent::Left(status)) => self.left = Some(status),
                    Some(SessionEvent::Refused(why)) => return Heard::Refused(why),
                    Some(SessionEvent::Lost) | None => return Heard::Lost,
                },
                chunk = self.outputs.next(), if self.open => match chunk {
                    Some((source, bytes)) => return Heard::Wrote(source, bytes),
                    None => self.open = false,
                },
            }
        }
    }
}

impl Outputs {
    /// The next bytes that were written; `None` when all that could write are gone. May be dropped
    /// and called again without losing anything.
    async fn next(&mut self) -> Option<(Source, Bytes)> {
        loop {
            let (source, read) = match self {
                Self::Terminal(None) => return None,
                Self::Terminal(Some(terminal)) => (Source::Stdout, terminal.read().await),
                Self::Pipes { stdout, stderr } => {
                    if stdout.is_none() && stderr.is_none() {
                        return None;
                    }
                    tokio::select! {
                        read = read(stdout) => (Source::Stdout, read),
                        read = read(stderr) => (Source::Stderr, read),
                    }
                }
            };
            match read {
                Ok(bytes) if !bytes.is_empty() => return Some((source, bytes)),
                Ok(_) | Err(_) => self.end(source),
            }
        }
    }

    /// What is there already; `None` when there is nothing. Whoever wrote it has ended.
    fn rest(&mut self) -> Option<(Source, Bytes)> {
        for source in [Source::Stdout, Source::Stderr] {
            let read = match (&*self, source) {
                (Self::Terminal(Some(terminal)), Source::Stdout) => terminal.read_now(),
                (Self::Pipes { stdout, .. }, Source::Stdout) => try_read(stdout.as_ref()),
                (Self::Pipes { stderr, .. }, Source::Stderr) => try_read(stderr.as_ref()),
                (Self::Terminal(_), _) => continue,
            };
            if let Some(bytes) = read.ok().filter(|bytes| !bytes.is_empty()) {
                return Some((source, bytes));
            }
        }
        None
    }

    fn end(&mut self, source: Source) {
        match (self, source) {
            (Self::Terminal(terminal), _) => *terminal = None,
            (Self::Pipes { stdout, .. }, Source::Stdout) => *stdout = None,
            (Self::Pipes { stderr, .. }, Source::Stderr) => *stderr = None,
        }
    }
}

/// The exit code of a wait status, or the signal that ended the process.
pub(crate) fn code_or_signal(status: i32) -> (Option<i32>, Option<i32>) {
    match WaitStatus::from_raw(Pid::from_raw(1), status) {
        Ok(WaitStatus::Exited(_, code)) => (Some(code), None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        // Real-time signals have no name in nix; the low bits are the number.
        _ => (None, Some(status & 0x7f)),
    }
}

fn try_read(pipe: Option<&pipe::Receiver>) -> io::Result<Bytes> {
    let Some(pipe) = pipe else {
        return Ok(Bytes::new());
    };
    let mut buffer = vec![0; CHUNK_LEN];
    // Not through the runtime, which may not have heard yet that there is something.
    let n = rustix::io::read(pipe, &mut buffer[..])?;
    buffer.truncate(n);
    Ok(buffer.into())
}

async fn read(pipe: &Option<pipe::Receiver>) -> io::Result<Bytes> {
    let Some(pipe) = pipe else {
        return std::future::pending().await;
    };
    loop {
        pipe.readable().await?;
        let mut buffer = vec![0; CHUNK_LEN];
        match pipe.try_read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
