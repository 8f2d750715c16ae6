//! The allocation module under observation: the master owns one end, the checks hold the other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use allotment_allocator::{
    AgentSpec, Allocator, Amounts, ConvertError, Demand, Drf, FrameworkSpec, Grant, Hole, Quota,
    Recovery, Round, Share, Unavailability, Unoffered,
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

    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        let mut drf = self.drf();
        match self.plant {
            Plant::None => drf.recover(now, agent, grant, recovery),
            Plant::FreeTwice => {
                drf.recover(now, agent, grant, Recovery::Ended);
                drf.recover(now, agent, grant, Recovery::Ended);
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

    fn set_unavailability(&mut self, agent: &AgentId, unavailability: Option<Unavailability>) {
        self.drf().set_unavailability(agent, unavailability);
    }

    fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    ) {
        self.drf().answer_inverse(agent, framework, until);
    }

    fn convert(
        &mut self,
        agent: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError> {
        self.drf().convert(agent, holder, from, to)
    }

    fn set_demand(&mut self, framework: &FrameworkId, role: &Role, demand: Option<Demand>) {
        self.drf().set_demand(framework, role, demand);
    }

    fn set_quota(&mut self, role: &Role, quota: Quota) {
        self.drf().set_quota(role, quota);
    }

    fn pause(&mut self) {
        self.drf().pause();
    }

    fn resume(&mut self) {
        self.drf().resume();
    }

    fn quota(&self, role: &Role) -> Quota {
        self.drf().quota(role)
    }

    fn consumed(&self, role: &Role) -> Amounts {
        self.drf().consumed(role)
    }

    fn holes(&self) -> Vec<Hole> {
        self.drf().holes()
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        self.drf().set_weight(role, weight_thousandths);
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
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
