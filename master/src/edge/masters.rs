//! The service that masters, clients in search of the leader, and operators of the masters use.
//!
//! Whoever speaks Raft must show the cluster's secret first, and only then is a byte of what it
//! says looked at (after Nomad's CVE-2021-37218, where any certificate would do). Without TLS the
//! secret travels in the clear: keep the masters' network closed to others.

use std::pin::Pin;
use std::time::Duration;

use allotment_proto::allot::masters_server::{Masters, MastersServer};
use allotment_proto::session::LEADER;
use allotment_proto::{MESSAGE_LEN_MAX, VERSION, allot};
use allotment_raft::member::Role;
use allotment_raft::members::MemberInfo;
use allotment_raft::{Change, ChangeError, Input};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::folder::new_id;
use super::replica::frames::{self, Pieces};
use super::replica::{
    ADDRESS, ANSWERS, CLUSTER, Credentials, FROM, Handle, Overview, SECRET, TO, ToReplica, View,
};

/// The longest that a search for the leader may wait here.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a change of the members may take before whoever asked is told that it may still come.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Raft's answers that may await a master; more are lost, as in a network.
const ANSWERS_MAX: usize = 1024;
/// Pieces of a backup.
const CHUNK_LEN: usize = 256 * 1024;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    handle: Handle,
    credentials: Credentials,
}

/// Waits until the master at `me` leads, or another than `unlike` (`host:port`, with or without
/// `http://`); what is known then, whether it came in time or not.
pub(super) async fn decided(
    view: &watch::Receiver<View>,
    me: &str,
    unlike: &str,
    wait: Duration,
) -> View {
    let unlike = unlike.strip_prefix("http://").unwrap_or(unlike);
    let other = |view: &View| {
        let leader = view.leader.as_deref();
        leader.is_some_and(|leader| leader != me && leader != unlike)
    };
    let mut sees = view.clone();
    let found = sees.wait_for(|view| view.leading || other(view));
    // An error: the master stops, and nothing more will come.
    let _ = tokio::time::timeout(wait, found).await;
    view.borrow().clone()
}

fn stopping() -> Status {
    Status::unavailable("the master is stopping; connect to another")
}

/// What a master that does not lead answers; nothing was done.
pub(super) fn not_leading(leader: Option<&str>) -> Status {
    let Some(leader) = leader else {
        return Status::failed_precondition(
            "this master does not lead, and no leader is known right now; try again in a moment",
        );
    };
    let mut status =
        Status::failed_precondition(format!("this master does not lead; the leader is {leader}"));
    if let Ok(url) = format!("http://{leader}").parse() {
        status.metadata_mut().insert(LEADER, url);
    }
    status
}

/// Takes the same time wherever the two differ.
fn same_secret(given: &[u8], ours: &[u8]) -> bool {
    let mut differs = u8::from(given.len() != ours.len());
    for (at, byte) in ours.iter().enumerate() {
        differs |= byte ^ given.get(at).copied().unwrap_or_default();
    }
    std::hint::black_box(differs) == 0
}

pub(super) fn text<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    metadata
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn number(metadata: &MetadataMap, name: &str) -> u64 {
    u64::from_str_radix(text(metadata, name), 16).unwrap_or_default()
}

impl Desk {
    pub(super) fn new(handle: Handle, credentials: Credentials) -> Self {
        Self {
            handle,
            credentials,
        }
    }

    pub(super) fn server(self) -> MastersServer<Self> {
        MastersServer::new(self).max_decoding_message_size(MESSAGE_LEN_MAX)
    }

