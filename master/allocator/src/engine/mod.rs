//! The engine of the shipped modules: books, rules, rounds. A [`Policy`] says who comes first.
//!
//! `docs/design/allocation.md` is its contract. Facts change the [`Books`] at once ([`facts`],
//! [`registry`]); whatever may let somebody be granted something becomes [`News`](news::News); a
//! [`round`] looks only at news, and asks the rules ([`eligible`]) what a client may be granted.

mod agents;
mod books;
mod bundle;
mod clients;
mod eligible;
mod facts;
mod filters;
mod holes;
mod maintenance;
mod news;
mod order;
mod patience;
mod placement;
mod policy;
mod progress;
mod quota;
mod ranks;
mod registry;
mod roles;
mod round;
mod slab;
mod sums;
mod views;
mod why;

use std::collections::BTreeSet;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use crate::{
    AgentReport, AgentSpec, Allocator, Amounts, ConvertError, Demand, FrameworkSpec, Grant, Hole,
    Quota, Recovery, RoleReport, Round, Settings, Share, Unavailability, UnderWay, Unoffered,
};

pub(crate) use books::Books;
pub(crate) use eligible::Phase;
pub(crate) use order::View;
pub(crate) use policy::Policy;

pub(crate) use placement::mix;
pub(crate) use roles::{Branch, Flow, ROOT};
pub(crate) use slab::Slot;

/// A module made of the shared books and a policy.
#[derive(Debug)]
pub struct Engine<P> {
    books: Books,
    policy: P,
}

impl<P> Engine<P> {
    pub(crate) fn with_policy(settings: Settings, policy: P) -> Self {
        Self {
            books: Books::new(settings),
            policy,
        }
    }
}

impl<P: Policy> Allocator for Engine<P> {
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec) {
        self.books.add_framework(framework, spec);
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        self.books.deactivate_framework(framework);
    }

    fn remove_framework(&mut self, framework: &FrameworkId) {
        self.books.remove_framework(framework);
    }

    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec) {
        self.books.add_agent(agent, spec);
    }

    fn set_agent_active(&mut self, agent: &AgentId, active: bool) {
        self.books.set_agent_active(agent, active);
    }

    fn set_unavailability(&mut self, agent: &AgentId, unavailability: Option<Unavailability>) {
        self.books.set_unavailability(agent, unavailability);
    }

    fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    ) {
        self.books.answer_inverse(agent, framework, until);
    }

    fn remove_agent(&mut self, agent: &AgentId) {
        self.books.remove_agent(agent);
    }

    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        self.books.recover(now, agent, grant, recovery);
    }

    fn convert(
        &mut self,
        agent: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError> {
        self.books.convert(agent, holder, from, to)
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.books.suppress(framework, roles);
    }

    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.books.revive(framework, roles);
    }

    fn set_demand(&mut self, framework: &FrameworkId, role: &Role, demand: Option<Demand>) {
        self.books.set_demand(framework, role, demand);
    }

    fn set_weight(&mut self, role: &Role, weight_thousandths: u64) {
        self.books.set_weight(role, weight_thousandths);
    }

    fn set_quota(&mut self, role: &Role, quota: Quota) {
        self.books.set_quota(role, quota);
    }

    fn pause(&mut self) {
        self.books.paused = true;
    }

    fn resume(&mut self) {
        self.books.paused = false;
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        self.books.allocate(now, &mut self.policy)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.books.next_deadline()
    }

    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered> {
        self.books.explain(now, framework, &self.policy)
    }

    fn explain_role(&self, role: &Role) -> Option<RoleReport> {
        self.books.report_role(role)
    }

    fn explain_agent(&self, now: Timestamp, agent: &AgentId) -> Option<AgentReport> {
        self.books.report_agent(now, agent, &self.policy)
    }

    fn under_way(&self) -> Option<UnderWay> {
        self.books.report_under_way()
    }

    fn role_share(&self, role: &Role) -> Share {
        self.books.role_share(role)
    }

    fn framework_share(&self, framework: &FrameworkId) -> Share {
        self.books.framework_share(framework)
    }

    fn weight(&self, role: &Role) -> u64 {
        self.books.weight(role)
    }

    fn quota(&self, role: &Role) -> Quota {
        self.books.quota(role)
    }

    fn consumed(&self, role: &Role) -> Amounts {
        self.books.consumed(role)
    }

    fn holes(&self) -> Vec<Hole> {
        self.books.kept_holes()
    }

    fn free(&self, agent: &AgentId) -> Resources {
        self.books.free(agent)
    }

    fn held(&self, agent: &AgentId) -> Vec<Grant> {
        self.books.held(agent)
    }
}
