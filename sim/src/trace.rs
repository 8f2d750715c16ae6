//! What happened, line by line: the tail for people, a digest of all of it for comparing runs.

use std::collections::VecDeque;
use std::fmt::Write as _;

use allotment_types::Timestamp;

/// How many lines a violation shows.
const TAIL_LINES: usize = 60;

/// How much of the trace to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceDepth {
    /// Nothing; for experiments with millions of steps.
    None,
    /// The last lines and a digest of everything.
    #[default]
    Tail,
    /// Every line, for comparing two runs byte for byte.
    Full,
}

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    depth: TraceDepth,
    tail: VecDeque<String>,
    full: String,
    digest: u64,
    steps: u64,
    /// What went wrong, at any time.
    faults: Vec<String>,
}

impl Trace {
    pub(crate) fn new(depth: TraceDepth) -> Self {
        Self {
            depth,
            tail: VecDeque::new(),
            full: String::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            faults: Vec::new(),
        }
    }

    /// Counts a step.
    pub(crate) fn step(&mut self) {
        self.steps += 1;
    }

    /// Notes what happened in the current step; `line` is called only when somebody will read.
    pub(crate) fn note(&mut self, now: Timestamp, line: impl FnOnce() -> String) {
        if self.depth == TraceDepth::None {
            return;
        }
        // There is a line for almost every step: the one that goes lends its memory.
        let mut kept = match self.tail.len() {
            TAIL_LINES => self.tail.pop_front().unwrap_or_default(),
            _ => String::new(),
        };
        kept.clear();
        let _ = write!(kept, "{now} #{} {}", self.steps, line());
        for byte in kept.bytes().chain([b'\n']) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.depth == TraceDepth::Full {
            let _ = writeln!(self.full, "{kept}");
        }
        self.tail.push_back(kept);
    }

    /// Notes that something goes wrong.
    pub(crate) fn note_fault(&mut self, now: Timestamp, line: impl FnOnce() -> String) {
        if self.depth == TraceDepth::None {
            return;
        }
        let line = line();
        self.faults.push(format!("{now} #{} {line}", self.steps));
        self.note(now, || format!("fault: {line}"));
    }

    /// Everything that went wrong so far.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// FNV-1a of every line so far.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Every line, when the depth is [`TraceDepth::Full`].
    pub(crate) fn into_full(self) -> String {
        self.full
    }
}
