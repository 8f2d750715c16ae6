//! What is durable: keys and values in the masters' store.
//!
//! | key | value |
//! |---|---|
//! | `framework` | the framework's id |
//! | `app/<path>` | the version that the app is at |
//! | `version/<path>@<ms>` | one definition |
//! | `instance/<id>` | one instance that was launched |
//! | `deployment/<n>` | one deployment under way |
//! | `failure/<path>` | the app's latest failure |

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_framework_sdk::api::TaskState;
use allotment_types::{FrameworkId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

use super::app::App;
use super::constraint::Place;
use super::deployment::{Action, Change, Deployment, Kind};
use super::health::CheckState;
use super::id::{AppId, InstanceId, Version};
use super::instance::{Goal, Instance, Task};
use super::{AppState, Core, Settings};

/// One write; several of one key merge to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which key.
    pub key: String,
    /// Its new value; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// What is kept in a namespace at most, in bytes: the store takes 64 MiB and refuses a whole
/// commit beyond, so new work is refused well before.
pub const STORED_MAX: usize = 56 * 1024 * 1024;

/// Versions kept per app, as Marathon's `zk_max_versions`.
pub const VERSIONS_MAX: usize = 50;

/// Why the stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A value that this version cannot read.
    #[error(
        "the stored value of {key:?} cannot be read: {reason}; was it written by a later version?"
    )]
    Value {
        /// Which key.
        key: String,
        /// Why.
        reason: String,
    },
}

/// How an app last failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Which app.
    pub app_id: AppId,
    /// On which host.
    pub host: String,
    /// In words.
    pub message: String,
    /// `TASK_FAILED` for example.
    pub state: String,
    /// Which task.
    pub task_id: String,
    /// When, ISO-8601.
    pub timestamp: String,
    /// The app's version then.
    pub version: Version,
    /// On which agent.
    pub slave_id: String,
}

#[derive(Serialize, Deserialize)]
struct StoredTask {
    id: String,
    agent: String,
    host: String,
    address: String,
    place: Place,
    ports: Vec<u16>,
    state: i32,
    staged_at: u64,
    started_at: Option<u64>,
    unreachable_since: Option<u64>,
    heard: bool,
    dying: bool,
    health: Vec<CheckState>,
}

#[derive(Serialize, Deserialize)]
struct StoredInstance {
    app: AppId,
    version: Version,
    incarnation: u32,
    stop: bool,
    task: Option<StoredTask>,
}

#[derive(Serialize, Deserialize)]
struct StoredChange {
    app: AppId,
    from: Option<Version>,
    to: Option<Version>,
}

#[derive(Serialize, Deserialize)]
struct StoredDeployment {
    id: String,
    version: Version,
    step: usize,
    changes: Vec<StoredChange>,
    steps: Vec<Vec<(String, AppId)>>,
}

fn version_key(app: &AppId, version: Version) -> String {
    format!("version{app}@{}", version.0)
}

impl Core {
    fn put(&mut self, key: String, value: &impl Serialize) {
        // These types hold string keys and finite numbers only, so they always serialize.
        let Ok(bytes) = serde_json::to_vec(value) else {
            return;
        };
        let len = key.len() + bytes.len();
        self.stored += len;
        self.stored -= self.sizes.insert(key.clone(), len).unwrap_or(0);
        self.out.persist.push(Record {
            key,
            value: Some(bytes),
        });
    }

    fn delete(&mut self, key: String) {
        if let Some(len) = self.sizes.remove(&key) {
            self.stored -= len;
            self.out.persist.push(Record { key, value: None });
        }
    }

    pub(super) fn save_framework(&mut self) {
        let key = "framework".to_owned();
        match self.framework.clone() {
            Some(framework) => self.put(key, &framework.as_str()),
            None => self.delete(key),
        }
    }

    /// Writes a definition and makes it the app's present one.
    pub(super) fn save_app(&mut self, app: &App) {
        self.put(version_key(&app.id, app.version), app);
        self.put(format!("app{}", app.id), &app.version);
    }

    pub(super) fn delete_app(&mut self, app: &AppId) {
        self.delete(format!("app{app}"));
        self.delete(format!("failure{app}"));
    }

    pub(super) fn save_failure(&mut self, failure: &Failure) {
        self.put(format!("failure{}", failure.app_id), failure);
    }

