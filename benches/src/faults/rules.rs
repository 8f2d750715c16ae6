//! What becomes of a packet: pure, with dice of its own.

use std::collections::BTreeSet;
use std::time::Duration;

/// Which host, by its place in the network.
pub(super) type HostId = usize;

/// What to do with one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody will know of it.
    Lose,
    /// Deliver it now.
    Pass,
    /// Deliver it later.
    Delay(Duration),
}

/// How bad every link is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Weather {
    /// The part of all packets that is lost.
    pub(super) loss: f64,
    /// How long every packet takes at least.
    pub(super) latency: Duration,
    /// And how much longer at most; so packets overtake each other, too.
    pub(super) jitter: Duration,
}

/// The state of the network.
#[derive(Debug)]
pub(super) struct Rules {
    /// Ways on which everything is lost: from, to.
    cut: BTreeSet<(HostId, HostId)>,
    weather: Weather,
    dice: fastrand::Rng,
}

impl Rules {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            cut: BTreeSet::new(),
            weather: Weather::default(),
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// Loses everything that any of `from` sends to any of `to`; the other way stays open.
    pub(super) fn cut(&mut self, from: &[HostId], to: &[HostId]) {
        for from in from {
            self.cut.extend(to.iter().map(|to| (*from, *to)));
        }
    }

    pub(super) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Every way is open and fast.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.weather = Weather::default();
    }

    pub(super) fn judge(&mut self, from: HostId, to: HostId) -> Verdict {
        if self.cut.contains(&(from, to)) {
            return Verdict::Lose;
        }
        if self.weather == Weather::default() {
            return Verdict::Pass;
        }
        if self.dice.f64() < self.weather.loss {
            return Verdict::Lose;
        }
        Verdict::Delay(self.weather.latency + self.weather.jitter.mul_f64(self.dice.f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_way_loses_everything_and_the_way_back_nothing() {
        let mut rules = Rules::new(1);
        rules.cut(&[1], &[2, 3]);
        assert_eq!(rules.judge(1, 2), Verdict::Lose);
        assert_eq!(rules.judge(1, 3), Verdict::Lose);
        assert_eq!(rules.judge(2, 1), Verdict::Pass);
        rules.heal();
        assert_eq!(rules.judge(1, 2), Verdict::Pass);
    }

    #[test]
    fn bad_weather_loses_its_part_and_delays_the_rest() {
        let mut rules = Rules::new(1);
        let (latency, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        rules.set_weather(Weather {
            loss: 0.1,
            latency,
            jitter,
        });
        let verdicts: Vec<_> = (0..1000).map(|_| rules.judge(0, 1)).collect();
        let lost = verdicts.iter().filter(|v| **v == Verdict::Lose).count();
        assert!((50..200).contains(&lost), "{lost}");
        let in_time = |v: &Verdict| match v {
            Verdict::Delay(delay) => (latency..=latency + jitter).contains(delay),
            Verdict::Lose => true,
            Verdict::Pass => false,
        };
        assert!(verdicts.iter().all(in_time));
    }
}
