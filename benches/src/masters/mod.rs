//! Three replicated masters as real processes: how fast they keep what they are told, how soon
//! another one leads, how soon it knows everything again, and how many tasks pass through it.
//!
//! Agents and frameworks live in this process and speak real gRPC; see [`fleet`] and [`crowd`].
//! Everything shares the machine with what it measures, so numbers are those of the whole.
//!
//! - [`trio`]: the masters. - [`fleet`], [`mod@line`], [`wire`], [`encoded`]: agents. - [`crowd`]:
//!   frameworks.
//! - [`failover`], [`knowledge`], [`rate`], [`writes`]: one question each.

mod crowd;
mod encoded;
mod failover;
mod fleet;
mod knowledge;
mod line;
mod rate;
mod trio;
mod wire;
mod writes;

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::report::{Number, note, table};

/// Open files that the largest fleet takes, with room.
const FILES: u64 = 65_536;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which questions; all when none is given
    #[arg(value_enum)]
    what: Vec<What>,
    /// Where the masters keep their logs: should be a real disk
    #[arg(long, default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Failovers
    #[arg(long, default_value_t = Self::default().runs)]
    runs: usize,
    /// Seconds that each rate is measured for
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: u64,
    /// Every fleet and every number of tasks divided by this, for a quick look
    #[arg(long, default_value_t = Self::default().shrink)]
    shrink: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Registry writes, 64 in flight
    Writes,
    /// The leader is killed: until launches are accepted again
    Failover,
    /// The leader is killed: until 10,000 agents and 100,000 tasks are known again
    Knowledge,
    /// The same with 40,000 agents and 400,000 tasks
    KnowledgeLarge,
    /// Tasks through the leader
    Rate,
    /// What a live task costs the leader, at 1,000,000
    Memory,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            what: Vec::new(),
            folder: ".".into(),
            runs: 30,
            seconds: 10,
            shrink: 1,
        }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    allow_files()?;
    let asked = |what: &What| args.what.is_empty() || args.what.contains(what);
    let all = [
        What::Writes,
        What::Failover,
        What::Rate,
        What::Memory,
        What::Knowledge,
        What::KnowledgeLarge,
    ];
    let mut numbers = Vec::new();
    for what in all.iter().filter(|what| asked(what)) {
        // A fresh runtime each: whatever one leaves ends with it.
        let runtime = tokio::runtime::Runtime::new()?;
        let _here = runtime.enter();
        let place = Place {
            allot,
            folder: &args.folder,
            runtime: &runtime,
            shrink: args.shrink.max(1),
        };
        let measured = match what {
            What::Writes => writes::measure(&place, args.seconds),
            What::Failover => failover::measure(&place, args.runs),
            What::Knowledge => knowledge::measure(&place, 10_000, "2 s", "Mesos 1.5: 4 s"),
            What::KnowledgeLarge => knowledge::measure(&place, 40_000, "8 s", "Mesos 1.5: 19 s"),
            What::Rate => rate::measure_rate(&place, args.seconds),
            What::Memory => rate::measure_memory(&place),
        };
        match measured {
            Ok(found) => numbers.extend(found),
            // The others may still be of use.
            Err(error) => note(&format!("{what:?} was not measured: {error:#}")),
        }
        runtime.shutdown_background();
    }
    table(&numbers);
    Ok(())
}

/// Where one question is put.
struct Place<'a> {
    allot: &'a Path,
    folder: &'a Path,
    runtime: &'a tokio::runtime::Runtime,
    shrink: usize,
}

/// Says a number at once, and keeps it for the table.
fn number(what: &str, measured: String, target: &str, peer: &str) -> Number {
    note(&format!("{what}: {measured}"));
    Number::new(what, measured, target, peer)
}

/// Masters and fleets hold a file for each connection; processes that we start inherit the limit.
fn allow_files() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= FILES {
        return Ok(());
    }
    if setrlimit(Resource::RLIMIT_NOFILE, FILES, hard.max(FILES)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        note(&format!(
            "only {hard} files may be open; large fleets may not fit"
        ));
    }
    Ok(())
}
