//! The batch framework in the simulator: its real core, a scripted user, and a database that is
//! a few maps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_batch::core::job::JobKey;
use allotment_batch::core::{Action, Core, Durable, Effect, Effects, Input, Record, Settings};
use allotment_framework_sdk::{Call, Event, Update};
use allotment_proto::allot;
use allotment_proto::mesos::TaskState;
use allotment_types::{FrameworkId, Role, TaskId, Timestamp};
use fastrand::Rng;

use crate::brain::Deed;
use crate::fault::CrashPoint;
use crate::plant::Plant;
use crate::rng;

/// The framework and its user.
#[derive(Debug)]
pub(crate) struct Batch {
    core: Core,
    rng: Rng,
    durable: Durable,
    /// The runs of jobs that were launched and not heard to be over, as its user sees them.
    runs: BTreeMap<String, TaskId>,
    /// Every job whose end was recorded, for ever.
    recorded: BTreeSet<JobKey>,
    /// Submissions to come: jobs and how long each runs.
    script: VecDeque<(Timestamp, u32, Duration)>,
    submitted: u32,
    /// What each job asks, in thousandths of a core.
    job_cpus_milli: u64,
    transfers: BTreeMap<(Timestamp, u64), TaskId>,
    next_transfer: u64,
    /// When the user next looks for held jobs, to release them.
    look_at: Timestamp,
    /// Where it dies in its next step that writes.
    die_at: Option<CrashPoint>,
    /// It died in a step and was not started again yet.
    dead: bool,
    plant: Plant,
}

/// How often the user looks for held jobs: those whose container could not be started.
const LOOK: Duration = Duration::from_secs(60);

impl Batch {
    /// A user who submits `clusters` clusters of jobs within `busy`.
    pub(crate) fn new(seed: u64, clusters: usize, busy: Duration, plant: Plant) -> Self {
        let mut rng = rng::stream(seed, "jobs");
        let mut script: Vec<(Timestamp, u32, Duration)> = (0..clusters)
            .map(|_| {
                let at = Timestamp::ZERO + rng::between(&mut rng, Duration::ZERO, busy);
                let runs = rng::exponential(&mut rng, Duration::from_secs(15));
                (at, rng.u32(1..=8), runs)
            })
            .collect();
        script.sort_by_key(|(at, ..)| *at);
        let durable = Durable::default();
        Self {
            core: Core::recover(settings(&mut rng), durable.clone(), Timestamp::ZERO),
            rng,
            durable,
            runs: BTreeMap::new(),
            recorded: BTreeSet::new(),
            script: script.into(),
            submitted: 0,
            job_cpus_milli: 400,
            transfers: BTreeMap::new(),
            next_transfer: 0,
            look_at: Timestamp::ZERO + LOOK,
            die_at: None,
            dead: false,
            plant,
        }
    }

    /// A user who submits one job of that size at that time.
    #[cfg(test)]
    pub(crate) fn with_one_job(seed: u64, at: Timestamp, cpus_milli: u64) -> Self {
        let mut batch = Self::new(seed, 0, Duration::ZERO, Plant::None);
        batch.script.push_back((at, 1, Duration::from_secs(30)));
        batch.job_cpus_milli = cpus_milli;
        batch
    }

    /// How many runs of jobs were launched.
    #[cfg(test)]
    pub(crate) fn n_launched(&self) -> u64 {
        self.core.counts().launched
    }

