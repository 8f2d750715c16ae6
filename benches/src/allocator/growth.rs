//! The grid of agents and frameworks: a full cycle grows with the agents that change, one agent
//! that comes free does not grow at all. Printed, and drawn.

use std::fmt::Write as _;
use std::path::Path;

use allotment_allocator::Recovery;

use super::cluster::{Bench, EMPTY, Roles};
use super::cycles::one_freed;
use super::timing::Samples;
use crate::report::Number;

const AGENTS: [usize; 5] = [1000, 5000, 10_000, 20_000, 50_000];
const FRAMEWORKS: [usize; 6] = [1, 50, 200, 1000, 3000, 6000];

/// One cell of the grid, in milliseconds of CPU time.
#[derive(Debug, Clone, Copy)]
struct Cell {
    full: f64,
    freed: f64,
}

/// Measures the grid and writes the plot.
pub(super) fn grid(svg: &Path) -> anyhow::Result<Vec<Number>> {
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    for agents in AGENTS {
        let mut row = Vec::new();
        for frameworks in FRAMEWORKS {
            let cell = cell(agents, frameworks)?;
            numbers.push(Number::new(
                &format!("growth {agents} x {frameworks}, one role: full cycle; one agent freed"),
                format!("{:.2} ms; {:.2} µs", cell.full, cell.freed * 1000.0),
                "",
                "",
            ));
            row.push(cell);
        }
        rows.push((agents, row));
    }
    if let Some(folder) = svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(svg, plot(&rows))?;
    super::progress(&format!("plot: {}", svg.display()));
    Ok(numbers)
}

fn cell(agents: usize, frameworks: usize) -> anyhow::Result<Cell> {
    let mut bench = Bench::new(agents, frameworks)?;
    let agent_specs = bench.agent_specs(EMPTY, |_| Ok(Vec::new()))?;
    let framework_specs = bench.framework_specs(Roles::Single)?;
    bench.add_agents(agent_specs);
    bench.module.pause();
    bench.add_frameworks(framework_specs);
    bench.module.resume();
    let mut offers = bench.cycle();
    let mut full = Samples::default();
    for _ in 0..3 {
        bench.recover(&offers, Recovery::Rescinded);
        offers = full.time(|| bench.cycle());
        bench.check_equal(&offers)?;
    }
    let freed = one_freed(&mut bench, agents, Roles::Single, 1000)?;
    Ok(Cell {
        full: full.median_ms(),
        freed: freed.median_ms(),
    })
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
/// From light to dark with the frameworks.
const COLOURS: [&str; 6] = [
    "#f2a541", "#d9822b", "#a1632c", "#6aa9d6", "#1b6ca8", "#0b3c5d",
];

/// Two panels, both axes logarithmic: what a full cycle takes, and one agent that comes free.
fn plot(rows: &[(usize, Vec<Cell>)]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * (LEFT + WIDTH) + 130.0,
        TOP + HEIGHT + 50.0
    );
    panel(&mut out, LEFT, "a full cycle", rows, |cell| cell.full);
    let right = LEFT + WIDTH + LEFT + 20.0;
    panel(
        &mut out,
        right,
        "one agent freed, to its allocation",
        rows,
        |cell| cell.freed,
    );
    for (n, (frameworks, colour)) in FRAMEWORKS.iter().zip(COLOURS).enumerate() {
        let (x, y) = (right + WIDTH - 120.0, TOP + 14.0 + 16.0 * n as f64);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            y - 9.0
        );
        text(
            &mut out,
            x + 15.0,
            y,
            "start",
            &format!("{frameworks} frameworks"),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The decades that both panels show, in milliseconds.
const DECADES: (i32, i32) = (-4, 3);

fn panel(
    out: &mut String,
    left: f64,
    title: &str,
    rows: &[(usize, Vec<Cell>)],
    of: impl Fn(&Cell) -> f64,
) {
    let first = rows.first().map_or(1.0, |(agents, _)| *agents as f64);
    let last = rows.last().map_or(10.0, |(agents, _)| *agents as f64);
    let x = |agents: usize| left + (agents as f64 / first).ln() / (last / first).ln() * WIDTH;
    let (low, high) = (f64::from(DECADES.0), f64::from(DECADES.1));
    let y = |ms: f64| {
        let at = (ms.max(1e-6).log10() - low) / (high - low);
        TOP + HEIGHT * (1.0 - at.clamp(0.0, 1.0))
    };
    text(out, left, TOP - 16.0, "start", title);
    let _ = writeln!(
        out,
        "<path d=\"M{left},{TOP} V{0} H{1}\" fill=\"none\" stroke=\"black\"/>",
        TOP + HEIGHT,
        left + WIDTH
    );
    for decade in DECADES.0..=DECADES.1 {
        let at = y(10f64.powi(decade));
        let label = match decade {
            ..-3 => format!("{} µs", 10f64.powi(decade + 3)),
            -3..0 => format!("{:.0} µs", 10f64.powi(decade + 3)),
            0..3 => format!("{:.0} ms", 10f64.powi(decade)),
            _ => format!("{:.0} s", 10f64.powi(decade - 3)),
        };
        text(out, left - 6.0, at + 4.0, "end", &label);
        let _ = writeln!(
            out,
            "<path d=\"M{left},{at:.1} H{:.1}\" stroke=\"#dddddd\"/>",
            left + WIDTH
        );
    }
    for (agents, _) in rows {
        let label = format!("{}k", agents / 1000);
        text(out, x(*agents), TOP + HEIGHT + 16.0, "middle", &label);
    }
    text(
        out,
        left + WIDTH / 2.0,
        TOP + HEIGHT + 34.0,
        "middle",
        "agents",
    );
    for (n, colour) in COLOURS.iter().enumerate() {
        let points: Vec<String> = rows
            .iter()
            .filter_map(|(agents, row)| {
                let ms = of(row.get(n)?);
                Some(format!("{:.1},{:.1}", x(*agents), y(ms)))
            })
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_as_long_is_one_decade_higher() {
        let cell = |full: f64| Cell { full, freed: 0.001 };
        let rows = [1.0, 10.0].map(|full| (1000, vec![cell(full); 6]));
        let rows = [(1000, rows[0].1.clone()), (50_000, rows[1].1.clone())];
        let svg = plot(&rows);
        let decade = HEIGHT / f64::from(DECADES.1 - DECADES.0);
        let at_one = TOP + HEIGHT - 4.0 * decade;
        let wanted = format!(
            "points=\"{LEFT:.1},{at_one:.1} {:.1},{:.1}\"",
            LEFT + WIDTH,
            at_one - decade
        );
        assert_eq!(svg.matches(&wanted).count(), 6, "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 12);
    }
}
