//! What a framework says of itself when it subscribes, and where it looks for a master.
//!
//! Checked once, before the first connection, so that a typo is a sentence and not a loop of
//! refused subscriptions.

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_proto::mesos;
use allotment_types::{FrameworkId, Role};

use crate::wants::{Capability, Wants};
use crate::wire;

/// The most master addresses: five masters and room for a move.
pub const MASTERS_MAX: usize = 16;

/// The longest time that a master keeps the tasks of a framework that is away: a year.
pub const FAILOVER_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Who the framework is and where its masters are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The masters, tried in turn: `host:port` or `http://host:port`.
    pub masters: Vec<String>,
    /// For people: shown by `allot framework list`.
    pub name: String,
    /// The Unix user that tasks run as when they name none.
    pub user: String,
    /// The roles to take offers in; at least one.
    pub roles: Vec<Role>,
    /// The id from an earlier [`crate::Event::Subscribed`], to find its tasks again; `None`: be a
    /// new framework.
    pub framework_id: Option<FrameworkId>,
    /// How long the tasks live on while this framework is away; zero: it dies with its stream.
    pub failover_timeout: Duration,
    /// Where people look at the framework, `http://...`.
    pub webui_url: Option<String>,
    /// Which offers to want.
    pub wants: Wants,
    /// What the framework can deal with beside the usual.
    pub capabilities: BTreeSet<Capability>,
    /// Subscribe without wanting offers, until [`crate::Call::Revive`].
    pub suppressed: bool,
    /// How many events wait for a slow framework before the stream is no longer read. The master
    /// has its own bound behind it, and disconnects a framework that reaches that one.
    pub events_max: usize,
    /// How many calls wait before [`crate::Handle::call`] waits too.
    pub calls_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            masters: vec!["127.0.0.1:5050".to_owned()],
            name: String::new(),
            user: "root".to_owned(),
            roles: vec![Role::star()],
            framework_id: None,
            failover_timeout: Duration::ZERO,
            webui_url: None,
            wants: Wants::default(),
            capabilities: BTreeSet::new(),
            suppressed: false,
            events_max: 4096,
            calls_max: 4096,
        }
    }
}

/// Why a [`Config`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to connect to.
    #[error("no master is given; name at least one, for example 127.0.0.1:5050")]
    NoMaster,
    /// More than [`MASTERS_MAX`].
    #[error("{given} masters are given but at most {MASTERS_MAX} are tried; name fewer")]
    TooManyMasters {
        /// How many.
        given: usize,
    },
    /// Not `host:port`.
    #[error("master address {given:?} {problem}; write host:port, for example 127.0.0.1:5050")]
    Master {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A text that people read is empty or holds control characters.
    #[error("framework {field} {given:?} is empty or holds control characters; use a plain text")]
    Text {
        /// Which field.
        field: &'static str,
        /// What was given.
        given: String,
    },
    /// Nothing to be offered in.
    #[error("framework {name:?} names no role; give at least one, for example `*`")]
    NoRole {
        /// Which framework.
        name: String,
    },
    /// Longer than a year.
    #[error(
        "failover_timeout is {} s but must not exceed {} s; shorten it",
        given.as_secs(), FAILOVER_TIMEOUT_MAX.as_secs()
    )]
    FailoverTimeout {
        /// What was given.
        given: Duration,
    },
    /// A queue that holds nothing.
    #[error("{field} is 0 but a queue must hold at least one; use the default {default}")]
    Queue {
        /// Which field.
        field: &'static str,
        /// Its default.
        default: usize,
    },
}

/// Brings `host:port` or `http://host:port` into the form `http://host:port`.
///
/// # Errors
/// [`ConfigError::Master`] when it is neither, or asks for TLS, which is not supported yet.
pub fn master_url(given: &str) -> Result<String, ConfigError> {
    let refuse = |problem| {
        Err(ConfigError::Master {
            given: given.chars().take(200).collect(),
            problem,
        })
    };
    if given.starts_with("https://") {
        return refuse("asks for TLS, which is not supported yet");
    }
    let rest = given.strip_prefix("http://").unwrap_or(given);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#' | ','))
    {
        return refuse("is not host:port");
    }
    let Some((host, port)) = rest.rsplit_once(':') else {
        return refuse("has no port");
    };
    if host.is_empty() {
        return refuse("has no host");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return refuse("holds an IPv6 address without brackets");
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => refuse("has a port that is not between 1 and 65535"),
        Ok(port) => Ok(format!("http://{host}:{port}")),
    }
}

