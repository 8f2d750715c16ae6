//! How runs go and end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Call, Update};
use allotment_proto::allot::SandboxSummary;
use allotment_types::{FrameworkId, TaskId, Timestamp};

use super::event_log::{self, Event};
use super::job::{Ending, Exit, JobKey, State};
use super::meaning::{Meaning, codes, meaning};
use super::outcome::plan;
use super::record::{Record, StoredEnd};
use super::{Core, Effect, Ended, Transfer, TransferProblem};

/// A launch that nobody has heard of for this long is asked about: messages to an agent that is
/// just being lost can vanish.
pub(super) const UNHEARD_AFTER: Duration = Duration::from_secs(30);
/// The first pause before runs are asked about again that the master was silent about: it is
/// while it waits for their agents to come back after its own restart.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A run that the master knows nothing of for this long, nor of its agent, is lost: longer than an
/// agent takes to come back to a master that lost its registry.
const UNKNOWN_MAX: Duration = Duration::from_secs(120);

impl Core {
    pub(super) fn on_subscribed(&mut self, now: Timestamp, framework: FrameworkId) {
        self.connected = true;
        if self.framework.as_ref() != Some(&framework) {
            // Tasks of an earlier id are not ours any more; the master has killed them.
            if self.framework.is_some() {
                self.lose_all(now, "the master gave the queue a new framework id");
            }
            self.framework = Some(framework.clone());
            self.out.persist.push(Record::Framework(Some(framework)));
        }
        self.ask_anew();
        self.subscribed_at = now;
        self.reconcile_pause = ASK_AGAIN_AFTER;
        self.reconcile_at = now + ASK_AGAIN_AFTER;
        let running = self
            .jobs
            .values_mut()
            .filter_map(|job| match &mut job.state {
                State::Running(running) => {
                    running.heard = false;
                    Some((running.run.task.clone(), Some(running.run.agent.clone())))
                }
                State::Idle | State::Held { .. } => None,
            });
        let running: Vec<_> = running.collect();
        if !running.is_empty() {
            self.call(Call::Reconcile(running));
        }
        // And whatever the master has of ours that we know nothing of.
        self.call(Call::Reconcile(Vec::new()));
    }

    /// The master ended this framework for good: its runs are gone, and so is its id.
    pub(super) fn on_ended(&mut self, now: Timestamp, reason: &str) {
        self.connected = false;
        self.lose_all(now, reason);
        self.framework = None;
        self.out.persist.push(Record::Framework(None));
    }

    fn lose_all(&mut self, now: Timestamp, reason: &str) {
        for key in self.tasks.values().copied().collect::<BTreeSet<_>>() {
            self.lose(now, key, reason);
        }
    }

    pub(super) fn on_tick(&mut self, now: Timestamp) {
        if !self.connected || self.reconcile_at > now {
            return;
        }
        self.reconcile_at = now + self.reconcile_pause;
        self.reconcile_pause = (self.reconcile_pause * 2).min(UNHEARD_AFTER);
        let unheard = self.tasks.values().filter_map(|key| {
            let State::Running(running) = &self.jobs.get(key)?.state else {
                return None;
            };
            let launched = running.run.launched;
            let due = launched <= self.subscribed_at || now.since(launched) >= UNHEARD_AFTER;
            (!running.heard && due)
                .then(|| (running.run.task.clone(), Some(running.run.agent.clone())))
        });
        let unheard: Vec<_> = unheard.collect();
        if !unheard.is_empty() {
            self.call(Call::Reconcile(unheard));
        }
    }

    pub(super) fn on_update(&mut self, now: Timestamp, update: Update) {
        let acknowledgement = update.acknowledgement();
        let Some(key) = self.tasks.get(&update.task).copied() else {
            return self.on_stray(update, acknowledgement);
        };
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let State::Running(running) = &mut job.state else {
            return;
        };
        if update.state == TaskState::TaskUnknown {
            return self.on_unknown(now, key);
        }
        running.heard = true;
        running.unknown_since = None;
        if let Some(ending) = &mut running.ending {
            // A repetition while output is on its way.
            if acknowledgement.is_some() {
                ending.acknowledgement = acknowledgement;
            }
            return;
        }
        match meaning(&update) {
            Meaning::Alive => {}
            Meaning::Started => self.on_started(now, key),
            Meaning::Exited(exit, remark) => {
                let ending = Ending {
                    exit,
                    at: now,
                    remark,
                    sent: 0,
                    acknowledgement,
                };
                return self.on_exited(now, key, ending, update.sandbox);
            }
            Meaning::Hold(code, subcode, reason) => {
                self.leave_run(key);
                self.hold_ended(now, key, code, subcode, &reason);
            }
            Meaning::Lost(reason) => self.lose(now, key, &reason),
        }
        self.out.then.extend(acknowledgement.map(Effect::Call));
    }

