//! What happens to tasks, seen at both ends: their machines and their frameworks.

use std::collections::{BTreeMap, BTreeSet};

use allotment_framework_sdk::Update;
use allotment_proto::convert::is_terminal;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_types::{FrameworkId, Resources, TaskId};
use bytes::Bytes;

use crate::host::Key;

#[derive(Debug, Default)]
struct Story {
    /// Which framework accepted it, by its place in the scenario.
    launched_by: Option<usize>,
    started: bool,
    /// The updates that its machine emitted, in order.
    emitted: Vec<Bytes>,
    /// Those of them that were lost with their machine's power and need not be heard.
    withdrawn: BTreeSet<Bytes>,
    /// The latest of those that the framework heard.
    heard: Option<usize>,
    /// The latest state that the framework knows.
    state: Option<TaskState>,
    /// The machine that it was sent to.
    machine: Option<usize>,
    /// Its machine lost what it knew of it: nobody may be able to say how it ended, and what was
    /// acknowledged may be said again.
    lost: bool,
    /// The master that leads lost sight of it and said so: it owes the rest of the story. One that
    /// only answers that the agent is out of reach never knew the task.
    owed: bool,
}

/// Every task of a run.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    stories: BTreeMap<TaskId, Story>,
    /// What runs on each machine.
    running: BTreeMap<usize, BTreeMap<Key, Resources>>,
    pub(crate) started: u64,
    pub(crate) ended: u64,
}

impl Witness {
    /// A framework sent a launch.
    pub(crate) fn on_launch(
        &mut self,
        framework: usize,
        task: &TaskId,
        machine: Option<usize>,
    ) -> Result<(), String> {
        let story = self.stories.entry(task.clone()).or_default();
        story.machine = machine;
        // Installed anew since it was offered: the launch reaches nobody.
        story.lost |= machine.is_none();
        match story.launched_by.replace(framework) {
            None => Ok(()),
            Some(_) => Err(format!(
                "task id {task} is launched a second time by a framework"
            )),
        }
    }

    /// A container started on a machine with `total` resources.
    pub(crate) fn on_started(
        &mut self,
        machine: usize,
        total: &Resources,
        key: &Key,
        resources: &Resources,
    ) -> Result<(), String> {
        let story = self.stories.entry(key.1.clone()).or_default();
        if std::mem::replace(&mut story.started, true) {
            return Err(format!(
                "a task id is started at most once: task {} started again on machine {machine}",
                key.1
            ));
        }
        self.started += 1;
        let running = self.running.entry(machine).or_default();
        running.insert(key.clone(), resources.clone());
        let mut left = total.clone();
        for resources in running.values() {
            if !left.contains(resources) {
                return Err(format!(
                    "no machine runs more than it has: machine {machine} with {total} runs {} \
                     tasks, the latest {} with {resources}",
                    running.len(),
                    key.1
                ));
            }
            left.subtract(resources);
        }
        Ok(())
    }

    /// A container is gone.
    pub(crate) fn on_ended(&mut self, machine: usize, key: &Key) {
        if let Some(running) = self.running.get_mut(&machine) {
            running.remove(key);
        }
    }

    /// A machine is installed anew: everything on it is gone.
    pub(crate) fn on_reimaged(&mut self, machine: usize) {
        self.running.remove(&machine);
        self.on_forgotten(machine);
    }

    /// A machine may have forgotten what it was told last, so nobody may hear how it ended.
    pub(crate) fn on_forgotten(&mut self, machine: usize) {
        for story in self.stories.values_mut() {
            story.lost |= story.machine == Some(machine);
        }
    }

    /// A master begins that knows nothing of tasks whose agents have yet to come back. Of those
    /// that are out of reach their frameworks were told, and need not hear of them again.
    pub(crate) fn on_new_master(&mut self) {
        for story in self.stories.values_mut() {
            story.owed = false;
        }
    }

    /// Every task that runs, in the order of machines.
    pub(crate) fn running(&self) -> Vec<Key> {
        let running = self.running.values();
        running.flat_map(|tasks| tasks.keys().cloned()).collect()
    }

    /// A machine emitted the next update of a task.
    pub(crate) fn on_emitted(&mut self, key: &Key, uuid: Bytes) {
        let story = self.stories.entry(key.1.clone()).or_default();
        story.emitted.push(uuid);
    }

    /// An update that a machine emitted is lost.
    pub(crate) fn on_withdrawn(&mut self, key: &Key, uuid: &Bytes) {
        if let Some(story) = self.stories.get_mut(&key.1) {
            story.withdrawn.insert(uuid.clone());
        }
    }

