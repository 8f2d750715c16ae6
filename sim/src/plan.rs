//! What a run is made of, as data that can be made smaller.

use std::fmt;

use allotment_types::Timestamp;

use crate::cast;
use crate::fault::{self, Fault};
use crate::scenario::Scenario;

/// A cluster, its load and its faults.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) agents: usize,
    /// Which frameworks come at all.
    pub(crate) frameworks: [bool; cast::FRAMEWORKS],
    /// Jobs of the elastic batch framework, and clusters of the batch framework.
    pub(crate) jobs: usize,
    /// Changes of mind of the services' users.
    pub(crate) scalings: usize,
    /// Soonest first.
    pub(crate) faults: Vec<(Timestamp, Fault)>,
}

impl Plan {
    /// Everything that the scenario has, with the faults that the seed draws.
    pub(crate) fn drawn(seed: u64, scenario: &Scenario) -> Self {
        Self {
            agents: scenario.agents,
            frameworks: [true; cast::FRAMEWORKS],
            jobs: scenario.jobs,
            scalings: scenario.scalings,
            faults: fault::draw(seed, scenario),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .frameworks
            .iter()
            .enumerate()
            .filter(|(_, present)| **present)
            .map(|(i, _)| i.to_string())
            .collect();
        write!(
            f,
            "{} machines, framework{} {}, {} jobs, {} scalings, {} faults",
            self.agents,
            if names.len() == 1 { "" } else { "s" },
            names.join(" "),
            self.jobs,
            self.scalings,
            self.faults.len()
        )
    }
}