    pub(crate) fn die_at(&mut self, at: CrashPoint) {
        self.die_at = Some(at);
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let script = self.script.front().map(|(at, ..)| *at);
        let transfer = self.transfers.keys().next().map(|(at, _)| *at);
        script
            .into_iter()
            .chain(transfer)
            .chain([self.look_at])
            .chain(self.core.next_deadline())
            .min()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        let mut deeds = Vec::new();
        while let Some((at, jobs, runs)) = self.script.front().copied()
            && at <= now
        {
            self.script.pop_front();
            let next_cluster = self.durable.next_cluster;
            let input = Input::Submit {
                ticket: 0,
                request: submission(jobs, runs, self.job_cpus_milli),
            };
            deeds.extend(self.step(now, input)?);
            if self.dead && self.durable.next_cluster == next_cluster {
                // No answer came and the queue does not have them: the user submits again.
                self.script.push_front((at, jobs, runs));
            } else {
                self.submitted += jobs;
            }
            if self.dead {
                return Ok(deeds);
            }
        }
        while let Some(entry) = self.transfers.first_entry()
            && entry.key().0 <= now
        {
            let task = entry.remove();
            let input = Input::Transferred {
                task,
                outcome: Ok(()),
            };
            deeds.extend(self.step(now, input)?);
        }
        if self.look_at <= now {
            self.look_at = now + LOOK;
            if self.core.len() > self.core.idle() + self.core.running() {
                deeds.extend(self.step(now, release_all())?);
            }
        }
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            deeds.extend(self.step(now, Input::Tick)?);
        }
        Ok(deeds)
    }

    pub(crate) fn on_event(&mut self, now: Timestamp, event: &Event) -> Result<Vec<Deed>, String> {
        if let Event::Update(update) = event
            && !self.dead
        {
            self.on_heard(update);
        }
        let input = match event.clone() {
            Event::Subscribed { framework } => Input::Subscribed(framework),
            Event::Disconnected { .. } => Input::Disconnected,
            Event::Offers(offers) => Input::Offers(offers),
            Event::Rescinded(offer) => Input::Rescinded(offer),
            Event::Update(update) => Input::Update(update),
            Event::Error(reason) => Input::FrameworkEnded(reason),
            Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. }
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_) => return Ok(Vec::new()),
        };
        self.step(now, input)
    }

    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Deed>, String> {
        if self.dead {
            return Ok(Vec::new());
        }
        let Effects { persist, mut then } = self.core.step(now, input);
        let mut deeds = Vec::new();
        if self.plant == Plant::BatchActsEarly {
            let (calls, others) = then.into_iter().partition(|e| matches!(e, Effect::Call(_)));
            deeds = self.perform(now, calls)?;
            then = others;
        }
        let dies = self.die_at.filter(|_| !persist.is_empty());
        if dies != Some(CrashPoint::BeforeSync) {
            for record in persist {
                self.write(record)?;
            }
        }
        if dies.is_some() {
            self.dead = true;
            deeds.push(Deed::Die);
            return Ok(deeds);
        }
        deeds.extend(self.perform(now, then)?);
        Ok(deeds)
    }

    fn perform(&mut self, now: Timestamp, effects: Vec<Effect>) -> Result<Vec<Deed>, String> {
        let mut deeds = Vec::new();
        for effect in effects {
            match effect {
                Effect::Call(call) => {
                    self.on_launch(&call)?;
                    deeds.push(Deed::Call(call));
                }
                Effect::Transfer(transfer) => {
                    let max = Duration::from_millis(500);
                    let at = now + rng::between(&mut self.rng, Duration::from_millis(1), max);
                    self.next_transfer += 1;
                    let key = (at, self.next_transfer);
                    self.transfers.insert(key, transfer.task);
                }
                Effect::Reply(_, answer) => {
                    if let allotment_batch::core::Answer::Refused(refusal) = answer {
                        return Err(format!("the queue takes a good submission: {refusal}"));
                    }
                }
                Effect::Ended(_) | Effect::RunOver(_) => {}
            }
        }
        Ok(deeds)
    }

    /// Nothing is launched that another process would not know of, and a job that runs is not
    /// started again before it is heard that its run is over, or out of reach.
    fn on_launch(&mut self, call: &Call) -> Result<(), String> {
        let Call::Accept { tasks, .. } = call else {
            return Ok(());
        };
        for task in tasks {
            let mut runs = self
                .durable
                .jobs
                .values()
                .filter_map(|job| job.run.as_ref());
            if !runs.any(|run| run.task == task.id.as_str()) {
                return Err(format!(
                    "nothing is told before it is durable: batch launches task {}, of which its \
                     database has no run",
                    task.id
                ));
            }
            let job = job_of(&task.id).to_owned();
            if let Some(before) = self.runs.insert(job, task.id.clone()) {
                return Err(format!(
                    "a batch job runs once at a time: {} is launched although nobody said that \
                     {before} is over",
                    task.id
                ));
            }
        }
        Ok(())
    }

    fn on_heard(&mut self, update: &Update) {
        let away = matches!(
            update.state,
            TaskState::TaskUnreachable | TaskState::TaskUnknown
        );
        let job = job_of(&update.task);
        if (update.is_terminal() || away) && self.runs.get(job) == Some(&update.task) {
            self.runs.remove(job);
        }
    }

    /// The database, as `allotment_batch::store` keeps it.
    fn write(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Job(..) if self.plant == Plant::BatchForgetsJobs => {}
            Record::Framework(_) if self.plant == Plant::IdForgotten => {}
            Record::NextCluster(next) => self.durable.next_cluster = next,
            Record::Framework(id) => self.durable.framework = id,
            Record::Cluster(id, stored) => {
                self.durable.clusters.retain(|(known, _)| *known != id);
                self.durable.clusters.push((id, *stored));
            }
            Record::Job(key, stored) => {
                self.durable.jobs.insert(key, *stored);
            }
            Record::Ended(key, end) => {
                if !self.recorded.insert(key) {
                    return Err(format!(
                        "a batch job is recorded complete once: {key} ended twice"
                    ));
                }
                self.durable.jobs.remove(&key);
                self.durable.ended.insert(key, (end.removed, end.success));
                self.durable.next_sequence = end.sequence + 1;
            }
            Record::ClusterEnded(id) => {
                self.durable.clusters.retain(|(known, _)| *known != id);
                self.durable.ended.retain(|key, _| key.cluster != id);
            }
            Record::Log { .. } => {}
        }
        Ok(())
    }

    /// Another process with what the database holds.
    pub(crate) fn restart(&mut self, now: Timestamp) -> Option<FrameworkId> {
        self.core = Core::recover(settings(&mut self.rng), self.durable.clone(), now);
        self.die_at = None;
        self.dead = false;
        self.transfers.clear();
        self.core.framework().cloned()
    }

    pub(crate) fn check_settled(&self) -> Result<(), String> {
        let recorded = u32::try_from(self.recorded.len()).unwrap_or(u32::MAX);
        if recorded != self.submitted || !self.core.is_empty() {
            return Err(format!(
                "every job ends: of {} jobs {recorded} are recorded complete, and {} are in the \
                 queue, {} of them idle",
                self.submitted,
                self.core.len(),
                self.core.idle()
            ));
        }
        Ok(())
    }
}

