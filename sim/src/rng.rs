//! One generator per concern, all derived from the root seed, so that a scenario with one more
//! agent leaves the choices of the others alone.
//!
//! `fastrand` (wyrand) because it is small, has no dependencies, and is in the tree already; a
//! simulation needs no cryptographic strength.

use std::time::Duration;

use fastrand::Rng;

/// The generator of one concern, such as `"net"` or `"agent-3"`.
pub(crate) fn stream(root: u64, concern: &str) -> Rng {
    // FNV-1a over the name, then splitmix64's finisher, so that neighbouring seeds differ wholly.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in concern.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut z = root.wrapping_add(hash).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Rng::with_seed(z ^ (z >> 31))
}

/// Between the two, both included.
pub(crate) fn between(rng: &mut Rng, low: Duration, high: Duration) -> Duration {
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(nanos(low)..=nanos(high.max(low))))
}

/// Exponentially distributed with this mean, in whole milliseconds.
pub(crate) fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    let scaled = mean.as_secs_f64() * -(1.0 - rng.f64()).ln();
    Duration::from_secs_f64((scaled * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concerns_do_not_disturb_each_other() {
        let draw = |seed, name| stream(seed, name).u64(..);
        assert_eq!(draw(1, "net"), draw(1, "net"));
        assert_ne!(draw(1, "net"), draw(1, "faults"));
        assert_ne!(draw(1, "net"), draw(2, "net"));
    }

    #[test]
    fn exponential_times_have_the_mean_they_are_given() {
        let mut rng = stream(7, "test");
        let sum: Duration = (0..20_000)
            .map(|_| exponential(&mut rng, Duration::from_secs(100)))
            .sum();
        assert!((sum.as_secs_f64() / 20_000.0 - 100.0).abs() < 3.0);
    }
}
