//! What a person sees of the demo: sections, events with the time since the start, a progress
//! bar on a terminal (lines in a pipe), and checks that hold or not.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;
use crate::output::{self, Cell, Tone, paint};

/// Writes the story and counts its checks.
#[derive(Debug)]
pub(crate) struct Screen {
    started: Instant,
    colours: bool,
    terminal: bool,
    bar: Option<ProgressBar>,
    held: usize,
    failed: Vec<String>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            started: clock::now(),
            colours: output::colours_on_stdout(),
            terminal: std::io::stdout().is_terminal(),
            bar: None,
            held: 0,
            failed: Vec::new(),
        }
    }

    /// A section of the story.
    pub(crate) fn section(&self, title: &str) {
        let style = console::Style::new().bold().force_styling(self.colours);
        self.line(&format!("\n{}", style.apply_to(title)));
    }

    /// A plain line.
    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A command as the user would type it.
    pub(crate) fn command(&self, command: &str) {
        self.line(&format!(
            "  {} {command}",
            paint("$", Tone::Dim, self.colours)
        ));
    }

    /// A line of what a command printed.
    pub(crate) fn printed(&self, text: &str) {
        let text = Cell::new(text, Tone::Dim);
        self.line(&format!("    {}", text.painted(self.colours)));
    }

    /// Something that happened in the cluster.
    pub(crate) fn event(&self, kind: &str, tone: Tone, message: &str) {
        let at = clock::now().duration_since(self.started).as_secs_f64();
        let at = paint(&format!("{at:7.3}s"), Tone::Dim, self.colours);
        let kind = Cell::new(format!("{kind:20}"), tone).painted(self.colours);
        let message = Cell::from(message).painted(false);
        let line = format!("  {at}  {kind} {message}");
        if self.terminal {
            // One event, one line: wrapped lines are hard to read as they come.
            let width = usize::from(console::Term::stdout().size().1);
            self.line(&console::truncate_str(&line, width, "…"));
        } else {
            self.line(&line);
        }
    }

    /// Something that must be true.
    pub(crate) fn check(&mut self, outcome: Result<String, String>) {
        match outcome {
            Ok(held) => {
                self.held += 1;
                self.line(&format!(
                    "  {} {held}",
                    paint("✓", Tone::Good, self.colours)
                ));
            }
            Err(failed) => {
                self.line(&format!(
                    "  {} {failed}",
                    paint("✗", Tone::Bad, self.colours)
                ));
                self.failed.push(failed);
            }
        }
    }

    /// How far a count has come. In a pipe, a line at each tenth.
    pub(crate) fn progress(&mut self, what: &str, done: u64, total: u64) {
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
                bar.set_style(style());
                // So that time goes on being shown while nothing ends.
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            });
            bar.set_message(what.to_owned());
            bar.set_position(done);
            if done >= total {
                bar.finish_and_clear();
                self.bar = None;
            }
        } else if done == total || done.is_multiple_of(total.div_ceil(10).max(1)) {
            self.line(&format!("  {what}: {done}/{total}"));
        }
    }

    /// Takes the progress bar away, when what it counts will not come.
    pub(crate) fn progress_ends(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// How long it took so far.
    pub(crate) fn elapsed(&self) -> String {
        let elapsed = clock::now().duration_since(self.started).as_secs_f64();
        format!("{elapsed:.1} s")
    }

    /// How many checks held, and which did not.
    pub(crate) fn verdict(&self) -> (usize, &[String]) {
        (self.held, &self.failed)
    }

    /// The reader may have gone; the demo then goes on, and its exit code still tells.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| drop(output::line(text))),
            None => drop(output::line(text)),
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("  {bar:40.green/black.bright} {pos}/{len} {msg}  {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
