//! What operators want of an agent: to be offered or not, to be drained, to be away for a while.

use std::time::Duration;

use allotment_allocator::Unavailability;
use allotment_proto::allot::set_agent_request::Activity as Asked;
use allotment_proto::{allot, mesos};
use allotment_types::{AgentId, FrameworkId, TaskId, Timestamp};

use super::Core;
use super::accept::truncated;
use super::agent::Agent;
use super::io::Refusal;
use super::out::About;
use super::registry::{Record, WishRecord};
use super::task::KillWish;
use super::timers::Timer;

/// The longest grace and unavailability that are accepted: what is meant to be for good has no
/// duration.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Whether an agent takes new tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Activity {
    /// It is offered.
    #[default]
    Active,
    /// It is not offered; its tasks go on.
    Deactivated,
    /// It is not offered and its tasks are killed, with so long between SIGTERM and SIGKILL.
    Draining { grace: Option<Duration> },
}

/// What operators want of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wish {
    pub(super) activity: Activity,
    pub(super) unavailability: Option<Unavailability>,
}

impl Wish {
    pub(super) fn from_record(record: &WishRecord) -> Self {
        let activity = if record.draining {
            Activity::Draining {
                grace: record.grace.map(Duration::from_nanos),
            }
        } else if record.deactivated {
            Activity::Deactivated
        } else {
            Activity::Active
        };
        let unavailability = record.unavailable_from.map(|from| Unavailability {
            start: Timestamp::from_nanos(from),
            duration: record.unavailable_for.map(Duration::from_nanos),
        });
        Self {
            activity,
            unavailability,
        }
    }

    fn record(&self, agent: &AgentId) -> Record {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (draining, grace) = match self.activity {
            Activity::Draining { grace } => (true, grace),
            Activity::Active | Activity::Deactivated => (false, None),
        };
        Record::Wish(WishRecord {
            agent: agent.to_string(),
            deactivated: self.activity != Activity::Active,
            draining,
            grace: grace.map(nanos),
            unavailable_from: self.unavailability.map(|u| u.start.as_nanos()),
            unavailable_for: self.unavailability.and_then(|u| u.duration).map(nanos),
        })
    }

    /// When the planned absence is over.
    pub(super) fn back_at(&self) -> Option<Timestamp> {
        let unavailability = self.unavailability?;
        Some(unavailability.start + unavailability.duration?)
    }
}

impl Agent {
    /// As `AgentView.activity` says it; `n_live` counts its live tasks.
    pub(super) fn activity(&self, n_live: usize) -> &'static str {
        match self.wish.activity {
            Activity::Active => "active",
            Activity::Deactivated => "deactivated",
            // What runs on an agent that is away is not known for sure.
            Activity::Draining { .. } if n_live == 0 && self.session().is_some() => "drained",
            Activity::Draining { .. } => "draining",
        }
    }

    /// Whether its resources may be offered.
    pub(super) fn is_offerable(&self) -> bool {
        self.session().is_some() && self.wish.activity == Activity::Active
    }
}

/// Writes a planned absence.
pub(super) fn unavailability_to_wire(unavailability: Unavailability) -> mesos::Unavailability {
    mesos::Unavailability {
        start: allotment_proto::convert::time_to_wire(unavailability.start),
        duration: unavailability
            .duration
            .map(allotment_proto::convert::duration_to_wire),
    }
}

impl Core {
    /// By id, else by host name, when it is the only one.
    pub(super) fn find_agent(&self, subject: &str) -> Result<AgentId, Refusal> {
        if let Ok(id) = AgentId::parse(subject)
            && self.agents.contains_key(&id)
        {
            return Ok(id);
        }
        let named: Vec<&AgentId> = self
            .agents
            .values()
            .filter(|agent| &*agent.hostname == subject)
            .map(|agent| &agent.id)
            .collect();
        match named.as_slice() {
            [] => Err(Refusal::NotFound(format!(
                "no agent is called {:?}; `allot node list` shows those that are known",
                truncated(subject)
            ))),
            [only] => Ok((*only).clone()),
            [first, second, ..] => Err(Refusal::Invalid(format!(
                "{} agents are called {}, for example {first} and {second}; give the id",
                named.len(),
                truncated(subject)
            ))),
        }
    }

