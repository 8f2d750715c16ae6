//! What can be set, with units and defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use allotment_framework_sdk::LeaseError;
use allotment_framework_sdk::election::check_lease;
use allotment_types::Role;

/// Settings of one services process.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the master serves, for example `http://127.0.0.1:5050`.
    pub master: String,
    /// The address to listen on.
    pub ip: IpAddr,
    /// The port to listen on; 0 picks a free one.
    pub port: u16,
    /// Where others reach this process, `http://host:port`; `None`: the address it listens on.
    pub advertised_url: Option<String>,
    /// The framework's name; also the namespace of its state in the masters' store.
    pub name: String,
    /// The role to take offers in; apps may only name this one.
    pub role: Role,
    /// The Unix user that tasks run as when their app names none.
    pub user: String,
    /// How long the master keeps tasks while no services process is there.
    pub failover_timeout: Duration,
    /// How long leadership stays with a process that is not heard of. Of several processes of one
    /// name one leads; 10 s, ZooKeeper's session timeout in Marathon, outlast a change of the
    /// leading master.
    pub leader_lease: Duration,
    /// By some other means there are no other processes of this name: leadership is taken at
    /// once from whoever left it.
    pub alone: bool,
    /// First of the ports that are given to port definitions with port 0.
    pub service_port_min: u16,
    /// Last of them.
    pub service_port_max: u16,
    /// How long resources that fit no waiting app are refused.
    pub decline_for: Duration,
    /// A launch of which nothing is heard for this long is killed and tried again.
    pub launch_timeout: Duration,
    /// A kill that is not confirmed is repeated this often.
    pub kill_retry: Duration,
    /// How often the master is asked about every task.
    pub reconcile_interval: Duration,
    /// How many deployments may run at once.
    pub deployments_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            master: "http://127.0.0.1:5050".to_owned(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            advertised_url: None,
            name: "services".to_owned(),
            role: Role::star(),
            user: std::env::var("USER").unwrap_or_else(|_| "root".to_owned()),
            // Marathon's default: a week is long enough to notice that it is missing.
            failover_timeout: Duration::from_secs(7 * 24 * 3600),
            leader_lease: Duration::from_secs(10),
            alone: false,
            service_port_min: 10_000,
            service_port_max: 20_000,
            decline_for: Duration::from_secs(120),
            launch_timeout: Duration::from_secs(300),
            kill_retry: Duration::from_secs(30),
            reconcile_interval: Duration::from_secs(600),
            deployments_max: 100,
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No URL.
    #[error("master {master:?} is no http:// URL; give for example http://127.0.0.1:5050")]
    Master {
        /// What was given.
        master: String,
    },
    /// No URL.
    #[error("advertised_url {given:?} is no http://host:port by which others reach this process")]
    Advertised {
        /// What was given.
        given: String,
    },
    /// The lease cannot be kept.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A range that holds nothing.
    #[error(
        "service_port_min {min} must not exceed service_port_max {max} and must be above 0; \
         Marathon uses 10000 and 20000"
    )]
    ServicePorts {
        /// The first port.
        min: u16,
        /// The last port.
        max: u16,
    },
    /// The store needs a namespace.
    #[error(
        "name is empty; it names the framework and its state in the store, such as \"services\""
    )]
    Name,
    /// Something would be repeated without a pause.
    #[error("{what} is 0 s; give it at least 1 ms")]
    Zero {
        /// Which setting.
        what: &'static str,
    },
}

impl Config {
    /// Checks the settings and how they relate.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.master.starts_with("http://") || self.master.len() <= "http://".len() {
            return Err(ConfigError::Master {
                master: self.master.clone(),
            });
        }
        if let Some(given) = &self.advertised_url
            && (!given.starts_with("http://") || given.len() <= "http://".len())
        {
            let given = given.clone();
            return Err(ConfigError::Advertised { given });
        }
        check_lease(self.leader_lease)?;
        if self.service_port_min == 0 || self.service_port_min > self.service_port_max {
            return Err(ConfigError::ServicePorts {
                min: self.service_port_min,
                max: self.service_port_max,
            });
        }
        if self.name.is_empty() {
            return Err(ConfigError::Name);
        }
        for (what, value) in [
            ("launch_timeout", self.launch_timeout),
            ("kill_retry", self.kill_retry),
            ("reconcile_interval", self.reconcile_interval),
        ] {
            if value < Duration::from_millis(1) {
                return Err(ConfigError::Zero { what });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn a_backwards_port_range_names_both_ends() {
        let config = Config {
            service_port_min: 20,
            service_port_max: 10,
            ..Config::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("20") && error.contains("10"), "{error}");
    }
}
