//! Reading a file of a sandbox while it grows, and on in its successor when it was put aside.
//!
//! An init puts a long `stdout` aside under the name `stdout.1`, what has that name under
//! `stdout.2`, and so on, and goes on in a new file (`containerizer/logs.rs`). A reader keeps its
//! file open, so that it loses nothing whatever name that has by now; it looks for the successor
//! only at the end of it, and once there is one, nothing is written to the older file any more.

use std::fs::{File, Metadata};
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use allotment_proto::allot::SandboxChunk;
use allotment_types::{FrameworkId, TaskId};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tonic::{Code, Status};

use super::driver::Query;
use super::files::{Files, open_file};

const CHUNK_LEN: usize = 64 * 1024;
/// How soon and how late a growing file is looked at again.
pub(super) type Pace = (Duration, Duration);
/// For those who do not type.
pub(super) const POLL: Pace = (Duration::from_millis(5), Duration::from_millis(200));
/// The most files that are put aside, as bounds allow (`core/logs.rs`).
const ASIDE_MAX: u32 = 1000;

/// A byte of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Its [`number`]; `None`: whichever has the name now.
    pub(super) file: Option<u64>,
    pub(super) offset: u64,
}

/// One reading.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) files: Files,
    pub(super) framework: FrameworkId,
    pub(super) task: TaskId,
    pub(super) path: String,
    /// Bytes to read.
    pub(super) left: u64,
    pub(super) follow: bool,
    pub(super) pace: Pace,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Opened {
    sandbox: PathBuf,
    file: tokio::fs::File,
    number: u64,
    /// Where reading began, and where it is.
    begin: u64,
    offset: u64,
    /// What came before may not be there any more.
    gap: bool,
}

/// A file found by its number, or the next best.
#[derive(Debug)]
struct Found {
    file: File,
    number: u64,
    gap: bool,
}

/// Which file this is: its inode, and when that was made, as far as the file system tells, for
/// inodes are used again.
pub(super) fn number(metadata: &Metadata) -> u64 {
    let made = metadata.created().ok();
    let since = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let nanos = since.map_or(0, |since| since.as_nanos());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the years repeat after 584 of them"
    )]
    let nanos = nanos as u64;
    // Spread over all bits, so that the two do not cancel each other out.
    metadata.ino().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ nanos
}

