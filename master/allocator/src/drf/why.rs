//! Why a framework was offered nothing; reads what the last round left behind.

use allotment_types::{FrameworkId, Timestamp};

use super::{AgentState, Client, Drf, allocatable};
use crate::Unoffered;

/// One reason for the whole framework, or the first one of each agent. An agent that the framework
/// would get at the next round has none.
pub(super) fn explain(drf: &Drf, now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered> {
    let Some(slot) = drf.frameworks.find(framework) else {
        return vec![Unoffered::Inactive];
    };
    if !drf.frameworks.get(slot).active {
        return vec![Unoffered::Inactive];
    }
    let (subscribed, mut takes): (Vec<Client>, Vec<Client>) = (
        drf.named_clients(framework, &Default::default()),
        drf.named_clients(framework, &Default::default()),
    );
    takes.retain(|client| !drf.membership(*client).suppressed);
    if takes.is_empty() {
        return subscribed
            .iter()
            .take(1)
            .map(|client| Unoffered::Suppressed {
                role: drf.roles.id(client.role).clone(),
            })
            .collect();
    }
    if drf.agents.is_empty() {
        return vec![Unoffered::NoAgents];
    }
    drf.agents
        .iter()
        .filter_map(|(number, agent)| on_agent(drf, now, &takes, *number, agent))
        .collect()
}

fn on_agent(
    drf: &Drf,
    now: Timestamp,
    takes: &[Client],
    number: super::AgentNumber,
    agent: &AgentState,
) -> Option<Unoffered> {
    let id = || agent.id.clone();
    if !agent.active {
        return Some(Unoffered::AgentInactive { agent: id() });
    }
    if agent.free.is_empty() {
        return Some(Unoffered::NothingFree { agent: id() });
    }
    if !allocatable(&agent.free) {
        let free = agent.free.clone();
        return Some(Unoffered::TooSmall { agent: id(), free });
    }
    let filters = drf.filters.on(number);
    let blocked = |client: Client| filters.blocked_until(now, client, &agent.free);
    let Some(mine) = takes.iter().find(|client| blocked(**client).is_none()) else {
        // Filtered in every role: name the one that is free of it first.
        let (until, role) = takes
            .iter()
            .filter_map(|client| Some((blocked(*client)?, client.role)))
            .min()?;
        return Some(Unoffered::Filtered {
            agent: id(),
            role: drf.roles.id(role).clone(),
            free: agent.free.clone(),
            until,
        });
    };
    let first = drf.first_taker(now, number)?;
    if first.framework == mine.framework {
        return None;
    }
    let share = |client: Client| {
        // Within a role frameworks compete, across roles the roles do.
        let held = if first.role == mine.role {
            &drf.membership(client).allocated
        } else {
            &drf.roles.get(client.role).allocated
        };
        held.dominant(&drf.total)
    };
    Some(Unoffered::Behind {
        agent: id(),
        role: drf.roles.id(mine.role).clone(),
        share: share(*mine),
        against: drf.frameworks.id(first.framework).clone(),
        their_share: share(first),
    })
}
