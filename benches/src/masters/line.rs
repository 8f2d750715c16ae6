//! One connection to whoever leads, shared by some simulated agents.
//!
//! It looks for the leader as an agent does (`docs/design/replication.md`, finding the leader):
//! it asks any master, and is answered the moment that somebody leads. The connection is made when
//! the first of its agents has waited its part of the spread.

use std::sync::Arc;
use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::allot::masters_client::MastersClient;
use tokio::sync::{Mutex, OnceCell};
use tonic::transport::{Channel, Endpoint};

/// How long a master is asked to wait until somebody leads.
const WAIT_MS: u32 = 4000;
/// How long the one that was named is waited for.
const READY_MS: u32 = 1000;
/// Nobody answers: the pause before all are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection to the leader.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Which of the line's connections it is.
    pub(super) number: u64,
    pub(super) channel: Channel,
    /// Agents that return wait a random part of this first.
    pub(super) spread: Duration,
    url: String,
    leads: Arc<OnceCell<bool>>,
}

impl Found {
    /// Whether it leads: it may have been elected a moment ago and not be ready, or be gone again.
    /// An agent asks that once on a connection, unless the answer was there when it was made.
    pub(super) async fn leads(&self) -> bool {
        let asked = self.leads.get_or_init(async || {
            let mut client = MastersClient::new(self.channel.clone());
            let request = allot::GetLeaderRequest {
                wait_ms: Some(READY_MS),
                unlike: None,
            };
            let answer = client.get_leader(request).await;
            answer.is_ok_and(|answer| answer.into_inner().here)
        });
        *asked.await
    }
}

#[derive(Debug)]
pub(super) struct Line {
    masters: Vec<String>,
    found: Mutex<Option<Found>>,
}

impl Line {
    /// `host:port` of each master.
    pub(super) fn new(masters: &[String]) -> Self {
        Self {
            masters: masters.iter().map(|at| format!("http://{at}")).collect(),
            found: Mutex::new(None),
        }
    }

    /// A connection newer than the one that broke; whoever asks first looks for it.
    pub(super) async fn after(&self, broken: u64) -> Found {
        let mut found = self.found.lock().await;
        if let Some(found) = found.as_ref().filter(|found| found.number > broken) {
            return found.clone();
        }
        let old = found.take();
        loop {
            let first = fastrand::usize(..self.masters.len().max(1));
            let (before, from) = self.masters.split_at(first.min(self.masters.len()));
            for master in from.iter().chain(before) {
                let unlike = old.as_ref().map(|old| old.url.clone());
                if let Some((url, channel, answer)) = ask(master, unlike).await {
                    let spread = Duration::try_from_secs_f64(answer.spread_seconds);
                    let new = Found {
                        number: broken + 1,
                        channel,
                        spread: spread.unwrap_or_default(),
                        url,
                        leads: Arc::new(OnceCell::new_with(answer.here.then_some(true))),
                    };
                    *found = Some(new.clone());
                    return new;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn endpoint(url: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned()).ok()?;
    Some(endpoint.tcp_nodelay(true))
}

/// Asks one master who leads; a connection to that one is made when it is used.
async fn ask(
    url: &str,
    unlike: Option<String>,
) -> Option<(String, Channel, allot::GetLeaderResponse)> {
    let channel = endpoint(url)?.connect().await.ok()?;
    let wait_ms = Some(WAIT_MS);
    let request = allot::GetLeaderRequest { wait_ms, unlike };
    let mut client = MastersClient::new(channel.clone());
    let answer = client.get_leader(request).await.ok()?.into_inner();
    if answer.here {
        return Some((url.to_owned(), channel, answer));
    }
    let leader = answer.leader.clone()?;
    let channel = endpoint(&leader)?.connect_lazy();
    Some((leader, channel, answer))
}
