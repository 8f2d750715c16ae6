//! cgroup hierarchies and the group of one container in each.
//!
//! Groups lie at `<hierarchy>/allotment/<agent>/<container>`; nothing outside `allotment/<agent>`
//! is ever touched, except that v2 wants controllers switched on along the way.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Limits, Setting, Version, cpu, memory, pids};

/// The group of ours in every hierarchy.
const OURS: &str = "allotment";

/// One controller that walls tasks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    fn settings(self, version: Version, limits: &Limits) -> Vec<Setting> {
        match self {
            Self::Cpu => cpu::settings(version, limits),
            Self::Memory => memory::settings(version, limits),
            Self::Pids => pids::settings(version, limits),
        }
    }
}

/// One mounted hierarchy and which of our controllers it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// `<mount>/allotment/<agent>`.
    root: PathBuf,
    controllers: Vec<Controller>,
}

/// Every hierarchy that this agent uses.
#[derive(Debug)]
pub(in super::super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// The groups of one container, one per hierarchy.
#[derive(Debug)]
pub(in super::super) struct Group {
    paths: Vec<PathBuf>,
    memory: Option<(Version, PathBuf)>,
    limit_bytes: u64,
}

/// What the memory controller has to tell about an ended container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct MemoryVerdict {
    /// The kernel killed a process because the limit was reached.
    pub(in super::super) exceeded: bool,
    pub(in super::super) limit_bytes: u64,
    pub(in super::super) peak_bytes: Option<u64>,
}

