//! Changing apps: locks, versions, service ports, the new deployment.

use std::collections::BTreeSet;
use std::sync::Arc;

use allotment_types::Timestamp;
use serde_json::{Value, json};

use super::answer::Answer;
use super::app::App;
use super::deployment::{self, Change, Deployment};
use super::id::{AppId, Version};
use super::record::STORED_MAX;
use super::{AppState, Core};

/// What one app shall become.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// This definition; a restart of all instances even when it is the present one, if `restart`.
    Be { app: Box<App>, restart: bool },
    /// Nothing: it goes away.
    Gone,
}

/// A deployment that began, or had nothing to do.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) version: Version,
}

impl Begun {
    /// `{"version": …, "deploymentId": …}` with the header.
    pub(super) fn answer(&self, status: u16) -> Answer {
        let body = json!({ "version": self.version, "deploymentId": self.id });
        let mut answer = Answer::json(status, body);
        answer.deployment = Some(self.id.clone());
        answer
    }
}

impl Core {
    /// Makes apps become their targets: one new version, one deployment, all or nothing.
    ///
    /// # Errors
    /// 409 when an app is locked and not `force`, 403 past the number of deployments, 422 when
    /// no service port is left, 507 when the store is full.
    pub(super) fn change(
        &mut self,
        now: Timestamp,
        targets: Vec<(AppId, Target)>,
        force: bool,
    ) -> Result<Begun, Answer> {
        let mut real = Vec::new();
        for (id, target) in targets {
            let present = self.apps.get(&id).map(|state| &state.spec);
            let target = match target {
                Target::Gone if present.is_none() => continue,
                Target::Gone => Target::Gone,
                Target::Be { mut app, restart } => {
                    self.assign_ports(&mut app, &real)?;
                    let same = present.is_some_and(|present| app.same_as(present));
                    if same && !restart {
                        continue;
                    }
                    Target::Be { app, restart }
                }
            };
            real.push((id, target));
        }
        let begun = Begun {
            id: self.rng.uuid(),
            version: self.next_version(now),
        };
        if real.is_empty() {
            return Ok(begun);
        }
        let conflicts: Vec<u64> = self.deployments_on(real.iter().map(|(id, _)| id));
        if !conflicts.is_empty() && !force {
            return Err(self.locked(&conflicts));
        }
        if self.deployments.len() - conflicts.len() >= self.settings.deployments_max {
            return Err(Answer::refuse(
                403,
                format!(
                    "{} deployments are running, at most {} may; wait for one to end or cancel one",
                    self.deployments.len(),
                    self.settings.deployments_max
                ),
            ));
        }
        self.check_space(&real)?;
        for number in conflicts {
            self.cancel(number);
        }
        let changes = real
            .into_iter()
            .map(|(id, target)| self.put_target(id, target, begun.version))
            .collect();
        self.begin(&begun, changes);
        Ok(begun)
    }

    fn check_space(&self, real: &[(AppId, Target)]) -> Result<(), Answer> {
        let grows = |(_, target): &(AppId, Target)| match target {
            Target::Be { app, .. } => serde_json::to_vec(app).map_or(0, |bytes| bytes.len()),
            Target::Gone => 0,
        };
        let more: usize = real.iter().map(grows).sum();
        if more > 0 && self.stored + more > STORED_MAX {
            return Err(Answer::refuse(
                507,
                format!(
                    "the definitions kept for this framework hold {} bytes and {more} more would \
                     pass the limit of {STORED_MAX}; remove apps or make their definitions smaller",
                    self.stored
                ),
            ));
        }
        Ok(())
    }

    fn put_target(&mut self, id: AppId, target: Target, version: Version) -> Change {
        let from = self.apps.get(&id).map(|state| Arc::clone(&state.spec));
        let Target::Be { mut app, restart } = target else {
            self.apps.remove(&id);
            self.delete_app(&id);
            self.dirty.insert(id.clone());
            return Change {
                app: id,
                from,
                to: None,
            };
        };
        app.version = version;
        app.version_info.last_config_change_at = version;
        app.version_info.last_scaling_at = version;
        if let Some(present) = &from {
            let info = present.version_info;
            let renewed = restart || !app.same_config(present);
            if !renewed {
                app.version_info.last_config_change_at = info.last_config_change_at;
            }
            if app.instances == present.instances {
                app.version_info.last_scaling_at = info.last_scaling_at;
            }
        }
        self.save_app(&app);
        let app = Arc::new(*app);
        let versions = self.history.entry(id.clone()).or_default();
        versions.insert(version, Arc::clone(&app));
        match self.apps.get_mut(&id) {
            Some(state) => {
                let renewed = state.spec.version_info.last_config_change_at
                    != app.version_info.last_config_change_at;
                if renewed {
                    state.backoff.reset();
                }
                state.spec = Arc::clone(&app);
            }
            None => {
                self.apps
                    .insert(id.clone(), AppState::new(Arc::clone(&app)));
            }
        }
        Change {
            app: id,
            from,
            to: Some(app),
        }
    }

