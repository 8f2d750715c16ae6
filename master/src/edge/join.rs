//! Becoming a member: asking the masters that are there.

use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::session::LEADER;
use allotment_raft::Members;
use tonic::{Code, Request};
use tracing::info;

use super::folder::{Folder, Home, Identity, RegistryError, new_id};
use super::replica::{Credentials, connect};

/// How long a master that wants to join keeps asking.
const PATIENCE: Duration = Duration::from_secs(30);
/// The members have to agree, which takes a few milliseconds when most of them are there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(300);
/// A leader that changes while we follow the way to it.
const HOPS_MAX: usize = 4;

/// Why a master could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// To join needs the secret.
    #[error(
        "to join needs the cluster's secret; copy the file `secret` from a master's data folder \
         and name it with --secret-file"
    )]
    NoSecret,
    /// The cluster said no.
    #[error("master {address} refuses: {reason}")]
    Refused {
        /// Who.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Nobody answered, or no leader was found.
    #[error("the cluster cannot be joined: {reason}; check that its masters run and lead")]
    Unreachable {
        /// The last reason.
        reason: String,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] RegistryError),
}

/// Becomes a member, or stays the one that the folder belongs to.
pub(super) async fn join(
    folder: &Folder,
    known: Option<Home>,
    masters: &[String],
    address: &str,
    secret: Option<String>,
) -> Result<Home, JoinError> {
    if secret.is_none() {
        return Err(JoinError::NoSecret);
    }
    let identity = known.as_ref().map(|home| &home.identity);
    let mut credentials = Credentials {
        cluster_id: identity.map_or_else(String::new, |i| i.cluster_id.clone()),
        secret,
        id: identity.map_or_else(new_id, Identity::id),
        address: address.to_owned(),
    };
    let asked = ask(&credentials, masters).await;
    match (known, asked) {
        (Some(home), Ok(answer)) if answer.removed => {
            info!("this master was removed; its log is kept aside and it joins as a new one");
            folder.set_aside(home)?;
            credentials.id = new_id();
            credentials.cluster_id = String::new();
            let answer = ask(&credentials, masters).await?;
            Ok(folder.begin_joined(identity_in(&answer))?)
        }
        (Some(home), Ok(_)) => Ok(home),
        // A member may start while the others are down: they may wait for it.
        (Some(home), Err(JoinError::Unreachable { .. })) => Ok(home),
        (Some(_), Err(error)) => Err(error),
        (None, answer) => Ok(folder.begin_joined(identity_in(&answer?))?),
    }
}

fn identity_in(answer: &allot::JoinResponse) -> Identity {
    let members = Members::from_wire(answer.members.clone()).members;
    let members = members.into_iter().map(|(id, m)| (id, m.address));
    Identity::new(&answer.cluster_id, answer.id, members)
}

async fn ask(
    credentials: &Credentials,
    masters: &[String],
) -> Result<allot::JoinResponse, JoinError> {
    // A member that starts again does not wait for the others: they may be down as well.
    let patience = if credentials.cluster_id.is_empty() {
        PATIENCE
    } else {
        PAUSE
    };
    let mut reason = "no master was named".to_owned();
    let asking = async {
        loop {
            for master in masters {
                match ask_one(credentials, master).await {
                    Ok(answer) => return Ok(answer),
                    Err(JoinError::Unreachable { reason: why }) => reason = why,
                    Err(error) => return Err(error),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(patience, asking).await {
        Ok(outcome) => outcome,
        Err(_) => Err(JoinError::Unreachable { reason }),
    }
}

async fn ask_one(
    credentials: &Credentials,
    master: &str,
) -> Result<allot::JoinResponse, JoinError> {
    let mut at = master.to_owned();
    for _ in 0..HOPS_MAX {
        if at == credentials.address {
            // Known from before this master lost its folder; the others find out in a moment.
            let reason = "the others believe that this master leads".to_owned();
            return Err(JoinError::Unreachable { reason });
        }
        let mut client = connect(&at)
            .await
            .map_err(|reason| JoinError::Unreachable { reason })?;
        let cluster_id = Some(credentials.cluster_id.clone()).filter(|id| !id.is_empty());
        let mut request = Request::new(allot::JoinRequest {
            id: credentials.id,
            address: credentials.address.clone(),
            cluster_id,
        });
        credentials.sign(&mut request, None);
        let status = match tokio::time::timeout(ANSWER_TIMEOUT, client.join(request)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => {
                let reason = format!("master {at} did not answer");
                return Err(JoinError::Unreachable { reason });
            }
        };
        let reason = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition => {
                let leader = status.metadata().get(LEADER);
                let leader = leader.and_then(|url| url.to_str().ok()?.strip_prefix("http://"));
                match leader {
                    Some(leader) => at = leader.to_owned(),
                    None => return Err(JoinError::Unreachable { reason }),
                }
            }
            Code::PermissionDenied | Code::InvalidArgument => {
                return Err(JoinError::Refused {
                    address: at,
                    reason,
                });
            }
            _ => return Err(JoinError::Unreachable { reason }),
        }
    }
    Err(JoinError::Unreachable {
        reason: "the leader keeps changing".to_owned(),
    })
}
