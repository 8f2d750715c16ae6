//! A master's folder: its lock, which member of which cluster it is, the secret, and the log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use allotment_raft::store::{DiskFolder, First, Recovered, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::earlier;
use crate::replica::entry;

const IDENTITY_FILE: &str = "member.json";
const SECRET_FILE: &str = "secret";
const LOG_FOLDER: &str = "raft";
/// A secret that can be guessed is none.
const SECRET_LEN_MIN: usize = 16;

/// Why a master's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folder cannot be made or opened.
    #[error("cannot use the data folder {}; {}", folder.display(), advice(source))]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error(
        "another master is running on the data folder {}; stop it or choose another folder",
        folder.display()
    )]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// The file that says who this master is makes no sense.
    #[error("{} is damaged: {what}; restore it or move the whole folder away", file.display())]
    Identity {
        /// Which file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// The log cannot be read or written.
    #[error("the registry in {} cannot be used", folder.display())]
    Store {
        /// The log's folder.
        folder: PathBuf,
        /// Which file, where, and what to do.
        #[source]
        source: StoreError,
    },
    /// A backup or a registry of an earlier version cannot be read.
    #[error("{} cannot be read: {what}", file.display())]
    Earlier {
        /// Which file.
        file: PathBuf,
        /// What was found, and what to do.
        what: String,
    },
    /// What the log says makes no sense.
    #[error("the registry cannot be used")]
    Member {
        /// Why, and what to do.
        #[source]
        source: allotment_raft::MemberError,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that writes the registry")]
    Thread {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is a registry already.
    #[error(
        "{} holds a registry already; move it away or choose another folder",
        folder.display()
    )]
    Occupied {
        /// Which folder.
        folder: PathBuf,
    },
    /// The secret is no secret.
    #[error("the secret has {len} bytes; give at least {SECRET_LEN_MIN} printable ones")]
    Secret {
        /// How many bytes.
        len: usize,
    },
}

/// What to do when a folder cannot be used.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "free space on its disk and start the master again: nothing is lost"
        }
        _ => "create it or choose another",
    }
}

/// Which member of which cluster a folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) cluster_id: String,
    /// In hexadecimal, as commands show it.
    id: String,
    /// Where to find the others before the log tells, by number.
    pub(super) members: BTreeMap<String, String>,
}

impl Identity {
    pub(super) fn new(
        cluster_id: &str,
        id: u64,
        members: impl IntoIterator<Item = (u64, String)>,
    ) -> Self {
        let members = members.into_iter();
        Self {
            cluster_id: cluster_id.to_owned(),
            id: format!("{id:x}"),
            members: members.map(|(id, at)| (format!("{id:x}"), at)).collect(),
        }
    }

    pub(super) fn id(&self) -> u64 {
        u64::from_str_radix(&self.id, 16).unwrap_or_default()
    }

    /// The others, by number.
    pub(super) fn others(&self) -> BTreeMap<u64, String> {
        let all = self.members.iter().filter_map(|(id, address)| {
            let id = u64::from_str_radix(id, 16).ok()?;
            (id != self.id()).then(|| (id, address.clone()))
        });
        all.collect()
    }
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) identity: Identity,
    pub(super) store: Store,
    pub(super) recovered: Recovered,
}

