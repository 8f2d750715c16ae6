//! The Sandbox service: lists and reads the files of tasks, and never anything else.
//!
//! Every path is opened beneath its sandbox by the kernel (`openat2` with `RESOLVE_BENEATH`), so
//! neither `..` nor a link that a task planted leads outside.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use allotment_proto::allot::sandbox_server::Sandbox;
use allotment_proto::allot::{
    SandboxChunk, SandboxEntry, SandboxListRequest, SandboxListResponse, SandboxReadRequest,
};
use allotment_types::{AgentId, FrameworkId, TaskId};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::driver::Query;
use super::follow::{POLL, Position, Reader, number};
use crate::containerizer::prepare::{CONTAINERS, TASKS};
use crate::core::{ContainerId, SandboxId};

/// Chunks that may wait for a slow reader, who then holds up his own stream only.
const CHUNKS_WAITING: usize = 4;
pub(super) const ENTRIES_MAX: usize = 10_000;

/// Serves the sandboxes below one work folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) work_dir: PathBuf,
    pub(super) queries: mpsc::Sender<Query>,
}

#[tonic::async_trait]
impl Sandbox for Files {
    async fn list(
        &self,
        request: Request<SandboxListRequest>,
    ) -> Result<Response<SandboxListResponse>, Status> {
        let SandboxListRequest {
            framework_id,
            task_id,
            path,
        } = request.into_inner();
        let (framework, task) = ids(&framework_id, &task_id)?;
        let sandbox = self.sandbox_of(&framework, &task).await?;
        let entries = spawn_blocking(move || list(&sandbox, &path));
        let entries = entries
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(SandboxListResponse { entries }))
    }

    type ReadStream = ReceiverStream<Result<SandboxChunk, Status>>;

    async fn read(
        &self,
        request: Request<SandboxReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (framework, task) = ids(&request.framework_id, &request.task_id)?;
        let reader = Reader {
            files: self.clone(),
            framework,
            task,
            path: request.path,
            left: request.length.unwrap_or(u64::MAX),
            follow: request.follow,
            pace: POLL,
        };
        let from = Position {
            file: request.file,
            offset: request.offset,
        };
        let opened = reader.open(from).await?;
        let (chunks, stream) = mpsc::channel(CHUNKS_WAITING);
        tokio::spawn(async move {
            if let Err(status) = reader.run(opened, &chunks).await {
                let _ = chunks.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Files {
    /// The sandbox in which a task works.
    pub(super) async fn sandbox_of(
        &self,
        framework: &FrameworkId,
        task: &TaskId,
    ) -> Result<PathBuf, Status> {
        let shared = self.shared_with(framework, task).await;
        let (work_dir, framework, task) = (self.work_dir.clone(), framework.clone(), task.clone());
        let found = spawn_blocking(move || {
            let found = find(&work_dir, &framework, shared.as_ref().unwrap_or(&task));
            found.ok_or_else(|| no_sandbox(&task))
        });
        found
            .await
            .map_err(|error| Status::internal(error.to_string()))?
    }

    /// The executor in whose sandbox a task works, by the name of its folder: that of a custom
    /// one, as long as the agent remembers the task.
    async fn shared_with(&self, framework: &FrameworkId, task: &TaskId) -> Option<TaskId> {
        let (reply, answer) = oneshot::channel();
        let query = Query::Executor(framework.clone(), task.clone(), reply);
        let _ = self.queries.send(query).await;
        let executor = answer.await.ok().flatten()?;
        TaskId::parse(executor.as_str()).ok()
    }
}

pub(super) fn ids(framework: &str, task: &str) -> Result<(FrameworkId, TaskId), Status> {
    let framework = FrameworkId::parse(framework)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let task = TaskId::parse(task).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((framework, task))
}

fn no_sandbox(task: &TaskId) -> Status {
    Status::not_found(format!(
        "no sandbox of task {task} is on this agent; it never ran here, or its sandbox was \
         collected"
    ))
}

/// The sandbox of the latest run of a task, under whichever id this agent had then: one of its
/// own, or one within that of the default executor.
fn find(work_dir: &Path, framework: &FrameworkId, task: &TaskId) -> Option<PathBuf> {
    let agents = fs::read_dir(work_dir.join("slaves")).ok()?;
    let agents = agents.flatten();
    let agents = agents.filter_map(|entry| AgentId::parse(entry.file_name().to_str()?).ok());
    let agents: Vec<AgentId> = agents.collect();
    let modified = |sandbox: PathBuf| {
        let modified = fs::metadata(&sandbox).and_then(|metadata| metadata.modified());
        modified.ok().map(|modified| (modified, sandbox))
    };
    let own = agents.iter().filter_map(|agent| {
        let folder = SandboxId::executor_folder(agent, framework, task.as_str());
        modified(work_dir.join(folder).join("runs/latest"))
    });
    let nested = || {
        let executors = agents.iter().flat_map(|agent| {
            let folder = SandboxId::executor_folder(agent, framework, "");
            fs::read_dir(work_dir.join(folder)).into_iter().flatten()
        });
        executors
            .flatten()
            .filter_map(|executor| modified(nested_in(&executor.path().join("runs/latest"), task)?))
            .max()
    };
    own.max().or_else(nested).map(|(_, sandbox)| sandbox)
}

/// The sandbox of a task within its executor's. Nothing there is followed that somebody else than
/// this agent may have put there.
fn nested_in(executor: &Path, task: &TaskId) -> Option<PathBuf> {
    let executor = executor.canonicalize().ok()?;
    if fs::symlink_metadata(&executor).ok()?.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let target = fs::read_link(executor.join(TASKS).join(task.as_str())).ok()?;
    let container = target.file_name()?.to_str()?;
    let container = ContainerId::parse(container)?;
    let sandbox = executor.join(CONTAINERS).join(container.as_str());
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    (is_folder(&executor.join(CONTAINERS)) && is_folder(&sandbox)).then_some(sandbox)
}

/// Opens something beneath a sandbox and nowhere else.
pub(super) fn open_beneath(sandbox: &Path, path: &str, flags: OFlag) -> Result<File, Status> {
    let refuse = |errno: Errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            Status::not_found(format!("there is no {path:?} in the sandbox"))
        }
        Errno::EXDEV | Errno::ELOOP => Status::invalid_argument(format!(
            "the path {path:?} leads out of the sandbox; give one inside"
        )),
        Errno::ENAMETOOLONG => Status::invalid_argument("the path is too long".to_owned()),
        other => Status::internal(format!("{path:?} cannot be opened: {}", other.desc())),
    };
    if path.contains('\0') {
        return Err(Status::invalid_argument("the path holds a NUL byte"));
    }
    let root = File::open(sandbox).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Status::not_found("the sandbox was just collected"),
        _ => Status::internal(error.to_string()),
    })?;
    let path = if path.is_empty() { "." } else { path };
    // Not blocking: a pipe in the sandbox must not hold us.
    let how = OpenHow::new()
        .flags(flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&root, path, how).map(File::from).map_err(refuse)
}

