//! Why resources were not offered, as data with numbers.

use std::fmt;

use allotment_types::{AgentId, Fixed, FrameworkId, Name, Resources, Role, Timestamp};

use crate::{Amounts, Grant, Hole, Quota, Share, Unavailability};

/// The reason why a framework was offered nothing: of several roles that of the one which got
/// farthest.
#[derive(Debug, Clone, PartialEq)]
pub enum Unoffered {
    /// The framework is not connected.
    Inactive,
    /// It asked for no offers in this role.
    Suppressed {
        /// Which role.
        role: Role,
    },
    /// Everything it said it would use in this role was offered.
    DemandMet {
        /// Which role.
        role: Role,
    },
    /// No agent is registered.
    NoAgents,
    /// Nothing is offered to anybody until enough agents are back.
    Paused,
    /// The agent is disconnected, deactivated or drained.
    AgentInactive {
        /// Which agent.
        agent: AgentId,
    },
    /// Everything is in use or offered to others.
    NothingFree {
        /// Which agent.
        agent: AgentId,
    },
    /// The framework does not want offers of this agent.
    Constraint {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// The constraint that failed.
        failing: String,
    },
    /// Agents with GPUs go to frameworks with the capability alone.
    Gpus {
        /// Which agent.
        agent: AgentId,
    },
    /// The agent stands in a region other than the master's.
    Region {
        /// Which agent.
        agent: AgentId,
        /// Its region.
        region: String,
    },
    /// What is free there is reserved for other roles.
    Reserved {
        /// Which agent.
        agent: AgentId,
        /// In which role the framework asked.
        role: Role,
        /// For whom most of it is reserved.
        owner: Role,
        /// What is free there.
        free: Resources,
    },
    /// What is free there needs a capability that the framework does not have.
    Capability {
        /// Which agent.
        agent: AgentId,
        /// The capability, as Mesos names it.
        capability: &'static str,
        /// What is free there.
        free: Resources,
    },
    /// The role, or one above it, reached its limit.
    Limit {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// Whose limit it is.
        limited: Role,
        /// Of which resource.
        name: Name,
        /// The limit.
        limit: Fixed,
        /// What counts against it.
        consumed: Fixed,
    },
    /// What is free is kept for the guarantees of others.
    Headroom {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// Of which resource.
        name: Name,
        /// How much is free in the cluster.
        available: Fixed,
        /// How much of that is kept.
        required: Fixed,
        /// For whom most of it is kept.
        guaranteed: Role,
    },
    /// What becomes free there is kept for somebody's large task.
    HoleKept {
        /// Which agent.
        agent: AgentId,
        /// For whom.
        framework: FrameworkId,
        /// Until when.
        until: Timestamp,
    },
    /// Not even one bundle of the framework's demand fits; of several agents, those that lack
    /// least come first.
    Demand {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// What is missing there for one bundle.
        missing: Amounts,
    },
    /// What is left is below the smallest offer (Mesos: `min_allocatable_resources`).
    TooSmall {
        /// Which agent.
        agent: AgentId,
        /// What is free there.
        free: Resources,
    },
    /// It declined as much or more a short while ago.
    Filtered {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// What is free there.
        free: Resources,
        /// When the filter ends.
        until: Timestamp,
    },
    /// It declined as much as this again and again, and so comes last for it for a while.
    Aside {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// Until when.
        until: Timestamp,
        /// Who comes first.
        against: FrameworkId,
    },
    /// Somebody with a smaller share comes first.
    Behind {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
        /// Its share.
        share: Share,
        /// Who comes first.
        against: FrameworkId,
        /// Their share.
        their_share: Share,
    },
    /// The next round decides.
    Next {
        /// Which agent.
        agent: AgentId,
        /// In which role.
        role: Role,
    },
}

