//! The allocation module: which framework is offered which resources, and why not.
//!
//! A module is a pure state machine behind [`Allocator`]: facts come in, allocations and reasons
//! come out. It knows neither sockets nor clocks nor protobuf. Conservation is its promise: at
//! every instant each resource of an agent is either free or allocated to one framework in one
//! role (a shared volume: to any number of them). *Allocated* here covers offered and used alike,
//! as in Mesos; the master tells the two apart.
//!
//! - [`Around`]: a module around another one, in a few lines.
//! - [`spec`]: the facts and the decisions.
//! - [`config`]: the settings of the shipped modules.
//! - [`constraint`]: which agents a framework wants offers of.
//! - [`modules`]: the modules by name.
//! - [`drf`]: the default module, hierarchical weighted dominant resource fairness.
//! - [`random`], [`best_fit`]: two others.
//! - [`explain`]: why a framework was not offered an agent, as data.
//! - `conformance` (feature of that name): what every module must keep to, as a test suite.

mod around;
pub mod best_fit;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod constraint;
pub mod drf;
mod engine;
pub mod explain;
pub mod modules;
pub mod random;
pub mod spec;

use std::collections::BTreeSet;
use std::fmt;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

pub use around::Around;
pub use best_fit::BestFit;
pub use config::{Placement, Settings};
pub use constraint::Constraints;
pub use drf::Drf;
pub use engine::Engine;
pub use explain::{AgentReport, ClientReport, RoleReport, Room, Standing, Unoffered};
pub use modules::{Make, ModuleError, Modules};
pub use random::RandomSorter;
pub use spec::*;

/// An allocation module.
///
/// Facts about unknown frameworks or agents are ignored: the master removes in any order.
/// Every method is deterministic; ties end in an id.
pub trait Allocator: fmt::Debug + Send {
    /// A framework subscribed, or what it wants changed. Keeps what it holds, and its filters in
    /// the roles that it keeps and that were not suppressed before; an inactive framework becomes
    /// active.
    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec);

    /// A framework disconnected: no offers until it is added again. Its filters and demands are
    /// forgotten, what it holds stays held.
    fn deactivate_framework(&mut self, framework: &FrameworkId);

    /// A framework is gone; what it still holds becomes free.
    fn remove_framework(&mut self, framework: &FrameworkId);

    /// An agent registered. Replaces what was known of it, filters included.
    fn add_agent(&mut self, agent: &AgentId, spec: AgentSpec);

    /// An agent may be offered (`true`), or must not be while it is disconnected, deactivated or
    /// drained (`false`).
    fn set_agent_active(&mut self, agent: &AgentId, active: bool);

    /// When the agent will be away; `None`: it stays. Frameworks that hold something there are
    /// asked to leave.
    fn set_unavailability(&mut self, agent: &AgentId, unavailability: Option<Unavailability>);

    /// The framework answered the inverse offer, or it was rescinded: it may be asked again after
    /// `until` (`None`: at once).
    fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    );

    /// An agent is gone, with everything held there.
    fn remove_agent(&mut self, agent: &AgentId);

    /// `grant.resources` on `agent` are free again. More than is held cannot come back.
    fn recover(&mut self, now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery);

    /// Resources of `agent` became others: reserved, unreserved, made a volume or no longer one.
    /// With `holder` they stay held by that framework in that role; without, they are and stay
    /// free. `from` and `to` have the same amounts.
    ///
    /// # Errors
    /// [`ConvertError`] when `from` is not where it should be; nothing changed then.
    fn convert(
        &mut self,
        agent: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources,
    ) -> Result<(), ConvertError>;

    /// The framework wants no offers in these roles; in all of its roles when empty.
    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>);

    /// The framework wants offers in these roles again (all when empty) and its filters for them
    /// are forgotten.
    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>);

    /// What the framework would use in this role; `None` ends the demand, and it is offered
    /// whatever its share brings.
    fn set_demand(&mut self, framework: &FrameworkId, role: &Role, demand: Option<Demand>);

    /// Shares of this role count `1 / weight` from now on; `weight` in thousandths, above 0.
    fn set_weight(&mut self, role: &Role, weight_thousandths: u64);

    /// What a role and its descendants may have and are promised; the default quota ends both.
    fn set_quota(&mut self, role: &Role, quota: Quota);

    /// No allocation until [`Self::resume`]: the master does not know enough yet.
    fn pause(&mut self);

    /// Allocations go on.
    fn resume(&mut self);

    /// Decides. Everything returned counts as allocated from here on. A second round without
    /// news returns nothing.
    fn allocate(&mut self, now: Timestamp) -> Round;

    /// When something ends by time alone, so that a round is worth its while without other news.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// Why `framework` was offered nothing on the agents where it was offered nothing: one reason
    /// per agent, or one for the whole framework. The cost is paid only here.
    fn explain(&self, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered>;

    /// How a role stands, and why it gets no more; `None` when the module knows nothing of it.
    fn explain_role(&self, _role: &Role) -> Option<RoleReport> {
        None
    }

    /// How an agent stands, and why what is free there was not offered; `None` when the module
    /// knows nothing of it.
    fn explain_agent(&self, _now: Timestamp, _agent: &AgentId) -> Option<AgentReport> {
        None
    }

    /// How far the round has come that the last call left unfinished; `None`: it left none, or
    /// the module does not tell.
    fn under_way(&self) -> Option<UnderWay> {
        None
    }

    /// The dominant share of a role, all that its descendants hold counted.
    fn role_share(&self, role: &Role) -> Share;

    /// The dominant share of a framework over all its roles.
    fn framework_share(&self, framework: &FrameworkId) -> Share;

    /// The weight of a role in thousandths; 1000 unless set.
    fn weight(&self, role: &Role) -> u64;

    /// The quota of a role; the default when none was set.
    fn quota(&self, role: &Role) -> Quota;

    /// What counts against the role's quota: everything reserved for it or below, and what it and
    /// its descendants hold of the rest, revocable resources left out.
    fn consumed(&self, role: &Role) -> Amounts;

    /// The holes that are kept at present.
    fn holes(&self) -> Vec<Hole>;

    /// What nobody holds on an agent; nothing when it is unknown. With [`Self::held`] it makes up
    /// the agent's total exactly (shared volumes aside, which are always here), so that a caller
    /// can compare its own books.
    fn free(&self, agent: &AgentId) -> Resources;

    /// Who holds what on an agent, offered or used, one grant per framework and role in their
    /// order.
    fn held(&self, agent: &AgentId) -> Vec<Grant>;
}
