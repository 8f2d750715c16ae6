//! The walls around a task, found out from the machine and put up by the launcher.
//!
//! Every isolator is one file behind [`Isolate`]: it probes the machine once, and then adds what
//! one container needs to its [`Walls`], which the container's init and the task itself put up.
//!
//! - [`cgroups`]: hierarchies and the group of one container, [`spares`] those of none; [`cpu`], [`memory`], [`pids`],
//!   [`cpuset`], [`blkio`], [`freezer`] say what to write there, for both versions.
//! - [`namespaces`]: own processes, IPC and host name; [`filesystem`]: own mounts; [`devices`]:
//!   an own `/dev`; [`volumes`]: folders at other places.
//! - [`capabilities`], [`nnp`], [`seccomp`] with its [`filter`], [`rlimits`]: what a task loses
//!   before it runs.
//! - `resize`: what of it changes while a container runs.
//!
//! What a container asks for arrives as [`crate::core::Confinement`]; an isolator that is asked
//! for something it cannot give refuses the launch with a sentence.

mod blkio;
mod capabilities;
pub(super) mod cgroups;
mod cpu;
mod cpuset;
mod devices;
mod filesystem;
mod filter;
mod freezer;
mod memory;
mod namespaces;
mod nnp;
mod pids;
mod resize;
mod rlimits;
mod seccomp;
mod spares;
mod volumes;
mod walls;

use std::collections::BTreeSet;
use std::fmt;

use super::sys::Hardening;
use super::wire::{Isolating, Launch, SetUp};
use crate::isolation::Isolator;
use cgroups::{Cgroups, Group};
pub(super) use filesystem::{Shape, see_own_processes};
use walls::Setting;
pub(super) use walls::{Mounts, Walls};

/// Which generation of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// What isolators share of the machine.
#[derive(Debug)]
pub(super) struct Host {
    cgroups: Cgroups,
    /// The launcher has mounts of its own, and so has every container.
    own_mounts: bool,
}

/// One wall. Calls are in order: `probe` once; then for each container `isolate`, and `cleanup`
/// when nothing of it is left.
trait Isolate: fmt::Debug {
    /// Which.
    fn isolator(&self) -> Isolator;

    /// Finds out whether this machine can; what it will enforce, as a clause.
    ///
    /// # Errors
    /// Why not, as a clause.
    fn probe(&mut self, host: &mut Host) -> Result<String, String>;

    /// Adds what this container needs.
    ///
    /// # Errors
    /// A sentence why it cannot have what it asks for.
    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String>;

    /// Adds what one more process of a running container needs, of which `launch` says what its
    /// task asked for.
    ///
    /// # Errors
    /// A sentence why it cannot have that.
    fn enter(&mut self, _launch: &Launch, _walls: &mut Walls) -> Result<(), String> {
        Ok(())
    }

    /// Forgets a container that is over.
    fn cleanup(&mut self, _container: &str) {}
}

/// The isolators that this machine can give and the operator wants.
#[derive(Debug)]
pub(super) struct Isolators {
    host: Host,
    active: Vec<Box<dyn Isolate>>,
}

impl Isolators {
    /// None at all.
    pub(super) fn none() -> Self {
        Self {
            host: Host {
                cgroups: Cgroups::none(),
                own_mounts: false,
            },
            active: Vec::new(),
        }
    }

    /// Probes the machine for what is wanted, and ends what an earlier run left in this agent's
    /// groups but for the `spared` containers; also what came of each isolator.
    pub(super) fn set_up(set_up: &SetUp, spared: &BTreeSet<String>) -> (Self, Vec<Isolating>) {
        let mut host = Host {
            cgroups: Cgroups::of(&set_up.agent),
            own_mounts: false,
        };
        let mut active: Vec<Box<dyn Isolate>> = Vec::new();
        let mut found = Vec::new();
        for isolator in Isolator::ALL {
            if !set_up.isolators.iter().any(|n| n == isolator.name()) {
                continue;
            }
            let mut isolating = Isolating {
                name: isolator.name().to_owned(),
                ..Default::default()
            };
            // The rest of them work in the agent itself.
            if let Some(mut wall) = make(isolator, set_up) {
                match wall.probe(&mut host) {
                    Ok(enforces) => {
                        isolating.enforces = Some(enforces);
                        active.push(wall);
                    }
                    Err(reason) => isolating.missing = Some(reason),
                }
                found.push(isolating);
            }
        }
        host.cgroups.remove_leftovers(spared);
        (Self { host, active }, found)
    }

