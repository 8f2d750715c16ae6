//! `allot app`: long-running apps, over the services framework's REST API.
//!
//! Definitions are Marathon's JSON and pass through unread: what is wrong with one is told by the
//! framework. Logs come from the agents.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use allotment_framework_sdk::sandbox::{self, Window};
use allotment_types::{FrameworkId, TaskId};
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::Context;
use crate::exit::Failure;
use crate::http::{self, Reply};
use crate::output::{self, Cell, Format, Row, Tone, Watch};
use crate::rpc::Peer;
use crate::task;

/// Arguments of `allot app`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// How a change is made.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Change {
    /// Replace deployments that are changing the app already
    #[arg(long)]
    force: bool,
    /// Return only when every instance runs as it should
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add an app from Marathon JSON (an array of apps adds or changes all of them)
    Add {
        /// The file; `-` reads stdin
        file: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the apps
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one app and its tasks
    Show {
        /// Its id
        app: String,
    },
    /// Change the number of instances
    Scale {
        /// Its id
        app: String,
        /// How many are wanted; 0 suspends it
        instances: u32,
        #[command(flatten)]
        change: Change,
    },
    /// Replace every instance by a new one of the same definition
    Restart {
        /// Its id
        app: String,
        #[command(flatten)]
        change: Change,
    },
    /// Change the fields that a JSON file gives and keep the others
    Update {
        /// Its id
        app: String,
        /// The file; `-` reads stdin
        file: String,
        #[command(flatten)]
        change: Change,
    },
    /// Remove an app and kill its tasks
    #[command(visible_alias = "remove")]
    Rm {
        /// Its id
        app: String,
        /// Return only when its last task has ended
        #[arg(long)]
        wait: bool,
    },
    /// List the versions of an app, newest first
    Versions {
        /// Its id
        app: String,
    },
    /// Go back to an earlier version
    Rollback {
        /// Its id
        app: String,
        /// Which, from `allot app versions` [default: the one before the present one]
        version: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Print what the instances wrote
    Logs {
        /// Its id
        app: String,
        /// Go on until the instances end
        #[arg(long, short)]
        follow: bool,
        /// What they wrote on stderr instead of stdout
        #[arg(long)]
        stderr: bool,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let api = Api {
        url: ctx.services_url().await,
    };
    match args.command {
        Command::Add { file, change } => add(ctx, &api, &file, change).await?,
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || api.apps().await).await?;
        }
        Command::Show { app } => show(ctx, &api, &app).await?,
        Command::Scale {
            app,
            instances,
            change,
        } => {
            let body = json!({ "instances": instances });
            let target = app_path(&app, "", change.force)?;
            let reply = api.ask(Method::PATCH, &target, Some(body)).await?;
            let what = format!("app {} is scaled to {instances}", path(&app));
            done(ctx, &api, &what, &reply, change.wait).await?;
        }
        Command::Restart { app, change } => {
            let target = app_path(&app, "/restart", change.force)?;
            let reply = api.ask(Method::POST, &target, None).await?;
            let what = format!("app {} is restarted", path(&app));
            done(ctx, &api, &what, &reply, change.wait).await?;
        }
        Command::Update { app, file, change } => {
            let body = read(&file)?;
            let target = app_path(&app, "", change.force)?;
            let reply = api.ask(Method::PATCH, &target, Some(body)).await?;
            let what = format!("app {} is updated", path(&app));
            done(ctx, &api, &what, &reply, change.wait).await?;
        }
        Command::Rm { app, wait } => {
            let target = app_path(&app, "", true)?;
            let reply = api.ask(Method::DELETE, &target, None).await?;
            let what = format!("app {} is removed", path(&app));
            done(ctx, &api, &what, &reply, wait).await?;
        }
        Command::Versions { app } => versions(ctx, &api, &app).await?,
        Command::Rollback {
            app,
            version,
            change,
        } => rollback(ctx, &api, &app, version, change).await?,
        Command::Logs {
            app,
            follow,
            stderr,
        } => {
            let file = if stderr { "stderr" } else { "stdout" };
            return logs(ctx, &api, &app, file, follow).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The services framework's REST API.
struct Api {
    url: String,
}

/// How often a deployment is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Api {
    async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Reply> {
        let url = format!("{}{target}", self.url);
        let body = body.map(|body| Bytes::from(body.to_string()));
        http::request(Peer::Services, method, &url, body)
            .await?
            .ok()
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, target: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, target, None).await?.json()
    }

    async fn apps(&self) -> anyhow::Result<Vec<App>> {
        #[derive(Deserialize)]
        struct Apps {
            apps: Vec<App>,
        }
        Ok(self.get::<Apps>("/v2/apps").await?.apps)
    }

    async fn app(&self, app: &str) -> anyhow::Result<App> {
        #[derive(Deserialize)]
        struct One {
            app: App,
        }
        Ok(self.get::<One>(&app_path(app, "", false)?).await?.app)
    }

    /// Returns when this deployment is over.
    async fn wait(&self, deployment: &str) -> anyhow::Result<()> {
        loop {
            let running: Vec<Value> = self.get("/v2/deployments").await?;
            let id = |d: &Value| d.get("id").and_then(Value::as_str) == Some(deployment);
            if !running.iter().any(id) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// An app as the framework shows it; fields that are not listed here stay in `rest`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct App {
    id: String,
    instances: u32,
    cpus: f64,
    mem: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    version: String,
    health_checks: Vec<Value>,
    tasks_staged: u32,
    tasks_running: u32,
    tasks_healthy: u32,
    tasks_unhealthy: u32,
    deployments: Vec<Value>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl App {
    fn command(&self) -> String {
        match (&self.cmd, &self.args) {
            (Some(line), _) => line.clone(),
            (None, args) => args.clone().unwrap_or_default().join(" "),
        }
    }

    fn state(&self) -> Cell {
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

    fn health(&self) -> String {
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

/// The path of an app with its leading slash.
fn path(app: &str) -> String {
    format!("/{}", app.trim_matches('/'))
}

/// The target of a request about an app.
fn app_path(app: &str, suffix: &str, force: bool) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    let trimmed = app.trim_matches('/');
    if trimmed.is_empty() || !trimmed.chars().all(plain) {
        return Err(Failure::Usage(format!(
            "{app:?} is no app id; it is a path of lower-case words such as /web or /shop/web"
        ))
        .into());
    }
    let query = if force { "?force=true" } else { "" };
    Ok(format!("/v2/apps/{trimmed}{suffix}{query}"))
}

/// A definition from a file or from stdin.
fn read(file: &str) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file == "-" {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the definition from stdin")?;
    } else {
        text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("cannot read {file:?}: {error}")))?;
    }
    serde_json::from_str(&text).map_err(|error| {
        let from = if file == "-" { "stdin" } else { file };
        Failure::Usage(format!("{from} holds no JSON: {error}")).into()
    })
}

async fn add(ctx: &Context, api: &Api, file: &str, change: Change) -> anyhow::Result<()> {
    let body = read(file)?;
    let query = if change.force { "?force=true" } else { "" };
    let target = format!("/v2/apps{query}");
    if body.is_array() {
        let reply = api.ask(Method::PUT, &target, Some(body)).await?;
        return done(ctx, api, "the apps are deployed", &reply, change.wait).await;
    }
    let reply = api.ask(Method::POST, &target, Some(body)).await?;
    let made: App = reply.json()?;
    let what = format!("app {} is added", made.id);
    done(ctx, api, &what, &reply, change.wait).await
}

/// Tells what a change began, and waits for its end when asked to.
async fn done(
    ctx: &Context,
    api: &Api,
    what: &str,
    reply: &Reply,
    wait: bool,
) -> anyhow::Result<()> {
    let answer: Value = reply.json()?;
    let id = answer
        .get("deploymentId")
        .or_else(|| answer.pointer("/deployments/0/id"));
    let id = id.and_then(Value::as_str).unwrap_or_default().to_owned();
    let state = if wait {
        api.wait(&id).await?;
        "is complete"
    } else {
        "has begun"
    };
    if ctx.output == Format::Table {
        return output::line(&format!("{what}: deployment {id} {state}"));
    }
    output::one(ctx.output, &answer, &[])
}

async fn show(ctx: &Context, api: &Api, id: &str) -> anyhow::Result<()> {
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

/// One version of an app.
#[derive(Debug, Serialize)]
struct VersionRow {
    version: String,
    present: bool,
}

impl Row for VersionRow {
    const COLUMNS: &'static [&'static str] = &["VERSION", "PRESENT"];

    fn cells(&self) -> Vec<Cell> {
        let mark = if self.present { "yes" } else { "" };
        vec![self.version.as_str().into(), mark.into()]
    }
}

async fn list_versions(api: &Api, app: &str) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Versions {
        versions: Vec<String>,
    }
    let target = app_path(app, "/versions", false)?;
    Ok(api.get::<Versions>(&target).await?.versions)
}

async fn versions(ctx: &Context, api: &Api, app: &str) -> anyhow::Result<()> {
    let present = api.app(app).await?.version;
    let rows: Vec<VersionRow> = list_versions(api, app)
        .await?
        .into_iter()
        .map(|version| VersionRow {
            present: version == present,
            version,
        })
        .collect();
    output::rows(ctx.output, &rows)
}

async fn rollback(
    ctx: &Context,
    api: &Api,
    app: &str,
    version: Option<String>,
    change: Change,
) -> anyhow::Result<()> {
    let version = match version {
        Some(version) => version,
        None => {
            let all = list_versions(api, app).await?;
            all.into_iter().nth(1).ok_or_else(|| {
                Failure::Usage(format!("app {} has no earlier version", path(app)))
            })?
        }
    };
    let target = app_path(app, "", change.force)?;
    let body = json!({ "version": version });
    let reply = api.ask(Method::PUT, &target, Some(body)).await?;
    let what = format!("app {} goes back to {version}", path(app));
    done(ctx, api, &what, &reply, change.wait).await
}

/// Prints what every live task of an app wrote; with several, each line begins with its task.
async fn logs(
    ctx: &Context,
    api: &Api,
    id: &str,
    file: &'static str,
    follow: bool,
) -> anyhow::Result<ExitCode> {
    let app = api.app(id).await?;
    let tasks = app.rest.get("tasks").and_then(Value::as_array);
    let names = tasks
        .into_iter()
        .flatten()
        .filter_map(|t| t.get("id")?.as_str());
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Failure::NotFound(format!(
            "app {} has no task now; `allot why {0}` tells why, `allot task list --all` lists \
             those that ended",
            app.id
        ))
        .into());
    }
    let several = names.len() > 1;
    let mut readers = tokio::task::JoinSet::new();
    for (i, name) in names.into_iter().enumerate() {
        let found = task::list(ctx, Some(&name), true).await?;
        let Some(task) = found.into_iter().find(|task| task.id == name) else {
            continue;
        };
        let prefix = several.then(|| format!("{i}| "));
        if let Some(prefix) = &prefix {
            output::error_bytes(format!("{prefix}{name} on {}\n", task.hostname).as_bytes());
        }
        let one = print(task, file, follow, prefix);
        if follow {
            readers.spawn(one);
        } else {
            one.await?;
        }
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(ExitCode::SUCCESS)
}

async fn print(
    task: allotment_proto::allot::TaskView,
    file: &'static str,
    follow: bool,
    prefix: Option<String>,
) -> anyhow::Result<()> {
    let framework: FrameworkId = task.framework_id.parse()?;
    let id: TaskId = task.id.parse()?;
    let window = Window {
        follow,
        ..Window::default()
    };
    let mut stream = sandbox::read(&task.agent_url, &framework, &id, file, window).await?;
    let mut rest = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        match &prefix {
            None => output::bytes(&piece)?,
            Some(prefix) => {
                rest.extend_from_slice(&piece);
                output::bytes(&whole_lines(prefix, &mut rest))?;
            }
        }
    }
    if let (Some(prefix), false) = (&prefix, rest.is_empty()) {
        rest.push(b'\n');
        output::bytes(&whole_lines(prefix, &mut rest))?;
    }
    Ok(())
}

/// Takes the complete lines out of `rest`, each behind `prefix`. A line that never ends is cut
/// at a megabyte, so that memory stays bounded.
fn whole_lines(prefix: &str, rest: &mut Vec<u8>) -> Vec<u8> {
    if rest.len() > 1024 * 1024 {
        rest.push(b'\n');
    }
    let Some(end) = rest.iter().rposition(|b| *b == b'\n') else {
        return Vec::new();
    };
    let tail = rest.split_off(end + 1);
    let lines = std::mem::replace(rest, tail);
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|b| *b == b'\n') {
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_may_be_named_with_or_without_slashes() {
        for id in ["web", "/web", "/web/"] {
            assert_eq!(
                app_path(id, "/restart", true).unwrap(),
                "/v2/apps/web/restart?force=true"
            );
        }
        for id in ["", "/", "a b", "a?b", "a#b", "a%2fb", "ä"] {
            assert!(app_path(id, "", false).is_err(), "{id:?}");
        }
    }

    #[test]
    fn only_whole_lines_are_printed_behind_their_task() {
        let mut rest = b"a\nb\nhal".to_vec();
        assert_eq!(whole_lines("0| ", &mut rest), b"0| a\n0| b\n");
        assert_eq!(rest, b"hal");
    }
}
