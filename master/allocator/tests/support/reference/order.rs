//! Shares and the order of clients (contract: "Shares and order").

use std::cmp::Ordering;
use std::collections::BTreeMap;

use allotment_allocator::Allocator;
use allotment_types::{Name, Resources, Role, Value};

use super::ratio::Ratio;
use super::{Client, Reference};

/// What competes below a node of the role tree.
#[derive(Debug, Clone)]
enum Sibling {
    /// A role with everything below it.
    Child(Role),
    /// The clients of the parent itself, `.`.
    Leaf(Role),
}

/// What siblings, or clients of one role, are ordered by.
#[derive(Debug)]
struct Standing {
    share: Ratio,
    weight: u64,
    count: u64,
    name: String,
}

impl Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        self.share
            .cmp_weighted(self.weight, other.share, other.weight)
            .then_with(|| self.count.cmp(&other.count))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl Reference {
    /// All clients that take offers, in the order in which an agent is offered to them.
    pub(super) fn clients_in_order(&self) -> Vec<Client> {
        let mut order = Vec::new();
        self.walk(None, &mut order);
        order
    }

    fn walk(&self, parent: Option<&Role>, order: &mut Vec<Client>) {
        let children = self
            .nodes
            .keys()
            .filter(|role| role.parent().as_ref() == parent);
        let mut siblings: Vec<(Standing, Sibling)> = children
            .map(|role| Sibling::Child(role.clone()))
            .chain(parent.map(|role| Sibling::Leaf(role.clone())))
            .map(|sibling| (self.standing_of_sibling(&sibling), sibling))
            .collect();
        siblings.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, sibling) in siblings {
            match sibling {
                // A role without roles below is its clients.
                Sibling::Child(role) if !self.nodes.keys().any(|r| role.is_ancestor_of(r)) => {
                    self.clients_of(&role, order);
                }
                Sibling::Child(role) => self.walk(Some(&role), order),
                Sibling::Leaf(role) => self.clients_of(&role, order),
            }
        }
    }

    fn clients_of(&self, role: &Role, order: &mut Vec<Client>) {
        let mut clients: Vec<(Standing, Client)> = self
            .clients()
            .into_iter()
            .filter(|client| client.1 == *role && self.takes_offers(client))
            .map(|client| (self.standing_of_client(&client), client))
            .collect();
        clients.sort_by(|a, b| a.0.cmp(&b.0));
        order.extend(clients.into_iter().map(|(_, client)| client));
    }

    fn standing_of_sibling(&self, sibling: &Sibling) -> Standing {
        let below = |client: &Client| match sibling {
            Sibling::Child(role) => client.1 == *role || role.is_ancestor_of(&client.1),
            Sibling::Leaf(role) => client.1 == *role,
        };
        let (weight, count, name) = match sibling {
            Sibling::Child(role) => {
                let (_, last) = role
                    .as_str()
                    .rsplit_once('/')
                    .unwrap_or(("", role.as_str()));
                (self.weight(role), self.nodes[role].subtree, last)
            }
            Sibling::Leaf(role) => (1000, self.nodes[role].itself, "."),
        };
        Standing {
            share: self.share_of(below),
            weight,
            count,
            name: name.to_owned(),
        }
    }

    fn standing_of_client(&self, client: &Client) -> Standing {
        Standing {
            share: self.share_of(|other| other == client),
            weight: 1000,
            count: self.client(client).map_or(0, |state| state.grants),
            name: client.0.as_str().to_owned(),
        }
    }

    /// The dominant share of what the clients that `counts` picks hold.
    pub(super) fn share_of(&self, counts: impl Fn(&Client) -> bool) -> Ratio {
        let mut held: BTreeMap<&Name, u128> = BTreeMap::new();
        for agent in &self.agents {
            for (_, resources) in agent.held.iter().filter(|(client, _)| counts(client)) {
                add_scalars(&mut held, resources, &agent.spec.total);
            }
        }
        held.retain(|name, _| !self.settings.common.share_excluded.contains(*name));
        let mut cluster: BTreeMap<&Name, u128> = BTreeMap::new();
        for agent in self.agents.iter().filter(|_| !held.is_empty()) {
            add_scalars(&mut cluster, &agent.spec.total, &agent.spec.total);
        }
        let shares = held.into_iter().filter_map(|(name, numerator)| {
            let denominator = *cluster.get(name)?;
            Some(Ratio {
                numerator,
                denominator,
            })
        });
        shares.fold(Ratio::ZERO, |largest, share| {
            if share.cmp(largest).is_gt() {
                share
            } else {
                largest
            }
        })
    }
}

/// Adds scalars by name; copies of a shared volume count once.
fn add_scalars<'a>(sum: &mut BTreeMap<&'a Name, u128>, what: &'a Resources, total: &Resources) {
    for (name, lot, value) in what.iter() {
        let Value::Scalar(amount) = value else {
            continue;
        };
        let mut amount = *amount;
        if lot.is_shared()
            && let Some(Value::Scalar(once)) = total.get(name, lot)
        {
            amount = amount.min(*once);
        }
        *sum.entry(name).or_default() += u128::from(amount.thousandths());
    }
}
