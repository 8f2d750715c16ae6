//! What a run simulates; every choice follows from the seed.

use std::time::Duration;

use crate::plant::Plant;
use crate::trace::TraceDepth;

/// A cluster, its load, and what goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Masters of one group: 1, 3 or 5.
    pub masters: usize,
    /// Machines, each with resources of its own size.
    pub agents: usize,
    /// Batch jobs that the elastic batch framework runs, and clusters of jobs that are submitted
    /// to the batch framework.
    pub jobs: usize,
    /// How often the elastic service changes its number of instances, and a user the apps of the
    /// services framework.
    pub scalings: usize,
    /// Faults to inject, of all kinds.
    pub faults: usize,
    /// Load and faults happen within this time.
    pub busy: Duration,
    /// From then on nothing goes wrong and the views must converge.
    pub settle: Duration,
    /// The delay of one message, at least and at most.
    pub delay: (Duration, Duration),
    /// How much of the trace to keep.
    pub trace: TraceDepth,
    /// A fault in the system under test, to see that the checks find it.
    pub plant: Plant,
}

impl Default for Scenario {
    /// Small enough for hundreds of seeds a minute, large enough that everything meets.
    fn default() -> Self {
        Self {
            masters: 3,
            agents: 20,
            jobs: 24,
            scalings: 16,
            faults: 24,
            busy: Duration::from_secs(2100),
            settle: Duration::from_secs(1500),
            delay: (Duration::from_micros(200), Duration::from_millis(40)),
            trace: TraceDepth::Tail,
            plant: Plant::None,
        }
    }
}
