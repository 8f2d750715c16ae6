//! Frameworks that launch tasks in batches, over the public SDK.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use allotment_framework_sdk::{Call, Command, Config, Event, Offer, Scheduler, Task};
use allotment_types::{Resources, TaskId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::report::clock;

/// How often a framework that hears nothing looks whether it may launch.
const NAP_MIN: Duration = Duration::from_millis(10);

/// What each framework of a crowd launches.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) masters: Vec<String>,
    /// How its tasks' names begin.
    pub(super) prefix: String,
    pub(super) resources: Resources,
    /// Tasks in one ACCEPT, at most.
    pub(super) batch: u64,
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
                offers: VecDeque::new(),
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
    offers: VecDeque<Offer>,
}

impl Framework {
    async fn live(mut self) -> anyhow::Result<()> {
        let mut scheduler = Scheduler::connect(Config {
            masters: self.plan.masters.clone(),
            name: self.name.clone(),
            failover_timeout: Duration::from_secs(3600),
            ..Config::default()
        })?;
        let nap = self.plan.pause.max(NAP_MIN);
        let mut events = Vec::new();
        loop {
            let batch = scheduler.next_batch(&mut events);
            // An error: nothing was said, and yet it may be time for the next launch.
            if tokio::time::timeout(nap, batch).await == Ok(0) {
                return Ok(());
            }
            let mut calls = Vec::new();
            for event in events.drain(..) {
                self.on_event(event, &mut calls)?;
            }
            self.launch(&mut calls)?;
            scheduler.call_all(calls).await?;
        }
    }

    fn on_event(&mut self, event: Event, calls: &mut Vec<Call>) -> anyhow::Result<()> {
        match event {
            Event::Subscribed { .. } => {
                self.n_subscriptions += 1;
                self.since = self.n_launched;
                // What was not confirmed before may never be.
                self.n_confirmed = self.n_launched;
                if self.is_done() {
                    calls.push(Call::Suppress);
                }
            }
            Event::Offers(offers) => self.offers.extend(offers),
            Event::Rescinded(gone) => self.offers.retain(|offer| offer.id != gone),
            Event::Disconnected { .. } => self.offers.clear(),
            Event::Update(update) => {
                calls.extend(update.acknowledgement());
                self.on_confirmed(&update.task);
            }
            Event::Error(reason) => anyhow::bail!("{}: {reason}", self.name),
            Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. } => {}
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

    fn is_done(&self) -> bool {
        self.n_launched >= self.plan.total
    }

    /// How many tasks may be launched now.
    fn room(&self) -> u64 {
        let open = self.n_launched.saturating_sub(self.n_confirmed);
        let due = self
            .last
            .is_none_or(|last| last.elapsed() >= self.plan.pause);
        let room = self.plan.open_max.saturating_sub(open);
        if due {
            room.min(self.plan.total - self.n_launched)
        } else {
            0
        }
    }

    /// Uses offers as long as more tasks may be open, and keeps the others until then: declining
    /// them would only bring them again.
    fn launch(&mut self, calls: &mut Vec<Call>) -> anyhow::Result<()> {
        loop {
            let room = self.room().min(self.plan.batch);
            if room == 0 {
                break;
            }
            let Some(offer) = self.offers.pop_front() else {
                break;
            };
            calls.push(self.accept(offer, room)?);
        }
        if self.is_done() && !self.offers.is_empty() {
            calls.push(Call::Suppress);
            calls.push(Call::Decline {
                offers: self.offers.drain(..).map(|offer| offer.id).collect(),
                refuse_for: Some(Duration::from_secs(3600)),
            });
        }
        Ok(())
    }

    fn accept(&mut self, offer: Offer, room: u64) -> anyhow::Result<Call> {
        let mut left = offer.resources.clone();
        let mut tasks = Vec::new();
        for _ in 0..room {
            if !left.contains(&self.plan.resources) {
                break;
            }
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
            // Too small an offer is not wanted again soon.
            refuse_for: Some(if tasks.is_empty() {
                Duration::from_secs(5)
            } else {
                Duration::ZERO
            }),
            tasks,
        })
    }
}
