//! Two elastic frameworks over the SDK's session types: as simple as a framework can be that
//! uses what it is offered, gives back the rest, and asks for nothing while it needs nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_framework_sdk::{Call, Command, Event, Offer, Task, Update};
use allotment_proto::mesos::TaskState;
use allotment_types::{AgentId, Resources, TaskId, Timestamp};

/// How long until tasks that nothing good is known of are asked about again. A master that waits
/// for an agent to come back gives no answer, so once is not enough (Mesos: `reconciliation.md`).
const RECONCILE: Duration = Duration::from_secs(60);
/// How long a kill has before it is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// A change of what a framework wants.
#[derive(Debug, Clone)]
pub(crate) enum Demand {
    /// A batch job: one task of each length.
    Job(Vec<Duration>),
    /// A service that should have this many instances from now on.
    Instances(usize),
}

#[derive(Debug, Clone)]
struct Wish {
    /// `None`: an instance of the service.
    job: Option<usize>,
    lasts: Option<Duration>,
    since: Timestamp,
}

#[derive(Debug, Clone)]
struct Running {
    wish: Wish,
    agent: AgentId,
    up: bool,
    killed: bool,
    /// Heard of since the last connection broke: a master that begins anew may not know it.
    confirmed: bool,
    /// Its agent was unreachable, so another does its work: it counts no more.
    replaced: bool,
    /// From when on a sign of life brings it another kill.
    kill_again_at: Timestamp,
}

/// How one job went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobTimes {
    pub(crate) submitted: Timestamp,
    pub(crate) done: Option<Timestamp>,
    pub(crate) tasks: usize,
    left: usize,
}

/// A framework that runs as many of its tasks as it can.
#[derive(Debug, Clone)]
pub(crate) struct Elastic {
    prefix: String,
    needs: Resources,
    /// What is wanted when, soonest first.
    script: VecDeque<(Timestamp, Demand)>,
    waiting: VecDeque<Wish>,
    running: BTreeMap<TaskId, Running>,
    jobs: Vec<JobTimes>,
    /// From wanting an instance to its running, one entry per instance.
    waits: Vec<Duration>,
    instances_wanted: usize,
    suppressed: bool,
    launched: u64,
    reconcile_at: Timestamp,
}

impl Elastic {
    /// Every task asks `needs` and is named `PREFIX-NUMBER`.
    pub(crate) fn new(prefix: &str, needs: Resources, script: Vec<(Timestamp, Demand)>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            needs,
            script: script.into(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            jobs: Vec::new(),
            waits: Vec::new(),
            instances_wanted: 0,
            suppressed: true,
            launched: 0,
            reconcile_at: Timestamp::ZERO + RECONCILE,
        }
    }

    /// The jobs submitted so far.
    pub(crate) fn jobs(&self) -> &[JobTimes] {
        &self.jobs
    }

    /// From wanting an instance to its running, for each that ran.
    pub(crate) fn waits(&self) -> &[Duration] {
        &self.waits
    }

    /// Tasks and instances that wait for an offer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Instances that should run.
    pub(crate) fn instances_wanted(&self) -> usize {
        self.instances_wanted
    }

    /// Instances that run.
    pub(crate) fn instances_up(&self) -> usize {
        let up = |r: &&Running| r.up && !r.killed && r.wish.job.is_none();
        self.running.values().filter(up).count()
    }

