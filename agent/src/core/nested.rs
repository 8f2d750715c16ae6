//! Further programs in containers that run, which nobody listens to: Mesos' nested containers
//! (`LAUNCH_NESTED_CONTAINER`).
//!
//! One shares walls and limits of the container that it is in, its parent, and ends with it. It
//! is there without the connection that asked for it and without the agent: like a task it is
//! written down before it begins, found again afterwards, and how it ended is remembered until
//! somebody removes it or many others have ended.
//!
//! Clients name one by an id of their own below that of its parent, which may be nested itself.

use std::collections::{BTreeMap, VecDeque};

use allotment_proto::allot;

use super::enter::{Command, NoEntry};
use super::executors::wait_status;
use super::launch::Launch;
use super::sandbox::ContainerId;
use super::{Core, Effect, Outcome, Record, Step};

/// How many may run in one container.
const RUNNING_MAX: usize = 256;
/// How many ends are remembered on one agent.
const ENDED_MAX: usize = 256;
/// How deep they may lie in each other.
const DEPTH_MAX: usize = 8;

/// A nested container as its clients name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedId {
    /// Its own.
    pub name: String,
    /// Those above it, the nearest first. The last that this agent gave itself is where it begins.
    pub parents: Vec<String>,
}

/// Where a nested container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nesting {
    /// The container that it is in.
    pub parent: ContainerId,
    /// Names from the sandbox of the topmost container down to its own.
    pub path: Vec<String>,
}

impl Nesting {
    /// Its sandbox, relative to that of the topmost container.
    pub fn folder(&self) -> String {
        let folders: Vec<String> = self
            .path
            .iter()
            .map(|name| format!("containers/{name}"))
            .collect();
        folders.join("/")
    }
}

/// Where one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NestedState {
    /// It is being begun, or was by an earlier run of the agent and nothing was heard of it yet.
    Starting,
    /// Its program runs.
    Running,
    /// Nothing of it runs any more.
    Ended(NestedEnd),
}

/// How one ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedEnd {
    /// As `wait` returns it; `None`: nothing is known of it.
    pub status: Option<i32>,
    /// Why, where it is not its program's doing.
    pub message: Option<String>,
    /// It never ran.
    pub refused: bool,
}

/// What there is to know of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedView {
    /// The sandbox of the topmost container above it, relative to the work folder.
    pub sandbox: String,
    /// Where it is.
    pub nesting: Nesting,
    /// Where it stands.
    pub state: NestedState,
}

/// What is ordered of one.
#[derive(Debug)]
pub enum NestedOrder {
    /// To be begun, with this program.
    Launch(Box<Command>),
    /// To be ended.
    End(Harshness),
    /// To be forgotten, now that it has ended.
    Remove,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is being followed.
    Now,
    /// One of this name is there, or has been.
    Already,
}

/// How one is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harshness {
    /// SIGTERM to everything in it.
    Terminate,
    /// SIGKILL.
    Destroy,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) nesting: Nesting,
    /// The topmost container above it.
    root: ContainerId,
    /// The sandbox of that.
    pub(super) sandbox: String,
    state: NestedState,
}

/// The books of them.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// By their own ids.
    entries: BTreeMap<ContainerId, Entry>,
    by_name: BTreeMap<(ContainerId, String), ContainerId>,
    ended: VecDeque<ContainerId>,
}

impl Entry {
    fn name(&self) -> String {
        self.nesting.path.last().cloned().unwrap_or_default()
    }

    pub(super) const fn is_live(&self) -> bool {
        !matches!(self.state, NestedState::Ended(_))
    }

    /// Reads what an earlier run wrote down.
    pub(super) fn recovered(saved: allot::NestedCheckpoint) -> Result<(ContainerId, Self), String> {
        let id = |text: &str| {
            ContainerId::parse(text).ok_or_else(|| {
                format!(
                    "nested container {} is recorded with a container id that is none: {text:?}; \
                     it is ended",
                    saved.path.join("/")
                )
            })
        };
        let entry = Self {
            nesting: Nesting {
                parent: id(&saved.parent_container_id)?,
                path: saved.path.clone(),
            },
            root: id(&saved.root_container_id)?,
            sandbox: saved.sandbox.clone(),
            state: NestedState::Starting,
        };
        Ok((id(&saved.container_id)?, entry))
    }

