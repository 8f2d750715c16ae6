//! The allocation module alone, on the workloads that Mesos' own was measured with.
//!
//! The workloads are those under which Mesos' allocator was measured (master c1b42f79, -O2, one
//! thread of a 2-vCPU EPYC guest), number for number: agents, frameworks, roles, what is declined
//! and for how long. Each runs in a process of its own on one thread, so that its memory is its
//! own; wall and thread CPU time are both printed, as the smallest and the median of its samples.
//! A peer's number was measured on that machine class and not in the same run.
//!
//! - [`cluster`]: agents and frameworks of those shapes.
//! - [`timing`]: samples, resident memory.
//! - [`cycles`]: full cycles, nothing left, one agent freed.
//! - [`declines`]: filters for all pairs.
//! - [`bound`]: the longest call of a round that must look at every pair in vain.
//! - [`others`]: adding, quota, finishing frameworks, explanation, memory.
//! - [`growth`]: the grid and its plot.

mod bound;
mod cluster;
mod cycles;
mod declines;
mod growth;
mod others;
mod timing;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;

use crate::report::{Number, heading, table};

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// One workload; all of them when none is named
    #[arg(value_enum)]
    workload: Option<Workload>,
    /// Where the plot of growth goes
    #[arg(
        long,
        default_value = "target/allocator-growth.svg",
        value_name = "FILE"
    )]
    svg: PathBuf,
    /// Run the named workload here instead of in a process of its own
    #[arg(long, hide = true)]
    here: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            workload: None,
            svg: "target/allocator-growth.svg".into(),
            here: false,
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// W-EMPTY, 10,000 agents x 1,000 frameworks, one role
    Empty10k,
    /// W-EMPTY, 10,000 x 1,000, a role per framework
    Empty10kRoles,
    /// W-EMPTY, 30,000 x 1,000, a role per framework; with nothing left
    Empty30kRoles,
    /// W-EMPTY, 50,000 x 6,000, one role; adding; one agent freed
    Empty50k,
    /// W-USED, 10,000 x 1,000, one role
    Used10k,
    /// W-DECLINE, 5,000 x 200, all pairs filtered
    Decline5k,
    /// W-DECLINE, 10,000 x 1,000, all pairs filtered
    Decline10k,
    /// 50,000 x 6,000 whose constraints no agent meets: the longest call
    Bound,
    /// LargeAndSmallQuota, 3,000 roles x 3,000 agents
    Quota,
    /// MultiFrameworkAllocations, 19,500 tasks
    Multi,
    /// Why one framework was offered nothing on 50,000 agents
    Explain,
    /// 50,000 agents, 1,000 frameworks, 1,000,000 tasks
    Memory,
    /// The grid of agents and frameworks, as a plot
    Growth,
}

/// Measures.
pub(crate) fn measure(args: &Args) -> anyhow::Result<()> {
    if args.here {
        let workload = args.workload.context("--here needs a workload")?;
        for number in run(workload, args)? {
            let Number {
                what,
                measured,
                target,
                peer,
            } = number;
            println!("{what}\t{measured}\t{target}\t{peer}");
        }
        return Ok(());
    }
    heading();
    println!("allocation module `drf`, one thread; per number: smallest / median [CPU], wall\n");
    let workloads = match args.workload {
        Some(one) => vec![one],
        None => Workload::value_variants().to_vec(),
    };
    let mut numbers = Vec::new();
    for workload in workloads {
        numbers.extend(in_own_process(workload, args)?);
    }
    table(&numbers);
    Ok(())
}

fn run(workload: Workload, args: &Args) -> anyhow::Result<Vec<Number>> {
    use cluster::Roles::{Own, Single};
    match workload {
        Workload::Empty10k => cycles::empty(10_000, 1000, Single, ["≤ 8 ms", "≤ 60 MB"]),
        Workload::Empty10kRoles => cycles::empty(10_000, 1000, Own, ["≤ 10 ms", "≤ 60 MB"]),
        Workload::Empty30kRoles => cycles::empty(30_000, 1000, Own, ["≤ 30 ms", ""]),
        Workload::Empty50k => cycles::largest(50_000, 6000),
        Workload::Used10k => cycles::used(10_000, 1000),
        Workload::Decline5k => declines::saturated(5000, 200, ["≤ 5 ms", ""]),
        Workload::Decline10k => declines::saturated(10_000, 1000, ["≤ 20 ms", "≤ 700 MB"]),
        Workload::Bound => bound::in_vain(50_000, 6000),
        Workload::Quota => others::large_and_small_quota(2500, 500),
        Workload::Multi => others::finishing_frameworks(),
        Workload::Explain => others::explanation(50_000),
        Workload::Memory => others::memory(50_000, 1000, 20),
        Workload::Growth => growth::grid(&args.svg),
    }
}

/// A line for whoever waits.
fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs a workload in a child, whose memory is that of the workload.
fn in_own_process(workload: Workload, args: &Args) -> anyhow::Result<Vec<Number>> {
    let name = workload
        .to_possible_value()
        .context("every workload has a name")?;
    progress(&format!("… {}", name.get_name()));
    let out = Command::new(std::env::current_exe()?)
        .args(["allocator", name.get_name(), "--here", "--svg"])
        .arg(&args.svg)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    anyhow::ensure!(
        out.status.success(),
        "workload {} ended with {}",
        name.get_name(),
        out.status
    );
    let lines = String::from_utf8(out.stdout)?;
    lines
        .lines()
        .map(|line| {
            let mut parts = line.split('\t');
            let mut part = || parts.next().map(str::to_owned).context("four columns");
            Ok(Number {
                what: part()?,
                measured: part()?,
                target: part()?,
                peer: part()?,
            })
        })
        .collect()
}
