//! What a task asks of its container beyond a command and resources: limits above the request,
//! powers, POSIX limits, volumes.
//!
//! Read from `TaskInfo` once and checked; what this agent does not know is refused, never left
//! out. Whether the agent's isolators can give it is seen where the container is made.

use allotment_proto::mesos;
use allotment_proto::mesos::linux_info::IpcMode;
use prost::Message;

use crate::isolation::Isolator;

/// The most volumes of one task.
const VOLUMES_MAX: usize = 64;

/// What one task asks of its container. Travels to the launcher as it is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Confinement {
    /// Thousandths of a core that it must not exceed; [`Self::UNLIMITED`] lifts a general ceiling.
    #[prost(uint64, optional, tag = "1")]
    pub cpus_limit_milli: Option<u64>,
    /// Bytes of memory it was granted, where its limit is another number.
    #[prost(uint64, optional, tag = "2")]
    pub memory_request_bytes: Option<u64>,
    /// Capabilities it starts with, one bit each by Linux' numbers.
    #[prost(uint64, optional, tag = "3")]
    pub effective_capabilities: Option<u64>,
    /// Capabilities it may gain.
    #[prost(uint64, optional, tag = "4")]
    pub bounding_capabilities: Option<u64>,
    /// It wants no system call filter.
    #[prost(bool, tag = "5")]
    pub seccomp_unconfined: bool,
    /// POSIX limits.
    #[prost(message, repeated, tag = "6")]
    pub rlimits: Vec<Rlimit>,
    /// Folders and files at other places.
    #[prost(message, repeated, tag = "7")]
    pub volumes: Vec<Volume>,
    /// It wants the machine's IPC objects.
    #[prost(bool, tag = "8")]
    pub host_ipc: bool,
    /// It wants a `/dev/shm` of its own: its size in bytes, 0 for the kernel's default.
    #[prost(uint64, optional, tag = "9")]
    pub shm_bytes: Option<u64>,
    /// Bytes of disk it was granted; none: not counted.
    #[prost(uint64, optional, tag = "10")]
    pub disk_limit_bytes: Option<u64>,
    /// It wants a terminal.
    #[prost(message, optional, tag = "11")]
    pub terminal: Option<Terminal>,
    /// It wants to be among the processes of its executor's other tasks.
    #[prost(bool, tag = "12")]
    pub share_pids: bool,
}

/// The size of a terminal in characters; 0 for unknown.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Terminal {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Characters of a line.
    #[prost(uint32, tag = "2")]
    pub columns: u32,
}

/// One POSIX limit.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rlimit {
    /// Mesos' number of it (`RLimitInfo.RLimit.Type`).
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// What holds at first; [`Confinement::UNLIMITED`] for none.
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    /// How far the task may raise it.
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// A folder or file that the task finds at another place.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Volume {
    /// Where the task finds it: relative to the sandbox, or absolute.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// It cannot be changed through this volume.
    #[prost(bool, tag = "2")]
    pub read_only: bool,
    /// Where it comes from.
    #[prost(oneof = "Source", tags = "3, 4, 5, 6")]
    pub source: Option<Source>,
}

/// Where a volume comes from.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Source {
    /// An absolute path of the agent's machine.
    #[prost(string, tag = "3")]
    Host(String),
    /// A path relative to the sandbox; made when missing.
    #[prost(string, tag = "4")]
    Sandbox(String),
    /// A path relative to the executor's sandbox, which the tasks of a group share; made when
    /// missing.
    #[prost(string, tag = "5")]
    Parent(String),
    /// An absolute path of a persistent volume of this agent's.
    #[prost(string, tag = "6")]
    Persistent(String),
}

/// Where a task's container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// By itself.
    Alone,
    /// In a group of the default executor, among others.
    Nested,
}

impl Confinement {
    /// Stands for no limit.
    pub const UNLIMITED: u64 = u64::MAX;

    /// Reads what a task asks for.
    ///
    /// # Errors
    /// A clause that goes after "task x asks for".
    pub fn of(info: &mesos::TaskInfo) -> Result<Self, String> {
        Self::read(info, Standing::Alone)
    }

