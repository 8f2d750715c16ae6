//! Who is a member of what, and who comes before whom.

use allotment_types::{AgentId, FrameworkId, Role};
use std::collections::BTreeSet;

use super::share::Weighted;
use super::{AgentState, Client, Drf, FrameworkState, Membership, Slots, WEIGHT_DEFAULT};

/// Order: who takes offers, and before whom.
impl Drf {
    /// Puts a client where its share belongs, and its role likewise.
    pub(super) fn place(&mut self, client: Client) {
        let framework = self.frameworks.get(client.framework);
        let Some(membership) = framework.memberships.get(&client.role) else {
            return;
        };
        let from = membership.place;
        let takes = framework.active && membership.subscribed && !membership.suppressed;
        let to = takes.then(|| Weighted {
            share: membership.allocated.dominant(&self.total),
            weight: WEIGHT_DEFAULT,
        });
        if from.is_none() && to.is_none() {
            // Held by somebody who takes no offers: the role's share moves all the same.
            self.place_role(client.role);
            return;
        }
        self.newcomer |= from.is_none();
        let id = self.frameworks.id(client.framework);
        let role = self.roles.get_mut(client.role);
        role.order.place(id, client.framework, from, to);
        self.membership_mut(client).place = to;
        self.place_role(client.role);
    }

    pub(super) fn place_role(&mut self, slot: usize) {
        let role = self.roles.get(slot);
        let from = role.place;
        let to = (!role.order.is_empty()).then(|| Weighted {
            share: role.allocated.dominant(&self.total),
            weight: role.weight.unwrap_or(WEIGHT_DEFAULT),
        });
        self.order.place(self.roles.id(slot), slot, from, to);
        self.roles.get_mut(slot).place = to;
    }

    /// Computes every share anew. O(n log n), once per round in which the cluster's size changed.
    pub(super) fn rebuild_orders(&mut self) {
        let clients: Vec<Client> = self
            .frameworks
            .slots()
            .flat_map(|slot| self.clients(slot))
            .collect();
        for client in clients {
            self.place(client);
        }
    }
}

/// Members and names.
impl Drf {
    pub(super) fn agent(&self, agent: &AgentId) -> Option<&AgentState> {
        self.agents.get(self.agent_numbers.get(agent)?)
    }

    /// The client of a framework in a role, made when it is new.
    pub(super) fn client(&mut self, framework: usize, role: &Role) -> Client {
        let role = self.roles.intern(role);
        let memberships = &mut self.frameworks.get_mut(framework).memberships;
        memberships.entry(role).or_insert_with(|| {
            self.roles.get_mut(role).members += 1;
            Membership::default()
        });
        Client { framework, role }
    }

    pub(super) fn clients(&self, framework: usize) -> Vec<Client> {
        let roles = self.frameworks.get(framework).memberships.keys();
        roles
            .map(|role| Client {
                framework,
                role: *role,
            })
            .collect()
    }

    /// The clients of a framework in the roles it is subscribed to; in all of them when none is
    /// named.
    pub(super) fn named_clients(
        &self,
        framework: &FrameworkId,
        roles: &BTreeSet<Role>,
    ) -> Vec<Client> {
        let Some(slot) = self.frameworks.find(framework) else {
            return Vec::new();
        };
        let mut clients = self.clients(slot);
        clients.retain(|client| {
            self.membership(*client).subscribed
                && (roles.is_empty() || roles.contains(self.roles.id(client.role)))
        });
        clients
    }

    pub(super) fn membership(&self, client: Client) -> &Membership {
        &self.frameworks.get(client.framework).memberships[&client.role]
    }

    pub(super) fn membership_mut(&mut self, client: Client) -> &mut Membership {
        membership_mut(&mut self.frameworks, client)
    }

    /// Forgets a membership that was left and holds nothing, and its role when nobody is in it.
    pub(super) fn tidy(&mut self, client: Client) {
        let membership = self.membership(client);
        if membership.subscribed || membership.holds > 0 {
            return;
        }
        self.frameworks
            .get_mut(client.framework)
            .memberships
            .remove(&client.role);
        let role = self.roles.get_mut(client.role);
        role.members -= 1;
        if role.members == 0 && role.weight.is_none() {
            self.roles.remove(client.role);
        }
    }

    /// Forgets a framework that never subscribed, or was removed, once it holds nothing.
    pub(super) fn forget_if_idle(&mut self, slot: usize) {
        let framework = self.frameworks.get(slot);
        if !framework.known && framework.memberships.is_empty() {
            self.frameworks.remove(slot);
        }
    }
}

/// A membership, borrowing nothing else of the module.
pub(super) fn membership_mut(
    frameworks: &mut Slots<FrameworkId, FrameworkState>,
    client: Client,
) -> &mut Membership {
    let framework = frameworks.get_mut(client.framework);
    framework.memberships.entry(client.role).or_default()
}
