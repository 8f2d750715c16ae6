//! What must not hurt: huge amounts, shredded ports, masses of roles, extreme weights, frameworks
//! that come and go. Nothing here measures time; where a bound is about work, work is counted.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_allocator::{Allocator, Amounts, Drf, Grant, Quota, Recovery, Settings};
use allotment_types::{Fixed, Lot, Name, Ranges, Resources, Timestamp, Value};
use support::cluster::{Cluster, grant, scenario};
use support::{a, assert_conserved, f, grant_of, idle, in_roles, lines, res, role};

const NOW: Timestamp = Timestamp::from_secs(1);
const DECLINED: Recovery = Recovery::Declined {
    refuse_for: Duration::from_secs(60),
    used_some: false,
};

fn huge(thousandths: u64) -> Resources {
    Resources::EMPTY
        .with_scalar(Name::CPUS, Fixed::from_thousandths(thousandths))
        .with_scalar(Name::MEM, Fixed::units(4096))
}

fn agent_of(total: Resources) -> allotment_allocator::AgentSpec {
    allotment_allocator::AgentSpec {
        total,
        ..Default::default()
    }
}

/// Names each of which comes between the first and the one before it: `m`, `n`, `mn`, `mmn`, …
fn crowded() -> Vec<String> {
    let between = (0..100).map(|at| format!("{}n", "m".repeat(at)));
    std::iter::once("m".to_owned()).chain(between).collect()
}

/// As many agents, and a round that found nobody: from here on nothing is ordered anew for them.
fn ordered_agents(c: &mut Cluster, n: usize) {
    for n in 0..n {
        c.agent(&format!("a{n:03}"), "cpus:4");
    }
    assert!(c.offers().is_empty());
}

#[test]
fn frameworks_that_crowd_between_two_others_are_all_served_and_in_their_order() {
    scenario(|c| {
        let mut names = crowded();
        ordered_agents(c, names.len());
        for name in &names {
            c.framework(name, &["*"]);
        }
        let offers = c.round().allocations.into_iter();
        let served: Vec<String> = offers.map(|offer| offer.framework.to_string()).collect();
        names.sort();
        assert_eq!(served, names);
    });
}

#[test]
fn roles_that_crowd_between_two_others_are_all_served_and_in_their_order() {
    scenario(|c| {
        // The role above has clients itself: its virtual leaf `.` is before most, and behind a
        // name that begins with a plus.
        let mut names = crowded();
        names.extend([".".to_owned(), "+1".to_owned()]);
        ordered_agents(c, names.len());
        for (n, name) in names.iter().enumerate() {
            let role = if name == "." {
                "eng".to_owned()
            } else {
                format!("eng/{name}")
            };
            c.framework(&format!("f{n}"), &[&role]);
        }
        let offers = c.round().allocations.into_iter();
        let served: Vec<String> = offers
            .map(|offer| {
                offer
                    .role
                    .as_str()
                    .strip_prefix("eng/")
                    .unwrap_or(".")
                    .to_owned()
            })
            .collect();
        names.sort();
        assert_eq!(served, names);
        assert_eq!(served[..3], ["+1", ".", "m"]);
    });
}

#[test]
fn agents_with_more_than_any_sum_can_hold_are_shared_out_all_the_same() {
    scenario(|c| {
        for n in 0..4 {
            c.module
                .add_agent(&a(&format!("a{n}")), agent_of(huge(u64::MAX)));
        }
        c.framework("f1", &["x"]);
        c.framework("f2", &["y/z"]);
        c.module.set_weight(&role("x"), u64::MAX);
        c.module.set_weight(&role("y"), 1);
        let offers = c.round().allocations;
        assert_eq!(offers.len(), 4);
        for n in 0..4 {
            assert_conserved(&*c.module, &a(&format!("a{n}")), &huge(u64::MAX));
        }
        // The first tie falls to `x`; then `y` is next; from then on `y` with the smallest weight
        // has by far the larger share.
        assert_eq!(c.agents_of(&["f1", "f2"], 4), [3, 1]);
        for offer in &offers {
            c.rescind(offer);
        }
        let share = c.module.role_share(&role("x"));
        assert_eq!(share.numerator, 0);
    });
}

