//! The REST API over real HTTP, with the real master over TCP.
//!
//! The agents are scripted: gRPC clients that register, say that what they are told to launch
//! runs, and that what they are told to kill is dead. No process is started here.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod standby;

use std::time::Duration;

use cluster::{Reply, agent, ask, config, master, raw, ready, services, until};
use serde_json::{Value, json};

fn running(n: u64) -> impl Fn(&Reply) -> bool {
    move |reply| reply.status == 200 && reply.json()["app"]["tasksRunning"] == n
}

const AGENT: &str = "cpus:8; mem:8192; disk:10000; ports:[31000-31999]";
const WEB: &str = r#"{"id":"/web","cmd":"serve","cpus":0.1,"mem":32,"instances":3}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_lives_and_dies_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), AGENT).await;
    let services = services(master.url()).await;
    let url = services.url();
    ready(url).await;

    let created = ask(url, "POST", "/v2/apps", WEB).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.header("location"), Some("/v2/apps/web"));
    let deployment = created.header("marathon-deployment-id").unwrap().to_owned();
    assert_eq!(created.json()["deployments"][0]["id"], deployment);
    assert_eq!(
        created.header("cache-control"),
        Some("no-cache, no-store, must-revalidate")
    );
    until(url, "/v2/apps/web", running(3)).await;
    until(url, "/v2/deployments", |r| r.json() == json!([])).await;

    let again = ask(url, "POST", "/v2/apps", WEB).await;
    assert_eq!(again.status, 409);
    let scaled = ask(
        url,
        "PUT",
        "/v2/apps//web/?force=True",
        r#"{"instances":5}"#,
    )
    .await;
    assert_eq!(scaled.status, 200);
    assert!(scaled.header("marathon-deployment-id").is_some());
    until(url, "/v2/apps/web", running(5)).await;
    let restarted = raw(
        url,
        b"POST /v2/apps/web/restart?force=True HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(restarted.status, 200);
    until(url, "/v2/deployments", |r| r.json() == json!([])).await;
    let tasks = ask(url, "GET", "/v2/apps/web/tasks", "").await.json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 5);
    assert_eq!(tasks["tasks"][0]["host"], "scripted");

    assert_eq!(ask(url, "DELETE", "/v2/apps/web", "").await.status, 200);
    assert_eq!(ask(url, "GET", "/v2/apps/web", "").await.status, 404);
    until(url, "/v2/deployments", |r| r.json() == json!([])).await;
    assert_eq!(
        ask(url, "GET", "/v2/tasks", "").await.json(),
        json!({"tasks": []})
    );
    services.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_a_sentence_and_the_service_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let services = services(master.url()).await;
    let url = services.url();
    ready(url).await;
    let deep = format!("{{\"id\":{}", "[".repeat(100_000));
    let unknown = r#"{"id":"/x","cmd":"sleep 1","instnaces":3}"#;
    for (method, target, body, status) in [
        ("POST", "/v2/apps", "{", 400),
        ("POST", "/v2/apps", "", 400),
        ("POST", "/v2/apps", deep.as_str(), 400),
        ("POST", "/v2/apps", "[]", 422),
        ("POST", "/v2/apps", unknown, 422),
        (
            "POST",
            "/v2/apps",
            r#"{"id":"/x","cmd":"sleep 1","cpus":-1}"#,
            422,
        ),
        ("POST", "/v2/apps", r#"{"id":"/../x","cmd":"sleep 1"}"#, 422),
        ("PUT", "/v2/apps/x", "7", 422),
        ("PATCH", "/v2/apps/nobody", "{}", 404),
        ("GET", "/v2/apps/%ff", "", 404),
        ("GET", "/v2/groups", "", 404),
        ("DELETE", "/v2/deployments/x", "", 404),
        ("BREW", "/v2/apps", "", 405),
        ("GET", "/v2/apps?label=a%3D", "", 422),
    ] {
        let reply = ask(url, method, target, body).await;
        assert_eq!(reply.status, status, "{method} {target}: {}", reply.text);
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(!message.is_empty());
    }
    let huge = "x".repeat(1024 * 1024 + 1);
    assert_eq!(ask(url, "POST", "/v2/apps", &huge).await.status, 413);
    let pong = ask(url, "GET", "/ping", "").await;
    assert_eq!((pong.status, pong.text.as_str()), (200, "pong"));
    let info = ask(url, "GET", "/v2/info", "").await.json();
    assert!(info["frameworkId"].is_string());
    assert!(info["version"].as_str().unwrap().starts_with("1."));
    assert_eq!(ask(url, "GET", "/health", "").await.status, 200);
    services.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_compares_with_the_agents_of_the_real_master() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let services = services(master.url()).await;
    let url = services.url();
    ready(url).await;
    let body = r#"{"id":"/big","cmd":"serve","cpus":64,"mem":32}"#;
    assert_eq!(ask(url, "POST", "/v2/apps", body).await.status, 201);
    let none = ask(url, "GET", "/v2/apps/big/why", "").await.json();
    assert_eq!(none["verdict"], "no-agents", "{none}");
    let _agent = agent(master.url(), AGENT).await;
    let why = until(url, "/v2/apps/big/why", |r| {
        r.json()["verdict"] == "fits-no-agent"
    })
    .await;
    let lacks = why.json()["nearest"]["lacks"][0].clone();
    assert_eq!(
        lacks,
        json!({"resource": "cpus", "asked": 64.0, "held": 8.0, "unit": ""})
    );
    let summary = until(url, "/v2/queue", |r| {
        r.json()["queue"][0]["processedOffersSummary"]["unusedOffersCount"] != 0
    })
    .await;
    let reason =
        summary.json()["queue"][0]["processedOffersSummary"]["rejectSummaryLastOffers"][2].clone();
    assert_eq!(reason["reason"], "InsufficientCpus");
    assert_eq!(reason["declined"], 1);
    services.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_over_apps_and_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), AGENT).await;
    let first = services(master.url()).await;
    ready(first.url()).await;
    ask(first.url(), "POST", "/v2/apps", WEB).await;
    let before = until(first.url(), "/v2/apps/web", running(3)).await.json();
    first.stop().await;

    let second = services(master.url()).await;
    ready(second.url()).await;
    let after = until(second.url(), "/v2/apps/web", running(3)).await.json();
    let ids = |app: &Value| -> Vec<String> {
        let tasks = app["app"]["tasks"].as_array().unwrap();
        tasks
            .iter()
            .map(|t| t["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&before), ids(&after), "the same tasks run on");

    second.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_outlive_a_framework_that_the_master_removed_while_it_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), AGENT).await;
    let config = allotment_services::Config {
        failover_timeout: Duration::ZERO,
        ..config(master.url())
    };
    let first = allotment_services::start(config.clone()).await.unwrap();
    ready(first.url()).await;
    ask(first.url(), "POST", "/v2/apps", WEB).await;
    until(first.url(), "/v2/apps/web", running(3)).await;
    let framework = ask(first.url(), "GET", "/v2/info", "").await.json()["frameworkId"].clone();
    first.stop().await;

    let second = allotment_services::start(config).await.unwrap();
    ready(second.url()).await;
    until(second.url(), "/v2/apps/web", running(3)).await;
    let now = ask(second.url(), "GET", "/v2/info", "").await.json()["frameworkId"].clone();
    assert_ne!(framework, now);
    second.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_master_nobody_leads_and_all_goes_on_once_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let first = master(folder.path(), 0).await;
    let at = first.url().to_owned();
    let port = at.rsplit_once(':').unwrap().1.parse().unwrap();
    let config = allotment_services::Config {
        leader_lease: Duration::from_secs(1),
        ..config(&at)
    };
    let services = allotment_services::start(config).await.unwrap();
    ready(services.url()).await;
    assert_eq!(
        ask(services.url(), "POST", "/v2/apps", WEB).await.status,
        201
    );
    first.stop().await;
    let waits = |r: &Reply| r.text.contains("\"waiting\"");
    until(services.url(), "/health", waits).await;
    let other = r#"{"id":"/b","cmd":"serve"}"#;
    for (method, target, body) in [("POST", "/v2/apps", other), ("GET", "/v2/apps/web", "")] {
        let refused = ask(services.url(), method, target, body).await;
        assert_eq!(refused.status, 503);
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&at), "{message}");
    }
    let nobody = ask(services.url(), "GET", "/v2/leader", "").await;
    assert_eq!(nobody.status, 404);
    let second = master(folder.path(), port).await;
    ready(services.url()).await;
    let _agent = agent(second.url(), AGENT).await;
    until(services.url(), "/v2/apps/web", running(3)).await;
    services.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_address_is_told_and_a_taken_port_is_an_error() {
    let services = services("http://127.0.0.1:9").await;
    let reply = until(services.url(), "/v2/apps", |r| {
        r.text.contains("127.0.0.1:9")
    })
    .await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    let port = services.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let config = allotment_services::Config {
        port,
        ..allotment_services::Config::default()
    };
    let error = allotment_services::start(config)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    services.stop().await;
}
