//! Jobs come in: checked, numbered, durable, answered.

use allotment_proto::allot::{
    ClusterSubmission, JobSpec, JobVariables, StringList, SubmitJobsRequest, SubmittedCluster,
};
use allotment_types::Timestamp;

use super::event_log::Event;
use super::job::JobKey;
use super::record::{Record, StoredChanges, StoredCluster};
use super::{Answer, Core, Refusal, Ticket};

/// The most clusters of one request.
const CLUSTERS_MAX: u32 = 1000;

impl Core {
    pub(super) fn on_reserve(&mut self, ticket: Ticket, count: u32) {
        if count == 0 || count > CLUSTERS_MAX {
            let problem =
                format!("{count} clusters cannot be reserved; ask for 1 to {CLUSTERS_MAX}");
            return self.reply(ticket, Answer::Refused(Refusal::Invalid(problem)));
        }
        let first = self.next_cluster;
        let Some(next) = first.checked_add(count) else {
            let problem = "there are no cluster ids left; start on a new data folder".to_owned();
            return self.reply(ticket, Answer::Refused(Refusal::Invalid(problem)));
        };
        self.next_cluster = next;
        self.reserved.extend(first..next);
        // Reservations that were never used must not pile up; their submitters try again.
        while self.reserved.len() > 10 * CLUSTERS_MAX as usize {
            self.reserved.pop_first();
        }
        self.out.persist.push(Record::NextCluster(next));
        self.reply(ticket, Answer::Reserved(first));
    }

    pub(super) fn on_submit(&mut self, now: Timestamp, ticket: Ticket, request: SubmitJobsRequest) {
        match self.take(now, request) {
            Ok(clusters) => self.reply(ticket, Answer::Submitted(clusters)),
            Err(refusal) => self.reply(ticket, Answer::Refused(refusal)),
        }
    }

    fn take(
        &mut self,
        now: Timestamp,
        request: SubmitJobsRequest,
    ) -> Result<Vec<SubmittedCluster>, Refusal> {
        let invalid = |problem: String| Err(Refusal::Invalid(problem));
        let n = u32::try_from(request.clusters.len()).unwrap_or(u32::MAX);
        if n == 0 || n > CLUSTERS_MAX {
            return invalid(format!(
                "the request has {n} clusters; send 1 to {CLUSTERS_MAX}"
            ));
        }
        let mut asked = 0u64;
        for cluster in &request.clusters {
            check_cluster(cluster).map_err(Refusal::Invalid)?;
            asked += cluster
                .procs
                .iter()
                .map(|run| u64::from(run.count))
                .sum::<u64>();
            if let Some(id) = cluster.cluster
                && !self.reserved.contains(&id)
            {
                if self.clusters.contains_key(&id) {
                    return Err(Refusal::Exists(id));
                }
                return invalid(format!(
                    "cluster id {id} is not reserved (any more); submit again with a new one"
                ));
            }
        }
        let (held, max) = (self.jobs.len() as u64, self.settings.queue_max);
        if held.saturating_add(asked) > max {
            return Err(Refusal::Full { held, max, asked });
        }
        let mut taken = Vec::new();
        for cluster in request.clusters {
            let id = match cluster.cluster {
                Some(id) => id,
                None => {
                    let id = self.next_cluster;
                    self.next_cluster = id.checked_add(1).ok_or_else(|| {
                        Refusal::Invalid("there are no cluster ids left".to_owned())
                    })?;
                    self.out
                        .persist
                        .push(Record::NextCluster(self.next_cluster));
                    id
                }
            };
            self.reserved.remove(&id);
            let jobs = self.add_cluster(now, id, cluster);
            taken.push(SubmittedCluster { cluster: id, jobs });
        }
        Ok(taken)
    }

    fn add_cluster(&mut self, now: Timestamp, id: u32, submission: ClusterSubmission) -> u32 {
        let mut total = 0u32;
        let mut runs = Vec::with_capacity(submission.procs.len());
        for run in submission.procs {
            runs.push(StoredChanges {
                first: total,
                changes: run.changes,
            });
            total = total.saturating_add(run.count);
        }
        let stored = StoredCluster {
            owner: submission.owner,
            batch_name: submission.batch_name,
            submitted: now.as_nanos(),
            template: Some(submission.template),
            runs,
            total,
        };
        let cluster = stored.clone().restore();
        self.out.persist.push(Record::Cluster(id, Box::new(stored)));
        for proc in 0..total {
            let job = self.as_submitted(&cluster, proc);
            self.adopt(JobKey { cluster: id, proc }, job, now);
        }
        self.clusters.insert(id, cluster);
        self.counts.submitted += u64::from(total);
        let host = self.settings.hostname.clone();
        for proc in 0..total {
            let key = JobKey { cluster: id, proc };
            self.log(now, key, Event::Submitted { host: &host });
            if let Some(job) = self.jobs.get(&key)
                && let super::job::State::Held { code, subcode } = job.state
            {
                let reason = job.reason.clone().unwrap_or_default();
                let held = Event::Held {
                    reason: &reason,
                    code,
                    subcode,
                };
                self.log(now, key, held);
            }
        }
        total
    }
}