#[test]
fn an_agent_that_comes_back_smaller_than_what_runs_on_it_holds_no_more_than_it_has() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        let used = [
            ("f1", "*", "cpus:8; mem:8192"),
            ("f2", "*", "cpus:8; ports:[1-10]"),
        ];
        c.agent_in_use("a1", "cpus:16; mem:16384; ports:[1-20]", &used);
        c.agent_in_use("a1", "cpus:10; mem:1024; ports:[5-6]", &used);
        let held = c.module.held(&a("a1"));
        assert_eq!(
            held,
            [
                grant("f1", "*", "cpus:8; mem:1024"),
                grant("f2", "*", "cpus:2; ports:[5-6]")
            ]
        );
        assert!(c.module.free(&a("a1")).is_empty());
        // What it once had cannot come back.
        c.ends("a1", "f1", "*", "cpus:16; mem:16384; disk:5");
        assert_eq!(c.module.free(&a("a1")), res("cpus:8; mem:1024"));
        c.agent("a1", "");
        assert_eq!(c.offers(), [""; 0]);
    });
}

/// Every second port of 20,000.
fn shreds() -> Resources {
    let ports = Ranges::new((0..10_000).map(|n| (2 * n + 1, 2 * n + 1)));
    res("cpus:4; mem:4096").with_ranges(Name::PORTS, ports)
}

#[test]
fn ten_thousand_fragments_of_ports_are_offered_declined_and_filtered_exactly() {
    let mut drf = Drf::new(Settings::default());
    let (whole, ids) = (shreds(), ["f1", "f2"]);
    for n in 0..20 {
        drf.add_agent(&a(&format!("a{n}")), agent_of(whole.clone()));
    }
    for id in ids {
        drf.add_framework(&f(id), in_roles(&["*"]));
    }
    let decline = |drf: &mut Drf| {
        let offers = drf.allocate(NOW).allocations;
        for offer in &offers {
            assert_eq!(offer.resources, whole);
            drf.recover(NOW, &offer.agent, &grant_of(offer), DECLINED);
        }
        offers.len()
    };
    assert_eq!(
        (decline(&mut drf), decline(&mut drf), decline(&mut drf)),
        (20, 20, 0)
    );
    // One fragment that comes free makes the bundle larger than what was declined without it.
    drf.suppress(&f("f2"), &BTreeSet::new());
    let used = Grant {
        resources: Resources::EMPTY.with_ranges(Name::PORTS, Ranges::new([(1, 1)])),
        ..grant("f3", "*", "")
    };
    let mut spec = agent_of(whole.clone());
    spec.used = vec![used.clone()];
    drf.add_agent(&a("a0"), spec);
    let offers = drf.allocate(NOW).allocations;
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].resources, whole.minus(&used.resources));
    drf.recover(NOW, &a("a0"), &grant_of(&offers[0]), DECLINED);
    assert_eq!(drf.allocate(NOW).allocations, []);
    drf.recover(NOW, &a("a0"), &used, Recovery::Ended);
    let offers = drf.allocate(NOW).allocations;
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].resources, whole);
}

