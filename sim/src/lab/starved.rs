//! Who waited although there was room: a framework *starves* while one of its tasks would fit
//! into what no task uses on some machine, be it free, offered to somebody else or kept for them.
//!
//! A framework that starves for seconds waits for answers or for its own filters to end; for
//! minutes, because others are preferred beyond reason.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_types::{AgentId, Resources, Timestamp};

use crate::world::World;

/// What was seen so far, framework by framework.
#[derive(Debug, Default)]
pub(super) struct Starved {
    frameworks: Vec<Starving>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Starving {
    since: Option<Timestamp>,
    longest: Duration,
}

impl Starved {
    /// Looks at everybody as they are now.
    pub(super) fn look(&mut self, world: &World) {
        let now = world.now();
        let mut unused: BTreeMap<AgentId, Resources> = world.machines().collect();
        for tenant in world.tenants() {
            for (agent, used) in tenant.used_on() {
                if let Some(left) = unused.get_mut(agent) {
                    left.subtract(used);
                }
            }
        }
        self.frameworks
            .resize(world.tenants().count(), Starving::default());
        for (starving, tenant) in self.frameworks.iter_mut().zip(world.tenants()) {
            let fits = unused.values().any(|left| tenant.would_use(left));
            let since = starving.since.unwrap_or(now);
            starving.longest = starving.longest.max(now.since(since));
            starving.since = fits.then_some(since);
        }
    }

    /// The longest time that the framework starved.
    pub(super) fn longest(&self, framework: usize) -> Option<Duration> {
        self.frameworks.get(framework).map(|f| f.longest)
    }
}
