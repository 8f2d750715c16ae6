//! Shares over time, one line for each framework.

use std::fmt::Write as _;

use super::FairnessReport;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 60.0;
/// In the order of the frameworks' names; dark and light alternate.
const COLOURS: [&str; 7] = [
    "#f2a541", "#c77c11", "#1b6ca8", "#6aa9d6", "#999999", "#444444", "#d1495b",
];

pub(super) fn svg(report: &FairnessReport) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\">dominant shares, {} machines, seed {}</text>\n",
        LEFT + WIDTH + 20.0,
        TOP + HEIGHT + 40.0,
        report.agents,
        report.seed
    );
    let lasted = report.lasted.as_secs_f64().max(1.0);
    let x = |secs: f64| LEFT + secs / lasted * WIDTH;
    let y = |share: f64| TOP + HEIGHT * (1.0 - share.clamp(0.0, 1.0));
    for part in 0..=4u8 {
        let share = f64::from(part) / 4.0;
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT},{0:.1} H{1:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4:.0} %</text>\
             <text x=\"{5:.1}\" y=\"{6:.1}\" text-anchor=\"middle\">{7:.0} min</text>",
            y(share),
            LEFT + WIDTH,
            LEFT - 6.0,
            y(share) + 4.0,
            share * 100.0,
            x(share * lasted),
            TOP + HEIGHT + 18.0,
            share * lasted / 60.0
        );
    }
    for (n, (fared, colour)) in report.fared.iter().zip(COLOURS).enumerate() {
        let mut points = String::new();
        for (at, shares) in &report.shares {
            let share = shares.get(n).copied().unwrap_or(0.0);
            let _ = write!(points, "{:.1},{:.1} ", x(at.as_secs_f64()), y(share));
        }
        let column = u8::try_from(n).map_or(0.0, f64::from);
        let left = LEFT + column * 120.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\"/>\
             <rect x=\"{left}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"42\">{}</text>",
            points.trim_end(),
            left + 18.0,
            fared.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}
