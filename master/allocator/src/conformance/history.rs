//! What happens to a small cluster, as steps that are drawn from a seed.
//!
//! Numbers in steps pick among what exists when they are played, so that a history stays
//! meaningful when a part of it is left out.

use fastrand::Rng;

/// How many agents, frameworks and roles steps speak of.
pub const AGENTS: u8 = 6;
/// See [`AGENTS`].
pub const FRAMEWORKS: u8 = 4;
/// See [`AGENTS`]; they nest.
pub const ROLES: [&str; 6] = ["*", "eng", "eng/web", "eng/web/api", "ops", "ops/ci"];

/// One step of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A framework subscribes, or changes what it wants: roles and suppressed ones as bits, and
    /// numbers that pick capabilities, constraints and the smallest bundle.
    Subscribe {
        /// Which framework.
        framework: u8,
        /// Its roles.
        roles: u8,
        /// Those of them that are suppressed.
        suppressed: u8,
        /// Bits of its capabilities.
        can: u8,
        /// Which constraints and smallest bundle.
        wants: u8,
    },
    /// A framework disconnects.
    Deactivate(u8),
    /// A framework is gone.
    RemoveFramework(u8),
    /// An agent registers.
    AddAgent {
        /// Which one.
        agent: u8,
        /// What it has.
        shape: u8,
        /// What runs there already.
        used: u8,
    },
    /// An agent is activated or deactivated.
    SetActive(u8, bool),
    /// An agent is gone.
    RemoveAgent(u8),
    /// An agent will be away, or will not.
    Unavailability(u8, u8),
    /// The inverse offer that was sent last to one of those who wait is answered.
    AnswerInverse {
        /// Picks the inverse offer.
        which: u8,
        /// For how many seconds; 0: may be asked again at once.
        secs: u8,
    },
    /// Something held comes back.
    GiveBack {
        /// Picks what.
        which: u8,
        /// Which part of it.
        part: u8,
        /// How.
        how: u8,
    },
    /// Everything that the last round granted comes back.
    GiveAllBack {
        /// How.
        how: u8,
    },
    /// Resources become others.
    Convert {
        /// Which agent.
        agent: u8,
        /// Picks a holder there, or what is free.
        holder: u8,
        /// What becomes what.
        into: u8,
    },
    /// No offers in these roles (bits).
    Suppress(u8, u8),
    /// Offers again in these roles (bits).
    Revive(u8, u8),
    /// A demand is stated or withdrawn.
    Demand {
        /// By which framework.
        framework: u8,
        /// In which role.
        role: u8,
        /// Which bundle; none: withdrawn.
        bundle: u8,
        /// How many.
        count: u8,
    },
    /// A role's weight.
    Weight(u8, u8),
    /// A role's quota.
    Quota {
        /// Which role.
        role: u8,
        /// Picks guarantees.
        guarantee: u8,
        /// Picks limits.
        limit: u8,
    },
    /// No rounds.
    Pause,
    /// Rounds again.
    Resume,
    /// A round, some time later; `twice`: and another one at the same time.
    Round {
        /// Picks how much later.
        after: u8,
        /// Whether it is repeated.
        twice: bool,
    },
}

impl Step {
    /// The steps of the history with this seed. Every third one is mostly about declines that last,
    /// so that agents come to be refused by everybody.
    pub fn history(seed: u64, steps: usize) -> Vec<Self> {
        let mut rng = Rng::with_seed(seed);
        let declining = seed.is_multiple_of(3);
        (0..steps)
            .map(|n| match (declining, n) {
                // First there must be something to decline.
                (true, 40..) => Self::draw_decline(&mut rng),
                _ => Self::draw(&mut rng),
            })
            .collect()
    }

    /// A step that is likely to be a round, or to decline what the last one granted.
    fn draw_decline(rng: &mut Rng) -> Self {
        match rng.u8(0..100) {
            0..44 => Self::Round {
                after: rng.u8(0..6),
                twice: false,
            },
            44..84 => Self::GiveAllBack {
                // Fruitless, and refused for 5 s, a minute or ever.
                how: 8 * rng.u8(4..8) + rng.u8(4..8),
            },
            84..90 => Self::GiveBack {
                which: rng.u8(..),
                part: rng.u8(0..4),
                how: rng.u8(..),
            },
            90 => Self::Resume,
            _ => Self::draw(rng),
        }
    }

    /// The next step that this generator draws.
    pub fn draw(rng: &mut Rng) -> Self {
        let framework = rng.u8(0..FRAMEWORKS);
        let agent = rng.u8(0..AGENTS);
        let role = rng.u8(0..6);
        match rng.u8(0..100) {
            0..5 => Self::Subscribe {
                framework,
                roles: rng.u8(1..64),
                suppressed: if rng.u8(0..3) == 0 { rng.u8(..) } else { 0 },
                can: rng.u8(..),
                wants: rng.u8(..),
            },
            5 => Self::Deactivate(framework),
            6 => Self::RemoveFramework(framework),
            7..12 => Self::AddAgent {
                agent,
                shape: rng.u8(..),
                used: rng.u8(..),
            },
            12..15 => Self::SetActive(agent, rng.u8(0..4) > 0),
            15 => Self::RemoveAgent(agent),
            16 => Self::Unavailability(agent, rng.u8(0..4)),
            17 => Self::AnswerInverse {
                which: rng.u8(..),
                secs: rng.u8(0..4),
            },
            18..43 => Self::GiveBack {
                which: rng.u8(..),
                part: rng.u8(0..6),
                how: rng.u8(..),
            },
            43..53 => Self::GiveAllBack { how: rng.u8(..) },
            53..58 => Self::Convert {
                agent,
                holder: rng.u8(..),
                into: rng.u8(0..8),
            },
            58 => Self::Suppress(framework, rng.u8(0..64)),
            59..62 => Self::Revive(framework, rng.u8(0..64)),
            62..70 => Self::Demand {
                framework,
                role,
                bundle: rng.u8(0..8),
                count: rng.u8(0..5),
            },
            70 => Self::Weight(role, rng.u8(..)),
            71..74 => Self::Quota {
                role,
                guarantee: rng.u8(0..6),
                limit: rng.u8(0..6),
            },
            74 if rng.u8(0..3) == 0 => Self::Pause,
            74 | 75 => Self::Resume,
            _ => Self::Round {
                after: rng.u8(..),
                twice: rng.u8(0..4) == 0,
            },
        }
    }
}
