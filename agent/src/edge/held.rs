//! What is told to others waits until what it depends on outlasts a loss of power.
//!
//! A disk takes milliseconds to make writes last, and tens of them beside busy tasks. The loop
//! does not stand still meanwhile: it takes in facts, writes them down and does what needs no
//! more than that; one sync follows the other and covers everything written before it.

use std::collections::VecDeque;
use std::io;

use tokio::task::{JoinHandle, spawn_blocking};

use super::checkpoint::Log;
use crate::core::{Effect, tells};

/// With so many effects waiting, no more facts should be taken in.
const LEN_MAX: usize = 4096;

/// Effects that tell somebody something, in order, until a sync allows them.
///
/// Launches and kills pass them: they need only be written down, for nobody has heard of them.
#[derive(Debug, Default)]
pub(super) struct Held {
    effects: VecDeque<Effect>,
    /// Some of them make or destroy volumes, which what is done later may need.
    volumes: bool,
    /// Something that must outlast a loss of power was written since the latest sync began.
    unsynced: bool,
    sync: Option<Sync>,
}

/// A sync of the checkpoint under way.
#[derive(Debug)]
struct Sync {
    done: JoinHandle<io::Result<()>>,
    /// How many of the held effects need no later one.
    n_effects: usize,
}

impl Held {
    /// Something was written that must outlast a loss of power before what follows is told.
    pub(super) fn needs_sync(&mut self) {
        self.unsynced = true;
    }

    /// The effect itself, when it may be done now; otherwise it waits here.
    pub(super) fn pass(&mut self, effect: Effect) -> Option<Effect> {
        let waits = self.unsynced || self.sync.is_some() || !self.effects.is_empty();
        if !(waits && (self.volumes || tells(&effect))) {
            return Some(effect);
        }
        self.volumes |= is_of_volume(&effect);
        self.effects.push_back(effect);
        None
    }

    pub(super) fn is_full(&self) -> bool {
        self.effects.len() >= LEN_MAX
    }

    /// Forces what was written to the disk, where that is needed and not being done already.
    pub(super) fn begin_sync(&mut self, log: &Log) {
        if self.unsynced && self.sync.is_none() {
            let file = log.file();
            self.unsynced = false;
            self.sync = Some(Sync {
                done: spawn_blocking(move || file.sync_data()),
                n_effects: self.effects.len(),
            });
        }
    }

    /// Waits for the end of the sync under way; for ever without one. Safe to drop and call
    /// again until it has returned; then [`Self::let_go`] must be called.
    pub(super) async fn synced(&mut self) -> io::Result<()> {
        match &mut self.sync {
            Some(sync) => (&mut sync.done).await.map_err(io::Error::other)?,
            None => std::future::pending().await,
        }
    }

    /// What may be done now that the sync under way has ended well.
    pub(super) fn let_go(&mut self) -> VecDeque<Effect> {
        let n = match self.sync.take() {
            Some(sync) if self.unsynced => sync.n_effects.min(self.effects.len()),
            _ => self.effects.len(),
        };
        let later = self.effects.split_off(n);
        self.volumes = later.iter().any(is_of_volume);
        std::mem::replace(&mut self.effects, later)
    }
}

const fn is_of_volume(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::MakeVolume { .. } | Effect::DestroyVolume { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Found;
    use super::*;
    use crate::core::ContainerId;

    fn container() -> ContainerId {
        ContainerId::parse("5b6ac9f2-5f3e-4e3a-9a3e-1a2b3c4d5e6f").unwrap()
    }

    fn told() -> Effect {
        Effect::Release(container())
    }

    fn done() -> Effect {
        Effect::Destroy(container())
    }

    fn volume() -> Effect {
        Effect::MakeVolume {
            folder: "v".to_owned(),
        }
    }

    fn log() -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::begin(folder.path(), &Found::default(), &[]).unwrap();
        (folder, log)
    }

    #[tokio::test]
    async fn what_is_told_waits_for_the_sync_and_what_is_done_does_not() {
        let (_folder, log) = log();
        let mut held = Held::default();
        assert_eq!(held.pass(told()), Some(told()), "nothing to wait for");
        held.needs_sync();
        assert_eq!(held.pass(told()), None);
        assert_eq!(held.pass(done()), Some(done()));
        held.begin_sync(&log);
        assert_eq!(held.pass(told()), None, "the sync is still under way");
        held.synced().await.unwrap();
        assert_eq!(held.let_go().len(), 2);
        assert_eq!(held.pass(told()), Some(told()));
    }

    #[tokio::test]
    async fn what_was_written_during_a_sync_waits_for_the_next() {
        let (_folder, log) = log();
        let mut held = Held::default();
        held.needs_sync();
        assert_eq!(held.pass(told()), None);
        held.begin_sync(&log);
        held.needs_sync();
        assert_eq!(held.pass(volume()), None);
        held.begin_sync(&log);
        held.synced().await.unwrap();
        assert_eq!(held.let_go(), [told()]);
        held.begin_sync(&log);
        held.synced().await.unwrap();
        assert_eq!(held.let_go(), [volume()]);
    }

    #[tokio::test]
    async fn nothing_passes_the_making_of_a_volume() {
        let (_folder, log) = log();
        let mut held = Held::default();
        held.needs_sync();
        assert_eq!(held.pass(volume()), None);
        assert_eq!(held.pass(done()), None);
        held.begin_sync(&log);
        held.synced().await.unwrap();
        assert_eq!(held.let_go(), [volume(), done()]);
        assert_eq!(held.pass(done()), Some(done()));
    }
}
