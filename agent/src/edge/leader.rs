//! Which master leads, and the fence against one that does not know that it was replaced.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{GetLeaderRequest, GetLeaderResponse};
use futures_util::future::{self, Either};
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

/// Where masters were when a leader was found.
#[derive(Debug, Clone)]
struct Places {
    leader: String,
    /// Whose turn it is when that one is lost.
    heir: String,
}

/// The latest term of leadership that an agent heard of, and in which cluster.
#[derive(Debug)]
struct Latest {
    cluster: String,
    term: u64,
    /// Until that leader is lost.
    places: Option<Places>,
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
                    places: None,
                });
                true
            }
        }
    }

    /// Notes where the leader is, and where the next one is to be expected.
    fn note(&self, places: Option<Places>) {
        if let Some(latest) = &mut *self.latest() {
            latest.places = places;
        }
    }

    /// The leader is lost; where it was, once.
    fn take_places(&self) -> Option<Places> {
        self.latest().as_mut()?.places.take()
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

/// A connection to a master that says it leads; without an answer, of a version that is always
/// alone and says no terms.
type Found = (Channel, Option<GetLeaderResponse>);

/// A connection to the leader.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) channel: Channel,
    fence: Fence,
    cluster: Option<String>,
}

impl Leader {
    /// Finds the leader: by what was known of it when it was lost, or by the master at `url`.
    pub(super) async fn find(url: &str, fence: &Fence) -> Result<Self, String> {
        let mut search = Search {
            fence,
            returns: fence.was_here_before(),
        };
        let near = match fence.take_places() {
            Some(places) => search.near(&places).await,
            None => None,
        };
        let (channel, answer) = match near {
            Some(found) => found,
            None => search.from(url, None).await?,
        };
        let Some(answer) = answer else {
            return Ok(Self {
                channel,
                fence: fence.clone(),
                cluster: None,
            });
        };
        if !fence.admit(&answer.cluster_id, answer.term) {
            return Err("it believes in a leader that was replaced".to_owned());
        }
        search.spread(answer.spread_seconds).await;
        let places = answer.leader.zip(answer.heir);
        fence.note(places.map(|(leader, heir)| Places { leader, heir }));
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

/// One search for the leader.
struct Search<'a> {
    fence: &'a Fence,
    /// It had one, and has not waited its part of the spread.
    returns: bool,
}

impl Search<'_> {
    /// All agents lose their leader in the same instant, and none of them should be back then.
    async fn spread(&mut self, seconds: f64) {
        if std::mem::take(&mut self.returns) {
            tokio::time::sleep(share_of(seconds)).await;
        }
    }

    /// Asks the leader that was lost, which may be there after all, and its heir, which waits with
    /// us until somebody leads. A machine that is gone answers nothing, so neither waits for the
    /// other.
    async fn near(&mut self, places: &Places) -> Option<Found> {
        let again = async { reach(&places.leader).await };
        let lost = Some(places.leader.clone());
        let next = async { self.from(&places.heir, lost).await.ok() };
        match future::select(pin!(again), pin!(next)).await {
            Either::Left((Some((channel, answer)), _)) => Some((channel, Some(answer))),
            Either::Left((None, next)) => next.await,
            Either::Right((Some(found), _)) => Some(found),
            Either::Right((None, again)) => {
                let (channel, answer) = again.await?;
                Some((channel, Some(answer)))
            }
        }
    }

    /// Finds the leader by the master at `url`, if it is another than `unlike`.
    async fn from(&mut self, url: &str, mut unlike: Option<String>) -> Result<Found, String> {
        let first = connect(url).await?;
        loop {
            let Some(answer) = ask(&first, WAIT, unlike.clone()).await? else {
                return Ok((first, None));
            };
            // The one that they lost is asked at once: it is either dead or theirs.
            let named = answer.leader.is_some();
            if named && self.fence.is_behind(&answer.cluster_id, answer.term) {
                self.spread(answer.spread_seconds).await;
            }
            if answer.here {
                return Ok((first, Some(answer)));
            }
            match answer.leader {
                Some(leader) if unlike.as_ref() != Some(&leader) => match reach(&leader).await {
                    Some((channel, answer)) => return Ok((channel, Some(answer))),
                    // Named from memory: the others are about to elect another one.
                    None => unlike = Some(leader),
                },
                _ => return Err("no master leads right now".to_owned()),
            }
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
