//! `allot sim run SCENARIO`: a what-if experiment from a file.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use allotment_sim::lab::{self, LabScenario};
use anyhow::{Context as _, anyhow};
use indicatif::ProgressStyle;

use super::progress::Progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Format};

/// How often it says how far it is where there is no terminal.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Plays the scenario and prints its report; with `svg` draws it there.
pub(super) fn run(
    ctx: &Context,
    file: &Path,
    seed: Option<u64>,
    svg: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Usage(format!("cannot read scenario {}: {error}", file.display()))
    })?;
    let beside = file.parent().unwrap_or_else(|| Path::new("."));
    let scenario = LabScenario::parse(&text, |path| {
        let path = beside.join(path);
        std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    })
    .map_err(|error| {
        Failure::Usage(format!(
            "scenario {} cannot be played: {error}",
            file.display()
        ))
    })?;

    let style = ProgressStyle::with_template("{wide_bar} {msg}, {elapsed}")?;
    let mut progress = Progress::new(scenario.time.0.as_secs(), style, SAID_EVERY);
    let seed = seed.unwrap_or(scenario.seed);
    let report = lab::run(&scenario, seed, |so_far| {
        let now = so_far.now.as_secs_f64();
        let part = (so_far.now.as_millis() / 1000).min(scenario.time.0.as_secs());
        progress.at(part, |elapsed| {
            format!(
                "{now:.0} of {} simulated seconds, {:.1} times as fast as a clock",
                so_far.time.as_secs_f64(),
                now / elapsed.as_secs_f64().max(0.001)
            )
        });
    })
    .map_err(|error| anyhow!(error))
    .with_context(|| format!("scenario {} did not reach its end", file.display()))?;
    progress.finish();

    if let Some(path) = svg {
        std::fs::write(path, report.svg())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    match ctx.output {
        Format::Table => output::text(&report.table())?,
        Format::Json | Format::Yaml => output::one(ctx.output, &report, &[])?,
    }
    Ok(ExitCode::SUCCESS)
}
