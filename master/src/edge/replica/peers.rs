//! Raft's messages to the other masters: one task and one stream for each.
//!
//! A message may get lost, and is then said again by Raft: a peer that cannot be reached costs its
//! queue and no more. Snapshots take a stream of their own, so that heartbeats overtake them.
//!
//! An answer takes the stream of the master that asked, back to Raft's own thread there. What
//! another master sends by itself comes in by the port that everybody uses, among the connections
//! of thousands of agents, and may wait: so a master that they come to, because it leads or is
//! about to, waits for none of them when it asks for votes or for a majority.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::allot::masters_client::MastersClient;
use allotment_raft::{Input, wire};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tracing::{debug, info};

use super::ToReplica;
use super::frames::{Pieces, cut};

/// Beyond it messages are dropped, as a network would.
const QUEUE_MAX: usize = 1024;
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
/// The stream takes answers back.
pub(in crate::edge) const ANSWERS: &str = "allot-answers";

/// The way back of another master's stream; it closes with the stream.
pub(in crate::edge) type Answers = mpsc::WeakSender<Result<allot::RaftFrame, Status>>;

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
    answers: BTreeMap<u64, Answers>,
}

impl Peers {
    pub(super) fn new(credentials: Credentials, replica: mpsc::Sender<ToReplica>) -> Self {
        Self {
            credentials,
            replica,
            peers: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// The latest stream of that master which takes answers.
    pub(super) fn answer_by(&mut self, from: u64, answers: Answers) {
        self.answers.insert(from, answers);
    }

    /// These are the others now.
    pub(super) fn set(&mut self, others: &BTreeMap<u64, String>) {
        self.peers
            .retain(|id, peer| others.get(id) == Some(&peer.address));
        self.answers.retain(|id, _| others.contains_key(id));
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
        if wire::is_answer(&message) && self.answer(&message) {
            return;
        }
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

    /// Whether there is a way back.
    fn answer(&self, message: &allot::RaftMessage) -> bool {
        let answers = self.answers.get(&message.to);
        let Some(answers) = answers.and_then(mpsc::WeakSender::upgrade) else {
            return false;
        };
        for frame in cut(message) {
            // A full queue loses it, here too.
            let sent = answers.try_send(Ok(frame));
            if matches!(sent, Err(TrySendError::Closed(_))) {
                return false;
            }
        }
        true
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

    /// Sends, and hears the answers, until it breaks; whether anything was sent, and why it broke.
    async fn stream(
        &self,
        first: allot::RaftMessage,
        messages: &mut mpsc::Receiver<allot::RaftMessage>,
    ) -> Result<(), (bool, String)> {
        let client = connect(&self.address).await.map_err(|e| (false, e))?;
        let (frames, outgoing) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        self.credentials.sign(&mut request, Some(self.id));
        request
            .metadata_mut()
            .insert(ANSWERS, MetadataValue::from_static("1"));
        let mut worked = false;
        tokio::select! {
            reason = self.hear_answers(client, request) => Err((worked, reason)),
            () = pass_on(first, messages, frames, &mut worked) => Ok(()),
        }
    }

    /// Takes in answers until the stream ends; why it did.
    async fn hear_answers(
        &self,
        mut client: MastersClient<Channel>,
        request: Request<ReceiverStream<allot::RaftFrame>>,
    ) -> String {
        // An earlier version says nothing before the end.
        let mut answers = match client.deliver(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return self.ended(&status).await,
        };
        let mut pieces = Pieces::default();
        loop {
            let added = match answers.message().await {
                Ok(Some(frame)) => pieces.add(frame),
                Ok(None) => return "it closed the stream".to_owned(),
                Err(status) => return self.ended(&status).await,
            };
            match added {
                Ok(None) => {}
                Ok(Some(answer)) if answer.from == self.id && wire::is_answer(&answer) => {
                    self.tell(Input::Message(Box::new(answer))).await;
                }
                Ok(Some(_)) => return "it sent what is no answer of its own".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    /// Why the other side ended the stream.
    async fn ended(&self, status: &Status) -> String {
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
            let refused = |status: Status| status.message().to_owned();
            let taken_in = client.deliver(request).await.map_err(refused)?;
            match taken_in.into_inner().message().await.map_err(refused)? {
                Some(_) => Ok(()),
                None => Err("it closed the stream".to_owned()),
            }
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

/// Sends what comes as long as it comes. Why the other side ends the stream is heard elsewhere.
async fn pass_on(
    first: allot::RaftMessage,
    messages: &mut mpsc::Receiver<allot::RaftMessage>,
    frames: mpsc::Sender<allot::RaftFrame>,
    worked: &mut bool,
) {
    let mut next = Some(first);
    while let Some(message) = next {
        for frame in cut(&message) {
            if frames.send(frame).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        next = messages.recv().await;
        // The first one may have gone nowhere; whoever takes a second is there.
        *worked |= next.is_some();
    }
}
