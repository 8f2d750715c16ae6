//! A framework's state, kept by the masters: it outlives the framework's machine.
//!
//! [`StoreOp`]s are plain values, so that a pure core can emit them; [`Store`] performs them.
//! What the keys and values mean is left to the framework. [`watch`](mod@watch) holds what a
//! watcher hears; who of several processes leads is decided over such keys in [`crate::election`].

use std::sync::Arc;
use std::time::Duration;

use allotment_proto::allot::store_client::StoreClient;
use allotment_proto::{MESSAGE_LEN_MAX, allot};
use bytes::Bytes;
use prost::Message;
use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::channel;
use crate::config::{ConfigError, master_url};
use crate::leader;

pub mod watch;

pub use watch::{Watch, WatchEvent};

/// The largest value, in bytes.
pub const VALUE_LEN_MAX: usize = 1024 * 1024;
/// The most bytes that one namespace may hold.
pub const NAMESPACE_LEN_MAX: usize = 64 * 1024 * 1024;
/// How long a commit or a listing may take; a registry write takes milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What one operation costs on the wire beside its key and value.
const OP_OVERHEAD: usize = 32;

/// What a key must be like for a commit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expected {
    /// Anything goes.
    #[default]
    Any,
    /// The key must not exist.
    Absent,
    /// The key must have this version.
    Version(u64),
}

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOp {
    /// Which key.
    pub key: String,
    /// Its new value; `None` deletes the key.
    pub value: Option<Bytes>,
    /// What must hold now.
    pub expected: Expected,
    /// The key is deleted unless it is written again within this time; `None`: it stays.
    pub lease: Option<Duration>,
}

impl StoreOp {
    /// Writes `value` whatever was there.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
            expected: Expected::Any,
            lease: None,
        }
    }

    /// Deletes the key whatever was there.
    pub fn delete(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
            expected: Expected::Any,
            lease: None,
        }
    }

    /// The same write, but only when the key is as expected.
    #[must_use]
    pub fn expecting(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }

    /// The same write, but the masters delete the key unless it is written again within `lease`:
    /// 100 ms to a day, in whole milliseconds. When another master begins to lead, every lease has
    /// its whole time again.
    #[must_use]
    pub fn leased(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len) + OP_OVERHEAD
    }

    fn to_wire(&self) -> allot::StoreOperation {
        allot::StoreOperation {
            key: self.key.clone(),
            value: self.value.clone(),
            expected_version: match self.expected {
                Expected::Any => None,
                Expected::Absent => Some(0),
                Expected::Version(version) => Some(version),
            },
            // What is too long for the field is too long for the masters, who say so.
            lease_ms: self
                .lease
                .map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// One key of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Its version, for [`Expected::Version`].
    pub version: u64,
}

impl From<allot::StoreEntry> for Entry {
    fn from(entry: allot::StoreEntry) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
            version: entry.version,
        }
    }
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote the key: read it again and decide anew.
    #[error(
        "key {key:?} was expected {} but {}; read it again and decide anew",
        Version(*expected, "not to exist"), Version(*found, "it does not exist")
    )]
    Conflict {
        /// Which key.
        key: String,
        /// The version that was expected; 0: that it does not exist.
        expected: u64,
        /// The version that it has; 0: it does not exist.
        found: u64,
    },
    /// Past a limit; nothing was written.
    #[error("{0}")]
    TooLarge(String),
    /// No master answered. Retry; when `maybe_applied`, list first or expect a version, because
    /// the commit may have happened.
    #[error("the masters' store cannot be reached: {reason}; retry")]
    Unavailable {
        /// Why, with the address and what to check.
        reason: String,
        /// Whether the request may have reached a master all the same.
        maybe_applied: bool,
    },
    /// The masters will never do this.
    #[error("the masters' store refused: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A version in words; 0 has its own.
struct Version(u64, &'static str);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str(self.1),
            version => write!(f, "version {version}"),
        }
    }
}

