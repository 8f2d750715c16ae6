//! What people hear of offers.
//!
//! A busy framework answers thousands of offers a second. People hear of the first at once, with
//! whatever the same turn brought, and then of each framework and each fate at most every [`QUIET`]
//! with one event that sums up. Nothing is left out of the sums. What frameworks themselves hear is
//! not touched by any of this.

use std::time::Duration;

use allotment_types::{AgentId, Fixed, FrameworkId, Resources, Timestamp};

use super::Core;
use super::out::About;
use super::timers::Timer;

/// Between two events of one framework and fate: often enough to follow by eye, and fifty events a
/// second at most.
const QUIET: Duration = Duration::from_millis(100);

/// What can happen to an offer, in the words of Mesos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It went out.
    Sent,
    /// Some of it, or none, was used for this many tasks.
    Accepted { n_tasks: usize },
    /// It came back unused, and is withheld for this long.
    Declined { refuse_for: Duration },
    /// It was taken back because the agent left or the resources are needed.
    Rescinded,
    /// It was taken back unanswered.
    Expired,
}

/// What happened to offers of one framework since people last heard of them.
#[derive(Debug, Default)]
pub(super) struct OfferNews {
    /// One for each kind of fate, in the order in which they first came.
    fates: Vec<OneFate>,
}

#[derive(Debug)]
struct OneFate {
    kind: &'static str,
    quiet_until: Timestamp,
    sum: Option<Sum>,
}

#[derive(Debug)]
struct Sum {
    /// The first, with its number of tasks summed up and the longest time it is withheld.
    fate: Fate,
    n_offers: usize,
    amount: Amount,
    /// When all were of one agent: which, and what people call it.
    agent: Option<(AgentId, String)>,
}

impl OfferNews {
    /// Adds offers of one agent, which people call `hostname`. Returns when people are to hear of
    /// it, unless that is known.
    pub(super) fn add(
        &mut self,
        now: Timestamp,
        fate: Fate,
        n_offers: usize,
        resources: &Resources,
        agent: &AgentId,
        hostname: impl FnOnce() -> String,
    ) -> Option<Timestamp> {
        let kind = fate.kind();
        let at = self.fates.iter().position(|one| one.kind == kind);
        let at = at.unwrap_or_else(|| {
            self.fates.push(OneFate {
                kind,
                quiet_until: Timestamp::ZERO,
                sum: None,
            });
            self.fates.len() - 1
        });
        let one = self.fates.get_mut(at)?;
        if let Some(sum) = &mut one.sum {
            sum.add(fate, n_offers, resources, agent);
            return None;
        }
        one.sum = Some(Sum {
            fate,
            n_offers,
            amount: Amount::One(resources.clone()),
            agent: Some((agent.clone(), hostname())),
        });
        Some(one.quiet_until.max(now))
    }
}

/// What the offers of a sum held.
#[derive(Debug)]
enum Amount {
    /// Of one offer everything.
    One(Resources),
    /// Of several their CPUs and memory. As numbers: a bundle for each of ten thousand offers
    /// would cost as much as the offers.
    Several { cpus: Fixed, mem: Fixed },
}

impl Amount {
    fn and(&self, more: &Resources) -> Self {
        let (cpus, mem) = match self {
            Self::One(first) => (first.cpus(), first.mem()),
            Self::Several { cpus, mem } => (*cpus, *mem),
        };
        Self::Several {
            cpus: cpus.saturating_add(more.cpus()),
            mem: mem.saturating_add(more.mem()),
        }
    }

    fn resources(&self) -> Resources {
        match self {
            Self::One(resources) => resources.clone(),
            Self::Several { cpus, mem } => Resources::cpus_mem(*cpus, *mem),
        }
    }
}

impl Fate {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Accepted { n_tasks }, Self::Accepted { n_tasks: more }) => Self::Accepted {
                n_tasks: n_tasks + more,
            },
            (Self::Declined { refuse_for }, Self::Declined { refuse_for: other }) => {
                Self::Declined {
                    refuse_for: refuse_for.max(other),
                }
            }
            (same, _) => same,
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Sent => "offer-sent",
            Self::Accepted { .. } => "offer-accepted",
            Self::Declined { .. } => "offer-declined",
            Self::Rescinded => "offer-rescinded",
            Self::Expired => "offer-expired",
        }
    }
}

impl Sum {
    fn add(&mut self, fate: Fate, n_offers: usize, resources: &Resources, agent: &AgentId) {
        self.fate = self.fate.and(fate);
        self.n_offers += n_offers;
        self.amount = self.amount.and(resources);
        if self.agent.as_ref().is_some_and(|(known, _)| known != agent) {
            self.agent = None;
        }
    }

    /// For people, about the framework called `name`.
    fn sentence(&self, name: &str) -> String {
        let (n_offers, resources) = (&self.n_offers, self.amount.resources());
        let place = match &self.agent {
            Some((_, hostname)) => format!(" on {hostname}"),
            None => String::new(),
        };
        let offers = match n_offers {
            1 => "an offer".to_owned(),
            n => format!("{n} offers"),
        };
        match self.fate {
            Fate::Sent if *n_offers == 1 => format!("{name} is offered {resources}{place}"),
            Fate::Sent => format!("{name} gets {offers}{place}, together {resources}"),
            Fate::Accepted { n_tasks: 0 } => {
                format!("{name} accepts {offers}{place} and launches nothing")
            }
            Fate::Accepted { n_tasks } => {
                let tasks = if n_tasks == 1 { "task" } else { "tasks" };
                format!(
                    "{name} accepts {offers}{place} and launches {n_tasks} {tasks} with {resources}"
                )
            }
            Fate::Declined { refuse_for } => format!(
                "{name} declines {offers}{place} with {resources} for {} s",
                refuse_for.as_secs_f64()
            ),
            Fate::Rescinded => format!("{offers}{place} with {resources} to {name} is taken back"),
            Fate::Expired => format!(
                "{offers}{place} with {resources} to {name} was not answered in time and is taken back"
            ),
        }
    }
}

impl Core {
    /// Notes what happened to `n_offers` offers of one agent; people hear of it soon.
    pub(super) fn note_offers(
        &mut self,
        framework: &FrameworkId,
        agent: &AgentId,
        fate: Fate,
        n_offers: usize,
        resources: &Resources,
    ) {
        let Some(known) = self.frameworks.get_mut(framework) else {
            return;
        };
        let news = &mut known.offer_news;
        if let Some(due) = news.add(self.out.now, fate, n_offers, resources, agent, || {
            let known = self.agents.get(agent);
            known.map_or_else(|| agent.to_string(), |known| known.hostname.to_string())
        }) {
            self.timers.set(due, Timer::OfferNews(framework.clone()));
        }
    }

    pub(super) fn on_offer_news_due(&mut self, id: &FrameworkId) {
        let now = self.out.now;
        let Some(framework) = self.frameworks.get_mut(id) else {
            return;
        };
        for one in &mut framework.offer_news.fates {
            // The others have timers of their own.
            if one.quiet_until > now {
                continue;
            }
            let Some(sum) = one.sum.take() else {
                continue;
            };
            one.quiet_until = now + QUIET;
            let about = About {
                agent: sum.agent.as_ref().map(|(id, _)| id),
                framework: Some(id),
                task: None,
            };
            let sentence = sum.sentence(&framework.info.name);
            self.out.publish_offers(one.kind, about, sentence);
        }
    }
}