impl Reader {
    /// Opens the file; a follower of a live task waits for it to appear.
    pub(super) async fn open(&self, from: Position) -> Result<Opened, Status> {
        let mut wait = self.pace.0;
        loop {
            // Asked first: a file that is missing after the end will not come.
            let live = self.follow && self.is_live().await;
            match self.try_open(from).await {
                Err(status) if live && status.code() == Code::NotFound => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(self.pace.1);
                }
                other => return other,
            }
        }
    }

    /// Opens the file that is there, to read what is written from now on.
    pub(super) async fn open_at_end(&self) -> Result<Opened, Status> {
        let begin = Position {
            file: None,
            offset: 0,
        };
        let mut opened = self.try_open(begin).await?;
        let end = opened.file.seek(SeekFrom::End(0)).await.map_err(broken)?;
        (opened.begin, opened.offset) = (end, end);
        Ok(opened)
    }

    async fn try_open(&self, from: Position) -> Result<Opened, Status> {
        let sandbox = self.files.sandbox_of(&self.framework, &self.task).await?;
        let path = self.path.clone();
        let asked = from.file.filter(|_| self.follow);
        let folder = sandbox.clone();
        let found = blocking(move || match asked {
            Some(asked) => find(&folder, &path, asked),
            None => Found::current(&folder, &path),
        });
        let Found { file, number, gap } = found.await?;
        let mut file = tokio::fs::File::from_std(file);
        let offset = if gap { 0 } else { from.offset };
        file.seek(SeekFrom::Start(offset)).await.map_err(broken)?;
        Ok(Opened {
            sandbox,
            file,
            number,
            begin: offset,
            offset,
            gap,
        })
    }

    /// Sends what there is, and with `follow` what comes, to whoever takes the chunks.
    pub(super) async fn run(
        mut self,
        mut opened: Opened,
        chunks: &mpsc::Sender<Result<SandboxChunk, Status>>,
    ) -> Result<(), Status> {
        let mut ended = self.follow.then(|| self.when_ended());
        let mut wait = self.pace.0;
        loop {
            // Whether the task had ended before the file was read to its end.
            let over = match &mut ended {
                None => true,
                Some(ended) => {
                    !matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))
                }
            };
            loop {
                let before = opened.offset;
                if !self.send_rest(&mut opened, chunks).await? {
                    return Ok(());
                }
                if opened.offset > before {
                    wait = self.pace.0;
                }
                if !self.follow || self.left == 0 {
                    break;
                }
                let Some(next) = self.successor(&opened).await? else {
                    if opened.go_back().await? {
                        continue;
                    }
                    break;
                };
                // Written before the successor was there, and after the last look.
                if !self.send_rest(&mut opened, chunks).await? {
                    return Ok(());
                }
                opened = next;
            }
            if over || self.left == 0 || chunks.is_closed() {
                return Ok(());
            }
            if let Some(ended) = &mut ended {
                tokio::select! {
                    _ = &mut *ended => {}
                    () = chunks.closed() => return Ok(()),
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(self.pace.1),
                }
            }
        }
    }

    /// Reads to the end of a file; false when nobody takes it any more.
    async fn send_rest(
        &mut self,
        opened: &mut Opened,
        chunks: &mpsc::Sender<Result<SandboxChunk, Status>>,
    ) -> Result<bool, Status> {
        loop {
            let len = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(CHUNK_LEN);
            let mut data = vec![0; len];
            let n = opened.file.read(&mut data).await.map_err(broken)?;
            if n == 0 {
                return Ok(true);
            }
            data.truncate(n);
            let chunk = SandboxChunk {
                offset: opened.offset,
                data: data.into(),
                file: self.follow.then_some(opened.number),
                gap: std::mem::take(&mut opened.gap).then_some(true),
            };
            opened.offset += n as u64;
            self.left -= n as u64;
            if chunks.send(Ok(chunk)).await.is_err() {
                return Ok(false);
            }
        }
    }

    /// The file that is to be read after this one; `None` while this one is being written.
    async fn successor(&self, opened: &Opened) -> Result<Option<Opened>, Status> {
        let (sandbox, path, number) = (opened.sandbox.clone(), self.path.clone(), opened.number);
        let found = blocking(move || successor(&sandbox, &path, number)).await?;
        Ok(found.map(|Found { file, number, gap }| Opened {
            sandbox: opened.sandbox.clone(),
            file: tokio::fs::File::from_std(file),
            number,
            begin: 0,
            offset: 0,
            gap,
        }))
    }

    async fn is_live(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let query = Query::IsLive(self.framework.clone(), self.task.clone(), reply);
        let _ = self.files.queries.send(query).await;
        answer.await.unwrap_or(false)
    }

    /// Resolves when nothing of the task runs any more, or the agent stops.
    fn when_ended(&self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        let query = Query::Ended(self.framework.clone(), self.task.clone(), reply);
        let queries = self.files.queries.clone();
        tokio::spawn(async move {
            let _ = queries.send(query).await;
        });
        answer
    }
}

impl Opened {
    /// Where somebody has cut off what was read already, begins anew; whether that is so.
    async fn go_back(&mut self) -> Result<bool, Status> {
        let len = self.file.metadata().await.map_err(broken)?.len();
        let cut = self.offset > self.begin && len < self.offset;
        if cut {
            self.file.rewind().await.map_err(broken)?;
            (self.begin, self.offset, self.gap) = (0, 0, true);
        }
        Ok(cut)
    }
}

impl Found {
    fn current(sandbox: &Path, path: &str) -> Result<Self, Status> {
        let file = open_file(sandbox, path)?;
        let metadata = file
            .metadata()
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Self {
            number: number(&metadata),
            file,
            gap: false,
        })
    }

    /// As above; `None` when there is no such file.
    fn aside(sandbox: &Path, path: &str, n: u32) -> Option<Self> {
        Self::current(sandbox, &format!("{path}.{n}")).ok()
    }
}

