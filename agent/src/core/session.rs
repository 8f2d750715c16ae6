//! Finding a master and staying registered with it.
//!
//! One connection at a time. Every failure waits longer before the next try, with jitter, and
//! moves on to the next master; a registration resets the wait.

use std::time::Duration;

use allotment_proto::allot::Attempt;
use allotment_types::Timestamp;

use super::random::Random;
use super::{Effect, Settings};

/// How long a connection attempt and an answer to `register` may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// After a refusal the operator has to act; asking more often does not help.
const REJECTED_WAIT: Duration = Duration::from_secs(10);
/// Bounds on what a master may announce as ping timeout.
const PING_TIMEOUT: (f64, f64) = (0.1, 3600.0);

/// Where this agent stands with its master.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// Names this process to masters.
    process: u64,
    /// Numbers connections.
    n_sessions: u64,
    n_failures: u32,
    /// How many masters of the list are passed over, so that agents which lose their leader in
    /// the same instant do not all ask the same one.
    passed_over: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting {
        until: Timestamp,
    },
    Connecting {
        session: u64,
        until: Timestamp,
    },
    Registering {
        session: u64,
        until: Timestamp,
    },
    Registered {
        session: u64,
        heard: Timestamp,
        timeout: Duration,
    },
}

impl Session {
    pub(super) const fn new(now: Timestamp, process: u64) -> Self {
        Self {
            state: State::Waiting { until: now },
            process,
            n_sessions: 0,
            n_failures: 0,
            passed_over: 0,
        }
    }

    pub(super) const fn registered(&self) -> bool {
        matches!(self.state, State::Registered { .. })
    }

    /// The connection on which this agent is registered.
    pub(super) const fn current_registered(&self) -> Option<u64> {
        match self.state {
            State::Registered { session, .. } => Some(session),
            State::Waiting { .. } | State::Connecting { .. } | State::Registering { .. } => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        Some(match self.state {
            State::Waiting { until }
            | State::Connecting { until, .. }
            | State::Registering { until, .. } => until,
            State::Registered { heard, timeout, .. } => heard + timeout,
        })
    }

    /// The connection stands: true when it is the current one and `register` is due.
    pub(super) fn on_connected(&mut self, now: Timestamp, session: u64) -> bool {
        match self.state {
            State::Connecting {
                session: current, ..
            } if current == session => {
                let until = now + ANSWER_TIMEOUT;
                self.state = State::Registering { session, until };
                true
            }
            _ => false,
        }
    }

    /// Which registration the one on this connection is.
    pub(super) const fn attempt(&self, session: u64) -> Attempt {
        Attempt {
            process: self.process,
            number: session,
        }
    }

    /// Something came from the master: false when it came on a connection that is over.
    pub(super) fn on_heard(&mut self, now: Timestamp, from: u64) -> bool {
        match &mut self.state {
            State::Registering { session, .. } => *session == from,
            State::Registered { session, heard, .. } if *session == from => {
                *heard = now;
                true
            }
            _ => false,
        }
    }

    pub(super) fn on_registered(&mut self, now: Timestamp, ping_timeout_seconds: f64) {
        let (State::Registering { session, .. } | State::Registered { session, .. }) = self.state
        else {
            return;
        };
        let (min, max) = PING_TIMEOUT;
        // NaN included: clamp would keep it.
        let seconds = if ping_timeout_seconds.is_nan() {
            max
        } else {
            ping_timeout_seconds.clamp(min, max)
        };
        self.n_failures = 0;
        self.state = State::Registered {
            session,
            heard: now,
            timeout: Duration::from_secs_f64(seconds),
        };
    }

    pub(super) fn on_disconnected(
        &mut self,
        now: Timestamp,
        gone: u64,
        settings: &Settings,
        random: &mut Random,
    ) {
        let (State::Connecting { session, .. }
        | State::Registering { session, .. }
        | State::Registered { session, .. }) = self.state
        else {
            return;
        };
        if session == gone {
            self.back_off(now, settings, random);
        }
    }

    pub(super) fn on_rejected(
        &mut self,
        now: Timestamp,
        session: u64,
        settings: &Settings,
        random: &mut Random,
    ) {
        self.on_disconnected(now, session, settings, random);
        if let State::Waiting { until } = &mut self.state {
            *until = (*until).max(now + REJECTED_WAIT.min(settings.reconnect_max));
        }
    }

    fn back_off(&mut self, now: Timestamp, settings: &Settings, random: &mut Random) {
        if self.registered() && settings.n_masters > 2 {
            let others = settings.n_masters.saturating_sub(1).max(1);
            self.passed_over = random.next_u64() % others as u64;
        }
        let doubled = settings
            .reconnect_min
            .saturating_mul(1 << self.n_failures.min(16));
        self.n_failures = self.n_failures.saturating_add(1);
        let wait = random.jittered(doubled.min(settings.reconnect_max));
        self.state = State::Waiting { until: now + wait };
    }

    /// Connects when it is time, and gives up on a master that says nothing.
    pub(super) fn act_on_time(
        &mut self,
        now: Timestamp,
        settings: &Settings,
        random: &mut Random,
    ) -> Option<Effect> {
        match self.state {
            State::Waiting { until } if until <= now => {
                let session = self.n_sessions;
                self.n_sessions += 1;
                // Each failure moves on to the next master.
                let place = self.passed_over.saturating_add(self.n_failures.into());
                let master = place % (settings.n_masters.max(1) as u64);
                let master = usize::try_from(master).unwrap_or_default();
                let until = now + ANSWER_TIMEOUT;
                self.state = State::Connecting { session, until };
                Some(Effect::Connect { session, master })
            }
            State::Connecting { session, until } | State::Registering { session, until }
                if until <= now =>
            {
                self.back_off(now, settings, random);
                let reason = format!("the master did not answer within {ANSWER_TIMEOUT:?}");
                Some(Effect::Disconnect { session, reason })
            }
            State::Registered {
                session,
                heard,
                timeout,
            } if heard + timeout <= now => {
                self.back_off(now, settings, random);
                let reason =
                    format!("nothing came from the master for {timeout:?}, no ping either");
                Some(Effect::Disconnect { session, reason })
            }
            _ => None,
        }
    }
}
