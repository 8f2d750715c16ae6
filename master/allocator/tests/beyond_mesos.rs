//! What Mesos' allocator has not: demands, holes, stepping aside, placement. One fact each, played
//! to the reference, too.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_allocator::{Demand, Placement, Recovery, Settings};
use support::cluster::{Cluster, amounts, scenario, scenario_with};
use support::{a, f, grant_of, res, role};

fn demands(c: &mut Cluster, framework: &str, bundle: &str, count: u32, hole: bool) {
    let demand = Demand {
        bundle: amounts(bundle),
        count,
        hole,
    };
    c.module.set_demand(&f(framework), &role("*"), Some(demand));
}

#[test]
fn a_demand_is_offered_whole_bundles_of_several_agents_and_then_nothing() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        for id in ["a1", "a2", "a3"] {
            c.agent(id, "cpus:5; mem:4096; disk:100; ports:[1-9]");
        }
        demands(c, "f1", "cpus:2; mem:1024", 5, false);
        assert_eq!(
            c.offers(),
            [
                "f1/* a1 cpus:4; mem:2048",
                "f1/* a2 cpus:4; mem:2048",
                "f1/* a3 cpus:2; mem:1024",
            ]
        );
        c.agent("a4", "cpus:5; mem:4096");
        assert_eq!(c.offers(), [""; 0]);
        // Without a demand it takes whatever its share brings.
        c.module.set_demand(&f("f1"), &role("*"), None);
        assert_eq!(c.offers().len(), 4);
    });
}

#[test]
fn where_no_bundle_fits_others_are_served() {
    scenario(|c| {
        c.framework("f1", &["*"]);
        c.framework("f2", &["*"]);
        c.agent("a1", "cpus:1; mem:4096");
        demands(c, "f1", "cpus:2", 1, false);
        assert_eq!(c.offers(), ["f2/* a1 cpus:1; mem:4096"]);
        // The lowest ports, as many as the bundle counts.
        c.agent("a2", "cpus:3; mem:4096; ports:[7-8, 3-4]");
        let demand = Demand {
            bundle: [("cpus", 1), ("ports", 1)]
                .map(|(name, n)| (name.into(), allotment_types::Fixed::units(n)))
                .into(),
            count: 3,
            hole: false,
        };
        c.module.set_demand(&f("f1"), &role("*"), Some(demand));
        assert_eq!(
            c.offers(),
            [
                "f1/* a2 cpus:3; ports:[3-4, 7-7]",
                "f2/* a2 mem:4096; ports:[8-8]",
            ]
        );
    });
}

/// Two agents of 4 cores, on each of which `f2` holds some; `f1` waits for 4.
fn crowded(c: &mut Cluster) {
    c.agent_in_use("a1", "cpus:4; mem:4096", &[("f2", "*", "cpus:4")]);
    c.agent_in_use("a2", "cpus:4; mem:4096", &[("f2", "*", "cpus:2")]);
    c.framework("f1", &["*"]);
    demands(c, "f1", "cpus:4", 1, true);
    c.framework("f2", &["*"]);
}

#[test]
fn a_hole_is_kept_on_the_agent_that_lacks_least_until_the_task_fits() {
    scenario(|c| {
        crowded(c);
        // Before there is a hole, `f2` takes what is free.
        assert_eq!(c.offers(), ["f2/* a1 mem:4096", "f2/* a2 cpus:2; mem:4096"]);
        let holes = c.module.holes();
        assert_eq!(holes.len(), 1);
        assert_eq!((&holes[0].agent, &holes[0].framework), (&a("a1"), &f("f1")));
        assert_eq!(holes[0].until, c.now + Duration::from_secs(600));
        // What comes free there is kept; elsewhere it is not.
        c.ends("a1", "f2", "*", "cpus:3");
        c.ends("a2", "f2", "*", "cpus:1");
        assert_eq!(c.offers(), ["f2/* a2 cpus:1"]);
        c.ends("a1", "f2", "*", "cpus:1");
        assert_eq!(c.offers(), ["f1/* a1 cpus:4"]);
        assert_eq!(c.module.holes(), []);
    });
}

