//! The allocation module under observation: the master owns one end, the checks hold the other.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use allotment_allocator::{
    AgentReport, AgentSpec, Allocator, Amounts, ConvertError, Demand, FrameworkSpec, Grant, Hole,
    Quota, Recovery, RoleReport, Round, Share, Unavailability, UnderWay, Unoffered,
};
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use crate::plant::Plant;

/// A shared allocator.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    inner: Arc<Mutex<Inner>>,
    plant: Plant,
    /// Whether somebody looks at what was touched.
    checked: bool,
}

#[derive(Debug)]
struct Inner {
    module: Box<dyn Allocator>,
    /// Agents of which something was said or given since somebody looked.
    touched: BTreeSet<AgentId>,
}

/// The module, while nobody else can have it.
struct Module<'a>(MutexGuard<'a, Inner>);

impl Deref for Module<'_> {
    type Target = dyn Allocator;

    fn deref(&self) -> &Self::Target {
        &*self.0.module
    }
}

impl DerefMut for Module<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0.module
    }
}

impl Watched {
    /// `checked`: somebody asks what was touched.
    pub(crate) fn new(module: Box<dyn Allocator>, plant: Plant, checked: bool) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                module,
                touched: BTreeSet::new(),
            })),
            plant,
            checked,
        }
    }

    /// Agents of which something was said or given since this was asked.
    pub(crate) fn take_touched(&self) -> BTreeSet<AgentId> {
        std::mem::take(&mut self.module().0.touched)
    }

    fn module(&self) -> Module<'_> {
        Module(self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The module, to be told something about an agent.
    fn about(&self, agent: &AgentId) -> Module<'_> {
        let mut module = self.module();
        if self.checked && !module.0.touched.contains(agent) {
            module.0.touched.insert(agent.clone());
        }
        module
    }
}

impl Allocator for Watched {
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec) {
        self.module().add_framework(framework, spec);
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        self.module().deactivate_framework(framework);
    }

    fn remove_framework(&mut self, framework: &FrameworkId) {
        self.module().remove_framework(framework);
    }

    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec) {
        self.about(agent).add_agent(agent, spec);
    }

    fn set_agent_active(&mut self, agent: &AgentId, active: bool) {
        let active = active || self.plant == Plant::InactiveAgentOffered;
        self.about(agent).set_agent_active(agent, active);
    }

    fn remove_agent(&mut self, agent: &AgentId) {
        self.about(agent).remove_agent(agent);
    }

    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        let mut module = self.about(agent);
        match (self.plant, recovery) {
            (Plant::FreedTwice, _) => {
                module.recover(now, agent, grant, Recovery::Ended);
                module.recover(now, agent, grant, Recovery::Ended);
            }
            (Plant::FreedNever, _) => {}
            _ => module.recover(now, agent, grant, recovery),
        }
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.module().suppress(framework, roles);
    }

    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        if self.plant == Plant::ReviveForgotten {
            return;
        }
        self.module().revive(framework, roles);
    }

    fn set_unavailability(&mut self, agent: &AgentId, unavailability: Option<Unavailability>) {
        self.module().set_unavailability(agent, unavailability);
    }

    fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    ) {
        self.module().answer_inverse(agent, framework, until);
    }

    fn convert(
        &mut self,
        agent: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError> {
        self.about(agent).convert(agent, holder, from, to)
    }

    fn set_demand(&mut self, framework: &FrameworkId, role: &Role, demand: Option<Demand>) {
        self.module().set_demand(framework, role, demand);
    }

    fn set_quota(&mut self, role: &Role, quota: Quota) {
        if self.plant != Plant::LimitIgnored {
            self.module().set_quota(role, quota);
        }
    }

    fn pause(&mut self) {
        self.module().pause();
    }

    fn resume(&mut self) {
        self.module().resume();
    }

    fn quota(&self, role: &Role) -> Quota {
        self.module().quota(role)
    }

    fn consumed(&self, role: &Role) -> Amounts {
        self.module().consumed(role)
    }

    fn holes(&self) -> Vec<Hole> {
        self.module().holes()
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        self.module().set_weight(role, weight_thousandths);
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        let mut module = self.module();
        let mut round = module.allocate(now);
        if self.checked {
            let agents = round.allocations.iter().map(|given| given.agent.clone());
            module.0.touched.extend(agents);
        }
        if self.plant == Plant::OfferedTwice {
            let again = round.allocations.first().cloned();
            round.allocations.extend(again);
        }
        round
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.module().next_deadline()
    }

    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered> {
        self.module().explain(now, framework)
    }

    fn explain_role(&self, role: &Role) -> Option<RoleReport> {
        self.module().explain_role(role)
    }

    fn explain_agent(&self, now: Timestamp, agent: &AgentId) -> Option<AgentReport> {
        self.module().explain_agent(now, agent)
    }

    fn under_way(&self) -> Option<UnderWay> {
        self.module().under_way()
    }

    fn role_share(&self, role: &Role) -> Share {
        self.module().role_share(role)
    }

    fn framework_share(&self, framework: &FrameworkId) -> Share {
        self.module().framework_share(framework)
    }

    fn weight(&self, role: &Role) -> u64 {
        self.module().weight(role)
    }

    fn free(&self, agent: &AgentId) -> Resources {
        self.module().free(agent)
    }

    fn held(&self, agent: &AgentId) -> Vec<Grant> {
        self.module().held(agent)
    }
}
