//! What must hold of every module, whatever it prefers.

use allotment_types::{AgentId, FrameworkId, Lot, Name, Resources, Role, Timestamp, Value};

use super::books::{Agent, Books, Client, bundles_of};
use crate::constraint::Described;
use crate::{Allocation, Allocator, Common, MinAllocatable, RoleSpec, Round};

impl Books {
    /// Holds a round against what was told before it.
    pub(super) fn judge(&mut self, now: Timestamp, round: &Round) -> Result<(), String> {
        if self.paused && !round.is_empty() {
            return Err(format!("decided while paused: {round:?}"));
        }
        if self.quiet_since == Some(now) && !round.is_empty() {
            return Err(format!(
                "a second round without news decided again: {round:?}"
            ));
        }
        self.filters.retain(|filter| now < filter.until);
        let limited: Vec<Role> = self.quotas.keys().cloned().collect();
        let before: Vec<_> = limited.iter().map(|role| self.consumed(role)).collect();
        let held: Vec<_> = self
            .agents
            .values()
            .map(|agent| agent.held.clone())
            .collect();
        let mut demands = self.demands.clone();
        for allocation in &round.allocations {
            let client = (allocation.framework.clone(), allocation.role.clone());
            self.may_be_granted(&client, allocation)
                .map_err(|why| told(allocation, &why))?;
            if let Some(demand) = demands.get_mut(&client) {
                let bundles = bundles_of(&allocation.resources, &demand.bundle).unwrap_or(0);
                if bundles == 0 || bundles > demand.count {
                    let why = format!("but its demand is {demand:?}");
                    return Err(told(allocation, &why));
                }
                demand.count -= bundles;
            }
            if let Some(agent) = self.agents.get_mut(&allocation.agent) {
                agent.hold(client, &allocation.resources);
            }
        }
        for (role, before) in limited.iter().zip(&before) {
            self.within_limits(role, before)?;
        }
        // `note` grants for good what was only tried here.
        for (agent, held) in self.agents.values_mut().zip(held) {
            agent.held = held;
        }
        self.judge_inverse(now, round)
    }

    fn may_be_granted(&self, client: &Client, allocation: &Allocation) -> Result<(), String> {
        let refuse = |why: String| Err(why);
        let Some(agent) = self.agents.get(&allocation.agent).filter(|a| a.active) else {
            return refuse("but there is no such agent, or it is inactive".to_owned());
        };
        let Some(framework) = self
            .frameworks
            .get(&client.0)
            .filter(|_| self.takes_offers(client))
        else {
            return refuse("which takes no offers".to_owned());
        };
        let Some(spec) = framework.spec.roles.get(&client.1) else {
            return refuse("which is not subscribed to that role".to_owned());
        };
        let (free, granted) = (agent.free(), &allocation.resources);
        if granted.is_empty() || !free.contains(granted) {
            return refuse(format!("but only {free} is free"));
        }
        let can = framework.spec.capabilities;
        for (name, lot, value) in granted.iter() {
            let whole = free.get(name, lot) == Some(value);
            let allowed = lot.is_open_to(&client.1)
                && (!lot.is_revocable() || can.revocable)
                && (!lot.is_shared() || (can.shared && whole))
                && (!lot.is_unchoppable() || whole)
                && (lot.reservations().len() < 2 || can.reservation_refinement);
            if !allowed {
                return refuse(format!(
                    "which must not have {name}{lot}:{value}; it can {can:?}"
                ));
            }
        }
        if !can.gpu && !agent.spec.total.scalar(&Name::GPUS).is_zero() {
            return refuse("which cannot deal with GPUs".to_owned());
        }
        if let Some(failing) = failing_constraint(spec, agent) {
            return refuse(format!("but its constraint fails: {failing}"));
        }
        if spec.min_allocatable.is_some() && !is_worth(granted, spec) {
            return refuse(format!(
                "which is less than it wants: {:?}",
                spec.min_allocatable
            ));
        }
        match self.filter(client, &allocation.agent, granted) {
            Some(until) => refuse(format!("but it declined that until {until}")),
            None => Ok(()),
        }
    }

    /// Until when the client refuses this bundle of this agent.
    fn filter(&self, client: &Client, agent: &AgentId, bundle: &Resources) -> Option<Timestamp> {
        let ours = self.filters.iter();
        let mut ours = ours.filter(|f| f.client == *client && f.agent == *agent);
        ours.find(|f| f.refused.contains(bundle)).map(|f| f.until)
    }

    fn within_limits(&self, role: &Role, before: &crate::Amounts) -> Result<(), String> {
        let after = self.consumed(role);
        for (name, limit) in &self.quotas[role].limits {
            let of = |amounts: &crate::Amounts| amounts.get(name).copied().unwrap_or_default();
            let (before, after) = (of(before), of(&after));
            if after > before && after > *limit {
                return Err(format!(
                    "role {role} consumes {after} of {name} after the round, {before} before it, \
                     but its limit is {limit}"
                ));
            }
        }
        Ok(())
    }

