//! One connection to whoever leads, shared by some simulated agents.
//!
//! It looks for the leader as an agent does (`docs/design/replication.md`, finding the leader):
//! it asks the heir of the one that it lost, or any master, and is answered the moment that somebody
//! leads. A connection to another one than it asked is made when the first of its agents has waited
//! its part of the spread.

use std::sync::Arc;
use std::time::Duration;

use allotment_proto::allot;
use tokio::sync::{Mutex, OnceCell};

use super::wire::Connection;

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
    /// Agents that return wait a random part of this first.
    pub(super) spread: Duration,
    url: String,
    /// Who is asked first when this one is lost.
    heir: Option<String>,
    /// `None` when it does not lead after all.
    connection: Arc<OnceCell<Option<Connection>>>,
}

impl Found {
    /// The connection, if that master leads: it may have been elected a moment ago and not be
    /// ready, or be gone again. An agent asks that once, unless it was asked already.
    pub(super) async fn connection(&self) -> Option<Connection> {
        let connection = self.connection.get_or_init(async || {
            let connection = open(&self.url).await?;
            let request = allot::GetLeaderRequest {
                wait_ms: Some(READY_MS),
                unlike: None,
            };
            let answer = connection.get_leader(&request).await?;
            answer.here.then_some(connection)
        });
        connection.await.clone()
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
        let lost = found.take();
        let asked = match &lost {
            Some(lost) => self.near(lost).await,
            None => None,
        };
        let Asked {
            url,
            here,
            heir,
            spread,
        } = match asked {
            Some(asked) => asked,
            None => self.anywhere(lost.map(|lost| lost.url)).await,
        };
        let new = Found {
            number: broken + 1,
            spread: Duration::try_from_secs_f64(spread).unwrap_or_default(),
            url,
            heir,
            connection: Arc::new(OnceCell::new_with(here.map(Some))),
        };
        *found = Some(new.clone());
        new
    }

    /// The leader that was lost, if it is there after all, or its heir.
    async fn near(&self, lost: &Found) -> Option<Asked> {
        if let Some(again) = ask(&lost.url, 0, None).await.filter(|a| a.here.is_some()) {
            return Some(again);
        }
        ask(lost.heir.as_ref()?, WAIT_MS, Some(lost.url.clone())).await
    }

    /// Any of the masters.
    async fn anywhere(&self, unlike: Option<String>) -> Asked {
        loop {
            let first = fastrand::usize(..self.masters.len().max(1));
            let (before, from) = self.masters.split_at(first.min(self.masters.len()));
            for master in from.iter().chain(before) {
                if let Some(asked) = ask(master, WAIT_MS, unlike.clone()).await {
                    return asked;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn open(url: &str) -> Option<Connection> {
    Connection::open(url.strip_prefix("http://")?).await
}

/// What one master says of who leads.
struct Asked {
    url: String,
    /// When it is this one. A connection to another one is made when it is used.
    here: Option<Connection>,
    heir: Option<String>,
    /// In seconds.
    spread: f64,
}

async fn ask(url: &str, wait_ms: u32, unlike: Option<String>) -> Option<Asked> {
    let connection = open(url).await?;
    let wait_ms = Some(wait_ms);
    let request = allot::GetLeaderRequest { wait_ms, unlike };
    let answer = connection.get_leader(&request).await?;
    let (url, here) = if answer.here {
        (url.to_owned(), Some(connection))
    } else {
        (answer.leader?, None)
    };
    Some(Asked {
        url,
        here,
        heir: answer.heir,
        spread: answer.spread_seconds,
    })
}