    pub(super) fn save_instance(&mut self, app: &AppId, id: &InstanceId) {
        let Some(instance) = self.fleets.get(app).and_then(|fleet| fleet.get(id)) else {
            self.delete(format!("instance/{id}"));
            return;
        };
        let stored = StoredInstance {
            app: app.clone(),
            version: instance.app.version,
            incarnation: instance.incarnation,
            stop: instance.goal == Goal::Stop,
            task: instance.task.as_ref().map(|task| StoredTask {
                id: task.id.as_str().to_owned(),
                agent: task.agent.as_str().to_owned(),
                host: task.host.clone(),
                address: task.address.clone(),
                place: task.place.clone(),
                ports: task.ports.clone(),
                state: task.state.into(),
                staged_at: task.staged_at.as_nanos(),
                started_at: task.started_at.map(Timestamp::as_nanos),
                unreachable_since: task.unreachable_since.map(Timestamp::as_nanos),
                heard: task.heard,
                dying: task.is_dying(),
                health: task.health.clone(),
            }),
        };
        self.put(format!("instance/{id}"), &stored);
    }

    pub(super) fn save_deployment(&mut self, number: u64) {
        let key = format!("deployment/{number}");
        let Some(deployment) = self.deployments.get(&number) else {
            self.delete(key);
            return;
        };
        let version = |app: &Option<Arc<App>>| app.as_ref().map(|app| app.version);
        let stored = StoredDeployment {
            id: deployment.id.clone(),
            version: deployment.version,
            step: deployment.step,
            changes: deployment
                .changes
                .iter()
                .map(|c| StoredChange {
                    app: c.app.clone(),
                    from: version(&c.from),
                    to: version(&c.to),
                })
                .collect(),
            steps: deployment
                .steps
                .iter()
                .map(|step| {
                    let action = |a: &Action| (a.kind.name().to_owned(), a.app.clone());
                    step.iter().map(action).collect()
                })
                .collect(),
        };
        self.put(key, &stored);
    }

    /// Forgets definitions of `app` that nothing needs: neither the newest, nor an instance, nor
    /// a deployment that may be rolled back.
    pub(super) fn collect_versions(&mut self, app: &AppId) {
        let mut needed: Vec<Version> = self.fleet(app).map(|i| i.app.version).collect();
        for change in self.deployments.values().flat_map(|d| &d.changes) {
            if change.app == *app {
                needed.extend(
                    [&change.from, &change.to]
                        .into_iter()
                        .flatten()
                        .map(|a| a.version),
                );
            }
        }
        let exists = self.apps.contains_key(app);
        let Some(versions) = self.history.get_mut(app) else {
            return;
        };
        let newest: Vec<Version> = versions.keys().rev().take(VERSIONS_MAX).copied().collect();
        let doomed: Vec<Version> = versions
            .keys()
            .filter(|v| !(needed.contains(v) || (exists && newest.contains(v))))
            .copied()
            .collect();
        for version in &doomed {
            versions.remove(version);
        }
        if versions.is_empty() {
            self.history.remove(app);
        }
        for version in doomed {
            self.delete(version_key(app, version));
        }
    }

