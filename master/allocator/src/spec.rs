//! The facts that a module is told, and what it decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use allotment_types::{
    AgentId, Attribute, FaultDomain, Fixed, FrameworkId, Name, Resources, Role, Timestamp,
};

use crate::constraint::Constraints;

/// Amounts of scalars by name, of any lot.
pub type Amounts = BTreeMap<Name, Fixed>;

/// The smallest bundle worth an offer: at least all amounts of any one of these. An empty list
/// takes anything (Mesos: `min_allocatable_resources`, `OfferFilters.MinAllocatableResources`).
pub type MinAllocatable = Vec<Amounts>;

/// What the module must know of a framework.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameworkSpec {
    /// The roles it takes offers in; at least one.
    pub roles: BTreeMap<Role, RoleSpec>,
    /// What it can deal with.
    pub capabilities: Capabilities,
}

/// What a framework wants in one role.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoleSpec {
    /// It wants no offers at present.
    pub suppressed: bool,
    /// The smallest bundle it wants; `None`: what the module is configured to.
    pub min_allocatable: Option<MinAllocatable>,
    /// The agents it wants offers of; `None`: all (Mesos 1.11: `OfferConstraints`).
    pub constraints: Option<Constraints>,
}

/// What a framework can deal with (Mesos: `FrameworkInfo.Capability`). What it cannot is left
/// out of its offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Resources that may be taken away.
    pub revocable: bool,
    /// Volumes that several tasks use at once.
    pub shared: bool,
    /// Agents with GPUs.
    pub gpu: bool,
    /// Agents of a region other than the master's.
    pub region_aware: bool,
    /// Resources with more than one reservation.
    pub reservation_refinement: bool,
}

/// What a framework would use at once in one role, so that it is offered that and no crumbs.
///
/// It is offered agents where `bundle` fits, as many bundles of each as fit, until `count` were
/// offered; then nothing until it states a demand again. Offers that it declines, or that are
/// rescinded, do not come back by themselves: whoever still wants them states the demand anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The smallest useful bundle: amounts, and how many ports (as the amount of `ports`).
    pub bundle: Amounts,
    /// How many bundles.
    pub count: u32,
    /// When no agent has room for one, keep what becomes free on one agent until it has: a hole.
    /// Bounded per role and in time, see the module's configuration.
    pub hole: bool,
}

/// What the module must know of an agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentSpec {
    /// Everything it has.
    pub total: Resources,
    /// What runs there already, as an agent that re-registers reports it.
    pub used: Vec<Grant>,
    /// For constraints on `HOSTNAME`.
    pub hostname: String,
    /// For constraints on attributes.
    pub attributes: Vec<Attribute>,
    /// Where it stands, when it says.
    pub domain: Option<FaultDomain>,
}

/// When an agent will be away (Mesos: `Unavailability`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailability {
    /// From when.
    pub start: Timestamp,
    /// For how long; `None`: for good.
    pub duration: Option<Duration>,
}

/// What a role and its descendants together may have and are promised; a name that is missing is
/// unlimited, or promised nothing (Mesos: `quota.md`).
///
/// Whoever sets quotas has checked that they go together: no guarantee above its limit, the
/// children's guarantees no more than their parent's, no child's limit above its parent's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// Kept available for the role.
    pub guarantees: Amounts,
    /// Never exceeded.
    pub limits: Amounts,
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

/// What became of resources that are free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The framework declined them, or left them over when it accepted: it is not offered a
    /// bundle that they contain for so long (zero: no filter).
    Declined {
        /// How long.
        refuse_for: Duration,
        /// The framework used part of the offer.
        used_some: bool,
    },
    /// The offer was taken back or expired.
    Rescinded,
    /// They were in use and no longer are.
    Ended,
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

/// A decision: ask this framework to leave this agent before it goes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InverseAllocation {
    /// Whom to ask.
    pub framework: FrameworkId,
    /// Which agent.
    pub agent: AgentId,
    /// When it will be away.
    pub unavailability: Unavailability,
}

/// What one round decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// In the order of the decisions. All of it counts as allocated from here on.
    pub allocations: Vec<Allocation>,
    /// Once per framework and agent until they are answered.
    pub inverse: Vec<InverseAllocation>,
    /// The call ended before the round did: the next one goes on, and is due at once. What was
    /// decided so far holds.
    pub unfinished: bool,
    /// How much was looked at: how often one client was considered on one agent.
    pub looks: u64,
}

impl Round {
    /// Whether nothing was decided.
    pub const fn is_empty(&self) -> bool {
        self.allocations.is_empty() && self.inverse.is_empty()
    }
}

/// How far a round has come that one call of `allocate` was not enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Calls so far.
    pub calls: u64,
    /// After so many looks a call begins nothing more.
    pub looks_per_call: u64,
    /// What the round is at.
    pub part: Part,
    /// Agents that this part is done with; clients where it takes one after the other.
    pub done: usize,
    /// Of how many.
    pub of: usize,
}

/// A part of a round, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Agent after agent: what is promised to roles.
    Guarantees,
    /// Client after client: demands that the module places before fair share.
    Demands,
    /// Agent after agent: everybody by their share.
    FairShare,
    /// Client after client: holes for those who were granted nothing.
    Holes,
}

impl fmt::Display for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, what) = match self.part {
            Part::Guarantees => ("guarantees", "agents"),
            Part::Demands => ("demands", "frameworks"),
            Part::FairShare => ("fair share", "agents"),
            Part::Holes => ("holes", "frameworks"),
        };
        let calls = if self.calls == 1 { "call" } else { "calls" };
        write!(
            f,
            "the allocation round is at {part}, done with {} of {} {what} after {} {calls} that \
             each end after {} looks; what it has not come to is not decided yet",
            self.done, self.of, self.calls, self.looks_per_call
        )
    }
}

/// A hole that is kept for a large task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// On which agent.
    pub agent: AgentId,
    /// For whom.
    pub framework: FrameworkId,
    /// In which of its roles.
    pub role: Role,
    /// What must fit.
    pub bundle: Amounts,
    /// When it is given up.
    pub until: Timestamp,
}

/// Why resources could not be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// No such agent.
    #[error("agent {agent} is not known")]
    UnknownAgent {
        /// Which agent.
        agent: AgentId,
    },
    /// They are not where they should be.
    #[error(
        "agent {agent} has {held} in that place but {asked} were to be converted; wait until \
         they are free or name less"
    )]
    NotThere {
        /// Which agent.
        agent: AgentId,
        /// What was named.
        asked: Resources,
        /// What is there.
        held: Resources,
    },
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

/// Settings that every module shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// The smallest bundle worth an offer (Mesos: cpus 0.01 or 32 MB of mem).
    pub min_allocatable: MinAllocatable,
    /// Names that do not count in shares (Mesos: `fair_sharing_excluded_resource_names`).
    pub share_excluded: BTreeSet<Name>,
    /// Agents with GPUs are kept from frameworks without the capability (Mesos:
    /// `filter_gpu_resources`).
    pub filter_gpus: bool,
    /// The master's own place; agents of other regions go to region-aware frameworks alone.
    pub domain: Option<FaultDomain>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            min_allocatable: vec![
                Amounts::from([(Name::CPUS, Fixed::from_thousandths(10))]),
                Amounts::from([(Name::MEM, Fixed::units(32))]),
            ],
            share_excluded: BTreeSet::new(),
            filter_gpus: true,
            domain: None,
        }
    }
}