    /// When [`Self::on_tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let script = self.script.front().map(|(at, _)| *at);
        script.into_iter().chain([self.reconcile_at]).min()
    }

    /// Everything that will be wanted is wanted already.
    pub(crate) fn script_is_over(&self) -> bool {
        self.script.is_empty()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Vec<Call> {
        let mut calls = Vec::new();
        while let Some((at, _)) = self.script.front()
            && *at <= now
            && let Some((_, demand)) = self.script.pop_front()
        {
            match demand {
                Demand::Job(tasks) => self.on_job(now, &tasks),
                Demand::Instances(wanted) => self.on_scale(now, wanted, &mut calls),
            }
        }
        if self.reconcile_at <= now {
            self.reconcile_at = now + RECONCILE;
            self.reconcile(
                |running| !running.up || running.killed || !running.confirmed,
                &mut calls,
            );
        }
        self.ask(&mut calls);
        calls
    }

    fn reconcile(&self, wanted: impl Fn(&Running) -> bool, calls: &mut Vec<Call>) {
        let tasks: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| wanted(running))
            .map(|(task, running)| (task.clone(), Some(running.agent.clone())))
            .collect();
        // Without a task it would ask for all there are.
        if !tasks.is_empty() {
            calls.push(Call::Reconcile(tasks));
        }
    }

    fn on_job(&mut self, now: Timestamp, tasks: &[Duration]) {
        let job = self.jobs.len();
        self.jobs.push(JobTimes {
            submitted: now,
            done: None,
            tasks: tasks.len(),
            left: tasks.len(),
        });
        self.waiting.extend(tasks.iter().map(|lasts| Wish {
            job: Some(job),
            lasts: Some(*lasts),
            since: now,
        }));
    }

    fn on_scale(&mut self, now: Timestamp, wanted: usize, calls: &mut Vec<Call>) {
        self.instances_wanted = wanted;
        let alive = self.running.values().filter(|r| !r.killed).count() + self.waiting.len();
        let wish = Wish {
            job: None,
            lasts: None,
            since: now,
        };
        self.waiting
            .extend(std::iter::repeat_n(wish, wanted.saturating_sub(alive)));
        let mut surplus = alive.saturating_sub(wanted);
        let unborn = surplus.min(self.waiting.len());
        self.waiting.truncate(self.waiting.len() - unborn);
        surplus -= unborn;
        let doomed = self.running.iter_mut().rev().filter(|(_, r)| !r.killed);
        for (task, running) in doomed.take(surplus) {
            running.killed = true;
            calls.push(Call::Kill {
                task: task.clone(),
                agent: Some(running.agent.clone()),
                grace: None,
            });
        }
    }

    /// Asks for offers when something waits, and for none when nothing does.
    fn ask(&mut self, calls: &mut Vec<Call>) {
        let idle = self.waiting.is_empty();
        if idle != self.suppressed {
            self.suppressed = idle;
            calls.push(if idle { Call::Suppress } else { Call::Revive });
        }
    }

    pub(crate) fn on_event(&mut self, now: Timestamp, event: &Event) -> Vec<Call> {
        let mut calls = Vec::new();
        match event {
            Event::Subscribed { .. } => {
                self.reconcile(|_| true, &mut calls);
                // A kill may have been lost with the last connection.
                for (task, running) in self.running.iter().filter(|(_, r)| r.killed) {
                    calls.push(Call::Kill {
                        task: task.clone(),
                        agent: Some(running.agent.clone()),
                        grace: None,
                    });
                }
            }
            Event::Offers(offers) => {
                for offer in offers {
                    calls.push(self.on_offer(offer));
                }
                self.ask(&mut calls);
            }
            Event::Update(update) => {
                self.on_update(now, update);
                calls.extend(update.acknowledgement());
                self.kill_again(now, update, &mut calls);
                self.ask(&mut calls);
            }
            Event::Disconnected { .. } => {
                for running in self.running.values_mut() {
                    running.confirmed = false;
                }
            }
            Event::Rescinded(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. }
            | Event::Error(_) => {}
        }
        calls
    }

    fn on_offer(&mut self, offer: &Offer) -> Call {
        let mut rest = offer.resources.clone();
        let mut tasks = Vec::new();
        while rest.contains(&self.needs)
            && let Some(wish) = self.waiting.pop_front()
        {
            rest.subtract(&self.needs);
            self.launched += 1;
            let name = format!("{}-{:06}", self.prefix, self.launched);
            let Ok(id) = TaskId::parse(&name) else {
                break;
            };
            let line = match wish.lasts {
                Some(lasts) => format!("sleep {}", lasts.as_secs_f64()),
                None => "sleep infinity".to_owned(),
            };
            tasks.push(Task::new(
                id.clone(),
                self.needs.clone(),
                Command::Shell(line),
            ));
            let running = Running {
                wish,
                agent: offer.agent.clone(),
                up: false,
                killed: false,
                confirmed: true,
                replaced: false,
                kill_again_at: Timestamp::ZERO,
            };
            self.running.insert(id, running);
        }
        let offers = vec![offer.id.clone()];
        if tasks.is_empty() {
            return Call::Decline {
                offers,
                refuse_for: None,
            };
        }
        Call::Accept {
            agent: offer.agent.clone(),
            offers,
            tasks,
            refuse_for: None,
        }
    }

    fn on_update(&mut self, now: Timestamp, update: &Update) {
        if !update.is_terminal() {
            if let Some(running) = self.running.get_mut(&update.task) {
                let up = update.state == TaskState::TaskRunning;
                if up && !running.up && running.wish.job.is_none() {
                    self.waits.push(now.since(running.wish.since));
                }
                running.up = up;
                running.confirmed = true;
                if update.state == TaskState::TaskUnreachable && !running.killed {
                    // It may never come back; if it does, it is killed.
                    running.killed = true;
                    running.replaced = true;
                    let wish = running.wish.clone();
                    self.waiting.push_front(Wish { since: now, ..wish });
                }
            }
            return;
        }
        let Some(ended) = self.running.remove(&update.task) else {
            return;
        };
        if ended.replaced {
            return;
        }
        let finished = update.state == TaskState::TaskFinished;
        match ended.wish.job {
            Some(job) if finished => {
                if let Some(times) = self.jobs.get_mut(job) {
                    times.left -= 1;
                    if times.left == 0 {
                        times.done = Some(now);
                    }
                }
            }
            Some(_) => self.waiting.push_front(ended.wish),
            None if ended.killed => {}
            None => self.waiting.push_back(Wish {
                since: now,
                ..ended.wish
            }),
        }
    }

    /// A kill may have been lost with a master; a sign of life asks for another. Not at once: a
    /// master may answer a kill with the latest sign of life that it told.
    fn kill_again(&mut self, now: Timestamp, update: &Update, calls: &mut Vec<Call>) {
        let Some(running) = self.running.get_mut(&update.task) else {
            return;
        };
        if running.killed
            && update.uuid.is_none()
            && update.state == TaskState::TaskRunning
            && running.kill_again_at <= now
        {
            running.kill_again_at = now + KILL_AGAIN;
            calls.push(Call::Kill {
                task: update.task.clone(),
                agent: Some(running.agent.clone()),
                grace: None,
            });
        }
    }

    /// Every job is done and the service has its instances: nobody starves beside free resources.
    pub(crate) fn check_settled(&self) -> Result<(), String> {
        let mut jobs = self.jobs.iter().enumerate();
        if let Some((job, times)) = jobs.find(|(_, job)| job.done.is_none()) {
            return Err(format!(
                "nobody starves: {}'s job {job} of {} tasks, submitted at {}, is not done",
                self.prefix, times.tasks, times.submitted
            ));
        }
        if self.instances_up() != self.instances_wanted {
            return Err(format!(
                "nobody starves: {} of {} instances of {} run",
                self.instances_up(),
                self.instances_wanted,
                self.prefix
            ));
        }
        Ok(())
    }
}
