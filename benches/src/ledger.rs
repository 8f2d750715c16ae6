//! What a framework was promised and what became of it: one account for every task it launched.
//!
//! Pure: launches, updates and what tasks wrote about themselves go in, [`Wrong`]s come out. The
//! rules are those of `docs/design/status-updates.md`: a launch ends in a terminal status, the
//! statuses of a task come in order, and a task runs once. What the framework asks and
//! acknowledges is [`crate::load`]'s.

use std::collections::BTreeMap;
use std::fmt;

use allotment_framework_sdk::Update;
use allotment_framework_sdk::api::TaskState;
use allotment_types::TaskId;

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<TaskId, Account>,
    wrongs: Vec<Wrong>,
    n_ended: usize,
}

/// One task.
#[derive(Debug, Default)]
struct Account {
    /// The statuses that had to be acknowledged, with their uuids, repeats left out.
    heard: Vec<(TaskState, Vec<u8>)>,
    end: Option<TaskState>,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A status of a task that was never launched.
    Unknown {
        /// Which task.
        task: TaskId,
        /// What it is said to be.
        state: TaskState,
    },
    /// A status after one that it must come before.
    OutOfOrder {
        /// Which task.
        task: TaskId,
        /// What was heard before.
        before: TaskState,
        /// And then.
        then: TaskState,
    },
    /// A task that had ended is said to live, or to have ended in another way.
    AfterTheEnd {
        /// Which task.
        task: TaskId,
        /// How it had ended.
        end: TaskState,
        /// What was said later.
        then: TaskState,
    },
    /// No end was ever told.
    Silence {
        /// Which task.
        task: TaskId,
        /// The last status that was heard.
        last: Option<TaskState>,
    },
    /// It wrote more than once that it began.
    RanTwice {
        /// Which task.
        task: TaskId,
        /// How often it began.
        times: usize,
    },
    /// It is said to have finished and did not.
    NotFinished {
        /// Which task.
        task: TaskId,
        /// How often it began and how often it came to its end.
        wrote: Wrote,
    },
    /// It is said never to have been started, and it ran.
    RanAlthough {
        /// Which task.
        task: TaskId,
        /// What was said.
        end: TaskState,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |state: &TaskState| state.as_str_name();
        match self {
            Self::Unknown { task, state } => {
                write!(f, "{task} was never launched but is {}", name(state))
            }
            Self::OutOfOrder { task, before, then } => {
                write!(f, "{task} was {} and then {}", name(before), name(then))
            }
            Self::AfterTheEnd { task, end, then } => {
                write!(
                    f,
                    "{task} had ended as {} and then was {}",
                    name(end),
                    name(then)
                )
            }
            Self::Silence { task, last } => {
                let last = last.as_ref().map_or("nothing at all", name);
                write!(f, "{task} was launched and never ended; last heard: {last}")
            }
            Self::RanTwice { task, times } => write!(f, "{task} ran {times} times"),
            Self::NotFinished { task, wrote } => write!(
                f,
                "{task} is TASK_FINISHED but began {} and ended {} times",
                wrote.began, wrote.ended
            ),
            Self::RanAlthough { task, end } => {
                write!(
                    f,
                    "{task} ran although it is {}, which means never started",
                    name(end)
                )
            }
        }
    }
}

/// What a task wrote about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrote {
    /// How often it began.
    pub began: usize,
    /// How often it came to its end.
    pub ended: usize,
}

/// Reads what tasks wrote: a line `begin ID` and a line `end ID` each.
pub fn read_proofs(text: &str) -> BTreeMap<TaskId, Wrote> {
    let mut all: BTreeMap<TaskId, Wrote> = BTreeMap::new();
    for line in text.lines() {
        let Some((what, id)) = line.split_once(' ') else {
            continue;
        };
        let Ok(task) = TaskId::parse(id) else {
            continue;
        };
        let wrote = all.entry(task).or_default();
        match what {
            "begin" => wrote.began += 1,
            "end" => wrote.ended += 1,
            _ => {}
        }
    }
    all
}

/// How far a task is; a task never goes back. `None`: not a station on its way.
fn station(state: TaskState) -> Option<u8> {
    match state {
        TaskState::TaskStaging => Some(0),
        TaskState::TaskStarting => Some(1),
        TaskState::TaskRunning => Some(2),
        TaskState::TaskKilling => Some(3),
        // Whether anybody knows where it is, is no matter of the task's own.
        TaskState::TaskUnreachable | TaskState::TaskUnknown => None,
        _ => Some(4),
    }
}

impl Ledger {
    /// The framework accepted an offer with this task.
    pub fn on_launch(&mut self, task: TaskId) {
        self.accounts.entry(task).or_default();
    }

    /// The framework heard this.
    pub fn on_update(&mut self, update: &Update) {
        let (task, then) = (update.task.clone(), update.state);
        let Some(account) = self.accounts.get_mut(&task) else {
            self.wrongs.push(Wrong::Unknown { task, state: then });
            return;
        };
        if let Some(end) = account.end {
            // The master's answers repeat an end, or no longer know the task.
            let repeats = match &update.uuid {
                Some(uuid) => account.heard.iter().any(|(_, known)| known == uuid),
                None => update.is_terminal() || station(then).is_none(),
            };
            if !repeats {
                self.wrongs.push(Wrong::AfterTheEnd { task, end, then });
            }
            return;
        }
        if let Some(uuid) = &update.uuid {
            if account.heard.iter().any(|(_, known)| known == uuid) {
                return;
            }
            if let Some((before, _)) = account.heard.last()
                && station(*before) >= station(then)
                && station(then).is_some()
            {
                let before = *before;
                self.wrongs.push(Wrong::OutOfOrder { task, before, then });
                return;
            }
            if station(then).is_some() {
                account.heard.push((then, uuid.to_vec()));
            }
        }
        if update.is_terminal() {
            account.end = Some(then);
            self.n_ended += 1;
        }
    }

