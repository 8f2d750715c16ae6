//! What an idle `allot local` with three agents costs: memory and CPU of all its processes.

use std::path::Path;
use std::time::Duration;

use crate::cluster::Role;
use crate::cpu;
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
        sum.cpu_s += cpu::times(pid)?.own.as_secs_f64();
        todo.extend(cpu::children(pid));
    }
    Ok(sum)
}
