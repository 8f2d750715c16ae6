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

use super::super::sys::Entrance;
use super::spares::{self, Spares};
use super::walls::{Setting, Walls};
use super::{Version, memory};

/// The group of ours in every hierarchy.
const OURS: &str = "allotment";

/// One controller of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
    Cpuset,
    Blkio,
    Freezer,
}

impl Controller {
    const fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Cpu, _) => "cpu",
            (Self::Memory, _) => "memory",
            (Self::Pids, _) => "pids",
            (Self::Cpuset, _) => "cpuset",
            (Self::Blkio, Version::V1) => "blkio",
            (Self::Blkio, Version::V2) => "io",
            (Self::Freezer, _) => "freezer",
        }
    }

    /// Whether a v2 hierarchy does this without a controller that has to be switched on.
    const fn is_part_of_v2(self) -> bool {
        matches!(self, Self::Freezer)
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
pub(super) struct Cgroups {
    agent: String,
    hierarchies: Vec<Hierarchy>,
    /// Every group of this agent that an earlier run left, in hierarchies that are not used any
    /// more too: its containers may still be there.
    earlier: Vec<(Version, PathBuf)>,
    spares: Spares,
}

/// The groups of one container, one per hierarchy.
#[derive(Debug)]
pub(in super::super) struct Group {
    pub(super) paths: Vec<(Version, PathBuf)>,
    pub(super) memory: Option<(Version, PathBuf)>,
    pub(super) limit_bytes: u64,
    /// What was written into it.
    pub(super) settings: Vec<Setting>,
    /// Whether it may serve another container afterwards ([`super::spares`]).
    pub(super) may_keep: bool,
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
    /// No hierarchy at all.
    pub(super) fn none() -> Self {
        Self {
            agent: String::new(),
            hierarchies: Vec::new(),
            earlier: Vec::new(),
            spares: Spares::default(),
        }
    }

    /// Those of one agent; none yet, but for what an earlier run left.
    pub(super) fn of(agent: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let earlier = mounted(&mounts).filter_map(|(path, version, _)| {
            let group = Path::new(path).join(OURS).join(agent);
            group.is_dir().then_some((version, group))
        });
        Self {
            agent: agent.to_owned(),
            hierarchies: Vec::new(),
            earlier: earlier.collect(),
            spares: Spares::default(),
        }
    }

    /// The groups that an earlier run made for a container; `None` when there are none.
    pub(super) fn adopt(&self, container: &str) -> Option<Group> {
        let mut group = Group {
            paths: Vec::with_capacity(self.earlier.len()),
            memory: None,
            limit_bytes: 0,
            settings: Vec::new(),
            may_keep: false,
        };
        for (version, root) in &self.earlier {
            let path = root.join(container);
            if !path.is_dir() {
                continue;
            }
            if let Some(limit) = memory::limit_bytes(*version, &path) {
                group.limit_bytes = limit;
                group.memory = Some((*version, path.clone()));
            }
            group.paths.push((*version, path));
        }
        (!group.paths.is_empty()).then_some(group)
    }

    /// Finds the hierarchy of a controller and makes this agent's group in it; its version and a
    /// word on where it is.
    ///
    /// # Errors
    /// Why it may not be used, as a clause.
    pub(super) fn add(&mut self, controller: Controller) -> Result<(Version, String), String> {
        let mounts = fs::read_to_string("/proc/self/mounts")
            .map_err(|error| format!("/proc/self/mounts cannot be read: {error}"))?;
        let (version, mount) = find(&mounts, controller).ok_or_else(|| {
            format!(
                "no cgroup hierarchy with the {} controller",
                controller.name(Version::V1)
            )
        })?;
        let root = mount.join(OURS).join(&self.agent);
        let mut hierarchy = Hierarchy {
            version,
            root,
            controllers: vec![controller],
        };
        hierarchy.prepare()?;
        let known = self
            .hierarchies
            .iter_mut()
            .find(|known| known.root == hierarchy.root);
        match known {
            Some(known) => known.controllers.append(&mut hierarchy.controllers),
            None => self.hierarchies.push(hierarchy),
        }
        let version_name = match version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        Ok((
            version,
            format!("cgroup {version_name}, {}", mount.display()),
        ))
    }

    /// Does without a controller after all.
    pub(super) fn drop(&mut self, controller: Controller) {
        for hierarchy in &mut self.hierarchies {
            hierarchy.controllers.retain(|known| *known != controller);
            if hierarchy.controllers.is_empty() {
                tear_down(&hierarchy.root);
            }
        }
        self.hierarchies.retain(|h| !h.controllers.is_empty());
    }

    /// This agent's group in the hierarchy of a controller that was added.
    pub(super) fn root_of(&self, controller: Controller) -> &Path {
        let found = self
            .hierarchies
            .iter()
            .find(|h| h.controllers.contains(&controller));
        found.map_or_else(|| Path::new(""), |hierarchy| hierarchy.root.as_path())
    }

    /// Whether a group in the hierarchy of a controller has this file.
    pub(super) fn offers(&self, controller: Controller, file: &str) -> bool {
        self.root_of(controller).join(file).exists()
    }

    /// What a file of the mounted root says, written down to this agent's own group where the
    /// kernel leaves that empty (cpusets of v1 start with nothing).
    pub(super) fn inherited(&self, controller: Controller, file: &str) -> Result<String, String> {
        let root = self.root_of(controller);
        let mut value = String::new();
        for group in root
            .ancestors()
            .take(3)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let path = group.join(file);
            let said = fs::read_to_string(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            if said.trim().is_empty() && !value.is_empty() {
                fs::write(&path, &value).map_err(|error| {
                    format!("cannot write {value} to {}: {error}", path.display())
                })?;
            } else {
                said.trim().clone_into(&mut value);
            }
        }
        Ok(value)
    }

    /// Makes the groups of one container and writes its settings; `None` without hierarchies.
    ///
    /// # Errors
    /// The file that could not be written and why, as a clause.
    pub(super) fn create(
        &mut self,
        container: &str,
        walls: &Walls,
    ) -> Result<Option<Group>, String> {
        if self.hierarchies.is_empty() {
            return Ok(None);
        }
        let out_of_reach = spares::are_out_of_reach(walls);
        if out_of_reach && let Some(group) = self.spares.take(container, &walls.settings) {
            return Ok(Some(group));
        }
        let may_keep = |h: &Hierarchy| spares::may_keep(h.version, &walls.settings);
        let mut group = Group {
            paths: Vec::with_capacity(self.hierarchies.len()),
            memory: None,
            limit_bytes: walls.memory_limit_bytes.unwrap_or(0),
            settings: walls.settings.clone(),
            may_keep: out_of_reach && self.hierarchies.iter().all(may_keep),
        };
        for hierarchy in &self.hierarchies {
            let path = hierarchy.root.join(container);
            let made = fs::create_dir(&path)
                .map_err(|error| format!("cannot make the cgroup {}: {error}", path.display()));
            if let Err(clause) = made {
                group.remove();
                return Err(clause);
            }
            group.paths.push((hierarchy.version, path.clone()));
            let ours = walls
                .settings
                .iter()
                .filter(|setting| hierarchy.controllers.contains(&setting.controller));
            for setting in ours {
                if let Err(error) = apply(&path, setting) {
                    group.remove();
                    let Setting { file, value, .. } = setting;
                    return Err(format!(
                        "cannot write {value} to {}/{file}: {error}",
                        path.display()
                    ));
                }
            }
            if hierarchy.controllers.contains(&Controller::Memory) {
                group.memory = Some((hierarchy.version, path));
            }
        }
        Ok(Some(group))
    }

    /// A container is over that left this group as it found it; gives it back when it is not kept
    /// for another.
    pub(super) fn keep(&mut self, group: Group) -> Option<Group> {
        self.spares.keep(group)
    }

    /// Removes groups that were kept for long enough; those that the kernel does not remove now.
    pub(super) fn trim(&mut self) -> Vec<Group> {
        self.spares.trim()
    }

    /// Whether groups are kept.
    pub(super) const fn has_spares(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Removes this agent's groups, once no container is left in them.
    pub(super) fn tear_down(&self) {
        self.remove_leftovers(&BTreeSet::new());
        for root in self.roots() {
            tear_down(root);
        }
    }

    /// This agent's groups, old and new.
    fn roots(&self) -> BTreeSet<&Path> {
        let earlier = self.earlier.iter().map(|(_, root)| root.as_path());
        let now = self.hierarchies.iter().map(|h| h.root.as_path());
        earlier.chain(now).collect()
    }

    /// Kills and removes whatever containers this agent's groups hold, but for the spared ones.
    pub(super) fn remove_leftovers(&self, spared: &BTreeSet<String>) {
        // Killed processes leave their groups a little later; two seconds are plenty.
        for round in 0..200 {
            let mut left = 0;
            for root in self.roots() {
                for path in subgroups(root) {
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
                .filter(|controller| !controller.is_part_of_v2())
                .map(|controller| format!("+{}", controller.name(self.version)))
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

/// Removes an agent's group in one hierarchy, and the one above where no other agent has any.
fn tear_down(root: &Path) {
    let _ = fs::remove_dir(root);
    if let Some(ours) = root.parent() {
        let _ = fs::remove_dir(ours);
    }
}

impl Group {
    /// The files through which a process moves itself into these groups.
    pub(in super::super) fn entrances(&self) -> Vec<Entrance> {
        let entrance = |group| CString::new(entrance(group).into_os_string().into_encoded_bytes());
        let paths = self.paths.iter().filter_map(|group| entrance(group).ok());
        paths.map(Entrance::Path).collect()
    }

    /// The same, open.
    ///
    /// # Errors
    /// The file that could not be opened and why, as a clause.
    pub(in super::super) fn open_entrances(&self) -> Result<Vec<Entrance>, String> {
        let open = |group: &(Version, PathBuf)| {
            let file = entrance(group);
            let opened = OpenOptions::new().write(true).open(&file);
            opened
                .map(|file| Entrance::Open(file.into()))
                .map_err(|error| format!("{} cannot be opened: {error}", file.display()))
        };
        self.paths.iter().map(open).collect()
    }

    /// Whether somebody has to look when the memory limit is hit: on v2 the kernel ends the whole
    /// group by itself.
    pub(in super::super) const fn needs_watch(&self) -> bool {
        matches!(&self.memory, Some((Version::V1, _)))
    }

    /// Something that becomes readable when the memory limit is hit; `None` where nobody needs to
    /// look.
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

    /// Notes a limit of memory; false when it is not above the one that holds.
    pub(super) const fn grow(&mut self, limit_bytes: u64) -> bool {
        let grows = limit_bytes > self.limit_bytes;
        if grows {
            self.limit_bytes = limit_bytes;
        }
        grows
    }

    /// Writes a setting anew; what the kernel refuses stays as it was.
    pub(super) fn change(&mut self, setting: &Setting) {
        self.may_keep = false;
        for (_, path) in &self.paths {
            let _ = write_existing(&path.join(setting.file), &setting.value);
        }
    }

    /// Removes the groups; true when nothing is left of them.
    pub(in super::super) fn remove(&mut self) -> bool {
        self.paths.retain(|(_, path)| match fs::remove_dir(path) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        self.paths.is_empty()
    }

    /// Whether any process is inside.
    pub(in super::super) fn is_populated(&self) -> bool {
        self.paths.iter().any(|(_, path)| {
            fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty())
        })
    }

    /// Kills whatever is still inside.
    pub(in super::super) fn kill_members(&self) {
        for (_, path) in &self.paths {
            kill_members(path);
        }
    }
}

/// v1's `tasks` takes one thread and needs no lock over all processes; v2 has only
/// `cgroup.procs` for this.
fn entrance((version, group): &(Version, PathBuf)) -> PathBuf {
    group.join(match version {
        Version::V1 => "tasks",
        Version::V2 => "cgroup.procs",
    })
}

/// The hierarchy of `controller` in the text of `/proc/self/mounts`; v1 wins where it has the
/// controller, as the kernel gives it to one of them only.
fn find(mounts: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    let v1 = mounted(mounts).find(|(_, version, options)| {
        *version == Version::V1
            && options
                .split(',')
                .any(|option| option == controller.name(Version::V1))
    });
    if let Some((path, ..)) = v1 {
        return Some((Version::V1, PathBuf::from(path)));
    }
    let v2 = mounted(mounts).find(|(path, version, _)| {
        let controllers = || fs::read_to_string(Path::new(path).join("cgroup.controllers"));
        *version == Version::V2
            && (controller.is_part_of_v2()
                || controllers().is_ok_and(|list| {
                    list.split_ascii_whitespace()
                        .any(|name| name == controller.name(Version::V2))
                }))
    });
    v2.map(|(path, ..)| (Version::V2, PathBuf::from(path)))
}

/// Every hierarchy in the text of `/proc/self/mounts`: where, which version, mount options.
fn mounted(mounts: &str) -> impl Iterator<Item = (&str, Version, &str)> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let version = match kind {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        Some((path, version, options))
    })
}

fn apply(group: &Path, setting: &Setting) -> io::Result<()> {
    match write_existing(&group.join(setting.file), &setting.value) {
        Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Control files are never created, and a short write is refused by the kernel itself.
pub(super) fn write_existing(file: &Path, text: &str) -> io::Result<()> {
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

/// Kills whatever is in a group: as a whole where the kernel can (v2), and stopped first where
/// there is a freezer, so that nothing forks away meanwhile.
fn kill_members(group: &Path) {
    if write_existing(&group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let freezer = group.join("freezer.state");
    let frozen = write_existing(&freezer, "FROZEN").is_ok();
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        // 0 stands for processes of namespaces out of sight, and would mean our own group.
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    if frozen {
        // Signals of frozen processes take effect when they thaw.
        let _ = write_existing(&freezer, "THAWED");
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
