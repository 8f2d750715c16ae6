//! Watches and elections against the real master over TCP.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use allotment_framework_sdk::{Election, Expected, Standing, Store, StoreOp, Terms, WatchEvent};
use allotment_proto::allot;
use prost::Message as _;

/// Long for a loaded machine; nothing here takes a second.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "leader";

async fn master(folder: &std::path::Path, port: u16) -> allotment_master::Running {
    let config = allotment_master::Config {
        listen: ([127, 0, 0, 1], port).into(),
        data_dir: folder.to_owned(),
        ..allotment_master::Config::default()
    };
    allotment_master::start(config).await.unwrap()
}

fn store(master: &allotment_master::Running) -> Store {
    Store::new(&[master.url().to_owned()], "tested").unwrap()
}

fn terms(name: &str, lease: Duration) -> Terms {
    Terms {
        key: KEY.to_owned(),
        lease,
        url: format!("http://{name}:1"),
        alone: false,
    }
}

const LONG: Duration = Duration::from_secs(3600);

async fn becomes(election: &mut Election, wanted: impl Fn(&Standing) -> bool) -> Standing {
    let waited = async {
        loop {
            let standing = election.standing();
            if wanted(&standing) {
                return standing;
            }
            election.changed().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    waited.unwrap_or_else(|_| panic!("it stays at {:?}", election.standing()))
}

async fn leads(election: &mut Election) {
    becomes(election, |s| *s == Standing::Leads).await;
}

async fn follows(election: &mut Election, name: &str) {
    let url = format!("http://{name}:1");
    becomes(
        election,
        |s| matches!(s, Standing::Follows(leader) if leader.url == url),
    )
    .await;
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let store = store(&master);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                let ops = [
                    StoreOp::put("a/n", n.to_string()),
                    StoreOp::put("b/n", "unseen"),
                ];
                store.commit(&ops).await.unwrap();
            }
            store.commit(&[StoreOp::delete("a/n")]).await.unwrap()
        }
    });
    // Begun anywhere among the writes, it hears all later ones.
    let mut watch = store.watch("a/").await.unwrap();
    let mut values: Vec<u32> = Vec::new();
    let mut caught_up = false;
    let deleted_at = loop {
        match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
            Ok(WatchEvent::Put(entry)) => {
                assert_eq!(entry.key, "a/n");
                let value = std::str::from_utf8(&entry.value).unwrap();
                values.push(value.parse().unwrap());
            }
            Ok(WatchEvent::CaughtUp) => {
                assert!(!caught_up && values.len() <= 1);
                caught_up = true;
            }
            Ok(WatchEvent::Deleted { key, version }) => {
                assert_eq!(key, "a/n");
                break version;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(caught_up);
    let first = values.first().copied().unwrap_or(200);
    assert_eq!(values, (first..200).collect::<Vec<_>>());
    assert_eq!(deleted_at, writer.await.unwrap());
    master.stop().await;
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(ended.unwrap_err().is_temporary());
}

#[tokio::test]
async fn one_leads_and_when_it_leaves_the_other_does() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let mut a = Election::start(store(&master), terms("a", LONG));
    leads(&mut a).await;
    let mut b = Election::start(store(&master), terms("b", LONG));
    follows(&mut b, "a").await;
    a.leave().await;
    leads(&mut b).await;
    assert_eq!(store(&master).list(KEY).await.unwrap().len(), 1);
    b.leave().await;
    assert_eq!(store(&master).list(KEY).await.unwrap(), []);
    master.stop().await;
}

#[tokio::test]
async fn a_leader_that_abdicates_follows_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let mut a = Election::start(store(&master), terms("a", LONG));
    leads(&mut a).await;
    let mut b = Election::start(store(&master), terms("b", LONG));
    follows(&mut b, "a").await;
    assert!(!b.abdicate().await, "it does not lead");
    assert!(a.abdicate().await);
    leads(&mut b).await;
    follows(&mut a, "b").await;
    master.stop().await;
}

#[tokio::test]
async fn a_leader_that_is_not_heard_of_loses_the_key_with_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let lease = Duration::from_millis(600);
    let mut a = Election::start(store(&master), terms("a", lease));
    leads(&mut a).await;
    let mut b = Election::start(store(&master), terms("b", lease));
    follows(&mut b, "a").await;
    // Without a word.
    drop(a);
    leads(&mut b).await;
    master.stop().await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_knows_that_it_leads_no_more_and_leads_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let first = master(folder.path(), 0).await;
    let port = first.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let mut a = Election::start(store(&first), terms("a", Duration::from_millis(600)));
    leads(&mut a).await;
    first.stop().await;
    let lost = becomes(&mut a, |s| *s != Standing::Leads).await;
    let Standing::Unknown(reason) = lost else {
        panic!("{lost:?}");
    };
    assert!(reason.contains("lease"), "{reason}");
    let second = master(folder.path(), port).await;
    leads(&mut a).await;
    second.stop().await;
}

#[tokio::test]
async fn leadership_outlasts_a_restart_of_the_master_within_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    let first = master(folder.path(), 0).await;
    let port = first.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let mut a = Election::start(store(&first), terms("a", LONG));
    leads(&mut a).await;
    let before = store(&first).list(KEY).await.unwrap();
    first.stop().await;
    let second = master(folder.path(), port).await;
    let mut b = Election::start(store(&second), terms("b", LONG));
    follows(&mut b, "a").await;
    assert_eq!(a.standing(), Standing::Leads);
    assert_eq!(store(&second).list(KEY).await.unwrap(), before);
    second.stop().await;
}

/// What a process that is dead, and one elsewhere, left behind without any lease.
async fn left_behind(store: &Store, change: impl Fn(&mut allot::Candidate)) {
    let entry = store.list(KEY).await.unwrap().remove(0);
    let mut candidate = allot::Candidate::decode(&*entry.value).unwrap();
    candidate.process = "earlier".to_owned();
    change(&mut candidate);
    let op = StoreOp::put(KEY, candidate.encode_to_vec());
    let op = op.expecting(Expected::Version(entry.version));
    store.commit(&[op]).await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_the_lease_of_a_process_that_is_certainly_dead() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), 0).await;
    let store = store(&master);
    let mut a = Election::start(store.clone(), terms("a", LONG));
    leads(&mut a).await;
    drop(a);
    left_behind(&store, |c| c.started = c.started.map(|ticks| ticks - 1)).await;
    let mut b = Election::start(store.clone(), terms("b", LONG));
    leads(&mut b).await;
    drop(b);

    left_behind(&store, |c| c.boot_id = Some("another machine".to_owned())).await;
    let mut c = Election::start(store.clone(), terms("c", LONG));
    follows(&mut c, "b").await;
    // Unless it knows that there is nobody else.
    let alone = Terms {
        alone: true,
        ..terms("d", LONG)
    };
    let mut d = Election::start(store, alone);
    leads(&mut d).await;
    follows(&mut c, "d").await;
    master.stop().await;
}
