//! The masters' disks: every write takes its time, and a crash loses or tears what is not written.
//!
//! As in the real edge, all that waits while the disk is busy becomes one block and one sync, and
//! a write that fails ends the process.

use std::time::Duration;

use allotment_master::replica::Input;
use allotment_raft::Input as RaftInput;
use allotment_types::Timestamp;
use fastrand::Rng;

use super::{Checked, Happening, World};
use crate::fault::CrashPoint;
use crate::plant::Plant;
use crate::rng;

/// How long a full disk's master stays away before it is started again.
const RESTART: Duration = Duration::from_secs(2);
/// How long a disk that lies keeps a write in its cache.
const CACHED: Duration = Duration::from_secs(5);
/// How much of an unfinished write may be on the disk after all.
const TORN_MAX: usize = 4096;

/// How a master's disk does.
#[derive(Debug)]
pub(super) struct Disk {
    rng: Rng,
    pub(super) slow_until: Timestamp,
    pub(super) full_until: Timestamp,
}

impl Disk {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            rng,
            slow_until: Timestamp::ZERO,
            full_until: Timestamp::ZERO,
        }
    }

    fn duration(&mut self, now: Timestamp) -> Duration {
        let (low, high) = if now < self.slow_until {
            (Duration::from_millis(20), Duration::from_secs(2))
        } else {
            (Duration::from_micros(100), Duration::from_millis(3))
        };
        rng::between(&mut self.rng, low, high)
    }

    /// How much of what was being written is there after a crash, and whether with a hole in it.
    fn torn(&mut self) -> (usize, bool) {
        (self.rng.usize(0..TORN_MAX), self.rng.bool())
    }
}

impl World {
    /// The disk takes up what waits, unless it is busy.
    pub(super) fn start_write(&mut self, master: usize) -> Checked {
        let now = self.now();
        let Some(node) = self.masters.get_mut(master) else {
            return Ok(());
        };
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        if !process.writing.is_empty() || process.writes.is_empty() {
            return Ok(());
        }
        if now < node.disk.full_until {
            self.trace
                .note(now, || format!("the disk of master {master} is full"));
            self.crash_master(master, Some(RESTART));
            return Ok(());
        }
        process.writing = std::mem::take(&mut process.writes);
        if process.reign.is_some()
            && let Some((CrashPoint::BeforeSync, down)) = node.crash
        {
            self.crash_master(master, Some(down));
            return Ok(());
        }
        let run = node.runs;
        let mut at = now + node.disk.duration(now);
        let cached = self.saboteur.is(Plant::AcknowledgedUnwritten);
        if cached {
            at = at + CACHED;
        }
        self.queue.at(at, Happening::Written { master, run });
        if cached {
            self.tell_written(master)?;
        }
        Ok(())
    }

    /// What this run of a master was writing is on its disk.
    pub(super) fn on_written(&mut self, master: usize, run: u32) -> Checked {
        let Some(node) = self.masters.get_mut(master).filter(|node| node.runs == run) else {
            return Ok(());
        };
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        if let Err(error) = process.store.write(&process.writing) {
            return Err(format!("a disk that is there can be written: {error}"));
        }
        if process.reign.is_some()
            && let Some((CrashPoint::AfterSync, down)) = node.crash
        {
            process.writing.clear();
            self.crash_master(master, Some(down));
            return Ok(());
        }
        if !self.saboteur.is(Plant::AcknowledgedUnwritten) {
            self.tell_written(master)?;
        }
        if let Some(process) = self.process(master) {
            process.writing.clear();
        }
        self.start_write(master)?;
        self.turn(master)
    }

    fn tell_written(&mut self, master: usize) -> Checked {
        let number = self.process(master).and_then(|p| p.writing.last());
        match number.map(|write| write.number) {
            Some(number) => self.step_replica(master, Input::Raft(RaftInput::Persisted(number))),
            None => Ok(()),
        }
    }

    /// What is left on the disk of a process that ends now.
    pub(super) fn tear(&mut self, master: usize) {
        let Some(node) = self.masters.get_mut(master) else {
            return;
        };
        if let Some(process) = &mut node.process
            && !process.writing.is_empty()
        {
            node.folder.break_sync();
            // It fails: that is what it is for.
            let _ = process.store.write(&process.writing);
        }
        let (keep, torn) = node.disk.torn();
        node.folder.crash(keep, torn);
    }
}