    /// Only masters that know the secret come past here.
    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(secret) = &self.credentials.secret else {
            return Err(Status::permission_denied(
                "this master runs alone; start it with --bootstrap to let others join",
            ));
        };
        if !same_secret(text(metadata, SECRET).as_bytes(), secret.as_bytes()) {
            return Err(Status::permission_denied(
                "the secret is not this cluster's; give the one in the `secret` file of a \
                 master's data folder with --secret-file",
            ));
        }
        Ok(())
    }

    async fn send(&self, message: ToReplica) -> Result<(), Status> {
        let sent = self.handle.inbox.send(message).await;
        sent.map_err(|_| stopping())
    }

    async fn overview(&self) -> Result<Overview, Status> {
        let (answer, answered) = oneshot::channel();
        self.send(ToReplica::Inspect(answer)).await?;
        answered.await.map_err(|_| stopping())
    }

    fn refused(&self, error: &ChangeError) -> Status {
        match error {
            ChangeError::NotLeader => not_leading(self.handle.view.borrow().leader.as_deref()),
            ChangeError::Busy | ChangeError::Behind { .. } => {
                Status::unavailable(error.to_string())
            }
            ChangeError::Unknown(_) => Status::not_found(error.to_string()),
            ChangeError::Known(_) | ChangeError::Voter(_) => {
                Status::already_exists(error.to_string())
            }
            ChangeError::Quorum { .. } => Status::aborted(error.to_string()),
        }
    }

    /// Waits until a change has happened.
    async fn change(&self, change: Change) -> Result<(), Status> {
        let (answer, answered) = oneshot::channel();
        self.send(ToReplica::Change(change, answer)).await?;
        let outcome = tokio::time::timeout(CHANGE_TIMEOUT, answered).await;
        let outcome = outcome
            .map_err(|_| {
                Status::deadline_exceeded(
                    "the masters have not agreed on it yet; see `allot master check`",
                )
            })?
            .map_err(|_| stopping())?;
        outcome.map_err(|error| self.refused(&error))
    }

    /// The member that an operator means by a number or an address.
    async fn named(&self, name: &str) -> Result<(u64, String), Status> {
        let overview = self.overview().await?;
        let number = u64::from_str_radix(name, 16).ok();
        let mut all = overview.addresses.into_iter();
        all.find(|(id, address)| number == Some(*id) || address == name)
            .ok_or_else(|| {
                let shown: String = name.chars().take(100).collect();
                Status::not_found(format!(
                    "there is no master {shown:?}; see `allot master list`"
                ))
            })
    }

    async fn add(&self, add: allot::AddMaster) -> Result<String, Status> {
        let address = checked_address(&add.address)?;
        let overview = self.overview().await?;
        if overview.addresses.values().any(|known| *known == address) {
            let message = format!("master {address} is a member already");
            return Err(Status::already_exists(message));
        }
        let info = MemberInfo {
            address: address.clone(),
            keep_learner: add.keep_learner,
        };
        let id = new_id();
        self.change(Change::Add { id, info }).await?;
        Ok(format!(
            "master {address} is a learner now; start it there with `allot master --join` and the \
             secret"
        ))
    }

    /// What comes by a stream, until it ends; only after [`Self::admit`].
    async fn listen(
        &self,
        mut frames: Streaming<allot::RaftFrame>,
        from: u64,
    ) -> Result<(), Status> {
        let mut pieces = Pieces::default();
        while let Some(frame) = frames.message().await? {
            let Some(message) = pieces.add(frame)? else {
                continue;
            };
            if message.from != from {
                let text = "a Raft message names another sender than its stream";
                return Err(Status::invalid_argument(text));
            }
            self.send(ToReplica::Raft(Input::Message(Box::new(message))))
                .await?;
        }
        Ok(())
    }
}

fn checked_address(given: &str) -> Result<String, Status> {
    let address = given.strip_prefix("http://").unwrap_or(given);
    let address = address.trim_end_matches('/');
    let ok = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.len() <= 255
            && port.parse::<u16>().is_ok_and(|port| port > 0)
            && !host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#,".contains(c))
    });
    if ok {
        return Ok(address.to_owned());
    }
    let shown: String = given.chars().take(100).collect();
    let message = format!("{shown:?} is no master's address; give host:port");
    Err(Status::invalid_argument(message))
}

#[tonic::async_trait]
impl Masters for Desk {
    async fn get_leader(
        &self,
        request: Request<allot::GetLeaderRequest>,
    ) -> Result<Response<allot::GetLeaderResponse>, Status> {
        let request = request.into_inner();
        let wait = Duration::from_millis(request.wait_ms.unwrap_or_default().into());
        let unlike = request.unlike.as_deref().unwrap_or_default();
        let me = self.credentials.address.as_str();
        let view = decided(&self.handle.view, me, unlike, wait.min(WAIT_MAX)).await;
        let leader = view.leader_seen_from(me);
        Ok(Response::new(allot::GetLeaderResponse {
            leader: leader.map(|leader| format!("http://{leader}")),
            here: view.leading,
            cluster_id: self.credentials.cluster_id.clone(),
            term: view.term,
            spread_seconds: view.spread_seconds(),
        }))
    }