#[test]
fn a_hole_that_is_not_filled_in_time_is_given_up_and_not_kept_again_at_once() {
    scenario(|c| {
        crowded(c);
        c.round();
        c.ends("a1", "f2", "*", "cpus:3");
        assert_eq!(c.offers(), [""; 0]);
        c.later(600);
        assert_eq!(c.offers(), ["f2/* a1 cpus:3"]);
        assert_eq!(c.module.holes(), []);
        c.later(599);
        c.round();
        assert_eq!(c.module.holes(), []);
        c.later(1);
        c.round();
        assert_eq!(c.module.holes().len(), 1);
    });
}

#[test]
fn no_more_holes_are_kept_for_a_role_than_it_may_have() {
    for (holes_per_role, expected) in [(0, 0), (1, 1), (2, 2)] {
        let settings = Settings {
            holes_per_role,
            ..Settings::default()
        };
        scenario_with(&settings, |c| {
            for n in 0..3 {
                let id = format!("a{n}");
                c.agent_in_use(&id, "cpus:4; mem:64", &[("f9", "*", "cpus:4")]);
                c.framework(&format!("f{n}"), &["*"]);
                demands(c, &format!("f{n}"), "cpus:2", 1, true);
            }
            c.round();
            assert_eq!(c.module.holes().len(), expected);
        });
    }
}

#[test]
fn whoever_declines_three_times_in_a_row_comes_last_for_a_minute() {
    scenario(|c| {
        c.framework("busy", &["*"]);
        c.framework("idle", &["*"]);
        c.agent_in_use(
            "a1",
            "cpus:4; mem:4096",
            &[("busy", "*", "cpus:4; mem:4096")],
        );
        c.agent("a2", "cpus:1; mem:64");
        // The lower share is asked first, and declines without a filter.
        for _ in 0..3 {
            let offer = c.only_offer();
            assert_eq!(offer.framework, f("idle"));
            c.decline(&offer, 0);
        }
        assert_eq!(c.offers(), ["busy/* a2 cpus:1; mem:64"]);
        // Last, and not left out.
        c.module.suppress(&f("busy"), &BTreeSet::new());
        c.ends("a2", "busy", "*", "cpus:1; mem:64");
        let offer = c.only_offer();
        assert_eq!(offer.framework, f("idle"));
        c.module.revive(&f("busy"), &BTreeSet::new());
        c.rescind(&offer);
        c.later(60);
        assert_eq!(c.offers(), ["idle/* a2 cpus:1; mem:64"]);
    });
}

/// `poor` holds nothing and declines a core three times; `rich` holds four.
fn poor_declines_crumbs(c: &mut Cluster) {
    c.framework("poor", &["poor"]);
    c.framework("rich", &["rich"]);
    let used = [("rich", "rich", "cpus:4; mem:64")];
    c.agent_in_use("a1", "cpus:5; mem:128", &used);
    let used = [("rich", "rich", "cpus:2; mem:512")];
    c.agent_in_use("a2", "cpus:2; mem:512", &used);
    for _ in 0..3 {
        let offer = c.only_offer();
        assert_eq!(offer.framework, f("poor"));
        c.decline(&offer, 0);
    }
}

#[test]
fn whoever_declines_crumbs_steps_aside_from_crumbs_alone() {
    scenario(|c| {
        poor_declines_crumbs(c);
        assert_eq!(c.offers(), ["rich/rich a1 cpus:1; mem:64"]);
        // As much on another agent is no more.
        c.ends("a2", "rich", "rich", "cpus:1; mem:64");
        assert_eq!(c.offers(), ["rich/rich a2 cpus:1; mem:64"]);
    });
    // Two cores are more than it declined, even when another amount is less.
    scenario(|c| {
        poor_declines_crumbs(c);
        assert_eq!(c.offers(), ["rich/rich a1 cpus:1; mem:64"]);
        c.ends("a2", "rich", "rich", "cpus:2; mem:32");
        assert_eq!(c.offers(), ["poor/poor a2 cpus:2; mem:32"]);
    });
}