/// A folder that nobody else uses as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn lock(path: &Path) -> Result<Self, RegistryError> {
        let refuse = |source| RegistryError::Folder {
            folder: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(refuse)?;
        let file = File::create(path.join("master.lock")).map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: file,
            }),
            Err(TryLockError::WouldBlock) => Err(RegistryError::InUse {
                folder: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(refuse(source)),
        }
    }

    fn log_folder(&self) -> PathBuf {
        self.path.join(LOG_FOLDER)
    }

    fn open_log(&self) -> Result<Box<DiskFolder>, RegistryError> {
        let folder = self.log_folder();
        DiskFolder::open(&folder)
            .map(Box::new)
            .map_err(|source| RegistryError::Folder { folder, source })
    }

    fn refuse_store(&self) -> impl FnOnce(StoreError) -> RegistryError + use<> {
        let folder = self.log_folder();
        move |source| RegistryError::Store { folder, source }
    }

    /// What an earlier run left here; `None` in a new folder.
    pub(super) fn open(&self) -> Result<Option<Home>, RegistryError> {
        if !self.log_folder().exists() {
            return Ok(None);
        }
        let log = self.open_log()?;
        let Some((store, recovered)) = Store::open(log).map_err(self.refuse_store())? else {
            return Ok(None);
        };
        Ok(Some(Home {
            identity: self.identity()?,
            store,
            recovered,
        }))
    }

    fn identity(&self) -> Result<Identity, RegistryError> {
        let file = self.path.join(IDENTITY_FILE);
        let damaged = |what: String| RegistryError::Identity {
            file: file.clone(),
            what,
        };
        let text = std::fs::read_to_string(&file).map_err(|e| damaged(e.to_string()))?;
        let identity: Identity = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if identity.id() == 0 {
            return Err(damaged(format!("{:?} is no member's number", identity.id)));
        }
        Ok(identity)
    }

    /// Becomes the first member of a new cluster, with the registry that an earlier version left.
    pub(super) fn begin_alone(&self, address: &str) -> Result<Home, RegistryError> {
        let old = earlier::find(&self.path)?;
        let registry = match &old {
            Some(file) => earlier::read(file)?,
            None => crate::core::registry::Registry::default(),
        };
        let state = entry::encode_registry(registry, allotment_types::Timestamp::ZERO);
        let home = self.begin_with(address, state)?;
        if let Some(file) = old {
            earlier::set_aside(&file)?;
        }
        Ok(home)
    }

    /// Becomes the first member of a new cluster that begins with this encoded registry.
    pub(super) fn begin_with(
        &self,
        address: &str,
        state: bytes::Bytes,
    ) -> Result<Home, RegistryError> {
        let cluster_id = uuid::Uuid::new_v4().to_string();
        let id = new_id();
        let identity = Identity::new(&cluster_id, id, [(id, address.to_owned())]);
        self.begin(identity, Some(First::alone(id, address, state)))
    }

    /// Becomes a member of a cluster that is there already.
    pub(super) fn begin_joined(&self, identity: Identity) -> Result<Home, RegistryError> {
        self.begin(identity, None)
    }

    fn begin(&self, identity: Identity, first: Option<First>) -> Result<Home, RegistryError> {
        let text = serde_json::to_string_pretty(&identity).unwrap_or_default();
        // Before the log: a log without an identity could not be used.
        self.write(IDENTITY_FILE, &text)?;
        let log = self.open_log()?;
        let (store, recovered) = Store::create(log, first).map_err(self.refuse_store())?;
        Ok(Home {
            identity,
            store,
            recovered,
        })
    }

    /// Keeps what is here under another name, and is a new folder again.
    pub(super) fn set_aside(&self, home: Home) -> Result<(), RegistryError> {
        let aside = self
            .path
            .join(format!("{LOG_FOLDER}.removed-{}", home.identity.id));
        drop(home);
        std::fs::rename(self.log_folder(), &aside).map_err(|source| RegistryError::Folder {
            folder: aside.clone(),
            source,
        })
    }

    /// The secret: the one given, else the one kept here.
    pub(super) fn secret(&self, given: Option<&str>) -> Result<Option<String>, RegistryError> {
        let file = self.path.join(SECRET_FILE);
        let kept = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                let folder = file;
                return Err(RegistryError::Folder { folder, source });
            }
        };
        let Some(secret) = given.map(ToOwned::to_owned).or_else(|| kept.clone()) else {
            return Ok(None);
        };
        let secret = secret.trim().to_owned();
        if secret.len() < SECRET_LEN_MIN || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            let len = secret.len();
            return Err(RegistryError::Secret { len });
        }
        if kept.is_none_or(|kept| kept.trim() != secret) {
            self.write(SECRET_FILE, &secret)?;
        }
        Ok(Some(secret))
    }

    /// Makes a secret, unless there is one, so that others can join.
    pub(super) fn make_secret(&self, given: Option<&str>) -> Result<String, RegistryError> {
        if let Some(secret) = self.secret(given)? {
            return Ok(secret);
        }
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let secret = format!("{}{}", random(), random());
        self.write(SECRET_FILE, &secret)?;
        Ok(secret)
    }

    /// Writes a small file that only its owner may read, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), RegistryError> {
        let (file, unfinished) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut opened| {
                opened.write_all(text.as_bytes())?;
                opened.write_all(b"\n")?;
                opened.sync_all()
            })
            .and_then(|()| std::fs::rename(&unfinished, &file))
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(|source| RegistryError::Folder {
            folder: file,
            source,
        })
    }
}

/// A member's number: random, so that a removed one is never mistaken for a new one.
pub(super) fn new_id() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    (high ^ low).max(1)
}

/// Makes a registry in `data_dir` from the bytes of a backup: a new cluster with one master, which
/// serves on `address` (it may serve elsewhere later) and which others may join. Blocks.
///
/// # Errors
/// [`RegistryError`] when the folder is in use or holds a registry, or the backup is damaged.
pub fn restore(data_dir: &Path, backup: Vec<u8>, address: &str) -> Result<(), RegistryError> {
    let folder = Folder::lock(data_dir)?;
    let occupied = || RegistryError::Occupied {
        folder: data_dir.to_owned(),
    };
    if folder.open()?.is_some() || earlier::find(data_dir)?.is_some() {
        return Err(occupied());
    }
    let damaged = |what| RegistryError::Earlier {
        file: PathBuf::from("the backup"),
        what,
    };
    let state = First::application_of(backup).map_err(damaged)?;
    // What cannot be read now could not be served later.
    entry::decode_registry(state.clone()).map_err(|error| damaged(error.to_string()))?;
    folder.begin_with(address, state)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_remembers_who_it_is_and_its_secret() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        assert!(folder.open().unwrap().is_none());
        assert_eq!(folder.secret(None).unwrap(), None);
        let made = folder.begin_alone("a:1").unwrap().identity;
        let secret = folder.make_secret(None).unwrap();
        assert!(matches!(
            Folder::lock(dir.path()),
            Err(RegistryError::InUse { .. })
        ));
        drop(folder);
        let folder = Folder::lock(dir.path()).unwrap();
        assert_eq!(folder.open().unwrap().unwrap().identity, made);
        assert_eq!(folder.secret(None).unwrap(), Some(secret));
        assert!(matches!(
            folder.secret(Some("short")),
            Err(RegistryError::Secret { len: 5 })
        ));
    }
}