/// A namespace of the masters' store; cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use allotment_framework_sdk::{Expected, Store, StoreOp};
///
/// let store = Store::new(&["127.0.0.1:5050".to_owned()], "counter")?;
/// let first = StoreOp::put("n", "1").expecting(Expected::Absent);
/// let version = store.commit(&[first]).await?;
/// let second = StoreOp::put("n", "2").expecting(Expected::Version(version));
/// store.commit(&[second]).await?;
/// assert_eq!(store.list("").await?[0].value, "2");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    namespace: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    masters: Vec<String>,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    master: usize,
    channel: Option<Channel>,
}

impl Store {
    /// The store of `namespace` (one per framework: its name) at `masters`, which are tried in
    /// turn. Connects when it is first used.
    ///
    /// # Errors
    /// [`ConfigError`] when no master is given or an address is malformed.
    pub fn new(masters: &[String], namespace: &str) -> Result<Self, ConfigError> {
        if masters.is_empty() {
            return Err(ConfigError::NoMaster);
        }
        let masters: Result<Vec<_>, _> = masters.iter().map(|m| master_url(m)).collect();
        Ok(Self {
            namespace: namespace.to_owned(),
            shared: Arc::new(Shared {
                masters: masters?,
                current: Mutex::default(),
            }),
        })
    }

    /// Performs all of `ops` or none; returns the version that every written key has now. Returns
    /// once the masters keep it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written unless it says `maybe_applied`.
    pub async fn commit(&self, ops: &[StoreOp]) -> Result<u64, StoreError> {
        if let Some(op) = ops
            .iter()
            .find(|op| op.value.as_ref().is_some_and(|v| v.len() > VALUE_LEN_MAX))
        {
            return Err(StoreError::TooLarge(format!(
                "the value of key {:?} has {} bytes but at most {VALUE_LEN_MAX} are kept; split it",
                op.key,
                op.value.as_ref().map_or(0, Bytes::len)
            )));
        }
        let len = self.namespace.len() + ops.iter().map(StoreOp::len).sum::<usize>();
        if len > MESSAGE_LEN_MAX {
            return Err(StoreError::TooLarge(format!(
                "one commit has {len} bytes but at most {MESSAGE_LEN_MAX} are taken; make several"
            )));
        }
        let request = allot::StoreCommitRequest {
            namespace: self.namespace.clone(),
            operations: ops.iter().map(StoreOp::to_wire).collect(),
        };
        self.on_some_master(false, |mut client| {
            let request = request.clone();
            async move {
                let response = client.commit(request).await?;
                Ok(response.into_inner().version)
            }
        })
        .await
    }

