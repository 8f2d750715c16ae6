//! Beginning a container: its walls, its groups, and an init that is new or was there.

use std::os::fd::AsRawFd;

use nix::sched::CloneFlags;
use nix::unistd::{Pid, getpid};

use super::container::{Container, MemoryWatch};
use super::enter::fork_beside;
use super::init::{self, Init};
use super::isolators::cgroups::Group;
use super::isolators::{Mounts, Walls};
use super::journal::JOURNAL_FD;
use super::launcher::Launcher;
use super::plan::task_plan;
use super::reuse::{Kind, Orders};
use super::sys::{self, Entrance, Fork};
use super::wire::{Launch, Next};

impl Launcher {
    /// Gives one container an init.
    pub(super) fn launch(&mut self, launch: Launch) -> Result<(), String> {
        let id = launch.id;
        let uuid = uuid::Uuid::try_parse(&launch.name)
            .map_err(|_| format!("the container's name {:?} is no uuid", launch.name))?
            .as_u128();
        let beside = match launch.beside {
            Some(number) => {
                let folder = self.sessions.passed();
                Some((number, folder.ok_or("its descriptor did not come")?))
            }
            None => None,
        };
        // Who is beside another is in its pod only as long as that is.
        let pod = match beside {
            Some(_) => None,
            None => launch.pod.as_deref().map(pod_name).transpose()?,
        };
        let journal = self.journal.as_mut().ok_or("the launcher is not set up")?;
        let file = journal
            .enter()
            .map_err(|error| format!("the container cannot be entered in the journal: {error}"))?;
        let begun = match beside {
            Some(beside) => self.begin_beside(&launch, uuid, beside),
            None => self.begin(&launch, uuid),
        };
        let Begun {
            init,
            orders,
            group,
            beside,
        } = match begun {
            Ok(begun) => begun,
            Err(clause) => {
                self.isolators.cleanup(&launch.name);
                if let Some(pod) = pod {
                    self.leave_pod(pod);
                }
                if let Some(journal) = &mut self.journal {
                    journal.leave(file);
                }
                return Err(clause);
            }
        };
        self.by_pid.insert(init.as_raw(), id);
        self.by_uuid.insert(uuid, id);
        self.unreleased.insert(id, file);
        let container = Container {
            init,
            uuid,
            pid_namespace: self.isolators.pid_namespaces() && pod.is_none() && beside.is_none(),
            pod,
            beside,
            orders,
            adopted: None,
            file,
            disowned: false,
            memory_watch: match &group {
                Some(group) if group.needs_watch() => MemoryWatch::Later(0),
                _ => MemoryWatch::Off,
            },
            group,
            memory_exceeded: false,
            program: launch.program,
            started: false,
            failure: None,
            ended: None,
            destroying: None,
        };
        self.inside
            .extend(container.beside.map(|parent| (parent, id)));
        self.containers.insert(id, container);
        Ok(())
    }

    fn begin(&mut self, launch: &Launch, uuid: u128) -> Result<Begun, String> {
        let (walls, mut group) = self.isolators.prepare(launch)?;
        match self.begin_behind(launch, uuid, walls, group.as_ref()) {
            Ok((init, orders)) => Ok(Begun {
                init,
                orders,
                group,
                beside: None,
            }),
            Err(clause) => {
                if let Some(group) = &mut group {
                    group.remove();
                }
                Err(clause)
            }
        }
    }

    fn begin_behind(
        &mut self,
        launch: &Launch,
        uuid: u128,
        walls: Walls,
        group: Option<&Group>,
    ) -> Result<(Pid, Option<Orders>), String> {
        let terminal = launch.confinement.as_ref().and_then(|c| c.terminal);
        let kind = Kind::of(launch, &walls);
        let pod = match launch.pod.as_deref().map(pod_name).transpose()? {
            Some(pod) => Some(self.pod(pod)?),
            None => None,
        };
        let pid_namespace = self.isolators.pid_namespaces() && pod.is_none();
        let (pod_process, pod) = pod.unzip();
        let entrances = group.map(Group::entrances).unwrap_or_default();
        let next = match &kind {
            Some(kind) if !self.idle.is_empty() => Some((kind, next(launch, &entrances))),
            _ => None,
        };
        let task = task_plan(
            launch,
            entrances,
            self.open_files,
            !pid_namespace,
            walls.hardening,
        )?;
        if let Some((kind, next)) = next
            && let Some(lock) = &self.lock
        {
            let mut passed = vec![JOURNAL_FD, lock.as_raw_fd()];
            passed.extend(walls.mounts.iter().flat_map(Mounts::trees));
            if let Some((init, orders)) = self.idle.give(kind, &next, &passed) {
                return Ok((init, Some(orders)));
            }
        }
        let (ours, theirs) = kind.and_then(Orders::new).unzip();
        let init = Init {
            container: uuid,
            task,
            logs: init::bounds(launch),
            terminal: terminal.map(Into::into),
            mounts: walls.mounts,
            pid_namespace,
            pod,
            bound_to: (!self.outlive).then(getpid),
            open_files: self.open_files,
            orders: theirs,
            renewed: walls.namespaces - CloneFlags::CLONE_NEWPID,
            number: None,
        };
        let forked = match pod_process {
            Some(process) => fork_beside(&process, walls.namespaces),
            None => sys::fork_into(walls.namespaces),
        };
        match forked {
            Ok(Fork::Child) => init.run(&mut self.stack),
            Ok(Fork::Parent(pid)) => Ok((pid, ours)),
            Err(errno) => Err(format!(
                "the machine cannot fork a process: {}; it may have too many",
                errno.desc()
            )),
        }
    }
}

/// An order to an init that is there already.
fn next(launch: &Launch, entrances: &[Entrance]) -> Next {
    let path = |entrance: &Entrance| match entrance {
        Entrance::Path(path) => Some(path.to_bytes().to_vec()),
        Entrance::Open(_) => None,
    };
    Next {
        launch: launch.clone(),
        entrances: entrances.iter().filter_map(path).collect(),
    }
}

/// An executor's run by its name.
fn pod_name(name: &str) -> Result<u128, String> {
    uuid::Uuid::try_parse(name)
        .map(|id| id.as_u128())
        .map_err(|_| format!("the pod's name {name:?} is no uuid"))
}

/// A container that has an init.
pub(super) struct Begun {
    pub(super) init: Pid,
    pub(super) orders: Option<Orders>,
    pub(super) group: Option<Group>,
    /// The uuid of the container that it is in.
    pub(super) beside: Option<u128>,
}