    /// What one container needs, its cgroups made and filled in.
    ///
    /// # Errors
    /// A sentence why the container cannot be had.
    pub(super) fn prepare(&mut self, launch: &Launch) -> Result<(Walls, Option<Group>), String> {
        let mut walls = Walls::default();
        for isolator in &mut self.active {
            isolator.isolate(launch, &mut walls)?;
        }
        self.refuse_what_nobody_gives(launch)?;
        let group = self.host.cgroups.create(&launch.name, &walls)?;
        Ok((walls, group))
    }

    /// What one more process of a running container loses before it runs.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn enter(&mut self, launch: &Launch) -> Result<Hardening, String> {
        let mut walls = Walls::default();
        for isolator in &mut self.active {
            isolator.enter(launch, &mut walls)?;
        }
        Ok(walls.hardening)
    }

    /// The groups that an earlier run made for a container; `None` when there are none.
    pub(super) fn adopt(&self, container: &str) -> Option<Group> {
        self.host.cgroups.adopt(container)
    }

    /// A container is over that left its groups as it found them; gives them back when they are
    /// not kept for another.
    pub(super) fn keep(&mut self, group: Group) -> Option<Group> {
        self.host.cgroups.keep(group)
    }

    /// Removes groups that were kept for long enough; those that the kernel does not remove now.
    pub(super) fn trim(&mut self) -> Vec<Group> {
        self.host.cgroups.trim()
    }

    /// Whether groups are kept for the next containers.
    pub(super) const fn has_spares(&self) -> bool {
        self.host.cgroups.has_spares()
    }

    /// Whether containers have process numbers of their own.
    pub(super) fn pid_namespaces(&self) -> bool {
        self.has(Isolator::NamespacesPid)
    }

    /// Forgets a container that is over.
    pub(super) fn cleanup(&mut self, container: &str) {
        for isolator in &mut self.active {
            isolator.cleanup(container);
        }
    }

    /// Removes this agent's groups, once no container is left in them.
    pub(super) fn tear_down(&self) {
        self.host.cgroups.tear_down();
    }

    fn has(&self, wanted: Isolator) -> bool {
        self.active.iter().any(|i| i.isolator() == wanted)
    }

    /// A wish whose isolator does not stand fails the launch: isolation that was asked for is
    /// never silently left out.
    fn refuse_what_nobody_gives(&self, launch: &Launch) -> Result<(), String> {
        let Some(confinement) = &launch.confinement else {
            return Ok(());
        };
        for (wish, isolator) in confinement.wishes() {
            if !self.has(isolator) {
                return Err(format!(
                    "the task asks for {wish}, but this agent runs without the isolator \
                     {isolator}; choose another agent, or add it to --isolation"
                ));
            }
        }
        Ok(())
    }
}

fn make(isolator: Isolator, set_up: &SetUp) -> Option<Box<dyn Isolate>> {
    Some(match isolator {
        Isolator::CgroupsCpu => Box::new(cpu::Cpu::new(set_up.cfs_quota)),
        Isolator::CgroupsMem => Box::new(memory::Memory::default()),
        Isolator::CgroupsPids => Box::new(pids::Pids),
        Isolator::CgroupsCpuset => Box::new(cpuset::Cpuset::default()),
        Isolator::CgroupsBlkio => Box::new(blkio::Blkio::default()),
        Isolator::CgroupsFreezer => Box::new(freezer::Freezer),
        Isolator::NamespacesPid => Box::new(namespaces::PID),
        Isolator::NamespacesIpc => Box::new(namespaces::IPC),
        Isolator::NamespacesUts => Box::new(namespaces::UTS),
        Isolator::FilesystemLinux => Box::new(filesystem::Filesystem::new(set_up.own_tmp)),
        Isolator::LinuxDevices => Box::new(devices::Devices),
        Isolator::LinuxCapabilities => Box::new(capabilities::Capabilities::new(set_up)),
        Isolator::LinuxNnp => Box::new(nnp::NoNewPrivileges),
        Isolator::LinuxSeccomp => Box::new(seccomp::Seccomp::default()),
        Isolator::PosixRlimits => Box::new(rlimits::Rlimits),
        Isolator::VolumeHostPath | Isolator::VolumeSandboxPath => {
            Box::new(volumes::Volumes::new(isolator, set_up))
        }
        Isolator::DiskDu => return None,
    })
}