    fn begin(&mut self, begun: &Begun, changes: Vec<Change>) {
        let steps = deployment::plan(&changes, |app| self.has_stale(app));
        let number = self.next_deployment;
        self.next_deployment += 1;
        let apps: Vec<AppId> = changes.iter().map(|c| c.app.clone()).collect();
        self.deployments.insert(
            number,
            Deployment {
                id: begun.id.clone(),
                version: begun.version,
                changes,
                steps,
                step: 0,
            },
        );
        self.save_deployment(number);
        for app in apps {
            self.collect_versions(&app);
            self.dirty.insert(app);
        }
    }

    /// The deployments that lock any of these apps.
    pub(super) fn deployments_on<'a>(&self, apps: impl Iterator<Item = &'a AppId>) -> Vec<u64> {
        let apps: BTreeSet<&AppId> = apps.collect();
        self.deployments
            .iter()
            .filter(|(_, d)| d.changes.iter().any(|c| apps.contains(&c.app)))
            .map(|(number, _)| *number)
            .collect()
    }

    fn locked(&self, numbers: &[u64]) -> Answer {
        let ids: Vec<Value> = numbers
            .iter()
            .filter_map(|number| self.deployments.get(number))
            .map(|deployment| json!({ "id": deployment.id }))
            .collect();
        Answer::json(
            409,
            json!({
                "message": "App is locked by one or more deployments. Override with the option \
                            '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'.",
                "deployments": ids,
            }),
        )
    }

    /// Ends a deployment where it stands.
    pub(super) fn cancel(&mut self, number: u64) {
        let Some(deployment) = self.deployments.remove(&number) else {
            return;
        };
        self.save_deployment(number);
        for change in deployment.changes {
            self.collect_versions(&change.app);
            self.dirty.insert(change.app);
        }
    }

    /// What undoes a deployment: each app as it was before.
    pub(super) fn undoing(&self, number: u64) -> Vec<(AppId, Target)> {
        let changes = self.deployments.get(&number).map(|d| d.changes.as_slice());
        changes
            .unwrap_or_default()
            .iter()
            .map(|change| {
                let target = match &change.from {
                    None => Target::Gone,
                    Some(app) => Target::Be {
                        app: Box::new(App::clone(app)),
                        restart: false,
                    },
                };
                (change.app.clone(), target)
            })
            .collect()
    }

    /// Gives port definitions with port 0 a service port that no other app has; the port that
    /// stood at the same place before is kept. With `requirePorts` the definitions are host
    /// ports, and 0 keeps meaning any.
    fn assign_ports(&self, app: &mut App, earlier: &[(AppId, Target)]) -> Result<(), Answer> {
        if app.require_ports || app.port_definitions.iter().all(|d| d.port != 0) {
            return Ok(());
        }
        let ports_of =
            |other: &App| -> Vec<u16> { other.port_definitions.iter().map(|d| d.port).collect() };
        let mut taken: BTreeSet<u16> = ports_of(app).into_iter().collect();
        for (id, state) in &self.apps {
            if *id != app.id {
                taken.extend(ports_of(&state.spec));
            }
        }
        for (_, target) in earlier {
            if let Target::Be { app: other, .. } = target {
                taken.extend(ports_of(other));
            }
        }
        let (min, max) = self.settings.service_ports;
        let before = self.apps.get(&app.id).map(|state| ports_of(&state.spec));
        let before = before.unwrap_or_default();
        let mut free = min..=max;
        for (i, definition) in app.port_definitions.iter_mut().enumerate() {
            if definition.port != 0 {
                continue;
            }
            let kept = before.get(i).filter(|port| (min..=max).contains(port));
            let port = kept
                .copied()
                .filter(|port| !taken.contains(port))
                .or_else(|| free.find(|port| !taken.contains(port) && !before.contains(port)));
            let Some(port) = port else {
                return Err(Answer::invalid(
                    &format!("/portDefinitions({i})"),
                    format!(
                        "no service port between {min} and {max} is free; name a port or remove apps"
                    ),
                ));
            };
            taken.insert(port);
            definition.port = port;
        }
        Ok(())
    }
}
