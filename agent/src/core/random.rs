//! The seeded generator behind container ids, update uuids and jitter.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014):
/// small, well mixed and replayable; nothing here needs to resist guessing.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The bytes of a version 4 uuid.
    pub fn uuid(&mut self) -> uuid::Uuid {
        uuid::Builder::from_u128((u128::from(self.next_u64()) << 64) | u128::from(self.next_u64()))
            .with_version(uuid::Version::Random)
            .into_uuid()
    }

    /// Somewhere in the upper half of `span`, so that many agents do not come at once.
    pub fn jittered(&mut self, span: Duration) -> Duration {
        let half = u64::try_from(span.as_nanos() / 2).unwrap_or(u64::MAX / 2);
        let part = (u128::from(self.next_u64()) * u128::from(half)) >> 64;
        Duration::from_nanos(half.saturating_add(u64::try_from(part).unwrap_or(half)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let mut random = Random::new(7);
        let span = Duration::from_secs(10);
        for _ in 0..1000 {
            let wait = random.jittered(span);
            assert!(wait >= span / 2 && wait < span, "{wait:?}");
        }
        assert_eq!(random.jittered(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn uuids_are_valid_and_differ() {
        let mut random = Random::new(7);
        let (a, b) = (random.uuid(), random.uuid());
        assert_ne!(a, b);
        assert_eq!(a.get_version_num(), 4);
    }
}
