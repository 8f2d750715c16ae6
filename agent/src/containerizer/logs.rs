//! Bounded stdout and stderr: the task writes into pipes, and its init from there into files that
//! it puts aside when they are large. So logs stay bounded and whole also while no agent is there.
//!
//! Tasks without bounds write into their files themselves, and no init has anything to do; unless
//! they have a terminal, of which the init always holds the other side.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, pipe2, read, unlinkat};

use super::sys;
use super::terminal::{self, WindowSize};

/// How much is moved at a time.
const CHUNK_LEN: usize = 16 * 1024;
/// How much of one stream before anything else is looked at: a full pipe.
const CHUNKS_PER_TURN: usize = 4;

/// The bound of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// Bytes; 0 for none.
    pub(super) size_max: u64,
    pub(super) files_max: u32,
}

impl Bound {
    /// None at all.
    const NONE: Self = Self {
        size_max: 0,
        files_max: 0,
    };
}

/// What one task writes.
#[derive(Debug)]
pub(super) struct Logs {
    streams: Vec<Stream>,
    /// The task's side of its terminal. While it is open here too, what the task does with its own
    /// descriptors cuts nothing off.
    terminal: Option<OwnedFd>,
}

#[derive(Debug)]
struct Stream {
    name: &'static str,
    bound: Bound,
    directory: OwnedFd,
    owner: Option<(Uid, Gid)>,
    pipe: OwnedFd,
    file: File,
    len: u64,
    /// Nothing comes any more.
    ended: bool,
}

/// The ends of the pipes that a task writes to.
pub(super) type Ends = [OwnedFd; 2];

impl Logs {
    /// Opens files and pipes in a sandbox that belongs to `owner`.
    pub(super) fn open(
        sandbox: &CStr,
        owner: Option<(u32, u32)>,
        bounds: [Bound; 2],
    ) -> Result<(Self, Ends), Errno> {
        Self::open_in(&folder(sandbox)?, owner, bounds)
    }

    /// The same in a sandbox that is open.
    pub(super) fn open_in(
        sandbox: &OwnedFd,
        owner: Option<(u32, u32)>,
        bounds: [Bound; 2],
    ) -> Result<(Self, Ends), Errno> {
        let owner = ids(owner);
        let open = |name, bound| {
            let (pipe, end) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            if let Some((uid, gid)) = owner {
                // So that the task may open /dev/stdout.
                fchown(&end, Some(uid), Some(gid))?;
            }
            Ok((Stream::open(name, sandbox, owner, bound, pipe)?, end))
        };
        let [stdout, stderr] = bounds;
        let (out, out_end) = open("stdout", stdout)?;
        let (err, err_end) = open("stderr", stderr)?;
        let logs = Self {
            streams: vec![out, err],
            terminal: None,
        };
        Ok((logs, [out_end, err_end]))
    }

    /// Files without bounds in a sandbox that is open, for a task to write into by itself.
    pub(super) fn files_in(
        sandbox: &OwnedFd,
        owner: Option<(u32, u32)>,
    ) -> Result<[OwnedFd; 2], Errno> {
        let file = |name| create(sandbox.as_fd(), name, ids(owner)).map(OwnedFd::from);
        Ok([file("stdout")?, file("stderr")?])
    }

    /// Opens a terminal, our side of it under the number `ours`, and files in a sandbox that
    /// belongs to `owner`. All that is written to the terminal comes to `stdout`.
    pub(super) fn of_terminal(
        sandbox: &CStr,
        owner: Option<(u32, u32)>,
        bounds: Option<[Bound; 2]>,
        (size, ours): (WindowSize, RawFd),
    ) -> Result<(Self, RawFd), Errno> {
        let owner = ids(owner);
        let opened = terminal::open(size)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))?;
        let (pipe, low) = opened;
        // Out of the way first: it may have the very number that ours is to get.
        let theirs = sys::dup_above(low.as_fd(), 10)?;
        drop(low);
        sys::park_fd(pipe, ours)?;
        let pipe = sys::adopt_fd(ours)?;
        if let Some((uid, gid)) = owner {
            // So that the task may open its terminal by name.
            fchown(&theirs, Some(uid), Some(gid))?;
        }
        let bound = bounds.map_or(Bound::NONE, |[stdout, _]| stdout);
        let stream = Stream::open("stdout", &folder(sandbox)?, owner, bound, pipe)?;
        // For whoever looks for it.
        create(stream.directory.as_fd(), "stderr", owner)?;
        let number = theirs.as_raw_fd();
        let logs = Self {
            streams: vec![stream],
            terminal: Some(theirs),
        };
        Ok((logs, number))
    }

    /// What to wait on.
    pub(super) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = self.streams.iter().filter(|stream| !stream.ended);
        open.map(|stream| stream.pipe.as_fd())
    }

    /// Moves some of what is there, of each stream alike.
    pub(super) fn pump(&mut self) {
        for stream in &mut self.streams {
            let mut n_chunks = 0;
            while n_chunks < CHUNKS_PER_TURN && stream.pump() {
                n_chunks += 1;
            }
        }
    }

    /// Moves everything that is there, once nobody writes any more.
    pub(super) fn drain(&mut self) {
        self.terminal = None;
        for stream in &mut self.streams {
            while stream.pump() {}
        }
    }
}

