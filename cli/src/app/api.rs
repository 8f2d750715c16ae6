//! The services framework's REST API, as far as `allot app` needs it.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::view::App;
use crate::exit::Failure;
use crate::http::{self, Reply};
use crate::rpc::Peer;

/// The services framework's REST API.
pub(super) struct Api {
    pub(super) url: String,
}

/// How often a deployment is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Api {
    pub(super) async fn ask(
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

    pub(super) async fn get<T: serde::de::DeserializeOwned>(
        &self,
        target: &str,
    ) -> anyhow::Result<T> {
        self.ask(Method::GET, target, None).await?.json()
    }

    pub(super) async fn apps(&self) -> anyhow::Result<Vec<App>> {
        #[derive(Deserialize)]
        struct Apps {
            apps: Vec<App>,
        }
        Ok(self.get::<Apps>("/v2/apps").await?.apps)
    }

    pub(super) async fn app(&self, app: &str) -> anyhow::Result<App> {
        #[derive(Deserialize)]
        struct One {
            app: App,
        }
        Ok(self.get::<One>(&app_path(app, "", false)?).await?.app)
    }

    /// Returns when this deployment is over.
    pub(super) async fn wait(&self, deployment: &str) -> anyhow::Result<()> {
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

/// The path of an app with its leading slash.
pub(super) fn path(app: &str) -> String {
    format!("/{}", app.trim_matches('/'))
}

/// The target of a request about an app.
pub(super) fn app_path(app: &str, suffix: &str, force: bool) -> anyhow::Result<String> {
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
}
