//! The log and its snapshots on disk.
//!
//! `snapshot-N` holds the state up to entry N, `log-N` the hard state and the entries that follow.
//! Writes that wait together become one block and one sync (group commit). A new snapshot begins a
//! new pair; the old one goes once the new one is durable. So after a crash the pair with the
//! greatest number counts, and only the last block of its log may be torn.
//!
//! An own format rather than redb: 64 writes in flight cost one append and one sync here, and a
//! simulator can tear a file of blocks. `master/benches/registry.rs` compares the two.

mod block;
mod folder;

use std::io;

use allotment_proto::allot;
use prost::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};

use crate::member::Write;
use crate::wire;

pub use folder::{DiskFolder, Folder, MemoryFolder};

const SNAPSHOT_MAGIC: &[u8; 8] = b"aSnap\0\0\x01";
const SNAPSHOT_HEADER_LEN: usize = 12;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("cannot {what} the log file {file}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes are not what was written. Serving from them would be guessing.
    #[error(
        "{file} is damaged at byte {offset}: {what}; with other masters running, move the folder \
         away and join again, else restore a backup"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: usize,
        /// What was found.
        what: String,
    },
}

fn io_error<'a>(what: &'static str, file: &'a str) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        what,
        file: file.to_owned(),
        source,
    }
}

/// What a store remembers.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    folder: Box<dyn Folder>,
    /// The log in use.
    log: String,
    blocks: u64,
    buffer: Vec<u8>,
}

fn log_name(index: u64) -> String {
    format!("log-{index:016x}")
}

fn snapshot_name(index: u64) -> String {
    format!("snapshot-{index:016x}")
}

fn index_of(name: &str, kind: &str) -> Option<u64> {
    let digits = name.strip_prefix(kind)?;
    u64::from_str_radix(digits, 16).ok()
}

impl Store {
    /// Opens the store in `folder` and reads it; `None` when it holds none yet.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed then.
    pub fn open(mut folder: Box<dyn Folder>) -> Result<Option<(Self, Recovered)>, StoreError> {
        let names = folder.list().map_err(io_error("list", "folder"))?;
        let newest = names.iter().filter_map(|name| index_of(name, "log-")).max();
        let Some(base) = newest else {
            return Ok(None);
        };
        let name = log_name(base);
        let bytes = folder.read(&name).map_err(io_error("read", &name))?;
        let len = bytes.len();
        let (blocks, end) = block::scan(&bytes.into()).map_err(|damage| StoreError::Damaged {
            file: name.clone(),
            offset: damage.offset,
            what: damage.what,
        })?;
        let n_blocks = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
        let snapshot = match base {
            0 => None,
            base => Some(read_snapshot(&mut *folder, base)?),
        };
        let recovered = recover(&name, base, snapshot, blocks)?;
        if end < len {
            folder
                .truncate(&name, end)
                .map_err(io_error("cut the torn end of", &name))?;
        }
        let mut store = Self {
            folder,
            log: name,
            blocks: n_blocks,
            buffer: Vec::new(),
        };
        store.tidy(&names)?;
        Ok(Some((store, recovered)))
    }

    /// Begins a store. `first` is the state of a group's first member; a member that joins begins
    /// with none and is sent one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(
        folder: Box<dyn Folder>,
        first: Option<First>,
    ) -> Result<(Self, Recovered), StoreError> {
        let mut store = Self {
            folder,
            log: String::new(),
            blocks: 0,
            buffer: Vec::new(),
        };
        let mut recovered = Recovered::default();
        match first {
            Some(First(snapshot)) => {
                recovered.hard_state = HardState {
                    term: snapshot.get_metadata().term,
                    commit: snapshot.get_metadata().index,
                    ..HardState::default()
                };
                store.begin(Some(&snapshot), &recovered.hard_state, &[])?;
                recovered.snapshot = Some(snapshot);
            }
            None => store.begin(None, &recovered.hard_state, &[])?,
        }
        Ok((store, recovered))
    }

    /// Makes all of `writes` durable, in order; blocks until the disk says so. After an error the
    /// store must not be used any more: what is on the disk is known only to the next start.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut block = allot::RaftBlock::default();
        let mut any = false;
        for write in writes {
            if let Some(state) = &write.hard_state {
                block.hard_state = Some(wire::hard_state_to_wire(state));
                any = true;
            }
            any |= !write.entries.is_empty();
            block
                .entries
                .extend(write.entries.iter().map(wire::entry_to_wire));
            if let Some((snapshot, state, after)) = &write.snapshot {
                // The new log holds everything that the block would.
                block = allot::RaftBlock::default();
                any = false;
                self.begin(Some(snapshot), state, after)?;
            }
        }
        if !any {
            return Ok(());
        }
        self.buffer.clear();
        block::encode(&mut self.buffer, self.blocks, &block);
        let name = self.log.as_str();
        self.folder
            .append(name, &self.buffer)
            .map_err(io_error("append to", name))?;
        self.folder.sync(name).map_err(io_error("sync", name))?;
        self.blocks += 1;
        if self.buffer.capacity() > 4 * 1024 * 1024 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn begin(
        &mut self,
        snapshot: Option<&Snapshot>,
        state: &HardState,
        after: &[Entry],
    ) -> Result<(), StoreError> {
        let base = snapshot.map_or(0, |snapshot| snapshot.get_metadata().index);
        if let Some(snapshot) = snapshot {
            let name = snapshot_name(base);
            let bytes = encode_snapshot(snapshot);
            self.folder
                .create(&name, &bytes)
                .map_err(io_error("write", &name))?;
        }
        let block = allot::RaftBlock {
            hard_state: Some(wire::hard_state_to_wire(state)),
            entries: after.iter().map(wire::entry_to_wire).collect(),
            base_index: Some(base),
        };
        let mut bytes = Vec::new();
        block::encode(&mut bytes, 0, &block);
        let name = log_name(base);
        self.folder
            .create(&name, &bytes)
            .map_err(io_error("write", &name))?;
        self.log = name;
        self.blocks = 1;
        let names = self.folder.list().map_err(io_error("list", "folder"))?;
        self.tidy(&names)
    }

    /// Removes what the log in use does not need.
    fn tidy(&mut self, names: &[String]) -> Result<(), StoreError> {
        let base = index_of(&self.log, "log-").unwrap_or_default();
        for name in names {
            let index = index_of(name, "log-").or_else(|| index_of(name, "snapshot-"));
            let unfinished = name.ends_with(".new");
            if unfinished || index.is_some_and(|index| index != base) {
                self.folder.remove(name).map_err(io_error("remove", name))?;
            }
        }
        Ok(())
    }
}