impl Stream {
    /// What comes through `pipe` goes into a file of this name.
    fn open(
        name: &'static str,
        sandbox: &OwnedFd,
        owner: Option<(Uid, Gid)>,
        bound: Bound,
        pipe: OwnedFd,
    ) -> Result<Self, Errno> {
        let directory = sandbox.try_clone().map_err(|_| Errno::EMFILE)?;
        let file = create(directory.as_fd(), name, owner)?;
        Ok(Self {
            name,
            bound,
            directory,
            owner,
            pipe,
            file,
            len: 0,
            ended: false,
        })
    }

    /// Moves a chunk; false when there was none.
    fn pump(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut chunk = [0; CHUNK_LEN];
        match read(&self.pipe, &mut chunk) {
            Ok(0) => {
                self.ended = true;
                false
            }
            Ok(n) => {
                self.keep(chunk.get(..n).unwrap_or_default());
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Err(_) => {
                self.ended = true;
                false
            }
        }
    }

    fn keep(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut now = bytes;
            if self.bound.size_max > 0 {
                if self.len >= self.bound.size_max {
                    self.rotate();
                }
                let room = self.bound.size_max.saturating_sub(self.len).max(1);
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                now = bytes.get(..room).unwrap_or(bytes);
            }
            match self.file.write(now) {
                Ok(n) if n > 0 => {
                    self.len += n as u64;
                    bytes = bytes.get(n..).unwrap_or_default();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A full disk: what does not fit is gone. The task is not held up for it, as it
                // might hold up others.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// `stdout` becomes `stdout.1`, that `stdout.2`, and so on; the last one goes.
    fn rotate(&mut self) {
        let older = |n: u32| format!("{}.{n}", self.name);
        let directory = self.directory.as_fd();
        for n in (1..self.bound.files_max).rev() {
            let _ = renameat(
                directory,
                older(n).as_str(),
                directory,
                older(n + 1).as_str(),
            );
        }
        let moved = if self.bound.files_max == 0 {
            unlinkat(directory, self.name, UnlinkatFlags::NoRemoveDir)
        } else {
            renameat(directory, self.name, directory, older(1).as_str())
        };
        self.len = 0;
        match moved.and_then(|()| create(directory, self.name, self.owner)) {
            Ok(file) => self.file = file,
            // The task is in the way, with a folder of that name perhaps: it loses what it wrote,
            // and the bound holds.
            Err(_) => {
                let _ = self.file.set_len(0);
            }
        }
    }
}

fn ids(owner: Option<(u32, u32)>) -> Option<(Uid, Gid)> {
    owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// A sandbox to make files in.
fn folder(sandbox: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, sandbox, flags, Mode::empty())
}

/// A fresh file of that name; whatever a task may have put there is no place to write to.
fn create(directory: BorrowedFd<'_>, name: &str, owner: Option<(Uid, Gid)>) -> Result<File, Errno> {
    let flags = OFlag::O_WRONLY
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_APPEND
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    let file = match openat(directory, name, flags, mode) {
        Err(Errno::EEXIST) => {
            unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
            openat(directory, name, flags, mode)?
        }
        other => other?,
    };
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(file.into())
}

/// The numbers of the pipes' ends, for a child that cannot own them.
pub(super) fn numbers(ends: &Ends) -> [RawFd; 2] {
    let [out, err] = ends;
    [out.as_raw_fd(), err.as_raw_fd()]
}