    pub(super) fn operator_set_agent(
        &mut self,
        request: &allot::SetAgentRequest,
    ) -> Result<allot::AgentView, Refusal> {
        let id = self.find_agent(&request.agent)?;
        let grace = request.grace_seconds.map(seconds).transpose()?;
        let activity = match request.activity() {
            Asked::Active => Activity::Active,
            Asked::Deactivated => Activity::Deactivated,
            Asked::Drained => Activity::Draining { grace },
            Asked::Unknown => {
                return Err(Refusal::Invalid(
                    "the wanted activity is unknown; ask for ACTIVE, DEACTIVATED or DRAINED"
                        .to_owned(),
                ));
            }
        };
        if grace.is_some() && !matches!(activity, Activity::Draining { .. }) {
            return Err(Refusal::Invalid(
                "a grace period is for a drain; leave it out".to_owned(),
            ));
        }
        let Some(agent) = self.agents.get_mut(&id) else {
            return self.agent_view_of(&id);
        };
        agent.wish.activity = activity;
        let record = agent.wish.record(&id);
        let (kind, doing) = match activity {
            Activity::Active => ("agent-activated", "is offered again"),
            Activity::Deactivated => ("agent-deactivated", "is no longer offered; its tasks go on"),
            Activity::Draining { .. } => ("agent-draining", "is drained: its tasks are killed"),
        };
        let message = format!("agent {} {doing}", agent.hostname);
        let offerable = agent.is_offerable();
        self.out.persist(record);
        self.out.publish(kind, About::agent(&id), message);
        self.allocator.set_agent_active(&id, offerable);
        if activity == Activity::Active {
            self.offers.want_round();
        } else {
            self.rescind_offers_of_agent(&id);
        }
        self.drain(&id);
        self.agent_view_of(&id)
    }

    /// Kills what runs on an agent that is to be drained, and can hear it.
    pub(super) fn drain(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let Activity::Draining { grace } = agent.wish.activity else {
            return;
        };
        let policy = grace.map(|grace| mesos::KillPolicy {
            grace_period: Some(allotment_proto::convert::duration_to_wire(grace)),
        });
        let live = |key: &&(FrameworkId, TaskId)| {
            let framework = self.frameworks.get(&key.0);
            let task = framework.and_then(|f| f.tasks.get(&key.1));
            task.is_some_and(|task| !task.is_terminal())
        };
        let tasks: Vec<_> = agent.tasks.iter().filter(live).cloned().collect();
        for (framework, task) in tasks {
            self.kill_task(&framework, &task, KillWish { policy });
        }
    }

    pub(super) fn operator_set_maintenance(
        &mut self,
        request: &allot::SetMaintenanceRequest,
    ) -> Result<allot::AgentView, Refusal> {
        let id = self.find_agent(&request.agent)?;
        let duration = request.duration_seconds.map(seconds).transpose()?;
        let unavailability = match (request.start, duration) {
            (Some(start), duration) => Some(Unavailability {
                start: Timestamp::from_nanos(
                    u64::try_from(seconds(start)?.as_nanos()).unwrap_or(u64::MAX),
                ),
                duration,
            }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Refusal::Invalid(
                    "the maintenance has a duration but no start; say when it begins".to_owned(),
                ));
            }
        };
        let now = self.out.now;
        if let Some(planned) = unavailability
            && planned
                .duration
                .is_some_and(|duration| planned.start + duration <= now)
        {
            return Err(Refusal::Invalid(
                "the maintenance would be over already; give a later start or a longer duration"
                    .to_owned(),
            ));
        }
        self.plan_absence(&id, unavailability);
        self.agent_view_of(&id)
    }

    fn plan_absence(&mut self, id: &AgentId, unavailability: Option<Unavailability>) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        if let Some(at) = agent.wish.back_at() {
            self.timers.cancel(at, Timer::MaintenanceOver(id.clone()));
        }
        agent.wish.unavailability = unavailability;
        agent.answers.clear();
        let record = agent.wish.record(id);
        if let Some(at) = agent.wish.back_at() {
            self.timers.set(at, Timer::MaintenanceOver(id.clone()));
        }
        let (kind, message) = match unavailability {
            Some(planned) => (
                "agent-maintenance",
                format!(
                    "agent {} is planned to be away from {}{}",
                    agent.hostname,
                    planned.start,
                    planned
                        .duration
                        .map_or_else(|| " for good".to_owned(), |d| format!(" for {d:?}"))
                ),
            ),
            None => (
                "agent-maintenance-over",
                format!(
                    "agent {} is not planned to be away any more",
                    agent.hostname
                ),
            ),
        };
        self.out.persist(record);
        self.out.publish(kind, About::agent(id), message);
        self.rescind_inverse_offers_of_agent(id);
        self.allocator.set_unavailability(id, unavailability);
        // What was offered without the window was offered for something else.
        self.rescind_offers_of_agent(id);
        self.offers.want_round();
    }

    pub(super) fn on_maintenance_over(&mut self, id: &AgentId) {
        let back = self.agents.get(id).and_then(|agent| agent.wish.back_at());
        if back.is_some_and(|at| at <= self.out.now) {
            self.plan_absence(id, None);
        }
    }
}

fn seconds(seconds: f64) -> Result<Duration, Refusal> {
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| {
            Refusal::Invalid(format!(
                "{seconds} is no time in seconds; give a number between 0 and {}",
                DURATION_MAX.as_secs()
            ))
        })
}
