//! Output comes home: from the sandboxes of agents into the files that jobs name.
//!
//! Empty files, the common case, are made many at a time without asking any agent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use allotment_framework_sdk::sandbox::{Sandbox, SandboxError, Window};
use allotment_types::{FrameworkId, TaskId};
use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::core::{Transfer, TransferFile, TransferProblem};

/// How many runs are brought home at a time.
const PARALLEL: usize = 16;
/// How often an agent that does not answer is asked again, with growing pauses of 0.1 s to 12.8 s:
/// about half a minute, what a restarting agent needs.
const ATTEMPTS: u32 = 9;

type Done = (TaskId, Result<(), TransferProblem>);

/// The runs on their way home.
#[derive(Debug)]
pub(crate) struct Transfers {
    framework: Arc<Mutex<Option<FrameworkId>>>,
    slots: Arc<Semaphore>,
    agents: Arc<Mutex<BTreeMap<String, Sandbox>>>,
    tasks: JoinSet<()>,
    done: mpsc::UnboundedReceiver<Done>,
    // Bounded by the number of runs: each sends once.
    tell: mpsc::UnboundedSender<Done>,
}

impl Transfers {
    pub(crate) fn new(framework: Arc<Mutex<Option<FrameworkId>>>) -> Self {
        let (tell, done) = mpsc::unbounded_channel();
        Self {
            framework,
            slots: Arc::new(Semaphore::new(PARALLEL)),
            agents: Arc::default(),
            tasks: JoinSet::new(),
            done,
            tell,
        }
    }

    /// Waits for runs that are home.
    pub(crate) async fn finished(&mut self, into: &mut Vec<Done>) -> usize {
        self.done.recv_many(into, 1024).await
    }

    /// Takes those that are home by now.
    pub(crate) fn finished_now(&mut self, into: &mut Vec<Done>) {
        while let Ok(done) = self.done.try_recv() {
            into.push(done);
        }
    }

    /// Begins to bring runs home.
    pub(crate) fn start(&mut self, orders: Vec<Transfer>) {
        while self.tasks.try_join_next().is_some() {}
        let empty = |order: &Transfer| {
            order.rest.is_none() && order.files.iter().all(|file| file.size == Some(0))
        };
        let (local, remote): (Vec<_>, Vec<_>) = orders.into_iter().partition(empty);
        if !local.is_empty() {
            let tell = self.tell.clone();
            self.tasks.spawn_blocking(move || {
                for order in local {
                    let made = order.files.iter().try_for_each(make_empty);
                    let _gone = tell.send((order.task, made));
                }
            });
        }
        let framework = self.framework.lock().ok().and_then(|id| id.clone());
        for order in remote {
            let (tell, slots) = (self.tell.clone(), Arc::clone(&self.slots));
            let (agents, framework) = (Arc::clone(&self.agents), framework.clone());
            self.tasks.spawn(async move {
                let Ok(_slot) = slots.acquire().await else {
                    return;
                };
                let outcome = bring(&order, framework.as_ref(), &agents).await;
                let _gone = tell.send((order.task, outcome));
            });
        }
    }

