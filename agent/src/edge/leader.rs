//! Which master leads, and the fence against one that does not know that it was replaced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{GetLeaderRequest, GetLeaderResponse};
use allotment_proto::session::{HEIR, LEADER, LOST, OF_CLUSTER, SPREAD};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::link::{describe, status_text};

/// A master whose machine is gone costs an agent no more than this before it asks the next one.
/// A first packet that was lost is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a master is asked to wait for a leader: a few elections.
const WAIT: Duration = Duration::from_secs(4);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// A leader that takes longer to say that it leads is stopped, cut off or gone.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the leader that was lost is asked whether it is there after all: less than an election.
const AGAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// A master that is stopped or cut off is noticed in twice this time, so that the one which takes
/// over is found long before pings are missed.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The longest that an agent waits so as not to return together with all others; the session
/// gives up on a connection after ten seconds.
const SPREAD_MAX: Duration = Duration::from_secs(3);

/// What a leader said for the day on which it is lost.
#[derive(Debug, Clone)]
struct Succession {
    leader: String,
    /// Whose turn it is then.
    heir: String,
    /// Over how many seconds all agents return.
    spread: f64,
}

/// The latest term of leadership that an agent heard of, and in which cluster.
#[derive(Debug)]
struct Latest {
    cluster: String,
    term: u64,
    /// Until that leader is lost.
    succession: Option<Succession>,
    /// The heir was not elected, but this master.
    elected: Option<String>,
}

/// What an agent remembers of leaders; shared by all its connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Fence(Arc<Mutex<Option<Latest>>>);

impl Fence {
    fn latest(&self) -> MutexGuard<'_, Option<Latest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears a term; whether whoever told it may still lead.
    fn admit(&self, cluster: &str, term: u64) -> bool {
        match &mut *self.latest() {
            Some(latest) if latest.cluster == cluster => {
                latest.term = term.max(latest.term);
                term == latest.term
            }
            // Terms of another cluster count for themselves.
            other => {
                *other = Some(Latest {
                    cluster: cluster.to_owned(),
                    term,
                    succession: None,
                    elected: None,
                });
                true
            }
        }
    }

    /// The leader is lost: in which cluster, and what it said of that; once.
    fn take_succession(&self) -> Option<(String, Succession)> {
        let mut latest = self.latest();
        let latest = latest.as_mut()?;
        Some((latest.cluster.clone(), latest.succession.take()?))
    }

    /// Whom the heir named when it refused; once.
    fn take_elected(&self) -> Option<String> {
        self.latest().as_mut()?.elected.take()
    }

    fn was_here_before(&self) -> bool {
        self.latest().is_some()
    }

    /// Whether somebody leads who did not when this agent last heard of a leader.
    fn is_behind(&self, cluster: &str, term: u64) -> bool {
        let latest = self.latest();
        latest
            .as_ref()
            .is_some_and(|latest| latest.cluster == cluster && latest.term < term)
    }
}

/// A connection to the leader, or to the master that is expected to lead next.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) channel: Channel,
    fence: Fence,
    pub(super) url: String,
    /// `None`: a master of a version that is always alone, and says no terms.
    cluster: Option<String>,
    /// It does not lead yet: the one that this agent lost.
    lost: Option<String>,
}

impl Leader {
    /// Finds the leader: by what the one that was lost said, or its heir, or by the master at
    /// `url`.
    pub(super) async fn find(url: &str, fence: &Fence) -> Result<Self, String> {
        // Heirs send agents on one after the other.
        if let Some(elected) = fence.take_elected()
            && let Some((channel, answer)) = reach(&elected).await
            && fence.admit(&answer.cluster_id, answer.term)
        {
            return Ok(Self::leads(
                fence,
                channel,
                elected,
                Some(answer.cluster_id),
            ));
        }
        let mut returns = fence.was_here_before();
        if let Some((cluster, succession)) = fence.take_succession() {
            tokio::time::sleep(share_of(succession.spread)).await;
            returns = false;
            if let Some(found) = Self::follow(fence, cluster, succession).await {
                return Ok(found);
            }
        }
        Self::ask_for(url, fence, returns).await
    }

