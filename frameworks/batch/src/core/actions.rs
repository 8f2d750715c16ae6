//! What users do to jobs: remove, hold, release.

use std::collections::BTreeSet;

use allotment_framework_sdk::Call;
use allotment_proto::allot::JobSelection;
use allotment_types::Timestamp;

use super::event_log::Event;
use super::job::{JobKey, State};
use super::{Action, Answer, Core, Effect, Refusal, Ticket};

/// HTCondor's code for "a user asked for it".
const HELD_BY_USER: u32 = 1;

impl Core {
    /// The unfinished jobs that are meant.
    ///
    /// # Errors
    /// [`Refusal::NoJob`] when something that was named has none.
    pub fn select(&self, selection: &JobSelection) -> Result<BTreeSet<JobKey>, Refusal> {
        if selection.all == Some(true) {
            return Ok(self.jobs.keys().copied().collect());
        }
        let mut keys = BTreeSet::new();
        for cluster in &selection.clusters {
            let before = keys.len();
            keys.extend(self.jobs_of(*cluster));
            if keys.len() == before {
                return Err(Refusal::NoJob(cluster.to_string()));
            }
        }
        for job in &selection.jobs {
            let key = JobKey {
                cluster: job.cluster,
                proc: job.proc,
            };
            if !self.jobs.contains_key(&key) {
                return Err(Refusal::NoJob(key.to_string()));
            }
            keys.insert(key);
        }
        Ok(keys)
    }

    /// The unfinished jobs of one cluster.
    pub fn jobs_of(&self, cluster: u32) -> impl Iterator<Item = JobKey> + '_ {
        let range = JobKey { cluster, proc: 0 }..=JobKey {
            cluster,
            proc: u32::MAX,
        };
        self.jobs.range(range).map(|(key, _)| *key)
    }

    pub(super) fn on_act(
        &mut self,
        now: Timestamp,
        ticket: Ticket,
        action: Action,
        selection: &JobSelection,
        reason: Option<String>,
    ) {
        const REASON_MAX: usize = 1000;
        let keys = match self.select(selection) {
            Ok(keys) => keys,
            Err(refusal) => return self.reply(ticket, Answer::Refused(refusal)),
        };
        let reason: String = match reason {
            Some(reason) => reason.chars().take(REASON_MAX).collect(),
            None => "by user".to_owned(),
        };
        let (mut changed, mut unchanged) = (0, 0);
        for key in keys {
            let done = match action {
                Action::Remove => self.remove(now, key, &reason),
                Action::Hold => self.hold(now, key, HELD_BY_USER, 0, &reason),
                Action::Release => self.release(now, key, &reason),
            };
            if done {
                changed += 1;
            } else {
                unchanged += 1;
            }
        }
        self.reply(ticket, Answer::Acted { changed, unchanged });
    }

    fn remove(&mut self, now: Timestamp, key: JobKey, reason: &str) -> bool {
        let Some(acknowledgement) = self.stop(key) else {
            return false;
        };
        self.log(now, key, Event::Aborted { reason });
        self.end(now, key, false, true, Some(reason.into()));
        self.out.then.extend(acknowledgement.map(Effect::Call));
        true
    }

    /// Puts a job on hold; a running one is stopped.
    pub(super) fn hold(
        &mut self,
        now: Timestamp,
        key: JobKey,
        code: u32,
        subcode: u32,
        reason: &str,
    ) -> bool {
        let held = |job: &super::job::Job| matches!(job.state, State::Held { .. });
        if self.jobs.get(&key).is_none_or(held) {
            return false;
        }
        let Some(acknowledgement) = self.stop(key) else {
            return false;
        };
        if let Some(job) = self.jobs.get_mut(&key) {
            job.state = State::Held { code, subcode };
            job.since = now;
            job.reason = Some(reason.into());
        }
        self.persist_job(key);
        let event = Event::Held {
            reason,
            code,
            subcode,
        };
        self.log(now, key, event);
        self.out.then.extend(acknowledgement.map(Effect::Call));
        true
    }

    fn release(&mut self, now: Timestamp, key: JobKey, reason: &str) -> bool {
        let Some(job) = self.jobs.get(&key) else {
            return false;
        };
        if !matches!(job.state, State::Held { .. }) {
            return false;
        }
        self.log(now, key, Event::Released { reason });
        self.make_idle(now, key, None);
        true
    }

    /// Takes a job out of the idle line or ends its run; the acknowledgement that is still due
    /// follows once all is recorded. `None`: there is no such job.
    fn stop(&mut self, key: JobKey) -> Option<Option<Call>> {
        let submitted = self.clusters.get(&key.cluster)?.submitted;
        let job = self.jobs.get_mut(&key)?;
        match std::mem::replace(&mut job.state, State::Idle) {
            State::Idle => {
                self.idle.remove(job.size, job.priority, submitted, key);
                Some(None)
            }
            State::Held { .. } => Some(None),
            State::Running(running) => {
                let task = running.run.task.clone();
                let over = running.ending.is_some();
                let agent = running.run.agent.clone();
                job.last = Some(Box::new(running.run));
                self.tasks.remove(&task);
                if !over {
                    self.call(Call::Kill {
                        task: task.clone(),
                        agent: Some(agent),
                        grace: None,
                    });
                }
                self.out.then.push(Effect::RunOver(task));
                Some(running.ending.and_then(|ending| ending.acknowledgement))
            }
        }
    }
}
