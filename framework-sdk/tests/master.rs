//! The SDK against the real master over TCP. The agent is scripted: a gRPC client that registers
//! and says what the test tells it; the real one has processes, which these tests are not about.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{
    Command, Config, Event, Expected, Scheduler, Store, StoreError, StoreOp, Task,
};
use allotment_proto::allot::agent_client::AgentClient;
use allotment_proto::allot::{self, agent_message, master_message};
use allotment_proto::{convert, mesos};
use allotment_types::FrameworkId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

async fn master(folder: &Path, port: u16) -> allotment_master::Running {
    let config = allotment_master::Config {
        listen: ([127, 0, 0, 1], port).into(),
        data_dir: folder.to_owned(),
        ..allotment_master::Config::default()
    };
    allotment_master::start(config).await.unwrap()
}

fn port(master: &allotment_master::Running) -> u16 {
    let (_, port) = master.url().rsplit_once(':').unwrap();
    port.parse().unwrap()
}

fn config(master: &allotment_master::Running, id: Option<FrameworkId>) -> Config {
    Config {
        framework_id: id,
        failover_timeout: std::time::Duration::from_secs(60),
        ..Config::new(master.url(), "tested")
    }
}

async fn subscribed(scheduler: &mut Scheduler) -> FrameworkId {
    loop {
        match scheduler.next().await {
            Some(Event::Subscribed { framework }) => return framework,
            Some(Event::Disconnected { .. }) => {}
            other => panic!("not subscribed but {other:?}"),
        }
    }
}

struct ScriptedAgent {
    say: mpsc::Sender<allot::AgentMessage>,
    hear: Streaming<allot::MasterMessage>,
    id: mesos::AgentId,
}

impl ScriptedAgent {
    async fn register(master: &allotment_master::Running, resources: &str) -> Self {
        let (say, said) = mpsc::channel(16);
        let mut client = AgentClient::new(
            tonic::transport::Endpoint::from_shared(master.url().to_owned())
                .unwrap()
                .connect()
                .await
                .unwrap(),
        );
        let register = allot::Register {
            agent: mesos::AgentInfo {
                hostname: "scripted".to_owned(),
                resources: convert::resources_to_wire(&resources.parse().unwrap(), None),
                ..Default::default()
            },
            url: "http://127.0.0.1:5051".to_owned(),
            version: allotment_proto::VERSION.to_owned(),
            boot_id: "boot".to_owned(),
            ..Default::default()
        };
        let message = Some(agent_message::Message::Register(register));
        say.send(allot::AgentMessage { message }).await.unwrap();
        let hear = client.connect(ReceiverStream::new(said)).await.unwrap();
        let mut agent = Self {
            say,
            hear: hear.into_inner(),
            id: mesos::AgentId::default(),
        };
        match agent.hears().await {
            master_message::Message::Registered(registered) => agent.id = registered.agent_id,
            other => panic!("not registered but {other:?}"),
        }
        agent
    }