#[test]
fn what_was_declined_apart_is_not_declined_together() {
    scenario(|c| {
        c.framework("poor", &["poor"]);
        c.framework("rich", &["rich"]);
        for agent in ["a1", "a2", "a3"] {
            let used = [("rich", "rich", "cpus:8; mem:4096")];
            c.agent_in_use(agent, "cpus:8; mem:4096", &used);
        }
        let much_of_one = ["cpus:4; mem:64", "cpus:1; mem:2048", "cpus:4; mem:64"];
        for (agent, free) in ["a1", "a2", "a3"].into_iter().zip(much_of_one) {
            c.ends(agent, "rich", "rich", free);
            let offer = c.only_offer();
            assert_eq!(offer.framework, f("poor"));
            c.decline(&offer, 1000);
            assert_eq!(c.only_offer().framework, f("rich"));
        }
        c.ends("a1", "rich", "rich", "cpus:1; mem:64");
        assert_eq!(c.only_offer().framework, f("rich"));
        c.ends("a2", "rich", "rich", "cpus:4; mem:2048");
        assert_eq!(c.only_offer().framework, f("poor"));
    });
}

#[test]
fn whoever_stepped_aside_is_first_again_when_it_uses_something_or_an_agent_comes() {
    let aside = |c: &mut Cluster| {
        c.framework("busy", &["*"]);
        c.framework("idle", &["*"]);
        c.agent_in_use(
            "a1",
            "cpus:4; mem:4096",
            &[("busy", "*", "cpus:4; mem:4096")],
        );
        c.agent("a2", "cpus:1; mem:64");
        for _ in 0..3 {
            let offer = c.only_offer();
            c.decline(&offer, 0);
        }
    };
    scenario(|c| {
        aside(c);
        c.agent("a3", "cpus:1; mem:64");
        assert_eq!(c.offers()[0], "idle/* a3 cpus:1; mem:64");
    });
    scenario(|c| {
        aside(c);
        let offer = c.only_offer();
        assert_eq!(offer.framework, f("busy"));
        c.rescind(&offer);
        // It used an earlier offer after all.
        let mut nothing = grant_of(&offer);
        nothing.framework = f("idle");
        nothing.resources = res("");
        let used = Recovery::Declined {
            refuse_for: Duration::ZERO,
            used_some: true,
        };
        c.module.recover(c.now, &a("a2"), &nothing, used);
        assert_eq!(c.offers(), ["idle/* a2 cpus:1; mem:64"]);
    });
}

#[test]
fn agents_are_filled_up_or_spread_over_as_the_placement_says() {
    for (placement, expected) in [
        (Placement::Spread, ["a3", "a1", "a2"]),
        (Placement::Pack, ["a2", "a1", "a3"]),
        (Placement::Rotate, ["a1", "a2", "a3"]),
    ] {
        let settings = Settings {
            placement,
            ..Settings::default()
        };
        scenario_with(&settings, |c| {
            c.agent_in_use("a1", "cpus:4; mem:64", &[("f9", "*", "cpus:2")]);
            c.agent_in_use("a2", "cpus:8; mem:64", &[("f9", "*", "cpus:6")]);
            c.agent("a3", "cpus:2; mem:64");
            c.framework("f1", &["*"]);
            let agents: Vec<_> = c
                .round()
                .allocations
                .iter()
                .map(|x| x.agent.clone())
                .collect();
            assert_eq!(agents, expected.map(a));
        });
    }
}

#[test]
fn by_lot_the_same_seed_gives_the_same_order_and_another_seed_another() {
    let order = |seed: u64| {
        let settings = Settings {
            placement: Placement::Random,
            seed,
            ..Settings::default()
        };
        let orders = std::cell::RefCell::new(Vec::new());
        scenario_with(&settings, |c| {
            for n in 0..20 {
                c.agent(&format!("a{n}"), "cpus:4; mem:64");
            }
            c.framework("f1", &["*"]);
            orders.borrow_mut().push(c.offers());
        });
        orders.into_inner()
    };
    let one = order(1);
    assert_eq!(one[0], one[1], "the module and the reference");
    assert_eq!(one, order(1));
    assert_ne!(one, order(2));
}

#[test]
fn while_the_module_is_paused_facts_are_kept_and_nothing_is_offered() {
    scenario(|c| {
        c.module.pause();
        c.framework("f1", &["*"]);
        c.agent("a1", "cpus:4; mem:64");
        assert_eq!(c.offers(), [""; 0]);
        c.module.resume();
        assert_eq!(c.offers(), ["f1/* a1 cpus:4; mem:64"]);
    });
}
