//! What is wanted against what runs: new instances, kills, the progress of deployments.
//!
//! Everything is derived anew from the present state, so that a restarted process continues
//! where the last one stopped.

use std::sync::Arc;

use allotment_framework_sdk::Call;
use allotment_framework_sdk::api::TaskState;
use allotment_types::Timestamp;

use super::app::App;
use super::deployment::Kind;
use super::id::{AppId, InstanceId};
use super::instance::{Goal, Instance};
use super::rolling::{self, Census};
use super::{Core, Link, Wish};

impl Core {
    /// Brings everything that changed to rest and tells the master whether offers are wanted.
    pub(super) fn settle(&mut self, now: Timestamp) {
        loop {
            while let Some(app) = self.dirty.pop_first() {
                self.converge(now, &app);
            }
            if !self.advance_deployments() {
                break;
            }
        }
        self.settle_wish(now);
    }

    fn converge(&mut self, now: Timestamp, app: &AppId) {
        let Some(spec) = self.apps.get(app).map(|state| Arc::clone(&state.spec)) else {
            let doomed: Vec<_> = self.fleet(app).map(|i| i.id.clone()).collect();
            for id in doomed {
                self.stop_instance(now, app, &id);
            }
            return;
        };
        if self.is_restarting(app) {
            self.converge_rolling(now, &spec);
        } else {
            self.converge_steady(now, &spec);
        }
        self.refresh_waiting(&spec);
        let waits = self.fleet(app).any(|i| i.task.is_none());
        if let Some(state) = self.apps.get_mut(app) {
            if waits {
                state.funnel.begin(now);
            } else {
                state.funnel.end();
            }
        }
    }

    fn is_restarting(&self, app: &AppId) -> bool {
        self.deployments
            .values()
            .flat_map(|d| d.current())
            .any(|action| action.kind == Kind::Restart && action.app == *app)
    }

    /// As many as wanted, of whatever configuration.
    fn converge_steady(&mut self, now: Timestamp, spec: &Arc<App>) {
        let selection = spec.kill_selection;
        let mut active: Vec<&Instance> = self
            .fleet(&spec.id)
            .filter(|i| i.goal == Goal::Run && !i.is_inactive())
            .collect();
        let wanted = usize::try_from(spec.instances).unwrap_or(usize::MAX);
        if active.len() < wanted {
            let missing = wanted - active.len();
            self.want_more(spec, missing);
            return;
        }
        let surplus = active.len() - wanted;
        if surplus == 0 {
            return;
        }
        active.sort_by_cached_key(|i| i.kill_key(selection));
        let doomed: Vec<_> = active.iter().take(surplus).map(|i| i.id.clone()).collect();
        for id in doomed {
            self.stop_instance(now, &spec.id, &id);
        }
    }