    /// Reads what a task in a group of the default executor asks for.
    ///
    /// # Errors
    /// A clause that goes after "task x asks for".
    pub fn of_nested(info: &mesos::TaskInfo) -> Result<Self, String> {
        Self::read(info, Standing::Nested)
    }

    fn read(info: &mesos::TaskInfo, standing: Standing) -> Result<Self, String> {
        let mut confinement = Self::default();
        confinement.read_limits(info)?;
        if let Some(container) = &info.container {
            confinement.read_container(container, standing)?;
        }
        if confinement.volumes.len() > VOLUMES_MAX {
            return Err(format!(
                "{} volumes; at most {VOLUMES_MAX} are mounted",
                confinement.volumes.len()
            ));
        }
        Ok(confinement)
    }

    /// Each wish that needs an isolator, in words, and which.
    pub(crate) fn wishes(&self) -> Vec<(&'static str, Isolator)> {
        let mut wishes = Vec::new();
        if self
            .cpus_limit_milli
            .is_some_and(|limit| limit != Self::UNLIMITED)
        {
            wishes.push(("a limit of cpus", Isolator::CgroupsCpu));
        }
        if self.effective_capabilities.is_some() || self.bounding_capabilities.is_some() {
            wishes.push(("capabilities", Isolator::LinuxCapabilities));
        }
        if self.share_pids {
            wishes.push(("its executor's processes", Isolator::NamespacesPid));
            wishes.push(("its executor's processes", Isolator::FilesystemLinux));
        }
        if !self.rlimits.is_empty() {
            wishes.push(("rlimits", Isolator::PosixRlimits));
        }
        if self.shm_bytes.is_some() {
            wishes.push(("a /dev/shm of its own", Isolator::NamespacesIpc));
            wishes.push(("a /dev/shm of its own", Isolator::FilesystemLinux));
        }
        for volume in &self.volumes {
            wishes.push(match volume.source {
                Some(Source::Host(_)) => ("a host path volume", Isolator::VolumeHostPath),
                Some(Source::Sandbox(_) | Source::Parent(_)) => {
                    ("a sandbox path volume", Isolator::VolumeSandboxPath)
                }
                Some(Source::Persistent(_)) => (
                    "a persistent volume that it cannot change",
                    Isolator::VolumeSandboxPath,
                ),
                None => continue,
            });
        }
        wishes
    }

    fn read_limits(&mut self, info: &mesos::TaskInfo) -> Result<(), String> {
        let requested = |name: &str| -> f64 {
            let amounts = info.resources.iter().filter(|r| r.name == name);
            amounts.filter_map(|r| Some(r.scalar.as_ref()?.value)).sum()
        };
        for (name, scalar) in &info.limits {
            let (limit, request) = (scalar.value, requested(name));
            if limit.is_nan() || limit < request {
                return Err(format!(
                    "a limit of {limit} {name} and a request of {request}; a limit is never below \
                     the request"
                ));
            }
            match name.as_str() {
                "cpus" => self.cpus_limit_milli = Some(scaled(limit, 1000.0)),
                // The limit itself is the container's memory; see `launch`.
                "mem" => self.memory_request_bytes = Some(scaled(request, MIB)),
                _ => {
                    return Err(format!(
                        "a limit of {name}; limits are of cpus and mem, as in Mesos"
                    ));
                }
            }
        }
        self.disk_limit_bytes = Self::disk_limit(info);
        Ok(())
    }

    /// What a task's sandbox may hold; `None` where it asked for no disk. Disk that holds a
    /// persistent volume is not the sandbox's.
    pub(crate) fn disk_limit(info: &mesos::TaskInfo) -> Option<u64> {
        let disks = info.resources.iter().filter(|r| {
            let persistent = r
                .disk
                .as_ref()
                .is_some_and(|disk| disk.persistence.is_some());
            r.name == "disk" && !persistent
        });
        let mib: f64 = disks.filter_map(|r| Some(r.scalar.as_ref()?.value)).sum();
        (mib > 0.0).then(|| scaled(mib, MIB))
    }

