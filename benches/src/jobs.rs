//! Short jobs through the batch queue: from `allot job submit` until all are recorded complete.
//!
//! Each number is also said on stderr as it comes, because a busy machine takes minutes for all,
//! and a queue that stands still is an error after `--patience`, never silence.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::cluster::{Cluster, output, output_within};
use crate::cpu::{self, Times};
use crate::report::{Number, clock, note, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many jobs
    #[arg(long, default_value_t = Self::default().jobs)]
    jobs: usize,
    /// CPUs that the agent declares; each job asks for one, so this many run at once
    #[arg(long, default_value_t = Self::default().slots)]
    slots: usize,
    /// Seconds after which jobs that have not all ended are an error
    #[arg(long, default_value_t = Self::default().patience)]
    patience: u64,
    /// Measure only under this isolation, `none` or `auto`
    #[arg(long)]
    isolation: Option<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            jobs: 10_000,
            slots: 128,
            patience: 300,
            isolation: None,
        }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let rate = |took: Duration| format!("{:.0} jobs/s", args.jobs as f64 / took.as_secs_f64());
    let mut numbers = Vec::new();
    let mut take = |number: Number| {
        note(&format!("{}: {}", number.what, number.measured));
        numbers.push(number);
    };
    take(Number::new(
        &format!("baseline: xargs -P2, {} times true", args.jobs),
        rate(xargs(args.jobs)?),
        "",
        "",
    ));
    take(Number::new(
        &format!("baseline: spawn and wait in 2 threads, {} times", args.jobs),
        rate(bare(args.jobs)?),
        "",
        "",
    ));
    // Kept until all is measured: what a cluster leaves is deleted with it, and that would slow
    // the next one down.
    let mut clusters = Vec::new();
    for (isolation, target, peer) in [
        ("none", "1300 jobs/s", "HyperQueue 1243 jobs/s"),
        ("auto", "600 jobs/s", ""),
    ] {
        if args
            .isolation
            .as_ref()
            .is_some_and(|only| only != isolation)
        {
            continue;
        }
        let resources = format!("cpus:{};mem:65536;disk:1000000", args.slots);
        let cluster = Cluster::start(allot, &resources, isolation)?;
        take(Number::new(
            &format!("baseline: make a folder with a file, before isolation {isolation}"),
            format!("{:.0} us", inodes(cluster.folder())?.as_secs_f64() * 1e6),
            "",
            "",
        ));
        let run = through_the_queue(&cluster, args)?;
        clusters.push(cluster);
        let what = format!("{} times true, isolation {isolation}", args.jobs);
        take(Number::new(
            &format!(
                "{what}, {} at once (submit {:.2} s)",
                args.slots,
                run.submitted.as_secs_f64()
            ),
            rate(run.took),
            target,
            peer,
        ));
        for (process, used) in run.used {
            let per_job = used.as_secs_f64() / args.jobs as f64 * 1e6;
            take(Number::new(
                &format!("{what}: CPU per job, {process}"),
                format!("{per_job:.0} us"),
                "",
                "",
            ));
        }
    }
    table(&numbers);
    Ok(())
}

struct Run {
    submitted: Duration,
    took: Duration,
    /// CPU time, user and system, by process.
    used: Vec<(String, Duration)>,
}

fn through_the_queue(cluster: &Cluster, args: &Args) -> anyhow::Result<Run> {
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
    let before = used(cluster)?;
    let start = clock();
    let said = output(cluster.allot(&["job", "submit", file])?)?;
    let submitted = start.elapsed();
    let id = said
        .rsplit_once("cluster ")
        .map(|(_, rest)| rest.trim().trim_end_matches('.').to_owned())
        .with_context(|| format!("`allot job submit` said {said:?}"))?;
    let patience = Duration::from_secs(args.patience);
    if let Err(stuck) = output_within(cluster.allot(&["job", "wait", &id])?, patience) {
        let list = output(cluster.allot(&["job", "list"])?)?;
        anyhow::bail!("{stuck:#}; the queue:\n{list}");
    }
    let took = start.elapsed();
    // What a container used shows when its init is reaped, and that serves others for a moment.
    for _ in 0..100 {
        if launchers(cluster).all(|launcher| cpu::children(launcher).is_empty()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = used(cluster)?;
    let mut used = Vec::new();
    for ((process, before), (_, after)) in before.into_iter().zip(after) {
        let times = after.since(before);
        if process == "launcher" {
            // Inits, and in them the jobs themselves.
            used.push(("containers".to_owned(), times.reaped));
        }
        used.push((process, times.own));
    }
    Ok(Run {
        submitted,
        took,
        used,
    })
}

fn launchers(cluster: &Cluster) -> impl Iterator<Item = u32> {
    let agents = cluster
        .pids()
        .into_iter()
        .filter(|(name, _)| *name == "agent");
    agents.flat_map(|(_, pid)| cpu::children(pid))
}

/// What each role and the agent's launcher have used.
fn used(cluster: &Cluster) -> anyhow::Result<Vec<(String, Times)>> {
    let mut all = Vec::new();
    for (name, pid) in cluster.pids() {
        all.push((name.to_owned(), cpu::times(pid)?));
        if name == "agent" {
            for child in cpu::children(pid) {
                all.push(("launcher".to_owned(), cpu::times(child)?));
            }
        }
    }
    Ok(all)
}

/// What the file system takes for a folder and a file in it; every job's sandbox is three folders,
/// a link and two files.
///
/// Some 20 us, except on an ext4 where many files were deleted within the last minutes: it looks
/// at every such inode again before it gives one out (`recently_deleted`), which is a millisecond
/// after 10,000 sandboxes went. Then the disk is measured, and not the queue: wait five minutes or
/// choose another place with TMPDIR.
fn inodes(folder: &Path) -> anyhow::Result<Duration> {
    const TIMES: u32 = 200;
    let folder = folder.join("inodes");
    std::fs::create_dir(&folder)?;
    let start = clock();
    for i in 0..TIMES {
        let one = folder.join(i.to_string());
        std::fs::create_dir(&one)?;
        std::fs::write(one.join("file"), "")?;
    }
    Ok(start.elapsed() / TIMES)
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
