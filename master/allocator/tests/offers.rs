//! Filters, suppression and explanations, one fact each.

mod support;

use std::time::Duration;

use allotment_allocator::{AgentSpec, Allocator, Drf, Grant};
use allotment_types::Timestamp;
use support::{a, declined, f, grant_of, idle, in_roles, lines, res, role, roles, spec_of};

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

const FIVE: Option<Duration> = Some(Duration::from_secs(5));

/// One agent with 4 CPUs, frameworks `f1` and `f2` in role `*`.
fn two_frameworks() -> Drf {
    let mut drf = Drf::default();
    drf.add_agent(&a("a1"), idle("cpus:4; mem:4096"));
    drf.add_framework(&f("f1"), in_roles(&["*"]));
    drf.add_framework(&f("f2"), in_roles(&["*"]));
    drf
}

fn decline_all(drf: &mut Drf, now: Timestamp, refuse_for: Option<Duration>) -> Vec<String> {
    let offers = drf.allocate(now).allocations;
    for offer in &offers {
        drf.recover(now, &offer.agent, &grant_of(offer), declined(refuse_for));
    }
    lines(&offers)
}

fn reasons(drf: &Drf, now: Timestamp, framework: &str) -> Vec<String> {
    let reasons = drf.explain(now, &f(framework));
    reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn an_idle_agent_goes_whole_to_one_framework_and_its_rest_to_the_next() {
    // The worked example of the Mesos architecture page.
    let mut drf = two_frameworks();
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f1/* a1 cpus:4; mem:4096"]
    );
    let rest = Grant {
        framework: f("f1"),
        role: role("*"),
        resources: res("cpus:1; mem:1024"),
    };
    drf.recover(at(0), &a("a1"), &rest, declined(FIVE));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f2/* a1 cpus:1; mem:1024"]
    );
}

#[test]
fn declining_filters_only_that_framework() {
    let mut drf = two_frameworks();
    assert_eq!(
        decline_all(&mut drf, at(0), FIVE),
        ["f1/* a1 cpus:4; mem:4096"]
    );
    assert_eq!(
        decline_all(&mut drf, at(0), FIVE),
        ["f2/* a1 cpus:4; mem:4096"]
    );
    assert_eq!(decline_all(&mut drf, at(0), FIVE), [""; 0]);
}

#[test]
fn a_filter_ends_exactly_at_its_time() {
    let mut drf = two_frameworks();
    drf.deactivate_framework(&f("f2"));
    decline_all(&mut drf, at(0), FIVE);
    assert_eq!(drf.next_deadline(), Some(at(5)));
    let just_before = Timestamp::from_nanos(at(5).as_nanos() - 1);
    assert_eq!(lines(&drf.allocate(just_before).allocations), [""; 0]);
    assert_eq!(
        lines(&drf.allocate(at(5)).allocations),
        ["f1/* a1 cpus:4; mem:4096"]
    );
    assert_eq!(drf.next_deadline(), None);
}

#[test]
fn a_bigger_bundle_passes_the_filter_and_a_smaller_one_does_not() {
    let mut drf = Drf::default();
    drf.add_framework(&f("f1"), in_roles(&["*"]));
    let busy = Grant {
        framework: f("f0"),
        role: role("*"),
        resources: res("cpus:2"),
    };
    let spec = AgentSpec {
        total: res("cpus:4; mem:4096"),
        used: vec![busy.clone()],
        ..AgentSpec::default()
    };
    drf.add_agent(&a("a1"), spec);
    assert_eq!(
        decline_all(&mut drf, at(0), FIVE),
        ["f1/* a1 cpus:2; mem:4096"]
    );
    let half = Grant {
        resources: res("cpus:1"),
        ..busy.clone()
    };
    drf.recover(at(1), &a("a1"), &half, declined(None));
    assert_eq!(
        decline_all(&mut drf, at(1), FIVE),
        ["f1/* a1 cpus:3; mem:4096"]
    );
    drf.recover(at(2), &a("a1"), &half, declined(None));
    let whole = drf.allocate(at(2)).allocations;
    assert_eq!(lines(&whole), ["f1/* a1 cpus:4; mem:4096"]);
    // It uses two cores; what it gives back is smaller than what it declined.
    let rest = Grant {
        resources: res("cpus:2; mem:4096"),
        ..grant_of(&whole[0])
    };
    drf.recover(at(2), &a("a1"), &rest, declined(None));
    assert_eq!(lines(&drf.allocate(at(2)).allocations), [""; 0]);
}

#[test]
fn a_refusal_of_zero_seconds_sets_no_filter() {
    let mut drf = two_frameworks();
    // Nobody is kept from it; who was asked less often comes first.
    for next in ["f1", "f2", "f1", "f2"] {
        let offered = decline_all(&mut drf, at(0), Some(Duration::ZERO));
        assert_eq!(offered, [format!("{next}/* a1 cpus:4; mem:4096")]);
    }
}

#[test]
fn reviving_forgets_filters_of_the_named_roles_only() {
    let mut drf = Drf::default();
    drf.add_agent(&a("a1"), idle("cpus:4"));
    drf.add_framework(&f("f1"), in_roles(&["batch", "web"]));
    let forever = Some(Duration::MAX);
    assert_eq!(
        decline_all(&mut drf, at(0), forever),
        ["f1/batch a1 cpus:4"]
    );
    assert_eq!(decline_all(&mut drf, at(0), forever), ["f1/web a1 cpus:4"]);
    drf.revive(&f("f1"), &roles(&["web"]));
    assert_eq!(decline_all(&mut drf, at(0), forever), ["f1/web a1 cpus:4"]);
    drf.revive(&f("f1"), &roles(&[]));
    assert_eq!(
        decline_all(&mut drf, at(0), forever),
        ["f1/batch a1 cpus:4"]
    );
}

#[test]
fn removing_an_agent_forgets_its_filters() {
    let mut drf = two_frameworks();
    drf.deactivate_framework(&f("f2"));
    decline_all(&mut drf, at(0), Some(Duration::MAX));
    drf.remove_agent(&a("a1"));
    assert_eq!(drf.next_deadline(), None);
    drf.add_agent(&a("a1"), idle("cpus:4; mem:4096"));
    assert_eq!(
        lines(&drf.allocate(at(1)).allocations),
        ["f1/* a1 cpus:4; mem:4096"]
    );
}

#[test]
fn a_suppressed_role_gets_nothing_until_it_is_revived() {
    let mut drf = Drf::default();
    drf.add_framework(&f("f1"), in_roles(&["batch", "web"]));
    drf.suppress(&f("f1"), &roles(&["batch"]));
    drf.add_agent(&a("a1"), idle("cpus:4"));
    assert_eq!(decline_all(&mut drf, at(0), None), ["f1/web a1 cpus:4"]);
    drf.suppress(&f("f1"), &roles(&[]));
    assert_eq!(lines(&drf.allocate(at(0)).allocations), [""; 0]);
    drf.revive(&f("f1"), &roles(&["batch"]));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f1/batch a1 cpus:4"]
    );
}

#[test]
fn a_framework_may_subscribe_suppressed() {
    let mut drf = Drf::default();
    drf.add_agent(&a("a1"), idle("cpus:4"));
    let spec = spec_of(&roles(&["web"]), &roles(&["web"]));
    drf.add_framework(&f("f1"), spec);
    assert_eq!(lines(&drf.allocate(at(0)).allocations), [""; 0]);
    assert_eq!(
        reasons(&drf, at(0), "f1"),
        ["the framework suppressed offers for role web; it must revive"]
    );
}

#[test]
fn a_framework_that_disconnects_keeps_what_it_holds_and_gets_nothing_more() {
    let mut drf = two_frameworks();
    drf.allocate(at(0));
    drf.deactivate_framework(&f("f1"));
    drf.add_agent(&a("a2"), idle("cpus:1; mem:64"));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f2/* a2 cpus:1; mem:64"]
    );
    assert_eq!(drf.held(&a("a1"))[0].framework, f("f1"));
    drf.remove_framework(&f("f1"));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f2/* a1 cpus:4; mem:4096"]
    );
}

#[test]
fn an_agent_that_disconnects_is_not_offered_and_still_counts_in_the_total() {
    let mut drf = two_frameworks();
    drf.set_agent_active(&a("a1"), false);
    drf.add_agent(&a("a2"), idle("cpus:4; mem:4096"));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f1/* a2 cpus:4; mem:4096"]
    );
    assert!((drf.framework_share(&f("f1")).as_f64() - 0.5).abs() < 1e-9);
    drf.set_agent_active(&a("a1"), true);
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f2/* a1 cpus:4; mem:4096"]
    );
}

#[test]
fn what_runs_on_a_returning_agent_counts_for_a_framework_that_has_not_returned_yet() {
    let mut drf = Drf::default();
    let used = Grant {
        framework: f("f1"),
        role: role("web"),
        resources: res("cpus:3"),
    };
    let spec = AgentSpec {
        total: res("cpus:4"),
        used: vec![used],
        ..AgentSpec::default()
    };
    drf.add_agent(&a("a1"), spec);
    drf.add_framework(&f("f2"), in_roles(&["web"]));
    drf.add_framework(&f("f1"), in_roles(&["web"]));
    assert!((drf.framework_share(&f("f1")).as_f64() - 0.75).abs() < 1e-9);
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f2/web a1 cpus:1"]
    );
}

#[test]
fn an_agent_with_less_than_the_smallest_offer_is_left_alone() {
    let mut drf = Drf::default();
    drf.add_framework(&f("f1"), in_roles(&["*"]));
    drf.add_agent(&a("a1"), idle("cpus:0.009; mem:31.999; ports:[1-9]"));
    drf.add_agent(&a("a2"), idle("cpus:0.01"));
    drf.add_agent(&a("a3"), idle("mem:32"));
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f1/* a2 cpus:0.01", "f1/* a3 mem:32"]
    );
}

#[test]
fn agents_take_turns() {
    let mut drf = Drf::default();
    drf.add_framework(&f("f1"), in_roles(&["*"]));
    for id in ["a1", "a2", "a3"] {
        drf.add_agent(&a(id), idle("cpus:1"));
    }
    assert_eq!(drf.allocate(at(0)).allocations.len(), 3);
    let back = |drf: &mut Drf, id: &str| {
        let grant = drf.held(&a(id)).remove(0);
        drf.recover(at(0), &a(id), &grant, declined(None));
    };
    back(&mut drf, "a2");
    assert_eq!(lines(&drf.allocate(at(0)).allocations), ["f1/* a2 cpus:1"]);
    for id in ["a1", "a2", "a3"] {
        back(&mut drf, id);
    }
    assert_eq!(
        lines(&drf.allocate(at(0)).allocations),
        ["f1/* a3 cpus:1", "f1/* a1 cpus:1", "f1/* a2 cpus:1"]
    );
}

#[test]
fn equal_agents_are_shared_equally() {
    // Workload W-EMPTY of the notes on Mesos' allocator: every framework gets N/F agents.
    let mut drf = Drf::default();
    for i in 0..100 {
        let total = "cpus:24; mem:65536; disk:1048576; ports:[31000-32000]";
        drf.add_agent(&a(&format!("agent{i}")), idle(total));
    }
    for i in 0..20 {
        drf.add_framework(&f(&format!("f{i}")), in_roles(&["*"]));
    }
    let offers = drf.allocate(at(0)).allocations;
    for i in 0..20 {
        let id = f(&format!("f{i}"));
        assert_eq!(offers.iter().filter(|o| o.framework == id).count(), 5);
    }
}

#[test]
fn every_refusal_has_a_reason_with_numbers() {
    let mut drf = Drf::default();
    assert_eq!(
        reasons(&drf, at(0), "f1"),
        ["the framework is not connected"]
    );
    drf.add_framework(&f("f1"), in_roles(&["web"]));
    drf.add_framework(&f("f2"), in_roles(&["batch"]));
    assert_eq!(reasons(&drf, at(0), "f1"), ["no agent is registered"]);

    let used = |cpus: &str| AgentSpec {
        total: res("cpus:4"),
        used: vec![Grant {
            framework: f("f1"),
            role: role("web"),
            resources: res(cpus),
        }],
        ..AgentSpec::default()
    };
    drf.add_agent(&a("gone"), idle("cpus:4"));
    drf.set_agent_active(&a("gone"), false);
    drf.add_agent(&a("full"), used("cpus:4"));
    drf.add_agent(&a("crumbs"), used("cpus:3.995"));
    drf.add_agent(&a("declined"), used("cpus:1"));
    drf.suppress(&f("f2"), &roles(&[]));
    decline_all(&mut drf, at(0), FIVE);
    drf.revive(&f("f2"), &roles(&[]));
    drf.add_agent(&a("wanted"), idle("cpus:1"));
    let expected = [
        "agent gone: not active",
        "agent full: nothing free",
        "agent crumbs: only cpus:0.005 free, below the smallest offer",
        "agent declined: cpus:3 free, but the framework declined it in role web; \
         the filter ends at 5.000s",
        "agent wanted: goes to framework f2 first: its dominant share is 0.0 %, \
         against 52.9 % in role web",
    ];
    assert_eq!(reasons(&drf, at(1), "f1"), expected);
    assert_eq!(
        reasons(&drf, at(5), "f1")[3],
        expected[4].replace("wanted", "declined")
    );
    let of_f2 = reasons(&drf, at(1), "f2");
    let next = |agent: &str| format!("agent {agent}: the next round decides, for role batch");
    assert_eq!(of_f2[..3], expected[..3]);
    assert_eq!(of_f2[3..], [next("declined"), next("wanted")]);
}
