//! Mesos' `/files/{browse,read,download,debug}`, for tools and web pages that know them.
//!
//! A path is that of a sandbox, as Mesos hands it out, and what follows inside it:
//! `<work_dir>/slaves/A/frameworks/F/executors/E/runs/C/stdout`, or Mesos' virtual
//! `/frameworks/F/executors/E/runs/latest/stdout`. Everything is opened beneath the sandbox, as
//! in [`super::files`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use allotment_types::{AgentId, ExecutorId, FrameworkId};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::files::{ENTRIES_MAX, open_beneath, open_file};
use crate::core::SandboxId;

/// The most that one read answers with: 16 pages, as in Mesos.
const READ_MAX: u64 = 16 * 4096;
const CHUNK_LEN: usize = 64 * 1024;

/// Every spelling that Mesos serves them under.
pub(super) fn router(work_dir: PathBuf) -> Router {
    let mut router = Router::new();
    for prefix in ["/files", "/slave(1)/files"] {
        for suffix in ["", ".json"] {
            router = router
                .route(&format!("{prefix}/browse{suffix}"), get(browse))
                .route(&format!("{prefix}/read{suffix}"), get(read))
                .route(&format!("{prefix}/download{suffix}"), get(download))
                .route(&format!("{prefix}/debug{suffix}"), get(debug));
        }
    }
    router.with_state(work_dir)
}

#[derive(Debug, Deserialize)]
struct Asked {
    path: Option<String>,
    /// -1 and its absence ask for the size alone.
    offset: Option<i64>,
    /// -1 and its absence ask for as much as there may be.
    length: Option<i64>,
}

type Refusal = (StatusCode, String);

/// One file of a listing, with Mesos' names.
#[derive(Debug, Serialize)]
struct FileInfo {
    gid: String,
    mode: String,
    mtime: f64,
    nlink: u64,
    path: String,
    size: u64,
    uid: String,
}

#[derive(Debug, Serialize)]
struct Piece {
    data: String,
    offset: u64,
}

async fn browse(
    State(work_dir): State<PathBuf>,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<FileInfo>>, Refusal> {
    blocking(move || {
        let path = asked.path()?;
        let (sandbox, inside) = find(&work_dir, path)?;
        let folder = open_beneath(&sandbox, &inside, OFlag::O_DIRECTORY).map_err(refusal)?;
        // Through the descriptor, so that nothing swapped meanwhile is listed in its stead.
        let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let entries = entries.map_err(|error| internal(&error))?.take(ENTRIES_MAX);
        let mut listed: Vec<FileInfo> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                Some(info(
                    format!("{}/{name}", path.trim_end_matches('/')),
                    &entry.metadata().ok()?,
                ))
            })
            .collect();
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Json(listed))
    })
    .await
}

fn info(path: String, metadata: &fs::Metadata) -> FileInfo {
    let user = User::from_uid(Uid::from_raw(metadata.uid())).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(metadata.gid()))
        .ok()
        .flatten();
    #[expect(
        clippy::cast_precision_loss,
        reason = "Mesos tells seconds as a double"
    )]
    let mtime = metadata.mtime() as f64;
    FileInfo {
        gid: group.map_or_else(|| metadata.gid().to_string(), |group| group.name),
        mode: mode_text(metadata.mode()),
        mtime,
        nlink: metadata.nlink(),
        path,
        size: metadata.len(),
        uid: user.map_or_else(|| metadata.uid().to_string(), |user| user.name),
    }
}

/// As `ls -l` shows it.
fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '-',
    };
    let bits = "rwxrwxrwx".chars().enumerate().map(|(i, letter)| {
        if mode & (0o400 >> i) != 0 {
            letter
        } else {
            '-'
        }
    });
    std::iter::once(kind).chain(bits).collect()
}

async fn read(
    State(work_dir): State<PathBuf>,
    Query(asked): Query<Asked>,
) -> Result<Json<Piece>, Refusal> {
    blocking(move || {
        let (sandbox, inside) = find(&work_dir, asked.path()?)?;
        let length = match asked.length {
            None | Some(-1) => READ_MAX,
            Some(length) => u64::try_from(length)
                .map_err(|_| bad(format!("length is {length}; give -1 or a number of bytes")))?,
        };
        let mut file = open_file(&sandbox, &inside).map_err(refusal)?;
        let size = file.metadata().map_err(|error| internal(&error))?.len();
        let empty = |offset| {
            let data = String::new();
            Ok(Json(Piece { data, offset }))
        };
        let offset = match asked.offset {
            None | Some(-1) => return empty(size),
            Some(offset) => u64::try_from(offset)
                .map_err(|_| bad(format!("offset is {offset}; give -1 or a number of bytes")))?,
        };
        if offset >= size {
            return empty(size);
        }
        file.seek(SeekFrom::Start(offset))
            .map_err(|error| internal(&error))?;
        let mut bytes = Vec::new();
        file.take(length.min(READ_MAX))
            .read_to_end(&mut bytes)
            .map_err(|error| internal(&error))?;
        let data = whole_characters(bytes, offset, size);
        Ok(Json(Piece { data, offset }))
    })
    .await
}

