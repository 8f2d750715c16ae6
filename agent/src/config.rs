//! What an operator may set on an agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use allotment_types::{FaultDomain, Resources};

use crate::attributes::Attributes;
use crate::core::ExecutorSettings;
pub use crate::fetcher::FetcherSettings;
pub use crate::isolation::{Capabilities, Isolation, Isolator, IsolatorSettings};

/// Settings of one agent. [`Config::default`] serves on 127.0.0.1:5051, looks for a master on
/// 127.0.0.1:5050, offers what the machine has and keeps everything in `./allot-agent`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The address and port to serve on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name of this machine in offers; `None`: the machine's own host name.
    pub hostname: Option<String>,
    /// The name or address under which others reach this agent; `None`: the listening address,
    /// or the host name when that is `0.0.0.0` or `::`.
    pub advertise: Option<String>,
    /// Where masters serve, `http://host:port` each; tried in turn.
    pub masters: Vec<String>,
    /// The folder of sandboxes and of what the agent remembers. Created when missing; one agent at a time
    /// may use it.
    pub work_dir: PathBuf,
    /// What to offer; `None`: the machine's cores, memory and disk, and ports 31000 to 32000.
    pub resources: Option<Resources>,
    /// What frameworks may choose by, such as `rack:r7; gpu:a100`.
    pub attributes: Attributes,
    /// The region and zone it stands in, when they are known; frameworks that are not region-aware
    /// are not offered agents of another region than the master's.
    pub domain: Option<FaultDomain>,
    /// Which walls to put around tasks.
    pub isolation: Isolation,
    /// How to start the launcher process; the agent appends `--socket-fd 0`.
    pub launcher: LauncherCommand,
    /// Run each task as the user it names (needs root). Without it every task runs as the
    /// agent's own user.
    pub switch_user: bool,
    /// The most processes and threads one task may have, where pids are isolated.
    pub pids_max: u64,
    /// What single isolators are told.
    pub isolators: IsolatorSettings,
    /// The time between SIGTERM and SIGKILL for tasks without a kill policy (Mesos: 5 s).
    pub kill_grace: Duration,
    /// How long the sandbox of an ended task is kept (Mesos: a week).
    pub gc_delay: Duration,
    /// The part of the disk that is to stay free: the fuller it is, the earlier sandboxes go
    /// (Mesos' `--gc_disk_headroom`).
    pub gc_disk_headroom: f64,
    /// How often the disk is looked at (Mesos' `--disk_watch_interval`).
    pub disk_watch_interval: Duration,
    /// How files are fetched for tasks.
    pub fetcher: FetcherSettings,
    /// How many tasks have their files fetched at the same time.
    pub fetches_max: usize,
    /// The first wait before connecting again to a master; doubles, with jitter.
    pub reconnect_min: Duration,
    /// The longest wait before connecting again to a master.
    pub reconnect_max: Duration,
    /// Tasks go on when their agent ends, however it ends, and the next agent on the same work
    /// folder takes them up again (Mesos' checkpointing, for every framework). Otherwise they end
    /// with it.
    pub tasks_outlive_agent: bool,
    /// Bytes after which the stdout or stderr of a task is put aside as `stdout.1` and another
    /// begun; `None`: they grow as they will, as with Mesos' default. Tasks may say otherwise
    /// ([`crate::core::logs`]).
    pub log_size_max: Option<u64>,
    /// How many files that were put aside are kept of each.
    pub log_files_max: u32,
    /// How long a custom executor may take from its start to its first SUBSCRIBE (Mesos: 1 min).
    pub executor_registration_timeout: Duration,
    /// How long a custom executor may take to subscribe again to an agent that was started anew
    /// (Mesos: 2 s).
    pub executor_reregistration_timeout: Duration,
    /// How long a custom executor has to exit after SHUTDOWN, unless it says otherwise (Mesos:
    /// 5 s).
    pub executor_shutdown_grace: Duration,
    /// How long a custom executor may be without an agent (Mesos' `--recovery_timeout`: 15 min).
    pub recovery_timeout: Duration,
    /// Custom executors prove who they are with the token in their environment. Off, for
    /// executors that know of none, any task on this machine may speak for any executor.
    pub authenticate_http_executors: bool,
}

/// How the launcher process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LauncherCommand {
    /// The program; `/proc/self/exe` is the running binary itself.
    pub program: PathBuf,
    /// Its first arguments, which make it call [`crate::launcher_main`].
    pub args: Vec<String>,
}

impl Default for LauncherCommand {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            args: vec!["launcher".to_owned()],
        }
    }
}

