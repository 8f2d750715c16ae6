//! What the queue asks of the master: offers or none, and of what size once they stay away.
//!
//! Ordinary offers serve a queue best: jobs of every size fill them. Only when jobs of one size
//! are all that waits, and none has started for a while, is their demand stated, with a hole: a
//! large job then gets its agent although small tasks of others take every core that comes free.
//! With several sizes waiting nothing is stated, because a demand shuts out all but its own.

use std::time::Duration;

use allotment_framework_sdk::{Call, Demand, Offer};
use allotment_types::{Resources, Timestamp};

use super::Core;
use super::job::Size;

/// Nothing started for so long: longer than a declined offer stays away, so that agents with room
/// would have been offered.
pub(super) const DEMAND_AFTER: Duration = Duration::from_secs(30);

/// What the master last heard.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// That offers are wanted.
    wanting: bool,
    /// A demand of this size, with how many bundles have not come yet.
    stated: Option<(Size, u64)>,
    /// A job became idle, or an offer is void, since the last look.
    pub(super) woken: bool,
    /// Offers were declined since the last revive, so the master filters.
    pub(super) filtered: bool,
    /// Since when jobs wait and none was launched.
    pub(super) stalled: Option<Timestamp>,
}

impl Core {
    /// A new subscription: the master knows nothing of what is wanted.
    pub(super) fn ask_anew(&mut self) {
        self.asking = Asking {
            stalled: self.asking.stalled,
            ..Asking::default()
        };
        if self.idle.is_empty() {
            self.call(Call::Suppress);
        } else {
            self.asking.wanting = true;
            self.call(Call::Revive);
        }
    }

    /// Says what changed of what is wanted: no offers when nothing waits, and at once again when
    /// something does.
    pub(super) fn ask(&mut self, now: Timestamp) {
        let woken = std::mem::take(&mut self.asking.woken);
        if self.idle.is_empty() {
            self.asking.stalled = None;
        } else {
            self.asking.stalled.get_or_insert(now);
        }
        if !self.connected {
            return;
        }
        if self.idle.is_empty() {
            if self.asking.wanting {
                self.asking.wanting = false;
                self.call(Call::Suppress);
            }
        } else if !self.asking.wanting || (woken && self.asking.filtered) {
            self.asking.wanting = true;
            self.asking.filtered = false;
            self.call(Call::Revive);
        }
        self.demand(now, woken);
    }

    fn demand(&mut self, now: Timestamp, woken: bool) {
        let only = self.idle.only_size();
        match (self.asking.stated, only) {
            (Some((size, left)), Some((waiting, n))) if size == waiting => {
                if left == 0 || woken {
                    self.state(size, n);
                }
            }
            (Some(_), _) => {
                self.asking.stated = None;
                self.say(None);
            }
            (None, Some((size, n))) if self.demand_at().is_some_and(|at| at <= now) => {
                self.state(size, n);
            }
            (None, _) => {}
        }
    }

    /// When a demand is stated, if nothing starts until then.
    pub(super) fn demand_at(&self) -> Option<Timestamp> {
        let may = self.connected && self.asking.stated.is_none();
        let (size, _) = self.idle.only_size().filter(|_| may)?;
        let asks_something = size.cpus_milli > 0 || size.memory_mib > 0 || size.disk_mib > 0;
        let stalled = self.asking.stalled.filter(|_| asks_something)?;
        Some(stalled + DEMAND_AFTER)
    }

    fn state(&mut self, size: Size, n: usize) {
        let count = u32::try_from(n).unwrap_or(u32::MAX);
        self.asking.stated = Some((size, count.into()));
        self.say(Some(Demand {
            bundle: size.resources(),
            count,
            hole: true,
        }));
    }

    fn say(&mut self, demand: Option<Demand>) {
        let role = self.settings.role.clone();
        self.call(Call::Demand { role, demand });
    }

    /// What is offered counts against the demand, whether it is used or not.
    pub(super) fn note_offer(&mut self, offer: &Offer) {
        if let Some((size, left)) = &mut self.asking.stated {
            *left = left.saturating_sub(bundles_in(&offer.resources, *size));
        }
    }
}

fn bundles_in(resources: &Resources, size: Size) -> u64 {
    let parts = [
        (resources.cpus().thousandths(), size.cpus_milli),
        (resources.mem().whole(), size.memory_mib),
        (resources.disk().whole(), size.disk_mib),
    ];
    let asked = parts.into_iter().filter(|(_, each)| *each > 0);
    asked.map(|(there, each)| there / each).min().unwrap_or(0)
}
