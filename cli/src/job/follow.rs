//! Waiting for jobs, and reading what they write.

use std::process::ExitCode;

use allotment_proto::allot::{ReadJobLogRequest, WaitJobsRequest};

use super::{Batch, one, selection};
use crate::context::Context;
use crate::output;

pub(super) async fn wait(ctx: &Context, jobs: &[String]) -> anyhow::Result<ExitCode> {
    let request = WaitJobsRequest {
        selection: selection(jobs)?,
    };
    let mut batch = Batch::connect(ctx).await?;
    until_ended(&mut batch, request).await
}

/// Waits until all jobs have ended; exit code 1 when one of them did not succeed.
pub(super) async fn until_ended(
    batch: &mut Batch,
    request: WaitJobsRequest,
) -> anyhow::Result<ExitCode> {
    let answer = batch.client.wait_jobs(request).await;
    let mut events = answer.map_err(|s| batch.refused(&s))?.into_inner();
    let (mut total, mut ended, mut failed) = (0u64, 0u64, 0u64);
    while let Some(event) = events.message().await.map_err(|s| batch.refused(&s))? {
        total += u64::from(event.total.unwrap_or(0));
        ended += u64::from(event.ended_before.unwrap_or(0));
        failed += u64::from(event.failed_before.unwrap_or(0));
        for job in event.ended {
            ended += 1;
            if !job.success {
                failed += 1;
                let how = match (job.exit_code, job.exit_signal) {
                    (_, Some(signal)) => format!("signal {signal}"),
                    (Some(code), None) => format!("exit {code}"),
                    (None, None) => job.state.clone(),
                };
                output::line(&format!("job {}.{}: {how}", job.cluster, job.proc))?;
            }
        }
    }
    output::line(&format!(
        "{ended} of {total} job(s) ended, {failed} without success"
    ))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) async fn logs(
    ctx: &Context,
    job: &str,
    follow: bool,
    stderr: bool,
) -> anyhow::Result<ExitCode> {
    let request = ReadJobLogRequest {
        job: one(job)?,
        stderr,
        follow,
    };
    let mut batch = Batch::connect(ctx).await?;
    let answer = batch.client.read_job_log(request).await;
    let mut chunks = answer.map_err(|s| batch.refused(&s))?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(|s| batch.refused(&s))? {
        output::bytes(&chunk.data)?;
    }
    Ok(ExitCode::SUCCESS)
}
