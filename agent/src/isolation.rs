//! Which walls stand around tasks: the isolators by name, and what an operator wishes of them.
//!
//! Names follow Mesos' `--isolation` wherever it has one. What each does is in
//! `containerizer/isolators`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One wall around tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolator {
    /// A part of contended cores, and a ceiling for tasks that ask for one.
    CgroupsCpu,
    /// A limit of memory.
    CgroupsMem,
    /// A limit of processes and threads.
    CgroupsPids,
    /// Whole cores of their own for tasks that ask for whole cores.
    CgroupsCpuset,
    /// A part of contended disks.
    CgroupsBlkio,
    /// Processes are stopped before they are killed, so that none forks away.
    CgroupsFreezer,
    /// Own process numbers.
    NamespacesPid,
    /// Own System V IPC and POSIX message queues.
    NamespacesIpc,
    /// Own host name.
    NamespacesUts,
    /// Own mounts: own `/proc` and `/tmp`, read-only kernel settings.
    FilesystemLinux,
    /// Only harmless devices in `/dev`.
    LinuxDevices,
    /// Root's powers cut down.
    LinuxCapabilities,
    /// No program gives more rights than the task has.
    LinuxNnp,
    /// System calls that tasks have no business with are refused.
    LinuxSeccomp,
    /// `setrlimit` as the task asks.
    PosixRlimits,
    /// Folders of the agent's machine in the sandbox.
    VolumeHostPath,
    /// Folders of the sandbox at other places.
    VolumeSandboxPath,
    /// A limit of what the sandbox holds.
    DiskDu,
}

/// A name that stands for several isolators.
const GROUPS: [(&str, &[Isolator]); 4] = [
    (
        "cgroups",
        &[
            Isolator::CgroupsCpu,
            Isolator::CgroupsMem,
            Isolator::CgroupsPids,
        ],
    ),
    (
        "namespaces",
        &[
            Isolator::NamespacesPid,
            Isolator::NamespacesIpc,
            Isolator::NamespacesUts,
            Isolator::FilesystemLinux,
        ],
    ),
    (
        "linux",
        &[
            Isolator::LinuxDevices,
            Isolator::LinuxCapabilities,
            Isolator::LinuxNnp,
            Isolator::LinuxSeccomp,
        ],
    ),
    (
        "volume",
        &[Isolator::VolumeHostPath, Isolator::VolumeSandboxPath],
    ),
];

impl Isolator {
    /// Every isolator, in the order in which they are named.
    pub const ALL: [Self; 18] = [
        Self::CgroupsCpu,
        Self::CgroupsMem,
        Self::CgroupsPids,
        Self::CgroupsCpuset,
        Self::CgroupsBlkio,
        Self::CgroupsFreezer,
        Self::NamespacesPid,
        Self::NamespacesIpc,
        Self::NamespacesUts,
        Self::FilesystemLinux,
        Self::LinuxDevices,
        Self::LinuxCapabilities,
        Self::LinuxNnp,
        Self::LinuxSeccomp,
        Self::PosixRlimits,
        Self::VolumeHostPath,
        Self::VolumeSandboxPath,
        Self::DiskDu,
    ];

