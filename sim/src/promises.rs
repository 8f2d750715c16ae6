//! What the masters promised together, kept apart from all of them.
//!
//! Every proposal of the reign that is, and how many of them were acknowledged, is enough to say
//! exactly which registries the next reign may begin with: the promised one, and what was
//! proposed after it up to some point, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_master::core::registry::{Record, Registry};
use allotment_types::{FrameworkId, Timestamp};

/// Who leads in which term, and what was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Who led in each term, by places.
    leaders: BTreeMap<u64, usize>,
    /// The term of the latest reign.
    term: u64,
    /// All that was acknowledged.
    promised: Registry,
    /// Proposed in the latest reign and not acknowledged, oldest first.
    proposed: VecDeque<Vec<Record>>,
    /// Proposals of the latest reign that were acknowledged.
    acknowledged: u64,
    /// When the latest was.
    acknowledged_at: Timestamp,
    /// Frameworks that were told that they are subscribed.
    subscribed: BTreeSet<FrameworkId>,
}

/// How long a copy may lack what was acknowledged: a follower learns with the next heartbeat what
/// is committed.
const LAG_MAX: Duration = Duration::from_secs(5);

impl Promises {
    /// Reigns so far.
    pub(crate) fn n_reigns(&self) -> usize {
        self.leaders.len()
    }

    /// All that was acknowledged.
    pub(crate) fn promised(&self) -> &Registry {
        &self.promised
    }

    /// A master told a framework that it is subscribed: each later one knows it, or that it was
    /// removed, and how long it may stay away.
    pub(crate) fn on_subscribed(&mut self, framework: FrameworkId) {
        self.subscribed.insert(framework);
    }

    /// A master begins to lead with this registry.
    ///
    /// # Errors
    /// When somebody else led in this term or in a later one, when the registry is not what was
    /// acknowledged and proposed before, or when it lacks a framework that was told otherwise.
    pub(crate) fn on_lead(
        &mut self,
        place: usize,
        term: u64,
        registry: &Registry,
    ) -> Result<(), String> {
        if let Some(other) = self.leaders.insert(term, place) {
            return Err(format!(
                "one leader in a term, and once: in term {term} master {other} led and master \
                 {place} begins to lead"
            ));
        }
        if term < self.term {
            return Err(format!(
                "one leader in a term: master {place} begins to lead in term {term} after \
                 somebody led in term {}",
                self.term
            ));
        }
        let lacks = difference(&self.promised, registry);
        while self.promised != *registry {
            let Some(records) = self.proposed.pop_front() else {
                return Err(format!(
                    "an acknowledged registry write survives: master {place} begins term {term} \
                     with a registry that nobody was promised; beside what was acknowledged {lacks}"
                ));
            };
            for record in records {
                self.promised.apply(record);
            }
        }
        let known = |id: &&FrameworkId| self.promised.frameworks.contains_key(*id);
        if let Some(lost) = self.subscribed.iter().find(|id| !known(id)) {
            return Err(format!(
                "an acknowledged registry write survives: master {place} begins term {term} and \
                 does not know framework {lost}, which was told that it is subscribed"
            ));
        }
        self.term = term;
        self.proposed.clear();
        self.acknowledged = 0;
        Ok(())
    }

    /// The leader of a term proposes records.
    pub(crate) fn on_proposed(&mut self, term: u64, records: &[Record]) {
        if term == self.term {
            self.proposed.push_back(records.to_vec());
        }
    }

    /// The leader of a term may tell what it proposed up to `sequence`.
    pub(crate) fn on_committed(&mut self, now: Timestamp, term: u64, sequence: u64) {
        if term != self.term {
            return;
        }
        self.acknowledged_at = now;
        while self.acknowledged < sequence
            && let Some(records) = self.proposed.pop_front()
        {
            self.acknowledged += 1;
            for record in records {
                self.promised.apply(record);
            }
        }
    }

