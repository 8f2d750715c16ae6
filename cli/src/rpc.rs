//! gRPC to the roles, with errors as sentences.

use std::time::Duration;

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{GetLeaderRequest, GetLeaderResponse};
use tonic::transport::{Channel, Endpoint};

use crate::exit::Failure;

/// Long enough for a busy master far away, short enough for a person to wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that accepts a call and then says nothing is as good as gone. Streams go on for as long
/// as they like once they have begun.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// So that following a log or events ends when the peer's machine is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Whom a command tried to reach, for the sentence when nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Master,
    Agent,
    Services,
    Batch,
}

impl Peer {
    /// The sentence when nobody answers at `url`.
    pub(crate) fn unreachable(self, url: &str, cause: &str) -> Failure {
        let (who, advice) = match self {
            Self::Master => (
                "the master",
                "start one with `allot local` or `allot master`, or name it with --master or \
                 ALLOT_MASTER",
            ),
            Self::Agent => (
                "the agent",
                "it may be down; see `allot node list` for its state",
            ),
            Self::Services => (
                "the services framework",
                "start it with `allot local` or `allot services`, or name it with --services or \
                 ALLOT_SERVICES",
            ),
            Self::Batch => (
                "the batch framework",
                "start it with `allot local` or `allot batch`, or name it with --batch or \
                 ALLOT_BATCH",
            ),
        };
        Failure::Unreachable(format!("cannot reach {who} at {url}: {cause}; {advice}"))
    }
}

/// Opens a channel to `url`.
///
/// # Errors
/// [`Failure::Usage`] when `url` is none, [`Failure::Unreachable`] when nobody answers.
pub(crate) async fn connect(peer: Peer, url: &str) -> Result<Channel, Failure> {
    let no_address = |why: &str| {
        Failure::Usage(format!(
            "{url:?} is no address ({why}); give it as http://host:port"
        ))
    };
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|error| no_address(&error.to_string()))?;
    match endpoint.uri().scheme_str() {
        Some("http") | None => {}
        Some(scheme) => return Err(no_address(&format!("{scheme} is not spoken here"))),
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true);
    endpoint
        .connect()
        .await
        .map_err(|error| peer.unreachable(url, &innermost(&error)))
}

/// How long a master may wait for an election before it says who leads.
const ELECTION_WAIT: Duration = Duration::from_secs(4);

/// A leader that takes longer to say that it leads is stopped, cut off or gone.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens a channel to the leader, by the first of `masters` that knows the way.
///
/// # Errors
/// [`Failure::Usage`] when an address is none, [`Failure::Unreachable`] when nobody leads.
pub(crate) async fn leader(masters: &[String]) -> Result<Channel, Failure> {
    let mut failure = Failure::Usage("no master is named; give --master host:port".to_owned());
    for master in masters {
        match leader_by(master).await {
            Ok(channel) => return Ok(channel),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn leader_by(master: &str) -> Result<Channel, Failure> {
    let first = connect(Peer::Master, master).await?;
    let mut unlike = None;
    loop {
        let answer = match who_leads(&first, ELECTION_WAIT, unlike.clone()).await {
            Ok(answer) => answer,
            // A version that is always alone.
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(first),
            Err(status) => return Err(Peer::Master.unreachable(master, status.message())),
        };
        if answer.here {
            return Ok(first);
        }
        match answer.leader {
            Some(leader) if unlike.as_ref() != Some(&leader) => match reach(&leader).await {
                Some(channel) => return Ok(channel),
                // Named from memory: the others are about to elect another one.
                None => unlike = Some(leader),
            },
            _ => {
                return Err(Failure::Unreachable(format!(
                    "no master leads, says {master}: most of the masters must run and reach each \
                     other; see `allot master check`"
                )));
            }
        }
    }
}

async fn who_leads(
    channel: &Channel,
    wait: Duration,
    unlike: Option<String>,
) -> Result<GetLeaderResponse, tonic::Status> {
    let request = GetLeaderRequest {
        wait_ms: u32::try_from(wait.as_millis()).ok(),
        unlike,
    };
    let mut client = MastersClient::new(channel.clone());
    Ok(client.get_leader(request).await?.into_inner())
}

/// The master at `url`, if it answers and leads, or is about to.
async fn reach(url: &str) -> Option<Channel> {
    let reached = tokio::time::timeout(REACH_TIMEOUT, async {
        let channel = connect(Peer::Master, url).await.ok()?;
        let answer = who_leads(&channel, REACH_TIMEOUT / 2, None).await.ok()?;
        answer.here.then_some(channel)
    });
    reached.await.ok().flatten()
}

/// What a refused call means for the user.
pub(crate) fn refused(peer: Peer, url: &str, status: &tonic::Status) -> anyhow::Error {
    let message = status.message().to_owned();
    match status.code() {
        tonic::Code::NotFound => Failure::NotFound(message).into(),
        tonic::Code::InvalidArgument => Failure::Usage(message).into(),
        tonic::Code::Unavailable => peer.unreachable(url, &message).into(),
        // What the channel's timeout answers in the peer's place.
        tonic::Code::Cancelled if message == "Timeout expired" => {
            let cause = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            peer.unreachable(url, &cause).into()
        }
        code if message.is_empty() => {
            anyhow::anyhow!("{url} answered {code}, without a message")
        }
        _ => anyhow::anyhow!(message),
    }
}

/// The last cause of an error, where the operating system speaks ("Connection refused").
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
