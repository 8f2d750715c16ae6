//! What agent and launcher say to each other over their socket: prost messages, each after its
//! length as four bytes, little end first.

use prost::Message;

use crate::core::Confinement;

/// The largest message either side accepts, in bytes: that of the whole wire.
const LEN_MAX: usize = allotment_proto::MESSAGE_LEN_MAX;

/// From the agent.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Order {
    #[prost(oneof = "order::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 20")]
    pub(super) kind: Option<order::Kind>,
}

pub(super) mod order {
    /// One order.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Kind {
        /// First of all, once; answered by `Ready`.
        #[prost(message, tag = "1")]
        SetUp(super::SetUp),
        /// Answered by `Started` or `Failed`, and after `Started` by `Ended`.
        #[prost(message, tag = "2")]
        Launch(super::Launch),
        /// SIGTERM to everything in this container.
        #[prost(uint64, tag = "3")]
        Terminate(u64),
        /// SIGKILL to everything in this container.
        #[prost(uint64, tag = "4")]
        Destroy(u64),
        /// How this container ended is written down.
        #[prost(uint64, tag = "5")]
        Release(u64),
        /// Answered by `Entered` or `Refused`, and after `Entered` by `Left`. Three descriptors
        /// come with its bytes: the program's stdin, stdout and stderr.
        #[prost(message, tag = "6")]
        Enter(super::Enter),
        /// SIGKILL to everything in this session.
        #[prost(uint64, tag = "7")]
        Eject(u64),
        /// Answered through the descriptor that comes with its bytes, a socket: by a byte with the
        /// terminal of this container's task, or by a sentence.
        #[prost(uint64, tag = "8")]
        Attach(u64),
        /// A container is to hold another amount from now on.
        #[prost(message, tag = "20")]
        Resize(super::Resize),
    }
}

/// How containers are to be made.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetUp {
    /// The agent's own part of the path of its cgroups.
    #[prost(string, tag = "1")]
    pub(super) agent: String,
    /// Names of the isolators that are wanted.
    #[prost(string, repeated, tag = "4")]
    pub(super) isolators: Vec<String>,
    /// Every task's request of cpus is its ceiling.
    #[prost(bool, tag = "5")]
    pub(super) cfs_quota: bool,
    /// Folders below which tasks may mount host paths.
    #[prost(string, repeated, tag = "7")]
    pub(super) host_path_volumes: Vec<String>,
    /// Capabilities that tasks may gain, one bit each.
    #[prost(uint64, tag = "8")]
    pub(super) bounding_capabilities: u64,
    /// Those that a task of root starts with.
    #[prost(uint64, tag = "9")]
    pub(super) effective_capabilities: u64,
    /// Every container has a `/tmp` of its own.
    #[prost(bool, tag = "13")]
    pub(super) own_tmp: bool,
    /// The folder of the journal.
    #[prost(bytes = "vec", tag = "10")]
    pub(super) journal: Vec<u8>,
    /// Containers go on when the agent is gone; otherwise they end with it.
    #[prost(bool, tag = "11")]
    pub(super) outlive: bool,
    /// Containers that an earlier launcher may have begun. Any other one is ended.
    #[prost(message, repeated, tag = "12")]
    pub(super) adopt: Vec<Adopt>,
}

/// A container of an earlier launcher; answered by `Started`, `Failed`, `Ended` or `Gone`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Adopt {
    /// The agent's number for it in this run.
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    /// The run of the default executor that it belongs to.
    #[prost(string, optional, tag = "3")]
    pub(super) parent: Option<String>,
    /// The container that it is in.
    #[prost(string, optional, tag = "4")]
    pub(super) beside: Option<String>,
}

