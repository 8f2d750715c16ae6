//! How frameworks behave.

use std::time::Duration;

use allotment_allocator::constraint::{Constraint, Constraints, Predicate, Selector};
use allotment_allocator::{Amounts, Demand};
use allotment_types::{Attribute, AttributeValue, Fixed, Resources, Timestamp};
use fastrand::Rng;

use crate::rng;

/// A bursty framework wants something during the first part of each period.
const PERIOD: Duration = Duration::from_secs(1200);
/// See [`PERIOD`].
const BURST: Duration = Duration::from_secs(300);
/// The most tasks that a bursty framework runs at once.
const BURST_TASKS: u32 = 120;

/// Who always wants more wants so much.
const ENDLESS: u32 = 100_000;

/// What a machine says of itself.
pub(super) fn attributes(on_rack: bool) -> Vec<Attribute> {
    vec![Attribute {
        name: "rack".to_owned(),
        value: AttributeValue::Text(if on_rack { "wanted" } else { "other" }.to_owned()),
    }]
}

/// What a machine has.
pub(super) fn machine() -> Resources {
    Resources::cpus_mem(Fixed::units(16), Fixed::units(65_536))
}

#[derive(Debug)]
enum Kind {
    Greedy,
    Picky,
    Bursty,
    Idle,
}

/// One framework's behaviour.
#[derive(Debug)]
pub(super) struct Manner {
    kind: Kind,
    task: Resources,
    lasts_mean: Duration,
    running: u32,
    rng: Rng,
}

impl Manner {
    /// All of them, by name.
    pub(super) fn all(seed: u64) -> Vec<(&'static str, Self)> {
        let manner = |name: &'static str, kind, cpus, mem, secs| {
            let manner = Self {
                kind,
                task: Resources::cpus_mem(Fixed::units(cpus), Fixed::units(mem)),
                lasts_mean: Duration::from_secs(secs),
                running: 0,
                rng: rng::stream(seed, name),
            };
            (name, manner)
        };
        vec![
            manner("bursty-1", Kind::Bursty, 1, 2048, 60),
            manner("bursty-2", Kind::Bursty, 2, 1024, 40),
            manner("greedy-1", Kind::Greedy, 1, 4096, 300),
            manner("greedy-2", Kind::Greedy, 2, 2048, 200),
            manner("idle-1", Kind::Idle, 1, 1, 1),
            manner("idle-2", Kind::Idle, 1, 1, 1),
            manner("picky", Kind::Picky, 8, 16_384, 120),
        ]
    }

    /// How many tasks it would start now, if it could.
    pub(super) fn tasks_wanted(&self, now: Timestamp) -> u32 {
        match self.kind {
            Kind::Greedy | Kind::Picky => ENDLESS,
            Kind::Bursty if now.as_nanos() % nanos(PERIOD) < nanos(BURST) => {
                BURST_TASKS.saturating_sub(self.running)
            }
            Kind::Bursty | Kind::Idle => 0,
        }
    }

    /// The demand for so many tasks.
    pub(super) fn demand(&self, count: u32) -> Demand {
        let bundle: Amounts = self
            .task
            .scalars()
            .map(|(name, amount)| (name.clone(), amount))
            .collect();
        Demand {
            bundle,
            count,
            hole: true,
        }
    }

    /// The agents it wants, when it can say so.
    pub(super) fn constraints(&self) -> Option<Constraints> {
        matches!(self.kind, Kind::Picky).then(|| Constraints {
            groups: vec![vec![Constraint {
                selector: Selector::Attribute("rack".to_owned()),
                predicate: Predicate::Equals("wanted".to_owned()),
            }]],
        })
    }

    /// Whether it would run a task there now, if it had these resources.
    pub(super) fn wants(&self, now: Timestamp, on_rack: bool, resources: &Resources) -> bool {
        let there = on_rack || !matches!(self.kind, Kind::Picky);
        there && self.tasks_wanted(now) > 0 && resources.contains(&self.task)
    }

    /// Starts a task: what it takes, and for how long.
    pub(super) fn launch(&mut self) -> (Resources, Duration) {
        self.running += 1;
        let lasts = rng::exponential(&mut self.rng, self.lasts_mean);
        (self.task.clone(), lasts.max(Duration::from_secs(1)))
    }

    /// A task ended.
    pub(super) fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
