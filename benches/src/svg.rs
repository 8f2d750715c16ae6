//! A plot of slots in use over time: stacked areas, one panel per setting, one time axis.

use std::fmt::Write as _;

/// One setting.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What each framework ran, as (start, end) in seconds.
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// Told apart by lightness too, for those who do not see the colours.
const COLOURS: [&str; 2] = ["#1b6ca8", "#f2a541"];
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 40.0;
const GAP: f64 = 50.0;
/// Horizontal resolution.
const STEPS: u32 = 380;

/// Draws the panels under each other; `slots` is the height of each.
pub(crate) fn plot(panels: &[Panel], slots: usize) -> String {
    let ends = panels.iter().flat_map(|panel| &panel.series);
    let ends = ends.flat_map(|(_, spans)| spans.iter().map(|(_, end)| *end));
    let end = ends.fold(1.0, f64::max).ceil();
    let height = TOP + panels.len() as f64 * (HEIGHT + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0
    );
    for (n, panel) in panels.iter().enumerate() {
        let top = TOP + n as f64 * (HEIGHT + GAP);
        draw(&mut out, panel, top, slots as f64, end);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, top: f64, slots: f64, end: f64) {
    let x = |time: f64| LEFT + time / end * WIDTH;
    let y = |used: f64| top + HEIGHT - used / slots * HEIGHT;
    text(out, LEFT, top - 10.0, "start", &panel.title);
    let mut below = vec![0.0; STEPS as usize + 1];
    for ((name, spans), (colour, n)) in panel.series.iter().zip(COLOURS.iter().zip(0u8..)) {
        let above: Vec<f64> = (0..=STEPS)
            .zip(&below)
            .map(|(step, below)| {
                let at = f64::from(step) / f64::from(STEPS) * end;
                let using = spans.iter().filter(|(from, to)| *from <= at && at < *to);
                below + using.count() as f64
            })
            .collect();
        let time = |step: usize| step as f64 / f64::from(STEPS) * end;
        let mut points = String::new();
        for (step, used) in above.iter().enumerate() {
            let _ = write!(points, "{:.1},{:.1} ", x(time(step)), y(*used));
        }
        for (step, used) in below.iter().enumerate().rev() {
            let _ = write!(points, "{:.1},{:.1} ", x(time(step)), y(*used));
        }
        let _ = writeln!(
            out,
            "<polygon points=\"{}\" fill=\"{colour}\"/>",
            points.trim_end()
        );
        let left = LEFT + WIDTH - 170.0 + f64::from(n) * 90.0;
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            top - 19.0
        );
        text(out, left + 15.0, top - 10.0, "start", name);
        below = above;
    }
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT},{top} V{0} H{1}\" fill=\"none\" stroke=\"black\"/>",
        top + HEIGHT,
        LEFT + WIDTH
    );
    for used in [0.0, slots / 2.0, slots] {
        text(out, LEFT - 6.0, y(used) + 4.0, "end", &used.to_string());
    }
    for part in 0..=4u8 {
        let time = end * f64::from(part) / 4.0;
        let label = format!("{time:.0} s");
        text(out, x(time), top + HEIGHT + 16.0, "middle", &label);
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
    fn stacked_areas_reach_the_sum_of_what_runs() {
        let panel = Panel {
            title: "one".to_owned(),
            series: vec![
                ("a".to_owned(), vec![(0.0, 10.0)]),
                ("b".to_owned(), vec![(0.0, 10.0)]),
            ],
        };
        let svg = plot(&[panel], 2);
        assert_eq!(svg.matches("<polygon").count(), 2);
        // At time 0 the second area begins at the top: both slots are in use.
        assert!(
            svg.contains(&format!("points=\"{LEFT:.1},{TOP:.1} ")),
            "{svg}"
        );
    }
}