/// One container.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Launch {
    /// The agent's number for it; never used twice in one run.
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// Its name, a uuid, for cgroups and the journal.
    #[prost(string, tag = "2")]
    pub(super) name: String,
    /// The program; without a slash it is looked for along `PATH` of `env`.
    #[prost(string, tag = "3")]
    pub(super) program: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) argv: Vec<String>,
    /// `NAME=value` each.
    #[prost(string, repeated, tag = "5")]
    pub(super) env: Vec<String>,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) directory: Vec<u8>,
    /// Absent: the launcher's own.
    #[prost(message, optional, tag = "7")]
    pub(super) user: Option<User>,
    #[prost(uint64, tag = "8")]
    pub(super) cpus_milli: u64,
    #[prost(uint64, tag = "9")]
    pub(super) memory_bytes: u64,
    #[prost(uint64, tag = "10")]
    pub(super) pids_max: u64,
    /// What it asks for beyond all this.
    #[prost(message, optional, boxed, tag = "11")]
    pub(super) confinement: Option<Box<Confinement>>,
    /// The executor's run whose process namespace it shares. Absent: it has one of its own.
    #[prost(string, optional, tag = "12")]
    pub(super) pod: Option<String>,
    /// Whose it is.
    #[prost(string, tag = "13")]
    pub(super) framework: String,
    /// The number of the container that it is to run in, behind the same walls. With the bytes of
    /// its order comes its sandbox, open, for its stdout and stderr to be made in.
    #[prost(uint64, optional, tag = "14")]
    pub(super) beside: Option<u64>,
    /// Absent: the task writes into its files itself, as much as it likes.
    #[prost(message, optional, tag = "20")]
    pub(super) logs: Option<Logs>,
}

/// The next container of an init. With its bytes come the journal, the launcher's lock and, for a
/// container with a `/tmp` of its own, what [`super::isolators::Mounts::trees`] names.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Next {
    #[prost(message, required, tag = "1")]
    pub(super) launch: Launch,
    /// The files through which its task moves into its groups.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) entrances: Vec<Vec<u8>>,
}

/// One more program in a running container.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Enter {
    /// The agent's number for it; never used twice in one run.
    #[prost(uint64, tag = "1")]
    pub(super) session: u64,
    /// Its name, a uuid.
    #[prost(string, tag = "2")]
    pub(super) name: String,
    /// What the container was made for, with this program in the place of its own; `id` is the
    /// container's number.
    #[prost(message, required, tag = "3")]
    pub(super) launch: Launch,
    /// The descriptors are one terminal.
    #[prost(bool, tag = "4")]
    pub(super) terminal: bool,
}

/// Bounds of what a task writes to stdout and stderr; sizes in bytes, 0 for none.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Logs {
    #[prost(uint64, tag = "1")]
    pub(super) stdout_size_max: u64,
    #[prost(uint32, tag = "2")]
    pub(super) stdout_files_max: u32,
    #[prost(uint64, tag = "3")]
    pub(super) stderr_size_max: u64,
    #[prost(uint32, tag = "4")]
    pub(super) stderr_files_max: u32,
}

/// What a running container is to hold.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Resize {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cpus_milli: u64,
    #[prost(uint64, tag = "3")]
    pub(super) memory_bytes: u64,
}

/// Who a task runs as.
#[derive(Clone, PartialEq, Message)]
pub(super) struct User {
    #[prost(uint32, tag = "1")]
    pub(super) uid: u32,
    #[prost(uint32, tag = "2")]
    pub(super) gid: u32,
    #[prost(uint32, repeated, tag = "3")]
    pub(super) groups: Vec<u32>,
}

/// From the launcher.
#[derive(Clone, PartialEq, Message)]
pub(super) struct News {
    #[prost(oneof = "news::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub(super) kind: Option<news::Kind>,
}

pub(super) mod news {
    /// One piece of news.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Kind {
        #[prost(message, tag = "1")]
        Ready(super::Ready),
        #[prost(message, tag = "2")]
        Started(super::Started),
        #[prost(message, tag = "3")]
        Failed(super::Failed),
        #[prost(message, tag = "4")]
        Ended(super::Ended),
        #[prost(message, tag = "5")]
        Gone(super::Gone),
        /// The program of this session runs.
        #[prost(uint64, tag = "6")]
        Entered(u64),
        /// It could not be started; `id` is the session.
        #[prost(message, tag = "7")]
        Refused(super::Failed),
        #[prost(message, tag = "8")]
        Left(super::Left),
    }
}

