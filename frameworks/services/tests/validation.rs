//! Which definitions are taken and which are refused, at which path, and that each refusal has
//! Marathon's form. The rules are those of Marathon 1.8 to 1.11, and what is not supported yet.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::World;
use serde_json::{Value, json};

/// A definition with some fields put over a minimal one; `null` removes a field.
fn with(fields: &Value) -> String {
    let mut app = json!({"id": "/x", "cmd": "sleep 1"});
    for (key, value) in fields.as_object().unwrap() {
        app[key] = value.clone();
    }
    app.to_string()
}

/// The paths that a refusal names; checks its form.
fn refused(body: &str) -> Vec<String> {
    let mut w = World::new();
    let answer = w.post(body);
    assert_eq!(answer.status, 422, "{body}: {answer:?}");
    let body = answer.body.unwrap();
    let message = body["message"].as_str().unwrap();
    assert!(
        matches!(message, "Object is not valid" | "Invalid JSON"),
        "{message}"
    );
    let details = body["details"].as_array().unwrap();
    assert!(!details.is_empty());
    assert!(
        w.store.keys().all(|key| key == "framework"),
        "a refused app left something behind"
    );
    details
        .iter()
        .map(|detail| {
            let errors = detail["errors"].as_array().unwrap();
            assert!(
                errors.iter().all(|e| e.as_str().unwrap().len() > 8),
                "{errors:?}"
            );
            detail["path"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn rules_are_broken_at_a_path() {
    let port = |n: u32| json!({"port": n, "name": "a"});
    let check = |fields: Value| json!({"healthChecks": [fields]});
    for (fields, path) in [
        (json!({"id": null}), "/id"),
        (json!({"id": "/Up"}), "/id"),
        (json!({"id": "/a/../b"}), "/id"),
        (json!({"id": "/x/tasks"}), "/id"),
        (json!({"id": 7}), "/id"),
        (json!({"cmd": null}), "/"),
        (json!({"cmd": "x"}), "/cmd"),
        (json!({"cmd": ["sleep", "1"]}), "/cmd"),
        (json!({"cmd": "a\u{0}b"}), "/cmd"),
        (json!({"args": ["sleep", "1"]}), "/"),
        (json!({"cmd": null, "args": [""]}), "/args(0)"),
        (json!({"cmd": null, "args": [1]}), "/args(0)"),
        (json!({"instances": -1}), "/instances"),
        (json!({"instances": 1.5}), "/instances"),
        (json!({"instances": "3"}), "/instances"),
        (json!({"instances": 1e12}), "/instances"),
        (json!({"cpus": 0}), "/cpus"),
        (json!({"cpus": -1}), "/cpus"),
        (json!({"cpus": 1e300}), "/cpus"),
        (json!({"cpus": "1"}), "/cpus"),
        (json!({"mem": -1}), "/mem"),
        (json!({"disk": -0.5}), "/disk"),
        (json!({"gpus": 1}), "/gpus"),
        (json!({"backoffFactor": 0.9}), "/backoffFactor"),
        (json!({"backoffSeconds": -1}), "/backoffSeconds"),
        (
            json!({"maxLaunchDelaySeconds": 1e15}),
            "/maxLaunchDelaySeconds",
        ),
        (
            json!({"upgradeStrategy": {"minimumHealthCapacity": 1.1}}),
            "/upgradeStrategy/minimumHealthCapacity",
        ),
        (
            json!({"upgradeStrategy": {"maximumOverCapacity": -0.1}}),
            "/upgradeStrategy/maximumOverCapacity",
        ),
        (
            json!({"upgradeStrategy": {"fast": true}}),
            "/upgradeStrategy/fast",
        ),
        (json!({"upgradeStrategy": []}), "/upgradeStrategy"),
        (json!({"killSelection": "RANDOM"}), "/killSelection"),
        (
            json!({"unreachableStrategy": "off"}),
            "/unreachableStrategy",
        ),
        (
            json!({"unreachableStrategy": {"inactiveAfterSeconds": 5, "expungeAfterSeconds": 4}}),
            "/unreachableStrategy",
        ),
        (
            json!({"taskKillGracePeriodSeconds": -1}),
            "/taskKillGracePeriodSeconds",
        ),
        (json!({"env": {"A": 1}}), "/env/A"),
        (json!({"env": {"A=B": "1"}}), "/env/A=B"),
        (json!({"env": {"A": {"secret": "s"}}}), "/env/A"),
        (json!({"env": ["A"]}), "/env"),
        (json!({"labels": {"a": 1}}), "/labels/a"),
        (json!({"constraints": [["hostname"]]}), "/constraints(0)"),
        (
            json!({"constraints": [["hostname", "NEAR"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["a", "LIKE", "("]]}),
            "/constraints(0)",
        ),
        (json!({"constraints": ["hostname"]}), "/constraints(0)"),
        (
            json!({"acceptedResourceRoles": []}),
            "/acceptedResourceRoles",
        ),
        (
            json!({"acceptedResourceRoles": ["prod"]}),
            "/acceptedResourceRoles(0)",
        ),
        (json!({"role": "prod"}), "/role"),
        (json!({"user": "a b"}), "/user"),
        (json!({"ports": [1, 1]}), "/portDefinitions"),
        (json!({"ports": [70000]}), "/ports(0)"),
        (
            json!({"ports": [1], "portDefinitions": [{"port": 2}]}),
            "/ports",
        ),
        (
            json!({"portDefinitions": [port(1), port(2)]}),
            "/portDefinitions",
        ),
        (
            json!({"portDefinitions": [{"port": 1, "protocol": "sctp"}]}),
            "/portDefinitions(0)/protocol",
        ),
        (
            json!({"portDefinitions": [{"port": 1, "name": "A B"}]}),
            "/portDefinitions(0)/name",
        ),
        (
            json!({"portDefinitions": [{"prot": 1}]}),
            "/portDefinitions(0)/prot",
        ),
        (
            check(json!({"protocol": "COMMAND"})),
            "/healthChecks(0)/command",
        ),
        (
            check(json!({"protocol": "COMMAND", "command": {"value": ""}})),
            "/healthChecks(0)/command/value",
        ),
        (
            check(json!({"protocol": "MESOS_TCP", "command": {"value": "true"}})),
            "/healthChecks(0)/command",
        ),
        (
            check(json!({"protocol": "MESOS_TCP", "path": "/"})),
            "/healthChecks(0)/path",
        ),
        (
            json!({"healthChecks": [
                {"protocol": "COMMAND", "command": {"value": "true"}},
                {"protocol": "MESOS_TCP"},
            ]}),
            "/healthChecks",
        ),
        (
            check(json!({"protocol": "HTTPS"})),
            "/healthChecks(0)/protocol",
        ),
        (
            check(json!({"protocol": "PING"})),
            "/healthChecks(0)/protocol",
        ),
        (check(json!({"portIndex": 1})), "/healthChecks(0)/portIndex"),
        (
            check(json!({"portIndex": 0, "port": 80})),
            "/healthChecks(0)",
        ),
        (
            check(json!({"protocol": "TCP", "path": "/"})),
            "/healthChecks(0)/path",
        ),
        (check(json!({"path": "x"})), "/healthChecks(0)/path"),
        (
            check(json!({"path": "/ HTTP/1.1\r\nX: y"})),
            "/healthChecks(0)/path",
        ),
        (
            check(json!({"intervalSeconds": 0})),
            "/healthChecks(0)/intervalSeconds",
        ),
        (
            check(json!({"ipProtocol": "IPv6"})),
            "/healthChecks(0)/ipProtocol",
        ),
        (json!({"fetch": [{"uri": "ftp://x/y"}]}), "/fetch(0)"),
        (
            json!({"fetch": [{"uri": "http://x/y", "destPath": "../y"}]}),
            "/fetch(0)",
        ),
        (json!({"fetch": [{}]}), "/fetch(0)/uri"),
        (
            json!({"uris": ["http://x/a"], "fetch": [{"uri": "http://x/b"}]}),
            "/uris",
        ),
        (
            json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}}),
            "/upgradeStrategy",
        ),
        (json!({"instnaces": 3}), "/instnaces"),
    ] {
        let paths = refused(&with(&fields));
        assert!(
            paths.iter().any(|p| p == path),
            "{fields}: {paths:?}, not {path}"
        );
    }
}

#[test]
fn what_is_not_supported_yet_is_refused_and_says_so() {
    for fields in [
        json!({"container": {"type": "DOCKER", "docker": {"image": "nginx"}}}),
        json!({"container": {"type": "MESOS", "volumes": [{"persistent": {"size": 1}}]}}),
        json!({"networks": [{"mode": "container/bridge"}]}),
        json!({"networks": [{"mode": "container", "name": "dcos"}]}),
        json!({"ipAddress": {}}),
        json!({"residency": {}}),
        json!({"secrets": {"a": {"source": "/a"}}}),
        json!({"resourceLimits": {"cpus": 2}}),
        json!({"readinessChecks": [{}]}),
        json!({"check": {"http": {}}}),
        json!({"dependencies": ["/db"]}),
        json!({"executor": "/opt/executor"}),
        json!({"tty": true}),
        json!({"gpus": 2}),
        json!({"constraints": [["@zone", "GROUP_BY"]]}),
    ] {
        let mut w = World::new();
        let answer = w.post(&with(&fields));
        assert_eq!(answer.status, 422, "{fields}");
        let text = answer.body.unwrap().to_string();
        assert!(text.contains("supported yet"), "{fields}: {text}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let body = with(&json!({"instances": -1, "mem": -1, "cmd": null, "unknown": 1}));
    let paths = refused(&body);
    for path in ["/instances", "/mem", "/", "/unknown"] {
        assert!(
            paths.iter().any(|p| p == path),
            "{path} is missing from {paths:?}"
        );
    }
}

#[test]
fn types_are_told_before_rules() {
    let mut w = World::new();
    let answer = w.post(r#"{"id":"/x","cmd":7,"cpus":-1}"#);
    let body = answer.body.unwrap();
    assert_eq!(body["message"], "Invalid JSON");
    assert_eq!(body["details"][0]["path"], "/cmd");
    assert_eq!(
        body["details"][0]["errors"],
        json!(["expected a string, got a number"])
    );
}

#[test]
fn harmless_values_of_unsupported_fields_and_null_are_taken() {
    for fields in [
        json!({"gpus": 0, "executor": "", "tty": false, "dependencies": [], "secrets": {}}),
        json!({"container": null, "ipAddress": null, "instances": null, "readinessChecks": []}),
        json!({"unheardOf": null, "unreachableStrategy": {"unreachableExpungeAfterSeconds": null}}),
        json!({"networks": [{"mode": "host"}], "role": "*", "acceptedResourceRoles": ["*"]}),
        json!({"uris": [], "fetch": [], "ports": [0], "portDefinitions": [{"port": 0}]}),
        json!({"tasksRunning": 1, "tasks": [], "deployments": [], "version": "2020-01-01T00:00:00.000Z"}),
        json!({"fetch": [{"uri": "https://x/y.tar.gz"}, {"uri": "http://x/y", "cache": true}]}),
        json!({"instances": 3.0, "cpus": 0.001}),
        json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"},
               "upgradeStrategy": {"minimumHealthCapacity": 0, "maximumOverCapacity": 0}}),
    ] {
        let mut w = World::new();
        let answer = w.post(&with(&fields));
        assert_eq!(answer.status, 201, "{fields}: {:?}", answer.body);
    }
}

#[test]
fn defaults_are_marathons() {
    let mut w = World::new();
    w.post(r#"{"id":"x","cmd":"sleep 1","healthChecks":[{}]}"#);
    let mut app = w.get("/v2/apps/x")["app"].clone();
    for key in ["version", "versionInfo", "deployments"] {
        app.as_object_mut().unwrap().remove(key);
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&app).unwrap());
}

#[test]
fn what_was_read_can_be_sent_back() {
    let mut w = World::new();
    w.post(&with(
        &json!({"env": {"A": "1"}, "labels": {"b": "c"}, "instances": 0}),
    ));
    let mut app = w.get("/v2/apps/x")["app"].clone();
    app.as_object_mut().unwrap().remove("version");
    let answer = w.ask("PUT", "/v2/apps/x?partialUpdate=false", &app.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        w.get("/v2/apps/x/versions")["versions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_path_and_a_body_that_name_different_apps_are_refused() {
    let mut w = World::new();
    let answer = w.ask("PUT", "/v2/apps/a", r#"{"id":"/b","cmd":"sleep 1"}"#);
    assert_eq!(answer.status, 422);
    let answer = w.ask("PUT", "/v2/apps/a", r#"{"id":"a","cmd":"sleep 1"}"#);
    assert_eq!(answer.status, 201);
}

#[test]
fn a_definition_that_grows_by_parts_past_the_limit_is_refused() {
    let mut w = World::new();
    w.post(&with(&json!({"instances": 0})));
    let text = "x".repeat(300 * 1024);
    let first = w.ask(
        "PUT",
        "/v2/apps/x",
        &json!({"env": {"A": text}}).to_string(),
    );
    assert_eq!(first.status, 200);
    let second = w.ask(
        "PUT",
        "/v2/apps/x?force=true",
        &json!({"labels": {"a": text}}).to_string(),
    );
    assert_eq!(second.status, 422);
    assert!(second.body.unwrap().to_string().contains("bytes"));
}
