//! How the shipped modules are configured.

use std::time::Duration;

use crate::Common;

/// The settings of the shipped modules (`docs/design/allocation.md` says what they do).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What every module shares.
    pub common: Common,
    /// In which order agents are offered.
    pub placement: Placement,
    /// For whatever is random: the same seed and facts give the same offers on every machine.
    pub seed: u64,
    /// From this many fruitless returns in a row on, a client steps aside.
    pub decline_patience: u32,
    /// For how long it steps aside.
    pub aside_for: Duration,
    /// How many holes a role may have kept for it at once; 0: none.
    pub holes_per_role: u32,
    /// The looks of one call of `allocate`, after which it begins nothing more: a look is one client
    /// considered on one agent.
    pub round_looks: u64,
    /// For how long a hole is kept, and for how long its client then goes without.
    pub hole_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            common: Common::default(),
            placement: Placement::default(),
            seed: 0,
            // Once is chance, twice a coincidence; the third time the framework means it.
            decline_patience: 3,
            // Long enough for the others to be offered everything once, short enough that a
            // framework whose work comes back is not forgotten.
            aside_for: Duration::from_secs(60),
            holes_per_role: 1,
            // Offering all of 50,000 agents anew takes about three looks an agent. A million in vain
            // took a tenth of a second; half of that is not long to wait for a framework's call.
            round_looks: 500_000,
            // As long as tasks that large jobs wait for usually take; a hole that is not filled by
            // then costs more than it is worth.
            hole_timeout: Duration::from_secs(600),
        }
    }
}

/// In which order agents are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// In turns, by registration: no agent is preferred for being old.
    #[default]
    Rotate,
    /// The least used agents first: the load is spread.
    Spread,
    /// The most used agents first: small tasks do not shred the big agents.
    Pack,
    /// By chance, from the seed.
    Random,
}
