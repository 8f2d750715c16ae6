//! Raft's messages to the other masters: one task and one stream for each.
//!
//! A message may get lost, and is then said again by Raft: a peer that cannot be reached costs its
//! queue and no more. Snapshots take a stream of their own, so that heartbeats overtake them.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::allot::masters_client::MastersClient;
use allotment_raft::Input;
use bytes::Bytes;
use futures_util::stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tracing::{debug, info};

use super::ToReplica;

/// Beyond it messages are dropped, as a network would.
const QUEUE_MAX: usize = 1024;
/// Pieces small enough that a slow link still shows progress.
const FRAME_LEN: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Less than an election timeout: one that comes back must hear its leader before it seeks votes.
const RETRY_MAX: Duration = Duration::from_millis(500);
/// A peer whose machine is gone is noticed although nothing ends the connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What a master says of itself with every stream.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Credentials {
    pub(in crate::edge) cluster_id: String,
    pub(in crate::edge) secret: Option<String>,
    pub(in crate::edge) id: u64,
    /// Where others reach it, `host:port`.
    pub(in crate::edge) address: String,
}

pub(in crate::edge) const CLUSTER: &str = "allot-cluster";
pub(in crate::edge) const SECRET: &str = "allot-secret";
pub(in crate::edge) const FROM: &str = "allot-from";
pub(in crate::edge) const TO: &str = "allot-to";
pub(in crate::edge) const ADDRESS: &str = "allot-address";

impl Credentials {
    /// Marks a request as coming from this master; `to`: the member it is for.
    pub(in crate::edge) fn sign<T>(&self, request: &mut Request<T>, to: Option<u64>) {
        let mut put = |name: &'static str, value: &str| {
            // Checked when they were made: hexadecimal digits and printable ASCII.
            if let Ok(value) = value.parse() {
                request.metadata_mut().insert(name, value);
            }
        };
        put(CLUSTER, &self.cluster_id);
        put(FROM, &format!("{:x}", self.id));
        put(ADDRESS, &self.address);
        if let Some(secret) = &self.secret {
            put(SECRET, secret);
        }
        if let Some(to) = to {
            put(TO, &format!("{to:x}"));
        }
    }
}

/// Connects to a master at `host:port`.
pub(in crate::edge) async fn connect(address: &str) -> Result<MastersClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address:?} is no host:port: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        format!("cannot reach master {address}: {cause}")
    })?;
    Ok(MastersClient::new(channel))
}

#[derive(Debug)]
struct Peer {
    address: String,
    queue: mpsc::Sender<allot::RaftMessage>,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All other masters.
#[derive(Debug)]
pub(super) struct Peers {
    credentials: Credentials,
    replica: mpsc::Sender<ToReplica>,
    peers: BTreeMap<u64, Peer>,
}

impl Peers {
    pub(super) fn new(credentials: Credentials, replica: mpsc::Sender<ToReplica>) -> Self {
        Self {
            credentials,
            replica,
            peers: BTreeMap::new(),
        }
    }

    /// These are the others now.
    pub(super) fn set(&mut self, others: &BTreeMap<u64, String>) {
        self.peers
            .retain(|id, peer| others.get(id) == Some(&peer.address));
        for (id, address) in others {
            if !self.peers.contains_key(id) {
                let peer = self.start(*id, address.clone());
                self.peers.insert(*id, peer);
            }
        }
    }

    fn start(&self, id: u64, address: String) -> Peer {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let task = PeerTask {
            id,
            address: address.clone(),
            credentials: self.credentials.clone(),
            replica: self.replica.clone(),
        };
        Peer {
            address,
            queue,
            task: tokio::spawn(task.run(messages)),
        }
    }