    async fn get_status(
        &self,
        _: Request<allot::GetMasterStatusRequest>,
    ) -> Result<Response<allot::MasterStatus>, Status> {
        let Overview {
            standing,
            addresses,
        } = self.overview().await?;
        let me = self.credentials.id;
        let address_of = |id: u64| addresses.get(&id).cloned().unwrap_or_default();
        let masters = standing.peers.iter().map(|peer| allot::MasterView {
            id: peer.id,
            address: address_of(peer.id),
            role: if peer.voter { "voter" } else { "learner" }.to_owned(),
            leader: standing.leader == Some(peer.id),
            matched: peer.progress.map(|(matched, _)| matched),
            active: peer.progress.map(|(_, active)| active),
        });
        let role = match standing.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        };
        Ok(Response::new(allot::MasterStatus {
            cluster_id: self.credentials.cluster_id.clone(),
            id: me,
            address: address_of(me),
            role: role.to_owned(),
            term: standing.term,
            leader: standing.leader.map(address_of).filter(|a| !a.is_empty()),
            committed: standing.committed,
            last: standing.last,
            masters: masters.collect(),
            version: VERSION.to_owned(),
            joinable: self.credentials.secret.is_some(),
        }))
    }

    async fn join(
        &self,
        request: Request<allot::JoinRequest>,
    ) -> Result<Response<allot::JoinResponse>, Status> {
        self.admit(request.metadata())?;
        let join = request.into_inner();
        if let Some(theirs) = &join.cluster_id
            && *theirs != self.credentials.cluster_id
        {
            return Err(Status::permission_denied(format!(
                "the folder belongs to cluster {}, this is cluster {}; move the folder away to \
                 join this one",
                theirs.chars().take(100).collect::<String>(),
                self.credentials.cluster_id
            )));
        }
        if join.id == 0 {
            return Err(Status::invalid_argument("a master's number is not 0"));
        }
        let address = checked_address(&join.address)?;
        let (answer, answered) = oneshot::channel();
        self.send(ToReplica::Join {
            id: join.id,
            address,
            answer,
        })
        .await?;
        let joined = tokio::time::timeout(CHANGE_TIMEOUT, answered).await;
        let joined = joined
            .map_err(|_| Status::unavailable("the masters have not agreed on it yet; try again"))?
            .map_err(|_| stopping())?
            .map_err(|error| self.refused(&error))?;
        Ok(Response::new(allot::JoinResponse {
            cluster_id: self.credentials.cluster_id.clone(),
            id: joined.id,
            members: joined.members.to_wire(),
            removed: joined.removed,
        }))
    }

    async fn change(
        &self,
        request: Request<allot::ChangeMastersRequest>,
    ) -> Result<Response<allot::ChangeMastersResponse>, Status> {
        use allot::change_masters_request::Change as Asked;
        {
            let view = self.handle.view.borrow();
            if !view.leading {
                return Err(not_leading(view.leader.as_deref()));
            }
        }
        let message = match request.into_inner().change {
            Some(Asked::Add(add)) => self.add(add).await?,
            Some(Asked::Remove(name)) => {
                let (id, address) = self.named(&name).await?;
                if id == self.credentials.id {
                    return Err(Status::failed_precondition(format!(
                        "master {address} leads; stop it first, so that another leads, and remove \
                         it then"
                    )));
                }
                Desk::change(self, Change::Remove(id)).await?;
                format!("master {address} is no member any more")
            }
            Some(Asked::Promote(name)) => {
                let (id, address) = self.named(&name).await?;
                Desk::change(self, Change::Promote(id)).await?;
                format!("master {address} votes now")
            }
            None => {
                return Err(Status::invalid_argument("the request names no change"));
            }
        };
        Ok(Response::new(allot::ChangeMastersResponse { message }))
    }

    type DeliverStream = ReceiverStream<Result<allot::RaftFrame, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<allot::RaftFrame>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let metadata = request.metadata();
        self.admit(metadata)?;
        let (from, to) = (number(metadata, FROM), number(metadata, TO));
        if text(metadata, CLUSTER) != self.credentials.cluster_id || to != self.credentials.id {
            warn!("a master of another cluster, or in search of another one, came here");
            return Err(Status::permission_denied(
                "this is another master than the one that was meant; check the addresses",
            ));
        }
        if self.handle.view.borrow().removed.contains(&from) {
            return Err(Status::not_found(
                "that master was removed from the cluster; start it with --join to come back",
            ));
        }
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        self.send(ToReplica::Heard {
            from,
            // A version that does not say it is where the log says.
            address: checked_address(text(metadata, ADDRESS)).ok(),
            answers: metadata.contains_key(ANSWERS).then(|| answers.downgrade()),
        })
        .await?;
        let (desk, frames) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let listened = desk.listen(frames, from).await;
            // Whoever spoke may have gone away.
            let _ = answers.send(listened.map(|()| frames::end())).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<allot::BackupChunk, Status>> + Send>>;

    async fn backup(
        &self,
        _: Request<allot::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        {
            let view = self.handle.view.borrow();
            if !view.leading {
                return Err(not_leading(view.leader.as_deref()));
            }
        }
        let (answer, answered) = oneshot::channel();
        self.send(ToReplica::Backup(answer)).await?;
        let mut bytes = Bytes::from(answered.await.map_err(|_| stopping())?);
        let (chunks, stream) = mpsc::channel(4);
        tokio::spawn(async move {
            while !bytes.is_empty() {
                let data = bytes.split_to(bytes.len().min(CHUNK_LEN));
                // Whoever asked may have gone away.
                if chunks.send(Ok(allot::BackupChunk { data })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_opens() {
        let ours = b"0123456789abcdef";
        assert!(same_secret(ours, ours));
        for wrong in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdeg",
            b"0123456789abcdef0",
        ] {
            assert!(!same_secret(wrong, ours));
        }
    }

    #[test]
    fn a_master_is_named_by_host_and_port() {
        assert_eq!(checked_address("http://a:5050/").unwrap(), "a:5050");
        for wrong in ["a", "a:0", ":1", "a b:1", "a:1,b:2", "a:99999"] {
            assert!(checked_address(wrong).is_err(), "{wrong}");
        }
    }
}
