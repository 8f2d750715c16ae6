//! A framework that launches short tasks without end, hears how they do, and keeps the books.
//!
//! It uses the public SDK and nothing else, and does what `docs/writing-a-framework.md` asks of a
//! framework and no more: it acknowledges, and asks about its open tasks when a subscription
//! begins. Each task writes a line when it begins and one when it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use allotment_framework_sdk::{Call, Command, Config, Event, Offer, Scheduler, Task};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId};
use tokio::sync::watch;

use crate::clock;
use crate::ledger::Ledger;

/// How long what a task leaves of an offer is not offered again.
const REFUSE_FOR: Duration = Duration::from_millis(100);

/// What to launch, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The masters, `host:port` each.
    pub masters: Vec<String>,
    /// Tasks of one load begin with its name.
    pub name: String,
    /// What each task holds.
    pub resources: Resources,
    /// How long each task sleeps.
    pub lasts: Duration,
    /// How many tasks are launched in a second, at most.
    pub rate: f64,
    /// How many tasks may be open.
    pub open_max: usize,
    /// Where tasks write that they began and ended.
    pub proof: PathBuf,
}

/// What the load is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Launch.
    Launch,
    /// Launch nothing more, hear the rest.
    Drain,
    /// Leave without a word about the tasks, as a framework that is restarted.
    Away,
    /// Leave for good.
    End,
}

/// What others see of a load that runs.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<Ledger>>);

impl Books {
    /// Looks into them.
    pub fn look(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One framework's life, over all its subscriptions.
struct Load {
    plan: Plan,
    books: Books,
    next: u64,
    /// Where each task was launched.
    agents: BTreeMap<TaskId, AgentId>,
    started: Instant,
}

/// Launches as planned until the wish is [`Wish::End`]; then its tasks must have ended.
///
/// # Errors
/// The SDK refuses the plan, or the masters ended the subscription.
pub async fn run(plan: Plan, books: Books, mut wish: watch::Receiver<Wish>) -> anyhow::Result<()> {
    let mut load = Load {
        plan,
        books,
        next: 0,
        agents: BTreeMap::new(),
        started: clock(),
    };
    let mut id = None;
    loop {
        let now = *wish.borrow_and_update();
        match now {
            Wish::End => return Ok(()),
            Wish::Away => wish.changed().await?,
            Wish::Launch | Wish::Drain => {
                id = load.subscribe(id, &mut wish).await?;
            }
        }
    }
}

impl Load {
    /// One subscription, until the framework is to go away or to end.
    async fn subscribe(
        &mut self,
        id: Option<FrameworkId>,
        wish: &mut watch::Receiver<Wish>,
    ) -> anyhow::Result<Option<FrameworkId>> {
        let mut scheduler = Scheduler::connect(Config {
            masters: self.plan.masters.clone(),
            name: self.plan.name.clone(),
            framework_id: id,
            failover_timeout: Duration::from_secs(3600),
            ..Config::default()
        })?;
        let mut events = Vec::new();
        loop {
            tokio::select! {
                n = scheduler.next_batch(&mut events) => {
                    anyhow::ensure!(n > 0, "the subscription of {} ended", self.plan.name);
                    let launches = *wish.borrow() == Wish::Launch;
                    for event in events.drain(..) {
                        let calls = self.on_event(event, launches)?;
                        scheduler.call_all(calls).await?;
                    }
                }
                changed = wish.changed() => changed?,
            }
            let now = *wish.borrow();
            match now {
                Wish::Launch | Wish::Drain => {}
                Wish::Away => {
                    let id = scheduler.framework().cloned();
                    scheduler.stop().await;
                    return Ok(id);
                }
                Wish::End => {
                    scheduler.teardown().await;
                    return Ok(None);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event, launches: bool) -> anyhow::Result<Vec<Call>> {
        match event {
            Event::Subscribed { .. } => {
                let open: Vec<_> = {
                    let books = self.books.look();
                    let open = books.open();
                    open.map(|task| (task.clone(), self.agents.get(task).cloned()))
                        .collect()
                };
                // An empty question would be about all.
                Ok(if open.is_empty() {
                    Vec::new()
                } else {
                    vec![Call::Reconcile(open)]
                })
            }
            Event::Offers(offers) => offers
                .into_iter()
                .map(|offer| self.answer(offer, launches))
                .collect(),
            Event::Update(update) => {
                self.books.look().on_update(&update);
                Ok(update.acknowledgement().into_iter().collect())
            }
            Event::Error(reason) => anyhow::bail!("{}: {reason}", self.plan.name),
            Event::Disconnected { .. }
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. } => Ok(Vec::new()),
        }
    }

    fn answer(&mut self, offer: Offer, launches: bool) -> anyhow::Result<Call> {
        let mut left = offer.resources.clone();
        let mut tasks = Vec::new();
        while launches && self.may_launch() && left.contains(&self.plan.resources) {
            left.subtract(&self.plan.resources);
            let task = self.task()?;
            self.agents.insert(task.id.clone(), offer.agent.clone());
            tasks.push(task);
        }
        Ok(Call::Accept {
            agent: offer.agent,
            offers: vec![offer.id],
            tasks,
            refuse_for: Some(REFUSE_FOR),
        })
    }

    fn may_launch(&self) -> bool {
        let due = self.started.elapsed().as_secs_f64() * self.plan.rate;
        let books = self.books.look();
        let n_open = books.n_launched() - books.n_ended();
        (self.next as f64) < due && n_open < self.plan.open_max
    }

    fn task(&mut self) -> anyhow::Result<Task> {
        let id = TaskId::parse(&format!("{}-{}", self.plan.name, self.next))?;
        self.next += 1;
        self.books.look().on_launch(id.clone());
        let proof = self.plan.proof.display();
        let lasts = self.plan.lasts.as_secs_f64();
        let line = format!("echo begin {id} >> {proof}; sleep {lasts}; echo end {id} >> {proof}");
        let resources = self.plan.resources.clone();
        Ok(Task::new(id, resources, Command::Shell(line)))
    }
}