    /// A framework heard of a task.
    pub(crate) fn on_heard(&mut self, framework: usize, update: &Update) -> Result<(), String> {
        let task = &update.task;
        if update.uuid.is_none() && !self.stories.contains_key(task) {
            // It died before it sent the launch that it had written down, and asked.
            return Ok(());
        }
        let story = self
            .stories
            .get_mut(task)
            .filter(|story| story.launched_by == Some(framework))
            .ok_or_else(|| {
                format!(
                    "a framework sees only its own: framework {framework} heard of task {task}, \
                     which it never launched"
                )
            })?;
        if let Some(uuid) = &update.uuid {
            let place = story
                .emitted
                .iter()
                .position(|u| u == uuid)
                .ok_or_else(|| {
                    format!("task {task}: an update was heard that its machine never sent")
                })?;
            let mut next = story.heard.map_or(0, |heard| heard + 1);
            while next < place
                && story
                    .emitted
                    .get(next)
                    .is_some_and(|skipped| story.withdrawn.contains(skipped))
            {
                next += 1;
            }
            if place + 1 < next && story.lost {
                // The machine forgot that this was acknowledged.
                return Ok(());
            }
            if place > next || place + 1 < next {
                return Err(format!(
                    "updates of a task arrive in order: task {task}'s number {place} came when \
                     number {next} was next"
                ));
            }
            story.heard = Some(place);
        }
        let over = story.state.is_some_and(is_terminal);
        if story.lost && over && !update.is_terminal() {
            // The machine forgot what was acknowledged, and a new master believes it.
            return Ok(());
        }
        if update.is_terminal() && !over {
            self.ended += 1;
        }
        story.state = Some(update.state);
        story.owed |= update.state == TaskState::TaskUnreachable
            && update.reason == Some(Reason::AgentRemoved);
        Ok(())
    }

    /// Tasks that started, per framework by its place in the scenario.
    pub(crate) fn started_per_framework(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        for story in self.stories.values().filter(|story| story.started) {
            let Some(framework) = story.launched_by else {
                continue;
            };
            if counts.len() <= framework {
                counts.resize(framework + 1, 0);
            }
            if let Some(count) = counts.get_mut(framework) {
                *count += 1;
            }
        }
        counts
    }

    /// Sum of what runs on all machines.
    pub(crate) fn in_use(&self) -> Resources {
        let mut sum = Resources::EMPTY;
        for resources in self.running.values().flat_map(BTreeMap::values) {
            sum.add(resources);
        }
        sum
    }

    /// Tasks that run on a machine.
    pub(crate) fn on_machine(&self, machine: usize) -> Vec<Key> {
        let running = self.running.get(&machine);
        running
            .map(|r| r.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// After everything settled: nothing of a framework that ended for good runs.
    pub(crate) fn check_left_nothing(&self, framework: usize) -> Result<(), String> {
        for (machine, running) in &self.running {
            let mut tasks = running.keys().map(|(_, task)| task);
            let left = tasks.find(|task| {
                let story = self.stories.get(*task);
                story.is_some_and(|story| story.launched_by == Some(framework))
            });
            if let Some(task) = left {
                return Err(format!(
                    "tasks end with their framework after its failover timeout: framework \
                     {framework} is gone, but its task {task} runs on machine {machine}"
                ));
            }
        }
        Ok(())
    }

    /// After everything settled: every launch of a framework that is `there` ended for it, or
    /// runs and is known to.
    pub(crate) fn check_settled(&self, there: impl Fn(usize) -> bool) -> Result<(), String> {
        let alive: BTreeMap<&TaskId, &FrameworkId> = self
            .running
            .values()
            .flat_map(|running| running.keys().map(|(framework, task)| (task, framework)))
            .collect();
        for (task, story) in &self.stories {
            let Some(framework) = story.launched_by else {
                return Err(format!("task {task} started although nobody launched it"));
            };
            if !there(framework) {
                continue;
            }
            let lives = alive.contains_key(task);
            match story.state {
                Some(TaskState::TaskUnreachable) if (story.lost || !story.owed) && !lives => {}
                Some(state) if is_terminal(state) && lives => {
                    return Err(format!(
                        "views converge: task {task} runs, but framework {framework} was told \
                         {}",
                        state.as_str_name()
                    ));
                }
                Some(state) if is_terminal(state) => {}
                Some(TaskState::TaskRunning) if lives => {}
                state => {
                    return Err(format!(
                        "a launch ends in a terminal status or a live task, never in silence: \
                         task {task} of framework {framework} {}, and its last known state is {}",
                        if lives { "runs" } else { "does not run" },
                        state.map_or("none", |s| s.as_str_name())
                    ));
                }
            }
        }
        Ok(())
    }
}
