//! The allocation module under observation: the master owns one end, the checks hold the other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_allocator::{
    AgentSpec, Allocation, Allocator, Drf, FrameworkSpec, Grant, Share, Unoffered,
};
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

/// A fault planted in the allocator to see that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plant {
    /// An honest allocator.
    #[default]
    None,
    /// What a framework gives back is given out although it is in use: every grant comes back a
    /// second time.
    FreeTwice,
    /// What a framework gives back is lost.
    FreeNever,
}

/// A shared allocator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    inner: Arc<Mutex<Drf>>,
    plant: Plant,
}

impl Watched {
    pub(crate) fn new(plant: Plant) -> Self {
        Self {
            inner: Arc::default(),
            plant,
        }
    }

    fn drf(&self) -> MutexGuard<'_, Drf> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allocator for Watched {
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec) {
        self.drf().add_framework(framework, spec);
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        self.drf().deactivate_framework(framework);
    }

    fn remove_framework(&mut self, framework: &FrameworkId) {
        self.drf().remove_framework(framework);
    }

    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec) {
        self.drf().add_agent(agent, spec);
    }

    fn set_agent_active(&mut self, agent: &AgentId, active: bool) {
        self.drf().set_agent_active(agent, active);
    }

    fn remove_agent(&mut self, agent: &AgentId) {
        self.drf().remove_agent(agent);
    }

    fn recover(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        grant: &Grant,
        refuse_for: Option<Duration>,
    ) {
        let mut drf = self.drf();
        match self.plant {
            Plant::None => drf.recover(now, agent, grant, refuse_for),
            Plant::FreeTwice => {
                drf.recover(now, agent, grant, None);
                drf.recover(now, agent, grant, None);
            }
            Plant::FreeNever => {}
        }
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.drf().suppress(framework, roles);
    }

    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.drf().revive(framework, roles);
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        self.drf().set_weight(role, weight_thousandths);
    }

    fn allocate(&mut self, now: Timestamp) -> Vec<Allocation> {
        self.drf().allocate(now)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.drf().next_deadline()
    }

    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered> {
        self.drf().explain(now, framework)
    }

    fn role_share(&self, role: &Role) -> Share {
        self.drf().role_share(role)
    }

    fn framework_share(&self, framework: &FrameworkId) -> Share {
        self.drf().framework_share(framework)
    }

    fn weight(&self, role: &Role) -> u64 {
        self.drf().weight(role)
    }

    fn free(&self, agent: &AgentId) -> Resources {
        self.drf().free(agent)
    }

    fn held(&self, agent: &AgentId) -> Vec<Grant> {
        self.drf().held(agent)
    }
}
