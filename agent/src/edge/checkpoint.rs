//! The checkpoint on disk: a log of records, each guarded by a checksum, begun anew from a
//! snapshot when it has grown.
//!
//! `meta/checkpoint/N.log` holds a header and records; the file of the highest number counts.
//! A fresh one is written beside it, made durable and only then given its name, so there is
//! always a whole one. What cannot be read in it is skipped, reported and set aside with the
//! file: damage costs the records that it hit and never the start of the agent.
//!
//! A record is written before anything that depends on it is done, which guards against the end
//! of this process at any instant. Those that must outlast a loss of power are forced to the disk
//! as well ([`crate::core::outlasts_power`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allotment_proto::allot::CheckpointRecord;
use nix::fcntl::{FallocateFlags, fallocate};
use prost::Message;

use crate::core::{Checkpoint, Record};

const FOLDER: &str = "meta/checkpoint";
const SET_ASIDE: &str = "meta/set-aside";
/// The first bytes of a file: what it is, and the version of its framing. Records are protobuf
/// and may gain fields and kinds under the same version.
const HEADER: &[u8; 12] = b"ALLOTCKP\x01\0\0\0";
/// The first bytes of a record, by which reading goes on behind damage.
const MARK: [u8; 4] = [0xa1, 0x10, 0x7e, 0xc0];
/// Mark, length of the body and checksum of both.
const FRAME_LEN: usize = 12;
/// So much may be appended before the log is begun anew, or as much as the snapshot took where
/// that is more. Room for it is reserved, so that a full disk does not stop a log halfway.
const GROWTH_MAX: u64 = 16 << 20;

/// The log while this agent appends to it.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    number: u64,
    file: Arc<File>,
    len: u64,
    snapshot_len: u64,
    /// Encoded records, kept for their memory.
    buffer: Vec<u8>,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) checkpoint: Checkpoint,
    /// What could not be read or understood, one sentence each.
    pub(super) damage: Vec<String>,
    /// The numbers of the files there.
    numbers: Vec<u64>,
}