    pub(super) fn send(&self, message: allot::RaftMessage) {
        let Some(peer) = self.peers.get(&message.to) else {
            return;
        };
        if message.snapshot.is_some() {
            let task = PeerTask {
                id: message.to,
                address: peer.address.clone(),
                credentials: self.credentials.clone(),
                replica: self.replica.clone(),
            };
            tokio::spawn(task.send_snapshot(message));
            return;
        }
        // A full queue loses it, as a network would.
        let _ = peer.queue.try_send(message);
    }
}

struct PeerTask {
    id: u64,
    address: String,
    credentials: Credentials,
    replica: mpsc::Sender<ToReplica>,
}

impl PeerTask {
    async fn run(self, mut messages: mpsc::Receiver<allot::RaftMessage>) {
        let mut pause = RETRY_MIN;
        loop {
            let Some(first) = messages.recv().await else {
                return;
            };
            match self.stream(first, &mut messages).await {
                Ok(()) => return,
                Err((worked, reason)) => {
                    if worked {
                        info!(master = %self.address, %reason, "lost the connection to a master");
                        pause = RETRY_MIN;
                    } else {
                        debug!(master = %self.address, %reason, "no connection to a master");
                    }
                }
            }
            self.tell(Input::Unreachable(self.id)).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            // What waited is old news.
            while messages.try_recv().is_ok() {}
        }
    }

    async fn tell(&self, input: Input) {
        // The replica is gone only when the master stops.
        let _ = self.replica.send(ToReplica::Raft(input)).await;
    }

    /// Sends until it breaks; whether anything was sent, and why it broke.
    async fn stream(
        &self,
        first: allot::RaftMessage,
        messages: &mut mpsc::Receiver<allot::RaftMessage>,
    ) -> Result<(), (bool, String)> {
        let mut client = connect(&self.address).await.map_err(|e| (false, e))?;
        let (frames, outgoing) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        self.credentials.sign(&mut request, Some(self.id));
        let mut answer = std::pin::pin!(client.deliver(request));
        let mut next = Some(first);
        let mut worked = false;
        loop {
            if let Some(message) = next.take() {
                for frame in cut(&message) {
                    tokio::select! {
                        sent = frames.send(frame) => {
                            if sent.is_err() {
                                return Err((worked, self.ended(answer.await.err()).await));
                            }
                        }
                        ended = &mut answer => {
                            return Err((worked, self.ended(ended.err()).await));
                        }
                    }
                }
            }
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => {
                        // The first one may have gone nowhere; whoever takes a second is there.
                        worked = true;
                        next = Some(message);
                    }
                    None => return Ok(()),
                },
                ended = &mut answer => return Err((worked, self.ended(ended.err()).await)),
            }
        }
    }

    /// Why the other side ended the stream.
    async fn ended(&self, status: Option<Status>) -> String {
        let Some(status) = status else {
            return "it closed the stream".to_owned();
        };
        if status.code() == Code::NotFound {
            // It knows that we were removed.
            let _ = self.replica.send(ToReplica::Expelled).await;
        }
        status.message().to_owned()
    }

    async fn send_snapshot(self, message: allot::RaftMessage) {
        let sent = async {
            let mut client = connect(&self.address).await?;
            let mut request = Request::new(stream::iter(cut(&message)));
            self.credentials.sign(&mut request, Some(self.id));
            client
                .deliver(request)
                .await
                .map_err(|status| status.message().to_owned())
        };
        let result = sent.await;
        if let Err(reason) = &result {
            info!(master = %self.address, %reason, "a snapshot did not arrive");
        }
        let delivered = result.is_ok();
        let to = self.id;
        self.tell(Input::SnapshotSent { to, delivered }).await;
    }
}

/// A message in pieces.
fn cut(message: &allot::RaftMessage) -> Vec<allot::RaftFrame> {
    let mut rest = Bytes::from(message.encode_to_vec());
    let mut frames = Vec::new();
    while rest.len() > FRAME_LEN {
        frames.push(allot::RaftFrame {
            data: rest.split_to(FRAME_LEN),
            last: false,
        });
    }
    frames.push(allot::RaftFrame {
        data: rest,
        last: true,
    });
    frames
}