    /// The entries whose keys begin with `prefix`, in key order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.on_some_master(true, |client| {
            let request = allot::StoreListRequest {
                namespace: self.namespace.clone(),
                prefix: prefix.to_owned(),
            };
            list(client, request)
        })
        .await
    }

    /// The entries whose keys begin with `prefix`, then every change of them, as soon as it is
    /// durable and in the order of versions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        let request = allot::StoreWatchRequest {
            namespace: self.namespace.clone(),
            prefix: prefix.to_owned(),
        };
        self.on_some_master(true, |client| watch::open(client, request.clone()))
            .await
    }

    /// Performs `request` on the master used last, or on the next ones while the request has
    /// certainly not been performed (or is `harmless` to repeat).
    // Not `AsyncFn`: the compiler could not tell that its future may move between threads.
    async fn on_some_master<T, F>(
        &self,
        harmless: bool,
        request: impl Fn(StoreClient<Channel>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut reasons: Vec<String> = Vec::new();
        // Once more than there are: the leader that was used last may lead no more.
        for _ in 0..=self.shared.masters.len() {
            let (master, channel) = match self.channel().await {
                Ok(found) => found,
                Err((master, reason)) => {
                    reasons.push(reason);
                    self.next_master(master).await;
                    continue;
                }
            };
            let client = StoreClient::new(channel)
                .max_decoding_message_size(MESSAGE_LEN_MAX)
                .max_encoding_message_size(MESSAGE_LEN_MAX);
            let status = match tokio::time::timeout(CALL_TIMEOUT, request(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!(
                    "no answer within {} s",
                    CALL_TIMEOUT.as_secs()
                )),
            };
            let place = self.place(master);
            match classify(&status, &place) {
                // Not the leader: certainly not performed.
                Outcome::Elsewhere(reason) => reasons.push(reason),
                Outcome::Unclear(reason) => {
                    self.next_master(master).await;
                    if !harmless {
                        return Err(StoreError::Unavailable {
                            reason,
                            maybe_applied: true,
                        });
                    }
                    reasons.push(reason);
                    continue;
                }
                Outcome::Failed(error) => return Err(error),
            }
            self.next_master(master).await;
        }
        reasons.dedup();
        Err(StoreError::Unavailable {
            reason: reasons.join("; "),
            maybe_applied: false,
        })
    }

    fn place(&self, master: usize) -> String {
        let url = self.shared.masters.get(master).map_or("", String::as_str);
        url.strip_prefix("http://").unwrap_or(url).to_owned()
    }

    async fn channel(&self) -> Result<(usize, Channel), (usize, String)> {
        let mut current = self.shared.current.lock().await;
        let master = current.master;
        if let Some(channel) = &current.channel {
            return Ok((master, channel.clone()));
        }
        let url = self.shared.masters.get(master).map_or("", String::as_str);
        let leader = leader::connect(url).await;
        let channel = leader.map_err(|reason| (master, reason))?.channel;
        current.channel = Some(channel.clone());
        Ok((master, channel))
    }

    /// Turns to the next master, unless another call did already.
    async fn next_master(&self, failed: usize) {
        let mut current = self.shared.current.lock().await;
        if current.master == failed {
            current.master = (failed + 1) % self.shared.masters.len();
            current.channel = None;
        }
    }
}

async fn list(
    mut client: StoreClient<Channel>,
    request: allot::StoreListRequest,
) -> Result<Vec<Entry>, Status> {
    let namespace = request.namespace.clone();
    let mut stream = client.list(request).await?.into_inner();
    let (mut entries, mut len) = (Vec::new(), 0);
    while let Some(entry) = stream.message().await? {
        len += entry.key.len() + entry.value.len();
        if len > NAMESPACE_LEN_MAX {
            return Err(Status::resource_exhausted(format!(
                "namespace {namespace:?} holds more than {NAMESPACE_LEN_MAX} bytes"
            )));
        }
        entries.push(entry.into());
    }
    Ok(entries)
}

enum Outcome {
    Elsewhere(String),
    Unclear(String),
    Failed(StoreError),
}

fn classify(status: &Status, place: &str) -> Outcome {
    let text = || format!("master {place}: {}", channel::status_text(status));
    match status.code() {
        Code::FailedPrecondition => Outcome::Elsewhere(text()),
        Code::Aborted => Outcome::Failed(match allot::StoreConflict::decode(status.details()) {
            Ok(conflict) if !status.details().is_empty() => StoreError::Conflict {
                key: conflict.key,
                expected: conflict.expected_version,
                found: conflict.found_version,
            },
            _ => StoreError::Refused(text()),
        }),
        Code::ResourceExhausted => Outcome::Failed(StoreError::TooLarge(text())),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal => Outcome::Unclear(text()),
        _ => Outcome::Failed(StoreError::Refused(text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_tells_both_versions() {
        let conflict = allot::StoreConflict {
            key: "/app".to_owned(),
            expected_version: 0,
            found_version: 7,
        };
        let details = conflict.encode_to_vec().into();
        let status = Status::with_details(Code::Aborted, "conflict", details);
        let Outcome::Failed(error) = classify(&status, "m:1") else {
            panic!("an ABORTED commit is a failure");
        };
        assert_eq!(
            error.to_string(),
            "key \"/app\" was expected not to exist but version 7; read it again and decide anew"
        );
        assert!(!error.is_temporary());
    }

    #[test]
    fn a_commit_whose_answer_was_lost_says_that_it_may_have_happened() {
        let status = Status::unavailable("connection reset");
        assert!(matches!(classify(&status, "m:1"), Outcome::Unclear(_)));
    }
}
