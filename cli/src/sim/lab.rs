//! `allot sim run SCENARIO`: a what-if experiment from a file.

use std::path::Path;
use std::process::ExitCode;

use allotment_sim::lab::{self, LabScenario};
use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Format};

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

    let bar = ProgressBar::new(scenario.time.0.as_secs());
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} simulated seconds, {elapsed}",
    )?);
    let seed = seed.unwrap_or(scenario.seed);
    let report = lab::run(&scenario, seed, |progress| {
        let now = (progress.now.as_secs_f64()).min(progress.time.as_secs_f64());
        bar.set_position(std::time::Duration::from_secs_f64(now).as_secs());
    })
    .map_err(|error| anyhow!(error))
    .with_context(|| format!("scenario {} did not reach its end", file.display()))?;
    bar.finish_and_clear();

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
