//! A framework of the laboratory: jobs come in, tasks go out, by one of the policies.
//!
//! There are no faults here, so it neither reconciles nor keeps anything: a task that does not
//! finish goes back to the front of its queue.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_framework_sdk::{Call, Command, Event, Offer, Task, Update};
use allotment_proto::mesos::TaskState;
use allotment_types::{AgentId, OfferId, Resources, TaskId, Timestamp};

use super::file::{FrameworkGroup, Policy};
use super::workload::Workload;

/// How many waiting jobs an offer is tried on: enough that a large task at the head does not keep
/// small ones behind it waiting, few enough that an offer costs little.
const JOBS_TRIED: usize = 32;

/// Tasks of one job that wait for an offer.
#[derive(Debug)]
struct Waiting {
    needs: Resources,
    job: usize,
    since: Timestamp,
    lasts: VecDeque<Duration>,
}

#[derive(Debug)]
struct Running {
    agent: AgentId,
    needs: Resources,
    lasts: Duration,
    job: usize,
    since: Timestamp,
    up: bool,
}

/// How one job went.
#[derive(Debug, Clone, Copy)]
pub(super) struct JobTimes {
    pub(super) submitted: Timestamp,
    pub(super) done: Option<Timestamp>,
    left: usize,
}

/// One framework.
#[derive(Debug)]
pub(crate) struct Tenant {
    name: String,
    policy: Policy,
    at_least: Resources,
    holds_offers: bool,
    refuse_for: Option<Duration>,
    workload: Workload,
    waiting: VecDeque<Waiting>,
    n_waiting: usize,
    running: BTreeMap<TaskId, Running>,
    /// What its tasks hold, from their launch to their end.
    used: Resources,
    used_on: BTreeMap<AgentId, Resources>,
    jobs: Vec<JobTimes>,
    /// Seconds from submission to running, one entry per task that ran.
    waits: Vec<f64>,
    suppressed: bool,
    launched: u64,
}

impl Tenant {
    pub(super) fn new(name: String, group: &FrameworkGroup, workload: Workload) -> Self {
        Self {
            name,
            policy: group.policy,
            at_least: group.at_least.clone().unwrap_or_default(),
            holds_offers: group.holds_offers,
            refuse_for: group.refuse_for.map(|span| span.0),
            workload,
            waiting: VecDeque::new(),
            n_waiting: 0,
            running: BTreeMap::new(),
            used: Resources::EMPTY,
            used_on: BTreeMap::new(),
            jobs: Vec::new(),
            waits: Vec::new(),
            suppressed: group.policy != Policy::Idle,
            launched: 0,
        }
    }

    /// Whether it subscribes without wanting offers yet.
    pub(super) fn starts_suppressed(&self) -> bool {
        self.suppressed
    }

    /// What its tasks hold.
    pub(super) fn used(&self) -> &Resources {
        &self.used
    }

    /// The same by machine.
    pub(super) fn used_on(&self) -> &BTreeMap<AgentId, Resources> {
        &self.used_on
    }

    /// Whether it would start a task on these resources, if it had them.
    pub(super) fn would_use(&self, resources: &Resources) -> bool {
        let mut tried = self.waiting.iter().take(JOBS_TRIED);
        resources.contains(&self.at_least) && tried.any(|job| resources.contains(&job.needs))
    }

    /// Tasks that wait for an offer.
    pub(super) fn n_waiting(&self) -> usize {
        self.n_waiting
    }

    /// The jobs submitted so far.
    pub(super) fn jobs(&self) -> &[JobTimes] {
        &self.jobs
    }

    /// Seconds from submission to running, of every task that ran.
    pub(super) fn waits(&self) -> &[f64] {
        &self.waits
    }

