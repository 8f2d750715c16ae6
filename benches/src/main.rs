//! `allot-bench`: whole-system benchmarks with real processes.
//!
//! Each prints the hardware, the command that repeats it, and every number beside its target and
//! the peer's. Nothing here asserts: machines are noisy and a reader compares within one run.
//!
//! - [`cluster`]: starts the roles as a user would and stops them again.
//! - [`cpu`]: what running processes have used.
//! - [`report`]: hardware line, percentiles, the table of numbers and targets.
//! - [`svg`]: what was in use over time, as a plot.
//! - [`allocator`]: the allocation module alone, on the workloads that Mesos' was measured with.
//! - [`fairness`]: who gets what over hours, simulated.
//! - [`masters`]: three masters, with thousands of simulated agents.
//! - `faults` of the library: a cluster under load while everything fails that can.
//! - [`app`], [`run`], [`jobs`], [`idle`], [`sharing`], [`simulated`]: one benchmark each.
//!
//! Build first (`cargo build --release`), then `cargo run --release -p allotment-benches -- all`,
//! or one of them by name. Only the simulated one is random, and states its seed.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its purpose")]

mod allocator;
mod app;
mod cluster;
mod cpu;
mod fairness;
mod idle;
mod jobs;
mod masters;
mod report;
mod run;
mod sharing;
mod simulated;
mod svg;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// As in `allot`: what is measured in this process would run there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whole-system benchmarks of Allotment with real processes.
#[derive(Debug, Parser)]
#[command(name = "allot-bench")]
struct Cli {
    /// The `allot` binary to measure
    #[arg(
        long,
        global = true,
        default_value = "target/release/allot",
        value_name = "FILE"
    )]
    allot: PathBuf,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All of them with their defaults, one after the other
    All,
    /// The allocation module alone: cycles, filters, quota, memory, growth
    Allocator(allocator::Args),
    /// Who gets what over hours, and how long anybody waits, simulated
    Fairness(fairness::Args),
    /// POST /v2/apps to TASK_RUNNING, one instance, idle cluster
    App(app::Args),
    /// `allot run -- true`, submit to exit
    Run(run::Args),
    /// Short jobs through the batch queue, plain and isolated, beside `xargs -P2`
    Jobs(jobs::Args),
    /// Memory and CPU of an idle local cluster with three agents
    Idle(idle::Args),
    /// Two elastic frameworks on one shared cluster against a static half-half split
    Sharing(sharing::Args),
    /// The same question in the simulator, at 1,000 machines
    Simulated(simulated::Args),
    /// Three masters: writes, failover, and how much passes through the leader
    Masters(masters::Args),
    /// A cluster under load while masters, agents, links and disks fail; needs root
    Faults(allotment_benches::faults::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let What::Allocator(args) = &cli.what {
        return allocator::measure(args);
    }
    if let What::Fairness(args) = &cli.what {
        return fairness::measure(args);
    }
    let allot = cli.allot.canonicalize().map_err(|e| {
        anyhow::anyhow!(
            "no binary at {}: {e}; build it with `cargo build --release`",
            cli.allot.display()
        )
    })?;
    report::heading();
    match cli.what {
        What::Allocator(args) => allocator::measure(&args),
        What::Fairness(args) => fairness::measure(&args),
        What::All => {
            allocator::measure(&allocator::Args::default())?;
            fairness::measure(&fairness::Args::default())?;
            app::measure(&allot, &app::Args::default())?;
            run::measure(&allot, &run::Args::default())?;
            jobs::measure(&allot, &jobs::Args::default())?;
            idle::measure(&allot, &idle::Args::default())?;
            sharing::measure(&allot, &sharing::Args::default())?;
            simulated::measure(&simulated::Args::default())?;
            masters::measure(&allot, &masters::Args::default())
        }
        What::App(args) => app::measure(&allot, &args),
        What::Run(args) => run::measure(&allot, &args),
        What::Jobs(args) => jobs::measure(&allot, &args),
        What::Idle(args) => idle::measure(&allot, &args),
        What::Sharing(args) => sharing::measure(&allot, &args),
        What::Simulated(args) => simulated::measure(&args),
        What::Masters(args) => masters::measure(&allot, &args),
        What::Faults(args) => {
            let survived =
                allotment_benches::faults::run(&allot, &args, &|line| println!("{line}"))?;
            println!("{survived}");
            Ok(())
        }
    }
}
