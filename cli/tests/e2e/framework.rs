//! A framework for tests: the public SDK behind calls that block.

use std::collections::VecDeque;
use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{
    Call, Command, Config, Event, ExecutorNews, Offer, Scheduler, Task, Update,
};
use allotment_types::{FrameworkId, Resources, Role};
use tokio::runtime::Runtime;

use crate::common::DEADLINE;

/// One subscription.
#[derive(Debug)]
pub(crate) struct Framework {
    runtime: Runtime,
    scheduler: Option<Scheduler>,
    /// Updates that were heard while something else was awaited.
    backlog: Vec<Update>,
    /// What was heard of executors before it was asked for: messages are not in order with updates.
    pub(crate) executor_news: VecDeque<ExecutorNews>,
    pub(crate) id: FrameworkId,
}

impl Framework {
    /// Subscribes in `role` and waits until the subscription stands.
    #[track_caller]
    pub(crate) fn subscribe(master: &str, role: &str) -> Self {
        Self::resubscribe(master, role, None)
    }

    /// The same with other settings than the usual.
    #[track_caller]
    pub(crate) fn subscribe_with(
        master: &str,
        role: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = usual(master, role, None);
        change(&mut config);
        Self::connect(config)
    }

    /// The same as the framework `id`, when there is one.
    #[track_caller]
    pub(crate) fn resubscribe(master: &str, role: &str, id: Option<&FrameworkId>) -> Self {
        Self::connect(usual(master, role, id))
    }

    #[track_caller]
    fn connect(config: Config) -> Self {
        let runtime = Runtime::new().unwrap();
        let scheduler = runtime.block_on(async { Scheduler::connect(config).unwrap() });
        let mut framework = Self {
            runtime,
            scheduler: Some(scheduler),
            backlog: Vec::new(),
            executor_news: VecDeque::new(),
            id: FrameworkId::parse("none-yet").unwrap(),
        };
        framework.id = framework.hear("a subscription", |event| match event {
            Event::Subscribed { framework } => Some(framework.clone()),
            _ => None,
        });
        framework
    }

    /// Waits for an event in which `look` finds something. Every update is acknowledged, and
    /// kept for [`Self::update`] when it is not the one, as is what is heard of executors; other
    /// events are passed over.
    #[track_caller]
    pub(crate) fn hear<T>(&mut self, what: &str, look: impl FnMut(&Event) -> Option<T>) -> T {
        self.hear_within(DEADLINE, look)
            .unwrap_or_else(|| panic!("never heard of {what}"))
    }

    /// The same, but not for long.
    pub(crate) fn hear_within<T>(
        &mut self,
        limit: Duration,
        mut look: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let scheduler = self.scheduler.as_mut().unwrap();
        let backlog = &mut self.backlog;
        let executor_news = &mut self.executor_news;
        let hearing = async {
            loop {
                let event = scheduler.next().await.expect("the subscription goes on");
                if let Event::Update(update) = &event
                    && let Some(acknowledgement) = update.acknowledgement()
                {
                    scheduler.call(acknowledgement).await.unwrap();
                }
                if let Some(found) = look(&event) {
                    return found;
                }
                match event {
                    Event::Update(update) => backlog.push(update),
                    Event::Executor { news, .. } => executor_news.push_back(news),
                    _ => {}
                }
            }
        };
        self.runtime
            .block_on(async { tokio::time::timeout(limit, hearing).await })
            .ok()
    }

    /// The next offer.
    #[track_caller]
    pub(crate) fn offer(&mut self) -> Offer {
        self.hear("an offer", |event| match event {
            Event::Offers(offers) => offers.first().cloned(),
            _ => None,
        })
    }

    /// The next update of `task` in `state`.
    #[track_caller]
    pub(crate) fn update(&mut self, task: &str, state: TaskState) -> Update {
        let is_meant = |update: &Update| update.task.as_str() == task && update.state == state;
        if let Some(heard) = self.backlog.iter().position(is_meant) {
            return self.backlog.remove(heard);
        }
        self.hear(&format!("{task} in {state:?}"), |event| match event {
            Event::Update(update) if is_meant(update) => Some(update.clone()),
            _ => None,
        })
    }

    pub(crate) fn call(&self, call: Call) {
        let scheduler = self.scheduler.as_ref().unwrap();
        self.runtime.block_on(scheduler.call(call)).unwrap();
    }

    /// Launches `tasks` on `offer`; the rest is refused for `refuse_for`.
    pub(crate) fn accept(&self, offer: &Offer, tasks: Vec<Task>, refuse_for: Duration) {
        self.call(Call::Accept {
            agent: offer.agent.clone(),
            offers: vec![offer.id.clone()],
            tasks,
            refuse_for: Some(refuse_for),
        });
    }

    /// Goes away without a word to its tasks.
    pub(crate) fn leave(mut self) {
        if let Some(scheduler) = self.scheduler.take() {
            self.runtime.block_on(scheduler.stop());
        }
    }
}

fn usual(master: &str, role: &str, id: Option<&FrameworkId>) -> Config {
    Config {
        masters: vec![master.to_owned()],
        name: role.to_owned(),
        roles: vec![Role::parse(role).unwrap()],
        framework_id: id.cloned(),
        failover_timeout: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// A task that runs until it is killed.
pub(crate) fn endless(id: &str, resources: &str) -> Task {
    task(id, resources, "echo started; exec sleep 3600")
}

/// A task that runs `line` in a shell.
pub(crate) fn task(id: &str, resources: &str, line: &str) -> Task {
    let resources: Resources = resources.parse().unwrap();
    Task::new(
        id.parse().unwrap(),
        resources,
        Command::Shell(line.to_owned()),
    )
}
