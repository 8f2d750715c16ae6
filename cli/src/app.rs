//! `allot app`: long-running apps, over the services framework's REST API.
//!
//! Definitions are Marathon's JSON and pass through unread: what is wrong with one is told by the
//! framework. Logs come from the agents.
//!
//! - [`api`]: the way to the framework.
//! - [`view`]: apps in lists and one by one.
//! - `versions`, `logs`: what their names say.

mod api;
mod logs;
mod versions;
mod view;

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use hyper::Method;
use serde_json::{Value, json};

use crate::context::Context;
use crate::exit::Failure;
use crate::http::Reply;
use crate::output::{self, Format, Watch};
use api::{Api, app_path, path};
use logs::logs;
use versions::{rollback, versions};
use view::{App, show};

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
        #[arg(allow_negative_numbers = true)]
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
        url: ctx.services_url().await?,
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
