//! Requests that change something.

use allotment_types::Timestamp;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::app::App;
use super::change::Target;
use super::id::{AppId, InstanceId, Version};
use super::instance::Goal;
use super::request::{KillHow, Request, app_id, objects};
use super::{Core, Link, parse};

impl Core {
    pub(super) fn on_request(&mut self, now: Timestamp, request: Request) -> Answer {
        if request.is_write()
            && let Link::Away { reason } = &self.link
        {
            return Answer::refuse(
                503,
                format!(
                    "no master is reachable at {} ({reason}), so nothing can be changed; try \
                     again when it is back",
                    self.settings.master
                ),
            );
        }
        let answer = match request {
            Request::CreateApp { body, force } => self.create(now, &body, force),
            Request::PutApps {
                body,
                force,
                partial,
                must_exist,
            } => self.put_all(now, &body, force, partial, must_exist),
            Request::PutApp {
                id,
                body,
                force,
                partial,
                must_exist,
            } => self.put_one(now, &id, &body, force, partial, must_exist),
            Request::DeleteApp { id, force } => self.remove(now, &id, force),
            Request::Restart { id, force } => self.restart(now, &id, force),
            Request::KillAppTasks { id, host, how } => {
                self.kill_app_tasks(now, &id, host.as_deref(), how)
            }
            Request::KillTask { id, task, how } => self.kill_one(now, &id, &task, how),
            Request::DeleteTasks { ids, how } => self.kill_listed(now, &ids, how),
            Request::CancelDeployment { id, force } => self.cancel_deployment(now, &id, force),
            Request::ResetDelay { id } => self.reset_delay(&id),
            other => Ok(self.on_read(now, other)),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    fn create(&mut self, now: Timestamp, body: &Value, force: bool) -> Result<Answer, Answer> {
        let app = parse::app(body, None, &self.settings.role)?;
        let id = app.id.clone();
        if self.apps.contains_key(&id) {
            return Err(Answer::refuse(
                409,
                format!("An app with id [{id}] already exists."),
            ));
        }
        self.check_path(&id)?;
        let begun = self.change(now, vec![(id.clone(), be(app))], force)?;
        let mut answer = Answer::json(201, self.created_view(&id, &begun.id));
        answer.deployment = Some(begun.id);
        answer.location = Some(format!("/v2/apps{id}"));
        Ok(answer)
    }

    /// Apps and groups share one tree: no app may lie below another.
    fn check_path(&self, id: &AppId) -> Result<(), Answer> {
        let clash = self
            .apps
            .keys()
            .find(|other| other.is_below(id.as_str()) || id.is_below(other.as_str()));
        match clash {
            None => Ok(()),
            Some(other) => Err(Answer::invalid(
                "/id",
                format!(
                    "groups and applications may not have the same identifier: {id} and {other} \
                     lie below one another"
                ),
            )),
        }
    }

    fn put_all(
        &mut self,
        now: Timestamp,
        body: &Value,
        force: bool,
        partial: bool,
        must_exist: bool,
    ) -> Result<Answer, Answer> {
        let mut targets: Vec<(AppId, Target)> = Vec::new();
        for map in objects(body)? {
            let text = map.get("id").and_then(Value::as_str).unwrap_or_default();
            let id = AppId::parse(text).map_err(|e| Answer::invalid("/id", e))?;
            if targets.iter().any(|(other, _)| *other == id) {
                return Err(Answer::invalid("/id", format!("{id} is given twice")));
            }
            let target = self.target(&id, map, partial, must_exist)?;
            targets.push((id, target));
        }
        Ok(self.change(now, targets, force)?.answer(200))
    }

    fn put_one(
        &mut self,
        now: Timestamp,
        id: &str,
        body: &Value,
        force: bool,
        partial: bool,
        must_exist: bool,
    ) -> Result<Answer, Answer> {
        let id = match AppId::parse(id) {
            Ok(id) => id,
            Err(_) if must_exist => return Err(Answer::no_app(id)),
            Err(sentence) => return Err(Answer::invalid("/id", sentence)),
        };
        let existed = self.apps.contains_key(&id);
        let empty = Map::new();
        let target = match body {
            Value::Object(map) => self.target(&id, map, partial, must_exist)?,
            // Refused there, with the sentence for something that is no object.
            other => {
                parse::app(other, Some(&id), &self.settings.role)?;
                self.target(&id, &empty, partial, must_exist)?
            }
        };
        let begun = self.change(now, vec![(id.clone(), target)], force)?;
        let mut answer = begun.answer(if existed { 200 } else { 201 });
        if !existed {
            answer.location = Some(format!("/v2/apps{id}"));
        }
        Ok(answer)
    }

    /// What a definition or a part of one makes of an app.
    fn target(
        &self,
        id: &AppId,
        map: &Map<String, Value>,
        partial: bool,
        must_exist: bool,
    ) -> Result<Target, Answer> {
        let present = self.apps.get(id).map(|state| &state.spec);
        if present.is_none() {
            if must_exist {
                return Err(Answer::no_app(id.as_str()));
            }
            self.check_path(id)?;
        }
        if let Some(version) = map.get("version").filter(|v| !v.is_null()) {
            let alone = map
                .iter()
                .all(|(key, value)| matches!(key.as_str(), "version" | "id") || value.is_null());
            if !alone {
                return Err(Answer::invalid(
                    "/version",
                    "The 'version' field may only be combined with the 'id' field.",
                ));
            }
            return self.rollback(id, version);
        }
        let whole = match present {
            Some(present) if partial => parse::patched(present, map),
            _ => Value::Object(map.clone()),
        };
        Ok(be(parse::app(&whole, Some(id), &self.settings.role)?))
    }

    fn rollback(&self, id: &AppId, version: &Value) -> Result<Target, Answer> {
        let text = version.as_str().unwrap_or_default();
        let Some(wanted) = Version::parse(text) else {
            return Err(Answer::invalid(
                "/version",
                format!("{version} is no ISO-8601 instant such as 2026-01-31T12:00:00.000Z"),
            ));
        };
        let found = self.history.get(id).and_then(|all| all.get(&wanted));
        match found.filter(|_| self.apps.contains_key(id)) {
            Some(app) => Ok(be(App::clone(app))),
            None if self.apps.contains_key(id) => Err(Answer::invalid(
                "/version",
                format!("App '{id}' does not exist in version {wanted}"),
            )),
            None => Err(Answer::no_app(id.as_str())),
        }
    }

    fn remove(&mut self, now: Timestamp, id: &str, force: bool) -> Result<Answer, Answer> {
        let id = self.existing(id)?;
        Ok(self
            .change(now, vec![(id, Target::Gone)], force)?
            .answer(200))
    }

    fn restart(&mut self, now: Timestamp, id: &str, force: bool) -> Result<Answer, Answer> {
        let id = self.existing(id)?;
        let Some(state) = self.apps.get(&id) else {
            return Err(Answer::no_app(id.as_str()));
        };
        let target = Target::Be {
            app: Box::new(App::clone(&state.spec)),
            restart: true,
        };
        Ok(self.change(now, vec![(id, target)], force)?.answer(200))
    }

    /// The id of an app that exists.
    pub(super) fn existing(&self, text: &str) -> Result<AppId, Answer> {
        let id = app_id(text)?;
        if self.apps.contains_key(&id) {
            Ok(id)
        } else {
            Err(Answer::no_app(id.as_str()))
        }
    }

    fn kill_app_tasks(
        &mut self,
        now: Timestamp,
        id: &str,
        host: Option<&str>,
        how: KillHow,
    ) -> Result<Answer, Answer> {
        let app = self.existing(id)?;
        let doomed: Vec<InstanceId> = self
            .fleet(&app)
            .filter(|i| i.goal == Goal::Run)
            .filter(|i| {
                let on = i.task.as_ref().map(|task| task.host.as_str());
                on.is_some() && host.is_none_or(|host| on == Some(host))
            })
            .map(|i| i.id.clone())
            .collect();
        let shown = self.task_views(&app, &doomed);
        let doomed = doomed.into_iter().map(|id| (app.clone(), id)).collect();
        match self.kill(now, doomed, how)? {
            Some(answer) => Ok(answer),
            None => Ok(Answer::ok(json!({ "tasks": shown }))),
        }
    }

    fn kill_one(
        &mut self,
        now: Timestamp,
        id: &str,
        task: &str,
        how: KillHow,
    ) -> Result<Answer, Answer> {
        let app = self.existing(id)?;
        let found = self
            .find_task(task)
            .filter(|(of, _)| *of == app)
            .ok_or_else(|| {
                let shown: String = task.chars().take(300).collect();
                Answer::refuse(404, format!("Task '{shown}' does not exist"))
            })?;
        let shown = self.task_views(&app, std::slice::from_ref(&found.1));
        match self.kill(now, vec![found], how)? {
            Some(answer) => Ok(answer),
            None => Ok(Answer::ok(json!({ "task": shown.into_iter().next() }))),
        }
    }

    fn kill_listed(
        &mut self,
        now: Timestamp,
        ids: &[String],
        how: KillHow,
    ) -> Result<Answer, Answer> {
        let mut doomed: Vec<(AppId, InstanceId)> =
            ids.iter().filter_map(|id| self.find_task(id)).collect();
        doomed.sort();
        doomed.dedup();
        let mut shown = Vec::new();
        for (app, id) in &doomed {
            shown.extend(self.task_views(app, std::slice::from_ref(id)));
        }
        match self.kill(now, doomed, how)? {
            Some(answer) => Ok(answer),
            None => Ok(Answer::ok(json!({ "tasks": shown }))),
        }
    }

    /// The instance with a live task that a task id or an instance id names.
    fn find_task(&self, text: &str) -> Option<(AppId, InstanceId)> {
        let by_task = InstanceId::of_task(text);
        let id = by_task.as_ref().map(|(_, id, _)| id.clone());
        let id = id.or_else(|| InstanceId::parse(text))?;
        let (app, instance) = self
            .fleets
            .iter()
            .find_map(|(app, fleet)| Some((app, fleet.get(&id)?)))?;
        let task = instance.task.as_ref()?;
        let right = by_task.is_none() || task.id.as_str() == text;
        right.then(|| (app.clone(), id))
    }

    /// Kills instances; with `scale` answers with the deployment.
    fn kill(
        &mut self,
        now: Timestamp,
        doomed: Vec<(AppId, InstanceId)>,
        how: KillHow,
    ) -> Result<Option<Answer>, Answer> {
        if how.scale {
            let mut targets: Vec<(AppId, Target)> = Vec::new();
            for (app, _) in &doomed {
                if targets.iter().any(|(id, _)| id == app) {
                    continue;
                }
                let Some(state) = self.apps.get(app) else {
                    continue;
                };
                let n = doomed.iter().filter(|(id, _)| id == app).count();
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                let mut spec = App::clone(&state.spec);
                spec.instances = spec.instances.saturating_sub(n);
                targets.push((app.clone(), be(spec)));
            }
            let begun = self.change(now, targets, how.force)?;
            for (app, id) in doomed {
                self.stop_instance(now, &app, &id);
            }
            return Ok(Some(begun.answer(200)));
        }
        for (app, id) in doomed {
            if how.wipe {
                self.stop_instance(now, &app, &id);
            } else {
                self.kill_task(now, &app, &id);
                self.save_instance(&app, &id);
            }
        }
        Ok(None)
    }

    fn cancel_deployment(
        &mut self,
        now: Timestamp,
        id: &str,
        force: bool,
    ) -> Result<Answer, Answer> {
        let number = self
            .deployments
            .iter()
            .find(|(_, deployment)| deployment.id == id)
            .map(|(number, _)| *number);
        let Some(number) = number else {
            let shown: String = id.chars().take(100).collect();
            return Err(Answer::refuse(
                404,
                format!("DeploymentPlan {shown} does not exist"),
            ));
        };
        if force {
            self.cancel(number);
            return Ok(Answer::empty(202));
        }
        let undoing = self.undoing(number);
        let begun = self.change(now, undoing, true)?;
        // Undoing what changed nothing starts no deployment that would replace it.
        self.cancel(number);
        Ok(begun.answer(200))
    }

    fn reset_delay(&mut self, id: &str) -> Result<Answer, Answer> {
        let known = app_id(id)
            .ok()
            .filter(|app| self.fleet(app).any(|i| i.task.is_none()));
        let state = known.as_ref().and_then(|app| self.apps.get_mut(app));
        let Some(state) = state else {
            return Err(Answer::refuse(
                404,
                format!("Application {id} not found in tasks queue."),
            ));
        };
        state.backoff.reset();
        self.news = true;
        Ok(Answer::empty(204))
    }
}

fn be(app: App) -> Target {
    Target::Be {
        app: Box::new(app),
        restart: false,
    }
}
