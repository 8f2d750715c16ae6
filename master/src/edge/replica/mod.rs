//! The loop that owns this master's copy of the registry: Raft's messages, the log's writer, and
//! the news for the loop that owns the core.
//!
//! It has a thread of its own, so that neither a long turn of the core's loop nor a crowd of
//! connections costs a heartbeat or an election.

pub(super) mod frames;
mod peers;
mod requests;
mod thread;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use allotment_raft::store::StoreError;
use allotment_raft::{Change, ChangeError, Input as RaftInput, MemberError};
use allotment_types::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::RunError;
use super::clock::Clock;
use super::folder::{Folder, Home, RegistryError};
use crate::core::registry::{Record, Registry};
use crate::replica::{Effect, Input, Replica, entry};
pub(super) use peers::{ADDRESS, ANSWERS, CLUSTER, Credentials, FROM, SECRET, TO, connect};
use peers::{Answers, Peers};
use requests::Goal;
pub(super) use requests::{Joined, Overview};
pub(super) use thread::RaftThread;
use writer::Writer;

/// How many facts may wait; beyond it whoever brings them waits.
const QUEUE_MAX: usize = 4096;
/// How many are taken in at once.
const BATCH: usize = 256;
/// The election timeout in ticks; a tick is the finest that timers are worth.
pub(crate) const ELECTION_TICKS: u32 = 12;
/// A log longer than this is replaced by a snapshot.
const COMPACT_BYTES: usize = 16 * 1024 * 1024;
/// How much of the log is kept in memory for masters that lag a little.
const KEEP_BYTES: usize = 4 * 1024 * 1024;
/// So many agents a second may come back after a change of leader without being in each other's
/// way.
pub(super) const RETURNS_PER_SEC: u32 = 10_000;
/// How long a removed master goes on, so that the others learn that it is removed.
const FAREWELL: Duration = Duration::from_secs(1);

/// What reaches the loop.
#[derive(Debug)]
pub(super) enum ToReplica {
    /// For the log's member.
    Raft(RaftInput),
    /// The core's records.
    Propose {
        epoch: u64,
        sequence: u64,
        records: Vec<Record>,
    },
    /// The log cannot be written.
    DiskFailed(StoreError),
    /// Another master says that this one was removed.
    Expelled,
    /// A member opened a stream.
    Heard {
        from: u64,
        /// Where it says that it is reached.
        address: Option<String>,
        /// For answers to what comes by the stream.
        answers: Option<Answers>,
    },
    /// A master wants to be a member, or moved.
    Join {
        id: u64,
        address: String,
        answer: oneshot::Sender<Result<Joined, ChangeError>>,
    },
    /// An operator changes the members.
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
    /// How is it going?
    Inspect(oneshot::Sender<Overview>),
    /// The registry, and how to make a backup of it.
    Backup(oneshot::Sender<Vec<u8>>),
    /// Let another master lead, if one can.
    Resign,
    /// The end; answered when all is written.
    Stop(oneshot::Sender<()>),
}

/// What the core's loop hears.
#[derive(Debug)]
pub(super) enum News {
    /// Make a core.
    Lead {
        epoch: u64,
        term: u64,
        registry: Box<Registry>,
        /// The group's time, and the machine's at the same moment.
        time: (Timestamp, Timestamp),
    },
    /// Drop the core.
    Follow,
    /// Kept, whatever happens.
    Committed { epoch: u64, sequence: u64 },
    /// The lease was over and is valid again.
    Lease,
}

/// Until when this master leads for certain, and in which reign; shared with whoever must know at
/// any moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Lease {
    epoch: Arc<AtomicU64>,
    until: Arc<AtomicU64>,
}

impl Lease {
    /// Whether the reign of this number may act now. One that is over may not, even when the
    /// master leads again.
    pub(super) fn is_valid(&self, epoch: u64, now: Timestamp) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
            && now.as_nanos() < self.until.load(Ordering::Acquire)
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now.as_nanos() >= self.until.load(Ordering::Acquire)
    }

    fn begin(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    fn set(&self, until: Timestamp) {
        self.until.store(until.as_nanos(), Ordering::Release);
    }
}

/// What everybody may know: who leads, and how large the cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// This master leads, and its core takes calls.
    pub(super) leading: bool,
    /// No other master is needed to decide anything.
    pub(super) alone: bool,
    /// Who leads, `host:port`.
    pub(super) leader: Option<String>,
    /// Whose turn it is to lead after that one, `host:port`.
    pub(super) heir: Option<String>,
    pub(super) term: u64,
    /// Agents in the registry, to spread their return.
    pub(super) n_agents: usize,
    /// Numbers of masters that were removed.
    pub(super) removed: Vec<u64>,
}

impl View {
    /// Who leads, for clients of the master at `me`: that one, elected a moment ago, leads once it
    /// has caught up.
    pub(super) fn leader_seen_from<'a>(&'a self, me: &'a str) -> Option<&'a str> {
        if self.leading {
            return Some(me);
        }
        self.leader.as_deref().filter(|leader| *leader != me)
    }

