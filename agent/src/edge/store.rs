//! The work folder: its lock, the agent's id in it, and the sandboxes of earlier runs.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use allotment_types::{AgentId, ExecutorId, FrameworkId};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::core::{ContainerId, Input, Owner, SandboxId};

const LOCK: &str = "agent.lock";
const ID: &str = "meta/agent.json";

/// What an agent remembers across restarts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    agent_id: String,
    /// Of the machine, when the id was written.
    boot_id: String,
}

/// What a start writes at once: a lock, a journal and a checkpoint, which is larger only where
/// very many tasks run.
const START_ROOM: usize = 256 * 1024;

/// The work folder while this agent uses it.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: File,
}

/// Why a work folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("cannot use the work folder {}; check that it can be written to", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no room to begin in.
    #[error(
        "the disk of the work folder {} is full; free space on it and start the agent again: its \
         tasks go on meanwhile, and nothing is lost",
        folder.display()
    )]
    Full {
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another agent is there.
    #[error(
        "another agent is running on the work folder {}; stop it, or choose another folder",
        folder.display()
    )]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
}

impl Store {
    /// Makes and locks the folder.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Folder {
            folder: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder.join("meta/containers")).map_err(unusable)?;
        // What tasks were given in confidence is written down there.
        fs::set_permissions(folder.join("meta"), fs::Permissions::from_mode(0o700))
            .map_err(unusable)?;
        let folder = folder.canonicalize().map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(folder.join(LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => match probe_room(&folder) {
                Ok(()) => Ok(Self {
                    folder,
                    _lock: lock,
                }),
                Err(source) if is_full(&source) => Err(StoreError::Full { folder, source }),
                Err(source) => Err(unusable(source)),
            },
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { folder }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// The folder, absolute and without links.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of an earlier run, which the checkpoint holds as well.
    ///
    /// # Errors
    /// A sentence when what is there is no id.
    pub(super) fn agent_id(&self) -> Result<Option<AgentId>, String> {
        let file = self.folder.join(ID);
        let unreadable = |reason: String| format!("{} holds no agent id: {reason}", file.display());
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let remembered: Remembered =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let id = AgentId::parse(&remembered.agent_id).map_err(|e| unreadable(e.to_string()))?;
        Ok(Some(id))
    }

    /// Sandboxes of earlier runs, to be collected in their time.
    pub(super) fn sandboxes(&self) -> Vec<Input> {
        let mut found = Vec::new();
        for agent in names(&self.folder.join("slaves")) {
            let Ok(agent) = AgentId::parse(&agent) else {
                continue;
            };
            let frameworks = self.folder.join(format!("slaves/{agent}/frameworks"));
            for framework in names(&frameworks) {
                let executors = frameworks.join(&framework).join("executors");
                let Ok(framework) = FrameworkId::parse(&framework) else {
                    continue;
                };
                for executor in names(&executors) {
                    let runs = executors.join(&executor).join("runs");
                    let Ok(executor) = ExecutorId::parse(&executor) else {
                        continue;
                    };
                    for container in names(&runs) {
                        let modified = fs::symlink_metadata(runs.join(&container))
                            .and_then(|metadata| metadata.modified());
                        // `latest` is no uuid.
                        if let (Some(container), Ok(modified)) =
                            (ContainerId::parse(&container), modified)
                        {
                            found.push(Input::SandboxFound {
                                sandbox: SandboxId {
                                    framework: framework.clone(),
                                    owner: Owner::Executor(executor.clone()),
                                    container,
                                },
                                agent: agent.clone(),
                                modified: clock::of(modified),
                            });
                        }
                    }
                }
            }
        }
        found
    }
}

/// A start that finds no room must stop before it has begun anything: half a journal or half a
/// checkpoint would be taken for damage next time.
fn probe_room(folder: &Path) -> io::Result<()> {
    let probe = folder.join("meta/room");
    let written = fs::write(&probe, vec![0; START_ROOM]);
    let removed = match fs::remove_file(&probe) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    written.and(removed)
}

/// Whether it fails for want of room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A short name that no other folder of this machine has at the same time: that of the agent's
/// groups, `allotment/<name>` in each cgroup hierarchy.
pub fn cgroup_name(work_dir: &Path) -> String {
    let folder = work_dir
        .canonicalize()
        .unwrap_or_else(|_| work_dir.to_owned());
    let (device, inode) = fs::metadata(&folder).map_or((0, 0), |m| (m.dev(), m.ino()));
    let text = format!("{device}:{inode}:{}", folder.display());
    // FNV-1a: stable between builds, unlike the standard hasher.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Makes the agent's id durable.
pub(super) fn remember(folder: &Path, agent: &AgentId, boot_id: &str) -> io::Result<()> {
    let remembered = Remembered {
        agent_id: agent.to_string(),
        boot_id: boot_id.to_owned(),
    };
    let file = folder.join(ID);
    let fresh = file.with_extension("new");
    let mut written = File::create(&fresh)?;
    written.write_all(&serde_json::to_vec(&remembered)?)?;
    written.sync_all()?;
    fs::rename(&fresh, &file)?;
    File::open(folder.join("meta"))?.sync_all()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another agent is running"), "{error}");
        drop(first);
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn a_start_leaves_no_trace_of_its_look_for_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(!store.folder().join("meta/room").exists());
    }

    #[test]
    fn the_id_survives_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.agent_id().unwrap(), None);
        let id = AgentId::parse("m-S7").unwrap();
        remember(store.folder(), &id, "boot").unwrap();
        assert_eq!(store.agent_id().unwrap(), Some(id));
        fs::write(folder.path().join(ID), "{}").unwrap();
        let error = store.agent_id().unwrap_err();
        assert!(error.contains("agent.json"), "{error}");
    }
}