/// Why settings do not go together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Something that must not be zero.
    #[error("{name} is 0; give it a value such as {example}")]
    Zero {
        /// Which setting.
        name: &'static str,
        /// A sensible value.
        example: &'static str,
    },
    /// Two settings contradict each other.
    #[error("{smaller_name} {smaller:?} must not exceed {larger_name} {larger:?}")]
    Exceeds {
        /// The setting that must not exceed the other.
        smaller_name: &'static str,
        /// Its value.
        smaller: Duration,
        /// The other setting.
        larger_name: &'static str,
        /// Its value.
        larger: Duration,
    },
    /// No part of a whole.
    #[error("gc_disk_headroom is {value}; give a part of the disk between 0 and 1, such as 0.1")]
    Headroom {
        /// What was given.
        value: f64,
    },
    /// Nobody to register with.
    #[error("no master is given; name at least one, such as http://127.0.0.1:5050")]
    NoMaster,
    /// A master's address that cannot be one.
    #[error(
        "master address {address:?} is no http://host:port; write it like http://10.0.0.1:5050"
    )]
    MasterAddress {
        /// What was given.
        address: String,
    },
    /// An attribute that the agent sets itself.
    #[error("attribute {name:?} is set by the agent itself; choose another name")]
    ReservedAttribute {
        /// Its name.
        name: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        let executors = ExecutorSettings::default();
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5051),
            hostname: None,
            advertise: None,
            masters: vec!["http://127.0.0.1:5050".to_owned()],
            work_dir: PathBuf::from("allot-agent"),
            resources: None,
            attributes: Attributes::default(),
            domain: None,
            isolation: Isolation::Auto,
            launcher: LauncherCommand::default(),
            switch_user: true,
            pids_max: 4096,
            isolators: IsolatorSettings::default(),
            kill_grace: Duration::from_secs(5),
            gc_delay: Duration::from_secs(7 * 24 * 3600),
            gc_disk_headroom: 0.1,
            disk_watch_interval: Duration::from_secs(60),
            fetcher: FetcherSettings::default(),
            fetches_max: 8,
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(10),
            tasks_outlive_agent: true,
            log_size_max: None,
            log_files_max: 9,
            executor_registration_timeout: executors.registration_timeout,
            executor_reregistration_timeout: executors.reregistration_timeout,
            executor_shutdown_grace: executors.shutdown_grace,
            recovery_timeout: executors.recovery_timeout,
            authenticate_http_executors: executors.authenticate,
        }
    }
}

impl Config {
    /// The attribute that tells which walls tasks have.
    pub const ISOLATION_ATTRIBUTE: &'static str = "isolation";

    /// Reads a bound of logs, such as `10MB` (1024-fold steps, as in Mesos).
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn log_size(text: &str) -> Result<u64, String> {
        crate::core::logs::size(text)?
            .ok_or_else(|| "which bounds nothing; leave it out".to_owned())
    }

    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the names and values of the settings that do not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let zero = |name, example| Err(ConfigError::Zero { name, example });
        if self.reconnect_min.is_zero() {
            return zero("reconnect_min", "100ms");
        }
        let (registration, recovery) = (self.executor_registration_timeout, self.recovery_timeout);
        if registration.is_zero() {
            return zero("executor_registration_timeout", "1m");
        }
        if self.executor_reregistration_timeout > recovery {
            return Err(ConfigError::Exceeds {
                smaller_name: "executor_reregistration_timeout",
                smaller: self.executor_reregistration_timeout,
                larger_name: "recovery_timeout",
                larger: recovery,
            });
        }
        if self.pids_max == 0 {
            return zero("pids_max", "4096");
        }
        if self.log_size_max == Some(0) {
            return zero("log_size_max", "10MB");
        }
        if !(0.0..=1.0).contains(&self.gc_disk_headroom) {
            let value = self.gc_disk_headroom;
            return Err(ConfigError::Headroom { value });
        }
        if self.disk_watch_interval.is_zero() {
            return zero("disk_watch_interval", "1min");
        }
        if self.isolators.disk_watch_interval.is_zero() {
            return zero("container_disk_watch_interval", "15s");
        }
        if self.fetches_max == 0 {
            return zero("fetches_max", "8");
        }
        if self.reconnect_min > self.reconnect_max {
            return Err(ConfigError::Exceeds {
                smaller_name: "reconnect_min",
                smaller: self.reconnect_min,
                larger_name: "reconnect_max",
                larger: self.reconnect_max,
            });
        }
        if self.masters.is_empty() {
            return Err(ConfigError::NoMaster);
        }
        for address in &self.masters {
            let uri = address.parse::<http::Uri>().ok();
            let good = uri.is_some_and(|uri| {
                uri.scheme_str() == Some("http")
                    && uri.host().is_some_and(|host| !host.is_empty())
                    && uri.port_u16().is_some_and(|port| port != 0)
            });
            if !good {
                return Err(ConfigError::MasterAddress {
                    address: address.clone(),
                });
            }
        }
        if self.attributes.has(Self::ISOLATION_ATTRIBUTE) {
            return Err(ConfigError::ReservedAttribute {
                name: Self::ISOLATION_ATTRIBUTE.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_is_no_address_is_refused_by_name() {
        for address in [
            "",
            "localhost:5050",
            "http://",
            "http://a",
            "https://a:1",
            "x y",
        ] {
            let config = Config {
                masters: vec![address.to_owned()],
                ..Config::default()
            };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("{address:?}")), "{error}");
        }
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn contradicting_settings_are_refused_with_both_values() {
        let config = Config {
            reconnect_min: Duration::from_secs(20),
            ..Config::default()
        };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "reconnect_min 20s must not exceed reconnect_max 10s"
        );
    }
}
