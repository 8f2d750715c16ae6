//! Frameworks that launch tasks in batches, over the public SDK.

use std::time::{Duration, Instant};

use allotment_framework_sdk::{Call, Command, Config, Event, Offer, Scheduler, Task};
use allotment_types::{Resources, TaskId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::report::clock;

/// What each framework of a crowd launches.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) masters: Vec<String>,
    /// How its tasks' names begin.
    pub(super) prefix: String,
    pub(super) resources: Resources,
    /// Tasks in one ACCEPT, at most.
    pub(super) batch: usize,
    /// Tasks that are not confirmed yet, at most.
    pub(super) open_max: u64,
    /// Tasks in all, at most.
    pub(super) total: u64,
    /// Between two ACCEPTs, at least.
    pub(super) pause: Duration,
}

/// Frameworks; they end with it.
#[derive(Debug)]
pub(super) struct Crowd {
    /// The newest subscription under which a task was launched and confirmed, counted from 1, and
    /// when its first one was. Of one framework of the crowd, whichever it is.
    pub(super) accepted: watch::Receiver<(u64, Instant)>,
    _frameworks: JoinSet<anyhow::Result<()>>,
}

impl Crowd {
    /// Starts `n` frameworks. Must be called within a runtime.
    pub(super) fn start(n: usize, plan: &Plan) -> Self {
        let (accepted, hears) = watch::channel((0, clock()));
        let mut frameworks = JoinSet::new();
        for number in 0..n {
            let framework = Framework {
                name: format!("{}{number}", plan.prefix),
                plan: plan.clone(),
                accepted: accepted.clone(),
                n_launched: 0,
                n_confirmed: 0,
                n_subscriptions: 0,
                since: 0,
                last: None,
            };
            frameworks.spawn(framework.live());
        }
        let accepted = hears;
        let _frameworks = frameworks;
        Self {
            accepted,
            _frameworks,
        }
    }
}

struct Framework {
    plan: Plan,
    name: String,
    accepted: watch::Sender<(u64, Instant)>,
    n_launched: u64,
    n_confirmed: u64,
    n_subscriptions: u64,
    /// The first task of the newest subscription.
    since: u64,
    last: Option<Instant>,
}

impl Framework {
    async fn live(mut self) -> anyhow::Result<()> {
        let mut scheduler = Scheduler::connect(Config {
            masters: self.plan.masters.clone(),
            name: self.name.clone(),
            failover_timeout: Duration::from_secs(3600),
            ..Config::default()
        })?;
        let mut events = Vec::new();
        while scheduler.next_batch(&mut events).await > 0 {
            let mut calls = Vec::new();
            for event in events.drain(..) {
                match event {
                    Event::Subscribed { .. } => {
                        self.n_subscriptions += 1;
                        self.since = self.n_launched;
                        // What was not confirmed before may never be.
                        self.n_confirmed = self.n_launched;
                    }
                    Event::Offers(offers) => {
                        for offer in offers {
                            calls.push(self.answer(offer)?);
                        }
                    }
                    Event::Update(update) => {
                        calls.extend(update.acknowledgement());
                        self.on_confirmed(&update.task);
                    }
                    Event::Error(reason) => anyhow::bail!("{}: {reason}", self.name),
                    Event::Disconnected { .. }
                    | Event::InverseOffers(_)
                    | Event::InverseRescinded(_)
                    | Event::Rescinded(_)
                    | Event::AgentLost(_)
                    | Event::Executor { .. }
                    | Event::Rejected { .. } => {}
                }
            }
            scheduler.call_all(calls).await?;
        }
        Ok(())
    }

    fn on_confirmed(&mut self, task: &TaskId) {
        self.n_confirmed += 1;
        let number = task.as_str().rsplit('-').next();
        let number = number.and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| number >= self.since) {
            let n = self.n_subscriptions;
            self.accepted.send_if_modified(|accepted| {
                let first = accepted.0 < n;
                if first {
                    *accepted = (n, clock());
                }
                first
            });
        }
    }

    fn answer(&mut self, offer: Offer) -> anyhow::Result<Call> {
        let mut left = offer.resources.clone();
        let mut tasks = Vec::new();
        let due = self
            .last
            .is_none_or(|last| last.elapsed() >= self.plan.pause);
        while due
            && tasks.len() < self.plan.batch
            && self.n_launched < self.plan.total
            && self.n_launched.saturating_sub(self.n_confirmed) < self.plan.open_max
            && left.contains(&self.plan.resources)
        {
            left.subtract(&self.plan.resources);
            let id = TaskId::parse(&format!("{}-{}", self.name, self.n_launched))?;
            self.n_launched += 1;
            let command = Command::Shell("true".to_owned());
            tasks.push(Task::new(id, self.plan.resources.clone(), command));
        }
        if !tasks.is_empty() {
            self.last = Some(clock());
        }
        Ok(Call::Accept {
            agent: offer.agent,
            offers: vec![offer.id],
            // Offered again at once where it is of use, and a little later where it is not.
            refuse_for: Some(if tasks.is_empty() {
                Duration::from_millis(100)
            } else {
                Duration::ZERO
            }),
            tasks,
        })
    }
}
