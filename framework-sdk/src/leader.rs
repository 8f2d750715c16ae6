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
/// From one master to the next; more means that they do not agree.
const HOPS_MAX: usize = 6;

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
    let mut at = url.to_owned();
    // A leader that somebody named and that could not be reached, and who named it.
    let mut dead: Option<String> = None;
    let mut asked: Option<(String, Channel)> = None;
    for _ in 0..HOPS_MAX {
        let channel = match (
            channel::connect(&at, "master", "allot master").await,
            &asked,
        ) {
            (Ok(channel), _) => channel,
            // The one who named it will know better in a moment.
            (Err(_), Some((by, channel))) if dead.as_ref() != Some(&at) => {
                dead = Some(std::mem::replace(&mut at, by.clone()));
                channel.clone()
            }
            (Err(reason), _) => return Err(reason),
        };
        let answer = match ask(&channel, &at, dead.clone()).await? {
            Some(answer) => answer,
            // A version that is always alone.
            None => return Ok(Leader { url: at, channel }),
        };
        match answer.leader {
            _ if answer.here => return Ok(Leader { url: at, channel }),
            Some(leader) if dead.as_ref() != Some(&leader) => {
                asked = Some((std::mem::replace(&mut at, leader), channel));
            }
            _ => return Err(nobody(&at)),
        }
    }
    Err(nobody(&at))
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
    unlike: Option<String>,
) -> Result<Option<GetLeaderResponse>, String> {
    let place = at.strip_prefix("http://").unwrap_or(at);
    let request = GetLeaderRequest {
        wait_ms: u32::try_from(WAIT.as_millis()).ok(),
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
