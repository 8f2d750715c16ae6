//! Changes of apps, from request to rest.

use allotment_framework_sdk::api::TaskState;
use serde_json::json;

use crate::common::{AGENT, World};
use crate::{WEB, secs, web};

#[test]
fn an_app_is_deployed_and_its_deployment_ends_when_all_instances_run() {
    let mut w = World::new().agent("a1", AGENT).agent("a2", AGENT);
    assert!(!w.wants_offers, "nothing waits, so no offers are wanted");
    let created = w.post(WEB);
    assert_eq!(created.status, 201);
    assert_eq!(created.location.as_deref(), Some("/v2/apps/web"));
    assert!(w.wants_offers, "offers are wanted in the same turn");
    let deployment = created.deployment.unwrap();
    assert_eq!(w.get("/v2/deployments")[0]["id"], json!(deployment));
    w.offer();
    assert_eq!(w.staging().len(), 3);
    assert!(
        !w.wants_offers,
        "everything is launched, so offers are suppressed"
    );
    w.launches_run();
    assert_eq!(w.deployments(), 0);
    let app = &w.get("/v2/apps/web")["app"];
    assert_eq!(app["tasksRunning"], 3);
    assert_eq!(app["tasks"][0]["state"], "TASK_RUNNING");
    assert_eq!(app["deployments"], json!([]));
}

