//! The experiment as a picture: SVG written by hand, since two line charts need no library.

use std::fmt::Write as _;

use super::{SharingReport, size};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const GAP: f64 = 80.0;
const SHARED: &str = "#1b6ca8";
const SPLIT: &str = "#d1495b";

/// One chart: where it lies and what its axes span.
struct Panel {
    y: f64,
    x_max: f64,
    y_max: f64,
}

impl Panel {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let width = WIDTH - LEFT - RIGHT;
        (
            LEFT + x / self.x_max * width,
            self.y + PANEL - y / self.y_max * PANEL,
        )
    }

    fn axes(&self, svg: &mut String, title: &str, x_unit: &str, ticks: (f64, f64)) {
        let (left, bottom) = self.at(0.0, 0.0);
        let (right, top) = self.at(self.x_max, self.y_max);
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" class=\"title\">{title}</text>",
            top - 10.0
        );
        let mut y = 0.0;
        while y <= self.y_max + 1e-9 {
            let (_, py) = self.at(0.0, y);
            let _ = writeln!(
                svg,
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{py:.1}\" y2=\"{py:.1}\" class=\"grid\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{y:.0} %</text>",
                left - 6.0,
                py + 4.0
            );
            y += ticks.1;
        }
        let mut x = 0.0;
        while x <= self.x_max + 1e-9 {
            let (px, _) = self.at(x, 0.0);
            let _ = writeln!(
                svg,
                "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x:.0} {x_unit}</text>",
                bottom + 18.0
            );
            x += ticks.0;
        }
    }

    fn line(&self, svg: &mut String, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let (px, py) = self.at(x.min(self.x_max), y.min(self.y_max));
            let _ = write!(path, "{px:.1},{py:.1} ");
        }
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
            path.trim_end()
        );
    }
}

pub(super) fn svg(report: &SharingReport) -> String {
    let height = TOP + PANEL + GAP + PANEL + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.grid{{stroke:#ddd}}.title{{font-size:14px;font-weight:bold}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
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
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"22\">{} machines, {} batch jobs, seed {}</text>",
        report.agents, report.jobs, report.seed
    );
    for (x, colour, name) in [
        (WIDTH - 330.0, SHARED, "one shared cluster"),
        (WIDTH - 170.0, SPLIT, "split half and half"),
    ] {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"22\">{name}</text>",
            x + 20.0
        );
    }
}
