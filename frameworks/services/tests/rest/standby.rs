//! Two services processes of one name: one leads, the other passes on what it is asked.

use allotment_services::Running;
use serde_json::{Value, json};

use crate::cluster::{agent, ask, master, raw, ready, services, until};
use crate::{AGENT, WEB, running};

fn place(services: &Running) -> &str {
    services.url().strip_prefix("http://").unwrap()
}

async fn leader(asked: &Running) -> Value {
    ask(asked.url(), "GET", "/v2/leader", "").await.json()["leader"].clone()
}

async fn elected(asked: &Running) -> Value {
    ask(asked.url(), "GET", "/v2/info", "").await.json()["elected"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_answers_for_the_leader_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), AGENT).await;
    let mut first = services(master.url()).await;
    assert!(first.serves().await);
    let mut second = services(master.url()).await;
    assert!(second.serves().await);

    let created = ask(second.url(), "POST", "/v2/apps", WEB).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.header("x-marathon-leader"), Some(first.url()));
    let via = format!("1.1 {}", place(&second));
    assert_eq!(created.header("x-marathon-via"), Some(via.as_str()));
    assert!(created.header("marathon-deployment-id").is_some());
    until(second.url(), "/v2/apps/web?embed=app.tasks", running(3)).await;
    let direct = ask(first.url(), "GET", "/v2/apps/web", "").await;
    assert_eq!(direct.header("x-marathon-leader"), Some(first.url()));
    assert_eq!(direct.header("x-marathon-via"), None);

    // What each answers for itself.
    for asked in [&first, &second] {
        assert_eq!(leader(asked).await, place(&first));
        assert_eq!(ask(asked.url(), "GET", "/ping", "").await.text, "pong");
    }
    assert_eq!(elected(&first).await, true);
    assert_eq!(elected(&second).await, false);
    let health = ask(second.url(), "GET", "/health", "").await.json();
    assert_eq!(health, json!({"healthy": true, "leader": first.url()}));
    let metrics = ask(second.url(), "GET", "/metrics", "").await.text;
    assert!(metrics.contains("\nservices_leading 0\n"), "{metrics}");

    // Streams go to the leader themselves.
    let events = ask(second.url(), "GET", "/v2/events?plan-format=light", "").await;
    assert_eq!(events.status, 302);
    let there = format!("{}/v2/events?plan-format=light", first.url());
    assert_eq!(events.header("location"), Some(there.as_str()));

    let circles = format!(
        "GET /v2/apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Marathon-Via: {via}\r\n\r\n"
    );
    let refused = raw(second.url(), circles.as_bytes()).await;
    assert_eq!(refused.status, 502);
    assert!(refused.text.contains("proxying loop"), "{}", refused.text);

    second.stop().await;
    first.stop().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_over_and_back_and_the_tasks_stay() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let _agent = agent(master.url(), AGENT).await;
    let first = services(master.url()).await;
    ready(first.url()).await;
    let mut second = services(master.url()).await;
    assert!(second.serves().await);
    ask(first.url(), "POST", "/v2/apps", WEB).await;
    let before = until(first.url(), "/v2/apps/web", running(3)).await.json();

    // Asked of either, the leader gives up; the other takes over, and the first stands by.
    let gone = ask(second.url(), "DELETE", "/v2/leader", "").await;
    assert_eq!(
        gone.json(),
        json!({"message": "Leadership abdicated"}),
        "{}",
        gone.status
    );
    for asked in [&first, &second] {
        until(asked.url(), "/v2/leader", |reply| {
            reply.json()["leader"] == place(&second)
        })
        .await;
    }
    for asked in [&first, &second] {
        let after = until(asked.url(), "/v2/apps/web", running(3)).await.json();
        assert_eq!(after["app"]["tasks"], before["app"]["tasks"]);
    }
    // One that ends gives up by itself.
    second.stop().await;
    ready(first.url()).await;
    assert_eq!(elected(&first).await, true);
    let after = until(first.url(), "/v2/apps/web", running(3)).await.json();
    assert_eq!(after["app"]["tasks"], before["app"]["tasks"]);
    first.stop().await;
    master.stop().await;
}
