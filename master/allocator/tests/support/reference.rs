//! The allocator once more, slow and obviously right: no index, no cache, no news. Every question
//! is answered by walking over plain lists.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{AgentId, FrameworkId, Name, Resources, Role, Timestamp};

use allotment_allocator::{AgentSpec, Allocation, FrameworkSpec, Grant};

#[derive(Debug)]
struct Framework {
    active: bool,
    roles: BTreeSet<Role>,
    suppressed: BTreeSet<Role>,
}

#[derive(Debug)]
struct Agent {
    id: AgentId,
    registration: u64,
    active: bool,
    total: Resources,
    held: Vec<Grant>,
}

impl Agent {
    fn free(&self) -> Resources {
        let mut free = self.total.clone();
        for grant in &self.held {
            free.subtract(&grant.resources);
        }
        free
    }
}

#[derive(Debug)]
struct Filter {
    framework: FrameworkId,
    role: Role,
    agent: AgentId,
    refused: Resources,
    until: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    frameworks: BTreeMap<FrameworkId, Framework>,
    agents: Vec<Agent>,
    registrations: u64,
    turn: u64,
    filters: Vec<Filter>,
    weights: BTreeMap<Role, u64>,
}

impl Reference {
    pub(crate) fn add_framework(&mut self, id: &FrameworkId, spec: &FrameworkSpec) {
        let framework = Framework {
            active: true,
            roles: spec.roles.keys().cloned().collect(),
            suppressed: spec
                .roles
                .iter()
                .filter(|(_, wanted)| wanted.suppressed)
                .map(|(role, _)| role.clone())
                .collect(),
        };
        self.frameworks.insert(id.clone(), framework);
        self.filters
            .retain(|f| f.framework != *id || spec.roles.contains_key(&f.role));
    }

    pub(crate) fn deactivate_framework(&mut self, id: &FrameworkId) {
        if let Some(framework) = self.frameworks.get_mut(id) {
            framework.active = false;
            self.filters.retain(|f| f.framework != *id);
        }
    }

    pub(crate) fn remove_framework(&mut self, id: &FrameworkId) {
        self.frameworks.remove(id);
        self.filters.retain(|f| f.framework != *id);
        for agent in &mut self.agents {
            agent.held.retain(|grant| grant.framework != *id);
        }
    }

    pub(crate) fn add_agent(&mut self, id: &AgentId, spec: &AgentSpec) {
        self.remove_agent(id);
        self.agents.push(Agent {
            id: id.clone(),
            registration: self.registrations,
            active: true,
            total: spec.total.clone(),
            held: spec.used.clone(),
        });
        self.registrations += 1;
    }

    pub(crate) fn set_agent_active(&mut self, id: &AgentId, active: bool) {
        for agent in self.agents.iter_mut().filter(|a| a.id == *id) {
            agent.active = active;
        }
    }

    pub(crate) fn remove_agent(&mut self, id: &AgentId) {
        self.agents.retain(|a| a.id != *id);
        self.filters.retain(|f| f.agent != *id);
    }

    pub(crate) fn recover(&mut self, id: &AgentId, grant: &Grant, until: Option<Timestamp>) {
        for agent in self.agents.iter_mut().filter(|a| a.id == *id) {
            for held in &mut agent.held {
                if held.framework == grant.framework && held.role == grant.role {
                    held.resources.subtract(&grant.resources);
                }
            }
        }
        let subscribed = self
            .frameworks
            .get(&grant.framework)
            .is_some_and(|f| f.active && f.roles.contains(&grant.role));
        if let Some(until) = until
            && subscribed
        {
            self.filters.push(Filter {
                framework: grant.framework.clone(),
                role: grant.role.clone(),
                agent: id.clone(),
                refused: grant.resources.clone(),
                until,
            });
        }
    }

    pub(crate) fn suppress(&mut self, id: &FrameworkId, roles: &BTreeSet<Role>) {
        if let Some(framework) = self.frameworks.get_mut(id) {
            let all = framework.roles.clone();
            let named = if roles.is_empty() { &all } else { roles };
            framework.suppressed.extend(named.iter().cloned());
        }
    }

    pub(crate) fn revive(&mut self, id: &FrameworkId, roles: &BTreeSet<Role>) {
        if let Some(framework) = self.frameworks.get_mut(id) {
            let all = framework.roles.clone();
            let named = if roles.is_empty() { &all } else { roles };
            framework.suppressed.retain(|role| !named.contains(role));
            self.filters
                .retain(|f| f.framework != *id || !named.contains(&f.role));
        }
    }