    /// The task's limit of memory in bytes, where it names one.
    pub(crate) fn memory_limit_bytes(info: &mesos::TaskInfo) -> Option<u64> {
        Some(scaled(info.limits.get("mem")?.value, MIB))
    }

    fn read_container(
        &mut self,
        container: &mesos::ContainerInfo,
        standing: Standing,
    ) -> Result<(), String> {
        for volume in &container.volumes {
            let source = source(volume, standing)?;
            self.add_volume(&volume.container_path, volume.mode(), source)?;
        }
        if let Some(linux) = &container.linux_info {
            self.read_linux(linux, standing)?;
        }
        if let Some(info) = &container.tty_info {
            self.terminal = Some(terminal(info)?);
        }
        let rlimits = container.rlimit_info.iter().flat_map(|info| &info.rlimits);
        for limit in rlimits {
            self.rlimits.push(rlimit(limit)?);
        }
        Ok(())
    }

    /// A persistent volume that the task finds and cannot change.
    pub(super) fn add_persistent(
        &mut self,
        container_path: &str,
        place: String,
    ) -> Result<(), String> {
        let mode = mesos::volume::Mode::Ro;
        self.add_volume(container_path, mode, Source::Persistent(place))
    }

    fn add_volume(
        &mut self,
        container_path: &str,
        mode: mesos::volume::Mode,
        source: Source,
    ) -> Result<(), String> {
        if !is_inside(container_path.trim_start_matches('/')) {
            return Err(format!(
                "a volume at {container_path:?}; give a path without `..`"
            ));
        }
        self.volumes.push(Volume {
            container_path: container_path.to_owned(),
            read_only: mode == mesos::volume::Mode::Ro,
            source: Some(source),
        });
        Ok(())
    }

    fn read_linux(&mut self, linux: &mesos::LinuxInfo, standing: Standing) -> Result<(), String> {
        let effective = linux
            .effective_capabilities
            .as_ref()
            .or(linux.capability_info.as_ref());
        self.effective_capabilities = effective.map(capabilities).transpose()?;
        let bounding = linux.bounding_capabilities.as_ref();
        self.bounding_capabilities = bounding.map(capabilities).transpose()?;
        if let (Some(effective), Some(bounding)) =
            (self.effective_capabilities, self.bounding_capabilities)
            && effective & !bounding != 0
        {
            return Err(
                "effective capabilities that are not among its bounding capabilities".to_owned(),
            );
        }
        self.share_pids = linux.share_pid_namespace == Some(true);
        if self.share_pids && standing == Standing::Alone {
            return Err(
                "the agent's process namespace, in which a task could not be ended as a whole"
                    .to_owned(),
            );
        }
        if standing == Standing::Alone && linux.share_cgroups == Some(false) {
            return Err(
                "share_cgroups=false, which is for tasks of a group; leave it out".to_owned(),
            );
        }
        if let Some(seccomp) = &linux.seccomp {
            if seccomp.profile_name.is_some() {
                return Err(
                    "a seccomp profile of its own; the agent has one for all tasks".to_owned(),
                );
            }
            self.seccomp_unconfined = seccomp.unconfined == Some(true);
        }
        self.host_ipc = linux.ipc_mode() == IpcMode::ShareParent;
        match (linux.ipc_mode(), linux.shm_size) {
            (IpcMode::Private, size) => {
                self.shm_bytes = Some(u64::from(size.unwrap_or(0)) << 20);
            }
            (IpcMode::Unknown | IpcMode::ShareParent, None) => {}
            (IpcMode::Unknown | IpcMode::ShareParent, Some(_)) => {
                return Err("a shm_size without ipc_mode PRIVATE".to_owned());
            }
        }
        Ok(())
    }
}

const MIB: f64 = 1_048_576.0;

/// A checked, non-negative amount in smaller units.
fn scaled(amount: f64, by: f64) -> u64 {
    let value = amount * by;
    if value >= 9e18 {
        return Confinement::UNLIMITED;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded above, and casts clamp at zero"
    )]
    let whole = value as u64;
    whole
}

