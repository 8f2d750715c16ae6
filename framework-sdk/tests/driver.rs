//! The driver against a real tonic server in the same process; see `fake_master`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake_master;

use allotment_framework_sdk::{Call, Config, Event, Scheduler};
use allotment_proto::scheduler::{call, event};
use fake_master::{FakeMaster, Stream1, event, update};
use tonic::Status;

fn config(masters: &[String]) -> Config {
    Config {
        masters: masters.to_vec(),
        name: "driven".to_owned(),
        events_max: 8,
        ..Config::default()
    }
}

async fn subscribed() -> (FakeMaster, Stream1, Scheduler) {
    subscribed_with_heartbeat(15.0).await
}

async fn subscribed_with_heartbeat(seconds: f64) -> (FakeMaster, Stream1, Scheduler) {
    let mut master = FakeMaster::start().await;
    let mut scheduler = Scheduler::connect(config(&[master.address.to_string()])).unwrap();
    let mut stream = master.stream().await;
    stream.subscribes_with_heartbeat("F1", seconds).await;
    assert_subscribed(&mut scheduler).await;
    (master, stream, scheduler)
}

async fn assert_subscribed(scheduler: &mut Scheduler) {
    match scheduler.next().await {
        Some(Event::Subscribed { framework }) => assert_eq!(framework.as_str(), "F1"),
        other => panic!("not subscribed but {other:?}"),
    }
}

async fn disconnected(scheduler: &mut Scheduler) -> String {
    match scheduler.next().await {
        Some(Event::Disconnected { reason }) => reason,
        other => panic!("not disconnected but {other:?}"),
    }
}

/// An address where nobody listens.
async fn dead_address() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_dead_master_is_named_and_the_next_one_is_used() {
    let dead = dead_address().await;
    let mut master = FakeMaster::start().await;
    let masters = [dead.clone(), master.address.to_string()];
    let mut scheduler = Scheduler::connect(config(&masters)).unwrap();
    let reason = disconnected(&mut scheduler).await;
    assert!(
        reason.contains(&dead) && reason.contains("refused") && reason.contains("`allot master`"),
        "{reason}"
    );
    master.stream().await.subscribes("F1").await;
    assert_subscribed(&mut scheduler).await;
}

#[tokio::test]
async fn a_server_that_is_no_master_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = tonic::transport::Server::builder()
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let other = tokio::spawn(other);
    let mut scheduler = Scheduler::connect(config(std::slice::from_ref(&address))).unwrap();
    let reason = disconnected(&mut scheduler).await;
    assert!(
        reason.contains(&address) && reason.contains("does not have this API"),
        "{reason}"
    );
    other.abort();
}

#[tokio::test]
async fn a_broken_stream_is_reopened_with_the_same_id() {
    let (mut master, stream, mut scheduler) = subscribed().await;
    let status = Status::resource_exhausted("100 events were waiting; read them faster");
    stream.events.send(Err(status)).await.unwrap();
    drop(stream);
    let reason = disconnected(&mut scheduler).await;
    assert!(reason.contains("read them faster"), "{reason}");
    let subscribe = master.stream().await.subscribes("F1").await;
    assert_eq!(subscribe.framework_id.unwrap().value, "F1");
    assert_subscribed(&mut scheduler).await;
}

#[tokio::test]
async fn a_silent_master_is_left_after_five_heartbeats() {
    let (mut master, stream, mut scheduler) = subscribed_with_heartbeat(0.1).await;
    let reason = disconnected(&mut scheduler).await;
    assert!(reason.contains("silent for 0.5 s"), "{reason}");
    drop(stream);
    master.stream().await.subscribes("F1").await;
    assert_subscribed(&mut scheduler).await;
}

#[tokio::test]
async fn garbage_does_not_end_the_subscription() {
    let (_master, stream, mut scheduler) = subscribed().await;
    stream.says(event(event::Type::Offers)).await;
    stream.says(event(event::Type::Unknown)).await;
    stream.says(update("no/id", 1)).await;
    stream.says(update("t1", 2)).await;
    match scheduler.next().await {
        Some(Event::Update(update)) => assert_eq!(update.task.as_str(), "t1"),
        other => panic!("no update but {other:?}"),
    }
}

