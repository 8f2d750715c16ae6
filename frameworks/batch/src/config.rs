//! How a batch framework is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use allotment_framework_sdk::LeaseError;
use allotment_framework_sdk::election::check_lease;
use allotment_types::Role;

/// How long the masters keep our tasks while we are away: a week, so that a weekend without
/// anybody to restart the process costs no running job.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a batch framework needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where to serve; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Holds the queue and its history; made when it is not there. Of several processes with one
    /// folder one serves, and the others stand by.
    pub data_dir: PathBuf,
    /// The masters, tried in turn: `host:port` or `http://host:port`.
    pub masters: Vec<String>,
    /// The framework's name, as `allot framework list` shows it.
    pub name: String,
    /// The Unix user that jobs run as.
    pub user: String,
    /// The role to take offers in.
    pub role: Role,
    /// What this machine is called; agents of the same name, and agents that serve on a loopback
    /// address, are taken to see the same files.
    pub hostname: String,
    /// Where agents on other machines, which fetch input files, and standbys reach this process,
    /// `http://host:port`; `None`: the address it listens on.
    pub advertised_url: Option<String>,
    /// How long a standby leaves the queue to a process that is not heard of.
    pub leader_lease: Duration,
    /// By some other means there are no other processes with this folder.
    pub alone: bool,
    /// Memory of a job that asks for none, in MiB.
    pub default_memory_mib: u64,
    /// How many finished jobs are remembered.
    pub history_max: u64,
    /// How many unfinished jobs the queue takes.
    pub queue_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9618)),
            data_dir: PathBuf::from("allot-data/batch"),
            masters: vec!["127.0.0.1:5050".to_owned()],
            name: "batch".to_owned(),
            user: "root".to_owned(),
            role: Role::star(),
            hostname: "localhost".to_owned(),
            advertised_url: None,
            leader_lease: Duration::from_secs(10),
            alone: false,
            // Room for an interpreter; HTCondor would guess from the executable's size, which
            // says nothing about what a script needs, and here the limit is enforced.
            default_memory_mib: 128,
            history_max: 100_000,
            queue_max: 1_000_000,
        }
    }
}

/// Why a [`Config`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Memory of zero would be no limit.
    #[error("default_memory_mib is 0; jobs that ask for no memory need at least 1 MiB")]
    NoMemory,
    /// Fewer jobs than one submission may hold.
    #[error("queue_max is {given} but must be between 1 and {max}")]
    Queue {
        /// What was given.
        given: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// The lease cannot be kept.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The SDK refuses the rest.
    #[error("the framework's own settings are refused: {0}")]
    Framework(String),
}

impl Config {
    /// Checks what can be checked without touching the machine.
    ///
    /// # Errors
    /// [`ConfigError`], with the values at odds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const QUEUE_LIMIT: u64 = 10_000_000;
        if self.default_memory_mib == 0 {
            return Err(ConfigError::NoMemory);
        }
        check_lease(self.leader_lease)?;
        if self.queue_max == 0 || self.queue_max > QUEUE_LIMIT {
            return Err(ConfigError::Queue {
                given: self.queue_max,
                max: QUEUE_LIMIT,
            });
        }
        Ok(())
    }
}
