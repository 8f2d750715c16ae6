//! `allot sim`: whole clusters on virtual time, from seeds or from a scenario file.

mod lab;
mod progress;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use allotment_sim::{Report, Scenario, TraceDepth, run_seed};
use anyhow::bail;
use indicatif::ProgressStyle;
use serde::Serialize;

use self::progress::Progress;

use crate::context::Context;
use crate::output::{self, Cell, Format, Row, Tone};

/// How many failing seeds are shrunk before they are shown.
const SHRUNK_MAX: usize = 5;

/// How often a search says how far it is where there is no terminal: a night of seeds is a
/// thousand lines.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Arguments of `allot sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Simulate whole clusters on virtual time
    ///
    /// With SCENARIO, a what-if experiment: agents, roles, frameworks and their load from the
    /// file, and a report of utilisation, waiting times and fairness. Without, an hour of one
    /// cluster per seed: three masters, twenty agents, five frameworks, operators and faults; the
    /// invariants are checked after every step.
    Run {
        /// A scenario file (TOML)
        #[arg(value_name = "SCENARIO", conflicts_with_all = ["seeds", "trace"])]
        scenario: Option<PathBuf>,
        /// The seed of the scenario, instead of the file's; or the one cluster with faults to
        /// simulate
        #[arg(long, value_name = "S", required_unless_present_any = ["scenario", "seeds"])]
        seed: Option<u64>,
        /// Which clusters with faults: A..B without B, or a single one
        #[arg(long, value_parser = seeds, value_name = "A..B", conflicts_with = "seed")]
        seeds: Option<Range<u64>>,
        /// Draw the scenario's report there
        #[arg(long, value_name = "FILE", requires = "scenario")]
        svg: Option<PathBuf>,
        /// How many seeds to run at once [default: as many as there are cores]
        #[arg(long, value_name = "N", requires = "seeds")]
        jobs: Option<NonZeroUsize>,
        /// Print every step of every run
        #[arg(long)]
        trace: bool,
    },
}

/// Runs the command; clusters with faults succeed only if every seed was clean.
pub(crate) fn run(ctx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Run {
        scenario,
        seed,
        seeds,
        svg,
        jobs,
        trace,
    } = &args.command;
    if let Some(file) = scenario {
        return lab::run(ctx, file, *seed, svg.as_deref());
    }
    let one = |seed: u64| seed..seed.saturating_add(1);
    match (seeds.clone(), seed) {
        (Some(range), _) => search(ctx, range, *jobs, *trace),
        (None, Some(seed)) => {
            // One seed is run to be seen again: make sure that it is the same every time.
            allotment_sim::replay(*seed, &Scenario::default())?;
            search(ctx, one(*seed), None, *trace)
        }
        (None, None) => bail!("name a SCENARIO, --seeds A..B or --seed S"),
    }
}

/// Says what a seed breaks; the first few in few words, which takes some more runs each.
fn explain(seed: u64, scenario: &Scenario, n_broken: usize) {
    if let Err(divergence) = allotment_sim::replay(seed, scenario) {
        output::complain(&divergence.to_string());
    }
    let violation = if n_broken <= SHRUNK_MAX {
        allotment_sim::shrink(seed, scenario)
    } else {
        run_seed(seed, scenario).violation
    };
    if let Some(violation) = violation {
        output::complain(&violation.to_string());
    }
}

