//! Submit files and single commands: read and checked here, as `condor_submit` does.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use allotment_batch::submit::{self, Machine, Submission};
use allotment_proto::allot::{
    ClusterSubmission, JobSpec, ProcRun, ReserveClustersRequest, StringList, SubmitJobsRequest,
    WaitJobsRequest,
};
use anyhow::Context as _;
use prost::Message as _;

use super::Batch;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// Arguments of `allot job submit`.
#[derive(Debug, clap::Args)]
pub(super) struct Submit {
    /// The submit file; `-` reads it from stdin
    file: PathBuf,
    /// Wait until all its jobs have ended
    #[arg(long, short)]
    wait: bool,
    /// Check the file and count its jobs without submitting them
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `allot job run`.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Cores
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    cpus: f64,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    mem: Option<u64>,
    /// How many equal jobs
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u32,
    /// Run again after a failure, at most so many times
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// A name for people
    #[arg(long, default_value = "")]
    name: String,
    /// Where standard output goes
    #[arg(long, value_name = "FILE")]
    stdout: Option<PathBuf>,
    /// Where standard error goes
    #[arg(long, value_name = "FILE")]
    stderr: Option<PathBuf>,
    /// The event log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Wait until it has ended
    #[arg(long, short)]
    wait: bool,
    /// The program, which the agent's machine has, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) async fn submit(ctx: &Context, args: Submit) -> anyhow::Result<ExitCode> {
    let (text, name, folder) = read(&args.file)?;
    let machine = Machine::new(folder, jiff::Timestamp::now());
    let expand = |first: u32| -> anyhow::Result<Submission> {
        submit::expand(&text, &name, &owner(), first, &machine)
            .map_err(|error| Failure::Usage(format!("{name}, {error}")).into())
    };
    // The number of clusters is known only after a first look; ids matter to $(ClusterId).
    let first_look = expand(1)?;
    for warning in &first_look.warnings {
        output::error_bytes(format!("warning: {name}, {warning}\n").as_bytes());
    }
    if args.dry_run {
        let (jobs, clusters) = (first_look.jobs(), first_look.clusters.len());
        output::line(&format!(
            "{jobs} job(s) in {clusters} cluster(s) are well described"
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut batch = Batch::connect(ctx).await?;
    let count = u32::try_from(first_look.clusters.len()).unwrap_or(u32::MAX);
    drop(first_look);
    let reserved = batch
        .client
        .reserve_clusters(ReserveClustersRequest { count })
        .await
        .map_err(|s| batch.refused(&s))?;
    let submission = expand(reserved.into_inner().first)?;
    let clusters = send(&mut batch, submission.clusters).await?;
    wait_if(&mut batch, args.wait, clusters).await
}

pub(super) async fn run(ctx: &Context, args: Run) -> anyhow::Result<ExitCode> {
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    if !(args.cpus >= 0.001 && args.cpus <= 1e6) {
        let text = format!(
            "--cpus {} is no number of cores; use 0.001 or more",
            args.cpus
        );
        return Err(Failure::Usage(text).into());
    }
    let folder = std::env::current_dir().context("cannot tell the current folder")?;
    let absolute = |path: Option<PathBuf>| path.map(|p| text(&folder.join(p)));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10^9"
    )]
    let cpus_milli = (args.cpus * 1000.0).round() as u64;
    let template = JobSpec {
        executable: Some(program),
        arguments: Some(StringList {
            items: words.collect(),
        }),
        transfer_executable: Some(false),
        output: absolute(args.stdout),
        error: absolute(args.stderr),
        log: absolute(args.log),
        initial_dir: Some(text(&folder)),
        cpus_milli: Some(cpus_milli),
        memory_mib: args.mem,
        max_retries: args.max_retries,
        ..Default::default()
    };
    let cluster = ClusterSubmission {
        cluster: None,
        owner: owner(),
        batch_name: args.name,
        template,
        procs: vec![ProcRun {
            count: args.count,
            changes: None,
        }],
    };
    let mut batch = Batch::connect(ctx).await?;
    let clusters = send(&mut batch, vec![cluster]).await?;
    wait_if(&mut batch, args.wait, clusters).await
}

/// Submits, prints what `condor_submit` prints, and returns the clusters.
async fn send(batch: &mut Batch, clusters: Vec<ClusterSubmission>) -> anyhow::Result<Vec<u32>> {
    let request = SubmitJobsRequest { clusters };
    let (size, max) = (request.encoded_len(), allotment_proto::MESSAGE_LEN_MAX);
    if size > max {
        let text = format!(
            "the jobs take {size} bytes to describe, and at most {max} can be submitted at once; \
             split the file"
        );
        return Err(Failure::Usage(text).into());
    }
    let answer = batch.client.submit_jobs(request).await;
    let taken = answer.map_err(|s| batch.refused(&s))?.into_inner().clusters;
    for cluster in &taken {
        output::line(&format!(
            "{} job(s) submitted to cluster {}.",
            cluster.jobs, cluster.cluster
        ))?;
    }
    Ok(taken.iter().map(|cluster| cluster.cluster).collect())
}

async fn wait_if(batch: &mut Batch, wait: bool, clusters: Vec<u32>) -> anyhow::Result<ExitCode> {
    if !wait {
        return Ok(ExitCode::SUCCESS);
    }
    let mut request = WaitJobsRequest::default();
    request.selection.clusters = clusters;
    super::follow::until_ended(batch, request).await
}

/// The text of a submit file, its name, and where its relative paths start: the current folder,
/// as `condor_submit` has it.
fn read(file: &Path) -> anyhow::Result<(String, String, PathBuf)> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let limit = submit::TEXT_MAX as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut bytes)
            .context("cannot read stdin")?;
    } else {
        let opened = std::fs::File::open(file);
        let read = opened.and_then(|opened| opened.take(limit).read_to_end(&mut bytes));
        read.map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
    }
    let name = text(file);
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::Usage(format!(
            "{name} is no text: byte {at} is not UTF-8; is it the right file?"
        ))
    })?;
    Ok((text, name, here))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Who submits.
fn owner() -> String {
    crate::roles::user()
}
