//! Callers that wait for jobs to end.

use std::collections::BTreeSet;

use allotment_proto::allot::{EndedJob, JobSelection, WaitJobsEvent};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::core::job::JobKey;
use crate::core::{Core, Ended};

/// What of a selection is in the queue.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Jobs that are meant, and those of them that have ended (and failed) already; of clusters
    /// with unfinished jobs only.
    pub(crate) total: u32,
    pub(crate) ended: u32,
    pub(crate) failed: u32,
    /// Clusters and jobs that are not in the queue: to be looked for in the history.
    pub(crate) clusters: Vec<u32>,
    pub(crate) jobs: Vec<JobKey>,
}

#[derive(Debug)]
struct Waiter {
    remaining: BTreeSet<JobKey>,
    pending: Vec<EndedJob>,
    events: mpsc::Sender<Result<WaitJobsEvent, Status>>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(crate) fn add(
        &mut self,
        core: &Core,
        selection: &JobSelection,
        events: mpsc::Sender<Result<WaitJobsEvent, Status>>,
        found: oneshot::Sender<Found>,
    ) {
        let mut here = Found::default();
        let mut remaining = BTreeSet::new();
        let mut clusters: BTreeSet<u32> = selection.clusters.iter().copied().collect();
        if selection.all == Some(true) {
            clusters.extend(core.clusters().iter().map(|view| view.cluster));
        }
        for cluster in clusters {
            match core.progress(cluster) {
                Some((total, ended, failed)) => {
                    here.total += total;
                    here.ended += ended;
                    here.failed += failed;
                    remaining.extend(core.jobs_of(cluster));
                }
                None => here.clusters.push(cluster),
            }
        }
        for id in &selection.jobs {
            let key = JobKey::from(id);
            if core.job(key).is_none() {
                here.jobs.push(key);
            } else if remaining.insert(key) {
                here.total += 1;
            }
        }
        let _gone = found.send(here);
        if !remaining.is_empty() {
            self.0.push(Waiter {
                remaining,
                pending: Vec::new(),
                events,
            });
        }
    }

    pub(crate) fn ended(&mut self, ended: Ended) {
        for waiter in &mut self.0 {
            if waiter.remaining.remove(&ended.job) {
                waiter.pending.push(EndedJob {
                    cluster: ended.job.cluster,
                    proc: ended.job.proc,
                    state: if ended.removed {
                        "removed"
                    } else {
                        "completed"
                    }
                    .to_owned(),
                    success: ended.success,
                    exit_code: ended.exit_code,
                    exit_signal: ended.exit_signal,
                });
            }
        }
    }

    /// Sends what one turn brought. A reader whose channel is full loses its place: dropping the
    /// channel ends its stream, and the server says why.
    pub(crate) fn flush(&mut self) {
        self.0.retain_mut(|waiter| {
            if waiter.pending.is_empty() {
                return !waiter.events.is_closed();
            }
            let event = WaitJobsEvent {
                ended: std::mem::take(&mut waiter.pending),
                ..WaitJobsEvent::default()
            };
            waiter.events.try_send(Ok(event)).is_ok() && !waiter.remaining.is_empty()
        });
    }
}