/// Text without a character that is cut in two at its end, where more is to come: readers ask on
/// from where the text ended.
fn whole_characters(mut bytes: Vec<u8>, offset: u64, size: u64) -> String {
    let more = offset + (bytes.len() as u64) < size;
    if more
        && let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
        && error.valid_up_to() > 0
    {
        bytes.truncate(error.valid_up_to());
    }
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

async fn download(
    State(work_dir): State<PathBuf>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (file, size, name) = blocking(move || {
        let path = asked.path()?;
        let (sandbox, inside) = find(&work_dir, path)?;
        let file = open_file(&sandbox, &inside).map_err(refusal)?;
        let size = file.metadata().map_err(|error| internal(&error))?.len();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok((file, size, name))
    })
    .await?;
    let wanted = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let (status, first, length) = match wanted.and_then(|text| range(text, size)) {
        None => (StatusCode::OK, 0, size),
        Some(None) => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
        Some(Some((first, last))) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
    };
    // What would end the header or its quotes is left out of the name.
    let name: String = name
        .chars()
        .filter(|c| !c.is_control() && *c != '"' && *c != '\\' && c.is_ascii())
        .collect();
    let mut response = axum::body::Body::from_stream(pieces(file, first, length)).into_response();
    *response.status_mut() = status;
    let mut set = |name, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    set(
        header::CONTENT_DISPOSITION,
        format!("attachment; filename=\"{name}\""),
    );
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::CONTENT_LENGTH, length.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        set(
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{size}"),
        );
    }
    Ok(response)
}

/// A part of a file, piece by piece as the client takes it.
fn pieces(
    file: fs::File,
    first: u64,
    length: u64,
) -> impl stream::Stream<Item = std::io::Result<bytes::Bytes>> {
    stream::try_unfold((file, first, length), async |(mut file, at, left)| {
        if left == 0 {
            return Ok(None);
        }
        let read = spawn_blocking(move || {
            let len = usize::try_from(left).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            let mut data = vec![0; len];
            file.seek(SeekFrom::Start(at))?;
            let n = file.read(&mut data)?;
            data.truncate(n);
            Ok::<_, std::io::Error>((file, data))
        });
        let (file, data) = read.await.map_err(std::io::Error::other)??;
        let n = data.len() as u64;
        if n == 0 {
            // It was cut meanwhile: the length that was promised does not come.
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((bytes::Bytes::from(data), (file, at + n, left - n))))
    })
}

/// The first and last byte that a `Range` header wants: outer `None` when it is not understood,
/// and then the whole is given; inner `None` when there is nothing in it.
fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1);
    if first.is_empty() {
        let length: u64 = last.trim().parse().ok()?;
        return Some(
            end.filter(|_| length > 0)
                .map(|end| (size.saturating_sub(length), end)),
        );
    }
    let first: u64 = first.trim().parse().ok()?;
    let last: u64 = match last.trim() {
        "" => u64::MAX,
        last => last.parse().ok()?,
    };
    if last < first {
        return None;
    }
    Some(
        end.filter(|end| first <= *end)
            .map(|end| (first, last.min(end))),
    )
}

/// Every sandbox by its virtual path.
async fn debug(State(work_dir): State<PathBuf>) -> Result<Json<BTreeMap<String, String>>, Refusal> {
    blocking(move || {
        let mut known = BTreeMap::new();
        for agent in names(&work_dir.join("slaves")) {
            let frameworks = work_dir.join("slaves").join(&agent).join("frameworks");
            for framework in names(&frameworks) {
                let executors = frameworks.join(&framework).join("executors");
                for executor in names(&executors) {
                    for run in names(&executors.join(&executor).join("runs")) {
                        let path = executors.join(&executor).join("runs").join(&run);
                        let path = path.display().to_string();
                        let below =
                            format!("/frameworks/{framework}/executors/{executor}/runs/{run}");
                        known.insert(below, path);
                    }
                }
            }
        }
        Ok(Json(known))
    })
    .await
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(ENTRIES_MAX)
        .collect()
}