    /// An earlier run wrote down how it ended.
    pub(super) fn has_ended(&mut self, ended: allot::NestedEnded) {
        self.state = NestedState::Ended(NestedEnd {
            status: ended.status,
            message: ended.message,
            refused: ended.refused.unwrap_or(false),
        });
    }

    fn record(&self, container: &ContainerId) -> Record {
        Record::Nested(allot::NestedCheckpoint {
            container_id: container.as_str().to_owned(),
            parent_container_id: self.nesting.parent.as_str().to_owned(),
            root_container_id: self.root.as_str().to_owned(),
            path: self.nesting.path.clone(),
            sandbox: self.sandbox.clone(),
        })
    }
}

impl NestedEnd {
    fn of(outcome: Outcome) -> Option<Self> {
        let status = wait_status(&outcome);
        let (message, refused) = match outcome {
            Outcome::Exited { .. } => (None, false),
            Outcome::NotStarted { message } => (Some(message), true),
            Outcome::Lost { message } | Outcome::Restarted { message } => (Some(message), false),
            Outcome::NeverBegun => return None,
        };
        Some(Self {
            status,
            message,
            refused,
        })
    }

    fn record(&self, container: &ContainerId) -> Record {
        Record::NestedEnded(allot::NestedEnded {
            container_id: container.as_str().to_owned(),
            status: self.status,
            message: self.message.clone(),
            refused: self.refused.then_some(true),
        })
    }
}

impl Books {
    pub(super) fn get(&self, container: &ContainerId) -> Option<&Entry> {
        self.entries.get(container)
    }

    /// Whether anything of them runs or is about to.
    pub(super) fn any_live(&self) -> bool {
        self.entries.values().any(Entry::is_live)
    }

    fn insert(&mut self, container: ContainerId, entry: Entry) {
        let name = (entry.nesting.parent.clone(), entry.name());
        if !entry.is_live() {
            self.ended.push_back(container.clone());
        }
        self.by_name.insert(name, container.clone());
        self.entries.insert(container, entry);
    }

    fn forget(&mut self, container: &ContainerId, step: &mut Step) {
        let Some(entry) = self.entries.remove(container) else {
            return;
        };
        let name = (entry.nesting.parent.clone(), entry.name());
        self.by_name.remove(&name);
        self.ended.retain(|ended| ended != container);
        step.persist.push(Record::NestedOver(allot::NestedOver {
            container_id: container.as_str().to_owned(),
        }));
    }

    /// Those that run, or are about to, in this container.
    fn live_in<'a>(&'a self, parent: &'a ContainerId) -> impl Iterator<Item = &'a ContainerId> {
        let children = self.entries.iter();
        let children = children.filter(move |(_, entry)| entry.nesting.parent == *parent);
        children
            .filter(|(_, entry)| entry.is_live())
            .map(|(id, _)| id)
    }

    /// Everything that a later run needs of them.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Record> {
        self.entries.iter().flat_map(|(container, entry)| {
            let ended = match &entry.state {
                NestedState::Ended(end) => Some(end.record(container)),
                NestedState::Starting | NestedState::Running => None,
            };
            [Some(entry.record(container)), ended].into_iter().flatten()
        })
    }
}

impl Core {
    /// What is known of a nested container.
    pub fn nested(&self, id: &NestedId) -> Option<NestedView> {
        let entry = self.nested.get(&self.find_nested(id)?)?;
        Some(NestedView {
            sandbox: entry.sandbox.clone(),
            nesting: entry.nesting.clone(),
            state: entry.state.clone(),
        })
    }

    fn find_nested(&self, id: &NestedId) -> Option<ContainerId> {
        let parent = self.container_of(&id.parents)?;
        self.nested.by_name.get(&(parent, id.name.clone())).cloned()
    }

