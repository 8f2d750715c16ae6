//! What the tasks of an app write, from the agents' sandboxes.

use std::process::ExitCode;

use allotment_framework_sdk::sandbox::{self, Window};
use allotment_types::{FrameworkId, TaskId};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::api::Api;
use crate::context::Context;
use crate::exit::Failure;
use crate::{output, task};

/// Prints what every live task of an app wrote; with several, each line begins with its task.
pub(super) async fn logs(
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
    fn only_whole_lines_are_printed_behind_their_task() {
        let mut rest = b"a\nb\nhal".to_vec();
        assert_eq!(whole_lines("0| ", &mut rest), b"0| a\n0| b\n");
        assert_eq!(rest, b"hal");
    }
}
