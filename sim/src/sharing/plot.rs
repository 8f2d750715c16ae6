//! The experiment as a picture.

use super::{SharingReport, size};
use crate::chart::{GAP, PANEL, Panel, TOP, WIDTH, heading, key, open};

const SHARED: &str = "#1b6ca8";
const SPLIT: &str = "#d1495b";

pub(super) fn svg(report: &SharingReport) -> String {
    let height = TOP + PANEL + GAP + PANEL + 50.0;
    let mut svg = open(height);
    legend(&mut svg, report);

    let ways = [(&report.shared, SHARED), (&report.split, SPLIT)];
    let end = ways
        .iter()
        .filter_map(|(o, _)| Some(o.utilisation.last()?.0.as_secs_f64() / 60.0))
        .fold(1.0, f64::max);
    let panel = Panel {
        y: TOP,
        x_max: end,
        y_max: 100.0,
    };
    panel.axes(&mut svg, "CPU in use", "min", (20.0, 25.0));
    for (outcome, colour) in ways {
        let points = outcome.utilisation.iter();
        let points = points.map(|(at, part)| (at.as_secs_f64() / 60.0, part * 100.0));
        panel.line(&mut svg, colour, points);
    }

    let longest = ways
        .iter()
        .filter_map(|(o, _)| o.job_seconds.last().copied())
        .fold(60.0, f64::max);
    let step = (longest / 8.0 / 60.0).ceil() * 60.0;
    let panel = Panel {
        y: TOP + PANEL + GAP,
        x_max: (longest / step).ceil() * step,
        y_max: 100.0,
    };
    let title = "batch jobs done within this time after submission";
    panel.axes(&mut svg, title, "s", (step, 25.0));
    for (outcome, colour) in ways {
        let n = size(outcome.job_seconds.len()).max(1.0);
        let points = outcome.job_seconds.iter().enumerate();
        let points = points.map(|(i, seconds)| (*seconds, size(i + 1) / n * 100.0));
        panel.line(&mut svg, colour, points);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, report: &SharingReport) {
    heading(
        svg,
        &format!(
            "{} machines, {} batch jobs, seed {}",
            report.agents, report.jobs, report.seed
        ),
    );
    key(svg, WIDTH - 330.0, 12.0, SHARED, "one shared cluster");
    key(svg, WIDTH - 170.0, 12.0, SPLIT, "split half and half");
}