    /// The master at `url` said that it leads, if it knows the question.
    fn leads(fence: &Fence, channel: Channel, url: String, cluster: Option<String>) -> Self {
        Self {
            channel,
            fence: fence.clone(),
            url,
            cluster,
            lost: None,
        }
    }

    /// Asks the master at `url`, which waits with us until somebody leads. An agent that `returns`
    /// has not waited its part of the spread.
    async fn ask_for(url: &str, fence: &Fence, mut returns: bool) -> Result<Self, String> {
        let first = connect(url).await?;
        let mut unlike = None;
        let (channel, url, answer) = loop {
            let Some(answer) = ask(&first, WAIT, unlike.clone()).await? else {
                return Ok(Self::leads(fence, first, url.to_owned(), None));
            };
            // All agents hear of a new leader in the same instant, and none of them should go
            // there then. The one that they lost is asked at once: it is either dead or theirs.
            let named = answer.leader.is_some();
            if returns && named && fence.is_behind(&answer.cluster_id, answer.term) {
                tokio::time::sleep(share_of(answer.spread_seconds)).await;
                returns = false;
            }
            if answer.here {
                break (first, url.to_owned(), answer);
            }
            match answer.leader.clone() {
                Some(leader) if unlike.as_ref() != Some(&leader) => match reach(&leader).await {
                    Some((channel, answer)) => break (channel, leader, answer),
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
        Ok(Self::leads(fence, channel, url, Some(answer.cluster_id)))
    }

    /// The leader that was lost, should it be there after all, or its heir.
    async fn follow(fence: &Fence, cluster: String, succession: Succession) -> Option<Self> {
        let Succession { leader, heir, .. } = succession;
        // A machine that is gone answers nothing, and meanwhile nobody can have been elected.
        let again = tokio::time::timeout(AGAIN_TIMEOUT, reach(&leader)).await;
        let (channel, url, cluster, lost) = match again.ok().flatten() {
            Some((channel, answer)) => {
                if !fence.admit(&answer.cluster_id, answer.term) {
                    return None;
                }
                (channel, leader, answer.cluster_id, None)
            }
            None => (connect(&heir).await.ok()?, heir, cluster, Some(leader)),
        };
        Some(Self {
            channel,
            fence: fence.clone(),
            url,
            cluster: Some(cluster),
            lost,
        })
    }

    /// What a request to connect must say beside its messages.
    pub(super) fn introduce(&self, metadata: &mut MetadataMap) {
        let (Some(cluster), Some(lost)) = (&self.cluster, &self.lost) else {
            return;
        };
        for (name, value) in [(OF_CLUSTER, cluster), (LOST, lost)] {
            // What cannot be said in metadata is left out, and the heir refuses.
            if let Ok(value) = value.parse() {
                metadata.insert(name, value);
            }
        }
    }

    /// It leads, and said this with its answer.
    pub(super) fn accepted(&self, metadata: &MetadataMap) {
        let text = |name| metadata.get(name)?.to_str().ok();
        let succession = text(HEIR).and_then(|heir: &str| {
            Some(Succession {
                leader: self.url.clone(),
                heir: format!("http://{heir}"),
                spread: text(SPREAD)?.parse().ok()?,
            })
        });
        if let Some(latest) = &mut *self.fence.latest() {
            latest.succession = succession;
        }
    }

    /// It does not let the agent in; whether it is an heir that was not elected and says who was.
    pub(super) fn names_another(&self, status: &Status) -> bool {
        let elected = status.metadata().get(LEADER);
        let elected = elected.and_then(|url| url.to_str().ok());
        if let (Some(_), Some(elected)) = (&self.lost, elected)
            && let Some(latest) = &mut *self.fence.latest()
        {
            latest.elected = Some(elected.to_owned());
            return true;
        }
        false
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
