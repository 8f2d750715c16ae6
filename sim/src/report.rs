//! What a run leaves behind.

use std::fmt;

use allotment_types::Timestamp;

/// An invariant that did not hold, with everything needed to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The root seed.
    pub seed: u64,
    /// Which step of the run.
    pub step: u64,
    /// The virtual time.
    pub at: Timestamp,
    /// The invariant in words, with the numbers that break it.
    pub invariant: String,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} breaks an invariant at step {} ({}):\n  {}\nthe last steps were:",
            self.seed, self.step, self.at, self.invariant
        )?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "replay it with `allot sim run --seeds {0}..{1}`",
            self.seed,
            self.seed + 1
        )
    }
}

/// How one seed went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The root seed.
    pub seed: u64,
    /// Events that were simulated.
    pub steps: u64,
    /// The virtual time at the end.
    pub ended_at: Timestamp,
    /// A hash of every line of the trace; equal runs have equal digests.
    pub digest: u64,
    /// Every line, with [`crate::TraceDepth::Full`].
    pub trace: String,
    /// Tasks whose containers were started.
    pub tasks_started: u64,
    /// Tasks whose frameworks heard a terminal state.
    pub tasks_ended: u64,
    /// Of them, tasks of each framework: elastic batch, elastic service, services, batch.
    pub tasks_per_framework: Vec<u64>,
    /// Faults that were injected.
    pub faults: u64,
    /// The first invariant that did not hold; the run stopped there.
    pub violation: Option<Violation>,
}

impl Report {
    /// Whether every invariant held to the end.
    pub fn is_clean(&self) -> bool {
        self.violation.is_none()
    }
}