    /// Lets go; agents say again what is not acknowledged.
    pub(crate) fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

fn make_empty(file: &TransferFile) -> Result<(), TransferProblem> {
    open(file).map(|_| ())
}

/// Opens the target of a file, empty unless it is appended to.
fn open(file: &TransferFile) -> Result<std::fs::File, TransferProblem> {
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(file.append)
        .truncate(!file.append)
        .open(&file.to);
    opened.map_err(|error| unwritable(file, &error))
}

fn unwritable(file: &TransferFile, error: &std::io::Error) -> TransferProblem {
    // A folder that is gone is the telling fact, rather than the file in it.
    let folder = Path::new(&file.to).parent();
    let path = match folder {
        Some(folder) if error.kind() == std::io::ErrorKind::NotFound && !folder.is_dir() => {
            folder.display().to_string()
        }
        _ => file.to.clone(),
    };
    TransferProblem::Write {
        path,
        error: error.to_string(),
        errno: error
            .raw_os_error()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        standard: file.standard,
    }
}

async fn bring(
    order: &Transfer,
    framework: Option<&FrameworkId>,
    agents: &Mutex<BTreeMap<String, Sandbox>>,
) -> Result<(), TransferProblem> {
    let fetch = |name: &str, error: String| TransferProblem::Fetch {
        name: name.to_owned(),
        error,
    };
    let framework =
        framework.ok_or_else(|| fetch("stdout", "no master has given an id yet".to_owned()))?;
    let mut files = order.files.clone();
    if let Some((folder, known)) = &order.rest {
        let mut pause = Duration::from_millis(100);
        let mut attempt = 1;
        let entries = loop {
            let listed = match sandbox(&order.agent_url, agents).await {
                Ok(sandbox) => sandbox.list(framework, &order.task, "").await,
                Err(error) => Err(error),
            };
            match listed {
                Ok(entries) => break entries,
                Err(SandboxError::Unavailable(_)) if attempt < ATTEMPTS => {
                    forget(&order.agent_url, agents);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(error) => return Err(fetch("the sandbox's list", error.to_string())),
            }
        };
        for entry in entries {
            let plain = !entry.name.contains('/') && entry.name != "." && entry.name != "..";
            if !entry.directory && plain && !known.contains(&entry.name) {
                files.push(TransferFile {
                    to: format!("{}/{}", folder.trim_end_matches('/'), entry.name),
                    name: entry.name,
                    size: Some(entry.size_bytes),
                    append: false,
                    standard: false,
                });
            }
        }
    }
    for file in &files {
        let mut target = open(file)?;
        if file.size == Some(0) {
            continue;
        }
        let mut offset = 0u64;
        let mut pause = Duration::from_millis(100);
        let mut attempt = 1;
        loop {
            let window = Window {
                offset,
                length: None,
                follow: false,
            };
            let read = match sandbox(&order.agent_url, agents).await {
                Ok(sandbox) => {
                    copy(
                        &sandbox,
                        framework,
                        order,
                        file,
                        window,
                        &mut target,
                        &mut offset,
                    )
                    .await
                }
                Err(error) => Err(Trouble::Sandbox(error)),
            };
            match read {
                Ok(()) => break,
                Err(Trouble::Here(problem)) => return Err(problem),
                Err(Trouble::Sandbox(SandboxError::Unavailable(_))) if attempt < ATTEMPTS => {
                    forget(&order.agent_url, agents);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(Trouble::Sandbox(error)) => return Err(fetch(&file.name, error.to_string())),
            }
        }
    }
    Ok(())
}

enum Trouble {
    Here(TransferProblem),
    Sandbox(SandboxError),
}

async fn copy(
    sandbox: &Sandbox,
    framework: &FrameworkId,
    order: &Transfer,
    file: &TransferFile,
    window: Window,
    target: &mut std::fs::File,
    offset: &mut u64,
) -> Result<(), Trouble> {
    let mut pieces = sandbox
        .read(framework, &order.task, &file.name, window)
        .await
        .map_err(Trouble::Sandbox)?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Trouble::Sandbox)?;
        // Pieces are a few dozen KiB into the page cache: not worth a thread each.
        target
            .write_all(&piece)
            .map_err(|error| Trouble::Here(unwritable(file, &error)))?;
        *offset += piece.len() as u64;
    }
    Ok(())
}

async fn sandbox(
    url: &str,
    agents: &Mutex<BTreeMap<String, Sandbox>>,
) -> Result<Sandbox, SandboxError> {
    let known = agents
        .lock()
        .ok()
        .and_then(|agents| agents.get(url).cloned());
    if let Some(known) = known {
        return Ok(known);
    }
    let sandbox = Sandbox::connect(url).await?;
    if let Ok(mut agents) = agents.lock() {
        agents.insert(url.to_owned(), sandbox.clone());
    }
    Ok(sandbox)
}

fn forget(url: &str, agents: &Mutex<BTreeMap<String, Sandbox>>) {
    if let Ok(mut agents) = agents.lock() {
        agents.remove(url);
    }
}
