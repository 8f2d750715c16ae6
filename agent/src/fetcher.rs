//! The fetcher: brings the files that a task names into its sandbox before it starts.
//!
//! Plain paths and `file://` are copied with their mode, `http://` is streamed. Archives are
//! stored as they are; a task that asks to extract one is refused, as that is not built yet.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::containerizer::act_as;
use crate::core::launch::Uri;

/// How long a server may say nothing (Mesos: 1 min).
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;

const ARCHIVES: [&str; 9] = [
    ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip", ".gz",
];

/// User, group and groups to fetch as.
pub(crate) type Switch = (u32, u32, Vec<u32>);

/// Brings files into sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    /// The largest file, in bytes.
    pub(crate) size_max: u64,
}

impl Fetcher {
    /// Brings all of `uris` into `sandbox`, owned by `user`.
    ///
    /// # Errors
    /// A sentence with the URI and the reason.
    pub(crate) async fn fetch(
        &self,
        uris: &[Uri],
        sandbox: &Path,
        user: Option<&Switch>,
    ) -> Result<(), String> {
        for uri in uris {
            self.fetch_one(uri, sandbox, user)
                .await
                .map_err(|reason| format!("cannot fetch {}: {reason}", uri.value))?;
        }
        Ok(())
    }

    async fn fetch_one(
        &self,
        uri: &Uri,
        sandbox: &Path,
        user: Option<&Switch>,
    ) -> Result<(), String> {
        let name = output_name(uri)?;
        let target = sandbox.join(&name);
        let executable = uri.executable;
        let size_max = self.size_max;
        if uri.value.starts_with("http://") {
            let partial = Partial::create(&target, user)?;
            return self.download(&uri.value, partial, executable).await;
        }
        let source = match uri.value.strip_prefix("file://") {
            Some(path) => path,
            None => uri.value.as_str(),
        };
        if !source.starts_with('/') {
            let scheme = source.split_once("://").map(|(scheme, _)| scheme);
            return Err(match scheme {
                Some(scheme) => format!(
                    "the scheme {scheme} is not supported; use http://, file:// or an absolute path"
                ),
                None => "it is neither an absolute path nor a URI with a scheme".to_owned(),
            });
        }
        let (source, user) = (PathBuf::from(source), user.cloned());
        // A thread of its own, because it takes on the task's user for good: what the user may
        // not read, its tasks may not have fetched.
        let (done, copied) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || {
                let _ = done.send(copy(&source, &target, executable, size_max, user.as_ref()));
            })
            .map_err(|error| format!("no thread can be started: {error}"))?;
        copied
            .await
            .unwrap_or_else(|_| Err("the copying stopped half way".to_owned()))
    }

    async fn download(
        &self,
        uri: &str,
        mut partial: Partial,
        executable: bool,
    ) -> Result<(), String> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let mut location = uri.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let target = location
                .parse()
                .map_err(|error| format!("{location:?} is no URI: {error}"))?;
            let response = tokio::time::timeout(STALL_TIMEOUT, client.get(target))
                .await
                .map_err(|_| format!("the server said nothing for {STALL_TIMEOUT:?}"))?
                .map_err(|error| chain(&error))?;
            let status = response.status();
            if status.is_redirection() {
                let to = response.headers().get(http::header::LOCATION);
                let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
                if !to.starts_with("http://") {
                    return Err(format!(
                        "the server answered {status} to {to:?}, and only http:// is followed"
                    ));
                }
                to.clone_into(&mut location);
                continue;
            }
            if !status.is_success() {
                return Err(format!("the server answered {status}"));
            }
            let mut body = response.into_body();
            let mut received = 0_u64;
            while let Some(frame) = tokio::time::timeout(STALL_TIMEOUT, body.frame())
                .await
                .map_err(|_| {
                    format!("the server said nothing for {STALL_TIMEOUT:?} after {received} bytes")
                })?
            {
                let frame =
                    frame.map_err(|error| format!("{} after {received} bytes", chain(&error)))?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                received = received.saturating_add(data.len() as u64);
                if received > self.size_max {
                    return Err(too_large(received, self.size_max));
                }
                // Straight to the page cache: short, and this is no task of the main loop.
                partial
                    .file
                    .write_all(&data)
                    .map_err(|error| format!("{} after {received} bytes", disk(&error)))?;
            }
            return partial.finish(if executable { 0o755 } else { 0o644 });
        }
        Err(format!(
            "the server redirected more than {REDIRECTS_MAX} times"
        ))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn disk(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{error}; free space on the agent's disk")
        }
        _ => error.to_string(),
    }
}

fn too_large(size: u64, max: u64) -> String {
    format!("it has {size} bytes or more, at most {max} are fetched; raise fetch_size_max")
}

