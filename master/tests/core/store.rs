//! The key-value store: leases, and what watchers hear.

use std::time::Duration;

use allotment_master::core::{Refusal, Reply, Request};
use allotment_proto::allot;

use crate::cluster::{Cluster, SECOND};

fn put(key: &str, lease: Option<Duration>) -> allot::StoreOperation {
    allot::StoreOperation {
        key: key.to_owned(),
        value: Some("v".into()),
        expected_version: None,
        lease_ms: lease.map(|lease| u64::try_from(lease.as_millis()).unwrap()),
    }
}

fn delete(key: &str) -> allot::StoreOperation {
    allot::StoreOperation {
        value: None,
        ..put(key, None)
    }
}

fn commit(c: &mut Cluster, operations: Vec<allot::StoreOperation>) -> Result<u64, Refusal> {
    let request = allot::StoreCommitRequest {
        namespace: "web".to_owned(),
        operations,
    };
    match c.ask(Request::StoreCommit(request))? {
        Reply::Committed(version) => Ok(version),
        other => panic!("{other:?}"),
    }
}

fn keys(c: &mut Cluster) -> Vec<String> {
    let request = allot::StoreListRequest {
        namespace: "web".to_owned(),
        prefix: String::new(),
    };
    match c.ask(Request::StoreList(request)) {
        Ok(Reply::Entries(entries)) => entries.iter().map(|(key, _)| key.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Keys that changed since the last call, those deleted with a minus.
fn news(c: &mut Cluster) -> Vec<(u64, Vec<String>)> {
    let news = std::mem::take(&mut c.store_news).into_iter();
    news.map(|record| {
        let changes = record.changes.iter().map(|change| match change.value {
            Some(_) => change.key.clone(),
            None => format!("-{}", change.key),
        });
        (record.version, changes.collect())
    })
    .collect()
}

#[test]
fn a_key_whose_lease_is_over_is_deleted_for_good() {
    let mut c = Cluster::new();
    commit(&mut c, vec![put("stays", None)]).unwrap();
    commit(&mut c, vec![put("leader", Some(5 * SECOND))]).unwrap();
    c.pass(4 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["leader", "stays"]);
    c.pass(2 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["stays"]);
    c.master_restarts();
    assert_eq!(keys(&mut c), ["stays"]);
    let again = commit(&mut c, vec![put("leader", Some(5 * SECOND))]);
    assert_eq!(again, Ok(4), "the deletion took a version");
}

#[test]
fn writing_a_key_again_renews_its_lease_or_ends_it() {
    let mut c = Cluster::new();
    commit(&mut c, vec![put("leader", Some(5 * SECOND))]).unwrap();
    for _ in 0..5 {
        c.pass(4 * SECOND, &[]);
        commit(&mut c, vec![put("leader", Some(5 * SECOND))]).unwrap();
    }
    c.pass(4 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["leader"]);
    commit(&mut c, vec![put("leader", None)]).unwrap();
    c.pass(3600 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["leader"]);
    commit(&mut c, vec![put("leader", Some(5 * SECOND))]).unwrap();
    commit(&mut c, vec![delete("leader")]).unwrap();
    commit(&mut c, vec![put("leader", None)]).unwrap();
    c.pass(3600 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["leader"]);
}

#[test]
fn under_another_leading_master_a_lease_has_its_whole_time_again() {
    let mut c = Cluster::new();
    commit(&mut c, vec![put("leader", Some(5 * SECOND))]).unwrap();
    c.pass(4 * SECOND, &[]);
    c.master_restarts();
    c.pass(4 * SECOND, &[]);
    assert_eq!(keys(&mut c), ["leader"]);
    c.pass(2 * SECOND, &[]);
    assert_eq!(keys(&mut c), [""; 0]);
}

#[test]
fn a_lease_that_makes_no_sense_is_refused_and_changes_nothing() {
    let mut c = Cluster::new();
    for lease in [Duration::ZERO, Duration::from_millis(99), 86_401 * SECOND] {
        let refused = commit(&mut c, vec![put("a", None), put("leader", Some(lease))]);
        let Err(Refusal::Invalid(sentence)) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            sentence.contains("between 100 and 86400000 ms"),
            "{sentence}"
        );
    }
    let leased = allot::StoreOperation {
        lease_ms: Some(5000),
        ..delete("leader")
    };
    let refused = commit(&mut c, vec![leased]);
    assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    assert_eq!(keys(&mut c), [""; 0]);
    assert_eq!(news(&mut c), []);
}

#[test]
fn watchers_hear_commits_and_ended_leases_in_the_order_of_versions() {
    let mut c = Cluster::new();
    commit(&mut c, vec![put("a", None), put("b", Some(SECOND))]).unwrap();
    let watch = Request::StoreWatch(allot::StoreWatchRequest {
        namespace: "web".to_owned(),
        prefix: "b".to_owned(),
    });
    let Ok(Reply::Watched { entries, version }) = c.ask(watch) else {
        panic!("not watched");
    };
    assert_eq!((entries.len(), version), (1, 1));
    commit(&mut c, vec![delete("a")]).unwrap();
    c.pass(2 * SECOND, &[]);
    commit(&mut c, vec![put("c", None)]).unwrap();
    let heard: Vec<(u64, Vec<String>)> = vec![
        (1, vec!["a".to_owned(), "b".to_owned()]),
        (2, vec!["-a".to_owned()]),
        (3, vec!["-b".to_owned()]),
        (4, vec!["c".to_owned()]),
    ];
    assert_eq!(news(&mut c), heard);
}

#[test]
fn the_store_survives_a_restart() {
    let mut c = Cluster::new();
    let commit = |key: &str, value: Option<&'static [u8]>, expected| {
        Request::StoreCommit(allot::StoreCommitRequest {
            namespace: "services".to_owned(),
            operations: vec![allot::StoreOperation {
                key: key.to_owned(),
                value: value.map(Into::into),
                expected_version: expected,
                lease_ms: None,
            }],
        })
    };
    assert_eq!(
        c.ask(commit("a", Some(b"1"), Some(0))),
        Ok(Reply::Committed(1))
    );
    assert_eq!(
        c.ask(commit("b", Some(b"2"), None)),
        Ok(Reply::Committed(2))
    );
    assert_eq!(c.ask(commit("b", None, Some(2))), Ok(Reply::Committed(3)));
    c.master_restarts();
    let list = Request::StoreList(allot::StoreListRequest {
        namespace: "services".to_owned(),
        prefix: String::new(),
    });
    let Ok(Reply::Entries(entries)) = c.ask(list) else {
        panic!("no entries");
    };
    assert_eq!(entries.len(), 1);
    assert_eq!((&*entries[0].0, entries[0].1.version), ("a", 1));
    let conflict = c.ask(commit("a", Some(b"3"), Some(0))).unwrap_err();
    assert!(conflict.to_string().contains("at version 1"), "{conflict}");
    assert_eq!(
        c.ask(commit("a", Some(b"3"), Some(1))),
        Ok(Reply::Committed(4))
    );
}
