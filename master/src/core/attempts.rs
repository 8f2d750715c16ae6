//! Which SUBSCRIBE of a framework, or registration of an agent, is the newest: what says so, and
//! what that means for one that comes late. Mesos lets the last one that arrives win.
//!
//! Soft state: a stream belongs to one reign, and a new one begins with nobody connected.

use std::collections::VecDeque;

use allotment_proto::allot::Attempt;

/// How many processes that gave way are remembered. More of them than these, all dead with their
/// first word still on its way, would take somebody who starts and kills processes of one framework
/// within the life of a dead connection.
const REPLACED_KEPT: usize = 8;

/// Why one does not take over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// The same process has come again since.
    Older {
        /// The number of the newest.
        newest: u64,
    },
    /// Another process has taken over and is there.
    Replaced,
}

/// The SUBSCRIBEs of one framework, or the registrations of one agent.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    newest: Option<Attempt>,
    /// Processes that another has taken over from, the latest last.
    replaced: VecDeque<u64>,
}

impl Attempts {
    /// Whether the latest one is of this process.
    pub(super) fn is_of(&self, process: u64) -> bool {
        self.newest.is_some_and(|newest| newest.process == process)
    }

    /// Whether this one may take over. A process that gave way may not while its place is `taken`.
    ///
    /// # Errors
    /// [`Late`]. Never for one that says nothing of itself, as those of Mesos: the last one that
    /// arrives wins.
    pub(super) fn check(&self, attempt: Option<&Attempt>, taken: bool) -> Result<(), Late> {
        let Some(attempt) = attempt else {
            return Ok(());
        };
        match &self.newest {
            Some(newest) if newest.process == attempt.process => {
                if attempt.number <= newest.number {
                    let newest = newest.number;
                    return Err(Late::Older { newest });
                }
            }
            Some(_) | None => {
                if taken && self.replaced.contains(&attempt.process) {
                    return Err(Late::Replaced);
                }
            }
        }
        Ok(())
    }

    /// This one has taken over.
    pub(super) fn take(&mut self, attempt: Option<Attempt>) {
        let process = attempt.map(|attempt| attempt.process);
        let before = std::mem::replace(&mut self.newest, attempt);
        self.replaced.retain(|replaced| Some(*replaced) != process);
        if let Some(before) = before.filter(|before| Some(before.process) != process) {
            self.replaced.push_back(before.process);
            if self.replaced.len() > REPLACED_KEPT {
                self.replaced.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(process: u64, number: u64) -> Attempt {
        Attempt { process, number }
    }

    fn after(all: &[(u64, u64)]) -> Attempts {
        let mut attempts = Attempts::default();
        for (process, number) in all {
            attempts.take(Some(attempt(*process, *number)));
        }
        attempts
    }

    #[test]
    fn of_one_process_the_highest_number_wins_whenever_it_comes() {
        let attempts = after(&[(7, 3)]);
        assert_eq!(attempts.check(Some(&attempt(7, 4)), true), Ok(()));
        for number in [2, 3] {
            for connected in [true, false] {
                let late = attempts.check(Some(&attempt(7, number)), connected);
                assert_eq!(late, Err(Late::Older { newest: 3 }));
            }
        }
    }

    #[test]
    fn a_process_that_gave_way_comes_back_only_when_nobody_is_there() {
        let attempts = after(&[(7, 3), (8, 1)]);
        let back = attempt(7, 4);
        assert_eq!(attempts.check(Some(&back), true), Err(Late::Replaced));
        assert_eq!(attempts.check(Some(&back), false), Ok(()));
        let attempts = after(&[(7, 3), (8, 1), (7, 4)]);
        assert_eq!(attempts.check(Some(&attempt(7, 5)), true), Ok(()));
        assert_eq!(
            attempts.check(Some(&attempt(8, 2)), true),
            Err(Late::Replaced)
        );
    }

    #[test]
    fn who_says_nothing_of_itself_takes_over_as_in_mesos() {
        let mut attempts = after(&[(7, 3)]);
        assert_eq!(attempts.check(None, true), Ok(()));
        attempts.take(None);
        assert!(!attempts.is_of(7));
        assert_eq!(
            attempts.check(Some(&attempt(7, 4)), true),
            Err(Late::Replaced)
        );
    }
}