/// The job of which this is a run: `CLUSTER.PROC.START-NONCE`.
fn job_of(task: &TaskId) -> &str {
    let task = task.as_str();
    task.rsplit_once('.').map_or(task, |(job, _)| job)
}

fn release_all() -> Input {
    Input::Act {
        ticket: 0,
        action: Action::Release,
        selection: allot::JobSelection {
            all: Some(true),
            ..allot::JobSelection::default()
        },
        reason: None,
    }
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        hostname: "submit".to_owned(),
        default_memory_mib: 64,
        queue_max: 1_000_000,
        zone: jiff::tz::TimeZone::UTC,
        seed: rng.u64(..),
        role: Role::parse("batch").unwrap_or_else(|_| Role::star()),
    }
}

fn submission(jobs: u32, runs: Duration, cpus_milli: u64) -> allot::SubmitJobsRequest {
    let template = allot::JobSpec {
        executable: Some("/bin/sleep".to_owned()),
        transfer_executable: Some(false),
        arguments: Some(allot::StringList {
            items: vec![runs.as_secs_f64().to_string()],
        }),
        initial_dir: Some("/work".to_owned()),
        log: Some("/work/log".to_owned()),
        cpus_milli: Some(cpus_milli),
        memory_mib: Some(128),
        max_retries: Some(3),
        ..allot::JobSpec::default()
    };
    allot::SubmitJobsRequest {
        clusters: vec![allot::ClusterSubmission {
            owner: "sim".to_owned(),
            batch_name: String::new(),
            template,
            procs: vec![allot::ProcRun {
                count: jobs,
                changes: None,
            }],
            cluster: None,
        }],
    }
}
