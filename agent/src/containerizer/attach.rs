//! The terminal that a task was started with, for people who type there.
//!
//! A task's init holds its side of it and writes what comes there to `stdout`. Whoever wants to
//! type gets a copy of that side from the launcher, through a socket that came with the order; so
//! this works for tasks of an earlier agent, too.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;

use super::enter::ENDING;
use super::handle::Order;
use super::init::TERMINAL_FD;
use super::launcher::Launcher;
use super::session::{SessionInput, Sessions};
use super::sys;
use super::terminal::{self, Terminal};
use crate::core::ContainerId;

/// The longest sentence of a refusal.
const SENTENCE_MAX: usize = 1024;
/// How long the launcher may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Launcher {
    /// Sends the terminal of a container's task through the socket that came with the order, or a
    /// sentence why not.
    pub(super) fn attach(&mut self, container: u64) {
        let Some(socket) = self.sessions.passed() else {
            return;
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // Whoever asked may be gone.
        let _ = match self.terminal_of(container) {
            Ok(terminal) => {
                let (parts, passed) = ([IoSlice::new(b"t")], [terminal.as_raw_fd()]);
                let control = [ControlMessage::ScmRights(&passed)];
                sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None)
            }
            Err(sentence) => {
                let parts = [IoSlice::new(sentence.as_bytes())];
                sendmsg::<()>(socket.as_raw_fd(), &parts, &[], flags, None)
            }
        };
    }

    fn terminal_of(&self, container: u64) -> Result<OwnedFd, String> {
        let container = self.containers.get(&container);
        let container = container.filter(|container| container.can_be_entered());
        let process = container.ok_or(ENDING)?.handle().map_err(|_| ENDING)?;
        use std::os::fd::AsFd;
        let terminal = sys::pidfd_getfd(process.as_fd(), TERMINAL_FD);
        match terminal {
            Ok(terminal) if terminal::is_terminal(&terminal) => Ok(terminal),
            Ok(_) | Err(Errno::EBADF) => Err("the task has no terminal".to_owned()),
            Err(Errno::ESRCH) => Err(ENDING.to_owned()),
            Err(errno) => Err(format!(
                "the terminal cannot be had from the container's first process: {}",
                errno.desc()
            )),
        }
    }
}

impl Sessions {
    /// Where the task of a container reads what is typed.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn attach(&self, container: ContainerId) -> Result<SessionInput, String> {
        let failed = |error: io::Error| format!("no way to its terminal: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let ours = tokio::net::UnixStream::from_std(ours).map_err(failed)?;
        self.orders
            .send(Order::Attach(container, theirs.into()))
            .await
            .map_err(|_| "the agent is stopping".to_owned())?;
        let answer = ours.async_io(Interest::READABLE, || receive(&ours));
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| format!("the launcher did not answer within {PATIENCE:?}"))?;
        let terminal = match answer.map_err(failed)? {
            Answer::Terminal(terminal) => terminal,
            Answer::Refused(sentence) => return Err(sentence),
        };
        let terminal = Terminal::of(terminal).map_err(failed)?;
        Ok(SessionInput::Terminal(Arc::new(terminal)))
    }
}

enum Answer {
    Terminal(OwnedFd),
    Refused(String),
}

fn receive(socket: &tokio::net::UnixStream) -> io::Result<Answer> {
    let mut buffer = [0; SENTENCE_MAX];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control
            && let Some(number) = numbers.first()
        {
            return Ok(Answer::Terminal(sys::adopt_fd(*number)?));
        }
    }
    let n = received.bytes;
    let sentence = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default());
    Ok(Answer::Refused(if sentence.is_empty() {
        ENDING.to_owned()
    } else {
        sentence.into_owned()
    }))
}