    /// The container that its clients name by these ids, the nearest first.
    pub(super) fn container_of(&self, ids: &[String]) -> Option<ContainerId> {
        let (own, above) = ids.split_first()?;
        if let Some(container) = ContainerId::parse(own) {
            // Whatever stands above it: a task in a group is named below its executor.
            return Some(container);
        }
        let above = above.get(..above.len().min(DEPTH_MAX))?;
        let parent = self.container_of(above)?;
        self.nested.by_name.get(&(parent, own.clone())).cloned()
    }

    /// What it takes to run `command` in the container of these ids, the nearest first.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub fn entrance_below(&self, ids: &[String], command: Command) -> Result<Launch, NoEntry> {
        let container = self.container_of(ids).ok_or_else(|| NoEntry::Unknown {
            what: format!("container {}", ids.join(" in ")),
        })?;
        self.entrance_of(&container, command)
    }

    /// The same in a nested container, which has the walls of the topmost one above it.
    pub(super) fn entrance_nested(
        &self,
        container: &ContainerId,
        command: Command,
    ) -> Option<Result<Launch, NoEntry>> {
        let entry = self.nested.get(container)?;
        if entry.state != NestedState::Running {
            let what = format!("container {}", entry.name());
            return Some(Err(NoEntry::Unknown { what }));
        }
        let launch = self.entrance_of(&entry.root, command);
        Some(launch.map(|mut launch| {
            launch.container = container.clone();
            launch.nested = Some(entry.nesting.clone());
            self.in_own_sandbox(&mut launch, &entry.sandbox);
            launch
        }))
    }

    /// Tells the program of a nested container where it works.
    fn in_own_sandbox(&self, launch: &mut Launch, sandbox: &str) {
        let Some(nesting) = &launch.nested else {
            return;
        };
        let folder = nesting.folder();
        let directory = format!("{}/{sandbox}/{folder}", self.settings.work_dir);
        for (name, value) in &mut launch.environment {
            if matches!(name.as_str(), "MESOS_SANDBOX" | "MESOS_DIRECTORY") {
                value.clone_from(&directory);
            }
        }
    }

    pub(super) fn on_nested_order(
        &mut self,
        number: u64,
        id: &NestedId,
        order: NestedOrder,
        step: &mut Step,
    ) {
        let answer = match order {
            NestedOrder::Launch(command) => self.launch_nested(id, *command, step),
            NestedOrder::End(how) => self.end_nested(id, how, step),
            NestedOrder::Remove => self.remove_nested(id, step),
        };
        step.then.push(Effect::AnswerNested { number, answer });
    }

    fn launch_nested(
        &mut self,
        id: &NestedId,
        command: Command,
        step: &mut Step,
    ) -> Result<Done, NoEntry> {
        if let Some(there) = self.find_nested(id) {
            match self.nested.get(&there).map(|entry| &entry.state) {
                Some(NestedState::Ended(end)) if end.refused => self.nested.forget(&there, step),
                _ => return Ok(Done::Already),
            }
        }
        let mut launch = self.entrance_below(&id.parents, command)?;
        let parent = launch.container.clone();
        let mut path = launch.nested.take().map_or_else(Vec::new, |n| n.path);
        path.push(id.name.clone());
        let n_live = self.nested.live_in(&parent).count();
        if n_live >= RUNNING_MAX || path.len() > DEPTH_MAX {
            return Err(NoEntry::Crowded {
                container: parent,
                n_live,
                running_max: RUNNING_MAX,
                depth_max: DEPTH_MAX,
            });
        }
        let container = ContainerId::from_random(&mut self.random);
        let sandbox = launch.sandbox.folder(&launch.agent);
        let nesting = Nesting { parent, path };
        let entry = Entry {
            root: launch.sandbox.container.clone(),
            sandbox: sandbox.clone(),
            nesting: nesting.clone(),
            state: NestedState::Starting,
        };
        launch.container = container.clone();
        launch.nested = Some(nesting);
        self.in_own_sandbox(&mut launch, &sandbox);
        // These are its topmost container's, which has them already.
        launch.uris.clear();
        launch.volumes.clear();
        step.persist.push(entry.record(&container));
        self.nested.insert(container, entry);
        step.then.push(Effect::Start(Box::new(launch)));
        Ok(Done::Now)
    }

    fn known_nested(&self, id: &NestedId) -> Result<(ContainerId, &Entry), NoEntry> {
        let container = self.find_nested(id);
        let known = container.and_then(|id| Some((id.clone(), self.nested.get(&id)?)));
        known.ok_or_else(|| NoEntry::Unknown {
            what: format!("container {}", id.name),
        })
    }

    fn end_nested(&self, id: &NestedId, how: Harshness, step: &mut Step) -> Result<Done, NoEntry> {
        let (container, entry) = self.known_nested(id)?;
        if !entry.is_live() {
            return Ok(Done::Already);
        }
        step.then.push(match how {
            Harshness::Terminate => Effect::Terminate(container),
            Harshness::Destroy => Effect::Destroy(container),
        });
        Ok(Done::Now)
    }

    fn remove_nested(&mut self, id: &NestedId, step: &mut Step) -> Result<Done, NoEntry> {
        let (container, entry) = self.known_nested(id)?;
        if entry.is_live() {
            let name = id.name.clone();
            return Err(NoEntry::StillRuns { name });
        }
        self.nested.forget(&container, step);
        Ok(Done::Now)
    }

    /// The program of a container runs; false: it is none of these.
    pub(super) fn on_nested_started(&mut self, container: &ContainerId) -> bool {
        let Some(entry) = self.nested.entries.get_mut(container) else {
            return false;
        };
        if entry.is_live() {
            entry.state = NestedState::Running;
        }
        true
    }

    /// Nothing runs in a container any more; false: it is none of these.
    pub(super) fn on_nested_ended(
        &mut self,
        container: &ContainerId,
        outcome: &Outcome,
        step: &mut Step,
    ) -> bool {
        let Some(entry) = self.nested.entries.get_mut(container) else {
            return false;
        };
        step.then.push(Effect::Release(container.clone()));
        let end = NestedEnd::of(outcome.clone());
        if end.as_ref().is_none_or(|end| end.refused) {
            step.then.push(Effect::RemoveNest {
                sandbox: entry.sandbox.clone(),
                nesting: entry.nesting.clone(),
            });
        }
        match end {
            // Whoever asked for it has heard nothing, and may ask again.
            None => self.nested.forget(container, step),
            Some(end) if entry.is_live() => {
                step.persist.push(end.record(container));
                entry.state = NestedState::Ended(end);
                self.nested.ended.push_back(container.clone());
            }
            Some(_) => {}
        }
        if self.nested.ended.len() > ENDED_MAX
            && let Some(oldest) = self.nested.ended.front().cloned()
        {
            self.nested.forget(&oldest, step);
        }
        self.end_nested_in(container, step);
        true
    }

    /// A container is over: so is everything in it.
    pub(super) fn end_nested_in(&self, parent: &ContainerId, step: &mut Step) {
        let children = self.nested.live_in(parent).cloned();
        step.then.extend(children.map(Effect::Destroy));
    }

    /// Goes on with those of an earlier run. Those whose parent has ended meanwhile end too.
    pub(super) fn take_up_nested(
        &mut self,
        entries: BTreeMap<ContainerId, Entry>,
        step: &mut Step,
    ) {
        for (container, entry) in entries {
            self.nested.insert(container, entry);
        }
        let orphans = self.nested.entries.iter().filter(|(_, entry)| {
            let parent = &entry.nesting.parent;
            let is_there = self.containers.contains_key(parent)
                || self.executor_containers.contains_key(parent)
                || self.nested.get(parent).is_some_and(Entry::is_live);
            entry.is_live() && !is_there
        });
        let orphans = orphans.map(|(container, _)| Effect::Destroy(container.clone()));
        step.then.extend(orphans);
    }

    /// They ended with an earlier run.
    pub(super) fn lose_nested(&mut self, step: &mut Step) {
        let all: Vec<ContainerId> = self.nested.entries.keys().cloned().collect();
        for container in all {
            self.nested.forget(&container, step);
        }
    }
}
