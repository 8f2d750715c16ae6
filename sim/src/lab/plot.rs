//! The report as a picture: utilisation above, dominant shares per role below.

use super::report::{LabReport, Moment};
use crate::chart::{GAP, LEFT, PANEL, Panel, TOP, WIDTH, heading, key, open};

/// One colour per role; the roles after them share the last.
const COLOURS: [&str; 8] = [
    "#1b6ca8", "#d1495b", "#2e933c", "#e0a100", "#7b4fa0", "#00838f", "#8d5524", "#888888",
];
/// Where the axis of shares may end, in percent; a quarter of each is a whole number.
const SCALES: [f64; 5] = [8.0, 20.0, 40.0, 60.0, 100.0];
const CPUS: &str = "#1b6ca8";
const MEM: &str = "#d1495b";

pub(super) fn svg(report: &LabReport) -> String {
    let mut svg = open(TOP + PANEL + GAP + PANEL + 50.0);
    heading(
        &mut svg,
        &format!(
            "{} agents, {} frameworks, allocator {}, seed {}",
            report.agents, report.frameworks, report.allocator, report.seed
        ),
    );
    let (unit, scale) = if report.ended_at > 3.0 * 3600.0 {
        ("h", 3600.0)
    } else {
        ("min", 60.0)
    };
    let x_max = (report.ended_at / scale).max(1e-3);
    let x_step = step(x_max);

    let panel = Panel {
        y: TOP,
        x_max,
        y_max: 100.0,
    };
    panel.axes(&mut svg, "in use", unit, (x_step, 25.0));
    key(&mut svg, WIDTH - 200.0, TOP - 22.0, CPUS, "cpus");
    key(&mut svg, WIDTH - 110.0, TOP - 22.0, MEM, "mem");
    let mut line = |colour, of: fn(&Moment) -> f64| {
        let points = report.moments.iter();
        panel.line(
            &mut svg,
            colour,
            points.map(|m| (m.at / scale, of(m) * 100.0)),
        );
    };
    line(CPUS, |moment| moment.cpus);
    line(MEM, |moment| moment.mem);

    shares(&mut svg, report, (unit, scale), (x_max, x_step));
    svg.push_str("</svg>\n");
    svg
}

fn shares(svg: &mut String, report: &LabReport, (unit, scale): (&str, f64), x: (f64, f64)) {
    let peaks = report.roles.iter().map(|role| role.share_peak * 100.0);
    let peak = peaks.fold(0.0, f64::max);
    // Twenty roles have a twentieth each: on a scale up to 100 they would all lie on the axis.
    let y_max = SCALES.into_iter().find(|scale| *scale >= peak);
    let y_max = y_max.unwrap_or(100.0);
    let panel = Panel {
        y: TOP + PANEL + GAP,
        x_max: x.0,
        y_max,
    };
    panel.axes(svg, "dominant share per role", unit, (x.1, y_max / 4.0));
    for (i, role) in report.roles.iter().enumerate() {
        let colour = COLOURS.get(i).unwrap_or(&COLOURS[COLOURS.len() - 1]);
        let points = report.moments.iter().filter_map(|moment| {
            let share = moment.shares.get(&role.name)?;
            Some((moment.at / scale, share * 100.0))
        });
        panel.line(svg, colour, points);
    }
    let mut left = LEFT + 215.0;
    for (role, colour) in report.roles.iter().zip(COLOURS) {
        let name = if colour == COLOURS[COLOURS.len() - 1] && report.roles.len() > COLOURS.len() {
            "all others"
        } else {
            &role.name
        };
        if left > WIDTH - 90.0 {
            break;
        }
        key(svg, left, TOP + PANEL + GAP - 22.0, colour, name);
        left += 90.0;
    }
}

/// A round distance between ticks, about eight of them.
fn step(max: f64) -> f64 {
    let rough = max / 8.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let fitting = factors.iter().find(|factor| **factor * power >= rough);
    fitting.map_or(rough, |factor| factor * power)
}
