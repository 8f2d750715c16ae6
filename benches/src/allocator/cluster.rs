//! Agents and frameworks of the shapes that Mesos' allocator was measured with.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_allocator::{
    AgentSpec, Allocation, Allocator, Capabilities, Drf, FrameworkSpec, Grant, Recovery, RoleSpec,
    Settings,
};
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};
use anyhow::Context;

/// Which roles the frameworks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roles {
    /// All of them `*`.
    Single,
    /// Each one of its own.
    Own,
}

impl Roles {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Single => "one role",
            Self::Own => "a role each",
        }
    }

    pub(super) fn of(self, n: usize) -> anyhow::Result<Role> {
        Ok(match self {
            Self::Single => Role::star(),
            Self::Own => Role::parse(&format!("role{n}"))?,
        })
    }
}

/// The shape "64 GB", with nothing in use.
pub(super) const EMPTY: &str = "cpus:24; mem:65536; disk:1048576; ports:[31000-32000]";
/// The shape of Mesos' own DeclineOffers and SuppressOffers.
pub(super) const USED_TOTAL: &str = "cpus:24; mem:4096; disk:4096; ports:[31000-32000]";

/// What is in use on it: 16 cores and 16 ranges of ports, so that 15 single ports are left.
pub(super) fn used() -> anyhow::Result<Resources> {
    let singles: Vec<String> = (0..15).map(|n| format!("{0}-{0}", 31000 + 2 * n)).collect();
    let ports = format!("ports:[{}, 31030-32000]", singles.join(", "));
    Ok(format!("cpus:16; mem:2014; disk:1024; {ports}").parse()?)
}

/// A module under measurement.
pub(super) struct Bench {
    pub(super) module: Box<dyn Allocator>,
    pub(super) now: Timestamp,
    agents: Vec<AgentId>,
    frameworks: Vec<FrameworkId>,
}

impl Bench {
    pub(super) fn new(n_agents: usize, n_frameworks: usize) -> anyhow::Result<Self> {
        let agents = (1..=n_agents).map(|n| AgentId::parse(&format!("agent{n}")));
        let frameworks = (1..=n_frameworks).map(|n| FrameworkId::parse(&format!("framework{n}")));
        Ok(Self {
            module: Box::new(Drf::new(Settings::default())),
            now: Timestamp::from_secs(1),
            agents: agents.collect::<Result<_, _>>()?,
            frameworks: frameworks.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn framework(&self, n: usize) -> anyhow::Result<&FrameworkId> {
        self.frameworks.get(n).context("one framework too few")
    }

    /// All agents alike. Each has a total of its own, parsed once: what the wire would bring.
    pub(super) fn agent_specs(
        &self,
        total: &str,
        used: impl Fn(usize) -> anyhow::Result<Vec<Grant>>,
    ) -> anyhow::Result<Vec<AgentSpec>> {
        (0..self.agents.len())
            .map(|n| {
                Ok(AgentSpec {
                    total: total.parse()?,
                    used: used(n)?,
                    hostname: format!("agent{}", n + 1),
                    ..AgentSpec::default()
                })
            })
            .collect()
    }

    pub(super) fn framework_specs(&self, roles: Roles) -> anyhow::Result<Vec<FrameworkSpec>> {
        (0..self.frameworks.len())
            .map(|n| {
                Ok(FrameworkSpec {
                    roles: BTreeMap::from([(roles.of(n)?, RoleSpec::default())]),
                    capabilities: Capabilities::default(),
                })
            })
            .collect()
    }

    pub(super) fn add_agents(&mut self, specs: Vec<AgentSpec>) {
        for (id, spec) in self.agents.iter().zip(specs) {
            self.module.add_agent(id, spec);
        }
    }

    pub(super) fn add_frameworks(&mut self, specs: Vec<FrameworkSpec>) {
        for (id, spec) in self.frameworks.iter().zip(specs) {
            self.module.add_framework(id, spec);
        }
    }

    /// A whole round, however many calls it takes.
    pub(super) fn cycle(&mut self) -> Vec<Allocation> {
        let mut round = self.module.allocate(self.now);
        let mut offers = round.allocations;
        while round.unfinished {
            round = self.module.allocate(self.now);
            offers.append(&mut round.allocations);
        }
        offers
    }

    /// Gives everything back.
    pub(super) fn recover(&mut self, offers: &[Allocation], recovery: Recovery) {
        for offer in offers {
            let grant = grant_of(offer);
            self.module
                .recover(self.now, &offer.agent, &grant, recovery);
        }
    }

    /// Fails unless every framework has equally many of the offers.
    pub(super) fn check_equal(&self, offers: &[Allocation]) -> anyhow::Result<()> {
        let mut counts: BTreeMap<&FrameworkId, usize> = BTreeMap::new();
        for offer in offers {
            *counts.entry(&offer.framework).or_default() += 1;
        }
        let (agents, frameworks) = (self.agents.len(), self.frameworks.len());
        let (least, most) = (agents / frameworks, agents.div_ceil(frameworks));
        let fair = counts.values().all(|n| (least..=most).contains(n));
        anyhow::ensure!(
            offers.len() == agents && fair && counts.len() == frameworks.min(agents),
            "{} offers for {agents} agents; each of {frameworks} frameworks should get {least} to \
             {most}, but {} got {:?} to {:?}",
            offers.len(),
            counts.len(),
            counts.values().min(),
            counts.values().max()
        );
        Ok(())
    }
}

pub(super) fn grant_of(offer: &Allocation) -> Grant {
    Grant {
        framework: offer.framework.clone(),
        role: offer.role.clone(),
        resources: offer.resources.clone(),
    }
}

/// Declined without a filter, or with one.
pub(super) fn declined(refuse_for: Duration) -> Recovery {
    Recovery::Declined {
        refuse_for,
        used_some: false,
    }
}