/// Checks what the command line has checked already, because anybody can send a request.
fn check_cluster(cluster: &ClusterSubmission) -> Result<(), String> {
    const NAME_MAX: usize = 1000;
    if cluster.owner.len() > NAME_MAX || cluster.batch_name.len() > NAME_MAX {
        return Err(format!(
            "owner and batch_name must not be longer than {NAME_MAX} bytes"
        ));
    }
    let jobs: u64 = cluster.procs.iter().map(|run| u64::from(run.count)).sum();
    if jobs == 0 || cluster.procs.iter().any(|run| run.count == 0) {
        return Err("a cluster or a run of it has no job".to_owned());
    }
    if jobs > u64::from(u32::MAX) {
        return Err(format!(
            "a cluster has {jobs} jobs, more than its numbers can name"
        ));
    }
    if cluster
        .template
        .executable
        .as_deref()
        .is_none_or(str::is_empty)
    {
        return Err("a job has no executable; name the program to run".to_owned());
    }
    if cluster.template.initial_dir.is_none() {
        return Err("a job has no initial directory; give it as an absolute path".to_owned());
    }
    check_spec(&cluster.template)?;
    cluster
        .procs
        .iter()
        .filter_map(|run| run.changes.as_ref())
        .try_for_each(check_spec)
}

fn check_spec(spec: &JobSpec) -> Result<(), String> {
    const CPUS_MILLI_MAX: u64 = 1_000_000_000;
    const SIZE_MAX: u64 = 1_000_000_000_000;
    let lists = [&spec.arguments, &spec.transfer_input, &spec.transfer_output];
    let listed = lists
        .into_iter()
        .flatten()
        .flat_map(|l: &StringList| &l.items);
    let variables = [&spec.environment, &spec.attributes];
    let pairs = variables
        .into_iter()
        .flatten()
        .flat_map(|v: &JobVariables| &v.items)
        .flat_map(|v| [&v.name, &v.value]);
    let single = [
        &spec.executable,
        &spec.initial_dir,
        &spec.input,
        &spec.output,
        &spec.error,
        &spec.log,
    ];
    let mut all = listed.chain(pairs).chain(single.into_iter().flatten());
    if let Some(bad) = all.find(|text| text.contains('\0')) {
        return Err(format!(
            "{bad:?} holds a NUL, which no program can be given"
        ));
    }
    let paths = [
        ("initial_dir", &spec.initial_dir),
        ("input", &spec.input),
        ("output", &spec.output),
        ("error", &spec.error),
        ("log", &spec.log),
    ];
    for (name, path) in paths {
        if let Some(path) = path
            && !path.is_empty()
            && !path.starts_with('/')
        {
            return Err(format!("{name} {path:?} is not an absolute path"));
        }
    }
    if let Some(outputs) = &spec.transfer_output
        && let Some(bad) = outputs.items.iter().find(|name| !plain(name))
    {
        return Err(format!("output file {bad:?} is not a name in the sandbox"));
    }
    if let Some(environment) = &spec.environment
        && let Some(bad) = environment
            .items
            .iter()
            .find(|v| v.name.is_empty() || v.name.contains('='))
    {
        return Err(format!("{:?} is no name of a variable", bad.name));
    }
    if spec
        .cpus_milli
        .is_some_and(|n| n == 0 || n > CPUS_MILLI_MAX)
    {
        return Err("a job asks for no or too many cpus".to_owned());
    }
    if spec
        .memory_mib
        .is_some_and(|n| n == 0 || n > SIZE_MAX / 1024)
    {
        return Err("a job asks for no or too much memory".to_owned());
    }
    if spec.disk_kib.is_some_and(|n| n == 0 || n > SIZE_MAX) {
        return Err("a job asks for no or too much disk".to_owned());
    }
    Ok(())
}

/// Whether `name` stays within one folder.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}
