//! What others may know of the books.

use allotment_types::{AgentId, FrameworkId, Resources, Role};

use super::books::Books;
use super::roles::WEIGHT_DEFAULT;
use super::sums::Sums;
use crate::{Amounts, Grant, Quota, Share};

impl Books {
    pub(crate) fn role_share(&self, role: &Role) -> Share {
        let nothing = Sums::default();
        let held = self
            .roles
            .find(role)
            .map(|slot| &self.roles.node(slot).held);
        held.unwrap_or(&nothing).dominant(&self.totals, 1).share()
    }

    pub(crate) fn framework_share(&self, framework: &FrameworkId) -> Share {
        let mut sum = Sums::default();
        if let Some(slot) = self.framework(framework) {
            for client in self.clients_of(slot) {
                sum.add(self.clients[client].held.as_scalars());
            }
        }
        sum.dominant(&self.totals, 1).share()
    }

    pub(crate) fn weight(&self, role: &Role) -> u64 {
        self.roles
            .find(role)
            .map_or(WEIGHT_DEFAULT, |slot| self.roles.node(slot).weight())
    }

    pub(crate) fn quota(&self, role: &Role) -> Quota {
        let slot = self.roles.find(role);
        let quota = slot.and_then(|slot| self.roles.node(slot).quota.as_ref());
        quota.map(|quota| quota.quota.clone()).unwrap_or_default()
    }

    pub(crate) fn consumed(&self, role: &Role) -> Amounts {
        self.roles.find(role).map_or_else(Amounts::new, |slot| {
            let consumed = &self.roles.node(slot).consumed;
            self.bundles.kinds.named(consumed.as_scalars())
        })
    }

    pub(crate) fn free(&self, agent: &AgentId) -> Resources {
        let Some(slot) = self.agent(agent) else {
            return Resources::EMPTY;
        };
        let agent = &self.agents[slot];
        agent.free.resources.plus(&agent.shared())
    }

    pub(crate) fn held(&self, agent: &AgentId) -> Vec<Grant> {
        let Some(slot) = self.agent(agent) else {
            return Vec::new();
        };
        let mut grants: Vec<Grant> = self.agents[slot]
            .held
            .iter()
            .filter_map(|(client, bundle)| {
                Some(Grant {
                    framework: self.frameworks[self.clients[*client].framework].id.clone(),
                    role: self.role_of(*client)?.clone(),
                    resources: bundle.resources.clone(),
                })
            })
            .collect();
        grants.sort_by(|a, b| (&a.framework, &a.role).cmp(&(&b.framework, &b.role)));
        grants
    }
}
