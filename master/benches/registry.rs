//! What it costs to keep the registry: `cargo bench -p allotment-master --bench registry`.
//!
//! 1. The log alone: 64 records in one group commit, our blocks beside redb.
//! 2. Three masters on one disk with real sockets, 64 commits in flight.
//! 3. The leader dies: until the next one keeps a commit.
//!
//! Everything runs in this process and in a folder below the current one, which should be on a
//! real disk. Nothing here asserts: a reader compares within one run.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints what it measured in real time"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use allotment_master::{Config, Running, start};
use allotment_proto::allot;
use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::store_client::StoreClient;
use allotment_raft::store::{DiskFolder, First, Store};
use allotment_raft::{Effect, Input, Member};
use allotment_types::Timestamp;
use anyhow::Context as _;
use bytes::Bytes;
use redb::{Database, TableDefinition};
use tonic::transport::Channel;

/// Writes in flight.
const DEPTH: usize = 64;
/// A small registry record.
const RECORD_LEN: usize = 256;
const LOG_TIME: Duration = Duration::from_secs(3);
const MASTERS_TIME: Duration = Duration::from_secs(5);
const FAILOVERS: usize = 10;

fn main() -> anyhow::Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.trim());
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(".")?;
    let mut ours = our_log(&folder.path().join("ours"))?;
    print_rate("log, blocks, 64 deep", &mut ours);
    let mut redb = redb_log(&folder.path().join("redb"))?;
    print_rate("log, redb, 64 deep", &mut redb);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(three_masters(folder.path()))
}

/// Times of single writes, and of all of them.
struct Samples {
    each: Vec<Duration>,
    all: Duration,
}

fn print_rate(what: &str, samples: &mut Samples) {
    samples.each.sort_unstable();
    let at = |percent: usize| {
        let rank = samples.each.len() * percent / 100;
        let found = samples.each.get(rank).copied().unwrap_or_default();
        found.as_secs_f64() * 1000.0
    };
    let n = u32::try_from(samples.each.len()).unwrap_or(u32::MAX);
    let rate = f64::from(n) / samples.all.as_secs_f64();
    println!(
        "{what}: {rate:.0} writes/s, p50 {:.2} ms, p99 {:.2} ms",
        at(50),
        at(99)
    );
}

/// One member alone: propose 64, write the group, apply it.
fn our_log(folder: &Path) -> anyhow::Result<Samples> {
    let first = First::alone(1, "bench:1", Bytes::new());
    let (mut store, recovered) = Store::create(Box::new(DiskFolder::open(folder)?), Some(first))?;
    let config = allotment_raft::Config {
        id: 1,
        tick: Duration::from_millis(50),
        election_ticks: 12,
        seed: 1,
        compact_bytes: 16 * 1024 * 1024,
        keep_bytes: 4 * 1024 * 1024,
    };
    let (mut member, effects) = Member::new(config, Timestamp::ZERO, recovered)?;
    perform(&mut member, &mut store, effects)?;
    let data = Bytes::from(vec![7; RECORD_LEN]);
    let mut each = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < LOG_TIME {
        let group = Instant::now();
        let mut effects = Vec::new();
        for _ in 0..DEPTH {
            effects.extend(member.step(Timestamp::ZERO, Input::Propose(data.clone())));
        }
        perform(&mut member, &mut store, effects)?;
        each.extend(std::iter::repeat_n(group.elapsed(), DEPTH));
    }
    let all = begin.elapsed();
    Ok(Samples { each, all })
}

fn perform(member: &mut Member, store: &mut Store, mut effects: Vec<Effect>) -> anyhow::Result<()> {
    while !effects.is_empty() {
        let mut writes = Vec::new();
        let mut next = Vec::new();
        for effect in effects {
            match effect {
                Effect::Write(write) => writes.push(write),
                Effect::MakeSnapshot => {
                    let made = Input::SnapshotMade(Bytes::new());
                    next.extend(member.step(Timestamp::ZERO, made));
                }
                _ => {}
            }
        }
        if let Some(last) = writes.last() {
            store.write(&writes)?;
            next.extend(member.step(Timestamp::ZERO, Input::Persisted(last.number)));
        }
        effects = next;
    }
    Ok(())
}

