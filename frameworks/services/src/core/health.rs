//! Health as Marathon judges it, from the outcomes of probes that the edge performs.
//!
//! One thing differs on purpose: until the first success, within the grace period, a probe that
//! failed is repeated soon (100 ms, doubling up to the interval) instead of a whole interval
//! later, so that an instance counts as healthy shortly after it is.

use std::time::Duration;

use allotment_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::app::HealthCheck;

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP answer came.
    Status(u16),
    /// The TCP connection was made.
    Connected,
    /// Nothing useful came: refused, timed out, not HTTP.
    Failed(String),
}

/// What one health check knows of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct CheckState {
    /// The latest verdict.
    pub alive: bool,
    /// Failures since the last success, those in grace aside.
    pub consecutive_failures: u32,
    /// When it first succeeded, in milliseconds.
    pub first_success: Option<u64>,
    /// When it last succeeded.
    pub last_success: Option<u64>,
    /// When it last failed.
    pub last_failure: Option<u64>,
    /// Why it last failed.
    pub last_failure_cause: Option<String>,
    /// When the next probe is due; `None` while one is under way or the task does not run.
    #[serde(skip)]
    pub due: Option<Timestamp>,
    /// The pause before the next early probe.
    #[serde(skip)]
    quick: Duration,
}

/// What a probe's outcome means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that anybody must hear.
    Same,
    /// The check became alive or ceased to be.
    Changed,
    /// Too many failures in a row: the instance is to be killed.
    Kill,
}

const QUICK_FIRST: Duration = Duration::from_millis(100);

impl CheckState {
    /// The task runs: probe at once.
    pub fn begin(&mut self, now: Timestamp) {
        self.due = Some(now);
        self.quick = QUICK_FIRST;
    }

    /// Whether any verdict was reached.
    pub fn is_known(&self) -> bool {
        self.alive || self.consecutive_failures > 0
    }

    /// Takes in what the agent found that asks in our stead, counts failures and kills. `is_news`
    /// unless it was said before.
    pub fn on_found(&mut self, now: Timestamp, found: Result<(), &str>, is_news: bool) -> Verdict {
        let was = (self.is_known(), self.alive);
        match found {
            Ok(()) => {
                self.alive = true;
                self.consecutive_failures = 0;
                self.first_success.get_or_insert(now.as_millis());
                self.last_success = Some(now.as_millis());
            }
            Err(cause) => {
                self.alive = false;
                if is_news || self.consecutive_failures == 0 {
                    self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                }
                self.last_failure = Some(now.as_millis());
                self.last_failure_cause = Some(cause.to_owned());
            }
        }
        if was == (true, self.alive) {
            Verdict::Same
        } else {
            Verdict::Changed
        }
    }

