//! What became of the offers that a waiting app was shown.

use std::collections::BTreeMap;

use allotment_types::{AgentId, Timestamp};
use serde_json::{Value, json};

use super::id::iso;
use super::place::Reason;

/// Agents remembered per waiting app: enough to tell why, bounded whatever the cluster's size.
const AGENTS_MAX: usize = 10_000;

/// Counts since the app began to wait.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Funnel {
    /// Since when it waits; `None` when it does not.
    pub since: Option<Timestamp>,
    processed: u64,
    unused: u64,
    last_used: Option<Timestamp>,
    last_unused: Option<Timestamp>,
    attempt: BTreeMap<Reason, u64>,
    last: BTreeMap<AgentId, Option<Reason>>,
}

impl Funnel {
    /// The app began to wait.
    pub fn begin(&mut self, now: Timestamp) {
        if self.since.is_none() {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
    }

    /// Nothing of the app waits any more.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// An offer of `agent` was examined and used, or not for `reason`.
    pub fn on_offer(&mut self, now: Timestamp, agent: &AgentId, reason: Option<Reason>) {
        self.processed += 1;
        match reason {
            Some(reason) => {
                self.unused += 1;
                self.last_unused = Some(now);
                *self.attempt.entry(reason).or_insert(0) += 1;
            }
            None => self.last_used = Some(now),
        }
        if self.last.len() < AGENTS_MAX || self.last.contains_key(agent) {
            self.last.insert(agent.clone(), reason);
        }
    }

    /// An agent is gone.
    pub fn forget(&mut self, agent: &AgentId) {
        self.last.remove(agent);
    }

    /// `processedOffersSummary`.
    pub fn summary(&self) -> Value {
        let mut last = BTreeMap::new();
        for reason in self.last.values().flatten() {
            *last.entry(*reason).or_insert(0) += 1;
        }
        let n_last = u64::try_from(self.last.len()).unwrap_or(u64::MAX);
        let mut summary = json!({
            "processedOffersCount": self.processed,
            "unusedOffersCount": self.unused,
            "rejectSummaryLastOffers": steps(n_last, &last),
            "rejectSummaryLaunchAttempt": steps(self.processed, &self.attempt),
        });
        for (key, at) in [
            ("lastUnusedOfferAt", self.last_unused),
            ("lastUsedOfferAt", self.last_used),
        ] {
            if let Some(at) = at {
                summary[key] = json!(iso(at));
            }
        }
        summary
    }
}

/// Each reason sees only the offers that all earlier ones let pass.
fn steps(processed: u64, declined: &BTreeMap<Reason, u64>) -> Vec<Value> {
    let mut left = processed;
    Reason::ALL
        .into_iter()
        .map(|reason| {
            let here = declined.get(&reason).copied().unwrap_or(0);
            let step = json!({ "reason": reason.name(), "declined": here, "processed": left });
            left = left.saturating_sub(here);
            step
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_the_funnel_sees_what_the_earlier_ones_let_pass() {
        let mut funnel = Funnel::default();
        funnel.begin(Timestamp::ZERO);
        for (agent, reason) in [
            ("a", Some(Reason::InsufficientCpus)),
            ("b", Some(Reason::UnfulfilledConstraint)),
            ("a", Some(Reason::InsufficientPorts)),
            ("c", None),
        ] {
            funnel.on_offer(Timestamp::ZERO, &AgentId::parse(agent).unwrap(), reason);
        }
        let summary = funnel.summary();
        let step = |list: &str, i: usize| {
            let s = &summary[list][i];
            (
                s["processed"].as_u64().unwrap(),
                s["declined"].as_u64().unwrap(),
            )
        };
        assert_eq!(summary["processedOffersCount"], 4);
        assert_eq!(summary["unusedOffersCount"], 3);
        assert_eq!(step("rejectSummaryLaunchAttempt", 1), (4, 1));
        assert_eq!(step("rejectSummaryLaunchAttempt", 2), (3, 1));
        assert_eq!(step("rejectSummaryLaunchAttempt", 5), (2, 1));
        assert_eq!(step("rejectSummaryLastOffers", 1), (3, 1));
        assert_eq!(step("rejectSummaryLastOffers", 2), (2, 0));
        assert_eq!(step("rejectSummaryLastOffers", 5), (2, 1));
    }
}