    /// Over how many seconds agents spread their return after a change of leader.
    pub(super) fn spread_seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "agents stay far below 2^53")]
        let n_agents = self.n_agents as f64;
        n_agents / f64::from(RETURNS_PER_SEC)
    }
}

/// What the loop is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) folder: Folder,
    pub(super) home: Home,
    pub(super) credentials: Credentials,
    pub(super) election_timeout: Duration,
}

/// How others talk to the loop.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) inbox: mpsc::Sender<ToReplica>,
    pub(super) view: watch::Receiver<View>,
    pub(super) lease: Lease,
}

/// The loop.
#[derive(Debug)]
pub(super) struct ReplicaLoop {
    clock: Clock,
    replica: Replica,
    credentials: Credentials,
    /// From the folder: others that the log may not tell yet.
    seeds: BTreeMap<u64, String>,
    /// Where the log says that the others are.
    known: BTreeMap<u64, String>,
    /// What they said themselves since: the log may not be able to go on before one that moved is
    /// reached.
    heard: BTreeMap<u64, String>,
    inbox: mpsc::Receiver<ToReplica>,
    sender: mpsc::Sender<ToReplica>,
    news: mpsc::UnboundedSender<News>,
    view: watch::Sender<View>,
    /// The core's loop was told to lead. Nobody hears that this master leads before: their first
    /// call would find no core.
    reigns: bool,
    lease: Lease,
    writer: Option<Writer>,
    peers: Peers,
    goals: Vec<Goal>,
    /// This master was removed and ends then.
    farewell: Option<Timestamp>,
    /// The leader was asked to note our new address.
    announced_to: Option<String>,
    failed: Option<RunError>,
}

/// Makes the loop and performs its first effects.
pub(super) fn prepare(
    parts: Parts,
) -> Result<(ReplicaLoop, Handle, mpsc::UnboundedReceiver<News>), RegistryError> {
    let Parts {
        clock,
        folder,
        home,
        credentials,
        election_timeout,
    } = parts;
    let (sender, inbox) = mpsc::channel(QUEUE_MAX);
    // Unbounded, but never longer than the core's loop has proposals under way.
    let (news, hears) = mpsc::unbounded_channel();
    let (view, watcher) = watch::channel(View::default());
    let id = home.identity.id();
    let (low, high) = uuid::Uuid::new_v4().as_u64_pair();
    let config = allotment_raft::Config {
        id,
        tick: election_timeout / ELECTION_TICKS,
        election_ticks: ELECTION_TICKS,
        seed: low ^ high,
        compact_bytes: COMPACT_BYTES,
        keep_bytes: KEEP_BYTES,
    };
    let seeds = home.identity.others();
    let made = Replica::new(config, clock.now(), home.recovered);
    let (replica, effects) = made.map_err(|error| RegistryError::Member { source: error })?;
    let writer = Writer::start(folder, home.store, sender.clone())
        .map_err(|source| RegistryError::Thread { source })?;
    let lease = Lease::default();
    let mut made = ReplicaLoop {
        clock,
        replica,
        seeds,
        known: BTreeMap::new(),
        heard: BTreeMap::new(),
        peers: Peers::new(credentials.clone(), sender.clone()),
        credentials,
        inbox,
        sender: sender.clone(),
        news,
        view,
        reigns: false,
        lease: lease.clone(),
        writer: Some(writer),
        goals: Vec::new(),
        farewell: None,
        announced_to: None,
        failed: None,
    };
    made.on_changed();
    made.perform(effects);
    let handle = Handle {
        inbox: sender,
        view: watcher,
        lease,
    };
    Ok((made, handle, hears))
}

