//! One task, from the first fitting offer to its end: decisions only.
//!
//! Sockets, output and Ctrl-C are left to [`super`].

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Call, Event, Offer, Task, Update};
use allotment_types::TaskId;

/// An offer that is too small grows when tasks on its agent end, and comes back at once then;
/// this only spares the master from offering the same again and again.
const REFUSE_SMALL: Duration = Duration::from_secs(1);
/// What the task leaves of its offer is of no use here any more.
const REFUSE_REST: Duration = Duration::from_secs(3600);

/// How far the task is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// No offer fitted yet.
    Waiting,
    /// Launched on the agent that serves at this URL.
    Launched { agent_url: String },
    /// Its process runs, or ran.
    Running { agent_url: String },
    /// Nothing more will happen; the agent is known when the task got that far.
    Ended {
        agent_url: Option<String>,
        update: Box<Update>,
    },
}

/// Runs one task once.
#[derive(Debug)]
pub(super) struct Once {
    task: Task,
    base_id: String,
    launches: u32,
    stage: Stage,
    killed: Option<Duration>,
}

impl Once {
    pub(super) fn new(task: Task) -> Self {
        Self {
            base_id: task.id.to_string(),
            task,
            launches: 0,
            stage: Stage::Waiting,
            killed: None,
        }
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    pub(super) fn task(&self) -> &Task {
        &self.task
    }

    /// Takes one event and returns the calls to make.
    pub(super) fn step(&mut self, event: Event) -> Vec<Call> {
        match event {
            Event::Subscribed { .. } => self.on_subscribed(),
            Event::Offers(offers) => self.on_offers(offers),
            Event::Update(update) => self.on_update(update),
            Event::Disconnected { .. }
            | Event::Rescinded(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. }
            | Event::Error(_) => Vec::new(),
        }
    }

    /// Asks the task to end; after `grace` it is ended. Nothing to say when it was not launched.
    pub(super) fn kill(&mut self, grace: Duration) -> Vec<Call> {
        self.killed = Some(grace);
        match self.stage {
            Stage::Launched { .. } | Stage::Running { .. } => vec![Call::Kill {
                task: self.task.id.clone(),
                agent: None,
                grace: Some(grace),
            }],
            Stage::Waiting | Stage::Ended { .. } => Vec::new(),
        }
    }

    fn on_subscribed(&mut self) -> Vec<Call> {
        match self.stage {
            // A kill may have been lost with the connection.
            Stage::Launched { .. } | Stage::Running { .. } => {
                let mut calls = vec![Call::Reconcile(vec![(self.task.id.clone(), None)])];
                if let Some(grace) = self.killed {
                    calls.extend(self.kill(grace));
                }
                calls
            }
            Stage::Waiting | Stage::Ended { .. } => Vec::new(),
        }
    }

    fn on_offers(&mut self, offers: Vec<Offer>) -> Vec<Call> {
        let mut calls = Vec::new();
        for offer in offers {
            if self.stage != Stage::Waiting || self.killed.is_some() {
                calls.push(offer.decline(REFUSE_REST));
            } else if offer.resources.contains(&self.task.resources) {
                self.launches += 1;
                self.stage = Stage::Launched {
                    agent_url: offer.agent_url.clone(),
                };
                calls.push(Call::Accept {
                    agent: offer.agent,
                    offers: vec![offer.id],
                    tasks: vec![self.task.clone()],
                    refuse_for: Some(REFUSE_REST),
                });
                calls.push(Call::Suppress);
            } else {
                calls.push(offer.decline(REFUSE_SMALL));
            }
        }
        calls
    }

    fn on_update(&mut self, update: Update) -> Vec<Call> {
        let mut calls = Vec::from_iter(update.acknowledgement());
        if update.task != self.task.id {
            return calls;
        }
        match (&self.stage, update.state) {
            // The offer was gone before the task started: it never ran, so it may run elsewhere.
            (Stage::Launched { .. }, TaskState::TaskDropped) if self.killed.is_none() => {
                self.stage = Stage::Waiting;
                let next = format!("{}.{}", self.base_id, self.launches + 1);
                // A dot and a number make a longer id, not a malformed one.
                if let Ok(id) = TaskId::parse(&next) {
                    self.task.id = id;
                }
                calls.push(Call::Revive);
            }
            (Stage::Launched { agent_url }, TaskState::TaskRunning) => {
                self.stage = Stage::Running {
                    agent_url: agent_url.clone(),
                };
            }
            (Stage::Launched { agent_url } | Stage::Running { agent_url }, _)
                if update.is_terminal() =>
            {
                self.stage = Stage::Ended {
                    agent_url: Some(agent_url.clone()),
                    update: Box::new(update),
                };
            }
            (Stage::Waiting | Stage::Launched { .. } | Stage::Running { .. }, _)
            | (Stage::Ended { .. }, _) => {}
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_framework_sdk::testing::Harness;
    use allotment_framework_sdk::{Command, api};
    use allotment_types::Timestamp;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Shared = Rc<RefCell<Once>>;

    fn cluster() -> (
        Shared,
        Harness<impl FnMut(Timestamp, Event) -> Vec<Call> + use<>>,
    ) {
        let needs = "cpus:2; mem:64".parse().unwrap();
        let task = Task::new("t".parse().unwrap(), needs, Command::Shell("x".to_owned()));
        let once = Rc::new(RefCell::new(Once::new(task)));
        let core = once.clone();
        let mut cluster = Harness::new(move |_now, event| core.borrow_mut().step(event));
        cluster.subscribed();
        (once, cluster)
    }

    #[test]
    fn the_first_fitting_offer_is_used_and_all_others_are_given_back() {
        let (once, mut cluster) = cluster();
        cluster.agent("small", "cpus:1; mem:1024");
        cluster.agent("big", "cpus:4; mem:1024");
        cluster.agent("too", "cpus:4; mem:1024");
        cluster.offer();
        assert_eq!(cluster.live(), ["t"]);
        assert_eq!(cluster.held_offers(), 0);
        assert!(cluster.is_suppressed());
        cluster.running("t");
        let agent_url = "http://big:5051".to_owned();
        assert_eq!(*once.borrow().stage(), Stage::Running { agent_url });
        cluster.finished("t");
        assert!(matches!(once.borrow().stage(), Stage::Ended { .. }));
        assert!(cluster.unacknowledged().is_empty());
    }

    #[test]
    fn a_launch_that_came_too_late_is_tried_again_under_a_new_id() {
        let (_once, mut cluster) = cluster();
        cluster.agent("big", "cpus:4; mem:1024");
        cluster.offer();
        cluster.update("t", api::TaskState::TaskDropped);
        assert!(!cluster.is_suppressed());
        cluster.offer();
        assert_eq!(cluster.live(), ["t.2"]);
    }

    #[test]
    fn a_kill_that_a_broken_connection_swallowed_is_said_again() {
        let (once, mut cluster) = cluster();
        cluster.agent("big", "cpus:4; mem:1024");
        cluster.offer();
        cluster.running("t");
        let calls = once.borrow_mut().kill(Duration::from_secs(3));
        assert_eq!(calls.len(), 1);
        cluster.calls();
        cluster.disconnected();
        cluster.subscribed();
        let said = cluster.calls();
        assert!(said.contains(&calls[0]), "{said:?}");
    }

    #[test]
    fn after_a_kill_nothing_is_launched_any_more() {
        let (once, mut cluster) = cluster();
        assert!(once.borrow_mut().kill(Duration::ZERO).is_empty());
        cluster.agent("big", "cpus:4; mem:1024");
        cluster.offer();
        assert!(cluster.live().is_empty());
        assert_eq!(cluster.held_offers(), 0);
    }
}
