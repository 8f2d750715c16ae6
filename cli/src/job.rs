//! `allot job`: the batch queue.
//!
//! - [`submit`]: submit files and single commands, read on this side.
//! - [`list`]: clusters, jobs and the history.
//! - [`follow`]: waiting for jobs and reading what they write.

mod follow;
mod list;
mod submit;

use std::process::ExitCode;

use allotment_proto::allot::batch_client::BatchClient;
use allotment_proto::allot::{JobActionRequest, JobId, JobSelection};
use tonic::transport::Channel;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Watch};
use crate::rpc::{self, Peer};

/// Arguments of `allot job`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Submit the jobs of an HTCondor submit file
    Submit(submit::Submit),
    /// Submit one command as a job
    Run(submit::Run),
    /// List clusters of jobs, or the jobs of some
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show one job
    Show {
        /// The job, as CLUSTER.PROC
        job: String,
    },
    /// Remove jobs for good
    Rm(Act),
    /// Stop jobs and keep them until they are released
    Hold(Act),
    /// Let held jobs run again
    Release(Act),
    /// Wait until jobs have ended; fails when one of them did not succeed
    Wait {
        /// CLUSTER or CLUSTER.PROC
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// Print what a job writes
    Logs {
        /// The job, as CLUSTER.PROC; of a CLUSTER, its first
        job: String,
        /// Go on until the job ends
        #[arg(long, short)]
        follow: bool,
        /// Standard error instead of standard output
        #[arg(long)]
        stderr: bool,
    },
    /// List jobs that have ended, the latest first
    History {
        /// CLUSTER or CLUSTER.PROC; all when none is named
        jobs: Vec<String>,
        /// At most so many
        #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
        limit: u32,
        #[command(flatten)]
        watch: Watch,
    },
}

#[derive(Debug, clap::Args)]
struct Act {
    /// CLUSTER or CLUSTER.PROC
    #[arg(required_unless_present = "all")]
    jobs: Vec<String>,
    /// Every job there is
    #[arg(long, conflicts_with = "jobs")]
    all: bool,
    /// Why, for the event log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A client of the batch framework, and where it is.
#[derive(Debug)]
struct Batch {
    client: BatchClient<Channel>,
    url: String,
}

impl Batch {
    async fn connect(ctx: &Context) -> anyhow::Result<Self> {
        let url = ctx.batch_url().await?;
        let channel = rpc::connect(Peer::Batch, &url).await?;
        let client = BatchClient::new(channel)
            .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX)
            .max_encoding_message_size(allotment_proto::MESSAGE_LEN_MAX);
        Ok(Self { client, url })
    }

    fn refused(&self, status: &tonic::Status) -> anyhow::Error {
        rpc::refused(Peer::Batch, &self.url, status)
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Submit(args) => submit::submit(ctx, args).await,
        Command::Run(args) => submit::run(ctx, args).await,
        Command::List(args) => list::list(ctx, args).await,
        Command::Show { job } => list::show(ctx, &job).await,
        Command::Rm(act) => change(ctx, Change::Remove, act).await,
        Command::Hold(act) => change(ctx, Change::Hold, act).await,
        Command::Release(act) => change(ctx, Change::Release, act).await,
        Command::Wait { jobs } => follow::wait(ctx, &jobs).await,
        Command::Logs {
            job,
            follow,
            stderr,
        } => follow::logs(ctx, &job, follow, stderr).await,
        Command::History { jobs, limit, watch } => list::history(ctx, &jobs, limit, watch).await,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Remove,
    Hold,
    Release,
}

async fn change(ctx: &Context, change: Change, act: Act) -> anyhow::Result<ExitCode> {
    let mut selection = selection(&act.jobs)?;
    if act.all {
        selection.all = Some(true);
    }
    let request = JobActionRequest {
        selection,
        reason: act.reason,
    };
    let mut batch = Batch::connect(ctx).await?;
    let (answer, done, otherwise) = match change {
        Change::Remove => (batch.client.remove_jobs(request).await, "removed", ""),
        Change::Hold => (
            batch.client.hold_jobs(request).await,
            "held",
            "were held already",
        ),
        Change::Release => (
            batch.client.release_jobs(request).await,
            "released",
            "were not held",
        ),
    };
    let answer = answer.map_err(|s| batch.refused(&s))?.into_inner();
    let mut line = format!("{} job(s) {done}", answer.changed);
    if answer.unchanged > 0 {
        line += &format!(", {} {otherwise}", answer.unchanged);
    }
    output::line(&line)?;
    Ok(ExitCode::SUCCESS)
}

/// `12` is a cluster, `12.3` a job.
fn selection(given: &[String]) -> anyhow::Result<JobSelection> {
    let mut selection = JobSelection::default();
    for text in given {
        match parse(text)? {
            (cluster, None) => selection.clusters.push(cluster),
            (cluster, Some(proc)) => selection.jobs.push(JobId { cluster, proc }),
        }
    }
    Ok(selection)
}

fn parse(text: &str) -> Result<(u32, Option<u32>), Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "{text:?} names no job; give a cluster such as 12 or a job such as 12.3"
        ))
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    match text.split_once('.') {
        Some((cluster, proc)) => Ok((number(cluster)?, Some(number(proc)?))),
        None => Ok((number(text)?, None)),
    }
}

/// One job; of a cluster, its first.
fn one(text: &str) -> Result<JobId, Failure> {
    let (cluster, proc) = parse(text)?;
    Ok(JobId {
        cluster,
        proc: proc.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_job_is_a_cluster_and_a_number() {
        assert_eq!(parse("12").unwrap(), (12, None));
        assert_eq!(parse("12.3").unwrap(), (12, Some(3)));
        for wrong in ["", "x", "1.", ".2", "1.2.3", "-1", "4294967296"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