fn search(
    ctx: &Context,
    seeds: Range<u64>,
    jobs: Option<NonZeroUsize>,
    trace: bool,
) -> anyhow::Result<ExitCode> {
    let scenario = Scenario {
        trace: if trace {
            TraceDepth::Full
        } else {
            TraceDepth::Tail
        },
        ..Scenario::default()
    };
    let (first, total) = (seeds.start, seeds.end - seeds.start);
    let style = ProgressStyle::with_template("{wide_bar} {msg}, {elapsed}")?;
    let mut progress = Progress::new(total, style, SAID_EVERY);
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    simulate(seeds, jobs, &scenario, |report| {
        if report.violation.is_some() {
            broken.push(report.seed);
            progress.suspend(|| explain(report.seed, &scenario, broken.len()));
        }
        if trace {
            output::text(&report.trace)?;
        }
        rows.push(SeedRow::new(&report));
        let n_done = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        progress.at(n_done, |elapsed| {
            so_far(first, n_done, total, broken.len(), elapsed)
        });
        anyhow::Ok(())
    })?;
    progress.finish();
    rows.sort_by_key(|row| row.seed);
    if ctx.output == Format::Table {
        output::line(&summary(&rows))?;
    } else {
        output::rows(ctx.output, &rows)?;
    }
    if !broken.is_empty() {
        broken.sort_unstable();
        let shown: Vec<_> = broken.iter().take(10).map(u64::to_string).collect();
        bail!(
            "{} of {} seeds broke an invariant: {}{}",
            broken.len(),
            rows.len(),
            shown.join(", "),
            if broken.len() > shown.len() {
                ", …"
            } else {
                ""
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the seeds, so many at once; `heard` gets each report as it comes, in no order.
fn simulate(
    seeds: Range<u64>,
    jobs: Option<NonZeroUsize>,
    scenario: &Scenario,
    mut heard: impl FnMut(Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let cores = || std::thread::available_parallelism().ok();
    let threads = jobs.or_else(cores).map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        // Unbounded, but no longer than the seeds: the reader only prints.
        let (sender, reports) = mpsc::channel();
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || sender.send(run_seed(seed, scenario)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        reports.into_iter().try_for_each(&mut heard)
    })
}

/// How far a search is, in words.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn so_far(first: u64, n_done: u64, total: u64, n_broken: usize, elapsed: Duration) -> String {
    format!(
        "{n_done} of {total} seeds from {first} on are done, {n_broken} broke an invariant; {:.1} \
         seeds a second",
        n_done as f64 / elapsed.as_secs_f64().max(0.001)
    )
}

fn summary(rows: &[SeedRow]) -> String {
    let sum = |of: fn(&SeedRow) -> u64| rows.iter().map(of).sum::<u64>();
    let clean = rows.iter().filter(|row| row.violation.is_none()).count();
    format!(
        "{clean} of {} seeds clean; {} steps, {} tasks started, {} faults",
        rows.len(),
        sum(|row| row.steps),
        sum(|row| row.tasks_started),
        sum(|row| row.faults)
    )
}

/// One seed, for programs.
#[derive(Debug, Serialize)]
struct SeedRow {
    seed: u64,
    steps: u64,
    virtual_seconds: f64,
    tasks_started: u64,
    tasks_ended: u64,
    faults: u64,
    /// Equal runs have equal digests.
    digest: String,
    violation: Option<String>,
}

impl SeedRow {
    fn new(report: &Report) -> Self {
        Self {
            seed: report.seed,
            steps: report.steps,
            virtual_seconds: report.ended_at.as_secs_f64(),
            tasks_started: report.tasks_started,
            tasks_ended: report.tasks_ended,
            faults: report.faults,
            digest: format!("{:016x}", report.digest),
            violation: report.violation.as_ref().map(|v| v.invariant.clone()),
        }
    }
}

impl Row for SeedRow {
    const COLUMNS: &'static [&'static str] = &[">SEED", ">STEPS", ">TASKS", ">FAULTS", "VERDICT"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.seed.to_string().into(),
            self.steps.to_string().into(),
            self.tasks_started.to_string().into(),
            self.faults.to_string().into(),
            match &self.violation {
                None => Cell::new("clean", Tone::Good),
                Some(invariant) => Cell::new(invariant.as_str(), Tone::Bad),
            },
        ]
    }
}

/// `A..B` without B, as in Rust; or one seed.
fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |part: &str| {
        part.parse::<u64>()
            .map_err(|_| format!("{part:?} is no seed; write for example 0..200, or 7"))
    };
    let range = match text.split_once("..") {
        Some((first, end)) => number(first)?..number(end)?,
        None => {
            let seed = number(text)?;
            seed..seed.saturating_add(1)
        }
    };
    if range.is_empty() {
        return Err("holds no seed: the end must exceed the beginning, as in 0..200".to_owned());
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::seeds;

    #[test]
    fn a_range_ends_before_its_end() {
        assert_eq!(seeds("3..5"), Ok(3..5));
        assert_eq!(seeds("7"), Ok(7..8));
        for wrong in ["", "5..3", "4..4", "a..b", "1..", "-1..2"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
