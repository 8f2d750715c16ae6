//! Tasks that end, are killed, vanish or are sick.

use std::time::Duration;

use allotment_framework_sdk::api::{Reason, TaskState};
use allotment_services::core::health::Outcome;
use serde_json::json;

use crate::common::{AGENT, World};
use crate::{secs, web};

#[test]
fn a_task_that_dies_is_replaced_after_a_growing_delay() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/crash","cmd":"exit 1","backoffSeconds":10,"backoffFactor":2}"#);
    w.settle();
    let instance = |task: &str| task.rsplit_once("._app.").unwrap().0.to_owned();
    let first = w.running()[0].clone();
    w.update(&first, TaskState::TaskFailed, "exited with status 1");
    assert!(!w.wants_offers, "during the delay no offers are wanted");
    let queue = w.queue();
    assert_eq!(
        queue[0]["delay"],
        json!({"timeLeftSeconds": 10, "overdue": false})
    );
    w.offer();
    assert!(
        w.tasks.is_empty(),
        "an offer that comes all the same is not used"
    );
    w.pass(secs(10));
    assert!(w.wants_offers);
    w.settle();
    let second = w.running()[0].clone();
    assert_eq!(
        instance(first.as_str()),
        instance(second.as_str()),
        "the instance keeps its id"
    );
    assert!(second.as_str().ends_with("._app.2"));
    w.update(&second, TaskState::TaskFinished, "");
    assert_eq!(w.queue()[0]["delay"]["timeLeftSeconds"], 20);
    let failure = &w.get("/v2/apps/crash")["app"]["lastTaskFailure"];
    assert_eq!(failure["state"], "TASK_FAILED");
    assert_eq!(failure["message"], "exited with status 1");
    assert_eq!(w.ask("DELETE", "/v2/queue/crash/delay", "").status, 204);
    assert!(w.wants_offers, "a reset delay wants offers at once");
    w.settle();
    assert_eq!(w.running().len(), 1);
    assert_eq!(w.ask("DELETE", "/v2/queue/crash/delay", "").status, 404);
}

#[test]
fn the_end_of_a_delay_asks_again_for_offers_that_were_declined_for_another_app() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/huge","cmd":"serve","cpus":100}"#);
    w.post(r#"{"id":"/crash","cmd":"exit 1","cpus":0.1,"backoffSeconds":10}"#);
    w.settle();
    let task = w.running()[0].clone();
    w.update(&task, TaskState::TaskFailed, "");
    w.offer();
    assert!(w.wants_offers, "the huge app waits all the time");
    let before = w.revives;
    w.pass(secs(10));
    assert_eq!(
        w.revives,
        before + 1,
        "the filter of the declined offer is lifted"
    );
}

