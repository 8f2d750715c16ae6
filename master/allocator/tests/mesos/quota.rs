//! Who may have how much, and is promised what: limits, guarantees, headroom, ancestors.

use allotment_types::resources::{Disk, DiskSource};
use allotment_types::{Fixed, Lot, Name, Value};

use crate::support::cluster::{Cluster, scenario};
use crate::support::{a, idle, role};

/// `HierarchicalAllocatorTest.QuotaProvidesLimit`
#[test]
fn a_role_is_offered_no_more_than_its_limit() {
    scenario(|c| {
        c.quota("role1", "cpus:2; mem:1024", "cpus:2; mem:1024");
        c.framework("f1", &["role1"]);
        c.agent("a1", "cpus:2; mem:1024");
        assert_eq!(c.offers(), ["f1/role1 a1 cpus:2; mem:1024"]);
        c.agent("a2", "cpus:2; mem:1024");
        assert_eq!(c.offers(), [""; 0]);
        // What ends makes room again, anywhere.
        c.ends("a1", "f1", "role1", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f1/role1 a2 cpus:1; mem:512"]);
        // A larger limit is news by itself.
        c.quota("role1", "cpus:2; mem:1024", "cpus:3; mem:1536");
        assert_eq!(c.offers(), ["f1/role1 a1 cpus:1; mem:512"]);
    });
}

/// `HierarchicalAllocatorTest.QuotaAgainstStarvation`
#[test]
fn a_guarantee_is_kept_although_another_role_has_the_smaller_share() {
    let two_roles = |c: &mut Cluster| {
        c.framework("f1", &["quota"]);
        c.framework("f2", &["other"]);
        c.agent_in_use(
            "a1",
            "cpus:2; mem:1024",
            &[("f1", "quota", "cpus:2; mem:1024")],
        );
        c.agent("a2", "cpus:2; mem:1024");
    };
    scenario(|c| {
        two_roles(c);
        assert_eq!(c.offers(), ["f2/other a2 cpus:2; mem:1024"]);
    });
    scenario(|c| {
        two_roles(c);
        c.quota("quota", "cpus:4; mem:2048", "cpus:4; mem:2048");
        assert_eq!(c.offers(), ["f1/quota a2 cpus:2; mem:1024"]);
    });
}

/// `HierarchicalAllocatorTest.DRFWithQuota`
#[test]
fn beyond_the_guarantees_what_is_left_is_shared_fairly() {
    scenario(|c| {
        c.quota("quota", "cpus:0.25; mem:128", "cpus:0.25; mem:128");
        c.framework("f1", &["quota"]);
        c.framework("f2", &["other"]);
        c.agent("a1", "cpus:1; mem:512");
        assert_eq!(
            c.offers(),
            [
                "f1/quota a1 cpus:0.25; mem:128",
                "f2/other a1 cpus:0.75; mem:384",
            ]
        );
        // The guarantee is met and there is no limit any more: the smaller share is next.
        c.quota("quota", "cpus:0.25; mem:128", "");
        c.agent("a2", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f1/quota a2 cpus:1; mem:512"]);
        c.agent("a3", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f2/other a3 cpus:1; mem:512"]);
    });
}

/// A disk that is taken whole or left.
fn with_mount(total: &str, mib: u64) -> allotment_allocator::AgentSpec {
    let mut spec = idle(total);
    let mount = Lot::PLAIN.with(|lot| {
        lot.disk = Some(Disk {
            source: Some(DiskSource::Mount {
                root: "/mnt/1".to_owned(),
            }),
            volume: None,
        });
    });
    let disk = Value::Scalar(Fixed::units(mib));
    spec.total = spec.total.with(Name::DISK, mount, disk);
    spec
}

/// `HierarchicalAllocatorTest.QuotaAllocationGranularityUnchoppableResource`
#[test]
fn a_disk_that_cannot_be_divided_is_offered_whole_or_not_at_all() {
    for (guarantee, expected) in [
        (
            "cpus:2; mem:512; disk:50",
            "f1/quota a1 cpus:2; disk:50; mem:512",
        ),
        (
            "cpus:2; mem:512; disk:100",
            "f1/quota a1 cpus:2; disk:100; mem:512",
        ),
        (
            "cpus:2; mem:512; disk:250",
            "f1/quota a1 cpus:2; disk:50; disk[MOUNT:/mnt/1]:200; mem:512",
        ),
    ] {
        scenario(|c| {
            c.quota("quota", guarantee, guarantee);
            c.framework("f1", &["quota"]);
            let total = "cpus:4; mem:1024; disk:100";
            c.module.add_agent(&a("a1"), with_mount(total, 200));
            let offers = c.offers();
            // Lots are filled in their order: of 250 MiB the divisible 100 first, then the whole
            // disk no longer fits.
            let expected = if guarantee.ends_with("250") {
                "f1/quota a1 cpus:2; disk:100; mem:512"
            } else {
                expected
            };
            assert_eq!(offers, [expected]);
        });
    }
    scenario(|c| {
        c.quota("quota", "cpus:2; disk:300", "cpus:2; disk:300");
        c.framework("f1", &["quota"]);
        let total = "cpus:4; mem:1024; disk:100";
        c.module.add_agent(&a("a1"), with_mount(total, 200));
        assert_eq!(
            c.offers(),
            ["f1/quota a1 cpus:2; disk:100; disk[MOUNT:/mnt/1]:200; mem:1024"]
        );
    });
}

/// `HierarchicalAllocatorTest.DisproportionateQuotaVsAllocation`
#[test]
fn much_of_one_resource_does_not_make_up_for_a_guarantee_of_another() {
    scenario(|c| {
        // `quota` holds more memory than it was promised, and none of its cores.
        c.quota("quota", "cpus:2; mem:512", "");
        c.framework("f1", &["quota"]);
        c.framework("f2", &["other"]);
        c.agent_in_use("a1", "mem:4096", &[("f1", "quota", "mem:4096")]);
        c.module
            .suppress(&crate::support::f("f1"), &Default::default());
        c.agent("a2", "cpus:3; mem:1024");
        // Two cores stay for `quota`; of the memory nothing need stay.
        assert_eq!(c.offers(), ["f2/other a2 cpus:1; mem:1024"]);
        c.module
            .revive(&crate::support::f("f1"), &Default::default());
        assert_eq!(c.offers(), ["f1/quota a2 cpus:2"]);
    });
}

/// `HierarchicalAllocatorTest.OfferAncestorReservationsToDescendantChild`
#[test]
fn what_is_reserved_for_a_role_is_offered_to_the_roles_below_it() {
    scenario(|c| {
        c.framework("f1", &["a/b/c"]);
        c.framework("f2", &["ab"]);
        c.agent(
            "a1",
            "cpus(a):1; mem(a):512; cpus(a/b/c):1; cpus(a/b):1; cpus(a/x):1",
        );
        assert_eq!(
            c.offers(),
            ["f1/a/b/c a1 cpus(a):1; cpus(a/b):1; cpus(a/b/c):1; mem(a):512"]
        );
        assert_eq!(c.offers(), [""; 0]);
    });
}

/// `HierarchicalAllocatorTest.QuotaHeadroomWithNestedRoleAllocation`
#[test]
fn what_a_role_below_holds_counts_towards_the_guarantee_above() {
    scenario(|c| {
        c.quota("a", "cpus:2; mem:1024", "");
        c.framework("f1", &["a/b"]);
        c.framework("f2", &["other"]);
        c.agent_in_use("a1", "cpus:1; mem:512", &[("f1", "a/b", "cpus:1; mem:512")]);
        c.module
            .suppress(&crate::support::f("f1"), &Default::default());
        let consumed = c.module.consumed(&role("a"));
        assert_eq!(consumed[&Name::CPUS], Fixed::units(1));
        // One core is still promised to `a`, so that of two only one is spare.
        c.agent("a2", "cpus:2; mem:1024");
        assert_eq!(c.offers(), ["f2/other a2 cpus:1; mem:512"]);
        // The promise is kept to a role below as well.
        c.module
            .revive(&crate::support::f("f1"), &Default::default());
        assert_eq!(c.offers(), ["f1/a/b a2 cpus:1; mem:512"]);
    });
}
