//! The experiment's numbers as text.

use std::fmt::Write as _;

use super::{Outcome, SharingReport, mean, quantile};

pub(super) fn table(report: &SharingReport) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "fine-grained sharing, simulated: {} machines of <4 CPU, 16 GB>, {} batch jobs with {} \
         tasks, seed {}",
        report.agents, report.jobs, report.tasks, report.seed
    );
    let _ = writeln!(
        text,
        "{:<44} {:>10} {:>10} {:>9}",
        "", "shared", "half/half", "ratio"
    );
    let mut row = |name: &str, of: &dyn Fn(&Outcome) -> f64, unit: &str| {
        let (shared, split) = (of(&report.shared), of(&report.split));
        let ratio = if split.abs() < f64::EPSILON {
            "-".to_owned()
        } else {
            format!("{:.2}", shared / split)
        };
        let _ = writeln!(
            text,
            "{:<44} {shared:>10.1} {split:>10.1} {ratio:>9}",
            format!("{name} ({unit})")
        );
    };
    row(
        "CPU in use, mean under load",
        &|o| o.utilisation_mean * 100.0,
        "%",
    );
    row(
        "CPU in use, mean while tasks wait",
        &|o| o.utilisation_when_short * 100.0,
        "%",
    );
    row("batch job, mean", &|o| mean(&o.job_seconds), "s");
    row("batch job, median", &|o| quantile(&o.job_seconds, 0.5), "s");
    row(
        "batch job, 95th percentile",
        &|o| quantile(&o.job_seconds, 0.95),
        "s",
    );
    row("last job done", &|o| o.makespan.as_secs_f64(), "s");
    row("jobs not done", &|o| super::size(o.jobs_unfinished), "jobs");
    row(
        "service instance from wanted to running, mean",
        &|o| mean(&o.scale_up_seconds),
        "s",
    );
    row(
        "service instance, 95th percentile",
        &|o| quantile(&o.scale_up_seconds, 0.95),
        "s",
    );
    row(
        "service instances missing",
        &|o| o.instances_missing * 100.0,
        "%",
    );
    text
}
