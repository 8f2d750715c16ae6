//! What an app is: Marathon's definition, complete and normalized.
//!
//! The fields print in Marathon's names, and the same form is kept in the store. How a
//! definition is read from a user and what is refused is told in `parse`.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_types::{Fixed, Name, Resources};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::constraint::Constraint;
use super::id::{AppId, Version};

/// An app at one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// Its absolute path.
    pub id: AppId,
    /// Roles whose resources it takes; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_resource_roles: Option<Vec<String>>,
    /// A program and its arguments, instead of `cmd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Growth of the launch delay with each failure.
    pub backoff_factor: f64,
    /// The launch delay after the first failure.
    pub backoff_seconds: u64,
    /// A line for `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// Where instances may go.
    pub constraints: Vec<Constraint>,
    /// Cores of one instance.
    #[serde(with = "amount")]
    pub cpus: Fixed,
    /// MiB of disk of one instance.
    #[serde(with = "amount")]
    pub disk: Fixed,
    /// Environment variables; they win over generated ones.
    pub env: BTreeMap<String, String>,
    /// Always empty: the built-in executor.
    pub executor: String,
    /// Files to bring into the sandbox first.
    pub fetch: Vec<Fetch>,
    /// Always 0; GPUs are not supported yet.
    pub gpus: u32,
    /// How to tell whether an instance does its work.
    pub health_checks: Vec<HealthCheck>,
    /// How many are wanted.
    pub instances: u32,
    /// Which instances a scale-down kills first.
    pub kill_selection: KillSelection,
    /// Free-form.
    pub labels: BTreeMap<String, String>,
    /// The largest launch delay.
    pub max_launch_delay_seconds: u64,
    /// MiB of memory of one instance.
    #[serde(with = "amount")]
    pub mem: Fixed,
    /// Always the host's network.
    pub networks: Vec<Network>,
    /// The host ports of one instance.
    pub port_definitions: Vec<PortDefinition>,
    /// Whether host ports must be those of the definitions.
    pub require_ports: bool,
    /// The role it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// From SIGTERM to SIGKILL; the agent's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_kill_grace_period_seconds: Option<u64>,
    /// What to do about instances on agents that cannot be reached.
    pub unreachable_strategy: Unreachable,
    /// How a new configuration replaces the old one.
    pub upgrade_strategy: UpgradeStrategy,
    /// The Unix user; the framework's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// When this definition was made.
    pub version: Version,
    /// When what of it was last changed.
    pub version_info: VersionInfo,
}

/// When an app was last changed, and in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The last change of the number of instances.
    pub last_scaling_at: Version,
    /// The last change of anything else; instances launched before are outdated.
    pub last_config_change_at: Version,
}

/// A file to bring into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// `file:///path`, `/path` or `http://…`.
    pub uri: String,
    /// Whether archives would be unpacked; archives are refused while that is not supported.
    pub extract: bool,
    /// Make it executable.
    pub executable: bool,
    /// Always false.
    pub cache: bool,
    /// Name in the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dest_path: Option<String>,
}

/// Only `{"mode":"host"}` so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// `host`.
    pub mode: String,
}

/// One host port of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDefinition {
    /// Free-form.
    pub labels: BTreeMap<String, String>,
    /// Makes `PORT_<NAME>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The service port, unique in the cluster when it was assigned; with `requirePorts` the
    /// host port.
    pub port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    pub protocol: String,
}

/// How to tell whether an instance does its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Failures are ignored for this long after the start, until the first success.
    pub grace_period_seconds: u64,
    /// For COMMAND: what to run beside the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CheckCommand>,
    /// For HTTP: answers 100 to 199 change nothing.
    #[serde(default)]
    pub ignore_http1xx: bool,
    /// Between two checks.
    pub interval_seconds: u64,
    /// So many failures in a row kill the instance; 0 never.
    pub max_consecutive_failures: u32,
    /// For HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A fixed port instead of one of the instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Which of the instance's ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_index: Option<usize>,
    /// How to ask.
    pub protocol: CheckProtocol,
    /// An answer that takes longer is a failure.
    pub timeout_seconds: u64,
    /// From the start of the instance to the first check; for those that agents perform.
    pub delay_seconds: u64,
}

/// A line of shell that exits with 0 when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCommand {
    /// The line.
    pub value: String,
}

/// How health is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckProtocol {
    /// `GET path`; 200 to 399 is healthy.
    Http,
    /// A connection is healthy.
    Tcp,
    /// Exit code 0 is healthy. The agent runs it in the instance's container.
    Command,
    /// As HTTP, asked by the agent over the loopback address.
    MesosHttp,
    /// The same over TLS, with whatever certificate.
    MesosHttps,
    /// As TCP, asked by the agent over the loopback address.
    MesosTcp,
}

