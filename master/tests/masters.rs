//! Several masters over real sockets, in one process: they elect, replicate, refuse and return.
//! Processes that are killed and stopped are in `cli/tests/e2e/masters.rs`.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use allotment_master::{Config, RegistryError, RunError, Running, StartError, restore, start};
use allotment_proto::allot::agent_client::AgentClient;
use allotment_proto::allot::agent_message::Message as FromAgent;
use allotment_proto::allot::master_message::Message as FromMaster;
use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::store_client::StoreClient;
use allotment_proto::session::{HEIR, LOST, OF_CLUSTER, SPREAD};
use allotment_proto::{allot, convert, mesos};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// Long enough for a slow machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a-secret-that-tests-share";

fn config(folder: &Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.to_owned(),
        secret: Some(SECRET.to_owned()),
        ..Config::default()
    }
}

fn address(master: &Running) -> String {
    master.url().trim_start_matches("http://").to_owned()
}

async fn begin(folder: &Path) -> Running {
    let config = Config {
        bootstrap: true,
        ..config(folder)
    };
    start(config).await.unwrap()
}

async fn join(folder: &Path, to: &Running) -> Running {
    let config = Config {
        join: vec![address(to)],
        ..config(folder)
    };
    start(config).await.unwrap()
}

/// Starts again what was dropped, as soon as its last write has ended.
async fn again(folder: &Path, join: Vec<String>) -> Running {
    let started = async {
        loop {
            let config = Config {
                join: join.clone(),
                ..config(folder)
            };
            match start(config).await {
                Ok(master) => return master,
                Err(StartError::Registry(RegistryError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, started).await.unwrap()
}

async fn channel(url: &str) -> Channel {
    let endpoint = Channel::from_shared(url.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

async fn masters(master: &Running) -> MastersClient<Channel> {
    MastersClient::new(channel(master.url()).await)
}

async fn status(master: &Running) -> allot::MasterStatus {
    let mut client = masters(master).await;
    let asked = client.get_status(allot::GetMasterStatusRequest {}).await;
    asked.unwrap().into_inner()
}

/// Waits until `master` says so of itself.
async fn until(master: &Running, what: impl Fn(&allot::MasterStatus) -> bool) {
    let waited = async {
        while !what(&status(master).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waited).await.is_err() {
        panic!("not so: {:#?}", status(master).await);
    }
}

fn voters(status: &allot::MasterStatus) -> usize {
    status.masters.iter().filter(|m| m.role == "voter").count()
}

/// Where the one of these leads that does, once it does.
async fn leader_of(masters_left: &[&Running]) -> String {
    let found = async {
        loop {
            for master in masters_left {
                let mut client = masters(master).await;
                let request = allot::GetLeaderRequest {
                    wait_ms: Some(1000),
                    unlike: None,
                };
                if client.get_leader(request).await.unwrap().get_ref().here {
                    return master.url().to_owned();
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap()
}

async fn put(url: &str, key: &str, value: &'static str) -> Result<u64, Status> {
    let request = allot::StoreCommitRequest {
        namespace: "web".to_owned(),
        operations: vec![allot::StoreOperation {
            key: key.to_owned(),
            value: Some(value.into()),
            expected_version: None,
            lease_ms: None,
        }],
    };
    let mut store = StoreClient::new(channel(url).await);
    Ok(store.commit(request).await?.into_inner().version)
}

async fn keys(url: &str) -> Vec<String> {
    let request = allot::StoreListRequest {
        namespace: "web".to_owned(),
        prefix: String::new(),
    };
    let mut store = StoreClient::new(channel(url).await);
    let mut entries = store.list(request).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(entry) = entries.message().await.unwrap() {
        keys.push(entry.key);
    }
    keys
}

fn folders() -> [tempfile::TempDir; 3] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_acknowledged_is_there_under_the_next_one() {
    let [a, b, c] = folders();
    let first = begin(a.path()).await;
    let second = join(b.path(), &first).await;
    let third = join(c.path(), &first).await;
    until(&first, |status| voters(status) == 3).await;
    put(first.url(), "before", "1").await.unwrap();
    drop(first);
    let leader = leader_of(&[&second, &third]).await;
    assert_eq!(keys(&leader).await, ["before"]);
    put(&leader, "after", "2").await.unwrap();

    // Back on its folder, at another port, it learns what it missed and tells where it is.
    let first = again(a.path(), Vec::new()).await;
    let here = address(&first);
    until(&first, |status| {
        status.masters.iter().any(|m| m.address == here) && status.leader.is_some()
    })
    .await;
    // A clean stop hands over, and the one that was away can lead.
    let (leading, following) = if leader == second.url() {
        (second, third)
    } else {
        (third, second)
    };
    leading.stop().await;
    let leader = leader_of(&[&first, &following]).await;
    assert_eq!(keys(&leader).await, ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sends_everybody_to_the_leader() {
    let [a, b, _] = folders();
    let first = begin(a.path()).await;
    let second = join(b.path(), &first).await;
    until(&second, |status| status.leader.is_some()).await;
    let refused = put(second.url(), "k", "v").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let leader = refused.metadata().get("allot-leader").unwrap();
    assert_eq!(leader.to_str().unwrap(), first.url());
    let (code, head) = get(second.url(), "/frameworks?x=1").await;
    assert_eq!(code, 307);
    let location = format!("location: //{}/frameworks?x=1\r\n", address(&first));
    assert!(head.to_lowercase().contains(&location), "{head}");
    assert_eq!(get(second.url(), "/health").await.0, 200);
    let (_, metrics) = get(second.url(), "/metrics").await;
    assert!(metrics.contains("master_elected 0.0"), "{metrics}");
    let mut client = masters(&second).await;
    let answer = client.get_leader(allot::GetLeaderRequest::default()).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(
        (answer.leader.as_deref(), answer.here),
        (Some(first.url()), false)
    );
}

async fn get(url: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchanged_disk_and_a_removed_master_come_back_as_new_members() {
    let [a, b, c] = folders();
    let first = begin(a.path()).await;
    let second = join(b.path(), &first).await;
    let third = join(c.path(), &first).await;
    until(&first, |status| voters(status) == 3).await;
    put(first.url(), "k", "v").await.unwrap();

    // The same address, an empty folder.
    let place = address(&third).parse().unwrap();
    let old = status(&third).await.id;
    third.stop().await;
    let empty = tempfile::tempdir().unwrap();
    let third = Config {
        listen: place,
        join: vec![address(&first)],
        ..config(empty.path())
    };
    let third = start(third).await.unwrap();
    until(&first, |status| {
        voters(status) == 3 && status.masters.iter().all(|m| m.id != old)
    })
    .await;

    // Removed: it stops by itself and says why.
    let mut second = second;
    let gone = address(&second);
    let mut client = masters(&first).await;
    let change = allot::change_masters_request::Change::Remove(gone);
    let change = allot::ChangeMastersRequest {
        change: Some(change),
    };
    client.change(change).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, second.wait()).await.unwrap();
    assert!(matches!(ended, RunError::Removed), "{ended}");
    drop(second);
    until(&first, |status| voters(status) == 2).await;
    let second = again(b.path(), vec![address(&first)]).await;
    until(&first, |status| voters(status) == 3).await;
    drop(first);
    let leader = leader_of(&[&second, &third]).await;
    assert_eq!(keys(&leader).await, ["k"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_noted_as_a_learner_has_the_registry_and_votes_only_once_promoted() {
    use allot::change_masters_request::Change;
    let [a, b, _] = folders();
    let first = begin(a.path()).await;
    put(first.url(), "k", "v").await.unwrap();
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = place.local_addr().unwrap();
    drop(place);
    let change = async |change| {
        let change = allot::ChangeMastersRequest {
            change: Some(change),
        };
        masters(&first).await.change(change).await.unwrap();
    };
    change(Change::Add(allot::AddMaster {
        address: listen.to_string(),
        keep_learner: true,
    }))
    .await;
    let second = Config {
        listen,
        join: vec![address(&first)],
        ..config(b.path())
    };
    let second = start(second).await.unwrap();
    let learned = |status: &allot::MasterStatus| {
        let learner = status.masters.iter().find(|m| m.role == "learner");
        learner.is_some_and(|m| m.matched.is_some_and(|at| at >= status.committed))
    };
    until(&first, learned).await;
    put(first.url(), "l", "v").await.unwrap();
    until(&first, learned).await;
    assert_eq!(voters(&status(&first).await), 1);

    change(Change::Promote(listen.to_string())).await;
    until(&second, |status| voters(status) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_members_of_other_clusters_are_refused() {
    let [a, b, c] = folders();
    let first = begin(a.path()).await;
    let stranger = Config {
        join: vec![address(&first)],
        secret: Some("some-other-secret-text".to_owned()),
        ..config(b.path())
    };
    let error = anyhow::Error::from(start(stranger).await.unwrap_err());
    assert!(format!("{error:#}").contains("secret is not"), "{error:#}");

    // Not a byte of Raft without the secret.
    let mut client = masters(&first).await;
    let frame = allot::RaftFrame {
        data: "anything".into(),
        last: true,
    };
    let speak = Request::new(tokio_stream::iter([frame]));
    let refused = client.deliver(speak).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // The right secret, but a folder of another cluster.
    begin(c.path()).await.stop().await;
    let other = Config {
        join: vec![address(&first)],
        ..config(c.path())
    };
    let error = anyhow::Error::from(start(other).await.unwrap_err());
    assert!(
        format!("{error:#}").contains("belongs to cluster"),
        "{error:#}"
    );
}

/// The stream by which the member of that number speaks Raft to `master`, and what it hears.
async fn speak(
    master: &Running,
    from: u64,
) -> (mpsc::Sender<allot::RaftFrame>, Streaming<allot::RaftFrame>) {
    let to = status(master).await;
    let (frames, outgoing) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    for (name, value) in [
        ("allot-secret", SECRET),
        ("allot-cluster", &to.cluster_id),
        ("allot-from", &format!("{from:x}")),
        ("allot-to", &format!("{:x}", to.id)),
        ("allot-answers", "1"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let heard = masters(master).await.deliver(request).await;
    (frames, heard.unwrap().into_inner())
}

fn framed(message: &allot::RaftMessage) -> allot::RaftFrame {
    allot::RaftFrame {
        data: message.encode_to_vec().into(),
        last: true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_answered_by_the_stream_on_which_it_asks() {
    let [a, _, _] = folders();
    let first = begin(a.path()).await;
    // Nobody is there: only its own stream leads to this member.
    let add = allot::AddMaster {
        address: "127.0.0.1:9".to_owned(),
        keep_learner: true,
    };
    let change = allot::ChangeMastersRequest {
        change: Some(allot::change_masters_request::Change::Add(add)),
    };
    masters(&first).await.change(change).await.unwrap();
    let seen = status(&first).await;
    let learner = seen
        .masters
        .iter()
        .find(|m| m.role == "learner")
        .unwrap()
        .id;
    // What believes itself a leader of an older term is told of the newer one.
    assert!(seen.term > 1);
    let heartbeat = allot::RaftMessage {
        // MsgHeartbeat; the answer is a MsgAppendResponse.
        kind: 8,
        to: seen.id,
        from: learner,
        term: 1,
        ..Default::default()
    };
    let (said, mut heard) = speak(&first, learner).await;
    said.send(framed(&heartbeat)).await.unwrap();
    let answer = heard.message().await.unwrap().unwrap();
    assert!(answer.last);
    let answer = allot::RaftMessage::decode(answer.data).unwrap();
    assert_eq!(
        (answer.kind, answer.from, answer.to, answer.term),
        (4, seen.id, learner, seen.term)
    );
    drop(said);
    let end = heard.message().await.unwrap();
    assert_eq!(end, Some(allot::RaftFrame::default()));
    assert_eq!(heard.message().await.unwrap(), None);

    let (said, mut heard) = speak(&first, learner).await;
    let of_another = allot::RaftMessage {
        from: learner ^ 1,
        ..heartbeat
    };
    said.send(framed(&of_another)).await.unwrap();
    let refused = heard.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_a_new_cluster_with_all_that_was_there() {
    let [a, b, _] = folders();
    let first = begin(a.path()).await;
    put(first.url(), "k", "v").await.unwrap();
    let mut client = masters(&first).await;
    let mut chunks = client.backup(allot::BackupRequest {}).await.unwrap();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.get_mut().message().await.unwrap() {
        backup.extend_from_slice(&chunk.data);
    }
    let occupied = restore(a.path(), backup.clone(), "127.0.0.1:1");
    assert!(matches!(occupied, Err(RegistryError::InUse { .. })));
    let mut damaged = backup.clone();
    damaged[30] ^= 1;
    let refused = restore(b.path(), damaged, "127.0.0.1:1").unwrap_err();
    assert!(refused.to_string().contains("checksum"), "{refused}");
    restore(b.path(), backup.clone(), "127.0.0.1:1").unwrap();
    let twice = restore(b.path(), backup, "127.0.0.1:1");
    assert!(matches!(twice, Err(RegistryError::Occupied { .. })));
    let restored = again(b.path(), Vec::new()).await;
    assert_eq!(keys(restored.url()).await, ["k"]);
    let ids = (status(&first).await, status(&restored).await);
    assert_ne!(ids.0.cluster_id, ids.1.cluster_id);
}

/// Opens an agent's session at a master: who is to lead after that one, and its first message.
/// `lost` are the leader that the agent lost and its cluster.
async fn register(url: &str, lost: Option<[&str; 2]>) -> Result<(String, FromMaster), Status> {
    let info = mesos::AgentInfo {
        hostname: "a1".to_owned(),
        resources: convert::resources_to_wire(&"cpus:1;mem:64".parse().unwrap(), None),
        ..Default::default()
    };
    let register = FromAgent::Register(allot::Register {
        agent: info,
        url: "http://127.0.0.1:1".to_owned(),
        version: "1".to_owned(),
        boot_id: "b".to_owned(),
        ..Default::default()
    });
    let message = allot::AgentMessage {
        message: Some(register),
    };
    let said = tokio_stream::once(message).chain(tokio_stream::pending());
    let mut request = Request::new(said);
    for (name, value) in [LOST, OF_CLUSTER]
        .into_iter()
        .zip(lost.into_iter().flatten())
    {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let mut client = AgentClient::new(channel(url).await);
    let answer = client.connect(request).await?;
    let metadata = answer.metadata();
    let heir = metadata.get(HEIR).map(|heir| heir.to_str().unwrap());
    let heir = heir.unwrap_or_default().to_owned();
    assert!(heir.is_empty() || metadata.contains_key(SPREAD));
    let first = answer.into_inner().message().await?.unwrap();
    Ok((heir, first.message.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_wait_at_the_heir_of_a_lost_leader_until_it_leads() {
    let [a, b, c] = folders();
    let first = begin(a.path()).await;
    let second = join(b.path(), &first).await;
    let third = join(c.path(), &first).await;
    for master in [&first, &second, &third] {
        until(master, |status| voters(status) == 3).await;
    }
    let cluster = status(&first).await.cluster_id;
    let (heir, _) = register(first.url(), None).await.unwrap();
    let (heir, other) = if heir == address(&second) {
        (&second, &third)
    } else {
        assert_eq!(heir, address(&third));
        (&third, &second)
    };
    let stranger = register(heir.url(), None).await.unwrap_err();
    assert_eq!(stranger.code(), Code::FailedPrecondition);
    let elsewhere = register(heir.url(), Some([first.url(), "other"])).await;
    let elsewhere = elsewhere.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(
        elsewhere.message().contains("cluster \"other\""),
        "{elsewhere}"
    );

    let lost = first.url().to_owned();
    let lost = Some([lost.as_str(), cluster.as_str()]);
    // They come while the first one leads, which it does until it is gone.
    let (at_heir, at_other, ()) = tokio::join!(
        register(heir.url(), lost),
        register(other.url(), lost),
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(first);
        },
    );
    // On a machine that stands still for a while the other one may be elected.
    let (accepted, refused, leads) = match (at_heir, at_other) {
        (Ok(accepted), Err(refused)) => (accepted, refused, heir),
        (Err(refused), Ok(accepted)) => (accepted, refused, other),
        both => panic!("one of them leads, not {both:?}"),
    };
    let (heir, message) = accepted;
    assert_ne!(heir, address(leads));
    assert!(matches!(message, FromMaster::Registered(_)), "{message:?}");
    let leader = refused.metadata().get("allot-leader").unwrap();
    assert_eq!(leader.to_str().unwrap(), leads.url());
}
