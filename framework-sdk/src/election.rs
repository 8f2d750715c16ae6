//! Which of several processes of a framework leads.
//!
//! Each is an [`Election`] over one key of the masters' store. Whoever puts the key where none is
//! leads; it renews the key's lease, and the others watch until the key is gone. So they also know
//! who leads: the key's value says where.
//!
//! **This is for liveness.** A process that stands still for longer than its lease may go on for a
//! moment before it notices that it leads no more. What must not be done by two is fenced where it
//! is done: by the version of a key that every commit to the store expects, by the master's single
//! subscription per framework id, by the lock of a database.

mod process;

use std::time::Duration;

use allotment_proto::allot;
use allotment_types::Timestamp;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::store::{Entry, Expected, Store, StoreError, StoreOp, WatchEvent};

/// The first pause after a master could not be asked; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often a leader on this machine is looked at: its death is known long before its lease ends.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long one who gave leadership up lets the others come first.
const COURTESY: Duration = Duration::from_secs(1);
/// How long giving the key up may take; past it the lease does it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest lease of a leader and the longest.
const LEASE_MIN: Duration = Duration::from_millis(500);
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// A lease too short to renew, or too long to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "leader_lease is {} ms but must be between {} and {} ms: it is renewed three times in this \
     time, and nobody leads for as long when a machine dies",
    given.as_millis(), LEASE_MIN.as_millis(), LEASE_MAX.as_millis()
)]
pub struct LeaseError {
    given: Duration,
}

/// Whether an election can be held with this lease; for settings, before one is.
///
/// # Errors
/// [`LeaseError`], with what leases can be.
pub fn check_lease(given: Duration) -> Result<(), LeaseError> {
    if (LEASE_MIN..=LEASE_MAX).contains(&given) {
        Ok(())
    } else {
        Err(LeaseError { given })
    }
}

/// What is competed for, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The key of the store; one per thing to lead.
    pub key: String,
    /// How long leadership stays with a process that is not heard of: the longest time without a
    /// leader after a machine dies. 10 s outlast a change of the leading master.
    pub lease: Duration,
    /// Where this process serves, for the others.
    pub url: String,
    /// There are no others, by some other means: leadership is taken from whoever holds it.
    pub alone: bool,
}

/// One who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it serves, `http://host:port`.
    pub url: String,
    /// Names one run of one process.
    pub process: String,
}

/// How things stand for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody is known to lead, and why; also after leadership was lost.
    Unknown(String),
    /// Another leads.
    Follows(Candidate),
    /// This process leads.
    Leads,
}

enum Order {
    /// Let another lead; answers whether this one did.
    Abdicate(oneshot::Sender<bool>),
    /// Compete no more.
    Leave(oneshot::Sender<()>),
}

