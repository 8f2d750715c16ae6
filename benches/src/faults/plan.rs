//! Which faults come in which order, from a seed; pure.

use std::fmt;
use std::time::Duration;

/// One way to harm a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SIGKILL, and later a new start on the same folder.
    LeaderKilled,
    FollowerKilled,
    /// SIGSTOP: it wakes up and believes that it still leads.
    LeaderStopped,
    /// Nothing reaches it and nothing it sends arrives.
    LeaderCutOff,
    /// The same towards the other masters alone: agents and frameworks still hear it.
    LeaderCutFromMasters,
    /// What it sends is lost; it hears everybody.
    LeaderMute,
    /// What is sent to it is lost; everybody hears it.
    LeaderDeaf,
    /// No master reaches another.
    MastersApart,
    /// The leader with half of the agents on one side, everybody else on the other.
    Split,
    /// The leader is cut off and back again in quick turns.
    Flapping,
    /// Packets are slow, some are lost, some overtake others.
    BadWeather,
    /// The leader cannot write any more.
    LeaderDiskFull,
    AgentKilled,
    /// Agent, launcher and tasks at once, as by a power cut.
    AgentPowerCut,
    AgentStopped,
    AgentCutOff,
    /// What the agent sends is lost.
    AgentMute,
    AgentDiskFull,
    /// The load generator leaves without a word, and comes back.
    FrameworkAway,
    FrameworkCutOff,
    ServicesKilled,
    BatchKilled,
    /// SIGKILL for every process of every role at once.
    AllKilled,
    /// Every role is ended and started again, one after the other.
    RollingRestart,
}

impl Kind {
    /// All there are.
    const ALL: [Self; 24] = [
        Self::LeaderKilled,
        Self::FollowerKilled,
        Self::LeaderStopped,
        Self::LeaderCutOff,
        Self::LeaderCutFromMasters,
        Self::LeaderMute,
        Self::LeaderDeaf,
        Self::MastersApart,
        Self::Split,
        Self::Flapping,
        Self::BadWeather,
        Self::LeaderDiskFull,
        Self::AgentKilled,
        Self::AgentPowerCut,
        Self::AgentStopped,
        Self::AgentCutOff,
        Self::AgentMute,
        Self::AgentDiskFull,
        Self::FrameworkAway,
        Self::FrameworkCutOff,
        Self::ServicesKilled,
        Self::BatchKilled,
        Self::AllKilled,
        Self::RollingRestart,
    ];

    /// Its name on the command line.
    fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// By its name.
    ///
    /// # Errors
    /// A sentence with all names.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no fault; there are {all}")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// One fault, for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) lasts: Duration,
}

/// The short form: one of every family, briefly.
pub(super) fn short() -> Vec<Fault> {
    [
        (Kind::LeaderKilled, 2),
        (Kind::AgentCutOff, 4),
        (Kind::LeaderStopped, 4),
        (Kind::LeaderCutFromMasters, 4),
        (Kind::BadWeather, 4),
        (Kind::AgentKilled, 1),
        (Kind::FrameworkAway, 1),
        (Kind::LeaderDiskFull, 1),
        (Kind::AllKilled, 1),
    ]
    .map(|(kind, seconds)| Fault {
        kind,
        lasts: Duration::from_secs(seconds),
    })
    .into()
}

/// Every fault in an order of its own in each round, and for a time of its own; without end.
pub(super) fn night(seed: u64) -> impl Iterator<Item = Fault> {
    let mut dice = fastrand::Rng::with_seed(seed);
    std::iter::from_fn(move || {
        let mut round = Kind::ALL;
        dice.shuffle(&mut round);
        let round = round.map(|kind| {
            let seconds = match kind {
                // What the design promises to survive.
                Kind::LeaderStopped => 30,
                // Longer than agents may be silent, every other time.
                Kind::AgentCutOff | Kind::AgentMute | Kind::AgentStopped => {
                    dice.choice([8, 30]).unwrap_or(8)
                }
                _ => dice.u64(2..15),
            };
            Fault {
                kind,
                lasts: Duration::from_secs(seconds),
            }
        });
        Some(round)
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_night_and_each_round_of_it_holds_every_fault() {
        let n = Kind::ALL.len();
        let first: Vec<Fault> = night(7).take(2 * n).collect();
        assert_eq!(first, night(7).take(2 * n).collect::<Vec<_>>());
        assert_ne!(first, night(8).take(2 * n).collect::<Vec<_>>());
        for round in first.chunks(n) {
            for kind in Kind::ALL {
                assert!(round.iter().any(|fault| fault.kind == kind), "{kind}");
            }
        }
    }

    #[test]
    fn every_fault_has_a_name_that_finds_it() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(&kind.to_string()), Ok(kind));
        }
        let refused = Kind::parse("leader-cut").unwrap_err();
        assert!(refused.contains("leader-cut-off, "), "{refused}");
    }
}
