//! What becomes of apps, told over the pure core and an imaginary cluster.

mod common;

use std::time::Duration;

use allotment_framework_sdk::api::{Event, Reason, TaskState};
use allotment_services::core::health::Outcome;
use common::{AGENT, World};
use serde_json::json;

const WEB: &str = r#"{"id":"/web","cmd":"serve","cpus":0.5,"mem":64,"instances":3}"#;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn web() -> World {
    let mut w = World::new().agent("a1", AGENT).agent("a2", AGENT);
    assert_eq!(w.post(WEB).status, 201);
    w.settle();
    w
}

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
fn versions_are_listed_newest_first_and_an_app_can_go_back_to_one() {
    let mut w = web();
    let first = w.get("/v2/apps/web")["app"]["version"]
        .as_str()
        .unwrap()
        .to_owned();
    w.ask("PUT", "/v2/apps/web", r#"{"cmd":"serve 2"}"#);
    w.settle();
    let versions = w.get("/v2/apps/web/versions")["versions"].clone();
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert_eq!(versions[1], json!(first));
    assert_eq!(
        w.get(&format!("/v2/apps/web/versions/{first}"))["cmd"],
        "serve"
    );
    let back = w.ask(
        "PUT",
        "/v2/apps/web",
        &json!({"version": first}).to_string(),
    );
    assert_eq!(back.status, 200);
    w.settle();
    assert_eq!(w.get("/v2/apps/web")["app"]["cmd"], "serve");
    assert_eq!(
        w.get("/v2/apps/web/versions")["versions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let mixed = w.ask(
        "PUT",
        "/v2/apps/web",
        &json!({"version": first, "cmd": "x y"}).to_string(),
    );
    assert_eq!(mixed.status, 422);
    let unknown = w.ask(
        "PUT",
        "/v2/apps/web",
        r#"{"version":"2001-01-01T00:00:00.000Z"}"#,
    );
    assert_eq!(unknown.status, 422);
    assert_eq!(
        w.ask("GET", "/v2/apps/web/versions/2001-01-01T00:00:00.000Z", "")
            .status,
        404
    );
}

#[test]
fn old_versions_are_collected() {
    let mut w = World::new();
    w.post(r#"{"id":"/a","cmd":"serve","instances":0}"#);
    for i in 0..60 {
        w.ask(
            "PUT",
            "/v2/apps/a",
            &json!({"cmd": format!("serve {i}")}).to_string(),
        );
    }
    let kept = w
        .store
        .keys()
        .filter(|key| key.starts_with("version/"))
        .count();
    assert_eq!(kept, 50);
    assert_eq!(
        w.get("/v2/apps/a/versions")["versions"]
            .as_array()
            .unwrap()
            .len(),
        50
    );
}

#[test]
fn service_ports_are_unique_and_kept() {
    let mut w = World::new();
    for id in ["/a", "/b"] {
        w.post(&json!({"id": id, "cmd": "serve", "instances": 0, "ports": [0, 0]}).to_string());
    }
    assert_eq!(w.get("/v2/apps/a")["app"]["ports"], json!([10000, 10001]));
    assert_eq!(w.get("/v2/apps/b")["app"]["ports"], json!([10002, 10003]));
    w.ask("PUT", "/v2/apps/a", r#"{"ports":[0,0,0]}"#);
    assert_eq!(
        w.get("/v2/apps/a")["app"]["ports"],
        json!([10000, 10001, 10004])
    );
}

#[test]
fn several_apps_change_together_or_not_at_all() {
    let mut w = web();
    let both = r#"[{"id":"/web","cmd":"serve 2"},{"id":"/new","cmd":"serve"}]"#;
    assert_eq!(
        w.ask("PATCH", "/v2/apps", both).status,
        404,
        "a PATCH knows no new app"
    );
    assert_eq!(w.get("/v2/apps/web")["app"]["cmd"], "serve");
    let answer = w.ask("PUT", "/v2/apps", both);
    assert_eq!(answer.status, 200);
    let deployment = &w.get("/v2/deployments")[0];
    assert_eq!(deployment["affectedApps"], json!(["/web", "/new"]));
    w.settle();
    assert_eq!(w.running().len(), 4);
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

#[test]
fn an_app_and_a_group_may_not_share_a_path() {
    let mut w = World::new();
    w.post(r#"{"id":"/shop/web","cmd":"serve"}"#);
    for id in ["/shop", "/shop/web/admin"] {
        let answer = w.post(&json!({"id": id, "cmd": "serve"}).to_string());
        assert_eq!(answer.status, 422, "{id}");
    }
    assert_eq!(w.post(r#"{"id":"/shop/db","cmd":"serve"}"#).status, 201);
    assert_eq!(w.get("/v2/apps/shop/*")["*"].as_array().unwrap().len(), 2);
}

#[test]
fn an_app_may_be_called_why() {
    let mut w = World::new();
    w.post(r#"{"id":"/x/why","cmd":"serve"}"#);
    assert_eq!(w.get("/v2/apps/x/why")["app"]["id"], "/x/why");
    assert_eq!(w.get("/v2/apps/x/why/why")["app"], "/x/why");
}

#[test]
fn too_many_deployments_are_refused() {
    let mut w = World::with(allotment_services::Config {
        deployments_max: 1,
        ..Default::default()
    });
    assert_eq!(w.post(r#"{"id":"/a","cmd":"serve"}"#).status, 201);
    assert_eq!(w.post(r#"{"id":"/b","cmd":"serve"}"#).status, 403);
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