#[test]
fn scaling_does_not_reset_the_delay_and_a_new_configuration_does() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/crash","cmd":"exit 1","backoffSeconds":100}"#);
    w.settle();
    let task = w.running()[0].clone();
    w.update(&task, TaskState::TaskFailed, "");
    w.ask("PUT", "/v2/apps/crash?force=true", r#"{"instances":2}"#);
    assert!(!w.wants_offers);
    w.ask("PUT", "/v2/apps/crash?force=true", r#"{"cmd":"exit 0"}"#);
    assert!(w.wants_offers);
}

#[test]
fn a_kill_is_no_failure_and_keeps_the_instance() {
    let mut w = web();
    let task = w.running()[0].clone();
    let answer = w.ask("DELETE", &format!("/v2/apps/web/tasks/{task}"), "");
    assert_eq!(answer.body.unwrap()["task"]["id"], task.as_str());
    assert_eq!(w.kills(), std::slice::from_ref(&task));
    assert_eq!(w.deployments(), 0);
    w.kills_end();
    assert!(w.wants_offers, "no delay after a kill");
    w.settle();
    let again = task.as_str().replace("._app.1", "._app.2");
    assert!(w.running().iter().any(|t| t.as_str() == again));
}

#[test]
fn killing_with_scale_lowers_the_number_and_with_wipe_makes_new_instances() {
    let mut w = web();
    let task = w.running()[0].clone();
    let answer = w.ask(
        "DELETE",
        &format!("/v2/apps/web/tasks/{task}?scale=True"),
        "",
    );
    assert!(answer.body.unwrap()["deploymentId"].is_string());
    assert_eq!(w.kills(), [task]);
    w.settle();
    assert_eq!(w.get("/v2/apps/web")["app"]["instances"], 2);
    assert_eq!(w.running().len(), 2);
    let before = w.running();
    let answer = w.ask("DELETE", "/v2/apps/web/tasks?wipe=true&host=host-a1", "");
    let killed = answer.body.unwrap()["tasks"].as_array().unwrap().len();
    assert_eq!(killed, w.kills().len());
    w.settle();
    assert_eq!(w.running().len(), 2);
    let new = w.running().into_iter().filter(|t| !before.contains(t));
    for task in new {
        assert!(
            task.as_str().ends_with("._app.1"),
            "{task} is no new instance"
        );
    }
}

#[test]
fn tasks_can_be_killed_by_a_list_of_ids() {
    let mut w = web();
    let tasks = w.running();
    let ids = json!({"ids": [tasks[0].as_str(), "web.instance-00000000-0000-4000-8000-000000000000._app.1"]});
    let answer = w.ask("POST", "/v2/tasks/delete", &ids.to_string());
    assert_eq!(answer.body.unwrap()["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(w.kills(), [tasks[0].clone()]);
    assert_eq!(
        w.ask("DELETE", "/v2/apps/web/tasks/nonsense", "").status,
        404
    );
}

#[test]
fn an_unconfirmed_kill_is_repeated_until_the_task_is_over() {
    let mut w = web();
    let task = w.running()[0].clone();
    w.ask("DELETE", &format!("/v2/apps/web/tasks/{task}"), "");
    for _ in 0..3 {
        w.tasks.get_mut(&task).unwrap().kill_wanted = false;
        w.pass(secs(30));
        assert_eq!(w.kills(), std::slice::from_ref(&task));
    }
}

#[test]
fn a_launch_that_vanished_is_asked_about_and_tried_again() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/v","cmd":"serve","cpus":0.1}"#);
    w.offer();
    let task = w.staging()[0].clone();
    w.pass(secs(30));
    assert!(w.reconciled.contains(&task));
    w.update_because(
        &task,
        TaskState::TaskDropped,
        "",
        Some(Reason::InvalidOffers),
    );
    assert!(w.wants_offers, "a withdrawn offer is no failure of the app");
    w.settle();
    assert_eq!(w.running().len(), 1);
}

#[test]
fn a_launch_of_which_nothing_is_ever_heard_is_killed() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/v","cmd":"serve","cpus":0.1}"#);
    w.offer();
    w.pass(secs(299));
    assert!(w.kills().is_empty());
    w.pass(secs(31));
    assert_eq!(w.kills().len(), 1);
}

#[test]
fn a_command_check_is_the_agents_whose_findings_gate_a_deployment() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(
        r#"{"id":"/h","cmd":"serve","cpus":0.1,"healthChecks":[
            {"protocol":"TCP","gracePeriodSeconds":0,"intervalSeconds":1000},
            {"protocol":"COMMAND","command":{"value":"test -e ok"},"delaySeconds":1,
             "gracePeriodSeconds":5,"intervalSeconds":2,"timeoutSeconds":3,"maxConsecutiveFailures":0}]}"#,
    );
    w.offer();
    let task = w.staging().remove(0);
    let asked = w.tasks[&task].task.health_check.clone().unwrap();
    assert_eq!(asked.command.as_ref().unwrap().value(), "test -e ok");
    assert_eq!(
        (asked.delay_seconds(), asked.grace_period_seconds()),
        (1.0, 5.0)
    );
    assert_eq!(
        (asked.interval_seconds(), asked.timeout_seconds()),
        (2.0, 3.0)
    );
    assert_eq!(asked.consecutive_failures(), u32::MAX, "it never kills");
    w.launches_run();
    w.pass(Duration::ZERO);
    assert_eq!(w.probes.len(), 1, "the command is not ours to run");
    w.probes_end(&Outcome::Connected);
    assert_eq!(w.deployments(), 1, "one of two checks is not enough");
    w.found(&task, false, "exited with 1");
    assert_eq!(w.deployments(), 1);
    w.found(&task, true, "");
    assert_eq!(w.deployments(), 0);
    w.found(&task, false, "exited with 2");
    let app = w.get("/v2/apps/h")["app"].clone();
    assert_eq!(app["tasksUnhealthy"], 1);
    let result = &app["tasks"][0]["healthCheckResults"][1];
    assert_eq!(result["lastFailureCause"], "exited with 2");
    assert_eq!(app["healthChecks"][1]["command"]["value"], "test -e ok");
    assert!(w.kills().is_empty());
}

#[test]
fn health_gates_a_deployment_and_the_sick_are_replaced() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(
        r#"{"id":"/h","cmd":"serve","cpus":0.1,"healthChecks":[
            {"protocol":"HTTP","path":"/ok","gracePeriodSeconds":5,"intervalSeconds":2,"maxConsecutiveFailures":2}]}"#,
    );
    w.offer();
    w.launches_run();
    w.pass(Duration::ZERO);
    assert_eq!(w.probes.len(), 1, "the first probe is immediate");
    assert_eq!(w.probes[0].path.as_deref(), Some("/ok"));
    assert_eq!(w.probes[0].address, "10.0.0.1");
    let app = w.get("/v2/apps/h")["app"].clone();
    assert_eq!(app["tasks"][0]["ports"][0], w.probes[0].port);
    assert_eq!(w.deployments(), 1, "running is not healthy yet");
    w.probes_end(&Outcome::Failed("refused".to_owned()));
    w.pass(Duration::from_millis(100));
    w.probes_end(&Outcome::Status(200));
    assert_eq!(w.deployments(), 0);
    assert_eq!(w.get("/v2/apps/h")["app"]["tasksHealthy"], 1);
    w.pass(secs(2));
    w.probes_end(&Outcome::Status(500));
    let app = w.get("/v2/apps/h")["app"].clone();
    assert_eq!(
        (&app["tasksHealthy"], &app["tasksUnhealthy"]),
        (&json!(0), &json!(1))
    );
    let result = &app["tasks"][0]["healthCheckResults"][0];
    assert_eq!(result["alive"], false);
    assert_eq!(result["consecutiveFailures"], 1);
    assert!(w.kills().is_empty());
    w.pass(secs(2));
    w.probes_end(&Outcome::Status(500));
    assert_eq!(w.kills().len(), 1);
    w.settle();
    assert_eq!(w.get("/v2/apps/h")["app"]["tasksHealthy"], 1);
}