    /// How many were launched.
    pub fn n_launched(&self) -> usize {
        self.accounts.len()
    }

    /// How many have ended.
    pub fn n_ended(&self) -> usize {
        self.n_ended
    }

    /// Those that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &TaskId> {
        let open = self.accounts.iter().filter(|(_, a)| a.end.is_none());
        open.map(|(task, _)| task)
    }

    /// How many ended in which way.
    pub fn ends(&self) -> BTreeMap<&'static str, usize> {
        let mut ends = BTreeMap::new();
        for end in self.accounts.values().filter_map(|account| account.end) {
            *ends.entry(end.as_str_name()).or_default() += 1;
        }
        ends
    }

    /// Everything that is wrong, once no more is to come.
    pub fn close(&self, proofs: &BTreeMap<TaskId, Wrote>) -> Vec<Wrong> {
        let mut wrongs = self.wrongs.clone();
        for (task, account) in &self.accounts {
            let wrote = proofs.get(task).copied().unwrap_or_default();
            let task = task.clone();
            if wrote.began > 1 {
                let times = wrote.began;
                wrongs.push(Wrong::RanTwice { task, times });
                continue;
            }
            match account.end {
                None => {
                    let last = account.heard.last().map(|(state, _)| *state);
                    wrongs.push(Wrong::Silence { task, last });
                }
                Some(TaskState::TaskFinished) if wrote != (Wrote { began: 1, ended: 1 }) => {
                    wrongs.push(Wrong::NotFinished { task, wrote });
                }
                Some(end @ (TaskState::TaskDropped | TaskState::TaskError)) if wrote.began > 0 => {
                    wrongs.push(Wrong::RanAlthough { task, end });
                }
                Some(_) => {}
            }
        }
        for (task, wrote) in proofs {
            if !self.accounts.contains_key(task) && wrote.began > 0 {
                let (task, state) = (task.clone(), TaskState::TaskRunning);
                wrongs.push(Wrong::Unknown { task, state });
            }
        }
        wrongs
    }
}

#[cfg(test)]
mod tests {
    use allotment_framework_sdk::api::{Source, TaskState::*};

    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::parse(text).unwrap()
    }

    fn said(task: &str, state: TaskState, uuid: Option<&'static str>) -> Update {
        Update {
            task: id(task),
            agent: None,
            state,
            message: None,
            reason: None,
            source: Source::Master,
            exit: None,
            sandbox: None,
            healthy: None,
            timestamp: 0.0,
            uuid: uuid.map(Into::into),
        }
    }

    fn ledger(updates: &[Update]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.on_launch(id("t"));
        for update in updates {
            ledger.on_update(update);
        }
        ledger
    }

    #[test]
    fn a_task_that_ran_once_and_told_it_in_order_balances() {
        let ledger = ledger(&[
            said("t", TaskStarting, Some("1")),
            said("t", TaskRunning, Some("2")),
            said("t", TaskRunning, Some("2")),
            said("t", TaskUnreachable, None),
            said("t", TaskRunning, None),
            said("t", TaskFinished, Some("3")),
            said("t", TaskFinished, Some("3")),
            said("t", TaskGone, None),
        ]);
        assert_eq!(ledger.close(&read_proofs("begin t\nend t\n")), []);
        assert_eq!((ledger.n_launched(), ledger.n_ended()), (1, 1));
        assert_eq!(ledger.ends(), [("TASK_FINISHED", 1)].into());
    }

    #[test]
    fn silence_is_wrong_and_so_is_a_task_that_nobody_launched() {
        let quiet = ledger(&[said("t", TaskRunning, Some("1"))]);
        let last = Some(TaskRunning);
        let task = id("t");
        assert_eq!(
            quiet.close(&BTreeMap::new()),
            [Wrong::Silence { task, last }]
        );
        assert_eq!(quiet.open().count(), 1);
        let mut strange = ledger(&[said("t", TaskFailed, Some("1"))]);
        strange.on_update(&said("x", TaskRunning, Some("1")));
        assert_eq!(strange.close(&read_proofs("begin y\n")).len(), 2);
    }

    #[test]
    fn statuses_out_of_order_or_after_the_end_are_wrong() {
        let back = ledger(&[
            said("t", TaskRunning, Some("1")),
            said("t", TaskStarting, Some("2")),
            said("t", TaskFailed, Some("3")),
        ]);
        let order = |w: &Wrong| matches!(w, Wrong::OutOfOrder { .. });
        assert!(back.close(&BTreeMap::new()).iter().all(order));
        for then in [
            said("t", TaskRunning, Some("2")),
            said("t", TaskRunning, None),
        ] {
            let ghost = ledger(&[said("t", TaskGone, None), then]);
            let wrongs = ghost.close(&BTreeMap::new());
            assert!(
                matches!(&wrongs[..], [Wrong::AfterTheEnd { .. }]),
                "{wrongs:?}"
            );
        }
    }

    #[test]
    fn what_tasks_wrote_must_agree_with_what_was_said_of_them() {
        for (state, proof, n) in [
            (TaskFinished, "begin t\nend t\nbegin t\n", 1),
            (TaskFinished, "begin t\n", 1),
            (TaskDropped, "begin t\n", 1),
            (TaskGone, "begin t\n", 0),
            (TaskDropped, "", 0),
        ] {
            let ledger = ledger(&[said("t", state, Some("1"))]);
            let wrongs = ledger.close(&read_proofs(proof));
            assert_eq!(wrongs.len(), n, "{state:?} {proof:?}: {wrongs:?}");
        }
    }
}