    fn converge_rolling(&mut self, now: Timestamp, spec: &Arc<App>) {
        let config = spec.version_info.last_config_change_at;
        let selection = spec.kill_selection;
        let mut census = Census::default();
        let (mut unready, mut ready, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        let mut never_launched = Vec::new();
        for instance in self.fleet(&spec.id) {
            let dying = instance.goal == Goal::Stop;
            let old = instance.config() != config;
            let key = || instance.kill_key(selection);
            if dying {
                census.dying += 1;
            } else if old && instance.task.is_none() {
                never_launched.push(instance.id.clone());
            } else if old && instance.is_ready() {
                census.old_ready += 1;
                ready.push(key());
            } else if old {
                census.old_unready += 1;
                unready.push(key());
            } else if !instance.is_inactive() {
                census.new_all += 1;
                census.new_ready += u32::from(instance.is_ready());
                fresh.push(key());
            }
        }
        for id in never_launched {
            self.stop_instance(now, &spec.id, &id);
        }
        let moves = rolling::moves(&spec.upgrade_strategy, spec.instances, census);
        for (mut list, count) in [
            (unready, moves.kill_unready),
            (ready, moves.kill_ready),
            (fresh, moves.drop),
        ] {
            list.sort();
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            for (_, _, _, id) in list.into_iter().take(count) {
                self.stop_instance(now, &spec.id, &id);
            }
        }
        let launch = usize::try_from(moves.launch).unwrap_or(usize::MAX);
        self.want_more(spec, launch);
    }

    fn want_more(&mut self, spec: &Arc<App>, count: usize) {
        for _ in 0..count {
            let id = InstanceId::new(&spec.id, &self.rng.uuid());
            let instance = Instance {
                id: id.clone(),
                app: Arc::clone(spec),
                incarnation: 1,
                goal: Goal::Run,
                task: None,
            };
            let fleet = self.fleets.entry(spec.id.clone()).or_default();
            fleet.insert(id, instance);
            self.news = true;
        }
    }

    /// Instances that still wait are launched with the present definition.
    fn refresh_waiting(&mut self, spec: &Arc<App>) {
        for instance in self
            .fleets
            .get_mut(&spec.id)
            .into_iter()
            .flat_map(|fleet| fleet.values_mut())
        {
            if instance.task.is_none() && instance.app.version != spec.version {
                instance.app = Arc::clone(spec);
                self.news = true;
            }
        }
    }

    /// Ends an instance for good: at once when it has no task or one that cannot be reached
    /// (should that return it is unknown, and killed), else through a kill.
    pub(super) fn stop_instance(&mut self, now: Timestamp, app: &AppId, id: &InstanceId) {
        let Some(instance) = self.instance_mut(app, id) else {
            return;
        };
        match &instance.task {
            Some(task) if task.state != TaskState::TaskUnreachable => {
                if instance.goal == Goal::Run {
                    instance.goal = Goal::Stop;
                    self.kill_task(now, app, id);
                    self.save_instance(app, id);
                }
            }
            _ => self.remove_instance(app, id),
        }
    }

    pub(super) fn remove_instance(&mut self, app: &AppId, id: &InstanceId) {
        if let Some(fleet) = self.fleets.get_mut(app) {
            fleet.remove(id);
            if fleet.is_empty() {
                self.fleets.remove(app);
            }
        }
        self.save_instance(app, id);
        self.dirty.insert(app.clone());
        self.news = true;
    }

    /// Asks the master to end an instance's task, and again until it is over.
    pub(super) fn kill_task(&mut self, now: Timestamp, app: &AppId, id: &InstanceId) {
        let retry = self.settings.kill_retry;
        let up = self.link == Link::Up;
        let Some(instance) = self.instance_mut(app, id) else {
            return;
        };
        let Some(task) = &mut instance.task else {
            return;
        };
        let first = !task.is_dying();
        task.kill_again_at = Some(now + retry);
        let call = Call::Kill {
            task: task.id.clone(),
            agent: Some(task.agent.clone()),
            grace: None,
        };
        self.counters.killed += u64::from(first);
        if up {
            self.call(call);
        }
        self.dirty.insert(app.clone());
    }

    /// Moves deployments on whose step is done; says whether any moved.
    fn advance_deployments(&mut self) -> bool {
        let done: Vec<u64> = self
            .deployments
            .iter()
            .filter(|(_, d)| d.current().iter().all(|a| self.is_done(a.kind, &a.app)))
            .map(|(number, _)| *number)
            .collect();
        for number in &done {
            let Some(deployment) = self.deployments.get_mut(number) else {
                continue;
            };
            deployment.step += 1;
            let apps: Vec<AppId> = deployment.changes.iter().map(|c| c.app.clone()).collect();
            if deployment.step >= deployment.steps.len() {
                self.deployments.remove(number);
            }
            self.save_deployment(*number);
            for app in apps {
                self.collect_versions(&app);
                self.dirty.insert(app);
            }
        }
        !done.is_empty()
    }

    fn is_done(&self, kind: Kind, app: &AppId) -> bool {
        if kind == Kind::Start {
            return true;
        }
        if kind == Kind::Stop {
            return self.fleet(app).next().is_none();
        }
        let Some(state) = self.apps.get(app) else {
            return self.fleet(app).next().is_none();
        };
        let config = state.spec.version_info.last_config_change_at;
        let mut ready = 0;
        for instance in self.fleet(app) {
            if instance.is_inactive() {
                continue;
            }
            let right = kind != Kind::Restart || instance.config() == config;
            if !right || !instance.is_ready() {
                return false;
            }
            ready += 1;
        }
        ready == state.spec.instances
    }

    /// Whether an app has instances that were launched with an outdated configuration.
    pub(super) fn has_stale(&self, app: &AppId) -> bool {
        self.apps.get(app).is_some_and(|state| {
            let config = state.spec.version_info.last_config_change_at;
            self.fleet(app)
                .any(|i| i.goal == Goal::Run && i.task.is_some() && i.config() != config)
        })
    }

    /// Whether some instance could be launched now.
    pub(super) fn wants_offers(&self, now: Timestamp) -> bool {
        self.apps.iter().any(|(app, state)| {
            state.funnel.since.is_some()
                && state.backoff.until(now).is_none()
                && self.fleet(app).any(|i| i.task.is_none())
        })
    }

    fn settle_wish(&mut self, now: Timestamp) {
        if self.link != Link::Up {
            return;
        }
        if !self.wants_offers(now) {
            if self.wish != Wish::Suppressed {
                self.wish = Wish::Suppressed;
                self.call(Call::Suppress);
            }
        } else if self.wish != Wish::Revived || self.news {
            self.wish = Wish::Revived;
            self.call(Call::Revive);
        }
        self.news = false;
    }
}
