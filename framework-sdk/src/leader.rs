//! Which of several masters leads, and a connection to it.
//!
//! Any master of the cluster knows who leads. One that knows nobody is asked to wait: the moment
//! a leader is elected is the moment we hear of it.

use std::time::Duration;

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{GetLeaderRequest, GetLeaderResponse};
use tonic::Code;
use tonic::transport::Channel;

use crate::channel;

/// How long a master is asked to wait for a leader: a few elections.
const WAIT: Duration = Duration::from_secs(4);
/// An answer takes as long as was asked for, and the way there and back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// A leader that takes longer to say that it leads is stopped, cut off or gone.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one master is asked: it may name a leader that just died, and one that follows it.
const ASKED_MAX: usize = 3;

/// The master that leads, or the only one there is.
#[derive(Debug, Clone)]
pub struct Leader {
    /// `http://host:port`.
    pub url: String,
    /// A connection to it.
    pub channel: Channel,
}

/// Connects to the leader of the cluster that the master at `url` (`http://host:port`) belongs to.
///
/// # Errors
/// A sentence that says who could not be reached, or that nobody leads, and what to check.
pub async fn connect(url: &str) -> Result<Leader, String> {
    let channel = channel::connect(url, "master", "allot master").await?;
    let here = |channel| Leader {
        url: url.to_owned(),
        channel,
    };
    let mut unlike = None;
    for _ in 0..ASKED_MAX {
        let Some(answer) = ask(&channel, url, WAIT, unlike.clone()).await? else {
            // A version that is always alone.
            return Ok(here(channel));
        };
        if answer.here {
            return Ok(here(channel));
        }
        match answer.leader {
            // It knows nobody else, even after a while.
            None => break,
            leader if leader == unlike => break,
            Some(leader) => match reach(&leader).await {
                Some(found) => return Ok(found),
                // Named from memory: the others are about to elect another one.
                None => unlike = Some(leader),
            },
        }
    }
    Err(nobody(url))
}

/// The master at `url`, if it answers and leads, or is about to.
async fn reach(url: &str) -> Option<Leader> {
    let reached = tokio::time::timeout(REACH_TIMEOUT, async {
        let channel = channel::connect(url, "master", "allot master").await.ok()?;
        let answer = ask(&channel, url, REACH_TIMEOUT / 2, None).await.ok()??;
        answer.here.then(|| Leader {
            url: url.to_owned(),
            channel,
        })
    });
    reached.await.ok().flatten()
}

fn nobody(at: &str) -> String {
    let place = at.strip_prefix("http://").unwrap_or(at);
    format!(
        "no master leads, says {place}: most of the masters must run and reach each other; see \
         `allot master check`"
    )
}

/// `None`: the master does not know the question.
async fn ask(
    channel: &Channel,
    at: &str,
    wait: Duration,
    unlike: Option<String>,
) -> Result<Option<GetLeaderResponse>, String> {
    let place = at.strip_prefix("http://").unwrap_or(at);
    let request = GetLeaderRequest {
        wait_ms: u32::try_from(wait.as_millis()).ok(),
        unlike,
    };
    let mut client = MastersClient::new(channel.clone());
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.get_leader(request)).await;
    match answer {
        Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
        Ok(Err(status)) => Err(format!("master {place}: {}", channel::status_text(&status))),
        Err(_) => Err(format!(
            "master {place} did not say within {} s who leads; check its log",
            ANSWER_TIMEOUT.as_secs()
        )),
    }
}

/// Connects to the leader by the first of `masters` that answers.
///
/// # Errors
/// What every one of them, or the way there, had to say.
pub async fn find(masters: &[String]) -> Result<Leader, String> {
    let mut reasons: Vec<String> = Vec::new();
    for master in masters {
        match connect(master).await {
            Ok(leader) => return Ok(leader),
            Err(reason) => reasons.push(reason),
        }
    }
    reasons.dedup();
    Err(reasons.join("; "))
}