    /// As written in settings and attributes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CgroupsCpu => "cgroups/cpu",
            Self::CgroupsMem => "cgroups/mem",
            Self::CgroupsPids => "cgroups/pids",
            Self::CgroupsCpuset => "cgroups/cpuset",
            Self::CgroupsBlkio => "cgroups/blkio",
            Self::CgroupsFreezer => "cgroups/freezer",
            Self::NamespacesPid => "namespaces/pid",
            Self::NamespacesIpc => "namespaces/ipc",
            Self::NamespacesUts => "namespaces/uts",
            Self::FilesystemLinux => "filesystem/linux",
            Self::LinuxDevices => "linux/devices",
            Self::LinuxCapabilities => "linux/capabilities",
            Self::LinuxNnp => "linux/nnp",
            Self::LinuxSeccomp => "linux/seccomp",
            Self::PosixRlimits => "posix/rlimits",
            Self::VolumeHostPath => "volume/host_path",
            Self::VolumeSandboxPath => "volume/sandbox_path",
            Self::DiskDu => "disk/du",
        }
    }

    /// Whether `auto` includes it. Left out is what costs every launch and serves few: whole
    /// cores, disk weights, and the freezer, which pid namespaces make needless.
    pub const fn is_default(self) -> bool {
        !matches!(
            self,
            Self::CgroupsCpuset | Self::CgroupsBlkio | Self::CgroupsFreezer
        )
    }

    /// Whose absence a person must hear of at every start: without these a task can take its
    /// neighbours' share or see and touch their processes.
    pub const fn is_essential(self) -> bool {
        matches!(
            self,
            Self::CgroupsCpu
                | Self::CgroupsMem
                | Self::CgroupsPids
                | Self::NamespacesPid
                | Self::FilesystemLinux
        )
    }

    fn named(name: &str) -> Option<Vec<Self>> {
        let group = GROUPS.iter().find(|(group, _)| *group == name);
        let one = || {
            Self::ALL
                .into_iter()
                .find(|isolator| isolator.name() == name)
        };
        group
            .map(|(_, members)| members.to_vec())
            .or_else(|| one().map(|isolator| vec![isolator]))
    }

    /// A short text for a set of isolators: names, and group names where a group is whole.
    pub fn summary(isolators: &BTreeSet<Self>) -> String {
        let mut left = isolators.clone();
        let mut names = Vec::new();
        for isolator in Self::ALL {
            if !left.contains(&isolator) {
                continue;
            }
            let whole = GROUPS.iter().find(|(_, members)| {
                members.contains(&isolator) && members.iter().all(|m| left.contains(m))
            });
            match whole {
                Some((group, members)) => {
                    names.push(*group);
                    left.retain(|isolator| !members.contains(isolator));
                }
                None => {
                    names.push(isolator.name());
                    left.remove(&isolator);
                }
            }
        }
        if names.is_empty() {
            names.push("none");
        }
        names.join(",")
    }
}

impl fmt::Display for Isolator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which walls an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Every default one this machine can give; what it cannot is said once and shown as an
    /// attribute.
    #[default]
    Auto,
    /// Plain processes.
    None,
    /// Exactly these; an agent that cannot give one of them does not start.
    Only(BTreeSet<Isolator>),
    /// As `Auto`, but `more` must be had as well and `without` are left out.
    Adjusted {
        /// Must be had.
        more: BTreeSet<Isolator>,
        /// Are not wanted.
        without: BTreeSet<Isolator>,
    },
}

/// Why a text names no isolation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "isolation {0:?} is unknown; write `auto`, `none` or a list such as cgroups,namespaces out \
     of: cgroups, namespaces, linux, volume, {names}", names = Isolator::ALL.map(Isolator::name).join(", ")
)]
pub struct IsolationError(String);

impl Isolation {
    /// What to try to put up.
    pub fn wanted(&self) -> BTreeSet<Isolator> {
        let defaults = || Isolator::ALL.into_iter().filter(|i| i.is_default());
        match self {
            Self::Auto => defaults().collect(),
            Self::None => BTreeSet::new(),
            Self::Only(list) => list.clone(),
            Self::Adjusted { more, without } => defaults()
                .filter(|isolator| !without.contains(isolator))
                .chain(more.iter().copied())
                .collect(),
        }
    }

    /// Whether the agent must not start without it.
    pub fn insists_on(&self, isolator: Isolator) -> bool {
        match self {
            Self::Auto | Self::None => false,
            Self::Only(list) | Self::Adjusted { more: list, .. } => list.contains(&isolator),
        }
    }
}

impl FromStr for Isolation {
    type Err = IsolationError;

    /// Reads `auto`, `none`, a list such as `cgroups,namespaces/pid`, or `auto` with changes:
    /// `auto,cgroups/cpuset,-linux/devices`.
    fn from_str(text: &str) -> Result<Self, IsolationError> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        if words == ["none"] {
            return Ok(Self::None);
        }
        let (mut auto, mut more, mut without) = (false, BTreeSet::new(), BTreeSet::new());
        for word in words {
            if word == "auto" {
                auto = true;
                continue;
            }
            let (set, name) = match word.strip_prefix('-') {
                Some(name) => (&mut without, name),
                None => (&mut more, word),
            };
            let named = Isolator::named(name);
            set.extend(named.ok_or_else(|| IsolationError(name.to_owned()))?);
        }
        Ok(match auto {
            true if more.is_empty() && without.is_empty() => Self::Auto,
            true => Self::Adjusted { more, without },
            false => Self::Only(more.difference(&without).copied().collect()),
        })
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Only(list) => f.write_str(&Isolator::summary(list)),
            Self::Adjusted { more, without } => {
                f.write_str("auto")?;
                for isolator in more {
                    write!(f, ",{isolator}")?;
                }
                for isolator in without {
                    write!(f, ",-{isolator}")?;
                }
                Ok(())
            }
        }
    }
}

