//! How long the sandboxes of ended tasks are kept: for `gc_delay`, and shorter the fuller the
//! disk, as in Mesos.

use std::time::Duration;

use allotment_types::Timestamp;

use super::{Core, Effect, Settings, Step};

/// However full the disk, a sandbox is kept this long after its task: whoever is told of the end
/// comes for the output then, and Mesos' rule alone takes it away at once on a disk that is nearly
/// full already. A disk that fills within ten minutes is not saved by what ended in them.
const KEPT_AT_LEAST: Duration = Duration::from_secs(10 * 60);

/// By how much earlier than `gc_delay` sandboxes go when so many thousandths of the disk are in
/// use.
///
/// Mesos: a sandbox is kept for `gc_delay * max(0, 1 - gc_disk_headroom - usage)`; here no less
/// than [`KEPT_AT_LEAST`], when `gc_delay` is that long.
pub(super) fn early(settings: &Settings, used_permille: u32) -> Duration {
    let taken = settings
        .gc_headroom_permille
        .saturating_add(used_permille)
        .min(1000);
    let early = settings.gc_delay / 1000 * taken;
    early.min(settings.gc_delay.saturating_sub(KEPT_AT_LEAST))
}

impl Core {
    /// When the next sandbox goes.
    pub(super) fn next_collection(&self) -> Option<Timestamp> {
        let ((at, _), _) = self.collect_at.first_key_value()?;
        Some(*at - self.collect_early)
    }

    pub(super) fn collect_garbage(&mut self, now: Timestamp, step: &mut Step) {
        while let Some(entry) = self.collect_at.first_entry() {
            if entry.key().0 - self.collect_early > now {
                break;
            }
            let ((_, sandbox), agent) = entry.remove_entry();
            step.then.push(Effect::Collect { agent, sandbox });
        }
    }
}
