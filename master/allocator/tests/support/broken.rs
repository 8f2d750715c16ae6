//! A module that is right but for one fault, to see that the suite can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use allotment_allocator::{
    AgentSpec, Allocator, Around, Capabilities, Demand, Drf, FrameworkSpec, Grant, Quota, Recovery,
    Round, Settings,
};
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use super::reference::Reference;
use super::{f, grant_of};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    GrantsTwice,
    LosesWhatComesBack,
    FreesWhatIsHeld,
    ForgetsLimits,
    ForgetsFilters,
    EndsFiltersLate,
    ForgetsConstraints,
    ForgetsSmallestBundles,
    ForgetsCapabilities,
    ForgetsReservations,
    ForgetsDemands,
    ForgetsSuppression,
    ForgetsPause,
    ForgetsToResume,
    OffersInactiveAgents,
    OffersInactiveFrameworks,
    AsksToLeaveAgain,
    IgnoresOneFramework,
    DependsOnTheWeather,
    DecidesAgainWithoutNews,
    WaitsForThePast,
    NeverEndsARound,
    EndsRoundsEarly,
    Panics,
    /// Not in [`Fault::ALL`]: only patience finds it.
    ForgetsCountsOfOne,
}

impl Fault {
    pub(crate) const ALL: [Self; 24] = [
        Self::GrantsTwice,
        Self::LosesWhatComesBack,
        Self::FreesWhatIsHeld,
        Self::ForgetsLimits,
        Self::ForgetsFilters,
        Self::EndsFiltersLate,
        Self::ForgetsConstraints,
        Self::ForgetsSmallestBundles,
        Self::ForgetsCapabilities,
        Self::ForgetsReservations,
        Self::ForgetsDemands,
        Self::ForgetsSuppression,
        Self::ForgetsPause,
        Self::ForgetsToResume,
        Self::OffersInactiveAgents,
        Self::OffersInactiveFrameworks,
        Self::AsksToLeaveAgain,
        Self::IgnoresOneFramework,
        Self::DependsOnTheWeather,
        Self::DecidesAgainWithoutNews,
        Self::WaitsForThePast,
        Self::NeverEndsARound,
        Self::EndsRoundsEarly,
        Self::Panics,
    ];
}

