//! `allot why`: the reason for things as they stand, asked of whoever decides them.
//!
//! Apps (`/x`) are decided by the services framework, jobs (`12` or `12.3`) by the batch
//! framework, everything else by the master.

use std::process::ExitCode;

use allotment_proto::allot::{WhyRequest, WhyResponse};
use hyper::Method;

use crate::context::Context;
use crate::http;
use crate::output::{self, Format};
use crate::rpc::Peer;

/// Arguments of `allot why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An app (/web), a job (12 or 12.3), a task, a framework, a node or a role
    subject: String,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let subject = args.subject.as_str();
    if subject.starts_with('/') {
        let url = format!("{}/v2/apps{subject}/why", ctx.services_url().await);
        return rest(ctx.output, Peer::Services, &url).await;
    }
    if is_job(subject) {
        let url = format!("{}/v1/jobs/{subject}/why", ctx.batch_url().await);
        return rest(ctx.output, Peer::Batch, &url).await;
    }
    let request = WhyRequest {
        subject: subject.to_owned(),
    };
    let answer = ctx.operator().await?.why(request).await;
    let answer: WhyResponse = answer.map_err(|s| ctx.refused(&s))?.into_inner();
    if ctx.output == Format::Table {
        output::line(&format!("{} {}", answer.kind, answer.id))?;
        sentences(&answer.lines)?;
    } else {
        output::one(ctx.output, &answer, &[])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a framework; its answer is JSON with `lines`.
async fn rest(format: Format, peer: Peer, url: &str) -> anyhow::Result<ExitCode> {
    let answer: serde_json::Value = http::request(peer, Method::GET, url, None)
        .await?
        .ok()?
        .json()?;
    match answer.get("lines").and_then(|lines| lines.as_array()) {
        Some(lines) if format == Format::Table => {
            let lines = lines.iter().filter_map(|line| line.as_str());
            sentences(&lines.map(str::to_owned).collect::<Vec<_>>())?;
        }
        _ => output::one(format, &answer, &[])?,
    }
    Ok(ExitCode::SUCCESS)
}

fn sentences(lines: &[String]) -> anyhow::Result<()> {
    lines.iter().try_for_each(|line| output::line(line))
}

/// `12` is a cluster of jobs and `12.3` one job, as in HTCondor.
fn is_job(subject: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match subject.split_once('.') {
        Some((cluster, process)) => number(cluster) && number(process),
        None => number(subject),
    }
}

#[cfg(test)]
mod tests {
    use super::is_job;

    #[test]
    fn only_numbers_name_jobs() {
        assert!(is_job("12") && is_job("12.3"));
        for other in ["", "12.", ".3", "1.2.3", "web.1", "12a"] {
            assert!(!is_job(other), "{other}");
        }
    }
}
