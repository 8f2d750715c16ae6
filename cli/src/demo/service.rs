//! The first half: a Marathon app becomes three HTTP servers that answer.

use hyper::Method;
use serde::Deserialize;

use super::story::{Story, pause};
use crate::http;
use crate::rpc::Peer;

/// The parts of Marathon's answers that are looked at.
#[derive(Debug, Deserialize)]
struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Debug, Deserialize)]
struct Task {
    host: String,
    ports: Vec<u16>,
    state: String,
}

/// How many instances `examples/web.json` asks for.
const INSTANCES: usize = 3;

/// Submits the app, waits until it runs, and asks each instance for its page.
pub(crate) async fn tell(story: &mut Story) -> anyhow::Result<()> {
    story
        .screen
        .section("A service: examples/web.json, three HTTP servers on offered ports");
    if let Err(error) = story.command(&["app", "add", "web.json"]).await {
        story.screen.check(Err(format!("{error:#}")));
        return Ok(());
    }
    let url = format!("{}/v2/apps/web/tasks", story.ctx.services_url().await?);
    let running = story
        .until("three instances to run", async {
            loop {
                let reply = http::request(Peer::Services, Method::GET, &url, None).await?;
                let tasks = reply.ok()?.json::<Tasks>()?.tasks;
                if tasks.iter().filter(|t| t.state == "TASK_RUNNING").count() == INSTANCES {
                    return Ok(tasks);
                }
                pause().await;
            }
        })
        .await;
    let tasks = match running {
        Ok(tasks) => tasks,
        Err(error) => {
            story.screen.check(Err(format!("{error:#}")));
            return Ok(());
        }
    };
    for task in tasks {
        let port = task.ports.first().copied().unwrap_or(0);
        let url = format!("http://{}:{port}/", task.host);
        let answered = story
            .until(&format!("{url} to answer"), answers(&url))
            .await;
        story.instances.push(url.clone());
        story.screen.check(match answered {
            Ok(size) => Ok(format!("{url} answers 200 with {size} bytes")),
            Err(error) => Err(format!("{error:#}")),
        });
    }
    Ok(())
}

/// Asks until the answer is 200, and returns its size. A server takes a moment between its
/// start and its first answer.
async fn answers(url: &str) -> anyhow::Result<usize> {
    loop {
        match http::request(Peer::Services, Method::GET, url, None).await {
            Ok(reply) if reply.status == hyper::StatusCode::OK => return Ok(reply.body.len()),
            Ok(reply) => tracing::debug!(%url, status = %reply.status, "not yet"),
            Err(error) => tracing::debug!(%url, %error, "not yet"),
        }
        pause().await;
    }
}