impl CheckProtocol {
    /// Whether the agent asks, and not this framework.
    pub const fn is_asked_by_agent(self) -> bool {
        !matches!(self, Self::Http | Self::Tcp)
    }

    /// Whether it asks for a path.
    pub const fn has_path(self) -> bool {
        matches!(self, Self::Http | Self::MesosHttp | Self::MesosHttps)
    }
}

/// Which instances a scale-down kills first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KillSelection {
    /// The latest started.
    #[default]
    YoungestFirst,
    /// The earliest started.
    OldestFirst,
}

/// What to do about instances on agents that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Wait for ever.
    Disabled,
    /// Replace, then forget.
    After {
        /// Seconds until a replacement is launched.
        inactive: u64,
        /// Seconds until the instance is forgotten, and killed should it return.
        expunge: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UnreachableTimes {
    inactive_after_seconds: u64,
    expunge_after_seconds: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum UnreachableForm {
    Word(String),
    Times(UnreachableTimes),
}

impl Serialize for Unreachable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Disabled => serializer.serialize_str("disabled"),
            Self::After { inactive, expunge } => UnreachableTimes {
                inactive_after_seconds: inactive,
                expunge_after_seconds: expunge,
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Unreachable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match UnreachableForm::deserialize(deserializer)? {
            UnreachableForm::Word(_) => Self::Disabled,
            UnreachableForm::Times(times) => Self::After {
                inactive: times.inactive_after_seconds,
                expunge: times.expunge_after_seconds,
            },
        })
    }
}

/// How a new configuration replaces the old one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStrategy {
    /// The share of instances that stay healthy.
    pub minimum_health_capacity: f64,
    /// The share of instances that may run in addition.
    pub maximum_over_capacity: f64,
}

impl UpgradeStrategy {
    /// The fewest healthy instances out of `instances`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is between 0 and 1"
    )]
    pub fn healthy_min(&self, instances: u32) -> u32 {
        // A hair less, so that 0.7 × 10 is 7 and not 8 through binary rounding.
        (f64::from(instances) * self.minimum_health_capacity - 1e-9).ceil() as u32
    }

    /// The most instances at once.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is between 0 and 1"
    )]
    pub fn capacity_max(&self, instances: u32) -> u32 {
        (f64::from(instances) * (1.0 + self.maximum_over_capacity) + 1e-9).floor() as u32
    }
}

impl App {
    /// What one instance asks, ports aside.
    pub fn scalars(&self) -> Resources {
        Resources::cpus_mem(self.cpus, self.mem).with_scalar(Name::DISK, self.disk)
    }

    /// Whether the two are the same to a user: everything but the version.
    pub fn same_as(&self, other: &Self) -> bool {
        self.instances == other.instances && self.same_config(other)
    }

    /// Whether the two differ in nothing but the number of instances and the version.
    pub fn same_config(&self, other: &Self) -> bool {
        let mut twin = other.clone();
        twin.instances = self.instances;
        twin.version = self.version;
        twin.version_info = self.version_info;
        *self == twin
    }

    /// The launch delay after the first failure, at least a millisecond so that a factor acts.
    pub fn backoff(&self) -> Duration {
        Duration::from_secs(self.backoff_seconds)
    }

    /// The largest launch delay.
    pub fn backoff_max(&self) -> Duration {
        Duration::from_secs(self.max_launch_delay_seconds)
    }
}

/// Amounts as JSON numbers, whole ones without a decimal point.
mod amount {
    use super::{Deserialize, Deserializer, Fixed, Serializer};

    pub(super) fn serialize<S: Serializer>(
        amount: &Fixed,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if amount.thousandths().is_multiple_of(1000) {
            serializer.serialize_u64(amount.whole())
        } else {
            serializer.serialize_f64(amount.as_f64())
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Fixed, D::Error> {
        Fixed::from_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_bounds_are_not_moved_by_binary_rounding() {
        let strategy = |min, over| UpgradeStrategy {
            minimum_health_capacity: min,
            maximum_over_capacity: over,
        };
        assert_eq!(strategy(0.7, 0.0).healthy_min(10), 7);
        assert_eq!(strategy(0.5, 0.0).healthy_min(3), 2);
        assert_eq!(strategy(1.0, 1.0).healthy_min(3), 3);
        assert_eq!(strategy(0.0, 0.1).capacity_max(10), 11);
        assert_eq!(strategy(0.0, 0.2).capacity_max(3), 3);
        assert_eq!(strategy(0.0, 0.0).healthy_min(0), 0);
    }
}