/// What the launcher can give.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ready {
    /// Of each isolator that was wanted.
    #[prost(message, repeated, tag = "3")]
    pub(super) isolators: Vec<Isolating>,
    /// Why no container can be begun at all.
    #[prost(string, optional, tag = "10")]
    pub(super) refused: Option<String>,
    /// Containers that nobody wanted any more; they are ended.
    #[prost(uint64, tag = "11")]
    pub(super) n_strays: u64,
    /// Records of the journal that could not be read.
    #[prost(uint64, tag = "12")]
    pub(super) n_damaged: u64,
}

/// What came of one isolator: one of the two clauses is set.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Isolating {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// What it enforces.
    #[prost(string, optional, tag = "2")]
    pub(super) enforces: Option<String>,
    /// Why this machine cannot give it.
    #[prost(string, optional, tag = "3")]
    pub(super) missing: Option<String>,
}

/// A container of an earlier launcher of whose end nothing is known; nothing is left of it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Gone {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// It surely never began.
    #[prost(bool, tag = "2")]
    pub(super) never_begun: bool,
}

/// The program runs.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Started {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// The container's first process, as the host numbers it.
    #[prost(int32, tag = "2")]
    pub(super) pid: i32,
}

/// The program could not be started; nothing is left of the container.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Failed {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// One sentence without a full stop.
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// The program of a session ended, and what it had begun.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Left {
    #[prost(uint64, tag = "1")]
    pub(super) session: u64,
    /// As `wait` returns it.
    #[prost(int32, tag = "2")]
    pub(super) status: i32,
}

/// The program ended; nothing is left of the container.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Ended {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// As `wait` returns it.
    #[prost(int32, tag = "2")]
    pub(super) status: i32,
    #[prost(uint64, tag = "3")]
    pub(super) user_cpu_ns: u64,
    #[prost(uint64, tag = "4")]
    pub(super) system_cpu_ns: u64,
    #[prost(uint64, tag = "5")]
    pub(super) max_rss_bytes: u64,
    /// The memory limit that was exceeded, in bytes; absent: none was.
    #[prost(uint64, optional, tag = "6")]
    pub(super) memory_limit_bytes: Option<u64>,
    /// The most memory the container held, where cgroups tell.
    #[prost(uint64, optional, tag = "7")]
    pub(super) memory_peak_bytes: Option<u64>,
}

/// Appends one message with its length.
pub(super) fn put(message: &impl Message, out: &mut Vec<u8>) {
    // Senders bound what they put in far below 4 GiB; the reader checks again.
    let len = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&message.encode_to_vec());
}

/// Bytes received and not yet understood.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    read: usize,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("a message of {len} bytes came, at most {LEN_MAX} are accepted")]
    TooLong { len: usize },
    #[error("a message cannot be decoded")]
    Decode(#[from] prost::DecodeError),
}

impl Inbox {
    /// Appends what was received.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete message, if there is one.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, WireError> {
        let open = self.bytes.get(self.read..).unwrap_or_default();
        let Some((len, rest)) = open.split_first_chunk::<4>() else {
            self.compact();
            return Ok(None);
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > LEN_MAX {
            return Err(WireError::TooLong { len });
        }
        let Some(body) = rest.get(..len) else {
            self.compact();
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.read += 4 + len;
        Ok(Some(message))
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.read.min(self.bytes.len()));
        self.read = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 64 * 1024 {
            // One huge launch must not make the launcher, and each fork of it, large for good.
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let mut bytes = Vec::new();
        for id in 0..3 {
            let message = "x".repeat(300);
            let kind = Some(news::Kind::Failed(Failed { id, message }));
            put(&News { kind }, &mut bytes);
        }
        let mut inbox = Inbox::default();
        let mut ids = Vec::new();
        for byte in bytes {
            inbox.extend(&[byte]);
            while let Some(news) = inbox.next::<News>().unwrap() {
                match news.kind {
                    Some(news::Kind::Failed(failed)) => ids.push(failed.id),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(ids, [0, 1, 2]);
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_taken() {
        let mut inbox = Inbox::default();
        inbox.extend(&u32::MAX.to_le_bytes());
        assert!(inbox.next::<News>().is_err());
    }
}