/// The file of this number, whatever its name is by now, or else what is left of its successors.
fn find(sandbox: &Path, path: &str, wanted: u64) -> Result<Found, Status> {
    let current = Found::current(sandbox, path)?;
    if current.number == wanted {
        return Ok(current);
    }
    let mut oldest = current;
    let mut n_free = 0;
    for n in 1..=ASIDE_MAX {
        match Found::aside(sandbox, path, n) {
            Some(found) if found.number == wanted => return Ok(found),
            Some(found) => {
                oldest = found;
                n_free = 0;
            }
            None if n_free == 1 => break,
            None => n_free += 1,
        }
    }
    oldest.gap = true;
    Ok(oldest)
}

/// The file that was begun when the one of this number was put aside; `None` while it has its name
/// still.
///
/// Looks from the youngest to the oldest. Names only ever grow older, so the wanted file is always
/// ahead of the look, and the file seen last before it is the one that was begun next.
fn successor(sandbox: &Path, path: &str, number: u64) -> Result<Option<Found>, Status> {
    let mut younger = match Found::current(sandbox, path) {
        // Between two names, or taken away by the task.
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        other => other?,
    };
    if younger.number == number {
        return Ok(None);
    }
    // One name is free while the others move on; two in a row are the end.
    let (mut n_free, mut n_kept) = (0, 0);
    for n in 1..=ASIDE_MAX {
        match Found::aside(sandbox, path, n) {
            Some(aside) if aside.number == number => return Ok(Some(younger)),
            Some(aside) => {
                younger = aside;
                n_free = 0;
                n_kept += 1;
            }
            None if n_free == 1 => break,
            None => n_free += 1,
        }
    }
    // It was deleted, or is never kept: what is oldest now comes next. Where nothing is kept
    // nobody can tell what was between.
    younger.gap = n_kept > 0;
    Ok(Some(younger))
}

fn broken(error: io::Error) -> Status {
    Status::internal(format!("reading stopped: {error}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As an init does.
    fn put_aside(folder: &Path, files_max: u32) {
        for n in (1..files_max).rev() {
            let name = |n| folder.join(format!("stdout.{n}"));
            let _ = fs::rename(name(n), name(n + 1));
        }
        fs::rename(folder.join("stdout"), folder.join("stdout.1")).unwrap();
        fs::write(folder.join("stdout"), "").unwrap();
    }

    fn number_of(path: &Path) -> u64 {
        number(&fs::metadata(path).unwrap())
    }

    #[test]
    fn the_successor_of_a_file_is_the_one_begun_after_it_however_old_it_is() {
        let sandbox = tempfile::tempdir().unwrap();
        let folder = sandbox.path();
        let mut numbers = Vec::new();
        fs::write(folder.join("stdout"), "").unwrap();
        for _ in 0..5 {
            numbers.push(number_of(&folder.join("stdout")));
            put_aside(folder, 3);
        }
        numbers.push(number_of(&folder.join("stdout")));
        let next = |n: usize| successor(folder, "stdout", numbers[n]).unwrap();
        for n in 2..5 {
            let next = next(n).unwrap();
            assert_eq!((next.number, next.gap), (numbers[n + 1], false), "{n}");
            assert_eq!(
                find(folder, "stdout", numbers[n]).unwrap().number,
                numbers[n]
            );
        }
        assert!(next(5).is_none());
        // Deleted: what is left begins with the oldest, and that something is missing is told.
        let next = next(0).unwrap();
        assert_eq!((next.number, next.gap), (numbers[2], true));
        let found = find(folder, "stdout", numbers[0]).unwrap();
        assert_eq!((found.number, found.gap), (numbers[2], true));
    }

    #[test]
    fn a_file_that_is_not_kept_is_followed_by_the_new_one() {
        let sandbox = tempfile::tempdir().unwrap();
        let path = sandbox.path().join("stdout");
        fs::write(&path, "").unwrap();
        let held = File::open(&path).unwrap();
        let old = number(&held.metadata().unwrap());
        fs::remove_file(&path).unwrap();
        assert!(successor(sandbox.path(), "stdout", old).unwrap().is_none());
        fs::write(&path, "").unwrap();
        let next = successor(sandbox.path(), "stdout", old).unwrap().unwrap();
        assert_eq!((next.number, next.gap), (number_of(&path), false));
    }
}
