//! Turns steps into facts about a small cluster, and plays them.

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use super::books::Books;
use super::history::{FRAMEWORKS, ROLES, Step};
use super::material;
use crate::{
    AgentSpec, Allocator, ConvertError, Demand, FrameworkSpec, Grant, Quota, Recovery, Round,
    Unavailability,
};

/// One call of a module, with what it is told.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "each is the method of `Allocator` of that name"
)]
pub enum Fact {
    AddFramework(FrameworkId, FrameworkSpec),
    DeactivateFramework(FrameworkId),
    RemoveFramework(FrameworkId),
    AddAgent(AgentId, AgentSpec),
    SetAgentActive(AgentId, bool),
    SetUnavailability(AgentId, Option<Unavailability>),
    AnswerInverse(AgentId, FrameworkId, Option<Timestamp>),
    RemoveAgent(AgentId),
    Recover(Timestamp, AgentId, Grant, Recovery),
    Convert {
        agent: AgentId,
        holder: Option<(FrameworkId, Role)>,
        from: Resources,
        to: Resources,
    },
    Suppress(FrameworkId, BTreeSet<Role>),
    Revive(FrameworkId, BTreeSet<Role>),
    SetDemand(FrameworkId, Role, Option<Demand>),
    SetWeight(Role, u64),
    SetQuota(Role, Quota),
    Pause,
    Resume,
    Allocate(Timestamp),
}

/// What a module answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing; most facts have no answer.
    Nothing,
    /// Whether resources were converted.
    Converted(Result<(), ConvertError>),
    /// What a round decided.
    Decided(Round),
}

impl Fact {
    /// Tells the module.
    pub fn tell(&self, module: &mut dyn Allocator) -> Told {
        match self {
            Self::AddFramework(id, spec) => module.add_framework(id, spec.clone()),
            Self::DeactivateFramework(id) => module.deactivate_framework(id),
            Self::RemoveFramework(id) => module.remove_framework(id),
            Self::AddAgent(id, spec) => module.add_agent(id, spec.clone()),
            Self::SetAgentActive(id, active) => module.set_agent_active(id, *active),
            Self::SetUnavailability(id, when) => module.set_unavailability(id, *when),
            Self::AnswerInverse(agent, framework, until) => {
                module.answer_inverse(agent, framework, *until);
            }
            Self::RemoveAgent(id) => module.remove_agent(id),
            Self::Recover(now, agent, grant, recovery) => {
                module.recover(*now, agent, grant, *recovery);
            }
            Self::Convert {
                agent,
                holder,
                from,
                to,
            } => {
                let holder = holder.as_ref().map(|(framework, role)| (framework, role));
                return Told::Converted(module.convert(agent, holder, from, to));
            }
            Self::Suppress(id, roles) => module.suppress(id, roles),
            Self::Revive(id, roles) => module.revive(id, roles),
            Self::SetDemand(id, role, demand) => module.set_demand(id, role, demand.clone()),
            Self::SetWeight(role, weight) => module.set_weight(role, *weight),
            Self::SetQuota(role, quota) => module.set_quota(role, quota.clone()),
            Self::Pause => module.pause(),
            Self::Resume => module.resume(),
            Self::Allocate(now) => return Told::Decided(module.allocate(*now)),
        }
        Told::Nothing
    }
}

/// A cluster that steps happen to.
#[derive(Debug, Default)]
pub struct World {
    now: Timestamp,
    books: Books,
}

impl World {
    /// What the step means here and now; nothing when it speaks of what does not exist.
    pub fn facts(&mut self, step: &Step) -> Vec<Fact> {
        let now = self.now;
        match *step {
            Step::Subscribe {
                framework,
                roles,
                suppressed,
                can,
                wants,
            } => {
                let spec = material::framework(&masked(roles), &masked(suppressed), can, wants);
                vec![Fact::AddFramework(material::framework_id(framework), spec)]
            }
            Step::Deactivate(n) => vec![Fact::DeactivateFramework(material::framework_id(n))],
            Step::RemoveFramework(n) => vec![Fact::RemoveFramework(material::framework_id(n))],
            Step::AddAgent { agent, shape, used } => {
                let spec = material::agent(agent, shape, used);
                vec![Fact::AddAgent(material::agent_id(agent), spec)]
            }
            Step::SetActive(n, active) => {
                vec![Fact::SetAgentActive(material::agent_id(n), active)]
            }
            Step::RemoveAgent(n) => vec![Fact::RemoveAgent(material::agent_id(n))],
            Step::Unavailability(n, which) => {
                let unavailability = (which > 0).then(|| Unavailability {
                    start: now + Duration::from_secs(60 * u64::from(which)),
                    duration: (which > 1).then_some(Duration::from_secs(600)),
                });
                vec![Fact::SetUnavailability(
                    material::agent_id(n),
                    unavailability,
                )]
            }
            Step::AnswerInverse { which, secs } => {
                let waiting = self.books.inverse_waiting();
                let until = (secs > 0).then(|| now + Duration::from_secs(secs.into()));
                pick(&waiting, which)
                    .map(|(agent, framework)| {
                        Fact::AnswerInverse(agent.clone(), framework.clone(), until)
                    })
                    .into_iter()
                    .collect()
            }
            Step::GiveBack { which, part, how } => {
                let held = self.books.all_held();
                let Some((agent, grant)) = pick(&held, which) else {
                    return Vec::new();
                };
                let grant = Grant {
                    resources: material::part(&grant.resources, part),
                    ..grant.clone()
                };
                let recovery = material::recovery(how);
                vec![Fact::Recover(now, agent.clone(), grant, recovery)]
            }
            Step::GiveAllBack { how } => {
                let recovery = material::recovery(how);
                let last = self.books.last_round().iter();
                last.map(|x| {
                    let grant = Grant {
                        framework: x.framework.clone(),
                        role: x.role.clone(),
                        resources: x.resources.clone(),
                    };
                    Fact::Recover(now, x.agent.clone(), grant, recovery)
                })
                .collect()
            }
            Step::Convert {
                agent,
                holder,
                into,
            } => self
                .conversion(&material::agent_id(agent), holder, into)
                .into_iter()
                .collect(),
            Step::Suppress(n, roles) => {
                vec![Fact::Suppress(material::framework_id(n), masked(roles))]
            }
            Step::Revive(n, roles) => vec![Fact::Revive(material::framework_id(n), masked(roles))],
            Step::Demand {
                framework,
                role,
                bundle,
                count,
            } => vec![Fact::SetDemand(
                material::framework_id(framework),
                role_n(role),
                material::demand(bundle, count),
            )],
            Step::Weight(role, which) => {
                vec![Fact::SetWeight(role_n(role), material::weight(which))]
            }
            Step::Quota {
                role,
                guarantee,
                limit,
            } => vec![Fact::SetQuota(
                role_n(role),
                material::quota(guarantee, limit),
            )],
            Step::Pause => vec![Fact::Pause],
            Step::Resume => vec![Fact::Resume],
            Step::Round { after, twice } => {
                self.now = now + material::pause(after);
                vec![Fact::Allocate(self.now); if twice { 2 } else { 1 }]
            }
        }
    }