/// One process' part in an election; it goes on until it leaves or is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use allotment_framework_sdk::{Election, Standing, Store, Terms};
///
/// let store = Store::new(&["127.0.0.1:5050".to_owned()], "counter")?;
/// let mut election = Election::start(store, Terms {
///     key: "leader".to_owned(),
///     lease: Duration::from_secs(10),
///     url: "http://127.0.0.1:7000".to_owned(),
///     alone: false,
/// });
/// loop {
///     match election.changed().await {
///         Standing::Leads => println!("begin to count"),
///         Standing::Follows(leader) => println!("{} counts", leader.url),
///         Standing::Unknown(reason) => println!("stop: {reason}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Election {
    standing: watch::Receiver<Standing>,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Election {
    /// Begins to compete, over a key of `store`.
    pub fn start(store: Store, terms: Terms) -> Self {
        let unknown = Standing::Unknown("the masters were not asked yet".to_owned());
        let (publish, standing) = watch::channel(unknown);
        let (orders, received) = mpsc::channel(1);
        let own = process::own(terms.url.clone());
        let contest = Contest {
            store,
            value: own.encode_to_vec().into(),
            own,
            terms,
            clock: Clock::start(),
            standing: publish,
        };
        Self {
            standing,
            orders,
            task: tokio::spawn(contest.run(received)),
        }
    }

    /// How things stand now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Whether this process leads now.
    pub fn leads(&self) -> bool {
        *self.standing.borrow() == Standing::Leads
    }

    /// Waits until things stand differently than when this was called last, and says how.
    pub async fn changed(&mut self) -> Standing {
        if self.standing.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.standing.borrow_and_update().clone()
    }

    /// Waits until this process does not lead, and says why: at once when it does not.
    pub async fn lost(&mut self) -> String {
        match self.standing.wait_for(|s| *s != Standing::Leads).await {
            Ok(standing) => match &*standing {
                Standing::Unknown(reason) => reason.clone(),
                Standing::Follows(leader) => format!("the one at {} leads now", leader.url),
                Standing::Leads => String::new(),
            },
            Err(_) => "the election has ended".to_owned(),
        }
    }

    /// Waits until another process leads, and says which: at once when one does.
    pub async fn follows(&mut self) -> Candidate {
        let follows = |s: &Standing| matches!(s, Standing::Follows(_));
        let leader = match self.standing.wait_for(follows).await.as_deref() {
            Ok(Standing::Follows(leader)) => Some(leader.clone()),
            Ok(_) | Err(_) => None,
        };
        match leader {
            Some(leader) => leader,
            None => std::future::pending().await,
        }
    }

    /// Gives leadership up at once, lets others come first and goes on competing. False: this
    /// process did not lead.
    pub async fn abdicate(&self) -> bool {
        let (done, answer) = oneshot::channel();
        let sent = self.orders.send(Order::Abdicate(done)).await;
        sent.is_ok() && answer.await.unwrap_or(false)
    }

    /// Gives up at once and competes no more.
    pub async fn leave(self) {
        let (done, answer) = oneshot::channel();
        if self.orders.send(Order::Leave(done)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The key as this process wrote it.
struct Held {
    version: u64,
    /// From then on it leads no more, whatever the masters say.
    until: Timestamp,
    /// When the lease is to be renewed.
    renew_at: Timestamp,
}

/// What came of one attempt to lead.
enum Attempt {
    Won(Held),
    /// Another leads.
    Taken(allot::Candidate),
    /// Somebody was faster, or an answer was lost: look again.
    Again,
    Failed(String),
}

/// Why the reign of this process ended.
enum End {
    Lost(String),
    Abdicated,
    Left(oneshot::Sender<()>),
}

struct Contest {
    store: Store,
    terms: Terms,
    own: allot::Candidate,
    value: Bytes,
    clock: Clock,
    standing: watch::Sender<Standing>,
}

type Orders = mpsc::Receiver<Order>;
/// Nobody to tell: the election was dropped.
type Leaving = Option<oneshot::Sender<()>>;

impl Contest {
    async fn run(self, mut orders: Orders) {
        loop {
            let held = match self.compete(&mut orders).await {
                Ok(held) => held,
                Err(done) => {
                    self.give_up().await;
                    let _ = done.map(|done| done.send(()));
                    return;
                }
            };
            match self.reign(held, &mut orders).await {
                End::Lost(reason) => {
                    warn!(reason, "leadership is lost");
                    self.standing.send_replace(Standing::Unknown(reason));
                }
                End::Abdicated => {
                    if let Err(done) = pause(COURTESY, &mut orders).await {
                        let _ = done.map(|done| done.send(()));
                        return;
                    }
                }
                End::Left(done) => {
                    self.give_up().await;
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Competes until this process leads, or is to leave.
    async fn compete(&self, orders: &mut Orders) -> Result<Held, Leaving> {
        let mut retry = RETRY_FIRST;
        loop {
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                order = hear(orders) => return Err(order),
            };
            match attempt {
                Attempt::Won(held) => return Ok(held),
                Attempt::Again => {}
                Attempt::Taken(leader) => {
                    retry = RETRY_FIRST;
                    self.follow(&leader);
                    let problem = tokio::select! {
                        problem = self.until_gone(&leader) => problem,
                        order = hear(orders) => return Err(order),
                    };
                    if let Some(problem) = problem {
                        debug!(problem, "the leader's key is watched anew");
                        pause(retry, orders).await?;
                    }
                }
                Attempt::Failed(reason) => {
                    // Whoever led when the masters were last heard of probably does still.
                    self.standing.send_if_modified(|standing| {
                        let new = Standing::Unknown(reason);
                        let news = !matches!(standing, Standing::Follows(_)) && *standing != new;
                        if news {
                            *standing = new;
                        }
                        news
                    });
                    pause(retry, orders).await?;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn follow(&self, leader: &allot::Candidate) {
        let new = Standing::Follows(Candidate {
            url: leader.url.clone(),
            process: leader.process.clone(),
        });
        self.standing.send_if_modified(|standing| {
            let news = *standing != new;
            if news {
                *standing = new;
            }
            news
        });
    }

    fn is_own(&self, entry: &Entry) -> bool {
        allot::Candidate::decode(&*entry.value)
            .is_ok_and(|candidate| candidate.process == self.own.process)
    }

    async fn look(&self) -> Result<Option<Entry>, StoreError> {
        let entries = self.store.list(&self.terms.key).await?;
        Ok(entries.into_iter().find(|e| e.key == self.terms.key))
    }

    async fn attempt(&self) -> Attempt {
        let seen = match self.look().await {
            Ok(seen) => seen,
            Err(error) => return Attempt::Failed(error.to_string()),
        };
        let expected = match seen {
            None => Expected::Absent,
            Some(entry) if self.terms.alone || self.is_own(&entry) => {
                Expected::Version(entry.version)
            }
            Some(entry) => match allot::Candidate::decode(&*entry.value) {
                Ok(other) if process::is_dead(&self.own, &other) => {
                    Expected::Version(entry.version)
                }
                Ok(other) => return Attempt::Taken(other),
                Err(error) => {
                    return Attempt::Failed(format!(
                        "the key {:?} of the masters' store holds no leader ({error}); delete it",
                        self.terms.key
                    ));
                }
            },
        };
        match self.put(expected).await {
            Ok(held) => Attempt::Won(held),
            Err(StoreError::Conflict { .. }) => Attempt::Again,
            Err(error) => Attempt::Failed(error.to_string()),
        }
    }

    /// Writes the key; its time counts from before it was asked for, and a tenth less, for clocks
    /// that do not run alike.
    async fn put(&self, expected: Expected) -> Result<Held, StoreError> {
        let asked = self.clock.now();
        let op = StoreOp::put(self.terms.key.as_str(), self.value.clone())
            .expecting(expected)
            .leased(self.terms.lease);
        let version = self.store.commit(&[op]).await?;
        Ok(Held {
            version,
            until: asked + self.terms.lease * 9 / 10,
            renew_at: asked + self.terms.lease / 3,
        })
    }

    /// Returns once `leader` leads no more, or another does; or with what went wrong.
    async fn until_gone(&self, leader: &allot::Candidate) -> Option<String> {
        let mut watch = match self.store.watch(&self.terms.key).await {
            Ok(watch) => watch,
            Err(error) => return Some(error.to_string()),
        };
        let neighbour = process::is_neighbour(&self.own, leader);
        let (mut found, mut caught_up) = (false, false);
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                () = tokio::time::sleep(LOOK_INTERVAL), if neighbour => {
                    if process::is_dead(&self.own, leader) {
                        return None;
                    }
                    continue;
                }
            };
            match event {
                Err(error) => return Some(error.to_string()),
                Ok(WatchEvent::Put(entry)) if entry.key == self.terms.key => {
                    found = true;
                    let now = allot::Candidate::decode(&*entry.value);
                    if now.is_ok_and(|now| now.process != leader.process) {
                        return None;
                    }
                }
                Ok(WatchEvent::Deleted { key, .. }) if key == self.terms.key => return None,
                Ok(WatchEvent::Put(_) | WatchEvent::Deleted { .. }) => {}
                Ok(WatchEvent::CaughtUp) => caught_up = true,
            }
            if caught_up && !found {
                return None;
            }
        }
    }

    /// Leads, until the lease cannot be renewed in time or this process gives up.
    async fn reign(&self, mut held: Held, orders: &mut Orders) -> End {
        let mut problem = "the masters answered too late".to_owned();
        // An answer that took as long as the lease is worth nothing.
        if self.clock.now() < held.until {
            self.standing.send_replace(Standing::Leads);
        }
        loop {
            let renewed = tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.clock.instant(held.until)) => {
                    return End::Lost(format!("the lease could not be renewed in time: {problem}"));
                }
                Some(order) = orders.recv() => match order {
                    Order::Abdicate(done) => {
                        let reason = "leadership was given up".to_owned();
                        self.standing.send_replace(Standing::Unknown(reason));
                        self.give_up().await;
                        let _ = done.send(true);
                        return End::Abdicated;
                    }
                    Order::Leave(done) => return End::Left(done),
                },
                renewed = self.renew(&held) => renewed,
            };
            match renewed {
                Ok(new) => held = new,
                Err(StoreError::Conflict { .. }) => match self.after_conflict(&mut held).await {
                    Ok(()) => {}
                    Err(reason) => return End::Lost(reason),
                },
                Err(error) => {
                    debug!(%error, "the lease was not renewed");
                    problem = error.to_string();
                    held.renew_at = self.clock.now() + RETRY_FIRST;
                }
            }
        }
    }

    async fn renew(&self, held: &Held) -> Result<Held, StoreError> {
        tokio::time::sleep_until(self.clock.instant(held.renew_at)).await;
        self.put(Expected::Version(held.version)).await
    }

    /// The key is not as this process knew it: it wrote it and did not hear so, or it lost it.
    async fn after_conflict(&self, held: &mut Held) -> Result<(), String> {
        let left = held.until.since(self.clock.now());
        let seen = tokio::time::timeout(left, self.look()).await;
        match seen {
            // When the write that was not heard of began is not known: the time stays.
            Ok(Ok(Some(entry))) if self.is_own(&entry) => held.version = entry.version,
            Ok(Ok(Some(_))) => return Err("another process leads now".to_owned()),
            Ok(Ok(None)) => return Err("the masters' lease was over".to_owned()),
            Ok(Err(_)) | Err(_) => {}
        }
        held.renew_at = self.clock.now() + RETRY_FIRST;
        Ok(())
    }

    /// Deletes the key if it is this process'. What fails is left to the lease.
    async fn give_up(&self) {
        let farewell = async {
            loop {
                let version = match self.look().await {
                    Ok(Some(entry)) if self.is_own(&entry) => entry.version,
                    Ok(_) => return,
                    Err(error) => {
                        debug!(%error, "leadership ends with its lease");
                        return;
                    }
                };
                let op = StoreOp::delete(self.terms.key.as_str());
                let op = op.expecting(Expected::Version(version));
                match self.store.commit(&[op]).await {
                    Err(StoreError::Conflict { .. }) => {}
                    Ok(_) | Err(_) => return,
                }
            }
        };
        if tokio::time::timeout(FAREWELL_TIMEOUT, farewell)
            .await
            .is_err()
        {
            debug!("no master answered; leadership ends with its lease");
        }
    }
}

/// Waits; an order to leave ends it.
async fn pause(pause: Duration, orders: &mut Orders) -> Result<(), Leaving> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        order = hear(orders) => Err(order),
    }
}

/// Waits for an order to leave; whoever does not lead cannot abdicate.
async fn hear(orders: &mut Orders) -> Leaving {
    loop {
        match orders.recv().await? {
            Order::Abdicate(done) => {
                let _ = done.send(false);
            }
            Order::Leave(done) => return Some(done),
        }
    }
}
