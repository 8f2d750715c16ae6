//! Agents, masters and processes that are away for a while.

use allotment_framework_sdk::api::{Event, Reason, TaskState};

use crate::common::{AGENT, World};
use crate::{secs, web};

#[test]
fn an_unreachable_task_is_replaced_at_once_and_killed_should_it_return() {
    let mut w = web();
    let lost = w.running()[0].clone();
    w.update_because(
        &lost,
        TaskState::TaskUnreachable,
        "",
        Some(Reason::AgentRemoved),
    );
    assert!(w.wants_offers);
    w.settle();
    assert_eq!(w.running().len(), 3);
    w.update(&lost, TaskState::TaskRunning, "");
    assert_eq!(w.kills(), [lost]);
}

#[test]
fn unreachable_timers_replace_and_then_forget_exactly_when_they_say() {
    let mut w = World::new().agent("a1", AGENT).agent("a2", AGENT);
    w.post(
        r#"{"id":"/u","cmd":"serve","cpus":0.1,
            "unreachableStrategy":{"inactiveAfterSeconds":60,"expungeAfterSeconds":120}}"#,
    );
    w.settle();
    let lost = w.running()[0].clone();
    w.update(&lost, TaskState::TaskUnreachable, "");
    w.pass(secs(59));
    assert!(!w.wants_offers);
    w.pass(secs(1));
    assert!(w.wants_offers);
    w.settle();
    assert_eq!(w.running().len(), 1);
    assert_eq!(
        w.get("/v2/apps/u/tasks")["tasks"].as_array().unwrap().len(),
        2
    );
    w.pass(secs(60));
    assert_eq!(
        w.get("/v2/apps/u/tasks")["tasks"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_task_that_returns_before_it_is_forgotten_leaves_no_surplus() {
    let mut w = World::new().agent("a1", AGENT).agent("a2", AGENT);
    w.post(
        r#"{"id":"/u","cmd":"serve","cpus":0.1,
            "unreachableStrategy":{"inactiveAfterSeconds":1,"expungeAfterSeconds":1000}}"#,
    );
    w.settle();
    let lost = w.running()[0].clone();
    w.update(&lost, TaskState::TaskUnreachable, "");
    w.pass(secs(1));
    w.settle();
    w.update(&lost, TaskState::TaskRunning, "");
    assert_eq!(w.kills().len(), 1);
    w.settle();
    assert_eq!(w.running().len(), 1);
}

#[test]
fn a_disabled_unreachable_strategy_waits() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/u","cmd":"serve","cpus":0.1,"unreachableStrategy":"disabled"}"#);
    w.settle();
    let lost = w.running()[0].clone();
    w.update(&lost, TaskState::TaskUnreachable, "");
    w.pass(secs(100_000));
    assert!(!w.wants_offers);
    w.update(&lost, TaskState::TaskGone, "");
    assert!(w.wants_offers, "gone is replaced");
}

#[test]
fn an_unreachable_task_is_not_probed() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(
        r#"{"id":"/h","cmd":"serve","cpus":0.1,"unreachableStrategy":"disabled",
            "healthChecks":[{"protocol":"TCP","intervalSeconds":1,"gracePeriodSeconds":0}]}"#,
    );
    w.settle();
    let task = w.running()[0].clone();
    w.probes.clear();
    w.update(&task, TaskState::TaskUnreachable, "");
    w.pass(secs(100));
    assert!(w.probes.is_empty() && w.kills().is_empty());
}

#[test]
fn a_new_process_finds_everything_in_the_store() {
    let mut w = web();
    w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 2"}"#);
    w.offer();
    let first = w.staging()[0].clone();
    w.update(&first, TaskState::TaskRunning, "");
    let before = w.get("/v2/apps?embed=apps.tasks");
    let deployments = w.get("/v2/deployments");
    let killed = w.kills();
    for live in w.tasks.values_mut() {
        live.kill_wanted = false;
    }
    w.restart();
    assert_eq!(w.get("/v2/apps?embed=apps.tasks"), before);
    assert_eq!(w.get("/v2/deployments"), deployments);
    assert!(
        w.tasks.keys().all(|task| w.reconciled.contains(task)),
        "all are reconciled"
    );
    assert_eq!(w.kills(), killed, "the same kills go on");
    w.settle();
    assert_eq!((w.running().len(), w.deployments()), (3, 0));
    assert_eq!(w.core.framework().unwrap().as_str(), "F1");
}

#[test]
fn a_process_that_dies_between_store_and_launch_asks_and_launches_again() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/v","cmd":"serve","cpus":0.1}"#);
    w.offer();
    let task = w.staging()[0].clone();
    w.restart();
    assert!(w.reconciled.contains(&task));
    w.update(&task, TaskState::TaskUnknown, "");
    w.tasks.clear();
    assert!(w.wants_offers);
    w.settle();
    assert!(w.running()[0].as_str().ends_with("._app.2"));
}

#[test]
fn nothing_is_changed_while_no_master_is_reachable_and_reads_go_on() {
    let mut w = web();
    w.event(Event::Disconnected {
        reason: "connection refused".to_owned(),
    });
    let refused = w.post(r#"{"id":"/x","cmd":"serve"}"#);
    assert_eq!(refused.status, 503);
    let message = refused.body.unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("connection refused") && message.contains("http://127.0.0.1:5050"));
    assert_eq!(w.get("/v2/apps")["apps"].as_array().unwrap().len(), 1);
    w.subscribed();
    assert_eq!(w.post(r#"{"id":"/x","cmd":"serve"}"#).status, 201);
}

#[test]
fn the_reconciliation_comes_back_every_ten_minutes() {
    let mut w = web();
    w.reconciled.clear();
    w.pass(secs(600));
    assert_eq!(w.reconciled.len(), 3);
}

#[test]
fn tasks_that_a_restarted_master_is_silent_about_are_asked_about_until_it_answers() {
    let mut w = web();
    let tasks = w.running();
    w.event(Event::Disconnected {
        reason: "the master restarts".to_owned(),
    });
    w.subscribed();
    w.reconciled.clear();
    // It waits for their agents, and until these are back every answer would be wrong.
    w.pass(secs(60));
    for task in &tasks {
        let times = w.reconciled.iter().filter(|asked| *asked == task).count();
        assert!(
            (4..=7).contains(&times),
            "{task} was asked about {times} times"
        );
    }
    // One agent came back without its task.
    w.update(&tasks[0], TaskState::TaskGone, "");
    assert!(w.wants_offers, "it is replaced at once");
    for task in &tasks[1..] {
        w.update(task, TaskState::TaskRunning, "");
    }
    w.settle();
    w.reconciled.clear();
    w.pass(secs(100));
    assert!(w.reconciled.is_empty(), "{:?}", w.reconciled);
}

#[test]
fn a_settled_cluster_has_nothing_due_but_the_next_reconciliation() {
    let w = web();
    let next = w.core.next_deadline().unwrap();
    assert!(next.since(w.now) > secs(500), "{next}");
}
