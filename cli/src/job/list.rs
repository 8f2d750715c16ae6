//! Clusters, jobs and the history.

use std::process::ExitCode;

use allotment_proto::allot::{
    JobClusterView, JobView, ListClustersRequest, ListHistoryRequest, ListJobsRequest,
    ShowJobRequest,
};
use serde::Serialize;

use super::{Batch, one, selection};
use crate::context::Context;
use crate::output::{self, Cell, Row, Tone, Watch};

/// Arguments of `allot job list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// CLUSTER or CLUSTER.PROC: list their unfinished jobs; without, the clusters
    jobs: Vec<String>,
    /// List the jobs of all clusters
    #[arg(long, short)]
    all: bool,
    /// Only jobs in this state
    #[arg(long, value_parser = ["idle", "running", "held"])]
    state: Vec<String>,
    #[command(flatten)]
    watch: Watch,
}

pub(super) async fn list(ctx: &Context, args: List) -> anyhow::Result<ExitCode> {
    let mut batch = Batch::connect(ctx).await?;
    if args.jobs.is_empty() && !args.all && args.state.is_empty() {
        output::listing(ctx.output, args.watch, async || {
            let answer = batch.client.list_clusters(ListClustersRequest {}).await;
            Ok(answer.map_err(|s| batch.refused(&s))?.into_inner().clusters)
        })
        .await?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = selection(&args.jobs)?;
    let chosen = (!args.jobs.is_empty()).then_some(chosen);
    output::listing(ctx.output, args.watch, async || {
        let mut request = ListJobsRequest {
            selection: chosen.clone(),
            states: args.state.clone(),
            ..Default::default()
        };
        let mut jobs: Vec<JobView> = Vec::new();
        loop {
            let answer = batch.client.list_jobs(request.clone()).await;
            let page = answer.map_err(|s| batch.refused(&s))?.into_inner();
            jobs.extend(page.jobs);
            let last = jobs.last().map(|job| (job.cluster, job.proc));
            match last {
                Some((cluster, proc)) if page.more => {
                    request.after = Some(allotment_proto::allot::JobId { cluster, proc });
                }
                _ => return Ok(jobs),
            }
        }
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn history(
    ctx: &Context,
    jobs: &[String],
    limit: u32,
    watch: Watch,
) -> anyhow::Result<ExitCode> {
    let mut batch = Batch::connect(ctx).await?;
    let chosen = selection(jobs)?;
    let chosen = (!jobs.is_empty()).then_some(chosen);
    output::listing(ctx.output, watch, async || {
        let mut request = ListHistoryRequest {
            selection: chosen.clone(),
            ..Default::default()
        };
        let mut jobs: Vec<Past> = Vec::new();
        loop {
            let left = (limit as usize).saturating_sub(jobs.len());
            request.limit = Some(u32::try_from(left.max(1)).unwrap_or(u32::MAX));
            let answer = batch.client.list_history(request.clone()).await;
            let page = answer.map_err(|s| batch.refused(&s))?.into_inner();
            jobs.extend(page.jobs.into_iter().map(Past).take(left));
            request.before = page.next_before;
            if !page.more || page.next_before.is_none() || jobs.len() >= limit as usize {
                return Ok(jobs);
            }
        }
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(ctx: &Context, job: &str) -> anyhow::Result<ExitCode> {
    let request = ShowJobRequest { job: one(job)? };
    let mut batch = Batch::connect(ctx).await?;
    let answer = batch.client.show_job(request).await;
    let job = answer.map_err(|s| batch.refused(&s))?.into_inner();
    let or_dash = |text: &str| Cell::from(if text.is_empty() { "-" } else { text });
    let clock = |at: Option<f64>| at.map_or_else(|| "-".to_owned(), output::clock);
    let mut asks = format!(
        "{} cpus, {}",
        output::short(job.cpus),
        output::mib(mib(job.memory_mib))
    );
    if let Some(disk) = job.disk_kib {
        asks += &format!(", {} of disk", output::mib(mib(disk) / 1024.0));
    }
    output::one(
        ctx.output,
        &job,
        &[
            ("job", id(&job).into()),
            ("name", or_dash(&job.batch_name)),
            ("owner", job.owner.as_str().into()),
            ("state", state(&job)),
            ("since", output::clock(job.since).into()),
            ("reason", or_dash(job.reason.as_deref().unwrap_or(""))),
            ("end", end(&job).unwrap_or_else(|| "-".to_owned()).into()),
            ("command", command(&job).into()),
            ("asks", asks.into()),
            ("priority", job.priority.to_string().into()),
            ("folder", job.initial_dir.as_str().into()),
            ("input", or_dash(&job.input)),
            ("output", or_dash(&job.output)),
            ("error", or_dash(&job.error)),
            ("log", or_dash(&job.log)),
            ("submitted", output::clock(job.submitted_at).into()),
            ("started", clock(job.started_at).into()),
            ("ended", clock(job.ended_at).into()),
            ("starts", job.starts.to_string().into()),
            ("host", or_dash(job.host.as_deref().unwrap_or(""))),
            ("task", or_dash(job.task_id.as_deref().unwrap_or(""))),
        ],
    )?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mib(n: u64) -> f64 {
    n as f64
}

fn id(job: &JobView) -> String {
    format!("{}.{}", job.cluster, job.proc)
}

fn command(job: &JobView) -> String {
    let mut line = job.executable.clone();
    for argument in &job.arguments {
        line.push(' ');
        line.push_str(argument);
    }
    line
}

fn state(job: &JobView) -> Cell {
    let tone = match job.state.as_str() {
        "running" => Tone::Good,
        "idle" => Tone::Busy,
        "held" => Tone::Bad,
        "completed" if job.success == Some(true) => Tone::Good,
        "completed" => Tone::Bad,
        _ => Tone::Dim,
    };
    Cell::new(job.state.as_str(), tone)
}

/// How the latest run ended.
fn end(job: &JobView) -> Option<String> {
    match (job.exit_code, job.exit_signal) {
        (_, Some(signal)) => Some(format!("signal {signal}")),
        (Some(code), None) => Some(format!("exit {code}")),
        (None, None) => None,
    }
}

impl Row for JobClusterView {
    const COLUMNS: &'static [&'static str] = &[
        "CLUSTER", "NAME", "OWNER", ">AGE", ">DONE", ">RUN", ">IDLE", ">HELD", ">TOTAL", "COMMAND",
    ];

    fn cells(&self) -> Vec<Cell> {
        let count = |n: u32, tone: Tone| {
            if n == 0 {
                Cell::new("0", Tone::Dim)
            } else {
                Cell::new(n.to_string(), tone)
            }
        };
        vec![
            self.cluster.to_string().into(),
            self.batch_name.as_str().into(),
            self.owner.as_str().into(),
            output::age(self.submitted_at).into(),
            count(self.completed + self.failed + self.removed, Tone::Plain),
            count(self.running, Tone::Good),
            count(self.idle, Tone::Busy),
            count(self.held, Tone::Bad),
            self.total.to_string().into(),
            self.command.as_str().into(),
        ]
    }
}

impl Row for JobView {
    const COLUMNS: &'static [&'static str] = &[
        "JOB", "OWNER", "STATE", ">FOR", ">PRIO", "HOST", "COMMAND", "REASON",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            id(self).into(),
            self.owner.as_str().into(),
            state(self),
            output::age(self.since).into(),
            self.priority.to_string().into(),
            self.host.as_deref().unwrap_or("-").into(),
            command(self).into(),
            self.reason.as_deref().unwrap_or("").into(),
        ]
    }
}

/// A job that has ended.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Past(JobView);

impl Row for Past {
    const COLUMNS: &'static [&'static str] = &[
        "JOB", "OWNER", "STATE", "END", "ENDED", ">RUNS", "HOST", "COMMAND",
    ];

    fn cells(&self) -> Vec<Cell> {
        let job = &self.0;
        let ended = job.ended_at.map_or_else(|| "-".to_owned(), output::clock);
        vec![
            id(job).into(),
            job.owner.as_str().into(),
            state(job),
            end(job).unwrap_or_else(|| "-".to_owned()).into(),
            ended.into(),
            job.starts.to_string().into(),
            job.host.as_deref().unwrap_or("-").into(),
            command(job).into(),
        ]
    }
}