/// Reads what an earlier run left below the work folder.
pub(super) fn read(work_dir: &Path) -> io::Result<Found> {
    let folder = work_dir.join(FOLDER);
    let mut found = Found::default();
    match fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name();
                let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
                found
                    .numbers
                    .extend(number.and_then(|n| n.parse::<u64>().ok()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    found.numbers.sort_unstable();
    // Usually one. A second is left by an end between naming a new one and removing the old one;
    // the older counts where nothing of the newer can be read.
    for number in found.numbers.iter().rev() {
        let file = path(&folder, *number);
        let (records, damage) = match fs::read(&file) {
            Ok(bytes) => decode(&bytes),
            Err(error) => (Vec::new(), vec![format!("it cannot be read: {error}")]),
        };
        let name = file.display();
        let damage = damage.iter().map(|what| format!("{name}: {what}"));
        found.damage.extend(damage);
        if records.is_empty() {
            continue;
        }
        for record in records {
            if let Err(what) = found.checkpoint.apply(record) {
                found.damage.push(format!("{name}: {what}"));
            }
        }
        break;
    }
    Ok(found)
}

impl Log {
    /// Begins a log with a snapshot and does away with what was `found`; that goes to
    /// `meta/set-aside` where it was damaged.
    pub(super) fn begin(work_dir: &Path, found: &Found, snapshot: &[Record]) -> io::Result<Self> {
        let folder = work_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let number = found.numbers.last().map_or(0, |last| last + 1);
        let log = Self::write(folder, number, snapshot, Vec::new())?;
        for number in &found.numbers {
            let old = path(&log.folder, *number);
            if found.damage.is_empty() {
                fs::remove_file(&old)?;
            } else {
                let aside = work_dir.join(SET_ASIDE);
                fs::create_dir_all(&aside)?;
                fs::rename(&old, aside.join(format!("checkpoint-{number}.log")))?;
            }
        }
        Ok(log)
    }

    fn write(
        folder: PathBuf,
        number: u64,
        snapshot: &[Record],
        mut buffer: Vec<u8>,
    ) -> io::Result<Self> {
        buffer.clear();
        buffer.extend_from_slice(HEADER);
        for record in snapshot {
            put(record, &mut buffer);
        }
        let name = path(&folder, number);
        let fresh = name.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&buffer)?;
        let len = buffer.len() as u64;
        let reserved = i64::try_from(len + GROWTH_MAX.max(len)).unwrap_or(i64::MAX);
        // Where a file system cannot reserve room, a full disk is met later.
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, reserved);
        file.sync_all()?;
        fs::rename(&fresh, &name)?;
        File::open(&folder)?.sync_all()?;
        Ok(Self {
            folder,
            number,
            file: Arc::new(file),
            len,
            snapshot_len: len,
            buffer,
        })
    }

    /// Appends records: all of them are there afterwards, or none.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        self.buffer.clear();
        for record in records {
            put(record, &mut self.buffer);
        }
        let written = self.file.write_all_at(&self.buffer, self.len);
        if let Err(error) = written {
            // What is half there must not stand before what comes next.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// The file, to force it to the disk.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Whether it is time for a snapshot.
    pub(super) fn is_long(&self) -> bool {
        self.len - self.snapshot_len > GROWTH_MAX.max(self.snapshot_len)
    }

    /// Goes on in a fresh file that begins with a snapshot.
    pub(super) fn restart(&mut self, snapshot: &[Record]) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let fresh = Self::write(self.folder.clone(), self.number + 1, snapshot, buffer)?;
        let old = std::mem::replace(self, fresh);
        fs::remove_file(path(&old.folder, old.number))
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.log"))
}

fn put(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_LEN]);
    // The kinds of a record encode as the message that holds them.
    record.encode(out);
    // Far below 4 GiB: it came in messages of at most 16 MiB.
    let len = u32::try_from(out.len() - start - FRAME_LEN).unwrap_or(u32::MAX);
    let len = len.to_le_bytes();
    let sum = checksum(&len, out.get(start + FRAME_LEN..).unwrap_or_default());
    let frame = MARK.into_iter().chain(len).chain(sum.to_le_bytes());
    for (place, byte) in out.iter_mut().skip(start).zip(frame) {
        *place = byte;
    }
}

fn checksum(len: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(len);
    sum.update(body);
    sum.finalize()
}

/// The records of a file and what is wrong with it.
fn decode(bytes: &[u8]) -> (Vec<Record>, Vec<String>) {
    let mut damage = Vec::new();
    let mut at = HEADER.len();
    if !bytes.starts_with(HEADER) {
        damage.push("it does not begin as a checkpoint does".to_owned());
        at = 0;
    }
    let mut records = Vec::new();
    let mut skipped: Option<(usize, usize)> = None;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((body, whole)) = frame(rest) else {
            let (_, n) = skipped.get_or_insert((at, 0));
            *n += 1;
            at += 1;
            continue;
        };
        damage.extend(skipped.take().map(|(from, n)| {
            format!("{n} bytes from byte {from} on are damaged; what they said is lost")
        }));
        match CheckpointRecord::decode(body) {
            Ok(CheckpointRecord {
                record: Some(record),
            }) => records.push(record),
            Ok(CheckpointRecord { record: None }) => damage.push(format!(
                "the record at byte {at} is of a kind that only a newer version knows"
            )),
            Err(error) => damage.push(format!(
                "the record at byte {at} is whole and cannot be decoded: {error}"
            )),
        }
        at += whole;
    }
    damage.extend(skipped.map(|(from, n)| {
        format!("its last {n} bytes, from byte {from} on, are half a record; it is left out")
    }));
    (records, damage)
}

