//! Who is next: shares, weights, counts.

use allotment_types::resources::{Disk, PersistentVolume};
use allotment_types::{Fixed, Lot, Name, Value};

use crate::support::cluster::{Cluster, grant, scenario};
use crate::support::{a, f, lines, role};

/// `HierarchicalAllocatorTest.UnreservedDRF`
#[test]
fn each_new_agent_is_offered_whole_to_whoever_has_the_smallest_share() {
    scenario(|c| {
        c.framework("f1", &["role1"]);
        c.agent("a1", "cpus:2; mem:1024");
        assert_eq!(c.offers(), ["f1/role1 a1 cpus:2; mem:1024"]);
        c.framework("f2", &["role2"]);
        c.agent("a2", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f2/role2 a2 cpus:1; mem:512"]);
        // Of 6 cores and 3,584 MiB: role1 has 2 and 1,024, role2 has 1 and 512.
        c.agent("a3", "cpus:3; mem:2048");
        assert_eq!(c.offers(), ["f2/role2 a3 cpus:3; mem:2048"]);
        // role1 now has the smaller share, and in it the new framework.
        c.framework("f3", &["role1"]);
        c.agent("a4", "cpus:4; mem:4096");
        assert_eq!(c.offers(), ["f3/role1 a4 cpus:4; mem:4096"]);
        // A framework that holds nothing does not help a role whose share is larger.
        c.framework("f4", &["role1"]);
        c.agent("a5", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f2/role2 a5 cpus:1; mem:512"]);
    });
}

/// `HierarchicalAllocatorTest.ReservedDRF`
#[test]
fn reserved_resources_that_a_role_holds_count_in_its_share() {
    scenario(|c| {
        c.framework("f1", &["role1"]);
        c.agent("a1", "cpus:1; cpus(role1):10");
        assert_eq!(c.offers(), ["f1/role1 a1 cpus:1; cpus(role1):10"]);
        c.framework("f2", &["role2"]);
        c.agent("a2", "cpus:2");
        assert_eq!(c.offers(), ["f2/role2 a2 cpus:2"]);
        // Had the reserved cores not counted, role1 with one core would be next.
        c.agent("a3", "cpus:1");
        assert_eq!(c.offers(), ["f2/role2 a3 cpus:1"]);
        // What is reserved goes to its role alone, whatever its share.
        c.agent("a4", "cpus:1; cpus(role1):10");
        assert_eq!(
            c.offers(),
            ["f2/role2 a4 cpus:1", "f1/role1 a4 cpus(role1):10"]
        );
    });
}

/// `HierarchicalAllocatorTest.NestedRoleDRF`
#[test]
fn siblings_share_what_their_parent_gets_and_a_parent_competes_as_one() {
    scenario(|c| {
        c.framework("f1", &["a/b"]);
        c.framework("f2", &["a/c"]);
        c.framework("f3", &["d/e"]);
        for n in 0..8 {
            c.agent(&format!("a{n}"), "cpus:1; mem:1024");
        }
        c.round();
        assert_eq!(c.agents_of(&["f1", "f2", "f3"], 8), [2, 2, 4]);
        // A framework in `a` itself competes with the children of `a`, as `a/.`.
        c.framework("f4", &["a"]);
        c.agent("a8", "cpus:1; mem:1024");
        assert_eq!(c.offers(), ["f4/a a8 cpus:1; mem:1024"]);
    });
}

/// `HierarchicalAllocatorTest.CoarseGrained`
#[test]
fn what_is_free_on_an_agent_goes_whole_to_one_framework() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.framework("f2", &["*"]);
        for n in 0..2 {
            c.agent(&format!("a{n}"), "cpus:2; mem:1024; ports:[1-9]");
        }
        assert_eq!(
            c.offers(),
            [
                "f1/* a0 cpus:2; mem:1024; ports:[1-9]",
                "f2/* a1 cpus:2; mem:1024; ports:[1-9]",
            ]
        );
        c.ends("a0", "f1", "*", "cpus:1; ports:[3-4]");
        c.ends("a1", "f2", "*", "cpus:2; mem:1024; ports:[1-9]");
        // Behind the agent that was granted last comes the other one.
        assert_eq!(
            c.offers(),
            [
                "f2/* a0 cpus:1; ports:[3-4]",
                "f2/* a1 cpus:2; mem:1024; ports:[1-9]",
            ]
        );
    });
}

/// `HierarchicalAllocatorTest.SameShareFairness`
#[test]
fn frameworks_with_the_same_share_are_offered_the_same_number_of_times() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.framework("f2", &["*"]);
        c.agent("a0", "cpus:2; mem:1024");
        let mut asked = Vec::new();
        for _ in 0..10 {
            let offer = c.only_offer();
            asked.push(offer.framework.to_string());
            c.rescind(&offer);
        }
        assert_eq!(asked.concat(), "f1f2".repeat(5));
    });
}

