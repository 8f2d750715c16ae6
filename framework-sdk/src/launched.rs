//! Tasks that nobody has said anything of: which to ask about, and when to ask again.
//!
//! A launch that was under way when a stream broke may have arrived or not. The master answers
//! when it is asked, but not while the task's agent has yet to come back (Mesos:
//! `reconciliation.md`), so it is asked again, with growing pauses, until every one is answered.
//! So are the framework's own questions: one that starts anew asks about the launches of its
//! earlier life, which no session remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_types::{AgentId, TaskId, Timestamp};

/// How many launches that were not heard of yet are remembered; beyond it they are left to the
/// framework's own reconciliation.
const LAUNCHED_MAX: usize = 65_536;
/// The first pause before a question is asked again: an agent that is there answers well within
/// it.
pub(crate) const ASK_AGAIN_MIN: Duration = Duration::from_secs(5);
/// The longest pause; a master gives up agents that do not return after minutes.
pub(crate) const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// Tasks that were sent to be launched, or asked about, and that were not heard of since.
#[derive(Debug, Default)]
pub(crate) struct Launched {
    tasks: BTreeMap<TaskId, Option<AgentId>>,
    /// Those of them that were asked about without an answer yet.
    in_doubt: BTreeSet<TaskId>,
    /// When to ask again, and the pause before it.
    again: Option<(Timestamp, Duration)>,
}

impl Launched {
    /// This task was sent to be launched on the agent.
    pub(crate) fn add(&mut self, task: &TaskId, agent: &AgentId) {
        if self.tasks.len() < LAUNCHED_MAX {
            self.tasks.insert(task.clone(), Some(agent.clone()));
        }
    }

    /// The framework asks the master about these tasks. Agents that it does not name and that are
    /// known here are added: a master says of a task that it does not know that it is gone when
    /// its agent is there without it, and nothing for certain when it hears of no agent.
    pub(crate) fn ask(&mut self, now: Timestamp, tasks: &mut [(TaskId, Option<AgentId>)]) {
        for (task, agent) in tasks {
            let has_room = self.tasks.len() < LAUNCHED_MAX;
            match self.tasks.get_mut(task) {
                Some(known) if agent.is_none() => agent.clone_from(known),
                Some(known) => known.clone_from(agent),
                None if has_room => {
                    self.tasks.insert(task.clone(), agent.clone());
                }
                None => continue,
            }
            self.in_doubt.insert(task.clone());
        }
        if !self.in_doubt.is_empty() {
            self.again = Some((now + ASK_AGAIN_MIN, ASK_AGAIN_MIN));
        }
    }

    /// Something was heard of a task that says where it stands.
    pub(crate) fn heard(&mut self, task: &TaskId) {
        self.tasks.remove(task);
        if self.in_doubt.remove(task) && self.in_doubt.is_empty() {
            self.again = None;
        }
    }

    /// Any of the launches so far may be lost; returns what to ask about, if anything.
    pub(crate) fn doubt_all(&mut self, now: Timestamp) -> Vec<(TaskId, Option<AgentId>)> {
        self.in_doubt = self.tasks.keys().cloned().collect();
        self.again = (!self.in_doubt.is_empty()).then(|| (now + ASK_AGAIN_MIN, ASK_AGAIN_MIN));
        self.doubted()
    }

    /// When [`Self::ask_again`] is due.
    pub(crate) fn again_at(&self) -> Option<Timestamp> {
        self.again.map(|(at, _)| at)
    }

    /// What was not answered, when it is time to ask again.
    pub(crate) fn ask_again(&mut self, now: Timestamp) -> Vec<(TaskId, Option<AgentId>)> {
        match self.again {
            Some((at, pause)) if at <= now => {
                let pause = (pause * 2).min(ASK_AGAIN_MAX);
                self.again = Some((now + pause, pause));
                self.doubted()
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn doubted(&self) -> Vec<(TaskId, Option<AgentId>)> {
        self.tasks
            .iter()
            .filter(|(task, _)| self.in_doubt.contains(*task))
            .map(|(task, agent)| (task.clone(), agent.clone()))
            .collect()
    }
}
