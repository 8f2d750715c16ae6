//! A cluster in sentences: each scenario is played to the module and to the reference.

use std::time::Duration;

use allotment_allocator::{
    AgentSpec, Allocation, Allocator, Amounts, Drf, FrameworkSpec, Grant, Quota, Recovery, Round,
    Settings,
};
use allotment_types::{Name, Timestamp};

use super::reference::Reference;
use super::{a, f, grant_of, idle, in_roles, lines, res, role};

pub(crate) struct Cluster {
    pub(crate) module: Box<dyn Allocator>,
    pub(crate) now: Timestamp,
}

/// Plays a scenario with the usual settings.
pub(crate) fn scenario(play: impl Fn(&mut Cluster)) {
    scenario_with(&Settings::default(), play);
}

/// Plays a scenario to the reference, which must find the test right, and to the module.
pub(crate) fn scenario_with(settings: &Settings, play: impl Fn(&mut Cluster)) {
    let reference = Box::new(Reference::new(settings.clone()));
    let module = Box::new(Drf::new(settings.clone()));
    for module in [reference as Box<dyn Allocator>, module] {
        play(&mut Cluster {
            module,
            now: Timestamp::from_secs(1000),
        });
    }
}

impl Cluster {
    pub(crate) fn agent(&mut self, id: &str, total: &str) {
        self.module.add_agent(&a(id), idle(total));
    }

    /// An agent on which this runs already.
    pub(crate) fn agent_in_use(&mut self, id: &str, total: &str, used: &[(&str, &str, &str)]) {
        let used = used
            .iter()
            .map(|(framework, role, used)| grant(framework, role, used));
        let spec = AgentSpec {
            used: used.collect(),
            ..idle(total)
        };
        self.module.add_agent(&a(id), spec);
    }

    pub(crate) fn framework(&mut self, id: &str, roles: &[&str]) {
        self.module.add_framework(&f(id), in_roles(roles));
    }

    pub(crate) fn framework_with(
        &mut self,
        id: &str,
        roles: &[&str],
        change: impl FnOnce(&mut FrameworkSpec),
    ) {
        let mut spec = in_roles(roles);
        change(&mut spec);
        self.module.add_framework(&f(id), spec);
    }

    pub(crate) fn weight(&mut self, name: &str, weight: u64) {
        self.module.set_weight(&role(name), weight * 1000);
    }

    pub(crate) fn quota(&mut self, name: &str, guarantees: &str, limits: &str) {
        let quota = Quota {
            guarantees: amounts(guarantees),
            limits: amounts(limits),
        };
        self.module.set_quota(&role(name), quota);
    }

    pub(crate) fn later(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    pub(crate) fn round(&mut self) -> Round {
        self.module.allocate(self.now)
    }

    /// The next round's offers as lines.
    pub(crate) fn offers(&mut self) -> Vec<String> {
        lines(&self.round().allocations)
    }

    /// The only offer of the next round.
    pub(crate) fn only_offer(&mut self) -> Allocation {
        let mut offers = self.round().allocations;
        assert_eq!(offers.len(), 1, "{offers:?}");
        offers.remove(0)
    }

    pub(crate) fn ends(&mut self, agent: &str, framework: &str, in_role: &str, what: &str) {
        let grant = grant(framework, in_role, what);
        let ended = Recovery::Ended;
        self.module.recover(self.now, &a(agent), &grant, ended);
    }

    pub(crate) fn rescind(&mut self, offer: &Allocation) {
        let back = grant_of(offer);
        self.module
            .recover(self.now, &offer.agent, &back, Recovery::Rescinded);
    }

    pub(crate) fn decline(&mut self, offer: &Allocation, secs: u64) {
        let declined = Recovery::Declined {
            refuse_for: Duration::from_secs(secs),
            used_some: false,
        };
        self.module
            .recover(self.now, &offer.agent, &grant_of(offer), declined);
    }

    /// How many agents each framework holds something of, by framework.
    pub(crate) fn agents_of(&self, frameworks: &[&str], agents: usize) -> Vec<usize> {
        let holds = |framework: &str, n: &usize| {
            let held = self.module.held(&a(&format!("a{n}")));
            held.iter().any(|grant| grant.framework == f(framework))
        };
        frameworks
            .iter()
            .map(|framework| (0..agents).filter(|n| holds(framework, n)).count())
            .collect()
    }
}

pub(crate) fn grant(framework: &str, in_role: &str, what: &str) -> Grant {
    Grant {
        framework: f(framework),
        role: role(in_role),
        resources: res(what),
    }
}

/// Amounts of scalars, and how many ports: `cpus:1; ports:2`.
pub(crate) fn amounts(text: &str) -> Amounts {
    let resources = res(text);
    let scalars = resources.scalars();
    scalars
        .map(|(name, amount)| (Name::from(name.as_str()), amount))
        .collect()
}
