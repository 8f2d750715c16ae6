//! Why resources were not offered, as data with numbers.

use std::fmt;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use crate::Share;

/// The first reason why a framework was offered nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Unoffered {
    /// The framework is not connected.
    Inactive,
    /// It asked for no offers in this role.
    Suppressed {
        /// Which role.
        role: Role,
    },
    /// No agent is registered.
    NoAgents,
    /// The agent is disconnected.
    AgentInactive {
        /// Which agent.
        agent: AgentId,
    },
    /// Everything is in use or offered to others.
    NothingFree {
        /// Which agent.
        agent: AgentId,
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
}

impl fmt::Display for Unoffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inactive => f.write_str("the framework is not connected"),
            Self::Suppressed { role } => {
                write!(
                    f,
                    "the framework suppressed offers for role {role}; it must revive"
                )
            }
            Self::NoAgents => f.write_str("no agent is registered"),
            Self::AgentInactive { agent } => write!(f, "agent {agent} is disconnected"),
            Self::NothingFree { agent } => write!(f, "agent {agent} has nothing free"),
            Self::TooSmall { agent, free } => {
                write!(
                    f,
                    "agent {agent} has only {free} free, below the smallest offer"
                )
            }
            Self::Filtered {
                agent,
                role,
                free,
                until,
            } => write!(
                f,
                "agent {agent} has {free} free, but the framework declined it in role {role}; \
                 the filter ends at {until}"
            ),
            Self::Behind {
                agent,
                role,
                share,
                against,
                their_share,
            } => write!(
                f,
                "agent {agent} goes to framework {against} first: its dominant share is \
                 {:.1} %, against {:.1} % in role {role}",
                their_share.as_f64() * 100.0,
                share.as_f64() * 100.0
            ),
        }
    }
}