/// The body of the record at the start of `bytes` and the length of the whole.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (mark, rest) = bytes.split_first_chunk::<4>()?;
    if *mark != MARK {
        return None;
    }
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*len) as usize)?;
    (checksum(len, body) == u32::from_le_bytes(*sum)).then_some((body, FRAME_LEN + body.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Record;
    use allotment_proto::{allot, mesos};

    fn over(task: &str) -> Record {
        Record::Over(allot::TaskOver {
            framework_id: mesos::FrameworkId {
                value: "f".to_owned(),
            },
            task_id: mesos::TaskId {
                value: task.to_owned(),
            },
        })
    }

    fn log_of(records: &[Record]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for record in records {
            put(record, &mut bytes);
        }
        bytes
    }

    #[test]
    fn what_is_appended_is_read_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::begin(folder.path(), &Found::default(), &[over("a")]).unwrap();
        log.append(&[over("b"), over("c")]).unwrap();
        let bytes = fs::read(path(&folder.path().join(FOLDER), 0)).unwrap();
        assert_eq!(
            decode(&bytes),
            (vec![over("a"), over("b"), over("c")], Vec::new())
        );
        log.restart(&[over("d")]).unwrap();
        log.append(&[over("e")]).unwrap();
        let found = read(folder.path()).unwrap();
        assert_eq!((found.numbers, found.damage), (vec![1], Vec::new()));
        let bytes = fs::read(path(&folder.path().join(FOLDER), 1)).unwrap();
        assert_eq!(decode(&bytes).0, [over("d"), over("e")]);
    }

    #[test]
    fn damage_costs_the_record_that_it_hit_wherever_it_is() {
        let records = [over("first"), over("second"), over("third")];
        let whole = log_of(&records);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let (read, damage) = decode(&bytes);
            assert!(!damage.is_empty(), "byte {at}");
            assert!(read.len() >= 2, "byte {at}: {read:?}");
            assert!(read.iter().all(|record| records.contains(record)));
        }
    }

    #[test]
    fn a_log_cut_short_anywhere_keeps_every_record_before_the_cut() {
        let records = [over("first"), over("second"), over("third")];
        let whole = log_of(&records);
        let ends: Vec<usize> = (1..=3).map(|n| log_of(&records[..n]).len()).collect();
        for len in 0..=whole.len() {
            let (read, damage) = decode(&whole[..len]);
            let n = ends.iter().filter(|end| **end <= len).count();
            assert_eq!(read, records[..n], "cut at {len}");
            let clean = len == HEADER.len() || ends.contains(&len);
            assert_eq!(damage.is_empty(), clean, "cut at {len}: {damage:?}");
        }
    }

    #[test]
    fn a_damaged_log_is_set_aside_and_another_begun() {
        let folder = tempfile::tempdir().unwrap();
        Log::begin(folder.path(), &Found::default(), &[over("a")]).unwrap();
        let file = path(&folder.path().join(FOLDER), 0);
        fs::write(&file, "nonsense").unwrap();
        let found = read(folder.path()).unwrap();
        assert_eq!(found.damage.len(), 2, "{:?}", found.damage);
        Log::begin(folder.path(), &found, &[over("b")]).unwrap();
        let aside = folder.path().join(SET_ASIDE).join("checkpoint-0.log");
        assert_eq!(fs::read(aside).unwrap(), b"nonsense");
        let found = read(folder.path()).unwrap();
        assert_eq!((found.numbers, found.damage), (vec![1], Vec::new()));
    }

    #[test]
    fn an_end_between_two_logs_leaves_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        Log::begin(folder.path(), &Found::default(), &[over("a")]).unwrap();
        let logs = folder.path().join(FOLDER);
        // Not yet named, and named without anything in it.
        fs::write(logs.join("1.new"), "half").unwrap();
        assert!(read(folder.path()).unwrap().damage.is_empty());
        fs::write(path(&logs, 1), "").unwrap();
        let found = read(folder.path()).unwrap();
        assert_eq!(found.numbers, [0, 1]);
        assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    }
}
