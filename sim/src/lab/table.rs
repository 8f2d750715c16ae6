//! The report for people.

use std::fmt::Write as _;

use super::report::LabReport;

/// More roles than this are named in JSON and YAML alone.
const ROLES_SHOWN: usize = 20;

pub(super) fn table(report: &LabReport) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} agents, {} frameworks, allocator {}, seed {}; jobs came for {}, the report ends at {}",
        report.agents,
        report.frameworks,
        report.allocator,
        report.seed,
        time(report.time),
        time(report.ended_at)
    );
    let _ = writeln!(
        text,
        "\nIN USE  {:>8} {:>16} {:>8}",
        "mean", "while some wait", "peak"
    );
    for of in &report.utilisation {
        let _ = writeln!(
            text,
            "{:<7} {:>8} {:>16} {:>8}",
            of.resource,
            percent(of.mean),
            percent(of.mean_while_waiting),
            percent(of.peak)
        );
    }
    groups(&mut text, report);
    starved(&mut text, report);
    roles(&mut text, report);
    let _ = writeln!(
        text,
        "\nJain's index among those who wait (1: equal): roles {}, frameworks of one role {}",
        index(report.fairness.roles_mean, report.fairness.roles_least),
        index(
            report.fairness.frameworks_mean,
            report.fairness.frameworks_least
        )
    );
    text
}

fn groups(text: &mut String, report: &LabReport) {
    let width = report.groups.iter().map(|g| g.name.len()).max();
    let width = width.unwrap_or(0).max(10);
    let _ = writeln!(
        text,
        "\n{:<width$} {:>13} {:>9} {:>9}   {:>8} {:>8} {:>8} {:>8}   {:>8} {:>8}",
        "FRAMEWORKS",
        "jobs done",
        "tasks run",
        "waiting",
        "wait p50",
        "p90",
        "p99",
        "longest",
        "job p50",
        "p90"
    );
    for group in &report.groups {
        let _ = writeln!(
            text,
            "{:<width$} {:>13} {:>9} {:>9}   {:>8} {:>8} {:>8} {:>8}   {:>8} {:>8}",
            group.name,
            format!("{}/{}", group.jobs_done, group.jobs),
            group.tasks_run,
            group.tasks_waiting,
            time(group.wait.p50),
            time(group.wait.p90),
            time(group.wait.p99),
            time(group.longest_wait),
            time(group.job.p50),
            time(group.job.p90)
        );
    }
}

/// Who had to wait although there was room, when the scenario asks for it.
fn starved(text: &mut String, report: &LabReport) {
    let starved = report.groups.iter();
    let starved = starved.filter_map(|g| Some(format!("{} {}", g.name, time(g.longest_starved?))));
    let starved: Vec<String> = starved.collect();
    if !starved.is_empty() {
        let starved = starved.join(", ");
        let _ = writeln!(text, "\nlongest wait although there was room: {starved}");
    }
}

fn roles(text: &mut String, report: &LabReport) {
    let shown = report.roles.iter().take(ROLES_SHOWN);
    let width = shown.clone().map(|r| r.name.len()).max();
    let width = width.unwrap_or(0).max(10);
    let _ = writeln!(
        text,
        "\n{:<width$} {:>7} {:>11} {:>14} {:>8} {:>15}",
        "ROLES", "weight", "share mean", "while waiting", "peak", "offered unused"
    );
    for role in shown {
        let _ = writeln!(
            text,
            "{:<width$} {:>7} {:>11} {:>14} {:>8} {:>15}",
            role.name,
            role.weight,
            percent(role.share_mean),
            role.share_while_waiting
                .map_or_else(|| "-".to_owned(), percent),
            percent(role.share_peak),
            percent(role.offered_unused)
        );
    }
    if report.roles.len() > ROLES_SHOWN {
        let more = report.roles.len() - ROLES_SHOWN;
        let _ = writeln!(text, "and {more} more roles; --output json names them");
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn index(mean: Option<f64>, least: Option<f64>) -> String {
    match (mean, least) {
        (Some(mean), Some(least)) => format!("{mean:.3} (least {least:.3})"),
        _ => "- (never two at once)".to_owned(),
    }
}

fn time(seconds: f64) -> String {
    if seconds >= 7200.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else if seconds >= 120.0 {
        format!("{:.1} m", seconds / 60.0)
    } else if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} ms", seconds * 1000.0)
    }
}