impl Cgroups {
    /// Finds cpu, memory and pids, makes this agent's group in each and removes what an earlier
    /// run left in it, processes included, but for the containers that are `spared`.
    ///
    /// # Errors
    /// Which controller is missing or may not be used, as a clause.
    pub(in super::super) fn set_up(agent: &str, spared: &BTreeSet<String>) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts")
            .map_err(|error| format!("/proc/self/mounts cannot be read: {error}"))?;
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for controller in Controller::ALL {
            let (version, mount) = find(&mounts, controller).ok_or_else(|| {
                format!(
                    "no cgroup hierarchy with the {} controller",
                    controller.name()
                )
            })?;
            let root = mount.join(OURS).join(agent);
            match hierarchies.iter_mut().find(|known| known.root == root) {
                Some(known) => known.controllers.push(controller),
                None => hierarchies.push(Hierarchy {
                    version,
                    root,
                    controllers: vec![controller],
                }),
            }
        }
        let cgroups = Self { hierarchies };
        for hierarchy in &cgroups.hierarchies {
            hierarchy.prepare()?;
        }
        cgroups.remove_leftovers(spared);
        Ok(cgroups)
    }

    /// The groups that an earlier run made for a container; `None` when there are none.
    pub(in super::super) fn adopt(&self, container: &str) -> Option<Group> {
        let mut group = Group {
            paths: Vec::with_capacity(self.hierarchies.len()),
            memory: None,
            limit_bytes: 0,
        };
        for hierarchy in &self.hierarchies {
            let path = hierarchy.root.join(container);
            if !path.is_dir() {
                continue;
            }
            if hierarchy.controllers.contains(&Controller::Memory) {
                group.limit_bytes = memory::limit_bytes(hierarchy.version, &path);
                group.memory = Some((hierarchy.version, path.clone()));
            }
            group.paths.push(path);
        }
        (!group.paths.is_empty()).then_some(group)
    }

    /// Makes the groups of one container and sets its limits.
    ///
    /// # Errors
    /// The file that could not be written and why, as a clause.
    pub(in super::super) fn create(
        &self,
        container: &str,
        limits: &Limits,
    ) -> Result<Group, String> {
        let mut group = Group {
            paths: Vec::with_capacity(self.hierarchies.len()),
            memory: None,
            limit_bytes: limits.memory_bytes,
        };
        for hierarchy in &self.hierarchies {
            let path = hierarchy.root.join(container);
            let made = fs::create_dir(&path)
                .map_err(|error| format!("cannot make the cgroup {}: {error}", path.display()));
            if let Err(clause) = made {
                group.remove();
                return Err(clause);
            }
            group.paths.push(path.clone());
            for controller in &hierarchy.controllers {
                for setting in controller.settings(hierarchy.version, limits) {
                    if let Err(error) = apply(&path, &setting) {
                        group.remove();
                        let Setting { file, value, .. } = setting;
                        return Err(format!(
                            "cannot write {value} to {}/{file}: {error}",
                            path.display()
                        ));
                    }
                }
                if *controller == Controller::Memory {
                    group.memory = Some((hierarchy.version, path.clone()));
                }
            }
        }
        Ok(group)
    }

    /// Removes this agent's groups, once no container is left in them.
    pub(in super::super) fn tear_down(&self) {
        self.remove_leftovers(&BTreeSet::new());
        for hierarchy in &self.hierarchies {
            let _ = fs::remove_dir(&hierarchy.root);
            if let Some(ours) = hierarchy.root.parent() {
                // Refused while another agent has its groups there.
                let _ = fs::remove_dir(ours);
            }
        }
    }

    /// Kills and removes whatever containers this agent's groups hold, but for the spared ones.
    fn remove_leftovers(&self, spared: &BTreeSet<String>) {
        // Killed processes leave their groups a little later; two seconds are plenty.
        for round in 0..200 {
            let mut left = 0;
            for hierarchy in &self.hierarchies {
                for path in subgroups(&hierarchy.root) {
                    let name = path.file_name().and_then(|name| name.to_str());
                    if name.is_some_and(|name| spared.contains(name)) {
                        continue;
                    }
                    kill_members(&path);
                    if fs::remove_dir(&path).is_err() {
                        left += 1;
                    }
                }
            }
            if left == 0 {
                return;
            }
            if round > 0 {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Hierarchy {
    fn prepare(&self) -> Result<(), String> {
        fs::create_dir_all(&self.root)
            .map_err(|error| format!("{} cannot be made: {error}", self.root.display()))?;
        if self.version == Version::V2 {
            let names: Vec<String> = self
                .controllers
                .iter()
                .map(|controller| format!("+{}", controller.name()))
                .collect();
            let switches = names.join(" ");
            // From the mount down to this agent's group: its children are the containers.
            let above: Vec<&Path> = self.root.ancestors().take(3).collect();
            for directory in above.into_iter().rev() {
                let file = directory.join("cgroup.subtree_control");
                fs::write(&file, &switches).map_err(|error| {
                    format!("cannot write {switches} to {}: {error}", file.display())
                })?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// The files through which a process moves itself into these groups.
    pub(in super::super) fn entrances(&self) -> Vec<CString> {
        let entrance = |path: &PathBuf| {
            // v1's `tasks` takes one thread and needs no lock over all processes; v2 has only
            // `cgroup.procs` for this.
            let tasks = path.join("tasks");
            let file = if tasks.exists() {
                tasks
            } else {
                path.join("cgroup.procs")
            };
            CString::new(file.into_os_string().into_encoded_bytes()).ok()
        };
        self.paths.iter().filter_map(entrance).collect()
    }

    /// Something that becomes readable when the memory limit is hit; `None` on v2, whose kernel
    /// ends the whole group by itself.
    pub(in super::super) fn watch_memory(&self) -> io::Result<Option<EventFd>> {
        let Some((Version::V1, path)) = &self.memory else {
            return Ok(None);
        };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)?;
        let control = fs::File::open(path.join("memory.oom_control"))?;
        let order = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write_existing(&path.join("cgroup.event_control"), &order)?;
        Ok(Some(event))
    }

    /// What became of the memory limit.
    pub(in super::super) fn memory_verdict(&self) -> Option<MemoryVerdict> {
        let (version, path) = self.memory.as_ref()?;
        Some(MemoryVerdict {
            exceeded: memory::oom_kills(*version, path) > 0,
            limit_bytes: self.limit_bytes,
            peak_bytes: memory::peak_bytes(*version, path),
        })
    }

    /// Removes the groups; true when nothing is left of them.
    pub(in super::super) fn remove(&mut self) -> bool {
        self.paths.retain(|path| match fs::remove_dir(path) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        self.paths.is_empty()
    }

    /// Whether any process is inside.
    pub(in super::super) fn is_populated(&self) -> bool {
        self.paths.iter().any(|path| {
            fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty())
        })
    }

    /// Kills whatever is still inside.
    pub(in super::super) fn kill_members(&self) {
        for path in &self.paths {
            kill_members(path);
        }
    }
}

/// The hierarchy of `controller` in the text of `/proc/self/mounts`; v1 wins where it has the
/// controller, as the kernel gives it to one of them only.
fn find(mounts: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    let lines = || {
        mounts.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (_, path, kind, options) =
                (words.next()?, words.next()?, words.next()?, words.next()?);
            Some((path, kind, options))
        })
    };
    let v1 = lines().find(|(_, kind, options)| {
        *kind == "cgroup" && options.split(',').any(|option| option == controller.name())
    });
    if let Some((path, _, _)) = v1 {
        return Some((Version::V1, PathBuf::from(path)));
    }
    let v2 = lines().find(|(path, kind, _)| {
        *kind == "cgroup2"
            && fs::read_to_string(Path::new(path).join("cgroup.controllers")).is_ok_and(|list| {
                list.split_ascii_whitespace()
                    .any(|name| name == controller.name())
            })
    });
    v2.map(|(path, _, _)| (Version::V2, PathBuf::from(path)))
}

fn apply(group: &Path, setting: &Setting) -> io::Result<()> {
    match write_existing(&group.join(setting.file), &setting.value) {
        Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Control files are never created, and a short write is refused by the kernel itself.
fn write_existing(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

fn subgroups(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        // 0 stands for processes of namespaces out of sight, and would mean our own group.
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_under_whatever_name_they_are_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      tmpfs /tmp tmpfs rw,pids 0 0\n";
        let at = |path: &str| Some((Version::V1, PathBuf::from(path)));
        assert_eq!(
            find(mounts, Controller::Cpu),
            at("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(
            find(mounts, Controller::Memory),
            at("/sys/fs/cgroup/memory")
        );
        assert_eq!(find(mounts, Controller::Pids), None);
    }
}