impl Asked {
    fn path(&self) -> Result<&str, Refusal> {
        let path = self.path.as_deref().filter(|path| !path.is_empty());
        path.ok_or_else(|| bad("Expecting 'path=value' in query.\n".to_owned()))
    }
}

/// The sandbox that a path lies in, and the rest of the path.
fn find(work_dir: &Path, path: &str) -> Result<(PathBuf, String), Refusal> {
    let unknown = || {
        let text = format!("{path:?} lies in no sandbox of this agent\n");
        (StatusCode::NOT_FOUND, text)
    };
    let below = Path::new(path)
        .strip_prefix(work_dir)
        .ok()
        .and_then(Path::to_str)
        .unwrap_or(path);
    let mut parts = below.trim_start_matches('/').splitn(9, '/').peekable();
    let agents = match parts.next_if_eq(&"slaves") {
        Some(_) => vec![parts.next().unwrap_or_default().to_owned()],
        // Mesos' virtual paths name no agent: there may have been several over time.
        None => names(&work_dir.join("slaves")),
    };
    let mut named = |what: &str| -> Option<&str> {
        parts.next_if_eq(&what)?;
        parts.next()
    };
    let ids = (|| {
        let framework = FrameworkId::parse(named("frameworks")?).ok()?;
        let executor = ExecutorId::parse(named("executors")?).ok()?;
        let run = named("runs")?;
        let plain = !run.is_empty() && run != "." && run != "..";
        plain.then_some((framework, executor, run))
    })();
    let (framework, executor, run) = ids.ok_or_else(unknown)?;
    let inside: Vec<&str> = parts.collect();
    let sandbox = agents
        .iter()
        .filter_map(|agent| AgentId::parse(agent).ok())
        .map(|agent| {
            let folder = SandboxId::executor_folder(&agent, &framework, executor.as_str());
            work_dir.join(folder).join("runs").join(run)
        })
        .find(|sandbox| sandbox.is_dir());
    let sandbox = sandbox.ok_or_else(unknown)?;
    Ok((sandbox, inside.join("/")))
}

fn bad(text: String) -> Refusal {
    (StatusCode::BAD_REQUEST, text)
}

fn internal(error: &std::io::Error) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn refusal(status: tonic::Status) -> Refusal {
    let code = match status.code() {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, format!("{}\n", status.message()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        assert_eq!(range("bytes=0-4", 10), Some(Some((0, 4))));
        assert_eq!(range("bytes=4-", 10), Some(Some((4, 9))));
        assert_eq!(range("bytes=-3", 10), Some(Some((7, 9))));
        assert_eq!(range("bytes=-30", 10), Some(Some((0, 9))));
        assert_eq!(range("bytes=10-", 10), Some(None));
        assert_eq!(range("bytes=0-", 0), Some(None));
        for odd in ["bytes=4-2", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4"] {
            assert_eq!(range(odd, 10), None, "{odd}");
        }
    }

    #[test]
    fn a_character_is_not_cut_while_more_is_to_come() {
        let text = "aé".as_bytes().to_vec();
        let cut = text.get(..2).unwrap().to_vec();
        assert_eq!(whole_characters(cut.clone(), 0, 3), "a");
        assert_eq!(whole_characters(text, 0, 3), "aé");
        assert_eq!(whole_characters(cut, 0, 2), "a\u{fffd}");
        assert_eq!(whole_characters(vec![0xff, b'a'], 0, 9), "\u{fffd}a");
    }

    #[test]
    fn only_sandboxes_are_found() {
        let work_dir = tempfile::tempdir().unwrap();
        let run = "slaves/A/frameworks/F/executors/t/runs/c1";
        fs::create_dir_all(work_dir.path().join(run).join("deep")).unwrap();
        fs::create_dir_all(work_dir.path().join("meta")).unwrap();
        let full = work_dir.path().join(run).display().to_string();
        for (path, inside) in [
            (format!("{full}/deep/x"), "deep/x"),
            (format!("/{run}"), ""),
            (
                "/frameworks/F/executors/t/runs/c1/a/b/c/d".to_owned(),
                "a/b/c/d",
            ),
        ] {
            let (sandbox, rest) = find(work_dir.path(), &path).unwrap();
            assert_eq!(sandbox, work_dir.path().join(run), "{path}");
            assert_eq!(rest, inside, "{path}");
        }
        for bad in [
            "/etc/passwd",
            "/meta/agent.json",
            "/slaves/A/frameworks/F/executors/t/runs/..",
            "/slaves/../frameworks/F/executors/t/runs/c1",
            "/frameworks/F/executors/../executors/t/runs/c1",
            "",
        ] {
            assert!(find(work_dir.path(), bad).is_err(), "{bad} was found");
        }
    }
}