impl Config {
    /// A framework called `name` with one master, and defaults for the rest.
    pub fn new(master: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            masters: vec![master.into()],
            name: name.into(),
            ..Self::default()
        }
    }

    /// Checks everything that a master or this library would refuse.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and what was given.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.masters.is_empty() {
            return Err(ConfigError::NoMaster);
        }
        if self.masters.len() > MASTERS_MAX {
            return Err(ConfigError::TooManyMasters {
                given: self.masters.len(),
            });
        }
        for master in &self.masters {
            master_url(master)?;
        }
        for (field, text) in [("name", &self.name), ("user", &self.user)] {
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(ConfigError::Text {
                    field,
                    given: text.chars().take(200).collect(),
                });
            }
        }
        if self.roles.is_empty() {
            return Err(ConfigError::NoRole {
                name: self.name.clone(),
            });
        }
        if self.failover_timeout > FAILOVER_TIMEOUT_MAX {
            return Err(ConfigError::FailoverTimeout {
                given: self.failover_timeout,
            });
        }
        let default = Self::default();
        for (field, value, default) in [
            ("events_max", self.events_max, default.events_max),
            ("calls_max", self.calls_max, default.calls_max),
        ] {
            if value == 0 {
                return Err(ConfigError::Queue { field, default });
            }
        }
        Ok(())
    }

    /// The registration as it goes over the wire; `id` is added by the session.
    pub(crate) fn framework_info(&self) -> mesos::FrameworkInfo {
        use mesos::framework_info::{Capability as Wire, capability::Type};
        let mut capabilities = vec![
            Type::MultiRole,
            Type::PartitionAware,
            Type::TaskKillingState,
            Type::ReservationRefinement,
        ];
        capabilities.extend(self.capabilities.iter().map(|capability| match capability {
            Capability::Revocable => Type::RevocableResources,
            Capability::Shared => Type::SharedResources,
            Capability::Gpus => Type::GpuResources,
            Capability::RegionAware => Type::RegionAware,
        }));
        mesos::FrameworkInfo {
            user: self.user.clone(),
            name: self.name.clone(),
            failover_timeout: Some(self.failover_timeout.as_secs_f64()),
            checkpoint: Some(true),
            webui_url: self.webui_url.clone(),
            capabilities: capabilities
                .iter()
                .map(|kind| Wire {
                    r#type: Some((*kind).into()),
                })
                .collect(),
            roles: self.roles.iter().map(|r| r.as_str().to_owned()).collect(),
            offer_filters: wire::wants::offer_filters(&self.wants),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> Config {
        Config {
            name: "web".to_owned(),
            ..Config::default()
        }
    }

    #[test]
    fn the_default_needs_only_a_name() {
        assert_eq!(named().validate(), Ok(()));
        assert!(matches!(
            Config::default().validate(),
            Err(ConfigError::Text { field: "name", .. })
        ));
    }

    #[test]
    fn master_addresses_that_cannot_work_are_refused_with_a_way_out() {
        for bad in [
            "",
            "localhost",
            "host:0",
            "host:70000",
            ":5050",
            "https://a:1",
            "a b:1",
            "::1:5050",
            "zk://a:1/mesos",
            "a:1,b:2",
        ] {
            let error = master_url(bad).unwrap_err().to_string();
            assert!(error.contains("host:port"), "{bad:?}: {error}");
        }
        for good in ["a:1", "http://a:1", "http://a:1/", "[::1]:5050"] {
            assert!(master_url(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn relations_are_checked_and_both_values_printed() {
        let config = Config {
            failover_timeout: Duration::from_secs(400 * 86_400),
            ..named()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("34560000 s") && error.contains("31536000 s"),
            "{error}"
        );
    }
}