    /// A core with the state of an earlier process.
    ///
    /// # Errors
    /// [`LoadError`] naming the first value that cannot be read.
    pub fn load(
        settings: Settings,
        seed: u64,
        entries: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, LoadError> {
        let mut core = Self::new(settings, seed);
        let entries: BTreeMap<String, Vec<u8>> = entries.into_iter().collect();
        for (key, value) in &entries {
            core.sizes.insert(key.clone(), key.len() + value.len());
            core.stored += key.len() + value.len();
        }
        core.load_versions(&entries)?;
        for (key, value) in &entries {
            if key == "framework" {
                let id: String = read(key, value)?;
                core.framework = Some(FrameworkId::parse(&id).map_err(|e| bad(key, &e))?);
            } else if let Some(path) = key.strip_prefix("app/") {
                let id = AppId::parse(path).map_err(|e| bad(key, &e))?;
                let version: Version = read(key, value)?;
                let spec = core.definition(key, &id, version)?;
                core.apps.insert(id, AppState::new(spec));
            }
        }
        for (key, value) in &entries {
            if let Some(id) = key.strip_prefix("instance/") {
                core.load_instance(key, id, value)?;
            } else if let Some(number) = key.strip_prefix("deployment/") {
                core.load_deployment(key, number, value)?;
            } else if key.starts_with("failure/") {
                let failure: Failure = read(key, value)?;
                if let Some(state) = core.apps.get_mut(&failure.app_id) {
                    state.last_failure = Some(failure);
                }
            }
        }
        core.dirty = core
            .apps
            .keys()
            .chain(core.fleets.keys())
            .cloned()
            .collect();
        Ok(core)
    }

    fn load_versions(&mut self, entries: &BTreeMap<String, Vec<u8>>) -> Result<(), LoadError> {
        for (key, value) in entries {
            if key.starts_with("version/") {
                let app: App = read(key, value)?;
                self.last_version = self.last_version.max(app.version);
                let versions = self.history.entry(app.id.clone()).or_default();
                versions.insert(app.version, Arc::new(app));
            }
        }
        Ok(())
    }

    fn definition(&self, key: &str, app: &AppId, at: Version) -> Result<Arc<App>, LoadError> {
        let found = self.history.get(app).and_then(|versions| versions.get(&at));
        found
            .cloned()
            .ok_or_else(|| bad(key, &format!("version {at} of {app} is missing")))
    }

    fn load_instance(&mut self, key: &str, id: &str, value: &[u8]) -> Result<(), LoadError> {
        let stored: StoredInstance = read(key, value)?;
        let id = InstanceId::parse(id).ok_or_else(|| bad(key, &"this is no instance id"))?;
        let app = self.definition(key, &stored.app, stored.version)?;
        let task = match stored.task {
            None => None,
            Some(task) => Some(load_task(key, task)?),
        };
        let instance = Instance {
            id: id.clone(),
            app,
            incarnation: stored.incarnation,
            goal: if stored.stop { Goal::Stop } else { Goal::Run },
            task,
        };
        self.fleets
            .entry(stored.app)
            .or_default()
            .insert(id, instance);
        Ok(())
    }

    fn load_deployment(&mut self, key: &str, n: &str, value: &[u8]) -> Result<(), LoadError> {
        let number: u64 = n.parse().map_err(|e| bad(key, &e))?;
        let stored: StoredDeployment = read(key, value)?;
        let mut changes = Vec::new();
        for change in stored.changes {
            let find = |version: Option<Version>| {
                version
                    .map(|v| self.definition(key, &change.app, v))
                    .transpose()
            };
            changes.push(Change {
                from: find(change.from)?,
                to: find(change.to)?,
                app: change.app,
            });
        }
        let mut steps = Vec::new();
        for step in stored.steps {
            let mut actions = Vec::new();
            for (name, app) in step {
                let kind = Kind::parse(&name)
                    .ok_or_else(|| bad(key, &format!("the action {name:?} is unknown")))?;
                actions.push(Action { kind, app });
            }
            steps.push(actions);
        }
        self.last_version = self.last_version.max(stored.version);
        self.next_deployment = self.next_deployment.max(number + 1);
        self.deployments.insert(
            number,
            Deployment {
                id: stored.id,
                version: stored.version,
                changes,
                steps,
                step: stored.step,
            },
        );
        Ok(())
    }
}

fn load_task(key: &str, task: StoredTask) -> Result<Task, LoadError> {
    Ok(Task {
        id: TaskId::parse(&task.id).map_err(|e| bad(key, &e))?,
        agent: task.agent.parse().map_err(|e| bad(key, &e))?,
        host: task.host,
        address: task.address,
        place: task.place,
        ports: task.ports,
        state: TaskState::try_from(task.state).map_err(|e| bad(key, &e))?,
        staged_at: Timestamp::from_nanos(task.staged_at),
        started_at: task.started_at.map(Timestamp::from_nanos),
        heard: task.heard,
        unconfirmed: false,
        ask_at: None,
        // Zero: repeat the kill as soon as the master is reached.
        kill_again_at: task.dying.then_some(Timestamp::ZERO),
        unreachable_since: task.unreachable_since.map(Timestamp::from_nanos),
        inactive: false,
        health: task
            .health
            .into_iter()
            .map(|mut check| {
                check.due = Some(Timestamp::ZERO);
                check
            })
            .collect(),
    })
}

fn read<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(value).map_err(|e| bad(key, &e))
}

fn bad(key: &str, reason: &dyn std::fmt::Display) -> LoadError {
    LoadError::Value {
        key: key.to_owned(),
        reason: reason.to_string(),
    }
}