/// What single isolators are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolatorSettings {
    /// `cgroups/cpu`: make every task's request of cpus its ceiling, too (Mesos'
    /// `--cgroups_enable_cfs`).
    pub cgroups_enable_cfs: bool,
    /// `volume/host_path`: folders below which tasks may mount paths of this machine.
    pub host_path_volumes: Vec<String>,
    /// `linux/capabilities`: what tasks may gain at most (Mesos' `--bounding_capabilities`).
    pub bounding_capabilities: Capabilities,
    /// `linux/capabilities`: what a task that asks for nothing starts with when it runs as root
    /// (Mesos' `--effective_capabilities`).
    pub effective_capabilities: Capabilities,
    /// `filesystem/linux`: give every container a `/tmp` of its own, which lies in its sandbox.
    pub own_tmp: bool,
    /// `disk/du`: how often the sandbox of a running task is measured (Mesos: 15 s).
    pub disk_watch_interval: Duration,
    /// `disk/du`: end a task that holds more disk than it asked for.
    pub enforce_disk_quota: bool,
}

impl Default for IsolatorSettings {
    fn default() -> Self {
        Self {
            cgroups_enable_cfs: false,
            host_path_volumes: Vec::new(),
            bounding_capabilities: Capabilities::DEFAULT,
            effective_capabilities: Capabilities::DEFAULT,
            own_tmp: false,
            disk_watch_interval: Duration::from_secs(15),
            enforce_disk_quota: true,
        }
    }
}

/// The capabilities of Linux by their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of Linux capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// What programs in containers need: to change owners and users, to bind low ports, to
    /// signal, to chroot. Docker's default without raw sockets and device nodes.
    pub const DEFAULT: Self = Self(
        1 | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 18
            | 1 << 29
            | 1 << 31,
    );

    /// One bit for each, by Linux' numbers.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Why a text names no capabilities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "capability {0:?} is unknown; write `default`, `all`, `none` or names such as NET_RAW,MKNOD"
)]
pub struct CapabilitiesError(String);

impl FromStr for Capabilities {
    type Err = CapabilitiesError;

    /// Reads `default`, `all`, `none` or a list of names, `default,NET_RAW` among them.
    fn from_str(text: &str) -> Result<Self, CapabilitiesError> {
        let mut bits = 0;
        for word in text.split(',').map(str::trim) {
            let upper = word.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            bits |= match name {
                "DEFAULT" => Self::DEFAULT.0,
                "ALL" => (1 << CAPABILITIES.len()) - 1,
                "NONE" => 0,
                _ => CAPABILITIES
                    .iter()
                    .position(|known| *known == name)
                    .map(|number| 1 << number)
                    .ok_or_else(|| CapabilitiesError(word.to_owned()))?,
            };
        }
        Ok(Self(bits))
    }
}

/// The names in a set, for people.
pub(crate) fn capability_names(bits: u64) -> String {
    let names: Vec<&str> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & (1 << number) != 0)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isolation_reads_what_it_writes() {
        for text in [
            "auto",
            "none",
            "cgroups",
            "cgroups,namespaces",
            "cgroups/cpu,namespaces/pid",
            "auto,cgroups/cpuset,-linux/devices",
        ] {
            assert_eq!(text.parse::<Isolation>().unwrap().to_string(), text);
        }
        let error = "cgroups,selinux".parse::<Isolation>().unwrap_err();
        assert!(error.to_string().contains("\"selinux\""), "{error}");
    }

    #[test]
    fn capabilities_are_read_by_name() {
        let read = |text: &str| {
            text.parse::<Capabilities>()
                .map(|set| capability_names(set.bits()))
        };
        assert_eq!(read("cap_net_raw, MKNOD").unwrap(), "NET_RAW, MKNOD");
        assert_eq!(read("none").unwrap(), "none");
        assert!(
            read("default")
                .unwrap()
                .starts_with("CHOWN, DAC_OVERRIDE, FOWNER")
        );
        assert!(read("FLY").unwrap_err().to_string().contains("\"FLY\""));
    }

    #[test]
    fn a_list_is_insisted_on_and_auto_is_not() {
        let auto: Isolation = "auto,cgroups/cpuset,-linux/devices".parse().unwrap();
        assert!(auto.insists_on(Isolator::CgroupsCpuset));
        assert!(!auto.insists_on(Isolator::CgroupsMem));
        assert!(auto.wanted().contains(&Isolator::CgroupsMem));
        assert!(!auto.wanted().contains(&Isolator::LinuxDevices));
        let only: Isolation = "cgroups,-cgroups/pids".parse().unwrap();
        assert!(only.insists_on(Isolator::CgroupsMem));
        assert_eq!(only.wanted().len(), 2);
    }
}
