//! The life of one task and its stream of status updates.
//!
//! Updates of one task go out one at a time: the next follows the acknowledgement of the one
//! before. An update is repeated after 10 s, then after twice as long each time up to 10 min,
//! and at once on a new session (Mesos' task status update manager).
//!
//! - `durable`: what it must not forget over a restart of the agent.
//! - `hosted`: tasks in groups, and tasks that a custom executor runs.
//! - `verdict`: what the end of its container means.

mod durable;
mod hosted;
mod verdict;

use std::collections::VecDeque;
use std::time::Duration;

use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::mesos::{self, TaskState, TaskStatus};
use allotment_proto::{allot, convert};
use allotment_types::{AgentId, FrameworkId, Resources, Timestamp};

use super::check::{self, Checker, Finding, Probed, Which};
use super::launch::Refusal;
use super::random::Random;
use super::sandbox::ContainerId;
use super::{Effect, Outcome, Settings};
pub(super) use hosted::{Host, Hosted, Taken, UPDATE_LEN_MAX};
pub(super) use verdict::Verdict;

const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// How often one run of the agent begins a task anew whose container was never begun: a task
/// whose launch brings the launcher down must not do so for ever.
const RELAUNCHES_MAX: u32 = 3;

/// One task that this agent took on.
#[derive(Debug)]
pub struct Task {
    agent: AgentId,
    framework: FrameworkId,
    info: mesos::TaskInfo,
    container: ContainerId,
    resources: Resources,
    host: Host,
    phase: Phase,
    state: TaskState,
    pending: VecDeque<TaskStatus>,
    in_flight: Option<InFlight>,
    /// Its framework is gone: nobody wants to hear of it any more.
    forgotten: bool,
    checks: Vec<Checker>,
    /// What its health check found last.
    healthy: Option<bool>,
    /// Its progress differs from what was last written down.
    changed: bool,
    /// What is known of its container is what an earlier run wrote down.
    recovering: bool,
    /// It was taken on before the machine was started the last time.
    of_earlier_boot: bool,
    /// How often this run began it anew.
    n_relaunches: u32,
    /// Where the core's index of deadlines holds this task.
    pub(super) noted_deadline: Option<Timestamp>,
}

#[derive(Debug)]
enum Phase {
    /// Asked for, and not yet running.
    Starting {
        /// It is being stopped before it began.
        killed: Option<Why>,
    },
    Running {
        pid: i32,
        complete_by: Option<Timestamp>,
    },
    /// SIGTERM was sent.
    Killing {
        pid: i32,
        /// When SIGKILL follows; `None` once it has.
        destroy_at: Option<Timestamp>,
        why: Why,
    },
    /// A custom executor has it, or is to have it.
    Hosted,
    Ended,
}

/// When the front of the queue was sent.
#[derive(Debug)]
struct InFlight {
    retry_at: Timestamp,
    interval: Duration,
}

/// Why a task is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Asked,
    MaxCompletionTime,
    /// The agent leaves for good and takes its tasks along.
    AgentStops,
    /// Its health check failed too often.
    Unhealthy,
    /// Another task of its group failed or was killed.
    Group,
    /// Its framework ended the executor that it belongs to.
    ExecutorShutdown,
}

/// An order to kill.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) grace: Duration,
    pub(super) why: Why,
    /// The framework understands TASK_KILLING.
    pub(super) tells_killing: bool,
}

/// The grace period of a kill policy, if it sets one.
pub(super) fn grace(policy: Option<&mesos::KillPolicy>) -> Option<Duration> {
    let nanoseconds = policy?.grace_period.as_ref()?.nanoseconds;
    Some(Duration::from_nanos(
        u64::try_from(nanoseconds).unwrap_or(0),
    ))
}