#[test]
fn scaling_launches_the_difference_and_kills_the_youngest() {
    let mut w = web();
    let before = w.running();
    w.pass(secs(5));
    let answer = w.ask("PUT", "/v2/apps/web", r#"{"instances":5}"#);
    assert_eq!(answer.status, 200);
    w.settle();
    assert_eq!(w.running().len(), 5);
    assert!(
        before.iter().all(|task| w.tasks.contains_key(task)),
        "nothing was restarted"
    );
    w.ask("PATCH", "/v2/apps/web", r#"{"instances":3}"#);
    assert_eq!(w.kills().len(), 2);
    assert!(before.iter().all(|task| !w.kills().contains(task)));
    assert_eq!(w.deployments(), 1, "the deployment waits for the kills");
    w.kills_end();
    assert_eq!((w.running().len(), w.deployments()), (3, 0));
}

#[test]
fn the_oldest_are_killed_first_when_asked() {
    let mut w = World::new().agent("a1", AGENT);
    w.post(r#"{"id":"/a","cmd":"serve","cpus":0.1,"killSelection":"OLDEST_FIRST"}"#);
    w.settle();
    let first = w.running();
    w.pass(secs(5));
    w.ask("PUT", "/v2/apps/a", r#"{"instances":2}"#);
    w.settle();
    w.ask("PUT", "/v2/apps/a", r#"{"instances":1}"#);
    assert_eq!(w.kills(), first);
}

#[test]
fn a_changed_configuration_replaces_every_instance_without_a_gap() {
    let mut w = web();
    let old = w.running();
    assert_eq!(
        w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve better"}"#)
            .status,
        200
    );
    w.offer();
    assert_eq!(
        w.staging().len(),
        3,
        "maximumOverCapacity 1 launches all new ones first"
    );
    assert_eq!(
        w.kills().len(),
        0,
        "minimumHealthCapacity 1 kills none before"
    );
    let first = w.staging()[0].clone();
    w.update(&first, TaskState::TaskRunning, "");
    assert_eq!(w.kills().len(), 1, "one old instance per new one");
    w.settle();
    assert_eq!(w.deployments(), 0);
    assert!(old.iter().all(|task| !w.tasks.contains_key(task)));
    assert_eq!(w.running().len(), 3);
}

#[test]
fn an_identical_put_starts_nothing() {
    let mut w = web();
    let before = w.running();
    let version = w.get("/v2/apps/web")["app"]["version"].clone();
    let answer = w.ask("PUT", "/v2/apps/web?partialUpdate=false", WEB);
    assert_eq!(answer.status, 200);
    assert!(
        answer.deployment.is_some(),
        "clients wait for a deployment id"
    );
    assert_eq!(w.deployments(), 0);
    assert_eq!(w.running(), before);
    assert_eq!(w.get("/v2/apps/web")["app"]["version"], version);
}

#[test]
fn a_label_is_a_configuration_and_restarts() {
    let mut w = web();
    w.ask("PUT", "/v2/apps/web", r#"{"labels":{"a":"b"}}"#);
    let deployment = &w.get("/v2/deployments")[0];
    assert_eq!(
        deployment["currentActions"][0]["action"],
        "RestartApplication"
    );
}

#[test]
fn a_put_without_most_fields_keeps_the_ports_and_the_rest() {
    let mut w = web();
    let before = w.get("/v2/apps/web")["app"]["ports"].clone();
    w.ask("PUT", "/v2/apps/web", r#"{"mem":32}"#);
    let app = &w.get("/v2/apps/web")["app"];
    assert_eq!(app["ports"], before);
    assert_eq!(app["cmd"], "serve");
    assert_eq!(app["instances"], 3);
}

#[test]
fn restart_replaces_all_with_the_same_configuration() {
    let mut w = web();
    let old = w.running();
    let answer = w.ask("POST", "/v2/apps/web/restart", "");
    assert_eq!(answer.status, 200);
    w.settle();
    assert!(old.iter().all(|task| !w.tasks.contains_key(task)));
    assert_eq!(w.running().len(), 3);
}

#[test]
fn a_second_change_is_refused_while_the_first_runs_and_forced_it_replaces_it() {
    let mut w = web();
    let first = w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 2"}"#);
    let refused = w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 3"}"#);
    assert_eq!(refused.status, 409);
    let body = refused.body.unwrap();
    assert_eq!(body["deployments"][0]["id"], json!(first.deployment));
    assert!(body["message"].as_str().unwrap().contains("'?force=true'"));
    w.offer();
    let forced = w.ask("PUT", "/v2/apps/web?force=True", r#"{"cmd":"serve 3"}"#);
    assert_eq!(forced.status, 200);
    assert_eq!(w.deployments(), 1);
    w.settle();
    assert_eq!(w.running().len(), 3);
    assert_eq!(w.deployments(), 0);
    let commands: Vec<_> = w
        .tasks
        .values()
        .map(|t| format!("{:?}", t.task.command))
        .collect();
    assert!(
        commands.iter().all(|c| c.contains("serve 3")),
        "{commands:?}"
    );
}

#[test]
fn a_forced_change_of_numbers_in_the_middle_of_an_upgrade_still_upgrades_all() {
    let mut w = web();
    w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 2"}"#);
    w.ask("PUT", "/v2/apps/web?force=true", r#"{"instances":2}"#);
    w.settle();
    assert_eq!(w.running().len(), 2);
    let commands: Vec<_> = w
        .tasks
        .values()
        .map(|t| format!("{:?}", t.task.command))
        .collect();
    assert!(
        commands.iter().all(|c| c.contains("serve 2")),
        "{commands:?}"
    );
}

#[test]
fn cancelling_a_deployment_rolls_back() {
    let mut w = web();
    let change = w.ask("PUT", "/v2/apps/web", r#"{"cmd":"broken","mem":100000}"#);
    w.settle();
    assert_eq!(w.deployments(), 1, "the new instances fit nowhere");
    let id = change.deployment.unwrap();
    let undone = w.ask("DELETE", &format!("/v2/deployments/{id}"), "");
    assert_eq!(undone.status, 200);
    assert!(undone.deployment.is_some());
    w.settle();
    assert_eq!(w.get("/v2/apps/web")["app"]["cmd"], "serve");
    assert_eq!((w.running().len(), w.deployments()), (3, 0));
    assert!(
        w.queue().as_array().unwrap().is_empty(),
        "no stale entry stays in the queue"
    );
}

#[test]
fn cancelling_the_creation_of_an_app_removes_it() {
    let mut w = World::new().agent("a1", AGENT);
    let id = w.post(WEB).deployment.unwrap();
    w.offer();
    w.ask("DELETE", &format!("/v2/deployments/{id}"), "");
    assert_eq!(w.ask("GET", "/v2/apps/web", "").status, 404);
    w.settle();
    assert!(w.tasks.is_empty());
    assert_eq!(w.deployments(), 0);
}

#[test]
fn a_forced_cancel_leaves_everything_as_it_stands() {
    let mut w = web();
    let id = w
        .ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 2"}"#)
        .deployment
        .unwrap();
    let cancelled = w.ask("DELETE", &format!("/v2/deployments/{id}?force=true"), "");
    assert_eq!((cancelled.status, cancelled.body), (202, None));
    w.settle();
    assert_eq!(w.running().len(), 3, "the old instances run on");
    assert_eq!(w.get("/v2/apps/web")["app"]["cmd"], "serve 2");
    assert_eq!(w.ask("DELETE", "/v2/deployments/nonsense", "").status, 404);
}

#[test]
fn a_deleted_app_is_gone_at_once_and_its_deployment_ends_with_its_last_task() {
    let mut w = web();
    assert_eq!(w.ask("DELETE", "/v2/apps/web", "").status, 200);
    assert_eq!(w.ask("GET", "/v2/apps/web", "").status, 404);
    assert_eq!(w.deployments(), 1);
    assert_eq!(w.kills().len(), 3);
    w.kills_end();
    assert_eq!(w.deployments(), 0);
    let left: Vec<&String> = w
        .store
        .keys()
        .filter(|k| k.as_str() != "framework")
        .collect();
    assert!(left.is_empty(), "nothing stays in the store: {left:?}");
}

#[test]
fn cancelling_a_deletion_brings_the_app_back() {
    let mut w = web();
    let id = w.ask("DELETE", "/v2/apps/web", "").deployment.unwrap();
    w.ask("DELETE", &format!("/v2/deployments/{id}"), "");
    w.settle();
    assert_eq!(w.running().len(), 3);
    assert_eq!(w.get("/v2/apps/web")["app"]["cmd"], "serve");
}
