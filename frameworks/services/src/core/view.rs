//! State as Marathon prints it.

use allotment_framework_sdk::api::TaskState;
use allotment_types::Timestamp;
use serde_json::{Map, Value, json};

use super::app::App;
use super::deployment::Deployment;
use super::health::CheckState;
use super::id::{AppId, InstanceId, iso};
use super::instance::{Instance, Task};
use super::request::Embed;
use super::{AppState, Core};

/// A definition, with the legacy `ports` that old clients read.
pub(super) fn definition(app: &App) -> Map<String, Value> {
    let mut map = match serde_json::to_value(app) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let ports: Vec<u16> = app.port_definitions.iter().map(|d| d.port).collect();
    map.insert("ports".to_owned(), json!(ports));
    map.insert("dependencies".to_owned(), json!([]));
    map
}

impl Core {
    /// An app as lists and single answers show it.
    pub(super) fn app_view(&self, state: &AppState, embed: Embed) -> Value {
        let app = &state.spec;
        let mut map = definition(app);
        let (mut staged, mut running, mut healthy, mut unhealthy) = (0, 0, 0, 0);
        for task in self.fleet(&app.id).filter_map(|i| i.task.as_ref()) {
            match task.state {
                TaskState::TaskStaging | TaskState::TaskStarting => staged += 1,
                TaskState::TaskRunning => {
                    running += 1;
                    if !task.health.is_empty() {
                        if task.all_alive() {
                            healthy += 1;
                        } else if task.health.iter().any(|c| c.is_known() && !c.alive) {
                            unhealthy += 1;
                        }
                    }
                }
                _ => {}
            }
        }
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("tasksStaged", json!(staged));
        set("tasksRunning", json!(running));
        set("tasksHealthy", json!(healthy));
        set("tasksUnhealthy", json!(unhealthy));
        let deployments: Vec<Value> = self
            .deployments
            .values()
            .filter(|d| d.locks(&app.id))
            .map(|d| json!({ "id": d.id }))
            .collect();
        set("deployments", json!(deployments));
        if embed.tasks {
            set("tasks", json!(self.tasks_of(&app.id)));
        }
        if embed.last_failure
            && let Some(failure) = &state.last_failure
        {
            set("lastTaskFailure", json!(failure));
        }
        Value::Object(map)
    }

    /// The answer to the creation of an app.
    pub(super) fn created_view(&self, id: &AppId, deployment: &str) -> Value {
        let Some(state) = self.apps.get(id) else {
            return Value::Null;
        };
        let mut map = definition(&state.spec);
        for key in [
            "tasksStaged",
            "tasksRunning",
            "tasksHealthy",
            "tasksUnhealthy",
        ] {
            map.insert(key.to_owned(), json!(0));
        }
        map.insert("deployments".to_owned(), json!([{ "id": deployment }]));
        Value::Object(map)
    }

    /// The launched tasks of an app.
    pub(super) fn tasks_of(&self, app: &AppId) -> Vec<Value> {
        let launched = self.fleet(app);
        launched
            .filter_map(|i| Some(task_view(i, i.task.as_ref()?)))
            .collect()
    }

    /// The tasks of some instances of an app.
    pub(super) fn task_views(&self, app: &AppId, ids: &[InstanceId]) -> Vec<Value> {
        let fleet = self.fleets.get(app);
        ids.iter()
            .filter_map(|id| fleet?.get(id))
            .filter_map(|i| Some(task_view(i, i.task.as_ref()?)))
            .collect()
    }

    /// One entry of the queue.
    pub(super) fn queue_view(&self, now: Timestamp, state: &AppState) -> Option<Value> {
        let since = state.funnel.since?;
        let count = self
            .fleet(&state.spec.id)
            .filter(|i| i.task.is_none())
            .count();
        let until = state.backoff.until(now);
        // Rounded up: what is left is never shown as nothing.
        let left = until.map_or(0, |at| at.since(now).as_millis().div_ceil(1000));
        Some(json!({
            "count": count,
            "delay": { "timeLeftSeconds": u64::try_from(left).unwrap_or(u64::MAX), "overdue": until.is_none() },
            "since": iso(since),
            "processedOffersSummary": state.funnel.summary(),
            "app": definition(&state.spec),
        }))
    }
}

/// A task as Marathon prints it.
pub(super) fn task_view(instance: &Instance, task: &Task) -> Value {
    let app = &instance.app;
    let service_ports: Vec<u16> = app.port_definitions.iter().map(|d| d.port).collect();
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("id", json!(task.id.as_str()));
    set("appId", json!(app.id));
    set("host", json!(task.host));
    set("ports", json!(task.ports));
    set("servicePorts", json!(service_ports));
    let address: Option<std::net::IpAddr> = task.address.parse().ok();
    let addresses: Vec<Value> = address
        .into_iter()
        .map(|ip| {
            let protocol = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            json!({ "ipAddress": ip.to_string(), "protocol": protocol })
        })
        .collect();
    set("ipAddresses", json!(addresses));
    set("slaveId", json!(task.agent.as_str()));
    set("state", json!(task.state.as_str_name()));
    set("stagedAt", json!(iso(task.staged_at)));
    if let Some(at) = task.started_at {
        set("startedAt", json!(iso(at)));
    }
    set("version", json!(app.version));
    set("localVolumes", json!([]));
    if !task.health.is_empty() {
        let known = task
            .health
            .iter()
            .filter(|c| c.last_success.is_some() || c.last_failure.is_some());
        let results: Vec<Value> = known.map(|check| check_view(instance, check)).collect();
        set("healthCheckResults", json!(results));
    }
    Value::Object(map)
}

fn check_view(instance: &Instance, check: &CheckState) -> Value {
    let at = |ms: Option<u64>| ms.map(|ms| iso(Timestamp::from_millis(ms)));
    json!({
        "alive": check.alive,
        "consecutiveFailures": check.consecutive_failures,
        "firstSuccess": at(check.first_success),
        "lastSuccess": at(check.last_success),
        "lastFailure": at(check.last_failure),
        "lastFailureCause": check.last_failure_cause,
        "instanceId": instance.id.as_str(),
    })
}

/// A deployment as Marathon prints it.
pub(super) fn deployment_view(deployment: &Deployment) -> Value {
    let apps: Vec<&AppId> = deployment.changes.iter().map(|c| &c.app).collect();
    let steps: Vec<Value> = deployment
        .steps
        .iter()
        .map(|step| {
            let actions: Vec<Value> = step
                .iter()
                .map(|a| json!({ "action": a.kind.name(), "app": a.app }))
                .collect();
            json!({ "actions": actions })
        })
        .collect();
    let current: Vec<Value> = deployment
        .current()
        .iter()
        .map(|a| json!({ "action": a.kind.name(), "app": a.app, "readinessCheckResults": [] }))
        .collect();
    json!({
        "id": deployment.id,
        "version": deployment.version,
        "affectedApps": apps,
        "affectedPods": [],
        "steps": steps,
        "currentActions": current,
        "currentStep": deployment.step + 1,
        "totalSteps": deployment.steps.len(),
    })
}
