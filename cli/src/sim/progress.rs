//! How far a long simulation is: a bar on a terminal, now and then a line on anything else, so
//! that a run whose output is kept in a file is not silent until it is cut off.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock;
use crate::output;

/// Shows on stderr how far a run is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Draws nothing when stderr is no terminal.
    bar: ProgressBar,
    lines: Option<Lines>,
    begun: Instant,
}

#[derive(Debug)]
struct Lines {
    every: Duration,
    last: Instant,
}

impl Progress {
    /// Of a run with so many parts; `style` draws its bar, lines come every `every`, the first
    /// after that time.
    pub(super) fn new(parts: u64, style: ProgressStyle, every: Duration) -> Self {
        let begun = clock::now();
        let last = begun;
        Self {
            bar: ProgressBar::new(parts).with_style(style),
            lines: (!std::io::stderr().is_terminal()).then_some(Lines { every, last }),
            begun,
        }
    }

    /// So much is done; `line` says it to people, given for how long the run goes on.
    pub(super) fn at(&mut self, part: u64, line: impl Fn(Duration) -> String) {
        let now = clock::now();
        let elapsed = now.duration_since(self.begun);
        self.bar.set_position(part);
        match &mut self.lines {
            // A bar does not draw an unchanged message again.
            None => self.bar.set_message(line(elapsed)),
            Some(lines) if now.duration_since(lines.last) >= lines.every => {
                lines.last = now;
                output::note(&line(elapsed));
            }
            Some(_) => {}
        }
    }

    /// Prints something else meanwhile.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// The run is over.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