    /// The next message that is no ping.
    async fn hears(&mut self) -> master_message::Message {
        loop {
            match self.hear.message().await.unwrap().unwrap().message.unwrap() {
                master_message::Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    async fn launched(&mut self) -> allot::Launch {
        match self.hears().await {
            master_message::Message::Launch(launch) => launch,
            other => panic!("not launched but {other:?}"),
        }
    }

    async fn updates(&self, framework: &FrameworkId, task: &str, state: TaskState, uuid: u8) {
        let update = allot::StatusUpdate {
            framework_id: framework.into(),
            status: mesos::TaskStatus {
                task_id: mesos::TaskId {
                    value: task.to_owned(),
                },
                state: state.into(),
                agent_id: Some(self.id.clone()),
                source: Some(mesos::task_status::Source::Agent.into()),
                uuid: Some(vec![uuid; 16].into()),
                ..Default::default()
            },
            latest_state: state.into(),
        };
        let message = Some(agent_message::Message::Update(update));
        self.say
            .send(allot::AgentMessage { message })
            .await
            .unwrap();
    }
}

fn task(id: &str) -> Task {
    Task::new(
        id.parse().unwrap(),
        "cpus:1; mem:64".parse().unwrap(),
        Command::Shell("true".to_owned()),
    )
}

#[tokio::test]
async fn a_task_goes_from_offer_to_acknowledged_end() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let mut agent = ScriptedAgent::register(&master, "cpus:4; mem:1024").await;
    let mut scheduler = Scheduler::connect(config(&master, None)).unwrap();
    let framework = subscribed(&mut scheduler).await;
    let Some(Event::Offers(mut offers)) = scheduler.next().await else {
        panic!("no offer");
    };
    let offer = offers.remove(0);
    assert_eq!(offer.resources, "cpus:4; mem:1024".parse().unwrap());
    assert_eq!(offer.agent_url, "http://127.0.0.1:5051");
    scheduler
        .call(offer.accept(vec![task("t1")]))
        .await
        .unwrap();
    let launch = agent.launched().await;
    assert_eq!(launch.tasks[0].task_id.value, "t1");
    for (state, uuid) in [(TaskState::TaskRunning, 1), (TaskState::TaskFinished, 2)] {
        agent.updates(&framework, "t1", state, uuid).await;
        let update = loop {
            match scheduler.next().await {
                Some(Event::Update(update)) => break update,
                Some(Event::Offers(_)) => {}
                other => panic!("no update but {other:?}"),
            }
        };
        assert_eq!(update.state, state);
        scheduler
            .call(update.acknowledgement().unwrap())
            .await
            .unwrap();
        match agent.hears().await {
            master_message::Message::Acknowledge(ack) => assert_eq!(ack.uuid, vec![uuid; 16]),
            other => panic!("no acknowledgement but {other:?}"),
        }
    }
    scheduler.teardown().await;
    master.stop().await;
}

#[tokio::test]
async fn a_launch_on_an_offer_that_is_gone_ends_in_dropped_and_never_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let agent = ScriptedAgent::register(&master, "cpus:4; mem:1024").await;
    let mut scheduler = Scheduler::connect(config(&master, None)).unwrap();
    subscribed(&mut scheduler).await;
    let Some(Event::Offers(mut offers)) = scheduler.next().await else {
        panic!("no offer");
    };
    // The agent goes away with the offer on its way.
    drop(agent);
    let offer = offers.remove(0);
    scheduler
        .call(offer.accept(vec![task("t1")]))
        .await
        .unwrap();
    loop {
        match scheduler.next().await {
            Some(Event::Update(update)) => {
                assert!(update.is_terminal(), "{update:?}");
                break;
            }
            Some(
                Event::Rescinded(_)
                | Event::Offers(_)
                | Event::AgentLost(_)
                | Event::Executor { .. },
            ) => {}
            other => panic!("no update but {other:?}"),
        }
    }
    master.stop().await;
}

#[tokio::test]
async fn the_id_and_the_subscription_survive_a_restart_of_the_master() {
    let folder = tempfile::tempdir().unwrap();
    let first = master(folder.path(), 0).await;
    let port = port(&first);
    let mut scheduler = Scheduler::connect(config(&first, None)).unwrap();
    let id = subscribed(&mut scheduler).await;
    first.stop().await;
    let second = master(folder.path(), port).await;
    assert_eq!(subscribed(&mut scheduler).await, id);
    second.stop().await;
}

#[tokio::test]
async fn a_framework_that_comes_back_with_its_id_is_the_same_and_the_old_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let mut old = Scheduler::connect(config(&master, None)).unwrap();
    let id = subscribed(&mut old).await;
    let mut new = Scheduler::connect(config(&master, Some(id.clone()))).unwrap();
    assert_eq!(subscribed(&mut new).await, id);
    assert!(matches!(old.next().await, Some(Event::Error(_))));
    assert_eq!(old.next().await, None);
    master.stop().await;
}

#[tokio::test]
async fn the_id_of_a_framework_that_was_torn_down_is_worth_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let mut scheduler = Scheduler::connect(config(&master, None)).unwrap();
    let id = subscribed(&mut scheduler).await;
    scheduler.teardown().await;
    let mut again = Scheduler::connect(config(&master, Some(id))).unwrap();
    assert!(matches!(again.next().await, Some(Event::Error(_))));
    assert_eq!(again.next().await, None);
    master.stop().await;
}

#[tokio::test]
async fn the_store_keeps_what_it_acknowledged_and_tells_who_was_faster() {
    let folder = tempfile::tempdir().unwrap();
    let first = master(folder.path(), 0).await;
    let port = port(&first);
    let store = Store::new(&[first.url().to_owned()], "tested").unwrap();
    let create = StoreOp::put("a/1", "x").expecting(Expected::Absent);
    let ops = [create.clone(), StoreOp::put("b/1", "y")];
    let version = store.commit(&ops).await.unwrap();
    assert_eq!(
        store.commit(&[create]).await,
        Err(StoreError::Conflict {
            key: "a/1".to_owned(),
            expected: 0,
            found: version,
        })
    );
    let huge = StoreOp::put("c", vec![0; 2 << 20]);
    assert!(matches!(
        store.commit(&[huge]).await,
        Err(StoreError::TooLarge(_))
    ));
    first.stop().await;
    let unreachable = store.list("").await.unwrap_err();
    assert!(unreachable.is_temporary(), "{unreachable}");
    let second = master(folder.path(), port).await;
    let entries = store.list("a/").await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((&*entries[0].key, &*entries[0].value), ("a/1", &b"x"[..]));
    assert_eq!(entries[0].version, version);
    second.stop().await;
}
