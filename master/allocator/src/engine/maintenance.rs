//! Agents that will be away, and whom to ask to leave them.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{AgentId, FrameworkId, Timestamp};

use super::agents::Leaving;
use super::books::Books;
use super::slab::Slot;
use crate::{InverseAllocation, Unavailability};

/// Agents with an unavailability.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    leaving: BTreeSet<Slot>,
    /// When somebody who answered may be asked again.
    ask_again: BTreeSet<(Timestamp, Slot)>,
    /// Somebody may have to be asked.
    pub(crate) news: bool,
}

impl Maintenance {
    pub(crate) fn forget(&mut self, agent: Slot) {
        self.leaving.remove(&agent);
        self.ask_again.retain(|(_, slot)| *slot != agent);
    }

    pub(crate) fn end_by_time(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.ask_again.first()
            && *at <= now
        {
            self.ask_again.pop_first();
            self.news = true;
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.ask_again.first().map(|(at, _)| *at)
    }
}

impl Books {
    pub(crate) fn set_unavailability(&mut self, id: &AgentId, window: Option<Unavailability>) {
        let Some(slot) = self.agent(id) else {
            return;
        };
        let agent = &mut self.agents[slot];
        let old = agent.leaving.as_ref().map(|leaving| leaving.unavailability);
        if old == window {
            return;
        }
        self.maintenance.forget(slot);
        agent.leaving = window.map(|unavailability| {
            Box::new(Leaving {
                unavailability,
                asked: BTreeMap::new(),
            })
        });
        if window.is_some() {
            self.maintenance.leaving.insert(slot);
            self.maintenance.news = true;
        }
    }

    pub(crate) fn answer_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        until: Option<Timestamp>,
    ) {
        let Some(slot) = self.agent(agent) else {
            return;
        };
        let Some(leaving) = &mut self.agents[slot].leaving else {
            return;
        };
        match until {
            None => {
                leaving.asked.remove(framework);
                self.maintenance.news = true;
            }
            Some(until) => {
                leaving.asked.insert(framework.clone(), Some(until));
                self.maintenance.ask_again.insert((until, slot));
            }
        }
    }

    /// Nobody was asked who is gone.
    pub(crate) fn forget_asked(&mut self, framework: &FrameworkId) {
        for slot in &self.maintenance.leaving {
            if let Some(leaving) = &mut self.agents[*slot].leaving {
                leaving.asked.remove(framework);
            }
        }
    }

    /// Whom to ask now, by agent and framework.
    pub(crate) fn ask_to_leave(&mut self, now: Timestamp) -> Vec<InverseAllocation> {
        let mut asked = Vec::new();
        if !std::mem::take(&mut self.maintenance.news) {
            return asked;
        }
        for slot in &self.maintenance.leaving {
            let agent = &mut self.agents[*slot];
            let holders: BTreeSet<&FrameworkId> = agent
                .held
                .iter()
                .map(|(client, _)| &self.frameworks[self.clients[*client].framework])
                .filter(|framework| framework.known && framework.active)
                .map(|framework| &framework.id)
                .collect();
            let Some(leaving) = &mut agent.leaving else {
                continue;
            };
            for framework in holders {
                let again = match leaving.asked.get(framework) {
                    None => true,
                    Some(None) => false,
                    Some(Some(until)) => *until <= now,
                };
                if again {
                    leaving.asked.insert(framework.clone(), None);
                    asked.push(InverseAllocation {
                        framework: framework.clone(),
                        agent: agent.id.clone(),
                        unavailability: leaving.unavailability,
                    });
                }
            }
        }
        asked
    }
}
