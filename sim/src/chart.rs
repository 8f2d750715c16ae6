//! Line charts as SVG written by hand: axes and lines need no library.

use std::fmt::Write as _;

pub(crate) const WIDTH: f64 = 900.0;
pub(crate) const PANEL: f64 = 260.0;
pub(crate) const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
pub(crate) const TOP: f64 = 60.0;
pub(crate) const GAP: f64 = 80.0;

/// One chart: where it lies and what its axes span.
pub(crate) struct Panel {
    pub(crate) y: f64,
    pub(crate) x_max: f64,
    pub(crate) y_max: f64,
}

impl Panel {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let width = WIDTH - LEFT - RIGHT;
        (
            LEFT + x / self.x_max * width,
            self.y + PANEL - y / self.y_max * PANEL,
        )
    }

    pub(crate) fn axes(&self, svg: &mut String, title: &str, x_unit: &str, ticks: (f64, f64)) {
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
        let decimals = decimals(ticks.0);
        let mut x = 0.0;
        while x <= self.x_max + 1e-9 {
            let (px, _) = self.at(x, 0.0);
            let _ = writeln!(
                svg,
                "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x:.decimals$} {x_unit}</text>",
                bottom + 18.0
            );
            x += ticks.0;
        }
    }

    pub(crate) fn line(
        &self,
        svg: &mut String,
        colour: &str,
        points: impl Iterator<Item = (f64, f64)>,
    ) {
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

/// How many decimals tell multiples of `step` apart.
fn decimals(step: f64) -> usize {
    let scaled = |n: usize| step * 10.0_f64.powi(i32::try_from(n).unwrap_or(0));
    let is_whole = |n: &usize| (scaled(*n) - scaled(*n).round()).abs() < 1e-6;
    (0..6).find(is_whole).unwrap_or(6)
}

/// The beginning of a document of this height; it ends with `</svg>`.
pub(crate) fn open(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.grid{{stroke:#ddd}}.title{{font-size:14px;font-weight:bold}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// A sentence at the top.
pub(crate) fn heading(svg: &mut String, text: &str) {
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"22\">{}</text>", escaped(text));
}

/// What a colour stands for.
pub(crate) fn key(svg: &mut String, x: f64, y: f64, colour: &str, name: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"12\" fill=\"{colour}\"/>\
         <text x=\"{}\" y=\"{}\">{}</text>",
        x + 20.0,
        y + 10.0,
        escaped(name)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::decimals;

    #[test]
    fn ticks_are_told_apart() {
        let steps = [1.0, 0.5, 0.2, 10.0, 0.05, 2.0];
        assert_eq!(steps.map(decimals), [0, 1, 1, 0, 2, 0]);
    }
}
