//! Apps as people see them: a row of the list, and everything about one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::Api;
use crate::context::Context;
use crate::output::{self, Cell, Row, Tone};

/// An app as the framework shows it; fields that are not listed here stay in `rest`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct App {
    pub(super) id: String,
    pub(super) instances: u32,
    pub(super) cpus: f64,
    pub(super) mem: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<Vec<String>>,
    pub(super) version: String,
    pub(super) health_checks: Vec<Value>,
    pub(super) tasks_staged: u32,
    pub(super) tasks_running: u32,
    pub(super) tasks_healthy: u32,
    pub(super) tasks_unhealthy: u32,
    pub(super) deployments: Vec<Value>,
    #[serde(flatten)]
    pub(super) rest: serde_json::Map<String, Value>,
}

impl App {
    pub(super) fn command(&self) -> String {
        match (&self.cmd, &self.args) {
            (Some(line), _) => line.clone(),
            (None, args) => args.clone().unwrap_or_default().join(" "),
        }
    }

    pub(super) fn state(&self) -> Cell {
        if !self.deployments.is_empty() {
            let waits = self.tasks_staged + self.tasks_running < self.instances;
            let word = if waits { "waiting" } else { "deploying" };
            return Cell::new(word, Tone::Busy);
        }
        if self.instances == 0 {
            return Cell::new("suspended", Tone::Dim);
        }
        if self.tasks_running < self.instances {
            return Cell::new("waiting", Tone::Busy);
        }
        if self.tasks_unhealthy > 0 {
            return Cell::new("unhealthy", Tone::Bad);
        }
        Cell::new("running", Tone::Good)
    }

    pub(super) fn health(&self) -> String {
        if self.health_checks.is_empty() {
            "-".to_owned()
        } else {
            format!("{}/{}", self.tasks_healthy, self.instances)
        }
    }
}

impl Row for App {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "STATE", ">RUNNING", ">HEALTHY", ">CPUS", ">MEM", "COMMAND",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.id.as_str().into(),
            self.state(),
            format!("{}/{}", self.tasks_running, self.instances).into(),
            self.health().into(),
            output::short(self.cpus).into(),
            output::mib(self.mem).into(),
            self.command().chars().take(60).collect::<String>().into(),
        ]
    }
}

pub(super) async fn show(ctx: &Context, api: &Api, id: &str) -> anyhow::Result<()> {
    let app = api.app(id).await?;
    let number = |key: &str| {
        app.rest
            .get(key)
            .map_or_else(|| "-".to_owned(), Value::to_string)
    };
    let mut fields: Vec<(&str, Cell)> = vec![
        ("id", app.id.as_str().into()),
        ("state", app.state()),
        ("version", app.version.as_str().into()),
        (
            "running",
            format!("{}/{}", app.tasks_running, app.instances).into(),
        ),
        ("healthy", app.health().into()),
        ("command", app.command().into()),
        ("cpus", output::short(app.cpus).into()),
        ("mem", output::mib(app.mem).into()),
        ("ports", number("ports").into()),
    ];
    for deployment in app.deployments.iter().filter_map(|d| d.get("id")?.as_str()) {
        fields.push(("deployment", Cell::new(deployment, Tone::Busy)));
    }
    if let Some(failure) = app.rest.get("lastTaskFailure") {
        let text = |key: &str| failure.get(key).and_then(Value::as_str).unwrap_or_default();
        let line = format!(
            "{} {} {}",
            text("timestamp"),
            text("state"),
            text("message")
        );
        fields.push(("last failure", Cell::new(line, Tone::Bad)));
    }
    let tasks = app.rest.get("tasks").and_then(Value::as_array);
    for task in tasks.into_iter().flatten() {
        let text = |key: &str| task.get(key).and_then(Value::as_str).unwrap_or_default();
        let ports: Vec<String> = task
            .get("ports")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        let line = format!(
            "{}  {}  {}:{}",
            text("id"),
            text("state"),
            text("host"),
            ports.join(",")
        );
        fields.push(("task", line.into()));
    }
    output::one(ctx.output, &app, &fields)
}