/// Where a file goes, relative to the sandbox.
fn output_name(uri: &Uri) -> Result<PathBuf, String> {
    let path = uri.value.split(['?', '#']).next().unwrap_or_default();
    let last = path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let name = uri.output_file.as_deref().unwrap_or(last);
    if uri.extract
        && ARCHIVES
            .iter()
            .any(|ending| last.to_ascii_lowercase().ends_with(ending))
    {
        return Err(
            "extracting archives is not supported yet; set extract to false and unpack it in the \
             command"
                .to_owned(),
        );
    }
    let relative = Path::new(name);
    let inside = relative
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if name.is_empty() || !inside || name.contains('\0') {
        return Err(format!(
            "its output file {name:?} is no path inside the sandbox; give a relative one \
             without `..`"
        ));
    }
    if matches!(name, "stdout" | "stderr") {
        return Err(format!(
            "its output file {name:?} is the task's own output; rename it"
        ));
    }
    Ok(relative.to_owned())
}

/// A file that disappears unless it is finished.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    finished: bool,
}

impl Partial {
    fn create(path: &Path, user: Option<&Switch>) -> Result<Self, String> {
        let own = |path: &Path| match user {
            Some((uid, gid, _)) => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid)),
            None => Ok(()),
        };
        let made = (|| {
            if let Some(folder) = path.parent()
                && !folder.exists()
            {
                fs::create_dir_all(folder)?;
                own(folder)?;
            }
            // Nothing runs in this sandbox yet, so no link can be planted in the way.
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            own(path)?;
            Ok(file)
        })();
        Ok(Self {
            file: made.map_err(|error: io::Error| disk(&error))?,
            path: path.to_owned(),
            finished: false,
        })
    }

    fn finish(mut self, mode: u32) -> Result<(), String> {
        self.file
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(|error| disk(&error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Copies a file of this machine, as the task's user.
fn copy(
    source: &Path,
    target: &Path,
    executable: bool,
    size_max: u64,
    user: Option<&Switch>,
) -> Result<(), String> {
    let mut partial = Partial::create(target, user)?;
    if let Some((uid, gid, groups)) = user {
        act_as(*uid, *gid, groups)
            .map_err(|errno| format!("cannot act as the task's user: {}", errno.desc()))?;
    }
    // Not blocking: opening a pipe by mistake must not hold a fetch for ever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(source)
        .map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file; name a file, or an archive of the folder".to_owned());
    }
    if metadata.len() > size_max {
        return Err(too_large(metadata.len(), size_max));
    }
    let copied = io::copy(&mut (&mut file).take(size_max), &mut partial.file)
        .map_err(|error| disk(&error))?;
    if copied < metadata.len() {
        return Err(format!(
            "only {copied} of {} bytes could be read",
            metadata.len()
        ));
    }
    let mode = metadata.mode() & 0o777 | if executable { 0o111 } else { 0 };
    partial.finish(mode | 0o400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(value: &str) -> Uri {
        Uri {
            value: value.to_owned(),
            executable: false,
            extract: false,
            output_file: None,
        }
    }

    #[test]
    fn an_output_file_cannot_leave_the_sandbox() {
        for output in ["../x", "/etc/x", "a/../../x", "", ".", "stdout"] {
            let uri = Uri {
                output_file: Some(output.to_owned()),
                ..uri("/data/x")
            };
            let error = output_name(&uri).unwrap_err();
            assert!(error.contains(&format!("{output:?}")), "{error}");
        }
        let named = output_name(&uri("http://h/a/b.txt?x=/../y")).unwrap();
        assert_eq!(named, Path::new("b.txt"));
    }

    #[test]
    fn only_an_explicit_wish_to_extract_is_refused() {
        let mut archive = uri("http://h/app.tar.gz");
        assert!(output_name(&archive).is_ok());
        archive.extract = true;
        assert!(
            output_name(&archive)
                .unwrap_err()
                .contains("not supported yet")
        );
        assert!(
            output_name(&Uri {
                extract: true,
                ..uri("/a/plain.txt")
            })
            .is_ok()
        );
    }

    #[test]
    fn a_copy_keeps_its_mode_and_gains_the_executable_bit_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("s"), folder.path().join("t"));
        fs::write(&source, "x").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).unwrap();
        let mode = |executable| {
            copy(&source, &target, executable, 10, None).unwrap();
            fs::metadata(&target).unwrap().mode() & 0o777
        };
        assert_eq!(mode(false), 0o640);
        assert_eq!(mode(true), 0o751);
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("s"), folder.path().join("t"));
        fs::write(&source, "12345").unwrap();
        let error = copy(&source, &target, false, 4, None).unwrap_err();
        assert!(error.contains("5 bytes") && error.contains('4'), "{error}");
        let error = copy(folder.path(), &target, false, 4, None).unwrap_err();
        assert!(error.contains("no regular file"), "{error}");
        assert!(!target.exists());
    }
}
