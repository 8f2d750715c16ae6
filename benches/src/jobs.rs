//! Short jobs through the batch queue: from `allot job submit` until all are recorded complete.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::cluster::{Cluster, output};
use crate::report::{Number, clock, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many jobs
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// CPUs that the agent declares; each job asks for one, so this many run at once
    #[arg(long, default_value_t = 64)]
    slots: usize,
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let rate = |took: Duration| format!("{:.0} jobs/s", args.jobs as f64 / took.as_secs_f64());
    let mut numbers = vec![Number::new(
        &format!("xargs -P2, {} times true, same run", args.jobs),
        rate(xargs(args.jobs)?),
        "",
        "",
    )];
    for (isolation, target, peer) in [
        ("none", "1300 jobs/s", "HyperQueue 1243 jobs/s"),
        ("auto", "600 jobs/s", ""),
    ] {
        let resources = format!("cpus:{};mem:65536;disk:1000000", args.slots);
        let cluster = Cluster::start(allot, &resources, isolation)?;
        let file = cluster.folder().join("true.sub");
        std::fs::write(
            &file,
            format!(
                "executable = /bin/true\ntransfer_executable = false\nrequest_cpus = 1\n\
                 request_memory = 16\nqueue {}\n",
                args.jobs
            ),
        )?;
        let file = file.to_str().context("a folder name in UTF-8")?;
        let start = clock();
        let said = output(cluster.allot(&["job", "submit", file])?)?;
        let submitted = start.elapsed();
        let id = said
            .rsplit_once("cluster ")
            .map(|(_, rest)| rest.trim().trim_end_matches('.').to_owned())
            .with_context(|| format!("`allot job submit` said {said:?}"))?;
        output(cluster.allot(&["job", "wait", &id])?)?;
        let took = start.elapsed();
        let what = format!(
            "{} times true, isolation {isolation}, {} at once (submit {:.2} s)",
            args.jobs,
            args.slots,
            submitted.as_secs_f64()
        );
        numbers.push(Number::new(&what, rate(took), target, peer));
    }
    table(&numbers);
    Ok(())
}

/// The bare floor in the same run: no queue, no record, no sandbox.
fn xargs(jobs: usize) -> anyhow::Result<Duration> {
    let start = clock();
    let mut seq = Command::new("seq")
        .arg(jobs.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = seq.stdout.take().context("seq's stdout")?;
    Command::new("xargs")
        .args(["-P2", "-n1", "true"])
        .stdin(lines)
        .status()?;
    seq.wait()?;
    Ok(start.elapsed())
}