    /// Since when its oldest waiting task waits.
    pub(super) fn waits_since(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|job| job.since).min()
    }

    /// No job is to come and none is left.
    pub(super) fn is_done(&self) -> bool {
        self.workload.next_at().is_none() && self.waiting.is_empty() && self.running.is_empty()
    }

    /// When [`Self::on_tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.workload.next_at()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Call> {
        while let Some(job) = self.workload.take_due(now) {
            self.n_waiting += job.lasts.len();
            self.waiting.push_back(Waiting {
                needs: job.needs,
                job: self.jobs.len(),
                since: now,
                lasts: job.lasts.iter().copied().collect(),
            });
            self.jobs.push(JobTimes {
                submitted: now,
                done: None,
                left: job.lasts.len(),
            });
        }
        let mut calls = Vec::new();
        self.ask(&mut calls);
        calls
    }

    pub(crate) fn on_event(&mut self, now: Timestamp, event: &Event) -> Vec<Call> {
        let mut calls = Vec::new();
        match event {
            Event::Offers(offers) if self.policy == Policy::Idle => {
                if !self.holds_offers {
                    let all = offers.iter().map(|offer| offer.id.clone());
                    calls.extend(self.decline(all.collect()));
                }
            }
            Event::Offers(offers) => {
                let mut useless = Vec::new();
                for offer in offers {
                    match self.accept(offer) {
                        Some(accept) => calls.push(accept),
                        None => useless.push(offer.id.clone()),
                    }
                }
                // First that no more are wanted, so that none of them comes back.
                self.ask(&mut calls);
                calls.extend(self.decline(useless));
            }
            Event::Update(update) => {
                self.on_update(now, update);
                calls.extend(update.acknowledgement());
                self.ask(&mut calls);
            }
            Event::Subscribed { .. }
            | Event::Disconnected { .. }
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Rejected { .. }
            | Event::Error(_) => {}
        }
        calls
    }

    /// All that came together and is of no use goes back in one call, as schedulers of large
    /// clusters do it: one for each offer would be ten thousand messages.
    ///
    /// Who wants no offers needs no filter against them: the next REVIVE would take it away.
    fn decline(&self, offers: Vec<OfferId>) -> Option<Call> {
        let refuse_for = if self.suppressed {
            Some(Duration::ZERO)
        } else {
            self.refuse_for
        };
        (!offers.is_empty()).then_some(Call::Decline { offers, refuse_for })
    }

    fn accept(&mut self, offer: &Offer) -> Option<Call> {
        let tasks = if offer.resources.contains(&self.at_least) {
            self.fill(offer)
        } else {
            Vec::new()
        };
        (!tasks.is_empty()).then(|| Call::Accept {
            agent: offer.agent.clone(),
            offers: vec![offer.id.clone()],
            tasks,
            refuse_for: self.refuse_for,
        })
    }

    /// As many tasks as fit, oldest jobs first.
    fn fill(&mut self, offer: &Offer) -> Vec<Task> {
        let mut rest = offer.resources.clone();
        let mut tasks = Vec::new();
        if self.waiting.is_empty() {
            return tasks;
        }
        for waiting in self.waiting.iter_mut().take(JOBS_TRIED) {
            while rest.contains(&waiting.needs)
                && let Some(lasts) = waiting.lasts.pop_front()
            {
                self.launched += 1;
                let Ok(id) = TaskId::parse(&format!("{}-{}", self.name, self.launched)) else {
                    break;
                };
                rest.subtract(&waiting.needs);
                self.used.add(&waiting.needs);
                let here = self.used_on.entry(offer.agent.clone()).or_default();
                here.add(&waiting.needs);
                self.n_waiting -= 1;
                let line = format!("sleep {}", lasts.as_secs_f64());
                let command = Command::Shell(line);
                tasks.push(Task::new(id.clone(), waiting.needs.clone(), command));
                let running = Running {
                    agent: offer.agent.clone(),
                    needs: waiting.needs.clone(),
                    lasts,
                    job: waiting.job,
                    since: waiting.since,
                    up: false,
                };
                self.running.insert(id, running);
            }
        }
        self.waiting.retain(|waiting| !waiting.lasts.is_empty());
        tasks
    }

    fn on_update(&mut self, now: Timestamp, update: &Update) {
        if !update.is_terminal() {
            if update.state == TaskState::TaskRunning
                && let Some(running) = self.running.get_mut(&update.task)
                && !std::mem::replace(&mut running.up, true)
            {
                self.waits.push(now.since(running.since).as_secs_f64());
            }
            return;
        }
        let Some(ended) = self.running.remove(&update.task) else {
            return;
        };
        self.used.subtract(&ended.needs);
        if let Some(here) = self.used_on.get_mut(&ended.agent) {
            here.subtract(&ended.needs);
        }
        if update.state != TaskState::TaskFinished {
            self.n_waiting += 1;
            self.waiting.push_front(Waiting {
                needs: ended.needs,
                job: ended.job,
                since: ended.since,
                lasts: VecDeque::from([ended.lasts]),
            });
        } else if let Some(job) = self.jobs.get_mut(ended.job) {
            job.left -= 1;
            if job.left == 0 {
                job.done = Some(now);
            }
        }
    }

    /// Asks for offers when something waits, and for none when nothing does.
    fn ask(&mut self, calls: &mut Vec<Call>) {
        let idle = self.waiting.is_empty() && self.policy != Policy::Idle;
        if idle != self.suppressed {
            self.suppressed = idle;
            calls.push(if idle { Call::Suppress } else { Call::Revive });
        }
    }
}
