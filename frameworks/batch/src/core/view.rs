//! Jobs as the API shows them.

use allotment_proto::allot::{JobClusterView, JobId, JobSelection, JobSpec, JobView};
use allotment_types::Timestamp;

use super::Core;
use super::job::{Cluster, Exit, Job, JobKey, State};
use super::record::{StoredCluster, StoredEnd, StoredRun};

impl From<JobKey> for JobId {
    fn from(key: JobKey) -> Self {
        Self {
            cluster: key.cluster,
            proc: key.proc,
        }
    }
}

impl From<&JobId> for JobKey {
    fn from(id: &JobId) -> Self {
        Self {
            cluster: id.cluster,
            proc: id.proc,
        }
    }
}

/// The word for a state.
fn word(state: &State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Running(_) => "running",
        State::Held { .. } => "held",
    }
}

/// Whether `selection` means `key`.
pub fn means(selection: &JobSelection, key: JobKey) -> bool {
    selection.all == Some(true)
        || selection.clusters.contains(&key.cluster)
        || selection.jobs.iter().any(|id| JobKey::from(id) == key)
}

impl Core {
    /// A page of unfinished jobs after `after`, and whether there are more.
    pub fn list(
        &self,
        selection: Option<&JobSelection>,
        states: &[String],
        after: Option<JobKey>,
        limit: usize,
    ) -> (Vec<JobView>, bool) {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = self
            .jobs
            .range((from, Bound::Unbounded))
            .filter(|(key, _)| selection.is_none_or(|s| means(s, **key)))
            .filter(|(_, job)| {
                states.is_empty() || states.iter().any(|state| state == word(&job.state))
            });
        let page: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        let views = page.into_iter().filter_map(|(key, job)| {
            let cluster = self.clusters.get(&key.cluster)?;
            Some(self.view(*key, job, cluster))
        });
        (views.collect(), more)
    }

    /// One unfinished job.
    pub fn show(&self, key: JobKey) -> Option<JobView> {
        let (job, cluster) = (self.jobs.get(&key)?, self.clusters.get(&key.cluster)?);
        Some(self.view(key, job, cluster))
    }

    /// An unfinished job.
    pub fn job(&self, key: JobKey) -> Option<&Job> {
        self.jobs.get(&key)
    }

    /// How many idle jobs go before this one, when it is idle itself.
    pub fn ahead_of(&self, key: JobKey) -> Option<usize> {
        let job = self.jobs.get(&key)?;
        let submitted = self.clusters.get(&key.cluster)?.submitted;
        matches!(job.state, State::Idle).then(|| self.idle.ahead(job.priority, submitted, key))
    }

    /// The clusters with unfinished jobs.
    pub fn clusters(&self) -> Vec<JobClusterView> {
        let view = |(id, cluster): (&u32, &Cluster)| {
            let (mut idle, mut running, mut held) = (0, 0, 0);
            for key in self.jobs_of(*id) {
                match self.jobs.get(&key).map(|job| &job.state) {
                    Some(State::Idle) => idle += 1,
                    Some(State::Running(_)) => running += 1,
                    Some(State::Held { .. }) => held += 1,
                    None => {}
                }
            }
            JobClusterView {
                cluster: *id,
                owner: cluster.owner.to_string(),
                batch_name: cluster.batch_name.to_string(),
                command: command(&cluster.template),
                submitted_at: cluster.submitted.as_secs_f64(),
                total: cluster.total,
                idle,
                running,
                held,
                completed: cluster.completed,
                failed: cluster.failed,
                removed: cluster.removed,
            }
        };
        self.clusters.iter().map(view).collect()
    }

    /// How many jobs of a cluster with unfinished jobs there are in all, and how many of them
    /// have ended and failed (or were removed).
    pub fn progress(&self, cluster: u32) -> Option<(u32, u32, u32)> {
        let c = self.clusters.get(&cluster)?;
        let failed = c.failed + c.removed;
        Some((c.total, c.completed + failed, failed))
    }