impl ReplicaLoop {
    /// Runs until told to stop, or until the master cannot go on.
    pub(super) async fn run(mut self) -> Result<(), RunError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.replica.next_deadline().since(self.clock.now());
            tokio::select! {
                n = self.inbox.recv_many(&mut batch, BATCH) => {
                    if n == 0 {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(due) => {}
            }
            for message in batch.drain(..) {
                if let ToReplica::Stop(done) = message {
                    self.stop(done).await;
                    return Ok(());
                }
                self.take_in(message);
            }
            let now = self.clock.now();
            if self.replica.next_deadline() <= now {
                self.step(Input::Raft(RaftInput::Tick));
            }
            if self.farewell.is_some_and(|at| at <= now) {
                return Err(RunError::Removed);
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
    }

    /// Whether no other master is needed to decide anything.
    fn is_alone(&self) -> bool {
        let standing = self.replica.member().standing();
        let mut voters = standing.peers.iter().filter(|peer| peer.voter);
        voters.next().is_some_and(|v| v.id == self.credentials.id) && voters.next().is_none()
    }

    async fn stop(mut self, done: oneshot::Sender<()>) {
        if let Some(writer) = self.writer.take() {
            // A panic there would have been told by then.
            let _ = tokio::task::spawn_blocking(|| writer.finish()).await;
        }
        // Nobody waits any more: fine.
        let _ = done.send(());
    }

    fn take_in(&mut self, message: ToReplica) {
        match message {
            ToReplica::Raft(input) => self.step(Input::Raft(input)),
            ToReplica::Propose {
                epoch,
                sequence,
                records,
            } => self.step(Input::Propose {
                epoch,
                sequence,
                records,
            }),
            ToReplica::DiskFailed(source) => {
                self.failed = Some(RunError::Log(source));
            }
            ToReplica::Heard {
                from,
                address,
                answers,
            } => {
                if let Some(answers) = answers {
                    self.peers.answer_by(from, answers);
                }
                let Some(address) = address else {
                    return;
                };
                let news = self.heard.insert(from, address.clone());
                if news.as_ref() != Some(&address) {
                    self.on_changed();
                }
            }
            ToReplica::Expelled => self.failed = Some(RunError::Removed),
            ToReplica::Resign => self.step(Input::Raft(RaftInput::Resign)),
            ToReplica::Join {
                id,
                address,
                answer,
            } => self.on_join(id, address, answer),
            ToReplica::Change(change, answer) => self.on_change(change, answer),
            ToReplica::Inspect(answer) => {
                // Whoever asked may have gone away.
                let _ = answer.send(self.overview());
            }
            ToReplica::Backup(answer) => self.on_backup(answer),
            // Handled by the caller.
            ToReplica::Stop(_) => {}
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.replica.step(self.clock.now(), input);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.peers.send(*message),
                Effect::Write(write) => {
                    if let Some(writer) = &self.writer {
                        writer.write(write);
                    }
                }
                Effect::Encode(registry, time) => self.encode(*registry, time),
                Effect::Lead {
                    epoch,
                    term,
                    registry,
                    time,
                } => {
                    info!(term, "this master leads");
                    self.lease.begin(epoch);
                    self.tell(News::Lead {
                        epoch,
                        term,
                        registry,
                        time: (time, self.clock.now()),
                    });
                    self.reigns = true;
                    self.on_changed();
                }
                Effect::Follow => {
                    info!("this master does not lead any more");
                    self.lease.set(Timestamp::ZERO);
                    self.tell(News::Follow);
                    self.reigns = false;
                    self.on_changed();
                }
                Effect::Committed { epoch, sequence } => {
                    self.tell(News::Committed { epoch, sequence });
                }
                Effect::Lease(until) => {
                    let was_over = self.lease.is_over(self.clock.now());
                    self.lease.set(until);
                    if was_over {
                        self.tell(News::Lease);
                    }
                }
                Effect::Changed => self.on_changed(),
                Effect::Refused(reason) => warn!(%reason, "refused what another master sent"),
                Effect::Failed(error) => self.on_failed(error),
            }
        }
    }

    fn tell(&self, news: News) {
        // The core's loop is gone only when the master stops.
        let _ = self.news.send(news);
    }

    fn on_failed(&mut self, error: MemberError) {
        self.failed = Some(RunError::Member(error));
    }

    /// A snapshot is made beside the loop.
    fn encode(&self, registry: Registry, time: Timestamp) {
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let state = entry::encode_registry(registry, time);
            let made = ToReplica::Raft(RaftInput::SnapshotMade(state));
            // The replica is gone only when the master stops.
            let _ = sender.blocking_send(made);
        });
    }

    /// Who leads, and who is there: for everybody who must know.
    fn on_changed(&mut self) {
        let standing = self.replica.member().standing();
        let members = self.replica.member().members();
        let me = self.credentials.id;
        let mut others: BTreeMap<u64, String> = members
            .members
            .iter()
            .filter(|(id, _)| **id != me)
            .map(|(id, member)| (*id, member.address.clone()))
            .collect();
        if members.members.is_empty() {
            others.clone_from(&self.seeds);
        }
        // The log has moved them since.
        self.heard
            .retain(|id, _| self.known.get(id) == others.get(id));
        self.known.clone_from(&others);
        for (id, address) in &mut others {
            if let Some(heard) = self.heard.get(id) {
                address.clone_from(heard);
            }
        }
        self.peers.set(&others);
        let address_of = |id: u64| {
            if id == me {
                Some(self.credentials.address.clone())
            } else {
                others.get(&id).cloned()
            }
        };
        let leader = standing.leader.and_then(address_of);
        let view = View {
            leading: self.reigns && self.replica.is_leading(),
            alone: self.is_alone(),
            leader: leader.clone(),
            heir: standing.heir().and_then(address_of),
            term: standing.term,
            n_agents: self.replica.registry().agents.len(),
            removed: members.removed.clone(),
        };
        if members.removed.contains(&me) && self.farewell.is_none() {
            info!("this master was removed from the cluster");
            self.farewell = Some(self.clock.now() + FAREWELL);
        }
        self.view.send_if_modified(|old| {
            let changed = *old != view;
            *old = view;
            changed
        });
        self.announce_address(leader);
        self.settle_goals();
    }
}