impl Task {
    /// A task whose container is being made.
    pub(super) fn starting(
        agent: &AgentId,
        framework: &FrameworkId,
        info: mesos::TaskInfo,
        container: ContainerId,
        resources: Resources,
    ) -> Self {
        Self {
            agent: agent.clone(),
            framework: framework.clone(),
            // A task whose checks make no sense was refused, and is not checked.
            checks: check::checks(&info).unwrap_or_default(),
            healthy: None,
            info,
            container,
            resources,
            host: Host::Alone,
            phase: Phase::Starting { killed: None },
            state: TaskState::TaskStaging,
            pending: VecDeque::new(),
            in_flight: None,
            forgotten: false,
            changed: true,
            recovering: false,
            of_earlier_boot: false,
            n_relaunches: 0,
            noted_deadline: None,
        }
    }

    /// A task that cannot be taken on; all that is left to do is to say so.
    pub(super) fn refused(
        now: Timestamp,
        (agent, framework): (&AgentId, &FrameworkId),
        info: mesos::TaskInfo,
        container: ContainerId,
        refusal: &Refusal,
        random: &mut Random,
    ) -> Self {
        let mut task = Self::starting(agent, framework, info, container, Resources::EMPTY);
        task.phase = Phase::Ended;
        let mut status = task.status(now, refusal.state, random);
        status.source = Some(Source::Agent.into());
        status.reason = Some(refusal.reason.into());
        status.message = Some(refusal.message.clone());
        status.container_status = None;
        task.push(status);
        task
    }

    /// Whether [`Self::progress`] is to be written down; once for each change.
    pub(super) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Its progress says no more than that it was taken on, which its checkpoint says already.
    pub(super) fn is_untouched(&self) -> bool {
        let begun = match (&self.phase, &self.host) {
            (Phase::Starting { killed: None }, _) => false,
            (Phase::Hosted, Host::Executor(hosted)) => hosted.sent || hosted.kill.is_some(),
            _ => true,
        };
        !begun && self.pending.is_empty() && !self.forgotten
    }

    pub(super) const fn info(&self) -> &mesos::TaskInfo {
        &self.info
    }

    pub(super) const fn agent(&self) -> &AgentId {
        &self.agent
    }

    pub(super) const fn container(&self) -> &ContainerId {
        &self.container
    }

    /// Nothing was heard of its container in this run.
    pub(super) const fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// It was never begun and may be, elsewhere than in its first container.
    pub(super) const fn may_relaunch(&self) -> bool {
        matches!(self.phase, Phase::Starting { killed: None })
            && !self.forgotten
            && !self.of_earlier_boot
            && self.n_relaunches < RELAUNCHES_MAX
    }

    /// It is begun anew in another container.
    pub(super) fn relaunch(&mut self, agent: &AgentId, container: ContainerId) {
        self.agent = agent.clone();
        self.container = container;
        self.n_relaunches += 1;
        self.recovering = false;
    }

    /// Repeats what an earlier run may have ordered in vain.
    pub(super) fn order_again(&self, effects: &mut Vec<Effect>) {
        let container = || self.container.clone();
        match self.phase {
            Phase::Hosted => {}
            _ if self.forgotten => effects.push(Effect::Destroy(container())),
            Phase::Starting { killed: Some(_) }
            | Phase::Killing {
                destroy_at: None, ..
            } => effects.push(Effect::Destroy(container())),
            Phase::Killing { .. } => effects.push(Effect::Terminate(container())),
            Phase::Starting { killed: None } | Phase::Running { .. } | Phase::Ended => {}
        }
    }

    pub(super) const fn framework(&self) -> &FrameworkId {
        &self.framework
    }

    pub(super) const fn resources(&self) -> &Resources {
        &self.resources
    }

    pub(super) const fn state(&self) -> TaskState {
        self.state
    }

    /// Whether something waits behind an update that is on its way, or for a master.
    pub(super) fn has_unsent(&self) -> bool {
        self.pending.len() > usize::from(self.in_flight.is_some())
    }