/// Differs from module to module, as an address or a random seed would.
static WEATHER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub(crate) struct Broken {
    fault: Fault,
    inner: Box<dyn Allocator>,
    last: Timestamp,
    asked: Vec<allotment_allocator::InverseAllocation>,
    rounds: u64,
    favourite: Option<FrameworkSpec>,
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        let mut settings = Settings::default();
        if fault == Fault::DependsOnTheWeather {
            settings.placement = allotment_allocator::Placement::Random;
            settings.seed = WEATHER.fetch_add(1, Ordering::Relaxed);
        }
        let inner: Box<dyn Allocator> = match fault {
            // Only a module that works in pieces can forget the rest.
            Fault::EndsRoundsEarly => Box::new(Drf::new(Settings {
                round_looks: 1,
                ..settings
            })),
            _ => Box::new(Reference::new(settings)),
        };
        Self {
            fault,
            inner,
            last: Timestamp::ZERO,
            asked: Vec::new(),
            rounds: 0,
            favourite: None,
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Lots without their reservations.
    fn unreserved(resources: &Resources) -> Resources {
        let parts = resources.iter().map(|(name, lot, value)| {
            let lot = lot.with(|info| info.reservations.clear());
            Resources::EMPTY.with(name.clone(), lot, value.clone())
        });
        parts.fold(Resources::EMPTY, |sum, part| sum.plus(&part))
    }
}

impl Around for Broken {
    fn inner(&self) -> &dyn Allocator {
        &*self.inner
    }

    fn inner_mut(&mut self) -> &mut dyn Allocator {
        &mut *self.inner
    }

    fn add_framework(&mut self, framework: &FrameworkId, mut spec: FrameworkSpec) {
        if self.has(Fault::IgnoresOneFramework) && *framework == f("f1") {
            return;
        }
        if self.has(Fault::ForgetsCapabilities) {
            spec.capabilities = Capabilities {
                revocable: true,
                shared: true,
                gpu: true,
                region_aware: true,
                reservation_refinement: true,
            };
        }
        for spec in spec.roles.values_mut() {
            if self.has(Fault::ForgetsConstraints) {
                spec.constraints = None;
            }
            if self.has(Fault::ForgetsSmallestBundles) {
                spec.min_allocatable = None;
            }
            if self.has(Fault::ForgetsSuppression) {
                spec.suppressed = false;
            }
        }
        if *framework == f("f0") {
            self.favourite = Some(spec.clone());
        }
        self.inner.add_framework(framework, spec);
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        if !self.has(Fault::OffersInactiveFrameworks) {
            self.inner.deactivate_framework(framework);
        }
    }

    fn add_agent(&mut self, agent: &AgentId, mut spec: AgentSpec) {
        if self.has(Fault::ForgetsReservations) {
            spec.total = Self::unreserved(&spec.total);
        }
        self.inner.add_agent(agent, spec);
    }

    fn set_agent_active(&mut self, agent: &AgentId, active: bool) {
        let active = active || self.has(Fault::OffersInactiveAgents);
        self.inner.set_agent_active(agent, active);
    }

    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        let recovery = match recovery {
            Recovery::Declined {
                refuse_for,
                used_some,
            } if self.has(Fault::EndsFiltersLate) => Recovery::Declined {
                refuse_for: refuse_for.saturating_mul(2),
                used_some,
            },
            Recovery::Declined { .. } if self.has(Fault::ForgetsFilters) => Recovery::Rescinded,
            other => other,
        };
        match self.fault {
            Fault::LosesWhatComesBack if recovery == Recovery::Ended => {}
            _ => self.inner.recover(now, agent, grant, recovery),
        }
        if self.has(Fault::ForgetsCountsOfOne)
            && grant.framework == f("f0")
            && let Some(spec) = self.favourite.clone()
        {
            // It comes back as new, and so is first again.
            self.inner.remove_framework(&grant.framework);
            self.inner.add_framework(&grant.framework, spec);
        }
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        if !self.has(Fault::ForgetsSuppression) {
            self.inner.suppress(framework, roles);
        }
    }

    fn set_demand(&mut self, framework: &FrameworkId, role: &Role, demand: Option<Demand>) {
        if !self.has(Fault::ForgetsDemands) {
            self.inner.set_demand(framework, role, demand);
        }
    }

    fn set_quota(&mut self, role: &Role, quota: Quota) {
        if !self.has(Fault::ForgetsLimits) {
            self.inner.set_quota(role, quota);
        }
    }

    fn pause(&mut self) {
        if !self.has(Fault::ForgetsPause) {
            self.inner.pause();
        }
    }

    fn resume(&mut self) {
        if !self.has(Fault::ForgetsToResume) {
            self.inner.resume();
        }
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        self.last = now;
        self.rounds += 1;
        let mut round = self.inner.allocate(now);
        match self.fault {
            Fault::NeverEndsARound => round.unfinished = true,
            Fault::EndsRoundsEarly => round.unfinished = false,
            _ => {}
        }
        if self.has(Fault::GrantsTwice) {
            round.allocations.extend(round.allocations.first().cloned());
        }
        if self.has(Fault::AsksToLeaveAgain) {
            self.asked.extend(round.inverse.iter().cloned());
            round.inverse.clone_from(&self.asked);
        }
        if self.has(Fault::DecidesAgainWithoutNews)
            && let Some(first) = round.allocations.first()
        {
            // As if an offer that nobody answered had expired at once.
            let back = grant_of(first);
            self.inner
                .recover(now, &first.agent, &back, Recovery::Rescinded);
            round.allocations.remove(0);
        }
        assert!(
            !(self.has(Fault::Panics) && self.rounds > 9),
            "ten rounds are too many"
        );
        round
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        if self.has(Fault::WaitsForThePast) {
            return Some(self.last);
        }
        self.inner.next_deadline()
    }

    fn free(&self, agent: &AgentId) -> Resources {
        let free = self.inner.free(agent);
        if self.has(Fault::FreesWhatIsHeld) {
            let held: BTreeMap<_, _> = self
                .inner
                .held(agent)
                .into_iter()
                .map(|g| (g.framework, g.resources))
                .collect();
            return held.values().fold(free, |sum, held| sum.plus(held));
        }
        free
    }
}