/// The same records as rows of a table, one transaction for 64.
fn redb_log(file: &Path) -> anyhow::Result<Samples> {
    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    let database = Database::create(file)?;
    let data = vec![7; RECORD_LEN];
    let (mut each, mut index) = (Vec::new(), 0u64);
    let begin = Instant::now();
    while begin.elapsed() < LOG_TIME {
        let group = Instant::now();
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for _ in 0..DEPTH {
                index += 1;
                table.insert(index, data.as_slice())?;
            }
        }
        transaction.commit()?;
        each.extend(std::iter::repeat_n(group.elapsed(), DEPTH));
    }
    let all = begin.elapsed();
    Ok(Samples { each, all })
}

struct Master {
    config: Config,
    running: Running,
}

async fn begin(folder: &Path, n: usize, first: Option<&Running>) -> anyhow::Result<Master> {
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let join = first.map(|first| first.url().trim_start_matches("http://").to_owned());
    let config = Config {
        listen,
        data_dir: folder.join(format!("master-{n}")),
        bootstrap: join.is_none(),
        join: join.into_iter().collect(),
        secret: Some("the-secret-of-a-benchmark".to_owned()),
        ..Config::default()
    };
    let running = start(config.clone()).await?;
    Ok(Master { config, running })
}

async fn channel(url: &str) -> anyhow::Result<Channel> {
    Ok(Channel::from_shared(url.to_owned())?.connect().await?)
}

/// Asks all until one says that it leads.
async fn leader(masters: &[Master]) -> anyhow::Result<usize> {
    loop {
        for (i, master) in masters.iter().enumerate() {
            let mut client = MastersClient::new(channel(master.running.url()).await?);
            let request = allot::GetLeaderRequest::default();
            if client.get_leader(request).await?.into_inner().here {
                return Ok(i);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn commit(store: &mut StoreClient<Channel>, key: usize) -> Result<(), tonic::Status> {
    let request = allot::StoreCommitRequest {
        namespace: "bench".to_owned(),
        operations: vec![allot::StoreOperation {
            key: format!("key-{key}"),
            value: Some(vec![7; RECORD_LEN].into()),
            expected_version: None,
            lease_ms: None,
        }],
    };
    store.commit(request).await.map(drop)
}

async fn three_masters(folder: &Path) -> anyhow::Result<()> {
    let first = begin(folder, 0, None).await?;
    let mut masters = vec![first];
    for n in [1, 2] {
        let joined = begin(folder, n, Some(&masters[0].running)).await?;
        masters.push(joined);
        loop {
            let mut client = MastersClient::new(channel(masters[0].running.url()).await?);
            let status = client.get_status(allot::GetMasterStatusRequest {}).await?;
            let voters = status.into_inner().masters;
            if voters.iter().filter(|m| m.role == "voter").count() == n + 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let url = masters[leader(&masters).await?].running.url().to_owned();
    let begin = Instant::now();
    let mut writers = Vec::new();
    for key in 0..DEPTH {
        let store = StoreClient::new(channel(&url).await?);
        writers.push(tokio::spawn(write(store, key, begin)));
    }
    let mut each = Vec::new();
    for writer in writers {
        each.extend(writer.await??);
    }
    let all = begin.elapsed();
    print_rate("three masters, 64 in flight", &mut Samples { each, all });
    failovers(masters).await
}

async fn write(
    mut store: StoreClient<Channel>,
    key: usize,
    begin: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut each = Vec::new();
    while begin.elapsed() < MASTERS_TIME {
        let one = Instant::now();
        commit(&mut store, key).await?;
        each.push(one.elapsed());
    }
    Ok(each)
}

async fn failovers(mut masters: Vec<Master>) -> anyhow::Result<()> {
    let mut each = Vec::new();
    for _ in 0..FAILOVERS {
        let Master { config, running } = masters.swap_remove(leader(&masters).await?);
        let died = Instant::now();
        drop(running);
        loop {
            let url = masters[leader(&masters).await?].running.url().to_owned();
            let mut store = StoreClient::new(channel(&url).await?);
            if commit(&mut store, 0).await.is_ok() {
                break;
            }
        }
        each.push(died.elapsed());
        // Its last write may still be under way and its folder locked.
        let mut tries = 0;
        let config = Config {
            bootstrap: false,
            join: Vec::new(),
            ..config
        };
        let running = loop {
            match start(config.clone()).await {
                Ok(running) => break running,
                Err(error) if tries > 100 => return Err(error).context("no return"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        masters.push(Master { config, running });
        // It votes again after one election timeout.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    each.sort_unstable();
    let shown: Vec<String> = each
        .iter()
        .map(|d| format!("{:.2}", d.as_secs_f64()))
        .collect();
    println!(
        "leader dies, seconds until the next commit: {}",
        shown.join(" ")
    );
    Ok(())
}