#[tokio::test]
async fn a_slow_framework_holds_the_master_back_and_loses_nothing() {
    let (_master, stream, mut scheduler) = subscribed_with_heartbeat(0.1).await;
    // Its heartbeats are 0.1 s apart: a framework that is slow for longer than five of them must
    // not take its own slowness for the master's silence.
    let n = 20_000;
    let mut sending = tokio::spawn(async move {
        let text = "x".repeat(1000);
        for number in 0..n {
            let mut event = update(&format!("t{number}"), number);
            if let Some(update) = &mut event.update {
                update.status.message = Some(text.clone());
            }
            stream.says(event).await;
        }
        stream
    });
    let second = std::time::Duration::from_secs(1);
    let unread = tokio::time::timeout(second, &mut sending).await;
    assert!(unread.is_err(), "20 MB fitted into bounded queues");
    let mut batch = Vec::new();
    let mut seen = 0;
    while seen < n {
        batch.clear();
        assert_ne!(scheduler.next_batch(&mut batch).await, 0);
        for event in &batch {
            match event {
                Event::Update(update) => assert_eq!(update.task.as_str(), format!("t{seen}")),
                other => panic!("no update but {other:?}"),
            }
            seen += 1;
        }
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn calls_arrive_in_order_also_when_they_come_in_a_flood() {
    let (_master, mut stream, mut scheduler) = subscribed().await;
    let handle = scheduler.handle();
    let n = 5_000;
    let calling = tokio::spawn(async move {
        for number in 0..n {
            let task = format!("t{number}").parse().unwrap();
            let (agent, grace) = (None, None);
            handle
                .call(Call::Kill { task, agent, grace })
                .await
                .unwrap();
        }
    });
    for number in 0..n {
        let kill = stream.hears().await.kill.unwrap();
        assert_eq!(kill.task_id.value, format!("t{number}"));
    }
    calling.await.unwrap();
    drop(stream);
    disconnected(&mut scheduler).await;
}

#[tokio::test]
async fn a_stop_says_the_last_calls_and_closes_the_stream_in_good_order() {
    let (_master, mut stream, scheduler) = subscribed().await;
    scheduler.call(Call::Suppress).await.unwrap();
    scheduler.call(Call::Revive).await.unwrap();
    let stopping = tokio::spawn(scheduler.stop());
    assert_eq!(stream.hears().await.r#type(), call::Type::Suppress);
    assert_eq!(stream.hears().await.r#type(), call::Type::Revive);
    assert_eq!(stream.calls.message().await.unwrap(), None);
    drop(stream);
    stopping.await.unwrap();
}

#[tokio::test]
async fn after_a_teardown_nothing_more_comes() {
    let (_master, mut stream, mut scheduler) = subscribed().await;
    let handle = scheduler.handle();
    handle.call(Call::Teardown).await.unwrap();
    assert_eq!(stream.hears().await.r#type(), call::Type::Teardown);
    drop(stream);
    assert_eq!(scheduler.next().await, None);
    assert!(handle.call(Call::Revive).await.is_err());
}

#[tokio::test]
async fn a_teardown_that_the_master_confirms_with_a_status_is_over_at_once() {
    let (mut master, mut stream, mut scheduler) = subscribed().await;
    scheduler.call(Call::Teardown).await.unwrap();
    assert_eq!(stream.hears().await.r#type(), call::Type::Teardown);
    let status = Status::failed_precondition("it was torn down by its own call");
    stream.events.send(Err(status)).await.unwrap();
    drop(stream);
    assert_eq!(scheduler.next().await, None);
    assert!(!master.was_asked_again());
}

#[tokio::test]
async fn a_master_that_dies_is_waited_for() {
    let (master, stream, mut scheduler) = subscribed().await;
    let address = master.address;
    master.stop_listening();
    drop((master, stream));
    disconnected(&mut scheduler).await;
    let reason = disconnected(&mut scheduler).await;
    assert!(reason.contains(&address.to_string()), "{reason}");
}
