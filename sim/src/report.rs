//! What a run leaves behind.

use std::fmt;

use allotment_types::Timestamp;

/// What the simulator was built from; a seed means the same only there.
const COMMIT: &str = env!("ALLOT_COMMIT");

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
    /// What the cluster was made of.
    pub cluster: String,
    /// Everything that went wrong before.
    pub faults: Vec<String>,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// Whether what does not matter was left out; the plain seed breaks the invariant too.
    pub shrunk: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} breaks an invariant at commit {}, step {} ({}):\n  {}",
            self.seed, COMMIT, self.step, self.at, self.invariant
        )?;
        let made = if self.shrunk { "is enough" } else { "ran" };
        writeln!(f, "this cluster {made}: {}", self.cluster)?;
        for line in &self.faults {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "the last steps were:")?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        write!(f, "replay it with `allot sim run --seed {}`", self.seed)
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
    /// Of them, tasks of each framework: elastic batch, elastic service, services,
    /// batch, passing.
    pub tasks_per_framework: Vec<u64>,
    /// Faults that were injected.
    pub faults: u64,
    /// The first invariant that did not hold; the run stopped there.
    pub violation: Option<Violation>,
}

impl Report {
    /// A run that could not begin.
    pub(crate) fn not_begun(seed: u64, invariant: String) -> Self {
        Self {
            seed,
            steps: 0,
            ended_at: Timestamp::ZERO,
            digest: 0,
            trace: String::new(),
            tasks_started: 0,
            tasks_ended: 0,
            tasks_per_framework: Vec::new(),
            faults: 0,
            violation: Some(Violation {
                seed,
                step: 0,
                at: Timestamp::ZERO,
                invariant,
                cluster: String::new(),
                faults: Vec::new(),
                tail: Vec::new(),
                shrunk: false,
            }),
        }
    }

    /// Whether every invariant held to the end.
    pub fn is_clean(&self) -> bool {
        self.violation.is_none()
    }
}