    /// After everything settled: this master's copy is the promised registry, unless that has
    /// only just changed.
    ///
    /// # Errors
    /// When it is another.
    pub(crate) fn check_copy(
        &self,
        now: Timestamp,
        place: usize,
        copy: &Registry,
    ) -> Result<(), String> {
        if *copy == self.promised || now.since(self.acknowledged_at) < LAG_MAX {
            return Ok(());
        }
        Err(format!(
            "views converge: the copy of master {place} is not the registry that was \
             acknowledged; {}",
            difference(&self.promised, copy)
        ))
    }
}

/// Where two registries differ, in a few words.
fn difference(promised: &Registry, found: &Registry) -> String {
    fn of<K: Ord + std::fmt::Debug, V: PartialEq>(
        what: &str,
        promised: &BTreeMap<K, V>,
        found: &BTreeMap<K, V>,
    ) -> Option<String> {
        let missing = promised.iter().find(|(key, _)| !found.contains_key(key));
        let beyond = found.iter().find(|(key, _)| !promised.contains_key(key));
        let other = found
            .iter()
            .find(|(key, value)| promised.get(key).is_some_and(|v| v != *value));
        let told = missing.map(|(key, _)| format!("{what} {key:?} is missing"));
        let told = told.or_else(|| beyond.map(|(key, _)| format!("{what} {key:?} is too much")));
        told.or_else(|| other.map(|(key, _)| format!("{what} {key:?} is another")))
    }
    of("agent", &promised.agents, &found.agents)
        .or_else(|| of("framework", &promised.frameworks, &found.frameworks))
        .or_else(|| of("namespace", &promised.store, &found.store))
        .or_else(|| of("the weight of", &promised.weights, &found.weights))
        .or_else(|| of("the quota of", &promised.quotas, &found.quotas))
        .or_else(|| of("the wish for", &promised.wishes, &found.wishes))
        .unwrap_or_else(|| {
            format!(
                "the store is at version {}, not {}",
                found.store_version, promised.store_version
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_master::core::registry::WeightRecord;

    fn weight(thousandths: u64) -> Vec<Record> {
        let role = "web".to_owned();
        vec![Record::Weight(WeightRecord { role, thousandths })]
    }

    fn after(weights: &[u64]) -> Registry {
        let mut registry = Registry::default();
        for thousandths in weights {
            for record in weight(*thousandths) {
                registry.apply(record);
            }
        }
        registry
    }

    /// Two proposals, the first acknowledged.
    fn promises() -> Promises {
        let mut promises = Promises::default();
        promises.on_lead(0, 2, &after(&[])).unwrap();
        promises.on_proposed(2, &weight(1500));
        promises.on_proposed(2, &weight(2000));
        promises.on_committed(Timestamp::ZERO, 2, 1);
        promises
    }

    #[test]
    fn the_next_leader_may_know_what_was_not_acknowledged_but_must_know_what_was() {
        for known in [vec![1500], vec![1500, 2000]] {
            assert_eq!(promises().on_lead(1, 3, &after(&known)), Ok(()));
        }
        for wrong in [vec![], vec![700]] {
            assert!(promises().on_lead(1, 3, &after(&wrong)).is_err());
        }
    }

    #[test]
    fn a_framework_that_was_told_that_it_is_subscribed_is_known_to_the_next_leader() {
        let mut promises = promises();
        promises.on_subscribed(FrameworkId::parse("F1").unwrap());
        let lost = promises.on_lead(1, 3, &after(&[1500])).unwrap_err();
        assert!(lost.contains("F1"), "{lost}");
    }

    #[test]
    fn nobody_leads_in_the_term_of_another_or_before_it_or_twice_in_its_own() {
        for (place, term) in [(1, 2), (1, 1), (0, 2)] {
            assert!(promises().on_lead(place, term, &after(&[1500])).is_err());
        }
    }

    #[test]
    fn what_an_old_leader_still_hopes_for_counts_for_nothing() {
        let mut promises = promises();
        promises.on_lead(1, 3, &after(&[1500])).unwrap();
        promises.on_proposed(2, &weight(2000));
        promises.on_committed(Timestamp::ZERO, 2, 3);
        let later = Timestamp::from_secs(60);
        assert_eq!(promises.check_copy(later, 1, &after(&[1500])), Ok(()));
        assert!(promises.check_copy(later, 0, &after(&[2000])).is_err());
    }
}