fn source(volume: &mesos::Volume, standing: Standing) -> Result<Source, String> {
    use mesos::volume::source::{Type, sandbox_path};
    if volume.image.is_some() {
        return Err("a volume from an image, which this agent does not support yet".to_owned());
    }
    let host = |path: &str| {
        if is_inside(path.trim_start_matches('/')) {
            Ok(Source::Host(path.to_owned()))
        } else {
            Err(format!("the host path {path:?}; give one without `..`"))
        }
    };
    let sandbox = |path: &str| {
        if is_inside(path) {
            Ok(Source::Sandbox(path.to_owned()))
        } else {
            Err(format!(
                "the sandbox path {path:?}; give a relative one without `..`"
            ))
        }
    };
    let Some(source) = &volume.source else {
        let path = volume.host_path.as_deref().unwrap_or_default();
        return if path.starts_with('/') {
            host(path)
        } else {
            sandbox(path)
        };
    };
    match (source.r#type(), &source.host_path, &source.sandbox_path) {
        (Type::HostPath, Some(from), _) => {
            use mesos::mount_propagation::Mode;
            let propagation = from.mount_propagation.as_ref().map(|p| p.mode());
            if propagation == Some(Mode::Bidirectional) {
                return Err(
                    "a volume whose mounts reach the agent's machine (BIDIRECTIONAL)".to_owned(),
                );
            }
            if !from.path.starts_with('/') {
                return Err(format!(
                    "the host path {:?}; give an absolute one",
                    from.path
                ));
            }
            host(&from.path)
        }
        (Type::SandboxPath, _, Some(from)) => {
            if from.r#type() == sandbox_path::Type::Parent {
                if standing == Standing::Nested {
                    sandbox(&from.path)?;
                    return Ok(Source::Parent(from.path.clone()));
                }
                return Err(
                    "a volume of its parent's sandbox, and it has no parent; use SELF".to_owned(),
                );
            }
            sandbox(&from.path)
        }
        (kind, ..) => Err(format!(
            "a volume of type {}; HOST_PATH and SANDBOX_PATH with their paths are supported",
            kind.as_str_name()
        )),
    }
}

/// Whether a path cannot leave where it starts: relative, and without `..`.
fn is_inside(path: &str) -> bool {
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    !path.is_empty() && !path.contains('\0') && std::path::Path::new(path).components().all(plain)
}

fn terminal(info: &mesos::TtyInfo) -> Result<Terminal, String> {
    let size = info.window_size.unwrap_or_default();
    if size.rows > u16::MAX.into() || size.columns > u16::MAX.into() {
        return Err(format!(
            "a terminal of {} by {} characters; at most {} each way are",
            size.rows,
            size.columns,
            u16::MAX
        ));
    }
    Ok(Terminal {
        rows: size.rows,
        columns: size.columns,
    })
}

fn capabilities(info: &mesos::CapabilityInfo) -> Result<u64, String> {
    info.capabilities.iter().try_fold(0, |bits, number| {
        let linux = number.checked_sub(1000).filter(|n| (0..=40).contains(n));
        let linux = linux.ok_or_else(|| {
            format!("capability number {number}, which is none that this agent knows")
        })?;
        Ok(bits | 1_u64 << linux)
    })
}

fn rlimit(limit: &mesos::r_limit_info::RLimit) -> Result<Rlimit, String> {
    let name = limit.r#type().as_str_name();
    let kind = limit.r#type.unwrap_or_default();
    if kind == 0 || mesos::r_limit_info::r_limit::Type::try_from(kind).is_err() {
        return Err("an rlimit of no known type".to_owned());
    }
    match (limit.soft, limit.hard) {
        (None, None) => Ok(Rlimit {
            kind,
            soft: Confinement::UNLIMITED,
            hard: Confinement::UNLIMITED,
        }),
        (Some(soft), Some(hard)) if soft <= hard => Ok(Rlimit { kind, soft, hard }),
        (Some(soft), Some(hard)) => Err(format!(
            "{name} with a soft limit of {soft} above the hard limit of {hard}"
        )),
        (Some(_), None) | (None, Some(_)) => Err(format!(
            "{name} with one of soft and hard; set both, or neither for no limit"
        )),
    }
}