pub(super) fn open_file(sandbox: &Path, path: &str) -> Result<File, Status> {
    let file = open_beneath(sandbox, path, OFlag::empty())?;
    let kind = file
        .metadata()
        .map_err(|error| Status::internal(error.to_string()))?
        .file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = if kind.is_dir() {
        "a directory; list it instead"
    } else if kind.is_fifo() || kind.is_socket() {
        "a pipe or socket, which only the task can read"
    } else {
        "no regular file"
    };
    Err(Status::invalid_argument(format!("{path:?} is {what}")))
}

fn list(sandbox: &Path, path: &str) -> Result<Vec<SandboxEntry>, Status> {
    let internal = |error: io::Error| Status::internal(error.to_string());
    let folder = open_beneath(sandbox, path, OFlag::O_DIRECTORY)?;
    // Through the descriptor, so that nothing swapped meanwhile is listed in its stead.
    let entries =
        fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(internal)?;
    let mut listed = Vec::new();
    for entry in entries.take(ENTRIES_MAX) {
        let entry = entry.map_err(internal)?;
        // Of the link itself, not of what it points to.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        listed.push(SandboxEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            size_bytes: metadata.len(),
            directory: metadata.is_dir(),
            mode: metadata.mode() & 0o7777,
            file: metadata.is_file().then(|| number(&metadata)),
        });
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn sandbox() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sandbox")).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        folder
    }

    #[test]
    fn no_path_leaves_the_sandbox() {
        let folder = sandbox();
        let root = folder.path().join("sandbox");
        symlink("../secret", root.join("up")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("..", root.join("parent")).unwrap();
        for path in [
            "../secret",
            "/etc/passwd",
            "up",
            "absolute",
            "parent/secret",
            "a/../../secret",
        ] {
            let status = open_file(&root, path).unwrap_err();
            assert_ne!(status.code(), tonic::Code::Internal, "{path}: {status}");
            let known = [tonic::Code::InvalidArgument, tonic::Code::NotFound];
            assert!(known.contains(&status.code()), "{path}: {status}");
        }
        let status = open_file(&root, "up").unwrap_err();
        assert!(status.message().contains("leads out"), "{status}");
    }

    #[test]
    fn links_within_the_sandbox_work() {
        let folder = sandbox();
        let root = folder.path().join("sandbox");
        fs::write(root.join("data"), "d").unwrap();
        symlink("data", root.join("link")).unwrap();
        assert!(open_file(&root, "link").is_ok());
    }

    #[test]
    fn a_pipe_is_refused_instead_of_waiting_for_a_writer() {
        let folder = sandbox();
        let root = folder.path().join("sandbox");
        nix::unistd::mkfifo(&root.join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let status = open_file(&root, "p").unwrap_err();
        assert!(status.message().contains("pipe"), "{status}");
    }

    #[test]
    fn a_listing_is_sorted_and_tells_directories() {
        let folder = sandbox();
        let root = folder.path().join("sandbox");
        fs::write(root.join("b"), "22").unwrap();
        fs::create_dir(root.join("a")).unwrap();
        let entries = list(&root, "").unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.name.as_str(), e.directory))
            .collect();
        assert_eq!(seen, [("a", true), ("b", false)]);
        assert_eq!(
            list(&root, "..").unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