    fn view(&self, key: JobKey, job: &Job, cluster: &Cluster) -> JobView {
        let spec = cluster.spec(key.proc);
        let mut view = described(key, cluster, spec, self.settings.default_memory_mib);
        view.state = word(&job.state).to_owned();
        view.since = job.since.as_secs_f64();
        view.starts = job.starts;
        view.completions = job.completions;
        view.reason = job.reason.as_deref().map(str::to_owned);
        ended(&mut view, job.exit.as_ref());
        if let State::Held { code, subcode } = job.state {
            view.hold_code = Some(code);
            view.hold_subcode = Some(subcode);
        }
        let run = match &job.state {
            State::Running(running) => Some(&running.run),
            State::Idle | State::Held { .. } => job.last.as_deref(),
        };
        if let Some(run) = run {
            ran(&mut view, &run.into());
        }
        view
    }
}

/// A job of the history.
pub fn past(
    key: JobKey,
    cluster: StoredCluster,
    end: &StoredEnd,
    default_memory_mib: u64,
) -> JobView {
    let cluster = cluster.restore();
    let spec = cluster.spec(key.proc);
    let mut view = described(key, &cluster, spec, default_memory_mib);
    let state = if end.removed { "removed" } else { "completed" };
    view.state = state.to_owned();
    let at = Timestamp::from_nanos(end.at).as_secs_f64();
    view.since = at;
    view.ended_at = Some(at);
    view.starts = end.starts;
    view.completions = end.completions;
    view.reason.clone_from(&end.reason);
    view.success = Some(end.success);
    ended(&mut view, end.exit.as_ref().map(Exit::from).as_ref());
    if let Some(run) = &end.run {
        ran(&mut view, run);
    }
    view
}

fn ran(view: &mut JobView, run: &StoredRun) {
    view.task_id = Some(run.task.clone());
    view.agent_id = Some(run.agent.clone());
    view.host = Some(run.host.clone());
    view.agent_url = Some(run.agent_url.clone());
    let started = Timestamp::from_nanos(run.started.unwrap_or(run.launched));
    view.started_at = Some(started.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn ended(view: &mut JobView, exit: Option<&Exit>) {
    let Some(exit) = exit else {
        return;
    };
    view.exit_code = exit.code;
    view.exit_signal = exit.signal;
    view.max_rss_bytes = Some(exit.max_rss_bytes);
    view.user_cpu_seconds = Some(exit.user_cpu_ns as f64 / 1e9);
    view.system_cpu_seconds = Some(exit.system_cpu_ns as f64 / 1e9);
}

/// A command line for people.
fn command(spec: &JobSpec) -> String {
    let mut line = spec.executable.clone().unwrap_or_default();
    for argument in spec.arguments.iter().flat_map(|list| &list.items) {
        line.push(' ');
        line.push_str(argument);
    }
    line
}

#[expect(clippy::cast_precision_loss, reason = "cores for people")]
fn described(key: JobKey, cluster: &Cluster, spec: JobSpec, default_memory_mib: u64) -> JobView {
    JobView {
        cluster: key.cluster,
        proc: key.proc,
        owner: cluster.owner.to_string(),
        batch_name: cluster.batch_name.to_string(),
        priority: spec.priority.unwrap_or(0),
        executable: spec.executable.unwrap_or_default(),
        arguments: spec.arguments.map(|list| list.items).unwrap_or_default(),
        initial_dir: spec.initial_dir.unwrap_or_default(),
        input: spec.input.unwrap_or_default(),
        output: spec.output.unwrap_or_default(),
        error: spec.error.unwrap_or_default(),
        log: spec.log.unwrap_or_default(),
        cpus: spec.cpus_milli.unwrap_or(1000) as f64 / 1000.0,
        memory_mib: spec.memory_mib.unwrap_or(default_memory_mib),
        disk_kib: spec.disk_kib,
        submitted_at: cluster.submitted.as_secs_f64(),
        attributes: spec.attributes.map(|list| list.items).unwrap_or_default(),
        ..JobView::default()
    }
}