/// The state that a group begins with.
#[derive(Debug, Clone)]
pub struct First(pub(crate) Snapshot);

fn recover(
    name: &str,
    base: u64,
    snapshot: Option<Snapshot>,
    blocks: Vec<allot::RaftBlock>,
) -> Result<Recovered, StoreError> {
    let damaged = |what: String| StoreError::Damaged {
        file: name.to_owned(),
        offset: 0,
        what,
    };
    if blocks.first().and_then(|block| block.base_index) != Some(base) {
        return Err(damaged("its first block does not belong to it".to_owned()));
    }
    let mut recovered = Recovered {
        snapshot,
        ..Recovered::default()
    };
    for block in blocks {
        if let Some(state) = block.hard_state {
            recovered.hard_state = wire::hard_state_from_wire(state);
        }
        for entry in block.entries {
            let entry = wire::entry_from_wire(entry).map_err(|e| damaged(e.to_string()))?;
            let place = entry.index.checked_sub(base + 1);
            let place = place.and_then(|place| usize::try_from(place).ok());
            match place {
                Some(place) if place <= recovered.entries.len() => {
                    recovered.entries.truncate(place);
                    recovered.entries.push(entry);
                }
                _ => {
                    let last = base + u64::try_from(recovered.entries.len()).unwrap_or(u64::MAX);
                    let index = entry.index;
                    return Err(damaged(format!("entry {index} follows entry {last}")));
                }
            }
        }
    }
    Ok(recovered)
}

/// A snapshot file's bytes: magic, checksum, message. Backups have the same format.
pub(crate) fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let body = wire::snapshot_to_wire(snapshot);
    let mut bytes = Vec::with_capacity(SNAPSHOT_HEADER_LEN + body.encoded_len());
    bytes.extend_from_slice(SNAPSHOT_MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    // A `Vec` grows as needed: the only error there is cannot happen.
    let _ = body.encode(&mut bytes);
    let sum = crc32fast::hash(bytes.get(SNAPSHOT_HEADER_LEN..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(8..SNAPSHOT_HEADER_LEN) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Reads what [`encode_snapshot`] made.
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn decode_snapshot(bytes: Vec<u8>) -> Result<Snapshot, String> {
    let bytes = bytes::Bytes::from(bytes);
    if bytes.get(..8) != Some(SNAPSHOT_MAGIC) {
        return Err("it does not begin as a snapshot does".to_owned());
    }
    let sum = bytes.get(8..SNAPSHOT_HEADER_LEN).unwrap_or_default();
    let body = bytes.get(SNAPSHOT_HEADER_LEN..).unwrap_or_default();
    if crc32fast::hash(body).to_le_bytes() != *sum {
        return Err("its checksum is wrong".to_owned());
    }
    let body = bytes.slice(SNAPSHOT_HEADER_LEN.min(bytes.len())..);
    let snapshot = allot::RaftSnapshot::decode(body).map_err(|e| e.to_string())?;
    wire::snapshot_from_wire(snapshot).map_err(|e| e.to_string())
}

fn read_snapshot(folder: &mut dyn Folder, base: u64) -> Result<Snapshot, StoreError> {
    let name = snapshot_name(base);
    let damaged = |what| StoreError::Damaged {
        file: name.clone(),
        offset: 0,
        what,
    };
    let bytes = folder.read(&name).map_err(io_error("read", &name))?;
    let snapshot = decode_snapshot(bytes).map_err(damaged)?;
    let index = snapshot.get_metadata().index;
    if index != base {
        return Err(damaged(format!("it holds the state up to entry {index}")));
    }
    Ok(snapshot)
}
