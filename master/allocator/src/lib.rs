//! The allocation module: which framework is offered which resources, and why not.
//!
//! A module is a pure state machine behind [`Allocator`]: facts come in, allocations and reasons
//! come out. It knows neither sockets nor clocks nor protobuf. Conservation is its promise: at
//! every instant each resource of an agent is either free or allocated to one framework in one
//! role. *Allocated* here covers offered and used alike, as in Mesos; the master tells the two
//! apart.
//!
//! - [`drf`]: the default module, hierarchical-ready weighted dominant resource fairness.
//! - [`explain`]: why a framework was not offered an agent, as data.

pub mod drf;
pub mod explain;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

pub use drf::Drf;
pub use explain::Unoffered;

/// What the module must know of a framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkSpec {
    /// The roles it takes offers in; at least one.
    pub roles: BTreeSet<Role>,
    /// Those of them it wants no offers for at present.
    pub suppressed: BTreeSet<Role>,
}

/// What the module must know of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Everything it has.
    pub total: Resources,
    /// What runs there already, as an agent that re-registers reports it.
    pub used: Vec<Grant>,
}

/// Resources that one framework holds in one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who holds them.
    pub framework: FrameworkId,
    /// In which of its roles.
    pub role: Role,
    /// What it holds.
    pub resources: Resources,
}

/// A decision: offer these resources of this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// To whom.
    pub framework: FrameworkId,
    /// In which of its roles.
    pub role: Role,
    /// Of which agent.
    pub agent: AgentId,
    /// What is offered.
    pub resources: Resources,
}

/// A share of the cluster as an exact ratio: `numerator / denominator`, before weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Thousandths of the dominant resource held.
    pub numerator: u64,
    /// Thousandths of it in the whole cluster; 0 when the cluster has none.
    pub denominator: u64,
}

impl Share {
    /// The share as a number between 0 and 1, for people.
    #[expect(clippy::cast_precision_loss, reason = "printed, never compared")]
    pub fn as_f64(self) -> f64 {
        if self.denominator == 0 {
            0.0
        } else {
            self.numerator as f64 / self.denominator as f64
        }
    }
}

/// An allocation module.
///
/// Facts about unknown frameworks or agents are ignored: the master removes in any order.
/// Every method is deterministic; ties end in an id.
pub trait Allocator: fmt::Debug + Send {
    /// A framework subscribed, or its roles changed. Keeps what it holds, and its filters in
    /// the roles that it keeps; an inactive framework becomes active.
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec);

    /// A framework disconnected: no offers until it is added again. Its filters are forgotten,
    /// what it holds stays held.
    fn deactivate_framework(&mut self, framework: &FrameworkId);

    /// A framework is gone; what it still holds becomes free.
    fn remove_framework(&mut self, framework: &FrameworkId);

    /// An agent registered. Replaces what was known of it.
    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec);

    /// An agent may be offered (`true`) or must not be while it is disconnected (`false`).
    fn set_agent_active(&mut self, agent: &AgentId, active: bool);

    /// An agent is gone, with everything held there.
    fn remove_agent(&mut self, agent: &AgentId);

    /// `grant.resources` on `agent` are free again: declined, rescinded, or a task ended.
    /// With `refuse_for`, the framework is not offered a bundle that those resources contain
    /// until the time is over (Mesos: a filter; zero sets none).
    fn recover(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        grant: &Grant,
        refuse_for: Option<Duration>,
    );

    /// The framework wants no offers in these roles; in all of its roles when empty.
    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>);

    /// The framework wants offers in these roles again (all when empty) and its filters for them
    /// are forgotten.
    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>);

    /// Shares of this role count `1 / weight` from now on; `weight` in thousandths, above 0.
    fn set_weight(&mut self, role: &Role, weight_thousandths: u64);

    /// Decides. Everything returned counts as allocated from here on. A second round without
    /// news returns nothing.
    fn allocate(&mut self, now: Timestamp) -> Vec<Allocation>;

    /// When a filter next expires, so that a round is worth its while without other news.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// Why `framework` was offered nothing on the agents where it was offered nothing: one reason
    /// per agent, or one for the whole framework. The cost is paid only here.
    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered>;

    /// The dominant share of a role, frameworks of all its members counted.
    fn role_share(&self, role: &Role) -> Share;

    /// The dominant share of a framework over all its roles.
    fn framework_share(&self, framework: &FrameworkId) -> Share;

    /// The weight of a role in thousandths; 1000 unless set.
    fn weight(&self, role: &Role) -> u64;

    /// What nobody holds on an agent; nothing when it is unknown. With [`Self::held`] it makes up
    /// the agent's total exactly, so that a caller can compare its own books.
    fn free(&self, agent: &AgentId) -> Resources;

    /// Who holds what on an agent, offered or used, one grant per framework and role in their
    /// order.
    fn held(&self, agent: &AgentId) -> Vec<Grant>;
}