    fn conversion(&self, agent: &AgentId, holder: u8, into: u8) -> Option<Fact> {
        let held = self.books.held_on(agent);
        // Every second time what is free.
        let (holder, there) = match pick(&held, holder / 2) {
            Some((client, resources)) if holder.is_multiple_of(2) => {
                (Some(client.clone()), resources.clone())
            }
            _ => (None, self.books.free_on(agent)?),
        };
        let (from, to) = material::conversion(&there, into)?;
        let disturbed = self.books.copies_elsewhere(agent, holder.as_ref(), &from);
        (!disturbed).then(|| Fact::Convert {
            agent: agent.clone(),
            holder,
            from,
            to,
        })
    }

    /// Writes down what was told and answered, without holding it against the laws.
    pub fn note(&mut self, fact: &Fact, told: &Told) {
        self.books.note(fact, told);
    }

    /// Writes down what was told and answered.
    ///
    /// # Errors
    /// The law that the answer, or what the module says of its books afterwards, breaks.
    pub fn record(
        &mut self,
        fact: &Fact,
        told: &Told,
        module: &dyn Allocator,
    ) -> Result<(), String> {
        if let (Fact::Allocate(now), Told::Decided(round)) = (fact, told) {
            self.books.judge(*now, round)?;
        }
        self.books.note(fact, told);
        self.books.compare(module)?;
        if let Fact::Allocate(now) = fact {
            self.books.nothing_lies_idle(*now, module)?;
        }
        Ok(())
    }

    /// Ends the history: a last round to its end, then everything goes.
    ///
    /// # Errors
    /// The law that was broken on the way.
    pub fn wind_up(&mut self, module: &mut dyn Allocator) -> Result<(), String> {
        self.play(&Fact::Resume, module)?;
        self.round_to_its_end(module)?;
        let agents: Vec<AgentId> = self.books.agents().cloned().collect();
        for agent in agents {
            self.play(&Fact::RemoveAgent(agent), module)?;
        }
        for framework in (0..FRAMEWORKS).map(material::framework_id) {
            self.play(&Fact::RemoveFramework(framework), module)?;
        }
        self.round_to_its_end(module)?;
        match (module.next_deadline(), module.holes().as_slice()) {
            (None, []) => Ok(()),
            (deadline, holes) => Err(format!(
                "no agent and no framework is left, but {deadline:?} is awaited and the holes \
                 {holes:?} are kept"
            )),
        }
    }
}

impl World {
    fn play(&mut self, fact: &Fact, module: &mut dyn Allocator) -> Result<(), String> {
        let told = fact.tell(module);
        self.record(fact, &told, module)
    }

    /// However little a call does, a round comes to its end.
    fn round_to_its_end(&mut self, module: &mut dyn Allocator) -> Result<(), String> {
        for _ in 0..CALLS_MAX {
            self.play(&Fact::Allocate(self.now), module)?;
            if !self.books.unfinished {
                return Ok(());
            }
        }
        Err(format!(
            "{CALLS_MAX} calls without a fact between them did not bring a round to its end"
        ))
    }
}

/// A round among a handful of agents and frameworks has fewer looks than this.
const CALLS_MAX: usize = 10_000;

fn role_n(n: u8) -> Role {
    material::role(ROLES[usize::from(n) % ROLES.len()])
}

/// The roles whose bits are set.
fn masked(bits: u8) -> BTreeSet<Role> {
    let roles = (0..6).filter(|n| bits & (1 << n) != 0);
    roles.map(role_n).collect()
}

fn pick<T>(among: &[T], which: u8) -> Option<&T> {
    among.get(usize::from(which) % among.len().max(1))
}