    /// Takes in how a probe of a task that runs since `started` ended.
    pub fn on_outcome(
        &mut self,
        check: &HealthCheck,
        started: Timestamp,
        now: Timestamp,
        outcome: &Outcome,
    ) -> Verdict {
        let interval = Duration::from_secs(check.interval_seconds);
        self.due = Some(now + interval);
        let cause = match outcome {
            Outcome::Connected => None,
            Outcome::Status(100..=199) if check.ignore_http1xx => return Verdict::Same,
            Outcome::Status(200..=399) => None,
            Outcome::Status(status) => Some(format!("the answer has status {status}")),
            Outcome::Failed(cause) => Some(cause.clone()),
        };
        let Some(cause) = cause else {
            let was = self.alive;
            self.alive = true;
            self.consecutive_failures = 0;
            self.first_success.get_or_insert(now.as_millis());
            self.last_success = Some(now.as_millis());
            return if was { Verdict::Same } else { Verdict::Changed };
        };
        self.last_failure = Some(now.as_millis());
        self.last_failure_cause = Some(cause);
        let grace = Duration::from_secs(check.grace_period_seconds);
        if self.first_success.is_none() && now < started + grace {
            self.quick = self.quick.max(QUICK_FIRST);
            self.due = Some(now + self.quick.min(interval));
            self.quick = self.quick.saturating_mul(2);
            return Verdict::Same;
        }
        let was = self.alive;
        self.alive = false;
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        let most = check.max_consecutive_failures;
        if most > 0 && self.consecutive_failures >= most {
            Verdict::Kill
        } else if was || self.consecutive_failures == 1 {
            Verdict::Changed
        } else {
            Verdict::Same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::app::CheckProtocol;

    fn check() -> HealthCheck {
        HealthCheck {
            grace_period_seconds: 10,
            ignore_http1xx: false,
            interval_seconds: 5,
            max_consecutive_failures: 3,
            path: Some("/".to_owned()),
            command: None,
            port: None,
            port_index: Some(0),
            protocol: CheckProtocol::Http,
            timeout_seconds: 2,
            delay_seconds: 15,
        }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn what_the_agent_finds_is_counted_once_for_each_time_it_finds_it() {
        let mut state = CheckState::default();
        assert_eq!(state.on_found(at(1), Err("sick"), true), Verdict::Changed);
        assert_eq!(state.on_found(at(2), Err("sick"), true), Verdict::Same);
        assert_eq!(state.on_found(at(3), Err("sick"), false), Verdict::Same);
        assert_eq!((state.alive, state.consecutive_failures), (false, 2));
        assert_eq!(state.on_found(at(4), Ok(()), true), Verdict::Changed);
        assert_eq!(state.on_found(at(5), Ok(()), false), Verdict::Same);
        assert_eq!((state.alive, state.consecutive_failures), (true, 0));
        assert_eq!(state.last_failure_cause.as_deref(), Some("sick"));
    }

    #[test]
    fn failures_in_grace_before_any_success_do_not_count() {
        let mut state = CheckState::default();
        state.begin(at(0));
        let bad = Outcome::Failed("refused".to_owned());
        for second in 0..10 {
            assert_eq!(
                state.on_outcome(&check(), at(0), at(second), &bad),
                Verdict::Same
            );
        }
        assert_eq!(state.consecutive_failures, 0);
        assert_eq!(
            state.on_outcome(&check(), at(0), at(10), &bad),
            Verdict::Changed
        );
        assert_eq!(
            state.on_outcome(&check(), at(0), at(15), &bad),
            Verdict::Same
        );
        assert_eq!(
            state.on_outcome(&check(), at(0), at(20), &bad),
            Verdict::Kill
        );
    }

    #[test]
    fn after_a_success_grace_protects_no_more() {
        let mut state = CheckState::default();
        state.begin(at(0));
        assert_eq!(
            state.on_outcome(&check(), at(0), at(1), &Outcome::Status(200)),
            Verdict::Changed
        );
        assert_eq!(
            state.on_outcome(&check(), at(0), at(2), &Outcome::Status(500)),
            Verdict::Changed
        );
        assert!(!state.alive);
        assert_eq!(
            state.on_outcome(&check(), at(0), at(3), &Outcome::Status(399)),
            Verdict::Changed
        );
        assert_eq!(state.consecutive_failures, 0);
    }

    #[test]
    fn zero_consecutive_failures_never_kill() {
        let never = HealthCheck {
            max_consecutive_failures: 0,
            grace_period_seconds: 0,
            ..check()
        };
        let mut state = CheckState::default();
        for second in 0..100 {
            let bad = Outcome::Failed("refused".to_owned());
            assert_ne!(
                state.on_outcome(&never, at(0), at(second), &bad),
                Verdict::Kill
            );
        }
    }

    #[test]
    fn early_probes_come_soon_and_then_at_the_interval() {
        let mut state = CheckState::default();
        state.begin(at(0));
        let bad = Outcome::Failed("refused".to_owned());
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            state.on_outcome(&check(), at(0), now, &bad);
            let due = state.due.unwrap();
            pauses.push(due.since(now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