impl Unoffered {
    /// The agent it is about; `None` when it is about the whole framework.
    pub const fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Inactive
            | Self::Suppressed { .. }
            | Self::DemandMet { .. }
            | Self::NoAgents
            | Self::Paused => None,
            Self::AgentInactive { agent }
            | Self::NothingFree { agent }
            | Self::Constraint { agent, .. }
            | Self::Gpus { agent }
            | Self::Region { agent, .. }
            | Self::Reserved { agent, .. }
            | Self::Capability { agent, .. }
            | Self::Limit { agent, .. }
            | Self::Headroom { agent, .. }
            | Self::HoleKept { agent, .. }
            | Self::Demand { agent, .. }
            | Self::TooSmall { agent, .. }
            | Self::Filtered { agent, .. }
            | Self::Aside { agent, .. }
            | Self::Behind { agent, .. }
            | Self::Next { agent, .. } => Some(agent),
        }
    }

    /// The reason without the agent it is about: equal for agents with the same reason, so that
    /// thousands of agents read as one line.
    pub fn sentence(&self) -> String {
        let percent = |share: &Share| share.as_f64() * 100.0;
        match self {
            Self::Inactive => "the framework is not connected".to_owned(),
            Self::Suppressed { role } => {
                format!("the framework suppressed offers for role {role}; it must revive")
            }
            Self::DemandMet { role } => format!(
                "everything that the framework asked for in role {role} was offered; it must \
                 state a new demand"
            ),
            Self::NoAgents => "no agent is registered".to_owned(),
            Self::Paused => "nothing is offered until enough agents are back".to_owned(),
            Self::AgentInactive { .. } => "not active".to_owned(),
            Self::NothingFree { .. } => "nothing free".to_owned(),
            Self::Constraint { role, failing, .. } => {
                format!("not wanted in role {role}: {failing}")
            }
            Self::Gpus { .. } => "has GPUs, and the framework lacks GPU_RESOURCES".to_owned(),
            Self::Region { region, .. } => {
                format!("in region {region}, and the framework lacks REGION_AWARE")
            }
            Self::Reserved { role, owner, .. } => {
                format!("what is free is reserved for role {owner}, not {role}")
            }
            Self::Capability { capability, .. } => {
                format!("what is free needs the capability {capability}")
            }
            Self::Limit {
                role,
                limited,
                name,
                limit,
                consumed,
                ..
            } => format!(
                "the quota of role {limited} limits {role}: {consumed}{unit} of {limit}{unit} \
                 {name} consumed",
                unit = name.unit()
            ),
            Self::Headroom {
                role,
                name,
                available,
                required,
                guaranteed,
                ..
            } => format!(
                "of {available}{unit} {name} that are free {required}{unit} are kept for \
                 guarantees, most for role {guaranteed}; too little is left for {role}",
                unit = name.unit()
            ),
            Self::HoleKept {
                framework, until, ..
            } => format!("a hole is kept for framework {framework} until {until}"),
            Self::Demand { role, missing, .. } => {
                let missing: Vec<String> = missing
                    .iter()
                    .map(|(name, amount)| format!("{amount}{} {name}", name.unit()))
                    .collect();
                format!(
                    "one bundle of the demand in role {role} lacks {}",
                    missing.join(", ")
                )
            }
            Self::TooSmall { free, .. } => {
                format!("only {free} free, below the smallest offer")
            }
            Self::Filtered {
                role, free, until, ..
            } => format!(
                "{free} free, but the framework declined it in role {role}; the filter ends at \
                 {until}"
            ),
            Self::Aside {
                role,
                until,
                against,
                ..
            } => format!(
                "the framework declined as much too often in role {role} and steps aside until \
                 {until}; {against} comes first"
            ),
            Self::Behind {
                role,
                share,
                against,
                their_share,
                ..
            } => format!(
                "goes to framework {against} first: its dominant share is {:.1} %, against {:.1} \
                 % in role {role}",
                percent(their_share),
                percent(share)
            ),
            Self::Next { role, .. } => format!("the next round decides, for role {role}"),
        }
    }
}

impl fmt::Display for Unoffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.agent() {
            Some(agent) => write!(f, "agent {agent}: {}", self.sentence()),
            None => f.write_str(&self.sentence()),
        }
    }
}

/// How a role stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleReport {
    /// Which role.
    pub role: Role,
    /// Its weight, in thousandths.
    pub weight: u64,
    /// Its share, all roles below it counted, before the weight.
    pub share: Share,
    /// How many grants it received, all roles below it counted.
    pub count: u64,
    /// Its quota.
    pub quota: Quota,
    /// What counts against its quota.
    pub consumed: Amounts,
    /// What of its guarantee is not satisfied.
    pub unsatisfied: Amounts,
    /// What limits leave, its own and those of roles above it.
    pub rooms: Vec<Room>,
    /// The roles beside it that are offered to before it, the next one last; at most ten.
    pub before: Vec<(Role, Share)>,
    /// How many are offered to before it.
    pub n_before: usize,
    /// The frameworks in the role itself.
    pub clients: Vec<ClientReport>,
    /// The holes kept for it.
    pub holes: Vec<Hole>,
}

/// What a limit leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Whose limit it is.
    pub role: Role,
    /// Of which resource.
    pub name: Name,
    /// The limit.
    pub limit: Fixed,
    /// What counts against it.
    pub consumed: Fixed,
}

/// How a framework stands in a role.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientReport {
    /// Which framework.
    pub framework: FrameworkId,
    /// Its share in this role.
    pub share: Share,
    /// How many grants it received in this role.
    pub count: u64,
    /// Whether it takes offers.
    pub standing: Standing,
    /// Bundles of its demand that were not granted yet; `None` without a demand.
    pub bundles_left: Option<u32>,
}

/// Whether a framework takes offers in a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Takes,
    /// It does, but comes last for what is no larger than what it declined.
    Aside {
        /// Until when.
        until: Timestamp,
    },
    /// It is not connected.
    Inactive,
    /// It suppressed offers.
    Suppressed,
    /// Everything it asked for was granted.
    DemandMet,
    /// It is not subscribed and only holds something.
    Left,
}

/// How an agent stands.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// Which agent.
    pub agent: AgentId,
    /// Whether it is offered.
    pub active: bool,
    /// What nobody holds.
    pub free: Resources,
    /// Who holds the rest.
    pub held: Vec<Grant>,
    /// The hole kept on it.
    pub hole: Option<Hole>,
    /// When it will be away, and who was asked to leave.
    pub unavailability: Option<Unavailability>,
    /// Who was asked to leave and did not answer yet.
    pub asked: Vec<FrameworkId>,
    /// Why each framework that takes offers was not offered what is free, in the order of
    /// frameworks; at most a hundred.
    pub unoffered: Vec<(FrameworkId, Role, Unoffered)>,
    /// How many take offers.
    pub n_takers: usize,
}
