//! Names of kinds of resources.

use std::borrow::Cow;
use std::fmt;

/// The name of a kind of resource: `cpus`, `mem`, `disk`, `gpus`, `ports` or a custom one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Cow<'static, str>);

impl Name {
    /// Cores.
    pub const CPUS: Self = Self(Cow::Borrowed("cpus"));
    /// MiB of memory.
    pub const MEM: Self = Self(Cow::Borrowed("mem"));
    /// MiB of disk.
    pub const DISK: Self = Self(Cow::Borrowed("disk"));
    /// Whole GPUs.
    pub const GPUS: Self = Self(Cow::Borrowed("gpus"));
    /// Host ports.
    pub const PORTS: Self = Self(Cow::Borrowed("ports"));

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit that people expect after a quantity, with a leading space; empty for custom names.
    pub fn unit(&self) -> &'static str {
        match self.as_str() {
            "mem" | "disk" => " MiB",
            _ => "",
        }
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        match name {
            "cpus" => Self::CPUS,
            "mem" => Self::MEM,
            "disk" => Self::DISK,
            "gpus" => Self::GPUS,
            "ports" => Self::PORTS,
            other => Self(Cow::Owned(other.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
