//! Which master leads, and the fence against one that does not know that it was replaced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{GetLeaderRequest, GetLeaderResponse};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::link::{describe, status_text};

/// A master whose machine is gone costs an agent no more than this before it asks the next one.
/// A first packet that was lost is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a master is asked to wait for a leader: a few elections.
const WAIT: Duration = Duration::from_secs(4);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// A leader that takes longer to say that it leads is stopped, cut off or gone.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// A master that is stopped or cut off is noticed in twice this time, so that the one which takes
/// over is found long before pings are missed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The longest that an agent waits so as not to return together with all others; the session
/// gives up on a connection after ten seconds.
const SPREAD_MAX: Duration = Duration::from_secs(3);

/// The latest term of leadership that this agent heard of, and in which cluster. Shared by all
/// connections of one agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Fence(Arc<Mutex<Option<(String, u64)>>>);

impl Fence {
    /// Hears a term; whether whoever told it may still lead.
    fn admit(&self, cluster: &str, term: u64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *known {
            Some((of, latest)) if of == cluster => {
                *latest = term.max(*latest);
                term == *latest
            }
            // Terms of another cluster count for themselves.
            other => {
                *other = Some((cluster.to_owned(), term));
                true
            }
        }
    }

    fn was_here_before(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_some()
    }

    /// Whether somebody leads who did not when this agent last heard of a leader.
    fn is_behind(&self, cluster: &str, term: u64) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .as_ref()
            .is_some_and(|(of, latest)| of == cluster && *latest < term)
    }
}

/// A connection to the leader.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) channel: Channel,
    fence: Fence,
    /// `None`: a master of a version that is always alone, and says no terms.
    cluster: Option<String>,
}

impl Leader {
    /// Finds the leader by the master at `url`.
    pub(super) async fn find(url: &str, fence: &Fence) -> Result<Self, String> {
        let first = connect(url).await?;
        let mut returns = fence.was_here_before();
        let mut unlike = None;
        let (channel, answer) = loop {
            let Some(answer) = ask(&first, WAIT, unlike.clone()).await? else {
                return Ok(Self {
                    channel: first,
                    fence: fence.clone(),
                    cluster: None,
                });
            };
            // All agents hear of a new leader in the same instant, and none of them should go
            // there then. The one that they lost is asked at once: it is either dead or theirs.
            let named = answer.leader.is_some();
            if returns && named && fence.is_behind(&answer.cluster_id, answer.term) {
                tokio::time::sleep(share_of(answer.spread_seconds)).await;
                returns = false;
            }
            if answer.here {
                break (first, answer);
            }
            match answer.leader.clone() {
                Some(leader) if unlike.as_ref() != Some(&leader) => match reach(&leader).await {
                    Some(found) => break found,
                    // Named from memory: the others are about to elect another one.
                    None => unlike = Some(leader),
                },
                _ => return Err("no master leads right now".to_owned()),
            }
        };
        if !fence.admit(&answer.cluster_id, answer.term) {
            return Err("it believes in a leader that was replaced".to_owned());
        }
        if returns {
            tokio::time::sleep(share_of(answer.spread_seconds)).await;
        }
        Ok(Self {
            channel,
            fence: fence.clone(),
            cluster: Some(answer.cluster_id),
        })
    }

    /// Whether a message of this term may be obeyed.
    pub(super) fn may_say(&self, term: Option<u64>) -> bool {
        match (&self.cluster, term) {
            (Some(cluster), Some(term)) => self.fence.admit(cluster, term),
            (None, _) | (_, None) => true,
        }
    }
}

/// A random part of a spread: all agents lose their leader in the same instant.
fn share_of(seconds: f64) -> Duration {
    let spread = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let thousandths = u32::try_from(random % 1000).unwrap_or_default();
    spread.min(SPREAD_MAX) * thousandths / 1000
}

async fn connect(url: &str) -> Result<Channel, String> {
    Endpoint::from_shared(url.to_owned())
        .map_err(|error| describe(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(|error| describe(&error))
}

/// The master at `url`, if it answers and leads, or is about to.
async fn reach(url: &str) -> Option<(Channel, GetLeaderResponse)> {
    let reached = tokio::time::timeout(REACH_TIMEOUT, async {
        let channel = connect(url).await.ok()?;
        let answer = ask(&channel, REACH_TIMEOUT / 2, None).await.ok()??;
        answer.here.then_some((channel, answer))
    });
    reached.await.ok().flatten()
}

/// `None`: the master does not know the question.
async fn ask(
    channel: &Channel,
    wait: Duration,
    unlike: Option<String>,
) -> Result<Option<GetLeaderResponse>, String> {
    let request = GetLeaderRequest {
        wait_ms: u32::try_from(wait.as_millis()).ok(),
        unlike,
    };
    let mut client = MastersClient::new(channel.clone());
    match tokio::time::timeout(ANSWER_TIMEOUT, client.get_leader(request)).await {
        Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
        Ok(Err(status)) => Err(status_text(&status)),
        Err(_) => Err("it does not say who leads".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_of_an_older_term_is_refused_and_another_cluster_begins_anew() {
        let fence = Fence::default();
        assert!(!fence.was_here_before());
        assert!(fence.admit("a", 3));
        assert!(fence.admit("a", 5));
        assert!(!fence.admit("a", 4));
        assert!(fence.admit("a", 5));
        assert!(fence.is_behind("a", 6));
        assert!(!fence.is_behind("a", 5) && !fence.is_behind("b", 6));
        assert!(fence.admit("b", 1));
        assert!(fence.was_here_before());
    }
}
