//! What an idle `allot local` with three agents costs: memory and CPU of all its processes.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::cluster::Role;
use crate::report::{Number, clock, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds to watch, after five to settle
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self { seconds: 30 }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    // Ready lines: one master, three agents, services, batch.
    let local = Role::start(
        allot,
        &["local", "--agents", "3", "--data", &data, "--port", "0"],
        6,
    )?;
    std::thread::sleep(Duration::from_secs(5));
    let before = usage(local.pid())?;
    let start = clock();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let after = usage(local.pid())?;
    let cpu = (after.cpu_s - before.cpu_s) / start.elapsed().as_secs_f64() * 100.0;
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let of = format!("idle, 3 agents, {} processes", after.processes);
    table(&[
        Number::new(
            &format!("{of}: resident, summed (shared pages counted again)"),
            mib(after.rss_kib),
            "60 MiB",
            "",
        ),
        Number::new(
            &format!("{of}: proportional set size"),
            mib(after.pss_kib),
            "60 MiB",
            "",
        ),
        Number::new(
            &format!("{of}: CPU over {} s", args.seconds),
            format!("{cpu:.2} % of a core"),
            "1 %",
            "",
        ),
    ]);
    Ok(())
}

#[derive(Debug, Default)]
struct Usage {
    processes: usize,
    rss_kib: u64,
    pss_kib: u64,
    cpu_s: f64,
}

/// Sums over the process and all its descendants.
fn usage(root: u32) -> anyhow::Result<Usage> {
    let mut sum = Usage::default();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        let dir = format!("/proc/{pid}");
        let Ok(rollup) = std::fs::read_to_string(format!("{dir}/smaps_rollup")) else {
            // A short-lived process, gone between being listed and being read.
            anyhow::ensure!(pid != root, "the cluster has ended");
            continue;
        };
        let field = |name: &str| -> u64 {
            rollup
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        sum.processes += 1;
        sum.rss_kib += field("Rss:");
        sum.pss_kib += field("Pss:");
        let stat = std::fs::read_to_string(format!("{dir}/stat"))?;
        let after_name = stat.rsplit_once(')').context("a /proc stat line")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |i: usize| {
            fields
                .get(i)
                .and_then(|t| t.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        // utime and stime, fields 14 and 15 of the line, in ticks of 10 ms.
        sum.cpu_s += (ticks(11) + ticks(12)) / 100.0;
        for task in std::fs::read_dir(format!("{dir}/task"))?.flatten() {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            todo.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    Ok(sum)
}
