//! The group's clock: deadlines that are kept in the log mean the same under every leader.
//!
//! The leader's clock runs with its own monotonic time; its heartbeats tell it to the others, who
//! go on from there when one of them leads. So the machines' wall clocks may differ, or jump,
//! without moving a deadline. Only where nothing was heard, after everybody was down, does the
//! wall clock decide, and never backwards past what the log says.

use allotment_types::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupClock {
    group: Timestamp,
    local: Timestamp,
}

impl GroupClock {
    /// Begins with the machine's own time.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            group: now,
            local: now,
        }
    }

    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        self.group + now.since(self.local)
    }

    /// The leader says that it is `group` now.
    pub(crate) fn on_leader(&mut self, now: Timestamp, group: Timestamp) {
        self.group = group;
        self.local = now;
    }

    /// The log says that it has been `group` once.
    pub(crate) fn on_past(&mut self, now: Timestamp, group: Timestamp) {
        if self.at(now) < group {
            self.on_leader(now, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_goes_on_with_its_leaders_time() {
        let secs = Timestamp::from_secs;
        let mut clock = GroupClock::new(secs(5000));
        clock.on_leader(secs(5010), secs(100));
        assert_eq!(clock.at(secs(5013)), secs(103));
        clock.on_past(secs(5013), secs(50));
        assert_eq!(clock.at(secs(5013)), secs(103));
        clock.on_past(secs(5013), secs(500));
        assert_eq!(clock.at(secs(5014)), secs(501));
    }
}