    pub(super) fn n_pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) const fn is_starting(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } => true,
            Phase::Hosted => !matches!(self.state, TaskState::TaskRunning | TaskState::TaskKilling),
            Phase::Running { .. } | Phase::Killing { .. } | Phase::Ended => false,
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        match self.phase {
            Phase::Running { .. } => true,
            Phase::Hosted => matches!(self.state, TaskState::TaskRunning),
            Phase::Starting { .. } | Phase::Killing { .. } | Phase::Ended => false,
        }
    }

    pub(super) const fn is_killing(&self) -> bool {
        match self.phase {
            Phase::Killing { .. } => true,
            Phase::Hosted => matches!(self.state, TaskState::TaskKilling),
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Ended => false,
        }
    }

    pub(super) const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    pub(super) const fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Nothing runs and nothing is left to say.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended) && self.pending.is_empty()
    }

    pub(super) fn own_grace(&self) -> Option<Duration> {
        grace(self.info.kill_policy.as_ref())
    }

    /// For a registration.
    pub(super) fn record(&self) -> allot::TaskRecord {
        allot::TaskRecord {
            framework_id: (&self.framework).into(),
            task: self.info.clone(),
            state: self.state.into(),
        }
    }

    /// Orders a kill. Repeated orders can only shorten the wait for SIGKILL.
    pub(super) fn kill(
        &mut self,
        now: Timestamp,
        order: &Kill,
        random: &mut Random,
        effects: &mut Vec<Effect>,
    ) {
        match &mut self.phase {
            Phase::Starting { killed } => {
                if killed.is_none() {
                    *killed = Some(order.why);
                    self.changed = true;
                    effects.push(Effect::Destroy(self.container.clone()));
                }
            }
            Phase::Running { pid, .. } => {
                self.phase = Phase::Killing {
                    pid: *pid,
                    destroy_at: Some(now + order.grace),
                    why: order.why,
                };
                self.changed = true;
                effects.push(Effect::Terminate(self.container.clone()));
                if order.tells_killing {
                    let status = self.status(now, TaskState::TaskKilling, random);
                    self.push(status);
                }
            }
            Phase::Killing { destroy_at, .. } => {
                if let Some(at) = destroy_at
                    && now + order.grace < *at
                {
                    *at = now + order.grace;
                    self.changed = true;
                }
            }
            // Its executor is asked, see `executors`.
            Phase::Hosted | Phase::Ended => {}
        }
    }

    /// The agent stops: end at once.
    pub(super) fn end_with_agent(&mut self, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Starting { killed } => {
                killed.get_or_insert(Why::AgentStops);
            }
            Phase::Running { pid, .. } => {
                self.phase = Phase::Killing {
                    pid: *pid,
                    destroy_at: None,
                    why: Why::AgentStops,
                };
            }
            Phase::Killing { destroy_at, .. } => *destroy_at = None,
            // It ends with its executor.
            Phase::Hosted | Phase::Ended => return,
        }
        self.changed = true;
        effects.push(Effect::Destroy(self.container.clone()));
    }

    /// The framework is gone for good: end quickly and say nothing more.
    pub(super) fn forget(&mut self, effects: &mut Vec<Effect>) {
        self.forgotten = true;
        self.changed = true;
        self.pending.clear();
        self.in_flight = None;
        if !matches!(self.phase, Phase::Hosted | Phase::Ended) {
            effects.push(Effect::Destroy(self.container.clone()));
        }
    }

    pub(super) fn on_started(
        &mut self,
        now: Timestamp,
        pid: i32,
        settings: &Settings,
        random: &mut Random,
    ) {
        if std::mem::replace(&mut self.recovering, false) && self.is_running() {
            for checker in &mut self.checks {
                checker.resume(now);
            }
        }
        let Phase::Starting { killed: None } = self.phase else {
            // It began while being stopped, and its end follows; or this is known already.
            return;
        };
        for checker in &mut self.checks {
            checker.begin(now);
        }
        let limit =
            self.info.max_completion_time.as_ref().map(|duration| {
                Duration::from_nanos(u64::try_from(duration.nanoseconds).unwrap_or(0))
            });
        self.phase = Phase::Running {
            pid,
            complete_by: limit.map(|limit| now + limit),
        };
        if matches!(self.host, Host::Alone) {
            self.announce(now, settings, random);
        }
    }

    /// Tells that its program runs.
    pub(super) fn announce(&mut self, now: Timestamp, settings: &Settings, random: &mut Random) {
        let mut status = self.status(now, TaskState::TaskRunning, random);
        if let Some(container) = &mut status.container_status {
            container.network_infos = host_network(&settings.address.0);
        }
        self.push(status);
    }

    /// Something came of a probe; `order` is how to kill it if that was once too often.
    pub(super) fn on_probed(
        &mut self,
        now: Timestamp,
        which: Which,
        probed: &Probed,
        order: &Kill,
        (random, effects): (&mut Random, &mut Vec<Effect>),
    ) {
        let running = self.is_running();
        let checker = self.checks.iter_mut().find(|c| c.which == which);
        let Some(checker) = checker.filter(|_| running) else {
            return;
        };
        let (reason, message, kill) = match checker.on_probed(now, probed) {
            Finding::Same => return,
            Finding::Status(_, message) => (Reason::TaskCheckStatusUpdated, message, false),
            Finding::Healthy => {
                self.healthy = Some(true);
                (Reason::TaskHealthCheckStatusUpdated, None, false)
            }
            Finding::Unhealthy { why, kill } => {
                self.healthy = Some(false);
                (Reason::TaskHealthCheckStatusUpdated, Some(why), kill)
            }
        };
        let mut status = self.status(now, TaskState::TaskRunning, random);
        status.reason = Some(reason.into());
        status.message = message;
        // One that did not go out yet says less than this one: a framework that is away finds a
        // short list when it is back.
        let replaces = self.pending.len() > 1
            && self.pending.back().is_some_and(|last| {
                last.state() == TaskState::TaskRunning && last.reason == status.reason
            });
        if replaces {
            self.pending.pop_back();
        }
        self.push(status);
        if kill {
            self.kill(now, order, random, effects);
        }
    }

    /// The container is gone. The state that tells how; `gone` is the one that tells of loss.
    pub(super) fn on_ended(
        &mut self,
        now: Timestamp,
        gone: TaskState,
        (outcome, sandbox): (Outcome, allot::SandboxSummary),
        random: &mut Random,
    ) -> TaskState {
        let why = match self.phase {
            Phase::Starting { killed } => killed.map(|why| (why, true)),
            Phase::Killing { why, .. } => Some((why, false)),
            Phase::Running { .. } | Phase::Hosted | Phase::Ended => None,
        };
        self.recovering = false;
        let outcome = if self.of_earlier_boot && !matches!(outcome, Outcome::Exited { .. }) {
            Outcome::Restarted {
                message: "The machine was started anew, and what ran on it is lost".to_owned(),
            }
        } else {
            outcome
        };
        let verdict = Verdict::of(why, &outcome, gone);
        let mut status = self.status(now, verdict.state, random);
        status.reason = verdict.reason.map(Into::into);
        status.message = Some(verdict.message);
        if let Outcome::Exited { exit, .. } = outcome {
            status.exit = Some(exit);
            status.sandbox = Some(sandbox);
        } else {
            status.source = Some(Source::Agent.into());
        }
        self.phase = Phase::Ended;
        let state = verdict.state;
        self.push(status);
        state
    }

    /// The framework has the oldest update; false when that is another one.
    pub(super) fn on_acknowledged(&mut self, uuid: &[u8]) -> bool {
        let is_it = self
            .pending
            .front()
            .is_some_and(|status| status.uuid.as_deref() == Some(uuid));
        if is_it {
            self.pending.pop_front();
            self.in_flight = None;
        }
        is_it
    }

    pub(super) fn on_new_session(&mut self) {
        self.in_flight = None;
    }

    /// Does what is due: the next update, SIGKILL after the grace period, the end of a task that
    /// took too long.
    pub(super) fn act_on_time(
        &mut self,
        now: Timestamp,
        online: Option<u64>,
        random: &mut Random,
        (grace, tells_killing): (Duration, bool),
        effects: &mut Vec<Effect>,
    ) {
        if let Phase::Running {
            complete_by: Some(at),
            ..
        } = self.phase
            && at <= now
        {
            let order = Kill {
                grace: self.own_grace().unwrap_or(grace),
                why: Why::MaxCompletionTime,
                tells_killing,
            };
            self.kill(now, &order, random, effects);
        }
        if let Phase::Killing { destroy_at, .. } = &mut self.phase
            && destroy_at.is_some_and(|at| at <= now)
        {
            *destroy_at = None;
            self.changed = true;
            effects.push(Effect::Destroy(self.container.clone()));
        }
        if self.is_running() {
            let container = &self.container;
            let due = self.checks.iter_mut().filter_map(|checker| {
                checker.take_due(now).then(|| Effect::Probe {
                    container: container.clone(),
                    which: checker.which,
                    probe: checker.probe.clone(),
                    timeout: checker.timeout,
                })
            });
            effects.extend(due);
        }
        let due = self
            .in_flight
            .as_ref()
            .is_none_or(|flight| flight.retry_at <= now);
        if let (Some(session), Some(status), true) = (online, self.pending.front(), due) {
            let update = allot::StatusUpdate {
                framework_id: (&self.framework).into(),
                status: status.clone(),
                latest_state: self.state.into(),
            };
            let interval = self.in_flight.as_ref().map_or(RETRY_MIN, |flight| {
                flight.interval.saturating_mul(2).min(RETRY_MAX)
            });
            self.in_flight = Some(InFlight {
                retry_at: now + interval,
                interval,
            });
            let message = Box::new(allot::AgentMessage {
                message: Some(allot::agent_message::Message::Update(update)),
            });
            effects.push(Effect::Send { session, message });
        }
    }

    /// When [`Self::act_on_time`] next has something to do.
    pub(super) fn next_deadline(&self, online: bool) -> Option<Timestamp> {
        let phase = match self.phase {
            Phase::Running { complete_by, .. } => complete_by,
            Phase::Killing { destroy_at, .. } => destroy_at,
            Phase::Starting { .. } | Phase::Hosted | Phase::Ended => None,
        };
        let retry = self
            .in_flight
            .as_ref()
            .filter(|_| online)
            .map(|flight| flight.retry_at);
        let checks = self.checks.iter().filter(|_| self.is_running());
        let checks = checks.filter_map(Checker::next_deadline);
        phase.into_iter().chain(retry).chain(checks).min()
    }

    fn status(&self, now: Timestamp, state: TaskState, random: &mut Random) -> TaskStatus {
        let pid = match self.phase {
            Phase::Running { pid, .. } | Phase::Killing { pid, .. } => u32::try_from(pid).ok(),
            Phase::Starting { .. } | Phase::Hosted | Phase::Ended => None,
        };
        let executor = self
            .executor()
            .map_or(self.info.task_id.value.as_str(), |id| id.as_str());
        let parent = match &self.host {
            Host::Group { parent, .. } => Some(Box::new(mesos::ContainerId {
                value: parent.as_str().to_owned(),
                parent: None,
            })),
            Host::Alone | Host::Executor(_) => None,
        };
        TaskStatus {
            task_id: self.info.task_id.clone(),
            state: state.into(),
            source: Some(Source::Executor.into()),
            agent_id: Some((&self.agent).into()),
            executor_id: Some(mesos::ExecutorId {
                value: executor.to_owned(),
            }),
            timestamp: Some(now.as_secs_f64()),
            healthy: self.healthy,
            check_status: self.checks.iter().find_map(Checker::last).cloned(),
            uuid: Some(bytes::Bytes::copy_from_slice(random.uuid().as_bytes())),
            container_status: Some(mesos::ContainerStatus {
                container_id: Some(mesos::ContainerId {
                    value: self.container.as_str().to_owned(),
                    parent,
                }),
                executor_pid: pid,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn push(&mut self, status: TaskStatus) {
        self.state = status.state();
        debug_assert!(
            !self
                .pending
                .back()
                .is_some_and(|last| convert::is_terminal(last.state())),
            "nothing follows a terminal update"
        );
        self.changed = true;
        if !self.forgotten {
            self.pending.push_back(status);
        }
    }
}

/// The machine's own network, which tasks share.
fn host_network(address: &str) -> Vec<mesos::NetworkInfo> {
    vec![mesos::NetworkInfo {
        ip_addresses: vec![mesos::network_info::IpAddress {
            ip_address: Some(address.to_owned()),
            ..Default::default()
        }],
        ..Default::default()
    }]
}