#[test]
fn a_million_roles_come_and_go_and_leave_nothing_behind() {
    let mut drf = Drf::new(Settings::default());
    drf.add_agent(&a("a1"), idle("cpus:4; mem:4096"));
    // A framework that moves on to other roles with each subscription, 1,000 at a time.
    for batch in 0..1000 {
        let names: Vec<String> = (0..1000).map(|n| format!("r{batch}/s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        drf.add_framework(&f("f1"), in_roles(&names));
    }
    let offers = drf.allocate(NOW).allocations;
    assert_eq!(lines(&offers), ["f1/r999/s0 a1 cpus:4; mem:4096"]);
    drf.recover(NOW, &a("a1"), &grant_of(&offers[0]), Recovery::Rescinded);
    // The counts of the roles that it left are gone: they come back as new ones.
    drf.add_framework(&f("f1"), in_roles(&["r0/s0", "r999/s0"]));
    let offers = drf.allocate(NOW).allocations;
    assert_eq!(lines(&offers), ["f1/r0/s0 a1 cpus:4; mem:4096"]);
    drf.remove_framework(&f("f1"));
    assert_eq!(drf.role_share(&role("r0")).numerator, 0);
    assert_eq!(drf.next_deadline(), None);
}

#[test]
fn a_framework_that_subscribes_and_leaves_in_a_loop_disturbs_nobody() {
    scenario(|c| {
        c.framework("steady", &["*"]);
        c.agent("a1", "cpus:1; mem:1024");
        assert_eq!(c.offers().len(), 1);
        c.agent("a2", "cpus:1; mem:1024");
        for n in 0..200 {
            c.framework("fickle", &["*", "more"]);
            let offer = c.only_offer();
            assert_eq!(offer.framework, f("fickle"), "its share is lower");
            match n % 3 {
                0 => c.decline(&offer, 3600),
                1 => c.module.deactivate_framework(&f("fickle")),
                _ => {}
            }
            c.module.remove_framework(&f("fickle"));
            assert_eq!(c.module.free(&a("a2")), res("cpus:1; mem:1024"));
            assert_eq!(c.module.next_deadline(), None, "its filter is gone");
        }
        assert_eq!(c.offers(), ["steady/* a2 cpus:1; mem:1024"]);
    });
}

#[test]
fn a_guarantee_beyond_the_cluster_takes_what_is_free_and_no_more() {
    scenario(|c| {
        let all = Amounts::from([
            (Name::CPUS, Fixed::from_thousandths(u64::MAX)),
            (Name::from("unobtainium"), Fixed::from_thousandths(u64::MAX)),
        ]);
        for name in ["greedy", "greedier", "greedier/still"] {
            let quota = Quota {
                guarantees: all.clone(),
                limits: Amounts::new(),
            };
            c.module.set_quota(&role(name), quota);
        }
        c.framework("f1", &["greedier/still"]);
        c.framework("f2", &["modest"]);
        c.agent("a1", "cpus:4; mem:4096");
        assert_eq!(c.offers(), ["f1/greedier/still a1 cpus:4; mem:4096"]);
        // What nobody may take is kept, and what nobody was promised is not.
        c.module.suppress(&f("f1"), &BTreeSet::new());
        c.agent("a2", "cpus:4; mem:4096");
        assert_eq!(c.offers(), ["f2/modest a2 mem:4096"]);
    });
}

#[test]
fn a_demand_that_no_cluster_can_meet_costs_no_more_than_one_that_fits() {
    scenario(|c: &mut Cluster| {
        c.framework("f1", &["*"]);
        c.framework("f2", &["*"]);
        let endless = |cpus: u64| allotment_allocator::Demand {
            bundle: Amounts::from([(Name::CPUS, Fixed::from_thousandths(cpus))]),
            count: u32::MAX,
            hole: true,
        };
        c.agent("a1", "cpus:4; mem:4096");
        c.module
            .set_demand(&f("f1"), &role("*"), Some(endless(u64::MAX)));
        assert_eq!(c.offers(), ["f2/* a1 cpus:4; mem:4096"]);
        assert_eq!(c.module.holes(), [], "it would fit nowhere");
        // A bundle of a thousandth of a core, more often than there are thousandths.
        c.module.set_demand(&f("f1"), &role("*"), Some(endless(1)));
        c.ends("a1", "f2", "*", "cpus:4");
        assert_eq!(c.offers(), ["f1/* a1 cpus:4"]);
    });
}

#[test]
fn lots_by_the_hundred_are_kept_apart() {
    let mut drf = Drf::new(Settings::default());
    let lot = |n: u32| Lot::reserved_statically(role(&format!("r{n}")));
    let total = (0..500).fold(res("cpus:1; mem:64"), |total, n| {
        let one = Value::Scalar(Fixed::units(1));
        total.with(Name::CPUS, lot(n), one)
    });
    drf.add_agent(&a("a1"), agent_of(total.clone()));
    for n in 0..500 {
        drf.add_framework(&f(&format!("f{n}")), in_roles(&[&format!("r{n}")]));
    }
    let offers = drf.allocate(NOW).allocations;
    assert_eq!(offers.len(), 500);
    let reserved = |offer: &allotment_allocator::Allocation| {
        let own = Lot::reserved_statically(offer.role.clone());
        offer.resources.get(&Name::CPUS, &own).is_some()
    };
    assert!(offers.iter().all(reserved));
    assert_conserved(&drf, &a("a1"), &total);
}
