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
    #[arg(long, default_value_t = Self::default().jobs)]
    jobs: usize,
    /// CPUs that the agent declares; each job asks for one, so this many run at once
    #[arg(long, default_value_t = Self::default().slots)]
    slots: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            jobs: 10_000,
            slots: 64,
        }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let rate = |took: Duration| format!("{:.0} jobs/s", args.jobs as f64 / took.as_secs_f64());
    let mut numbers = vec![
        Number::new(
            &format!("baseline: xargs -P2, {} times true", args.jobs),
            rate(xargs(args.jobs)?),
            "",
            "",
        ),
        Number::new(
            &format!("baseline: spawn and wait in 2 threads, {} times", args.jobs),
            rate(bare(args.jobs)?),
            "",
            "",
        ),
    ];
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

/// The floor of any program that starts processes: nothing but spawn and wait.
fn bare(jobs: usize) -> anyhow::Result<Duration> {
    let start = clock();
    let threads: Vec<_> = [jobs / 2, jobs - jobs / 2]
        .into_iter()
        .map(|jobs| {
            std::thread::spawn(move || {
                (0..jobs).try_for_each(|_| Command::new("/bin/true").status().map(drop))
            })
        })
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a spawning thread panicked"))??;
    }
    Ok(start.elapsed())
}

/// What a shell user has without any queue: no record, no sandbox.
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
