//! Pseudo terminals: one side is a program's, the other ours.
//!
//! That of a session is opened by the agent, that of a task by its init, which keeps it while no
//! agent is there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::core::confinement;

/// How much is read at a time.
const CHUNK_LEN: usize = 32 * 1024;

/// The size of a terminal in characters; the kernel and programs take zero for "unknown".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WindowSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

impl From<confinement::Terminal> for WindowSize {
    fn from(size: confinement::Terminal) -> Self {
        // Larger ones were refused where the task was planned.
        let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Self {
            rows: side(size.rows),
            columns: side(size.columns),
        }
    }
}

/// The master side of a pseudo terminal.
#[derive(Debug)]
pub(crate) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Makes one; also the program's side.
    pub(super) fn open(size: WindowSize) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = open(size)?;
        Ok((Self::of(ours)?, theirs))
    }

    /// One that is open already and does not block.
    pub(super) fn of(ours: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::watch(ours)?))
    }

    /// The window has this size now; programs in it are told by SIGWINCH.
    pub(crate) fn resize(&self, size: WindowSize) -> io::Result<()> {
        resize(self.0.get_ref(), size)
    }

    /// Types this; returns once the terminal has taken it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            let wrote = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?));
            match wrote {
                Ok(Ok(n)) => bytes = bytes.get(n..).unwrap_or_default(),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// What was written, empty once nobody has the terminal open any more.
    pub(super) fn read_now(&self) -> io::Result<Bytes> {
        let mut buffer = vec![0; CHUNK_LEN];
        match rustix::io::read(self.0.get_ref(), &mut buffer[..]) {
            Ok(n) => {
                buffer.truncate(n);
                Ok(buffer.into())
            }
            Err(rustix::io::Errno::IO) => Ok(Bytes::new()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What was written next, empty once nobody has the terminal open any more.
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(read) = guard.try_io(|_| self.read_now()) {
                return read;
            }
        }
    }
}

/// Our side, which does not block, and the program's.
pub(super) fn open(size: WindowSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    resize(&ours, size)?;
    rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// Whether this is our side of a terminal.
pub(super) fn is_terminal(ours: impl AsFd) -> bool {
    ptsname(ours, Vec::new()).is_ok()
}

fn resize(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
