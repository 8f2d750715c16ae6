//! The launch delay of an app whose tasks end.

use std::time::Duration;

use allotment_types::Timestamp;

use super::app::App;

/// How long an app waits before its next launch. Not durable: a new services process tries at
/// once, as Marathon does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Backoff {
    delay: Duration,
    until: Option<Timestamp>,
    failures: u32,
    /// The end of the delay was not acted upon yet.
    pending: bool,
}

impl Backoff {
    /// A task of the present configuration failed or finished.
    pub fn on_failure(&mut self, now: Timestamp, app: &App) {
        let calm = self.delay + app.backoff_max();
        let first = self.until.is_none_or(|until| now > until + calm);
        let next = if first {
            self.failures = 0;
            app.backoff()
        } else {
            Duration::try_from_secs_f64(self.delay.as_secs_f64() * app.backoff_factor)
                .unwrap_or(Duration::MAX)
        };
        self.failures = self.failures.saturating_add(1);
        self.delay = next.min(app.backoff_max());
        self.until = Some(now + self.delay);
        self.pending = true;
    }

    /// Launches may go on at once.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// When launches may go on, if not now.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| *until > now)
    }

    /// When the delay ends, unless [`Self::take_end`] told so already.
    pub fn pending_end(&self) -> Option<Timestamp> {
        self.until.filter(|_| self.pending)
    }

    /// Whether the delay is over; true once.
    pub fn take_end(&mut self, now: Timestamp) -> bool {
        let ended = self.pending_end().is_some_and(|until| until <= now);
        self.pending &= !ended;
        ended
    }

    /// Failures since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::app;

    #[test]
    fn the_delay_grows_by_the_factor_up_to_the_largest() {
        let app = app(
            r#"{"id":"/a","cmd":"sleep 1","backoffSeconds":10,"backoffFactor":2,"maxLaunchDelaySeconds":60}"#,
        );
        let mut backoff = Backoff::default();
        let mut now = Timestamp::from_secs(1000);
        let mut delays = Vec::new();
        for _ in 0..5 {
            backoff.on_failure(now, &app);
            let until = backoff.until(now).unwrap();
            delays.push(until.since(now).as_secs());
            now = until;
        }
        assert_eq!(delays, [10, 20, 40, 60, 60]);
        assert_eq!(backoff.until(now), None);
    }

    #[test]
    fn a_long_time_without_failures_starts_over() {
        let app = app(
            r#"{"id":"/a","cmd":"sleep 1","backoffSeconds":10,"backoffFactor":2,"maxLaunchDelaySeconds":60}"#,
        );
        let mut backoff = Backoff::default();
        backoff.on_failure(Timestamp::from_secs(0), &app);
        backoff.on_failure(Timestamp::from_secs(10), &app);
        assert_eq!(backoff.failures(), 2);
        // The delay of 20 s ended at 30 s; 20 + 60 s of calm end at 110 s.
        backoff.on_failure(Timestamp::from_secs(111), &app);
        assert_eq!(backoff.failures(), 1);
    }
}
