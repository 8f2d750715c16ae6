//! One connection to whoever leads, shared by some simulated agents.
//!
//! It goes the way of an agent (`docs/design/replication.md`, finding the leader): to the heir of
//! the leader that it lost, or else it asks any master, which answers when somebody leads.

use std::time::Duration;

use allotment_proto::allot;
use tokio::sync::Mutex;

use super::wire::{Connection, Next};

/// How long a master is asked to wait until somebody leads.
const WAIT_MS: u32 = 4000;
/// How long the one that was named is waited for.
const READY_MS: u32 = 1000;
/// Nobody leads: the pause before all are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection to the leader, or to the master that is to be the next.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Which of the line's connections it is.
    pub(super) number: u64,
    pub(super) connection: Connection,
    url: String,
    cluster: String,
    /// The leader that was lost, when this is its heir.
    lost: Option<String>,
    /// Over what time agents return that had no heir to go to.
    pub(super) spread: Duration,
}

impl Place {
    /// The leader that was lost, and its cluster.
    pub(super) fn lost(&self) -> Option<(&str, &str)> {
        Some((self.lost.as_deref()?, &self.cluster))
    }
}

#[derive(Debug)]
pub(super) struct Line {
    masters: Vec<String>,
    place: Mutex<Option<Place>>,
}

impl Line {
    /// `host:port` of each master.
    pub(super) fn new(masters: &[String]) -> Self {
        Self {
            masters: masters.iter().map(|at| format!("http://{at}")).collect(),
            place: Mutex::new(None),
        }
    }

    /// A connection newer than the one that broke; whoever comes first makes it. An agent knows
    /// where to go from a leader that had registered it, or from that one's heir.
    pub(super) async fn after(&self, broken: u64, next: Option<&Next>) -> Place {
        let mut place = self.place.lock().await;
        if let Some(place) = place.as_ref().filter(|place| place.number > broken) {
            return place.clone();
        }
        let followed = match (place.take(), next) {
            (Some(old), Some(Next::Heir(heir))) => follow(old, heir).await,
            (_, Some(Next::Elected(elected))) => match ask(elected, READY_MS).await {
                Some(Asked::Leads(place)) => Some(place),
                _ => None,
            },
            _ => None,
        };
        let mut new = match followed {
            Some(new) => new,
            None => self.anywhere().await,
        };
        new.number = broken + 1;
        place.insert(new).clone()
    }

    /// By any of the masters.
    async fn anywhere(&self) -> Place {
        loop {
            let first = fastrand::usize(..self.masters.len().max(1));
            let (before, from) = self.masters.split_at(first.min(self.masters.len()));
            for master in from.iter().chain(before) {
                match ask(master, WAIT_MS).await {
                    Some(Asked::Leads(place)) => return place,
                    Some(Asked::Follows(leader)) => {
                        if let Some(Asked::Leads(place)) = ask(&leader, READY_MS).await {
                            return place;
                        }
                    }
                    None => {}
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The leader that was lost, should it be there after all, or its heir.
async fn follow(old: Place, heir: &str) -> Option<Place> {
    if let Some(Asked::Leads(again)) = ask(&old.url, READY_MS).await {
        return Some(again);
    }
    Some(Place {
        connection: open(heir).await?,
        url: heir.to_owned(),
        lost: Some(old.url),
        spread: Duration::ZERO,
        ..old
    })
}

async fn open(url: &str) -> Option<Connection> {
    Connection::open(url.strip_prefix("http://")?).await
}

/// What a master says that was asked who leads.
enum Asked {
    Leads(Place),
    Follows(String),
}

async fn ask(url: &str, wait_ms: u32) -> Option<Asked> {
    let connection = open(url).await?;
    let request = allot::GetLeaderRequest {
        wait_ms: Some(wait_ms),
        unlike: None,
    };
    let answer = connection.get_leader(&request).await?;
    if !answer.here {
        return answer.leader.map(Asked::Follows);
    }
    Some(Asked::Leads(Place {
        number: 0,
        connection,
        url: url.to_owned(),
        cluster: answer.cluster_id,
        lost: None,
        spread: Duration::try_from_secs_f64(answer.spread_seconds).unwrap_or_default(),
    }))
}
