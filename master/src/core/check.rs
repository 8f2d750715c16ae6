//! The invariants, re-derived from scratch; tests and the simulator ask after every step.

use std::collections::{BTreeMap, BTreeSet};

use allotment_types::{AgentId, FrameworkId, Name, Resources, Role};

use super::Core;
use super::agent::Agent;
use super::executors::Executor;
use super::tally::Tally;

impl Core {
    /// Whether the books are right: on every agent, offered + allocated + free is exactly what
    /// it has; every index agrees with what it indexes; the allocation module agrees on who
    /// holds how much. Costs as much as a look at everything.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check(&self) -> Result<(), String> {
        self.check_agents(self.agents.iter())?;
        self.check_frameworks()?;
        self.check_offers()?;
        self.check_connections()?;
        self.check_allocator(self.agents.iter())?;
        self.check_limits()
    }

    /// The same for these agents alone, and for what was offered last.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check_some(&self, agents: &BTreeSet<AgentId>) -> Result<(), String> {
        let some = || agents.iter().filter_map(|id| self.agents.get_key_value(id));
        self.check_agents(some())?;
        self.check_allocator(some())?;
        self.check_limits()
    }

    fn check_agents<'a>(
        &self,
        agents: impl Iterator<Item = (&'a AgentId, &'a Agent)>,
    ) -> Result<(), String> {
        for (id, agent) in agents {
            let mut rest = agent.total.clone();
            let mut allocated = Resources::EMPTY;
            let mut offered = Resources::EMPTY;
            // Of shared volumes everybody may hold a copy, and they stay.
            let mut take = |what: String, held: &Resources| {
                if !rest.contains(held) {
                    return Err(format!(
                        "agent {id} has {}, but {what} holds {held} beyond the {rest} that the \
                         others leave",
                        agent.total
                    ));
                }
                rest.subtract(&held.unshared());
                Ok(())
            };
            for (framework, task) in &agent.tasks {
                let found = self.frameworks.get(framework);
                let Some(found) = found.and_then(|f| f.tasks.get(task)) else {
                    return Err(format!(
                        "agent {id} lists task {task}, which does not exist"
                    ));
                };
                if found.agent != *id {
                    return Err(format!("task {task} is on {}, not on {id}", found.agent));
                }
                if found.holds && (found.is_terminal() || !agent.is_allocatable()) {
                    return Err(format!("task {task} holds resources it must not hold"));
                }
                if found.holds {
                    take(format!("task {task}"), &found.grant.resources)?;
                    allocated.add(&found.grant.resources);
                } else if !found.is_terminal() && agent.is_allocatable() {
                    return Err(format!("task {task} is live on {id} and holds nothing"));
                }
            }
            for ((framework, executor), held) in &agent.executors {
                if !agent.is_allocatable() || held.grant.framework != *framework {
                    return Err(format!(
                        "executor {executor} on {id} holds what it must not"
                    ));
                }
                take(format!("executor {executor}"), &held.grant.resources)?;
                allocated.add(&held.grant.resources);
            }
            for number in &agent.offers {
                let Some(offer) = self.offers.get(*number).filter(|o| o.agent == *id) else {
                    return Err(format!("agent {id} lists offer {number}, which is not its"));
                };
                take(format!("offer {number}"), &offer.grant.resources)?;
                offered.add(&offer.grant.resources);
            }
            if allocated != agent.allocated || offered != agent.offered {
                return Err(format!(
                    "agent {id} keeps the sums {} and {}, but its tasks hold {allocated} and its \
                     offers {offered}",
                    agent.allocated, agent.offered
                ));
            }
            if !agent.offers.is_empty() && !agent.is_offerable() {
                return Err(format!(
                    "agent {id} is not to be offered but has offers outstanding"
                ));
            }
            let wire = allotment_proto::convert::resources_from_wire(&agent.info.resources);
            if wire.as_ref() != Ok(&agent.total) {
                return Err(format!(
                    "agent {id} has {} but its registration says {wire:?}",
                    agent.total
                ));
            }
        }
        Ok(())
    }

    fn check_frameworks(&self) -> Result<(), String> {
        for (id, framework) in &self.frameworks {
            let mut held: BTreeMap<_, (Tally, Tally)> = BTreeMap::new();
            for (task_id, task) in &framework.tasks {
                let key = (id.clone(), task_id.clone());
                if !self
                    .agents
                    .get(&task.agent)
                    .is_some_and(|a| a.tasks.contains(&key))
                {
                    return Err(format!("no agent lists task {task_id} of framework {id}"));
                }
                if task.grant.framework != *id {
                    return Err(format!("task {task_id} holds for {}", task.grant.framework));
                }
                if task.holds {
                    let sums = held.entry(&task.grant.role).or_default();
                    sums.0.add(&task.grant.resources);
                }
            }
            let mut executors: BTreeMap<&AgentId, Vec<&Executor>> = BTreeMap::new();
            for (agent_id, agent) in &self.agents {
                let theirs = agent.executors.iter().filter(|(key, _)| key.0 == *id);
                for (_, executor) in theirs {
                    let sums = held.entry(&executor.grant.role).or_default();
                    sums.0.add(&executor.grant.resources);
                    executors.entry(agent_id).or_default().push(executor);
                }
            }
            for number in &framework.offers {
                let Some(offer) = self.offers.get(*number) else {
                    return Err(format!(
                        "framework {id} lists offer {number}, which is gone"
                    ));
                };
                let sums = held.entry(&offer.grant.role).or_default();
                sums.1.add(&offer.grant.resources);
            }
            if !framework.offers.is_empty() && framework.conn().is_none() {
                return Err(format!("framework {id} is away but holds offers"));
            }
            let roles: BTreeSet<_> = held.keys().copied().chain(framework.held.keys()).collect();
            for role in roles {
                let kept = framework.held.get(role);
                let kept = kept.map(|h| (h.allocated.to_resources(), h.offered.to_resources()));
                let derived = held.get(role);
                let derived = derived.map(|(a, o)| (a.to_resources(), o.to_resources()));
                if kept.clone().unwrap_or_default() != derived.clone().unwrap_or_default() {
                    return Err(format!(
                        "framework {id} keeps {kept:?} for role {role}, but it is {derived:?}"
                    ));
                }
            }
            let n_executors: usize = executors.values().map(Vec::len).sum();
            if n_executors != framework.n_executors {
                return Err(format!(
                    "framework {id} counts {} executors, but it has {n_executors}",
                    framework.n_executors
                ));
            }
            if framework.is_over() {
                return Err(format!(
                    "framework {id} is removed and has nothing left, yet it is here"
                ));
            }
        }
        Ok(())
    }

    fn check_offers(&self) -> Result<(), String> {
        for (number, offer) in self.offers.iter() {
            let agent = self.agents.get(&offer.agent);
            let framework = self.frameworks.get(&offer.grant.framework);
            if !agent.is_some_and(|a| a.offers.contains(&number))
                || !framework.is_some_and(|f| f.offers.contains(&number))
            {
                return Err(format!(
                    "offer {number} is not listed by its agent and framework"
                ));
            }
            if offer.grant.resources.is_empty() {
                return Err(format!("offer {number} holds nothing"));
            }
        }
        Ok(())
    }

    fn check_connections(&self) -> Result<(), String> {
        for (conn, id) in &self.framework_conns {
            let Some(id) = id else { continue };
            if self.frameworks.get(id).and_then(|f| f.conn()) != Some(*conn) {
                return Err(format!("connection {conn:?} is not framework {id}'s"));
            }
        }
        for (conn, session) in &self.agent_conns {
            let Some(session) = session else { continue };
            let id = &session.agent;
            if self.agents.get(id).and_then(|a| a.session()) != Some(*conn) {
                return Err(format!("session {conn:?} is not agent {id}'s"));
            }
        }
        Ok(())
    }

    /// Whether the allocation module's books of every agent are the master's: who holds what,
    /// and what is left.
    fn check_allocator<'a>(
        &self,
        agents: impl Iterator<Item = (&'a AgentId, &'a Agent)>,
    ) -> Result<(), String> {
        for (id, agent) in agents.filter(|(_, agent)| agent.is_allocatable()) {
            let mut expected: BTreeMap<(FrameworkId, Role), Resources> = BTreeMap::new();
            let tasks = agent.tasks.iter().filter_map(|(framework, task)| {
                let task = self.frameworks.get(framework)?.tasks.get(task)?;
                task.holds.then_some(&task.grant)
            });
            let offers = agent.offers.iter().filter_map(|n| self.offers.get(*n));
            let executors = agent.executors.values().map(|executor| &executor.grant);
            let grants = tasks.chain(executors);
            for grant in grants.chain(offers.map(|offer| &offer.grant)) {
                let key = (grant.framework.clone(), grant.role.clone());
                expected.entry(key).or_default().add(&grant.resources);
            }
            for (key, unbacked) in &agent.unbacked {
                let held = expected.entry(key.clone()).or_default();
                if !held.contains(unbacked) || *unbacked != unbacked.shared() {
                    return Err(format!(
                        "agent {id} counts {unbacked} as held beyond what was handed out, but \
                         {key:?} holds {held}"
                    ));
                }
                held.subtract(unbacked);
            }
            expected.retain(|_, held| !held.is_empty());
            let told: BTreeMap<(FrameworkId, Role), Resources> = self
                .allocator
                .held(id)
                .into_iter()
                .map(|grant| ((grant.framework, grant.role), grant.resources))
                .collect();
            if told != expected {
                return Err(format!(
                    "the allocation module says that {told:?} is held on agent {id}, but by its \
                     tasks and offers it is {expected:?}"
                ));
            }
            let free = self.allocator.free(id);
            if free != agent.free() {
                return Err(format!(
                    "the allocation module says that {free} is free on agent {id}, but {} is",
                    agent.free()
                ));
            }
        }
        Ok(())
    }

    /// What the last step offered took no role beyond its limit. More may be used than a limit
    /// allows: it was before the limit was set, or came back with an agent.
    fn check_limits(&self) -> Result<(), String> {
        for (role, quota) in &self.shares.quotas {
            let consumed = self.allocator.consumed(role);
            let over = |name: &Name| {
                let used = consumed.get(name).copied().unwrap_or_default();
                quota.limits.get(name).is_some_and(|limit| used > *limit)
            };
            for (number, offer) in self.offers.fresh() {
                let granted = &offer.grant;
                if granted.role != *role && !role.is_ancestor_of(&granted.role) {
                    continue;
                }
                let counted = granted.resources.filter(|name, lot| {
                    lot.reservations().is_empty() && !lot.is_revocable() && over(name)
                });
                if let Some((name, _)) = counted.scalars().next() {
                    return Err(format!(
                        "offer {number} took role {role} to {:?} of {name}, beyond its limit {:?}",
                        consumed.get(name),
                        quota.limits.get(name)
                    ));
                }
            }
        }
        Ok(())
    }
}
