//! Registry writes: 64 small values are being committed at any time, by as many clients with a
//! connection each, and by one framework over a single connection of the SDK.

use std::time::Duration;

use allotment_framework_sdk::{Store, StoreOp, leader};
use allotment_proto::allot;
use anyhow::Context as _;
use tokio::task::JoinSet;

use super::trio::Trio;
use super::wire::Connection;
use super::{Place, number};
use crate::report::{Number, clock, ms, percentile};

const DEPTH: usize = 64;
/// A small record.
const VALUE_LEN: usize = 256;
const NAMESPACE: &str = "bench";

pub(super) fn measure(place: &Place<'_>, seconds: u64) -> anyhow::Result<Vec<Number>> {
    let trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let span = Duration::from_secs(seconds);
    place.runtime.block_on(async {
        let mut numbers = many(&masters, span).await?;
        numbers.extend(one(&masters, span).await?);
        Ok(numbers)
    })
}

fn key(writer: usize) -> String {
    format!("key-{writer}")
}

/// Clients with a connection each.
async fn many(masters: &[String], span: Duration) -> anyhow::Result<Vec<Number>> {
    let urls: Vec<String> = masters.iter().map(|at| format!("http://{at}")).collect();
    let leader = leader::find(&urls).await.map_err(anyhow::Error::msg)?;
    let address = leader.url.strip_prefix("http://").context("a URL")?;
    let mut clients = Vec::new();
    for _ in 0..DEPTH {
        let client = Connection::open(address).await;
        clients.push(client.context("no connection to the leader")?);
    }
    let clients = clients.iter();
    let write = clients.enumerate().map(|(writer, client)| {
        let client = client.clone();
        let operation = allot::StoreOperation {
            key: key(writer),
            value: Some(vec![7; VALUE_LEN].into()),
            expected_version: None,
            lease_ms: None,
        };
        let request = allot::StoreCommitRequest {
            namespace: NAMESPACE.to_owned(),
            operations: vec![operation],
        };
        move || {
            let (client, request) = (client.clone(), request.clone());
            async move {
                let written = client.commit(&request).await;
                written.context("a write was refused")
            }
        }
    });
    measured("64 clients", write, span).await
}

/// One framework with a connection.
async fn one(masters: &[String], span: Duration) -> anyhow::Result<Vec<Number>> {
    let store = Store::new(masters, NAMESPACE)?;
    let write = (0..DEPTH).map(|writer| {
        // Clones share the connection.
        let store = store.clone();
        let op = [StoreOp::put(key(writer), vec![7; VALUE_LEN])];
        move || {
            let (store, op) = (store.clone(), op.clone());
            async move { anyhow::Ok(store.commit(&op).await?) }
        }
    });
    measured("one client", write, span).await
}

/// Each of these writes again and again.
async fn measured<F>(
    whose: &str,
    writers: impl Iterator<Item = impl Fn() -> F + Send + 'static>,
    span: Duration,
) -> anyhow::Result<Vec<Number>>
where
    F: Future<Output = anyhow::Result<u64>> + Send,
{
    let begun = clock();
    let mut running = JoinSet::new();
    for write in writers {
        running.spawn(async move {
            let mut each = Vec::new();
            while begun.elapsed() < span {
                let one = clock();
                write().await?;
                each.push(one.elapsed());
            }
            anyhow::Ok(each)
        });
    }
    let mut each = Vec::new();
    while let Some(of_one) = running.join_next().await {
        each.extend(of_one??);
    }
    let rate = each.len() as f64 / begun.elapsed().as_secs_f64();
    let what = format!("registry writes, 3 masters on one disk, {DEPTH} in flight of {whose}");
    let (p50, p99) = (percentile(&mut each, 50), percentile(&mut each, 99));
    Ok(vec![
        number(&what, format!("{rate:.0} /s"), "5000 /s", ""),
        number(&format!("{what}: p50"), ms(p50), "5 ms", ""),
        number(&format!("{what}: p99"), ms(p99), "", ""),
    ])
}