    /// The master knows neither the run nor its agent. The agent may be about to register with a
    /// master that lost its registry, so the question is asked again for a while.
    fn on_unknown(&mut self, now: Timestamp, key: JobKey) {
        let Some(State::Running(running)) = self.jobs.get_mut(&key).map(|job| &mut job.state)
        else {
            return;
        };
        let since = *running.unknown_since.get_or_insert(now);
        // One that has ended waits for its output, not for its agent's task.
        if running.ending.is_none() && now.since(since) >= UNKNOWN_MAX {
            self.lose(now, key, "the master knows neither its task nor its agent");
        }
    }

    /// An update of a run that is not (or no longer) any job's current one.
    fn on_stray(&mut self, update: Update, acknowledgement: Option<Call>) {
        self.out.then.extend(acknowledgement.map(Effect::Call));
        let live = !update.is_terminal()
            && !matches!(
                update.state,
                TaskState::TaskKilling | TaskState::TaskUnreachable | TaskState::TaskUnknown
            );
        if live {
            self.call(Call::Kill {
                task: update.task,
                agent: update.agent,
                grace: None,
            });
        }
    }

    fn on_started(&mut self, now: Timestamp, key: JobKey) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let State::Running(running) = &mut job.state else {
            return;
        };
        if running.run.started.is_some() {
            return;
        }
        running.run.started = Some(now);
        let (host, url) = (running.run.host.clone(), running.run.agent_url.clone());
        // Without an event log nothing of this is worth a write: the launch is recorded.
        if self.has_log(key) {
            self.persist_job(key);
            let event = Event::Executing {
                host: &host,
                url: &url,
            };
            self.log(now, key, event);
        }
    }

    fn on_exited(
        &mut self,
        now: Timestamp,
        key: JobKey,
        ending: Ending,
        sandbox: Option<SandboxSummary>,
    ) {
        // A short run may end before it was ever seen running.
        self.on_started(now, key);
        let Some(cluster) = self.clusters.get(&key.cluster) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let State::Running(running) = &mut job.state else {
            return;
        };
        let plan = plan(&cluster.spec(key.proc), sandbox.as_ref());
        let sent = plan
            .as_ref()
            .map_or(0, |(files, _)| files.iter().filter_map(|f| f.size).sum());
        running.ending = Some(Ending { sent, ..ending });
        match plan {
            Ok((files, rest)) if files.is_empty() && rest.is_none() => self.finish(now, key),
            Ok((files, rest)) => {
                let transfer = Transfer {
                    job: key,
                    task: running.run.task.clone(),
                    agent_url: running.run.agent_url.to_string(),
                    files,
                    rest,
                };
                self.out.then.push(Effect::Transfer(Box::new(transfer)));
            }
            Err(missing) => {
                let reason = format!(
                    "transfer_output_files names {missing:?}, but the job left no such file"
                );
                self.hold_after(now, key, codes::TRANSFER_OUTPUT, 2, &reason);
            }
        }
    }

    pub(super) fn on_transferred(
        &mut self,
        now: Timestamp,
        task: &TaskId,
        outcome: Result<(), TransferProblem>,
    ) {
        let Some(key) = self.tasks.get(task).copied() else {
            return;
        };
        match outcome {
            Ok(()) => self.finish(now, key),
            Err(TransferProblem::Write {
                path,
                error,
                errno,
                standard,
            }) => {
                let folder = self
                    .clusters
                    .get(&key.cluster)
                    .and_then(|cluster| cluster.spec(key.proc).initial_dir);
                let code = if folder.as_deref() == Some(path.as_str()) {
                    codes::INITIAL_DIR
                } else if standard {
                    codes::OUTPUT
                } else {
                    codes::TRANSFER_OUTPUT
                };
                let reason =
                    format!("cannot write {path}: {error}; make it writable and release the job");
                self.hold_after(now, key, code, errno, &reason);
            }
            Err(TransferProblem::Fetch { name, error }) => {
                let reason = format!(
                    "cannot bring {name} home from the agent: {error}; release the job to run \
                     it again"
                );
                self.hold_after(now, key, codes::TRANSFER_OUTPUT, 0, &reason);
            }
        }
    }

    /// Holds a job whose run has ended, and acknowledges the end.
    fn hold_after(&mut self, now: Timestamp, key: JobKey, code: u32, subcode: u32, reason: &str) {
        let ending = self.leave_run(key).and_then(|running| running.ending);
        if let (Some(job), Some(ending)) = (self.jobs.get_mut(&key), &ending) {
            job.exit = Some(ending.exit);
        }
        self.hold_ended(now, key, code, subcode, reason);
        let acknowledgement = ending.and_then(|ending| ending.acknowledgement);
        self.out.then.extend(acknowledgement.map(Effect::Call));
    }

    /// Holds a job that has no run any more.
    fn hold_ended(&mut self, now: Timestamp, key: JobKey, code: u32, subcode: u32, reason: &str) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        job.state = State::Held { code, subcode };
        job.since = now;
        job.reason = Some(reason.into());
        self.persist_job(key);
        let event = Event::Held {
            reason,
            code,
            subcode,
        };
        self.log(now, key, event);
    }

    /// The run has ended and all it left is home: the job is complete, or tries again.
    fn finish(&mut self, now: Timestamp, key: JobKey) {
        let Some(running) = self.leave_run(key) else {
            return;
        };
        let Some(ending) = running.ending else {
            return;
        };
        let exit = ending.exit;
        let Some(cluster) = self.clusters.get(&key.cluster) else {
            return;
        };
        let spec = cluster.spec(key.proc);
        let success =
            exit.signal.is_none() && exit.code == Some(spec.success_exit_code.unwrap_or(0));
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        job.completions = job.completions.saturating_add(1);
        job.exit = Some(exit);
        // HTCondor: OnExitRemove = NumJobCompletions > JobMaxRetries || ExitCode is ...
        let again = !success
            && (exit.signal.is_some() || exit.code != spec.retry_until)
            && spec.max_retries.is_some_and(|max| job.completions <= max);
        if again {
            let max = spec.max_retries.unwrap_or(0);
            let mut reason = format!("{}; retry {} of {max}", ended_how(exit), job.completions);
            if let Some(remark) = &ending.remark {
                reason += &format!("; {remark}");
            }
            let event = Event::Requeued {
                exit,
                reason: &reason,
                sent: ending.sent,
            };
            self.log(now, key, event);
            self.make_idle(now, key, Some(reason.into()));
        } else {
            let event = Event::Terminated {
                exit,
                sent: ending.sent,
            };
            self.log(now, key, event);
            self.end(now, key, success, false, ending.remark);
        }
        self.out
            .then
            .extend(ending.acknowledgement.map(Effect::Call));
    }

    /// The run is gone through no fault of its own: the job goes back to idle.
    fn lose(&mut self, now: Timestamp, key: JobKey, reason: &str) {
        let Some(running) = self.leave_run(key) else {
            return;
        };
        if let Some(ending) = running.ending {
            // It had ended; its output is out of reach now, and so is its acknowledgement.
            self.out
                .then
                .extend(ending.acknowledgement.map(Effect::Call));
        }
        self.counts.lost += 1;
        if running.run.started.is_some() {
            self.log(now, key, Event::Evicted { reason });
        }
        self.make_idle(now, key, Some(reason.into()));
    }

    /// Puts a job at its place among the idle ones.
    pub(super) fn make_idle(&mut self, now: Timestamp, key: JobKey, reason: Option<Arc<str>>) {
        let Some(submitted) = self.clusters.get(&key.cluster).map(|c| c.submitted) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        job.state = State::Idle;
        job.since = now;
        job.reason = reason;
        self.idle.insert(job.size, job.priority, submitted, key);
        self.asking.woken = true;
        self.persist_job(key);
    }

    /// Records the end of a job and forgets it.
    pub(super) fn end(
        &mut self,
        now: Timestamp,
        key: JobKey,
        success: bool,
        removed: bool,
        reason: Option<String>,
    ) {
        let (Some(job), Some(cluster)) =
            (self.jobs.remove(&key), self.clusters.get_mut(&key.cluster))
        else {
            return;
        };
        let stored = StoredEnd {
            sequence: self.next_sequence,
            removed,
            success,
            at: now.as_nanos(),
            starts: job.starts,
            completions: job.completions,
            reason,
            exit: job.exit.map(Into::into),
            run: job.last.as_deref().map(Into::into),
        };
        self.next_sequence += 1;
        self.out.persist.push(Record::Ended(key, Box::new(stored)));
        match (removed, success) {
            (true, _) => cluster.removed += 1,
            (false, true) => cluster.completed += 1,
            (false, false) => cluster.failed += 1,
        }
        if removed {
            self.counts.removed += 1;
        } else {
            self.counts.completed += 1;
            self.counts.failed += u64::from(!success);
        }
        if cluster.completed + cluster.failed + cluster.removed >= cluster.total {
            self.clusters.remove(&key.cluster);
            self.out.persist.push(Record::ClusterEnded(key.cluster));
        }
        self.out.then.push(Effect::Ended(Ended {
            job: key,
            success,
            removed,
            exit_code: job.exit.and_then(|exit| exit.code),
            exit_signal: job.exit.and_then(|exit| exit.signal),
        }));
    }

    fn has_log(&self, key: JobKey) -> bool {
        let cluster = self.clusters.get(&key.cluster);
        cluster.is_some_and(|cluster| cluster.log(key.proc).is_some())
    }

    /// Adds an event to the job's log, durable with the rest of this step.
    pub(super) fn log(&mut self, now: Timestamp, key: JobKey, event: Event<'_>) {
        let Some(path) = self
            .clusters
            .get(&key.cluster)
            .and_then(|cluster| cluster.log(key.proc))
        else {
            return;
        };
        let zone = &self.settings.zone;
        if let Some(Record::Log { path: last, text }) = self.out.persist.last_mut()
            && last == path
        {
            return event_log::write(text, now, zone, key, event);
        }
        let path = path.to_owned();
        let mut text = String::new();
        event_log::write(&mut text, now, zone, key, event);
        self.out.persist.push(Record::Log { path, text });
    }
}

fn ended_how(exit: Exit) -> String {
    match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("it was ended by signal {signal}"),
        (code, None) => format!("it exited with {}", code.unwrap_or(0)),
    }
}
