//! The journal of containers: which process was the first of which, and how each ended.
//!
//! Inits write it themselves, a record at a time to a descriptor that they inherit, so that a
//! true exit status is there for the next agent although neither agent nor launcher lived to see
//! it. A record costs one append into the page cache. It has to outlast processes, not power:
//! what ran does not outlast that either.
//!
//! The journal is many small files, `N.journal`, each with room reserved for its records, so that
//! a full disk takes no exit status. A file goes when the agent has written down the end of every
//! container in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::report::{self, Born, LEN, Report};
use super::sys::{self, Usage};

/// Where every init finds the journal.
pub(super) const JOURNAL_FD: RawFd = 4;
/// Containers begun in one file; each writes up to three records. Few, because one container that
/// runs for a year keeps its file.
const CONTAINERS_MAX: usize = 340;
const RESERVED: i64 = ((1 + 3 * CONTAINERS_MAX) * LEN) as i64;
const MAGIC: &[u8; 8] = b"ALLOTJNL";

/// The files of this launcher, and of earlier ones while containers in them go on.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    boot_id: u128,
    number: u64,
    n_begun: usize,
    /// How many containers in each file are not released yet.
    open: BTreeMap<u64, usize>,
}

/// What the journal tells of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace {
    /// In which file.
    pub(super) file: u64,
    /// Its machine was not started anew since.
    pub(super) of_this_boot: bool,
    pub(super) born: Option<Born>,
    pub(super) started: bool,
    pub(super) failed: Option<(i32, i32)>,
    pub(super) ended: Option<(i32, Usage)>,
}

/// What the files of earlier launchers tell.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) containers: BTreeMap<u128, Trace>,
    /// Records that could not be read.
    pub(super) n_damaged: u64,
    numbers: Vec<u64>,
}

impl Journal {
    /// Begins a file behind those of the `past` and hands it to the inits forked from now on.
    pub(super) fn begin(folder: &Path, boot_id: u128, past: &Past) -> io::Result<Self> {
        let mut journal = Self {
            folder: folder.to_owned(),
            boot_id,
            number: past.numbers.last().map_or(0, |last| last + 1),
            n_begun: 0,
            open: BTreeMap::new(),
        };
        journal.open_file()?;
        Ok(journal)
    }

    fn open_file(&mut self) -> io::Result<()> {
        let mut header = [0; LEN];
        let parts = [
            &[0; 4][..],
            &[1, 0, 0, 0],
            MAGIC,
            &self.boot_id.to_le_bytes(),
        ];
        for (place, byte) in header.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        report::seal(&mut header);
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path(&self.folder, self.number))?;
        file.write_all(&header)?;
        // Where a file system cannot reserve room, a full disk may take an exit status.
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVED);
        sys::park_fd(file.into(), JOURNAL_FD)?;
        self.n_begun = 0;
        Ok(())
    }

    /// A container is about to begin; the file in which it will be found.
    pub(super) fn enter(&mut self) -> io::Result<u64> {
        if self.n_begun >= CONTAINERS_MAX {
            let full = self.number;
            self.number += 1;
            if let Err(error) = self.open_file() {
                self.number = full;
                return Err(error);
            }
            if !self.open.contains_key(&full) {
                let _ = fs::remove_file(path(&self.folder, full));
            }
        }
        self.n_begun += 1;
        self.adopt(self.number);
        Ok(self.number)
    }

    /// A container of an earlier launcher lies in this file.
    pub(super) fn adopt(&mut self, file: u64) {
        *self.open.entry(file).or_default() += 1;
    }

    /// How a container in this file ended is written down elsewhere, or it never began.
    pub(super) fn leave(&mut self, file: u64) {
        let Some(n) = self.open.get_mut(&file) else {
            return;
        };
        *n = n.saturating_sub(1);
        if *n == 0 {
            self.open.remove(&file);
            if file != self.number {
                let _ = fs::remove_file(path(&self.folder, file));
            }
        }
    }

    /// Removes files of the past that nobody is in.
    pub(super) fn tidy(&self, past: &Past) {
        for number in &past.numbers {
            if !self.open.contains_key(number) {
                let _ = fs::remove_file(path(&self.folder, *number));
            }
        }
    }

    /// What a file tells of one container by now.
    pub(super) fn trace(&self, file: u64, container: u128) -> Option<Trace> {
        let mut past = Past::default();
        read_file(&self.folder, file, self.boot_id, &mut past).ok()?;
        past.containers.remove(&container)
    }
}

/// Reads every file of the folder.
pub(super) fn read(folder: &Path, boot_id: u128) -> io::Result<Past> {
    let mut past = Past::default();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
        let number = number.and_then(|number| number.parse::<u64>().ok());
        past.numbers.extend(number);
    }
    past.numbers.sort_unstable();
    for number in past.numbers.clone() {
        if read_file(folder, number, boot_id, &mut past).is_err() {
            past.n_damaged += 1;
        }
    }
    Ok(past)
}

fn read_file(folder: &Path, number: u64, boot_id: u128, past: &mut Past) -> io::Result<()> {
    let bytes = fs::read(path(folder, number))?;
    if bytes.is_empty() {
        // Its launcher found no room for the first byte, or no time: nothing ever was in it.
        return Ok(());
    }
    let (slots, rest) = bytes.as_chunks::<LEN>();
    let (header, records) = match slots.split_first() {
        Some((header, records)) => (Some(header), records),
        None => (None, slots),
    };
    let boot = header
        .filter(|header| report::is_sealed(header) && header.get(8..16) == Some(MAGIC))
        .and_then(|header| Some(u128::from_le_bytes(header.get(16..32)?.try_into().ok()?)));
    past.n_damaged += u64::from(boot.is_none()) + u64::from(!rest.is_empty());
    for record in records {
        let Some((container, report)) = Report::decode(record) else {
            past.n_damaged += 1;
            continue;
        };
        let trace = past.containers.entry(container).or_default();
        trace.file = number;
        trace.of_this_boot = boot == Some(boot_id);
        match report {
            Report::Born(born) => trace.born = Some(born),
            Report::Started => trace.started = true,
            Report::Failed { stage, errno } => trace.failed = Some((stage, errno)),
            Report::Ended { status, usage } => trace.ended = Some((status, usage)),
        }
    }
    Ok(())
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.journal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_never_begun_is_no_damage_and_half_a_header_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path(), 3), "").unwrap();
        let past = read(folder.path(), 1).unwrap();
        assert_eq!((past.n_damaged, &past.numbers[..]), (0, &[3][..]));
        fs::write(path(folder.path(), 3), "ALLOT").unwrap();
        assert_ne!(read(folder.path(), 1).unwrap().n_damaged, 0);
    }
}