/// `DRFSorterTest.AllocationCountTieBreak`
#[test]
fn equal_shares_are_ordered_by_how_often_they_were_granted_and_then_by_name() {
    scenario(|c| {
        for (framework, role) in [("f3", "c"), ("f2", "b"), ("f1", "a")] {
            c.framework(framework, &[role]);
        }
        c.agent("a0", "cpus:1; mem:1024");
        let mut asked = Vec::new();
        for _ in 0..7 {
            let offer = c.only_offer();
            asked.push(offer.role.to_string());
            c.rescind(&offer);
        }
        assert_eq!(asked.concat(), "abcabca");
        // A role that comes later begins at none, so it is asked until it has caught up.
        c.framework("f4", &["d"]);
        let offer = c.only_offer();
        assert_eq!(offer.role, role("d"));
        c.rescind(&offer);
        assert_eq!(c.only_offer().role, role("d"));
    });
}

fn three_roles_of_twelve_agents(c: &mut Cluster) {
    for n in 0..12 {
        c.agent(&format!("a{n}"), "cpus:2; mem:1024");
    }
    for n in 1..=3 {
        c.framework(&format!("f{n}"), &[&format!("role{n}")]);
    }
}

/// `HierarchicalAllocatorTest.UpdateWeight`
#[test]
fn a_role_gets_in_proportion_to_its_weight() {
    scenario(|c| {
        three_roles_of_twelve_agents(c);
        for (role, weight) in [("role1", 1), ("role2", 2), ("role3", 3)] {
            c.weight(role, weight);
        }
        c.round();
        assert_eq!(c.agents_of(&["f1", "f2", "f3"], 12), [2, 4, 6]);
    });
}

/// `MasterAllocatorTest.RebalancedForUpdatedWeights`
#[test]
fn after_a_weight_changed_offers_that_come_back_follow_the_new_weights() {
    scenario(|c| {
        three_roles_of_twelve_agents(c);
        let offers = c.round().allocations;
        assert_eq!(c.agents_of(&["f1", "f2", "f3"], 12), [4, 4, 4]);
        for (role, weight) in [("role1", 1), ("role2", 2), ("role3", 3)] {
            c.weight(role, weight);
        }
        for offer in &offers {
            c.rescind(offer);
        }
        c.round();
        assert_eq!(c.agents_of(&["f1", "f2", "f3"], 12), [2, 4, 6]);
    });
}

/// `DRFSorterTest.SplitResourceShares`
#[test]
fn the_parts_of_a_resource_in_different_lots_count_together() {
    scenario(|c| {
        let volume = Lot::reserved_statically(role("role1")).with(|lot| {
            lot.disk = Some(Disk {
                source: None,
                volume: Some(PersistentVolume {
                    id: "v".to_owned(),
                    principal: None,
                    container_path: "data".to_owned(),
                    read_only: false,
                }),
            });
        });
        let five = Value::Scalar(Fixed::units(5));
        let used = grant("f1", "role1", "disk:5")
            .resources
            .with(Name::DISK, volume, five);
        let rest = grant("f1", "role1", "cpus:2; mem:1; disk:90").resources;
        let mut spec = crate::support::idle("cpus:1");
        spec.total = rest.plus(&used);
        let mut part = grant("f1", "role1", "cpus:1");
        part.resources.add(&used);
        spec.used = vec![part];
        c.module.add_agent(&a("a1"), spec);
        // 10 of 95 MiB of disk, 1 of 2 cores.
        let share = c.module.role_share(&role("role1"));
        assert_eq!((share.numerator, share.denominator), (1000, 2000));
        c.ends("a1", "f1", "role1", "cpus:1");
        let share = c.module.role_share(&role("role1"));
        let held = u128::from(share.numerator) * 100;
        assert_eq!(held, u128::from(share.denominator) * 10);
    });
}

/// `HierarchicalAllocatorTest.NoDoubleAccounting`
#[test]
fn what_runs_on_an_agent_counts_once_whoever_registers_first() {
    scenario(|c| {
        let used = [("f1", "*", "cpus:1")];
        c.agent_in_use("a1", "cpus:2", &used);
        c.framework("f1", &["*"]);
        c.agent_in_use("a2", "cpus:2", &used);
        // Again, as after a failover of the master.
        c.agent_in_use("a1", "cpus:2", &used);
        c.framework("f1", &["*"]);
        let share = c.module.framework_share(&f("f1"));
        assert_eq!((share.numerator, share.denominator), (2000, 4000));
        assert_eq!(
            lines(&c.round().allocations),
            ["f1/* a2 cpus:1", "f1/* a1 cpus:1"]
        );
    });
}