    pub(crate) fn set_weight(&mut self, role: &Role, thousandths: u64) {
        self.weights.insert(role.clone(), thousandths);
    }

    pub(crate) fn allocate(&mut self, now: Timestamp) -> Vec<Allocation> {
        let turn = self.turn;
        let mut order: Vec<usize> = (0..self.agents.len()).collect();
        order.sort_by_key(|i| {
            let registration = self.agents[*i].registration;
            (registration < turn, registration)
        });
        let mut allocations = Vec::new();
        for i in order {
            let free = self.agents[i].free();
            let agent = &self.agents[i];
            let too_little = free.cpus().thousandths() < 10 && free.mem().thousandths() < 32_000;
            if !agent.active || too_little {
                continue;
            }
            let id = agent.id.clone();
            let Some((role, framework)) = self.takers_in_order().into_iter().find(|(r, f)| {
                !self.filters.iter().any(|filter| {
                    (&filter.framework, &filter.role, &filter.agent) == (f, r, &id)
                        && now < filter.until
                        && filter.refused.contains(&free)
                })
            }) else {
                continue;
            };
            self.turn = self.agents[i].registration + 1;
            self.agents[i].held.push(Grant {
                framework: framework.clone(),
                role: role.clone(),
                resources: free.clone(),
            });
            allocations.push(Allocation {
                framework,
                role,
                agent: id,
                resources: free,
            });
        }
        // Two grants of one framework, role and agent are one holding.
        for agent in &mut self.agents {
            let mut merged: BTreeMap<(FrameworkId, Role), Resources> = BTreeMap::new();
            for grant in agent.held.drain(..) {
                let key = (grant.framework, grant.role);
                merged.entry(key).or_default().add(&grant.resources);
            }
            agent.held = merged
                .into_iter()
                .map(|((framework, role), resources)| Grant {
                    framework,
                    role,
                    resources,
                })
                .collect();
        }
        allocations
    }

    pub(crate) fn free(&self, id: &AgentId) -> Resources {
        let agent = self.agents.iter().find(|a| a.id == *id);
        agent.map(Agent::free).unwrap_or_default()
    }

    fn takers_in_order(&self) -> Vec<(Role, FrameworkId)> {
        let mut takers: Vec<(Role, FrameworkId)> = Vec::new();
        for (id, framework) in self.frameworks.iter().filter(|(_, f)| f.active) {
            for role in framework.roles.difference(&framework.suppressed) {
                takers.push((role.clone(), id.clone()));
            }
        }
        takers.sort_by(|(role_a, f_a), (role_b, f_b)| {
            let share = |role: &Role, framework: Option<&FrameworkId>| {
                self.share(|g| g.role == *role && framework.is_none_or(|f| *f == g.framework))
            };
            let weight = |role: &Role| self.weights.get(role).copied().unwrap_or(1000);
            less(
                share(role_a, None),
                weight(role_a),
                share(role_b, None),
                weight(role_b),
            )
            .then_with(|| role_a.cmp(role_b))
            .then_with(|| less(share(role_a, Some(f_a)), 1, share(role_b, Some(f_b)), 1))
            .then_with(|| f_a.cmp(f_b))
        });
        takers
    }

    /// The dominant share of the grants that `counts` picks.
    fn share(&self, counts: impl Fn(&Grant) -> bool) -> (u128, u128) {
        let names: BTreeSet<Name> = self
            .agents
            .iter()
            .flat_map(|a| a.total.scalars().map(|(name, _)| name.clone()))
            .collect();
        let sum = |resources: &mut dyn Iterator<Item = &Resources>, name: &Name| -> u128 {
            resources
                .map(|r| u128::from(r.scalar(name).thousandths()))
                .sum()
        };
        let mut dominant = (0, 1);
        for name in &names {
            let total = sum(&mut self.agents.iter().map(|a| &a.total), name);
            let held = sum(
                &mut self
                    .agents
                    .iter()
                    .flat_map(|a| &a.held)
                    .filter(|g| counts(g))
                    .map(|g| &g.resources),
                name,
            );
            if total > 0 && held * dominant.1 > dominant.0 * total {
                dominant = (held, total);
            }
        }
        dominant
    }
}

fn less(a: (u128, u128), weight_a: u64, b: (u128, u128), weight_b: u64) -> Ordering {
    (a.0 * b.1 * u128::from(weight_b)).cmp(&(b.0 * a.1 * u128::from(weight_a)))
}
