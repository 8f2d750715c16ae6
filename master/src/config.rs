//! What an operator may set on a master.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use allotment_types::FaultDomain;

/// Settings of one master. [`Config::default`] listens on 127.0.0.1:5050 and keeps its registry
/// in `./allot-master`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The address and port to serve on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The host name or address that others reach this master by; `None`: the listening address,
    /// or 127.0.0.1 when that is `0.0.0.0` or `::`.
    pub hostname: Option<String>,
    /// The region and zone it stands in, as the world is told; the allocation module has settings
    /// of its own.
    pub domain: Option<FaultDomain>,
    /// The folder of the registry. Created when missing; one master at a time may use it.
    pub data_dir: PathBuf,
    /// Let other masters join: make a secret unless there is one.
    pub bootstrap: bool,
    /// Masters of a cluster to become a member of, `host:port` each, tried in turn; empty: the
    /// cluster that the folder belongs to, or a new one.
    pub join: Vec<String>,
    /// What masters show each other; `None`: the one kept in the folder, if any.
    pub secret: Option<String>,
    /// How long the other masters wait for a silent leader before they elect another; the real
    /// time is up to twice that, at random. Longer than any pause of a healthy machine or network.
    pub election_timeout: Duration,
    /// The time between two heartbeats to a framework (Mesos: 15 s).
    pub heartbeat_interval: Duration,
    /// The time between two pings to an agent (Mesos: 15 s).
    pub agent_ping_interval: Duration,
    /// How many unanswered pings end an agent's session (Mesos: 5).
    pub agent_ping_misses: u32,
    /// How long an agent may be silent before it counts as unreachable (Mesos: 75 s). Also how
    /// long agents and frameworks have to come back after a restart of the master.
    pub agent_timeout: Duration,
    /// How long a framework may hold an offer before it is rescinded. Mesos has no limit unless
    /// told, and so lets one framework hoard the cluster.
    pub offer_timeout: Duration,
    /// The least time between two allocation rounds; news in between share the next one.
    pub allocation_coalesce: Duration,
    /// The most time between two rounds while frameworks are connected, news or not.
    pub allocation_interval: Duration,
}

/// Why settings do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A duration that must not be zero.
    #[error("{name} is 0; give it a duration such as {example}")]
    Zero {
        /// Which setting.
        name: &'static str,
        /// A sensible value.
        example: &'static str,
    },
    /// A master begins a cluster or joins one.
    #[error("a master either begins a cluster or joins one; give bootstrap or join, not both")]
    BootstrapAndJoin,
    /// Others could not reach it.
    #[error(
        "a master that listens on {listen} beside others needs the name they reach it by; give \
         hostname"
    )]
    Unreachable {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// Two settings contradict each other.
    #[error("{smaller_name} {smaller:?} must be shorter than {larger_name} {larger:?}")]
    NotShorter {
        /// The setting that must be shorter.
        smaller_name: &'static str,
        /// Its value.
        smaller: Duration,
        /// The setting that must be longer.
        larger_name: &'static str,
        /// Its value.
        larger: Duration,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5050),
            hostname: None,
            domain: None,
            data_dir: PathBuf::from("allot-master"),
            bootstrap: false,
            join: Vec::new(),
            secret: None,
            election_timeout: Duration::from_millis(600),
            heartbeat_interval: Duration::from_secs(15),
            agent_ping_interval: Duration::from_secs(15),
            agent_ping_misses: 5,
            agent_timeout: Duration::from_secs(75),
            offer_timeout: Duration::from_secs(300),
            allocation_coalesce: Duration::from_millis(1),
            allocation_interval: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the names and values of the settings that do not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("heartbeat_interval", self.heartbeat_interval, "15s"),
            ("election_timeout", self.election_timeout, "600ms"),
            ("agent_ping_interval", self.agent_ping_interval, "15s"),
            ("offer_timeout", self.offer_timeout, "5m"),
            ("allocation_coalesce", self.allocation_coalesce, "1ms"),
            ("allocation_interval", self.allocation_interval, "1s"),
        ];
        for (name, value, example) in positive {
            if value.is_zero() {
                return Err(ConfigError::Zero { name, example });
            }
        }
        if self.bootstrap && !self.join.is_empty() {
            return Err(ConfigError::BootstrapAndJoin);
        }
        let beside_others = self.bootstrap || !self.join.is_empty();
        if beside_others && self.hostname.is_none() && self.listen.ip().is_unspecified() {
            let listen = self.listen;
            return Err(ConfigError::Unreachable { listen });
        }
        if self.agent_ping_misses == 0 {
            let (name, example) = ("agent_ping_misses", "5 pings");
            return Err(ConfigError::Zero { name, example });
        }
        let shorter = [
            (
                ("agent_ping_interval", self.agent_ping_interval),
                ("agent_timeout", self.agent_timeout),
            ),
            (
                ("allocation_coalesce", self.allocation_coalesce),
                ("allocation_interval", self.allocation_interval),
            ),
        ];
        for ((smaller_name, smaller), (larger_name, larger)) in shorter {
            if smaller >= larger {
                return Err(ConfigError::NotShorter {
                    smaller_name,
                    smaller,
                    larger_name,
                    larger,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_settings_are_refused_with_both_values() {
        let config = Config {
            agent_timeout: Duration::from_secs(10),
            ..Config::default()
        };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "agent_ping_interval 15s must be shorter than agent_timeout 10s"
        );
        assert_eq!(Config::default().validate(), Ok(()));
        let config = Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 5050)),
            bootstrap: true,
            ..Config::default()
        };
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("hostname")
        );
    }
}
