//! What the master and the probes report, and what deadlines bring.

use std::time::Duration;

use allotment_framework_sdk::api::{Call, Event, TaskState, Update};
use allotment_types::{FrameworkId, TaskId, Timestamp};

use super::health::{Outcome, Verdict};
use super::id::{AppId, InstanceId, iso};
use super::instance::{Goal, Instance};
use super::record::Failure;
use super::{Core, Effect, Link, Probe, Wish};

/// The first and the longest pause between two questions about tasks that the master was silent
/// about.
const CONFIRM_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Core {
    pub(super) fn on_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Subscribed { framework } => self.on_subscribed(now, framework),
            Event::Disconnected { reason } | Event::Error(reason) => {
                self.link = Link::Away { reason };
                self.wish = Wish::Unknown;
            }
            Event::Offers(offers) => self.on_offers(now, offers),
            // Offers are answered in the turn in which they come, so none is held. Instances stay
            // until their agent goes and are replaced then, so a request to leave is not answered.
            Event::Rescinded(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Executor { .. } => {}
            Event::Update(update) => self.on_update(now, &update),
            Event::AgentLost(agent) => self.forget_agent(&agent),
            Event::Rejected { call, .. } => {
                if call == "ACCEPT" {
                    self.ask_about(now, |instance| {
                        instance.task.as_ref().is_some_and(|task| !task.heard)
                    });
                }
            }
        }
    }

    fn on_subscribed(&mut self, now: Timestamp, framework: FrameworkId) {
        self.link = Link::Up;
        self.wish = Wish::Unknown;
        if self.framework.as_ref() != Some(&framework) {
            self.framework = Some(framework);
            self.save_framework();
        }
        self.reconcile(now);
        self.confirm = None;
        let fleets = self.fleets.values_mut();
        for instance in fleets.flat_map(|fleet| fleet.values_mut()) {
            if let Some(task) = &mut instance.task {
                task.unconfirmed = true;
                self.confirm = Some((now + CONFIRM_PAUSES.0, CONFIRM_PAUSES.0));
            }
        }
        let dying =
            self.tasks_where(|i| i.task.as_ref().is_some_and(super::instance::Task::is_dying));
        for (app, id) in dying {
            self.kill_task(now, &app, &id);
        }
    }

    pub(super) fn on_removed(&mut self) {
        self.framework = None;
        self.save_framework();
        let launched = self.tasks_where(|instance| instance.task.is_some());
        for (app, id) in launched {
            let Some(instance) = self.instance_mut(&app, &id) else {
                continue;
            };
            instance.task = None;
            instance.incarnation = instance.incarnation.saturating_add(1);
            if instance.goal == Goal::Stop {
                self.remove_instance(&app, &id);
            } else {
                self.save_instance(&app, &id);
            }
            self.dirty.insert(app);
        }
    }

    /// Asks about every task, and for every task that the master knows.
    fn reconcile(&mut self, now: Timestamp) {
        self.reconcile_at = Some(now + self.settings.reconcile_interval);
        self.ask_about(now, |instance| instance.task.is_some());
        self.call(Call::Reconcile(Vec::new()));
    }

    /// Asks again about tasks that the master was silent about when the subscription began: it is
    /// while it waits for their agents to come back after its own restart, and it does not speak
    /// up by itself about tasks that it never knew.
    fn confirm(&mut self, now: Timestamp, pause: Duration) {
        let fleets = self.fleets.values().flat_map(|fleet| fleet.values());
        let tasks = fleets.filter_map(|instance| instance.task.as_ref());
        let unconfirmed = tasks.filter(|task| task.unconfirmed);
        let asked: Vec<_> = unconfirmed
            .map(|task| (task.id.clone(), Some(task.agent.clone())))
            .collect();
        self.confirm = None;
        if !asked.is_empty() {
            let pause = (pause * 2).min(CONFIRM_PAUSES.1);
            self.confirm = Some((now + pause, pause));
            self.call(Call::Reconcile(asked));
        }
    }

    fn ask_about(&mut self, now: Timestamp, which: impl Fn(&Instance) -> bool) {
        let pause = self.settings.launch_timeout / 10;
        let mut asked = Vec::new();
        for instance in self
            .fleets
            .values_mut()
            .flat_map(|fleet| fleet.values_mut())
        {
            if !which(instance) {
                continue;
            }
            if let Some(task) = &mut instance.task {
                if !task.heard {
                    task.ask_at = Some(now + pause);
                }
                asked.push((task.id.clone(), Some(task.agent.clone())));
            }
        }
        if !asked.is_empty() {
            self.call(Call::Reconcile(asked));
        }
    }

    fn tasks_where(&self, which: impl Fn(&Instance) -> bool) -> Vec<(AppId, InstanceId)> {
        let all = self.fleets.iter();
        all.flat_map(|(app, fleet)| fleet.values().map(move |i| (app, i)))
            .filter(|(_, instance)| which(instance))
            .map(|(app, instance)| (app.clone(), instance.id.clone()))
            .collect()
    }

    fn on_update(&mut self, now: Timestamp, update: &Update) {
        self.take_update(now, update);
        if let Some(call) = update.acknowledgement() {
            self.call(call);
        }
    }

    fn take_update(&mut self, now: Timestamp, update: &Update) {
        let known = InstanceId::of_task(update.task.as_str()).filter(|(app, id, _)| {
            let instance = self.fleets.get(app).and_then(|fleet| fleet.get(id));
            let task = instance.and_then(|i| i.task.as_ref());
            task.is_some_and(|task| task.id == update.task)
        });
        let Some((app, id, _)) = known else {
            self.kill_stranger(update);
            return;
        };
        use TaskState as S;
        match update.state {
            S::TaskStaging | S::TaskStarting | S::TaskRunning | S::TaskKilling => {
                self.on_alive(now, &app, &id, update.state);
                self.on_health_found(now, &app, &id, update);
            }
            S::TaskUnreachable => self.on_unreachable(now, &app, &id),
            // The master never heard of it: nothing runs when nothing was ever heard of it,
            // else it may run on an agent that the master does not know yet.
            S::TaskUnknown => {
                let heard = self.instance_mut(&app, &id).and_then(|i| i.task.as_ref());
                if heard.is_some_and(|task| task.heard) {
                    self.on_unreachable(now, &app, &id);
                } else {
                    self.on_ended(now, &app, &id, update);
                }
            }
            S::TaskFinished
            | S::TaskFailed
            | S::TaskKilled
            | S::TaskError
            | S::TaskLost
            | S::TaskDropped
            | S::TaskGone
            | S::TaskGoneByOperator => self.on_ended(now, &app, &id, update),
        }
    }

    /// A task of ours that is not wanted: forgotten while unreachable, or replaced.
    fn kill_stranger(&mut self, update: &Update) {
        use TaskState as S;
        let runs = matches!(
            update.state,
            S::TaskStaging | S::TaskStarting | S::TaskRunning
        );
        if runs && self.link == Link::Up {
            self.call(Call::Kill {
                task: update.task.clone(),
                agent: update.agent.clone(),
                grace: None,
            });
        }
    }

    fn on_alive(&mut self, now: Timestamp, app: &AppId, id: &InstanceId, state: TaskState) {
        let Some(instance) = self.instance_mut(app, id) else {
            return;
        };
        let spec = std::sync::Arc::clone(&instance.app);
        let Some(task) = instance.task.as_mut() else {
            return;
        };
        let was = (task.state, task.heard, task.unreachable_since);
        task.heard = true;
        task.unconfirmed = false;
        task.ask_at = None;
        task.unreachable_since = None;
        task.inactive = false;
        // A late STAGING after RUNNING comes from reconciliation and tells nothing new.
        let back = was.0 == TaskState::TaskRunning && state != TaskState::TaskKilling;
        if !back {
            task.state = state;
        }
        if task.state == TaskState::TaskRunning && (!back || task.started_at.is_none()) {
            task.started_at.get_or_insert(now);
            for (check, asked) in task.health.iter_mut().zip(&spec.health_checks) {
                if !asked.protocol.is_asked_by_agent() {
                    check.begin(now);
                }
            }
        }
        if was != (task.state, true, None) {
            self.save_instance(app, id);
            self.dirty.insert(app.clone());
        }
    }

    /// The agent performs a health check in our stead and said what it found last.
    fn on_health_found(&mut self, now: Timestamp, app: &AppId, id: &InstanceId, update: &Update) {
        let (Some(healthy), Some(instance)) = (update.healthy, self.instance_mut(app, id)) else {
            return;
        };
        let checks = instance.app.health_checks.iter();
        let ours = checks.take_while(|check| !check.protocol.is_asked_by_agent());
        let at = ours.count();
        let task = instance.task.as_mut();
        let Some(check) = task.and_then(|task| task.health.get_mut(at)) else {
            return;
        };
        let cause = update.message.as_deref().unwrap_or("the agent found it so");
        let found = if healthy { Ok(()) } else { Err(cause) };
        if check.on_found(now, found, update.uuid.is_some()) != Verdict::Same {
            self.save_instance(app, id);
            self.dirty.insert(app.clone());
        }
    }

    fn on_unreachable(&mut self, now: Timestamp, app: &AppId, id: &InstanceId) {
        let Some(instance) = self.instance_mut(app, id) else {
            return;
        };
        if instance.goal == Goal::Stop {
            self.remove_instance(app, id);
            return;
        }
        if let Some(task) = &mut instance.task {
            task.state = TaskState::TaskUnreachable;
            task.heard = true;
            task.unconfirmed = false;
            task.ask_at = None;
            task.kill_again_at = None;
            task.unreachable_since.get_or_insert(now);
        }
        self.save_instance(app, id);
        self.dirty.insert(app.clone());
        self.expunge(now, app, id);
    }

    fn expunge(&mut self, now: Timestamp, app: &AppId, id: &InstanceId) {
        let due = self.instance_mut(app, id).and_then(|i| i.expunge_at());
        if due.is_some_and(|at| at <= now) {
            self.remove_instance(app, id);
        }
    }

    fn on_ended(&mut self, now: Timestamp, app: &AppId, id: &InstanceId, update: &Update) {
        use TaskState as S;
        let Some(instance) = self.instance_mut(app, id) else {
            return;
        };
        let Some(task) = instance.task.take() else {
            return;
        };
        let (goal, spec) = (instance.goal, std::sync::Arc::clone(&instance.app));
        let failed = matches!(
            update.state,
            S::TaskFailed | S::TaskFinished | S::TaskError | S::TaskDropped
        ) && goal == Goal::Run
            && !task.is_dying();
        instance.incarnation = instance.incarnation.saturating_add(1);
        if goal == Goal::Stop {
            self.remove_instance(app, id);
        } else {
            self.save_instance(app, id);
            self.dirty.insert(app.clone());
            self.news = true;
        }
        self.counters.ended += u64::from(failed);
        let Some(state) = self.apps.get_mut(app) else {
            return;
        };
        // An offer that was withdrawn in the meantime says nothing about the app.
        let by_offer = update.reason == Some(allotment_framework_sdk::api::Reason::InvalidOffers);
        let config = state.spec.version_info.last_config_change_at;
        if failed && !by_offer && spec.version_info.last_config_change_at == config {
            let present = std::sync::Arc::clone(&state.spec);
            state.backoff.on_failure(now, &present);
        }
        let tell = goal == Goal::Run
            && matches!(
                update.state,
                S::TaskFailed
                    | S::TaskError
                    | S::TaskLost
                    | S::TaskDropped
                    | S::TaskGone
                    | S::TaskGoneByOperator
            );
        if tell {
            let failure = Failure {
                app_id: app.clone(),
                host: task.host,
                message: update.message.clone().unwrap_or_default(),
                state: update.state.as_str_name().to_owned(),
                task_id: update.task.as_str().to_owned(),
                timestamp: iso(now),
                version: spec.version,
                slave_id: task.agent.as_str().to_owned(),
            };
            self.save_failure(&failure);
            if let Some(state) = self.apps.get_mut(app) {
                state.last_failure = Some(failure);
            }
        }
    }

    pub(super) fn on_probed(
        &mut self,
        now: Timestamp,
        task_id: &TaskId,
        check: usize,
        outcome: &Outcome,
    ) {
        let Some((app, id, _)) = InstanceId::of_task(task_id.as_str()) else {
            return;
        };
        let Some(instance) = self.instance_mut(&app, &id) else {
            return;
        };
        let spec = std::sync::Arc::clone(&instance.app);
        let Some(task) = instance.task.as_mut().filter(|task| task.id == *task_id) else {
            return;
        };
        let started = task.started_at.unwrap_or(task.staged_at);
        let (Some(state), Some(definition)) =
            (task.health.get_mut(check), spec.health_checks.get(check))
        else {
            return;
        };
        if task.state != TaskState::TaskRunning {
            return;
        }
        let verdict = state.on_outcome(definition, started, now, outcome);
        let kill = verdict == Verdict::Kill && !task.is_dying();
        if verdict != Verdict::Same {
            self.save_instance(&app, &id);
            self.dirty.insert(app.clone());
        }
        if kill {
            self.kill_task(now, &app, &id);
        }
    }

    pub(super) fn on_tick(&mut self, now: Timestamp) {
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let up = self.link == Link::Up;
        if up && due(self.reconcile_at) {
            self.reconcile(now);
        }
        if let Some((at, pause)) = self.confirm
            && up
            && at <= now
        {
            self.confirm(now, pause);
        }
        let mut probes = Vec::new();
        let (mut kills, mut silent, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (app, fleet) in &mut self.fleets {
            for instance in fleet.values_mut() {
                let at = (app.clone(), instance.id.clone());
                if due(instance.expunge_at()) {
                    gone.push(at.clone());
                } else if due(instance.inactive_at()) {
                    if let Some(task) = &mut instance.task {
                        task.inactive = true;
                    }
                    self.dirty.insert(app.clone());
                }
                let spec = &instance.app;
                let Some(task) = &mut instance.task else {
                    continue;
                };
                if due(task.kill_again_at) {
                    kills.push(at.clone());
                }
                if due(task.ask_at) && up {
                    if now >= task.staged_at + self.settings.launch_timeout {
                        task.ask_at = None;
                        kills.push(at.clone());
                    } else {
                        silent.push(at.clone());
                    }
                }
                if task.state != TaskState::TaskRunning {
                    continue;
                }
                for (i, state) in task.health.iter_mut().enumerate() {
                    let check = spec.health_checks.get(i).filter(|_| due(state.due));
                    let Some(check) = check else {
                        continue;
                    };
                    let index = check.port_index.unwrap_or(0);
                    let Some(port) = check.port.or_else(|| task.ports.get(index).copied()) else {
                        state.due = None;
                        continue;
                    };
                    state.due = None;
                    probes.push(Probe {
                        task: task.id.clone(),
                        check: i,
                        address: task.address.clone(),
                        port,
                        path: check.path.clone(),
                        timeout: std::time::Duration::from_secs(check.timeout_seconds),
                    });
                }
            }
        }
        self.out.then.extend(probes.into_iter().map(Effect::Probe));
        for (app, id) in kills {
            self.kill_task(now, &app, &id);
        }
        if !silent.is_empty() {
            self.ask_about(now, |instance| {
                let of = instance.task.as_ref();
                of.is_some_and(|task| !task.heard && due(task.ask_at))
            });
        }
        for (app, id) in gone {
            self.remove_instance(&app, &id);
        }
        // A launch delay that is over needs offers again, behind whatever filters were set.
        self.news |= self.delays_ended(now);
    }

    /// Whether a launch delay ended since the last time this was asked.
    fn delays_ended(&mut self, now: Timestamp) -> bool {
        let mut ended = false;
        for state in self.apps.values_mut() {
            ended |= state.backoff.take_end(now);
        }
        ended
    }

    /// When [`super::Input::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let up = self.link == Link::Up;
        let mut next = self.reconcile_at.filter(|_| up);
        let mut at = |deadline: Option<Timestamp>| {
            next = [next, deadline].into_iter().flatten().min();
        };
        at(self.confirm.map(|(at, _)| at).filter(|_| up));
        for state in self.apps.values() {
            if state.funnel.since.is_some() {
                at(state.backoff.pending_end());
            }
        }
        for instance in self.fleets.values().flat_map(|fleet| fleet.values()) {
            let Some(task) = &instance.task else {
                continue;
            };
            if up {
                at(task.kill_again_at);
                at(task.ask_at);
            }
            if task.unreachable_since.is_some() {
                at(instance.expunge_at());
                at(instance.inactive_at());
            }
            if task.state == TaskState::TaskRunning {
                for check in &task.health {
                    at(check.due);
                }
            }
        }
        next
    }
}
