//! Versions, ports and names of apps.

use serde_json::json;

use crate::common::World;
use crate::web;

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
