//! The versions of an app, and the way back to one.

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, app_path, path};
use super::{Change, done};
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Cell, Row};

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

pub(super) async fn versions(ctx: &Context, api: &Api, app: &str) -> anyhow::Result<()> {
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

pub(super) async fn rollback(
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
