//! The fetcher: brings the files that a task names into its sandbox before it starts.
//!
//! - [`place`]: where a file goes. [`local`]: files of this machine. [`download`]: `http(s)`.
//! - [`cache`]: one download for many tasks. [`extract`]: archives.
//!
//! A failed fetch fails the launch with the URI and the reason; nothing half-fetched is left.

mod cache;
mod download;
mod extract;
mod local;
mod place;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::containerizer::act_as;
use crate::core::launch::Uri;
use cache::Cache;
use download::Downloader;
use extract::{Kind, Limits};
use place::{Partial, base_name, output_name};

/// User, group and groups to fetch as.
pub(crate) type Switch = (u32, u32, Vec<u32>);

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetcherSettings {
    /// The largest file, and the most that one archive may unpack to, in bytes.
    pub size_max: u64,
    /// The size of the cache in bytes, beside files in use (Mesos' `--fetcher_cache_size`).
    pub cache_size: u64,
    /// How long a server may say nothing (Mesos' `--fetcher_stall_timeout`).
    pub stall_timeout: Duration,
    /// A PEM file of certificate authorities to trust besides those of the machine.
    pub authorities: Option<PathBuf>,
}

impl Default for FetcherSettings {
    fn default() -> Self {
        Self {
            size_max: 10 << 30,
            cache_size: 2 << 30,
            stall_timeout: Duration::from_secs(60),
            authorities: None,
        }
    }
}

/// Brings files into sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    settings: FetcherSettings,
    cache: Arc<Cache>,
    /// Made when it is first needed.
    downloader: Arc<OnceLock<Result<Downloader, String>>>,
}

impl Fetcher {
    /// A fetcher with an empty cache below `work_dir`.
    ///
    /// # Errors
    /// Why the cache's folder cannot be used.
    pub(crate) fn new(settings: FetcherSettings, work_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            cache: Arc::new(Cache::new(&work_dir.join("fetch"), settings.cache_size)?),
            settings,
            downloader: Arc::default(),
        })
    }

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
        let target = sandbox.join(output_name(uri)?);
        let kind = if uri.extract {
            Kind::of(base_name(&uri.value))
        } else {
            None
        };
        if !uri.cache {
            let partial = Partial::create(&target, user)?;
            self.bring(uri, partial, uri.executable, user).await?;
            return match kind {
                None => Ok(()),
                Some(kind) => self.unpack(&target, kind, uri, sandbox, user).await,
            };
        }
        let key = (user.map(|(uid, ..)| *uid), uri.value.clone());
        let held = self.cache.hold(key);
        // Whoever is first brings it. Should its task be killed meanwhile, the next one does.
        held.size
            .get_or_try_init(|| async {
                let partial = Partial::create(&held.path, None)?;
                self.bring(uri, partial, false, user).await
            })
            .await?;
        match kind {
            Some(kind) => self.unpack(&held.path, kind, uri, sandbox, user).await,
            None => self.copy_cached(&held.path, &target, uri, user).await,
        }
    }

    /// Brings a file from where its URI says; its length.
    async fn bring(
        &self,
        uri: &Uri,
        partial: Partial,
        executable: bool,
        user: Option<&Switch>,
    ) -> Result<u64, String> {
        let FetcherSettings {
            size_max,
            stall_timeout,
            ..
        } = self.settings;
        if uri.value.starts_with("http://") || uri.value.starts_with("https://") {
            let mode = if executable { 0o755 } else { 0o644 };
            return self
                .downloader()?
                .download(&uri.value, partial, mode, size_max, stall_timeout)
                .await;
        }
        let source = source_path(&uri.value)?.to_owned();
        let user = user.cloned();
        on_a_thread(move || local::copy(&source, partial, executable, size_max, user.as_ref()))
            .await
    }

    fn downloader(&self) -> Result<&Downloader, String> {
        let authorities = self.settings.authorities.as_deref();
        let made = self.downloader.get_or_init(|| Downloader::new(authorities));
        made.as_ref().map_err(String::clone)
    }

    async fn unpack(
        &self,
        archive: &Path,
        kind: Kind,
        uri: &Uri,
        sandbox: &Path,
        user: Option<&Switch>,
    ) -> Result<(), String> {
        // Opened as the agent, who may read the cache; unpacked as the user.
        let archive = File::open(archive).map_err(|error| error.to_string())?;
        let name = base_name(&uri.value).to_owned();
        let (sandbox, user) = (sandbox.to_owned(), user.cloned());
        let limits = Limits::of(self.settings.size_max);
        on_a_thread(move || {
            become_user(user.as_ref())?;
            extract::extract(archive, kind, &name, &sandbox, limits)
        })
        .await
    }

    async fn copy_cached(
        &self,
        cached: &Path,
        target: &Path,
        uri: &Uri,
        user: Option<&Switch>,
    ) -> Result<(), String> {
        let file = File::open(cached).map_err(|error| error.to_string())?;
        let partial = Partial::create(target, user)?;
        let (mode, size_max) = (
            if uri.executable { 0o755 } else { 0o644 },
            self.settings.size_max,
        );
        on_a_thread(move || local::copy_open(file, partial, mode, size_max).map(drop)).await
    }
}

/// The path that a URI without `http` names.
fn source_path(uri: &str) -> Result<&Path, String> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    if path.starts_with('/') {
        return Ok(Path::new(path));
    }
    Err(match path.split_once("://") {
        Some((scheme, _)) => format!(
            "the scheme {scheme} is not supported; use https://, http://, file:// or an absolute \
             path"
        ),
        None => "it is neither an absolute path nor a URI with a scheme".to_owned(),
    })
}

/// Runs `work` on a thread of its own, which may take on a task's user for good.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("fetch".to_owned())
        .spawn(move || {
            let _ = done.send(work());
        })
        .map_err(|error| format!("no thread can be started: {error}"))?;
    result
        .await
        .unwrap_or_else(|_| Err("it stopped half way: the file cannot be understood".to_owned()))
}

/// Makes the calling thread touch files as the task's user, for good: what the user may not read,
/// its tasks may not have fetched.
fn become_user(user: Option<&Switch>) -> Result<(), String> {
    let Some((uid, gid, groups)) = user else {
        return Ok(());
    };
    act_as(*uid, *gid, groups)
        .map_err(|errno| format!("cannot act as the task's user: {}", errno.desc()))
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
    format!("it has {size} bytes or more, at most {max} are fetched; raise --fetch-size-max")
}
