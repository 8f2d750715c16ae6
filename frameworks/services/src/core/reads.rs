//! Requests that only look.

use std::collections::BTreeSet;

use allotment_types::Timestamp;
use serde_json::{Value, json};

use super::answer::Answer;
use super::id::Version;
use super::label::Selector;
use super::request::{Embed, Request, app_id};
use super::{Core, view};

impl Core {
    pub(super) fn on_read(&mut self, now: Timestamp, request: Request) -> Answer {
        let answer = match request {
            Request::ListApps {
                cmd,
                id,
                label,
                embed,
            } => self.list(cmd.as_deref(), id.as_deref(), label.as_deref(), embed),
            Request::GroupApps { group, embed } => Ok(self.group_apps(&group, embed)),
            Request::GetApp { id } => self.get(&id),
            Request::AppTasks { id } => self.app_tasks(&id),
            Request::Versions { id } => self.versions(&id),
            Request::GetVersion { id, version } => self.version(&id, &version),
            Request::Why { id } => self.why_or_app(now, &id),
            Request::Tasks { status } => Ok(self.tasks(&status)),
            Request::Deployments => {
                let list = self.deployments.values().map(view::deployment_view);
                Ok(Answer::ok(Value::Array(list.collect())))
            }
            Request::Queue => {
                let entries = self.apps.values().filter_map(|s| self.queue_view(now, s));
                let entries: Vec<Value> = entries.collect();
                Ok(Answer::ok(json!({ "queue": entries })))
            }
            // Writes are dispatched before.
            Request::CreateApp { .. }
            | Request::PutApps { .. }
            | Request::PutApp { .. }
            | Request::DeleteApp { .. }
            | Request::Restart { .. }
            | Request::KillAppTasks { .. }
            | Request::KillTask { .. }
            | Request::DeleteTasks { .. }
            | Request::CancelDeployment { .. }
            | Request::ResetDelay { .. } => Ok(Answer::empty(405)),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    fn list(
        &self,
        cmd: Option<&str>,
        id: Option<&str>,
        label: Option<&str>,
        embed: Embed,
    ) -> Result<Answer, Answer> {
        let selector = label
            .map(Selector::parse)
            .transpose()
            .map_err(|sentence| Answer::refuse(422, sentence))?;
        let holds = |part: Option<&str>, text: &str| {
            part.is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
        };
        let apps: Vec<Value> = self
            .apps
            .values()
            .filter(|state| {
                let spec = &state.spec;
                holds(cmd, spec.cmd.as_deref().unwrap_or_default())
                    && holds(id, spec.id.as_str())
                    && selector.as_ref().is_none_or(|s| s.matches(&spec.labels))
            })
            .map(|state| self.app_view(state, embed))
            .collect();
        Ok(Answer::ok(json!({ "apps": apps })))
    }

    fn group_apps(&self, group: &str, embed: Embed) -> Answer {
        let below = self.apps.values().filter(|s| s.spec.id.is_below(group));
        let apps: Vec<Value> = below.map(|state| self.app_view(state, embed)).collect();
        Answer::ok(json!({ "*": apps }))
    }

    fn get(&self, id: &str) -> Result<Answer, Answer> {
        let id = app_id(id)?;
        let state = self
            .apps
            .get(&id)
            .ok_or_else(|| Answer::no_app(id.as_str()))?;
        let all = Embed {
            tasks: true,
            last_failure: true,
        };
        Ok(Answer::ok(json!({ "app": self.app_view(state, all) })))
    }

    fn app_tasks(&self, id: &str) -> Result<Answer, Answer> {
        if let Some(group) = id.strip_suffix("/*") {
            let group = if group.is_empty() { "/" } else { group };
            let below = self.apps.keys().filter(|app| app.is_below(group));
            let tasks: Vec<Value> = below.flat_map(|app| self.tasks_of(app)).collect();
            return Ok(Answer::ok(json!({ "tasks": tasks })));
        }
        let id = self.existing(id)?;
        Ok(Answer::ok(json!({ "tasks": self.tasks_of(&id) })))
    }

    fn versions(&self, id: &str) -> Result<Answer, Answer> {
        let id = self.existing(id)?;
        let versions = self
            .history
            .get(&id)
            .into_iter()
            .flat_map(|all| all.keys().rev());
        let versions: Vec<&Version> = versions.collect();
        Ok(Answer::ok(json!({ "versions": versions })))
    }

    fn version(&self, id: &str, version: &str) -> Result<Answer, Answer> {
        let id = self.existing(id)?;
        let Some(wanted) = Version::parse(version) else {
            let shown: String = version.chars().take(60).collect();
            return Err(Answer::refuse(
                400,
                format!("{shown:?} is no ISO-8601 instant such as 2026-01-31T12:00:00.000Z"),
            ));
        };
        let found = self.history.get(&id).and_then(|all| all.get(&wanted));
        match found {
            Some(app) => Ok(Answer::ok(Value::Object(view::definition(app)))),
            None => Err(Answer::refuse(
                404,
                format!("App '{id}' does not exist in version {wanted}"),
            )),
        }
    }

    fn tasks(&self, status: &BTreeSet<String>) -> Answer {
        let wanted = |state: &str| {
            status.is_empty()
                || (status.contains("running") && state == "TASK_RUNNING")
                || (status.contains("staging") && matches!(state, "TASK_STAGING" | "TASK_STARTING"))
        };
        let tasks: Vec<Value> = self
            .fleets
            .keys()
            .flat_map(|app| self.tasks_of(app))
            .filter(|task| {
                wanted(
                    task.get("state")
                        .and_then(Value::as_str)
                        .unwrap_or_default(),
                )
            })
            .collect();
        Answer::ok(json!({ "tasks": tasks }))
    }

    /// An app may be called `why`; then its definition is meant.
    fn why_or_app(&mut self, now: Timestamp, id: &str) -> Result<Answer, Answer> {
        let app = format!("{id}/why");
        if self.existing(&app).is_ok() {
            return self.get(&app);
        }
        let id = self.existing(id)?;
        self.explain(now, &id)
    }
}
