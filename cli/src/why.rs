//! `allot why`: the reason for things as they stand, asked of whoever decides them.
//!
//! Apps (`/x`) are decided by the services framework, jobs (`12` or `12.3`) by the batch
//! framework, everything else by the master.

use std::process::ExitCode;

use allotment_proto::allot::batch_client::BatchClient;
use allotment_proto::allot::{
    JobId, JobSelection, JobView, ListJobsRequest, ShowJobRequest, WhyJobResponse, WhyRequest,
    WhyResponse,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use crate::context::Context;
use crate::exit::Failure;
use crate::http;
use crate::output::{self, Format};
use crate::rpc::{self, Peer};

/// Arguments of `allot why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An app (/web), a job (12 or 12.3), a task, a framework, a node or a role; where several
    /// have one name, say which kind first: `allot why role web`
    #[arg(value_name = "[KIND] SUBJECT", num_args = 1..=2, required = true)]
    subject: Vec<String>,
}

/// The kinds that the master tells apart, with the names that people use.
const KINDS: [(&str, &str); 5] = [
    ("framework", "framework"),
    ("node", "agent"),
    ("agent", "agent"),
    ("task", "task"),
    ("role", "role"),
];

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let (kind, subject) = match args.subject.as_slice() {
        [kind, subject] => {
            let known = KINDS.iter().find(|(name, _)| name == kind);
            let (_, kind) = known.ok_or_else(|| {
                Failure::Usage(format!(
                    "{kind:?} is no kind; say framework, node, task or role, or nothing"
                ))
            })?;
            (Some((*kind).to_owned()), subject.as_str())
        }
        [subject] => (None, subject.as_str()),
        _ => return Err(Failure::Usage("name one thing".to_owned()).into()),
    };
    if kind.is_some() {
        ask_master(ctx, subject, kind).await?;
    } else if subject.starts_with('/') {
        let answer = why_app(ctx, subject).await?;
        tell(
            ctx.output,
            &format!("app {subject}"),
            &answer,
            &answer.lines,
        )?;
    } else if let Some(asked) = job(subject) {
        let (asked, answer) = why_job(ctx, asked).await?;
        let title = format!("job {}.{}", asked.cluster, asked.proc);
        tell(ctx.output, &title, &answer, &answer.lines)?;
    } else {
        ask_master(ctx, subject, None).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask_master(ctx: &Context, subject: &str, kind: Option<String>) -> anyhow::Result<()> {
    let request = WhyRequest {
        subject: subject.to_owned(),
        kind,
    };
    let answer = ctx.operator().await?.why(request).await;
    let answer: WhyResponse = answer.map_err(|s| ctx.refused(&s))?.into_inner();
    let title = format!("{} {}", answer.kind, answer.id);
    tell(ctx.output, &title, &answer, &answer.lines)
}

fn tell<T: Serialize>(
    format: Format,
    title: &str,
    answer: &T,
    lines: &[String],
) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::one(format, answer, &[]);
    }
    output::line(title)?;
    lines.iter().try_for_each(|line| {
        let line = output::Cell::from(line.as_str()).painted(false);
        output::line(&format!("  {line}"))
    })
}

/// What the services framework says of an app.
#[derive(Debug, Serialize, Deserialize)]
struct WhyApp {
    lines: Vec<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

async fn why_app(ctx: &Context, id: &str) -> anyhow::Result<WhyApp> {
    let url = format!("{}/v2/apps{id}/why", ctx.services_url().await?);
    http::request(Peer::Services, Method::GET, &url, None)
        .await?
        .ok()?
        .json()
}

/// `12` is a cluster of jobs and `12.3` one job, as in HTCondor.
fn job(subject: &str) -> Option<(u32, Option<u32>)> {
    match subject.split_once('.') {
        Some((cluster, proc)) => Some((cluster.parse().ok()?, Some(proc.parse().ok()?))),
        None => Some((subject.parse().ok()?, None)),
    }
}

/// Asks about one job; of a whole cluster, about the first that is not running.
async fn why_job(
    ctx: &Context,
    (cluster, proc): (u32, Option<u32>),
) -> anyhow::Result<(JobId, WhyJobResponse)> {
    let url = ctx.batch_url().await?;
    let refused = |status: tonic::Status| rpc::refused(Peer::Batch, &url, &status);
    let mut batch = BatchClient::new(rpc::connect(Peer::Batch, &url).await?)
        .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX);
    let proc = match proc {
        Some(proc) => proc,
        None => {
            waiting_in(&mut batch, cluster)
                .await
                .map_err(refused)?
                .ok_or_else(|| {
                    Failure::NotFound(format!(
                        "cluster {cluster} has no unfinished job; see `allot job history`"
                    ))
                })?
                .proc
        }
    };
    let asked = JobId { cluster, proc };
    let request = ShowJobRequest { job: asked };
    let answer = batch.why_job(request).await.map_err(refused)?;
    Ok((asked, answer.into_inner()))
}

/// The first job of the cluster that is not running, else the first that is.
async fn waiting_in(
    batch: &mut BatchClient<Channel>,
    cluster: u32,
) -> Result<Option<JobView>, tonic::Status> {
    for states in [&["held", "idle"][..], &[]] {
        let request = ListJobsRequest {
            selection: Some(JobSelection {
                clusters: vec![cluster],
                ..Default::default()
            }),
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            limit: Some(1),
            ..Default::default()
        };
        let jobs = batch.list_jobs(request).await?.into_inner().jobs;
        if let Some(job) = jobs.into_iter().next() {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::job;

    #[test]
    fn only_numbers_name_jobs() {
        assert_eq!(job("12"), Some((12, None)));
        assert_eq!(job("12.3"), Some((12, Some(3))));
        for other in ["", "12.", ".3", "1.2.3", "web.1", "12a", "99999999999"] {
            assert_eq!(job(other), None, "{other}");
        }
    }
}
