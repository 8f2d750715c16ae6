//! Who does not want what: filters, suppression, smallest bundles, maintenance.

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_allocator::Unavailability;

use crate::support::cluster::{amounts, scenario};
use crate::support::{a, f, role, roles};

/// `HierarchicalAllocatorTest.OfferFilter`
#[test]
fn a_declined_offer_comes_again_when_its_filter_ends_and_not_before() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.agent("a1", "cpus:2; mem:1024");
        let offer = c.only_offer();
        c.decline(&offer, 5);
        assert_eq!(
            c.module.next_deadline(),
            Some(c.now + Duration::from_secs(5))
        );
        c.later(4);
        assert_eq!(c.offers(), [""; 0]);
        c.later(1);
        assert_eq!(c.offers(), ["f1/* a1 cpus:2; mem:1024"]);
    });
}

/// `HierarchicalAllocatorTest.SmallOfferFilterTimeout`
#[test]
fn a_filter_shorter_than_the_time_between_rounds_still_lets_the_other_one_have_it() {
    scenario(|c| {
        c.framework("f1", &["role1"]);
        c.framework("f2", &["role2"]);
        c.agent_in_use(
            "a1",
            "cpus:1; mem:512",
            &[("f2", "role2", "cpus:1; mem:512")],
        );
        c.agent("a2", "cpus:1; mem:512");
        // role1 has the smaller share.
        let offer = c.only_offer();
        assert_eq!(offer.framework, f("f1"));
        let shortly = allotment_allocator::Recovery::Declined {
            refuse_for: Duration::from_millis(1),
            used_some: false,
        };
        let back = crate::support::grant_of(&offer);
        c.module.recover(c.now, &offer.agent, &back, shortly);
        // The next round is at once, not after an interval that outlives the filter.
        assert_eq!(c.offers(), ["f2/role2 a2 cpus:1; mem:512"]);
    });
}

/// `HierarchicalAllocatorTest.SuppressAndReviveOffers`
#[test]
fn a_framework_that_suppressed_is_offered_nothing_until_it_revives() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.agent("a1", "cpus:2; mem:1024");
        let offer = c.only_offer();
        c.decline(&offer, 3600);
        c.module.suppress(&f("f1"), &BTreeSet::new());
        c.agent("a2", "cpus:2; mem:1024");
        assert_eq!(c.offers(), [""; 0]);
        // Revive ends the filter, too.
        c.module.revive(&f("f1"), &BTreeSet::new());
        assert_eq!(
            c.offers(),
            ["f1/* a2 cpus:2; mem:1024", "f1/* a1 cpus:2; mem:1024"]
        );
    });
}

/// `HierarchicalAllocatorTest.SuppressAndReviveOffersWithMultiRole`
#[test]
fn suppressing_one_role_leaves_the_others_of_the_framework_alone() {
    scenario(|c| {
        c.framework("f1", &["role1", "role2"]);
        c.module.suppress(&f("f1"), &roles(&["role1"]));
        c.agent("a1", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f1/role2 a1 cpus:1; mem:512"]);
        c.module.suppress(&f("f1"), &roles(&["role2"]));
        c.agent("a2", "cpus:1; mem:512");
        assert_eq!(c.offers(), [""; 0]);
        c.module.revive(&f("f1"), &roles(&["role1"]));
        assert_eq!(c.offers(), ["f1/role1 a2 cpus:1; mem:512"]);
        c.module.suppress(&f("f1"), &roles(&["role1"]));
        c.module.revive(&f("f1"), &BTreeSet::new());
        c.agent("a3", "cpus:1; mem:512");
        assert_eq!(c.offers(), ["f1/role1 a3 cpus:1; mem:512"]);
    });
}

/// `HierarchicalAllocatorTest.FrameworkMinAllocatable`, `HierarchicalAllocatorTest.MinAllocatable`
#[test]
fn a_framework_is_offered_no_less_than_one_of_the_smallest_bundles_of_that_role() {
    scenario(|c| {
        c.framework_with("f1", &["role1", "role2"], |spec| {
            let smallest = vec![amounts("cpus:2"), amounts("cpus:1; mem:2048")];
            for (name, spec) in &mut spec.roles {
                if *name == role("role1") {
                    spec.min_allocatable = Some(smallest.clone());
                } else {
                    spec.suppressed = true;
                }
            }
        });
        c.agent("a1", "cpus:1; mem:1024");
        assert_eq!(c.offers(), [""; 0]);
        c.agent("a2", "cpus:1; mem:2048");
        assert_eq!(c.offers(), ["f1/role1 a2 cpus:1; mem:2048"]);
        c.agent("a3", "cpus:2; mem:1");
        assert_eq!(c.offers(), ["f1/role1 a3 cpus:2; mem:1"]);
        // The other role wants what the module is configured to, and somebody else wants crumbs.
        c.module.revive(&f("f1"), &roles(&["role2"]));
        assert_eq!(c.offers(), ["f1/role2 a1 cpus:1; mem:1024"]);
        c.agent("a4", "cpus:0.001; mem:1");
        assert_eq!(c.offers(), [""; 0]);
        c.framework_with("f2", &["role2"], |spec| {
            for spec in spec.roles.values_mut() {
                spec.min_allocatable = Some(Vec::new());
            }
        });
        assert_eq!(c.offers(), ["f2/role2 a4 cpus:0.001; mem:1"]);
    });
}

/// `HierarchicalAllocatorTest.MaintenanceInverseOffers`
#[test]
fn whoever_holds_something_on_an_agent_that_will_be_away_is_asked_once_to_leave() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.framework("f2", &["*"]);
        c.agent_in_use("a1", "cpus:2; mem:1024", &[("f1", "*", "cpus:2; mem:1024")]);
        let away = Unavailability {
            start: c.now + Duration::from_secs(60),
            duration: None,
        };
        c.module.set_unavailability(&a("a1"), Some(away));
        let round = c.round();
        assert_eq!(round.allocations, []);
        assert_eq!(round.inverse.len(), 1);
        let inverse = &round.inverse[0];
        assert_eq!(
            (&inverse.framework, &inverse.agent, inverse.unavailability),
            (&f("f1"), &a("a1"), away)
        );
        assert_eq!(c.round().inverse, []);
        // It declines for 5 s, and is asked again.
        let until = c.now + Duration::from_secs(5);
        c.module.answer_inverse(&a("a1"), &f("f1"), Some(until));
        assert_eq!(c.module.next_deadline(), Some(until));
        c.later(4);
        assert_eq!(c.round().inverse, []);
        c.later(1);
        assert_eq!(c.round().inverse, round.inverse);
        // The agent goes on being offered; who takes something there is asked at once.
        c.module.suppress(&f("f1"), &BTreeSet::new());
        c.ends("a1", "f1", "*", "cpus:2; mem:1024");
        let round = c.round();
        assert_eq!(round.allocations.len(), 1);
        let taker = &round.allocations[0].framework;
        let asked: Vec<_> = round.inverse.iter().map(|x| &x.framework).collect();
        assert_eq!((taker, asked), (&f("f2"), vec![&f("f2")]));
        c.module.set_unavailability(&a("a1"), None);
        c.module.answer_inverse(&a("a1"), &f("f2"), None);
        assert_eq!(c.round().inverse, []);
    });
}
