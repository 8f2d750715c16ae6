//! The master's disk: every write takes its time, and what is not written is lost with the
//! process.
//!
//! As in the real edge, a step's effects wait for its write and everything else waits behind;
//! a write that fails ends the process.

use std::collections::VecDeque;
use std::time::Duration;

use allotment_master::core as master;
use allotment_master::core::registry::Record;
use allotment_types::{Effects, Timestamp};
use fastrand::Rng;

use super::{Checked, Happening, Part, World};
use crate::fault::CrashPoint;
use crate::plant::Plant;
use crate::rng;

/// How long a full disk's master stays away before it is started again.
const RESTART: Duration = Duration::from_secs(2);

/// Where the registry is kept.
#[derive(Debug)]
pub(super) struct Disk {
    rng: Rng,
    pub(super) slow_until: Timestamp,
    pub(super) full_until: Timestamp,
    /// The step whose records are being written.
    writing: Option<Effects<Record, master::Effect>>,
    /// What came meanwhile.
    backlog: VecDeque<master::Input>,
}

impl Disk {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            rng,
            slow_until: Timestamp::ZERO,
            full_until: Timestamp::ZERO,
            writing: None,
            backlog: VecDeque::new(),
        }
    }

    /// A step waits for its write, so that the core is ahead of what anybody heard.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The process is dead: what was not written is gone.
    pub(super) fn lose(&mut self) {
        self.writing = None;
        self.backlog.clear();
    }

    fn duration(&mut self, now: Timestamp) -> Duration {
        let (low, high) = if now < self.slow_until {
            (Duration::from_millis(20), Duration::from_secs(2))
        } else {
            (Duration::from_micros(100), Duration::from_millis(3))
        };
        rng::between(&mut self.rng, low, high)
    }
}

impl World {
    /// The master takes in one fact, or keeps it until its disk is done.
    pub(super) fn master_step(&mut self, input: master::Input) -> Checked {
        if self.master.disk.is_writing() {
            self.master.disk.backlog.push_back(input);
            return Ok(());
        }
        let now = self.master.clock.local(self.now());
        let Some(core) = &mut self.master.core else {
            return Ok(());
        };
        if self.saboteur.ignores(&input) {
            return Ok(());
        }
        if let Some(made_up) = self.saboteur.swallows(&input) {
            return self.master_effect(made_up);
        }
        if self.checked {
            self.ledger.on_input(&input);
        }
        let effects = core.step(now, input);
        self.master.stepped = true;
        if effects.persist.is_empty() {
            self.perform_master(effects.then)?;
        } else {
            self.start_write(effects)?;
        }
        self.rearm(Part::Master);
        Ok(())
    }

    fn start_write(&mut self, effects: Effects<Record, master::Effect>) -> Checked {
        let now = self.now();
        if now < self.master.disk.full_until {
            self.trace
                .note(now, || "the master's disk is full".to_owned());
            self.crash_master(RESTART);
            return Ok(());
        }
        let mut effects = effects;
        if self.saboteur.is(Plant::ToldBeforeWritten) {
            let told = std::mem::take(&mut effects.then);
            self.perform_master(told)?;
        }
        if let Some((CrashPoint::BeforeSync, down)) = self.master.crash {
            self.crash_master(down);
            return Ok(());
        }
        let at = now + self.master.disk.duration(now);
        self.master.disk.writing = Some(effects);
        self.queue.at(at, Happening::Written(self.master.starts));
        Ok(())
    }

    /// The write of this run of the master is durable: its effects follow, then what waited.
    pub(super) fn on_written(&mut self, run: u32) -> Checked {
        if run != self.master.starts {
            return Ok(());
        }
        let Some(effects) = self.master.disk.writing.take() else {
            return Ok(());
        };
        if self.saboteur.is(Plant::DiskForgets) {
            self.master.before = Some(self.master.registry.clone());
        }
        for record in effects.persist {
            if self.saboteur.writes(&record) {
                self.master.registry.apply(record);
            }
        }
        if let Some((CrashPoint::AfterSync, down)) = self.master.crash {
            self.crash_master(down);
            return Ok(());
        }
        self.master.stepped = true;
        self.perform_master(effects.then)?;
        while !self.master.disk.is_writing()
            && let Some(input) = self.master.disk.backlog.pop_front()
        {
            self.master_step(input)?;
        }
        self.rearm(Part::Master);
        Ok(())
    }

    fn perform_master(&mut self, effects: Vec<master::Effect>) -> Checked {
        let enough = match self.master.crash {
            Some((CrashPoint::AfterEffects(n), down)) if effects.len() > usize::from(n) => {
                Some((usize::from(n), down))
            }
            _ => None,
        };
        for (i, effect) in effects.into_iter().enumerate() {
            if let Some((n, down)) = enough
                && i == n
            {
                self.crash_master(down);
                return Ok(());
            }
            self.master_effect(effect)?;
        }
        Ok(())
    }
}
