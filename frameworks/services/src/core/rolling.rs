//! How far a rolling restart may go at this instant.
//!
//! Marathon fixes its numbers when a restart begins; here they are derived anew from what runs,
//! so that a restart continues after a failover and copes with instances that die under way.

use super::app::UpgradeStrategy;

/// What runs of an app that is being restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Running and healthy, of the old configuration.
    pub old_ready: u32,
    /// Launched, neither ready nor being killed, of the old configuration.
    pub old_unready: u32,
    /// Running and healthy, of the new configuration.
    pub new_ready: u32,
    /// Wanted, waiting or launched, ready or not, of the new configuration.
    pub new_all: u32,
    /// Being killed, of any configuration; they still hold resources.
    pub dying: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moves {
    /// Old instances to kill that are not ready.
    pub kill_unready: u32,
    /// Old instances to kill that are ready.
    pub kill_ready: u32,
    /// New instances to want in addition.
    pub launch: u32,
    /// New instances that are too many.
    pub drop: u32,
}

/// Decides the next moves towards `target` instances of the new configuration.
///
/// No kill of a ready instance takes the app below `minimumHealthCapacity`.
pub fn moves(strategy: &UpgradeStrategy, target: u32, census: Census) -> Moves {
    let healthy_min = strategy.healthy_min(target);
    let mut capacity = strategy.capacity_max(target);
    let ready = census.old_ready + census.new_ready;
    // Without room above and without leave to go below nothing could ever move: as in Marathon,
    // one instance more may run for a while.
    if capacity == healthy_min && ready >= healthy_min {
        capacity += 1;
    }
    let all = census.old_ready + census.old_unready + census.new_all + census.dying;
    let missing = target.saturating_sub(census.new_all);
    let launch = missing.min(capacity.saturating_sub(all));
    let spare = ready.saturating_sub(healthy_min);
    let (kill_unready, kill_ready) = if spare > 0 {
        (census.old_unready, spare.min(census.old_ready))
    } else if census.new_all >= target && census.new_ready >= target {
        (census.old_unready, 0)
    } else {
        // Too few are healthy to spare any. Old instances that do no work make room only where
        // a new one needs it; they may yet recover.
        let room_wanted = missing.saturating_sub(launch).saturating_sub(census.dying);
        (census.old_unready.min(room_wanted), 0)
    };
    Moves {
        kill_unready,
        kill_ready,
        launch,
        drop: census.new_all.saturating_sub(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strategy(min: f64, over: f64) -> UpgradeStrategy {
        UpgradeStrategy {
            minimum_health_capacity: min,
            maximum_over_capacity: over,
        }
    }

    /// A restart where everything that is asked for happens, in an order drawn by chance.
    /// Returns the fewest ready and the most launched instances on the way.
    fn play(
        strategy: UpgradeStrategy,
        before: u32,
        unready: u32,
        target: u32,
        chances: &[u8],
    ) -> Option<(u32, u32)> {
        let mut c = Census {
            old_ready: before - unready,
            old_unready: unready,
            ..Census::default()
        };
        let (mut fewest, mut most) = (c.old_ready, before);
        let mut chances = chances.iter().copied().cycle();
        for _ in 0..20_000 {
            let m = moves(&strategy, target, c);
            c.old_ready -= m.kill_ready;
            c.old_unready -= m.kill_unready;
            c.dying += m.kill_ready + m.kill_unready;
            c.new_all += m.launch;
            fewest = fewest.min(c.old_ready + c.new_ready);
            most = most.max(c.old_ready + c.old_unready + c.new_all + c.dying);
            if c.old_ready + c.old_unready + c.dying == 0 && c.new_ready == target {
                return Some((fewest, most));
            }
            match chances.next().unwrap_or(0) % 2 {
                0 if c.dying > 0 => c.dying -= 1,
                _ if c.new_ready < c.new_all => c.new_ready += 1,
                _ if c.dying > 0 => c.dying -= 1,
                _ => {}
            }
        }
        None
    }

    proptest! {
        #[test]
        fn a_restart_ends_and_keeps_minimum_health_and_maximum_capacity(
            min in 0.0_f64..=1.0,
            over in 0.0_f64..=1.0,
            edges in 0_u8..4,
            before in 0_u32..12,
            sick in 0_u32..12,
            target in 0_u32..12,
            chances in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let min = if edges & 1 == 1 { min.round() } else { min };
            let over = if edges & 2 == 2 { over.round() } else { over };
            let sick = sick.min(before);
            let strategy = strategy(min, over);
            let played = play(strategy, before, sick, target, &chances);
            prop_assert!(played.is_some(), "the restart never ends");
            let (fewest, most) = played.unwrap_or_default();
            // The oracle: the share of the target, or what there was when it was less.
            let floor = strategy.healthy_min(target).min(before - sick);
            prop_assert!(fewest >= floor, "{fewest} ready, {floor} promised");
            let ceiling = strategy.capacity_max(target).max(before);
            prop_assert!(most <= ceiling + 1, "{most} launched, {ceiling} allowed and one more");
        }
    }

    #[test]
    fn the_default_strategy_launches_all_new_ones_first() {
        let census = Census {
            old_ready: 3,
            ..Census::default()
        };
        let m = moves(&strategy(1.0, 1.0), 3, census);
        assert_eq!((m.launch, m.kill_ready), (3, 0));
    }

    #[test]
    fn without_leave_in_either_direction_one_more_may_run() {
        let census = Census {
            old_ready: 2,
            ..Census::default()
        };
        let m = moves(&strategy(1.0, 0.0), 2, census);
        assert_eq!((m.launch, m.kill_ready), (1, 0));
    }

    #[test]
    fn sick_instances_are_killed_first_and_make_room() {
        let census = Census {
            old_unready: 4,
            ..Census::default()
        };
        let m = moves(&strategy(0.5, 0.0), 4, census);
        assert_eq!((m.launch, m.kill_unready), (0, 4));
    }
}
