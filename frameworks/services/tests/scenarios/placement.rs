//! Where instances go, and what is said when they go nowhere.

use serde_json::json;

use crate::common::{AGENT, World};
use crate::{WEB, web};

#[test]
fn instances_of_one_turn_are_spread_over_agents() {
    let w = web();
    let on = |agent: &str| {
        w.tasks
            .values()
            .filter(|t| t.agent.as_str() == agent)
            .count()
    };
    assert_eq!((on("a1"), on("a2")), (2, 1));
}

#[test]
fn an_app_that_fits_no_agent_says_what_the_nearest_lacks() {
    let mut w = World::new()
        .agent("a1", "cpus:2; mem:1024; ports:[31000-31099]")
        .agent("a2", "cpus:4; mem:512; ports:[31000-31099]");
    w.post(r#"{"id":"/big","cmd":"serve","cpus":8,"mem":1024}"#);
    w.settle();
    let why = w.why("/big");
    assert_eq!(why["verdict"], "fits-no-agent");
    assert_eq!(why["nearest"]["agent"], "a1");
    assert_eq!(
        why["nearest"]["lacks"],
        json!([{"resource":"cpus","asked":8.0,"held":2.0,"unit":""}])
    );
    let lines: Vec<&str> = why["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap())
        .collect();
    insta::assert_snapshot!(lines.join("\n").split("deployment ").next().unwrap(), @r"
    /big wants 1 instances: 0 run as they should, 1 wait for an offer, 0 are on their way
    each instance asks cpus:8; mem:1024; 1 port(s)
    it fits no agent, not even an empty one (all 2 agents looked at); the nearest is host-a1 (a1), which has in all: cpus: asked 8, there is 2
    shrink what the app asks, or add a larger agent
    ");
    let summary = &w.queue()[0]["processedOffersSummary"];
    assert_eq!(summary["processedOffersCount"], 2);
    assert_eq!(summary["unusedOffersCount"], 2);
    let cpus = &summary["rejectSummaryLastOffers"][2];
    assert_eq!(
        *cpus,
        json!({"reason":"InsufficientCpus","declined":2,"processed":2})
    );
    assert_eq!(w.queue()[0]["delay"]["overdue"], true);
}

#[test]
fn an_app_that_does_not_fit_now_is_told_apart_and_starts_when_room_is_made() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/full","cmd":"serve","cpus":4}"#);
    w.settle();
    w.post(r#"{"id":"/next","cmd":"serve","cpus":2}"#);
    w.settle();
    let why = w.why("/next");
    assert_eq!(why["verdict"], "fits-not-now");
    assert_eq!(why["nearest"]["lacks"][0]["resource"], "cpus");
    w.ask("DELETE", "/v2/apps/full", "");
    w.settle();
    assert_eq!(w.running().len(), 1);
    assert_eq!(w.why("/next")["verdict"], "running");
}

#[test]
fn without_agents_why_says_so() {
    let mut w = World::new();
    w.post(WEB);
    let why = w.why("/web");
    assert_eq!(why["verdict"], "no-agents");
}

#[test]
fn why_names_the_constraint_that_stands_against_an_app() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/one","cmd":"serve","cpus":0.1,"instances":2,"constraints":[["hostname","UNIQUE"]]}"#);
    w.settle();
    assert_eq!(w.running().len(), 1);
    let why = w.why("/one");
    assert_eq!(why["verdict"], "fits-not-now");
    let constraint = why["nearest"]["constraint"].as_str().unwrap();
    assert!(
        constraint.contains("host-a1") && constraint.contains("UNIQUE"),
        "{constraint}"
    );
    w.add_agent("a2", AGENT, &[]);
    w.settle();
    assert_eq!(w.running().len(), 2);
}

#[test]
fn group_by_spreads_over_racks_across_turns() {
    let mut w = World::new();
    w.add_agent("a1", AGENT, &["rack:r1"]);
    w.add_agent("a2", AGENT, &["rack:r2"]);
    w.post(r#"{"id":"/s","cmd":"serve","cpus":0.1,"instances":6,"constraints":[["rack","GROUP_BY","2"]]}"#);
    w.settle();
    let on = |agent: &str| {
        w.tasks
            .values()
            .filter(|t| t.agent.as_str() == agent)
            .count()
    };
    assert_eq!((on("a1"), on("a2")), (3, 3));
}

#[test]
fn a_large_app_does_not_keep_a_small_one_waiting() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/large","cmd":"serve","cpus":1,"instances":100}"#);
    w.post(r#"{"id":"/small","cmd":"serve","cpus":1}"#);
    w.offer();
    assert!(
        w.staging()
            .iter()
            .any(|task| task.as_str().starts_with("small."))
    );
    assert_eq!(w.staging().len(), 4);
}