    fn judge_inverse(&self, now: Timestamp, round: &Round) -> Result<(), String> {
        let mut seen: Vec<(&AgentId, &FrameworkId)> = Vec::new();
        for inverse in &round.inverse {
            let agent = self.agents.get(&inverse.agent);
            let framework = self.frameworks.get(&inverse.framework);
            let granted = round.allocations.iter();
            let mut granted = granted.map(|x| (&x.agent, &x.framework));
            let asked = agent.and_then(|agent| agent.asked.get(&inverse.framework));
            let fair = agent.is_some_and(|agent| {
                let holds = agent.held.keys().any(|(f, _)| *f == inverse.framework);
                agent.unavailability == Some(inverse.unavailability)
                    && (holds || granted.any(|x| x == (&inverse.agent, &inverse.framework)))
            });
            let due = match asked {
                None => true,
                Some(None) => false,
                Some(Some(again)) => now >= *again,
            };
            let pair = (&inverse.agent, &inverse.framework);
            if !fair || !due || !framework.is_some_and(|f| f.active) || seen.contains(&pair) {
                return Err(format!(
                    "an inverse offer without its reason: {inverse:?}, asked before: {asked:?}"
                ));
            }
            seen.push(pair);
        }
        Ok(())
    }

    /// Compares what the module says of its books.
    pub(super) fn compare(&self, module: &dyn Allocator) -> Result<(), String> {
        for (id, agent) in &self.agents {
            let (free, held) = (module.free(id), module.held(id));
            if free != agent.free() {
                let ours = agent.free();
                return Err(format!(
                    "agent {id} has {ours} free, but {free} was answered"
                ));
            }
            let ours = self.held_on(id);
            let same = held.len() == ours.len()
                && held
                    .iter()
                    .zip(&ours)
                    .all(|(grant, ((framework, role), held))| {
                        (&grant.framework, &grant.role, &grant.resources) == (framework, role, held)
                    });
            if !same {
                return Err(format!("on agent {id}, {ours:?} is held, but not {held:?}"));
            }
        }
        for role in self.quotas.keys() {
            let mut answered = module.consumed(role);
            answered.retain(|_, amount| !amount.is_zero());
            let ours = self.consumed(role);
            if answered != ours {
                return Err(format!("role {role} consumes {ours:?}, not {answered:?}"));
            }
        }
        Ok(())
    }

    /// After a round: what somebody would take is not left lying, and time alone brings news only
    /// later.
    ///
    /// Looked at only where no quota and no hole may keep it for others, and of clients without
    /// a demand.
    pub(super) fn nothing_lies_idle(
        &self,
        now: Timestamp,
        module: &dyn Allocator,
    ) -> Result<(), String> {
        if self.paused || self.unfinished {
            return Ok(());
        }
        if let Some(deadline) = module.next_deadline().filter(|deadline| *deadline <= now) {
            return Err(format!(
                "after a round at {now}, {deadline} is still awaited"
            ));
        }
        if !self.quotas.is_empty() || !module.holes().is_empty() {
            return Ok(());
        }
        for (id, agent) in self.agents.iter().filter(|(_, agent)| agent.active) {
            let free = agent.free();
            for (framework_id, framework) in self.frameworks.iter().filter(|(_, f)| f.active) {
                for (role, spec) in &framework.spec.roles {
                    let client = (framework_id.clone(), role.clone());
                    if !self.takes_offers(&client) || self.demands.contains_key(&client) {
                        continue;
                    }
                    let can = framework.spec.capabilities;
                    let open = free.filter(|_, lot: &Lot| {
                        lot.is_open_to(role)
                            && !lot.is_shared()
                            && (!lot.is_revocable() || can.revocable)
                            && (lot.reservations().len() < 2 || can.reservation_refinement)
                    });
                    let gpus = !agent.spec.total.scalar(&Name::GPUS).is_zero();
                    let wanted = is_worth(&open, spec)
                        && (can.gpu || !gpus)
                        && failing_constraint(spec, agent).is_none()
                        && self.filter(&client, id, &open).is_none();
                    if wanted {
                        return Err(format!(
                            "after a round at {now}, {open} lies idle on agent {id}, though \
                             framework {framework_id} in role {role} would be offered it"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn told(allocation: &Allocation, why: &str) -> String {
    let Allocation {
        framework,
        role,
        agent,
        resources,
    } = allocation;
    format!(
        "{resources} of agent {agent} was granted to framework {framework} in role {role}, {why}"
    )
}

fn failing_constraint(spec: &RoleSpec, agent: &Agent) -> Option<String> {
    spec.constraints.as_ref()?.failing(Described {
        hostname: &agent.spec.hostname,
        attributes: &agent.spec.attributes,
        domain: agent.spec.domain.as_ref(),
    })
}

/// Whether a bundle is large enough for what the client wants, or for the usual.
fn is_worth(bundle: &Resources, spec: &RoleSpec) -> bool {
    let usual: MinAllocatable = Common::default().min_allocatable;
    let min = spec.min_allocatable.as_ref().unwrap_or(&usual);
    let positive = bundle.iter().any(|(_, _, value)| match value {
        Value::Scalar(amount) => !amount.is_zero(),
        Value::Ranges(_) | Value::Set(_) => true,
    });
    let reaches = |min: &crate::Amounts| {
        let mut min = min.iter();
        min.all(|(name, amount)| bundle.scalar(name) >= *amount)
    };
    positive && (min.is_empty() || min.iter().any(reaches))
}
