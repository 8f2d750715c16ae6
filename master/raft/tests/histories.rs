//! Random bad nights: members that crash with torn disks, stop and wake, and a network that loses,
//! repeats, delays and reorders. Committed entries never differ, what was acknowledged survives,
//! two leases are never valid at once, and when the night is over the group works again.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod group;

use group::{Group, Night};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_committed_differs_and_nothing_acknowledged_is_lost(
        seed in any::<u64>(),
        n in prop::sample::select(vec![3u64, 4, 5]),
    ) {
        let mut group = Group::new(n, seed);
        group.live(Night::bad(), 400);
        group.live(Night::quiet(), 80);
        group.expect_agreement();
    }
}

#[test]
fn the_same_seed_gives_the_same_night() {
    let trace = |seed| {
        let mut group = Group::new(3, seed);
        group.live(Night::bad(), 200);
        group.trace()
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn a_group_of_one_leads_at_once_and_keeps_what_it_acknowledged() {
    let mut group = Group::new(1, 1);
    group.live(Night::quiet(), 1);
    assert!(group.acknowledged() > 0);
    group.crash(1, 0, false);
    group.restart(1);
    group.live(Night::quiet(), 1);
    group.expect_agreement();
}

#[test]
fn a_leader_that_was_stopped_wakes_without_a_lease_and_follows() {
    let mut group = Group::new(3, 5);
    group.live(Night::quiet(), 40);
    let old = group.leader().unwrap();
    group.stop(old);
    group.live(Night::quiet(), 60);
    let new = group.leader().unwrap();
    assert_ne!(old, new);
    group.wake(old);
    assert!(!group.has_lease(old), "before it heard anything");
    group.live(Night::quiet(), 20);
    assert_eq!(group.leader(), Some(new));
    group.expect_agreement();
}

#[test]
fn somebody_leads_as_soon_as_followers_have_waited_for_a_leader_that_is_gone() {
    for seed in 0..40 {
        let mut group = Group::new(3, seed);
        group.live(Night::quiet(), 40);
        let old = group.leader().unwrap();
        group.crash(old, 0, false);
        // The election timeout, what followers wait beyond it, and both rounds of votes.
        group.live(Night::quiet(), 12 + 2 + 2);
        let new = group.leader();
        assert!(new.is_some_and(|new| new != old), "{seed}: {new:?}");
        group.restart(old);
        group.live(Night::quiet(), 40);
        group.expect_agreement();
    }
}

#[test]
fn a_leader_whose_heir_hears_nothing_leads_again_only_in_another_term() {
    let mut group = Group::new(3, 5);
    group.live(Night::quiet(), 40);
    let old = group.leader().unwrap();
    let unheard = group.resign();
    assert!(!unheard.is_empty() && !group.has_lease(old));
    // The group looks that no term is led twice.
    group.live(Night::quiet(), 80);
    assert!(group.leader().is_some());
    group.expect_agreement();
}

#[test]
fn an_order_to_take_over_that_comes_late_ends_no_lease() {
    // Whenever it comes and whoever leads by then: nobody else has a lease, for the group looks.
    for ticks in 0..60 {
        let mut group = Group::new(3, 5);
        group.live(Night::quiet(), 40);
        let old = group.leader().unwrap();
        let late = group.resign();
        group.live(Night::quiet(), ticks);
        group.cut_off(old);
        group.arrives(late);
        group.live(Night::apart(), 60);
        group.live(Night::quiet(), 60);
        group.expect_agreement();
    }
}

#[test]
fn a_member_on_an_older_disk_says_so_and_votes_no_more() {
    let mut group = Group::new(3, 9);
    group.live(Night::quiet(), 40);
    let leader = group.leader().unwrap();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    group.lose_disk(follower);
    group.live(Night::quiet(), 40);
    assert!(group.has_failed(follower));
}

#[test]
fn a_new_member_is_sent_a_snapshot_and_becomes_a_voter() {
    let mut group = Group::new(1, 3);
    for _ in 0..50 {
        group.propose_anywhere();
    }
    group.live(Night::quiet(), 5);
    group.join(2);
    group.live(Night::quiet(), 60);
    assert_eq!(group.voters(), [1, 2]);
    group.join(3);
    group.live(Night::quiet(), 60);
    assert_eq!(group.voters(), [1, 2, 3]);
    group.crash(1, 0, false);
    group.live(Night::quiet(), 60);
    group.propose_anywhere();
    group.live(Night::quiet(), 20);
    group.restart(1);
    group.live(Night::quiet(), 60);
    group.expect_agreement();
}

#[test]
fn a_leader_that_is_removed_goes_on_until_the_others_know_it() {
    let mut group = Group::new(3, 7);
    group.live(Night::quiet(), 40);
    let old = group.leader().unwrap();
    group.remove(old);
    // More is under way behind the removal.
    for _ in 0..5 {
        group.propose_anywhere();
    }
    group.live(Night::quiet(), 20);
    group.leave(old);
    group.live(Night::quiet(), 60);
    assert_ne!(group.leader().unwrap(), old);
    group.expect_agreement();
}
