//! gRPC to the roles, with errors as sentences.

use std::time::Duration;

use allotment_proto::allot::GetLeaderRequest;
use allotment_proto::allot::masters_client::MastersClient;
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
    let mut client = MastersClient::new(first.clone());
    let mut unlike = None;
    // Twice: the one that is named first may be the one that just died.
    for _ in 0..2 {
        let request = GetLeaderRequest {
            wait_ms: u32::try_from(ELECTION_WAIT.as_millis()).ok(),
            unlike,
        };
        let answer = match client.get_leader(request).await {
            Ok(answer) => answer.into_inner(),
            // A version that is always alone.
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(first),
            Err(status) => return Err(Peer::Master.unreachable(master, status.message())),
        };
        if answer.here {
            return Ok(first);
        }
        let Some(leader) = answer.leader else {
            break;
        };
        match connect(Peer::Master, &leader).await {
            Ok(channel) => return Ok(channel),
            Err(_) => unlike = Some(leader),
        }
    }
    let cause = "no master leads; most of the masters must run and reach each other, see `allot \
                 master check`";
    Err(Failure::Unreachable(format!(
        "the masters at {master} cannot be used: {cause}"
    )))
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
