//! Filters: what a client declined on an agent is kept from it for a while.
//!
//! Each agent keeps the filters on it, sorted by client: sixteen bytes each. When there are many,
//! a mask says which clients have one that covers everything the agent has free, so that an agent
//! which everybody declined costs a round a few words.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use allotment_types::{Resources, Timestamp};
use fixedbitset::FixedBitSet;

use super::bundle::Bundle;
use super::slab::Slot;

/// The most filters per client and agent.
const PER_CLIENT_MAX: usize = 16;

/// Fewer filters than this are looked through as fast as a mask.
const MASK_AT: usize = 16;

/// The filters on one agent.
#[derive(Debug, Default)]
pub(crate) struct AgentFilters {
    /// By client, and then by age, the oldest first.
    entries: Vec<Entry>,
    /// What was declined, with the number of filters.
    refused: Vec<(Bundle, u32)>,
    mask: Option<Box<Mask>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: Timestamp,
    client: Slot,
    /// Index into `refused`.
    refused: u32,
}

/// Which clients have a filter that contains `what`.
#[derive(Debug)]
struct Mask {
    what: Bundle,
    clients: FixedBitSet,
}

impl AgentFilters {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn of(&self, client: Slot) -> &[Entry] {
        let begin = self.entries.partition_point(|e| e.client < client);
        let rest = &self.entries[begin..];
        let n = rest.iter().take_while(|e| e.client == client).count();
        &rest[..n]
    }

    /// Whether the client has a filter here.
    fn has(&self, client: Slot) -> bool {
        !self.of(client).is_empty()
    }

    /// Whether the client has a filter here that ends at `until`.
    pub(crate) fn has_ending(&self, client: Slot, until: Timestamp) -> bool {
        self.of(client).iter().any(|entry| entry.until == until)
    }

    /// Until when a filter of the client contains `what`, at `now`; the one that ends last.
    pub(crate) fn blocked_until(
        &self,
        now: Timestamp,
        client: Slot,
        what: &Resources,
    ) -> Option<Timestamp> {
        let mine = self.of(client).iter();
        mine.filter(|e| now < e.until)
            .filter(|e| self.refused[e.refused as usize].0.contains(what))
            .map(|e| e.until)
            .max()
    }

    /// Whether the mask says that the client declined everything that is free.
    pub(crate) fn masks(&self, client: Slot) -> bool {
        let mask = self.mask.as_ref();
        mask.is_some_and(|mask| mask.clients.contains(client as usize))
    }

    /// Whether every one of `clients` declined everything that is free.
    pub(crate) fn masks_all(&self, clients: &FixedBitSet) -> bool {
        let mask = self.mask.as_ref();
        mask.is_some_and(|mask| clients.is_subset(&mask.clients))
    }

    /// Whether every one of `clients` that is not among `but` declined everything that is free.
    pub(crate) fn masks_all_but(&self, clients: &FixedBitSet, but: &FixedBitSet) -> bool {
        let masked = |at| {
            let mask = self.mask.as_ref();
            mask.is_some_and(|mask| mask.clients.contains(at))
        };
        clients.difference(but).all(masked)
    }

    /// Makes the mask speak of `what`; `n_clients` bounds the slots. Filters that ended by time
    /// were taken away before.
    pub(crate) fn prepare(&mut self, what: &Bundle, n_clients: usize) {
        // A mask must not cost more than the filters themselves.
        if self.entries.len() < MASK_AT || self.entries.len() * 64 < n_clients {
            self.mask = None;
            return;
        }
        if self
            .mask
            .as_ref()
            .is_some_and(|mask| Arc::ptr_eq(&mask.what, what))
        {
            return;
        }
        let mut clients = FixedBitSet::with_capacity(n_clients);
        let covers: Vec<bool> = self.refused.iter().map(|(b, _)| covers(b, what)).collect();
        for entry in &self.entries {
            if covers[entry.refused as usize] {
                clients.grow_and_insert(entry.client as usize);
            }
        }
        self.mask = Some(Box::new(Mask {
            what: Arc::clone(what),
            clients,
        }));
    }

    /// Adds a filter. Returns how many the client has more by it: none when an old one went.
    fn add(&mut self, client: Slot, refused: &Bundle, until: Timestamp) -> u32 {
        let refused_at = self.intern(refused);
        let mine = self.of(client).len();
        let end = self.entries.partition_point(|e| e.client <= client);
        if self.entries.len() == self.entries.capacity() {
            // Doubling would leave up to half of the largest table unused.
            self.entries.reserve_exact(4 + self.entries.len() / 4);
        }
        let entry = Entry {
            until,
            client,
            refused: refused_at,
        };
        self.entries.insert(end, entry);
        if let Some(mask) = &mut self.mask
            && covers(refused, &mask.what)
        {
            mask.clients.grow_and_insert(client as usize);
        }
        if mine < PER_CLIENT_MAX {
            return 1;
        }
        let first_to_end = (end - mine..=end).min_by_key(|at| (self.entries[*at].until, *at));
        if let Some(at) = first_to_end {
            self.remove_at(at);
        }
        0
    }

    fn intern(&mut self, refused: &Bundle) -> u32 {
        let found = self
            .refused
            .iter()
            .position(|(b, _)| Arc::ptr_eq(b, refused));
        let at = found
            .or_else(|| self.refused.iter().position(|(_, n)| *n == 0))
            .unwrap_or(self.refused.len());
        if at == self.refused.len() {
            self.refused.push((Arc::clone(refused), 0));
        }
        let slot = &mut self.refused[at];
        if slot.1 == 0 {
            slot.0 = Arc::clone(refused);
        }
        slot.1 += 1;
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn remove_at(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        self.refused[entry.refused as usize].1 -= 1;
        self.refresh_mask(entry.client);
    }

    fn refresh_mask(&mut self, client: Slot) {
        if let Some(mask) = &self.mask {
            let mine = self.of(client).iter();
            let masked = mine
                .map(|e| &self.refused[e.refused as usize].0)
                .any(|refused| covers(refused, &mask.what));
            if let Some(mask) = &mut self.mask {
                mask.clients.grow(client as usize + 1);
                mask.clients.set(client as usize, masked);
            }
        }
    }

    /// Takes away what ended by `now` of the client's filters; says how many.
    fn expire(&mut self, now: Timestamp, client: Slot) -> u32 {
        self.drop_where(client, |entry| entry.until <= now)
    }

    /// Takes away all filters of the client; says how many.
    fn forget(&mut self, client: Slot) -> u32 {
        self.drop_where(client, |_| true)
    }

    fn drop_where(&mut self, client: Slot, ended: impl Fn(&Entry) -> bool) -> u32 {
        let begin = self.entries.partition_point(|e| e.client < client);
        let mut at = begin;
        let mut n = 0;
        while self.entries.get(at).is_some_and(|e| e.client == client) {
            if ended(&self.entries[at]) {
                let entry = self.entries.remove(at);
                self.refused[entry.refused as usize].1 -= 1;
                n += 1;
            } else {
                at += 1;
            }
        }
        if n > 0 {
            self.refresh_mask(client);
        }
        if self.entries.is_empty() {
            *self = Self::default();
        }
        n
    }

    /// The clients with filters here, with how many each.
    fn clients(&self) -> impl Iterator<Item = Slot> + '_ {
        self.entries.iter().map(|e| e.client)
    }
}

/// A filter covers whatever is contained in what was declined.
fn covers(refused: &Bundle, what: &Bundle) -> bool {
    Arc::ptr_eq(refused, what) || refused.contains(&what.resources)
}

/// On which agents a client has filters.
#[derive(Debug, Default)]
pub(crate) struct ClientFilters {
    n: u32,
    /// Each agent at least once; some where the filters ended since.
    agents: Vec<Slot>,
    /// At this length agents that stand there twice are taken out: twice what was left the last
    /// time, so that a long list of ended filters is not sorted for every new one.
    tidy_at: usize,
}

/// When filters end.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// Some of filters that are gone since.
    heap: BinaryHeap<Reverse<Expiry>>,
    /// How many filters that end there are.
    n: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Expiry {
    until: Timestamp,
    agent: Slot,
    client: Slot,
}

impl Expiries {
    /// When the next filter ends, at the latest.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(expiry)| expiry.until)
    }

    /// Adds a filter.
    pub(crate) fn add(
        &mut self,
        (agent, on): (Slot, &mut AgentFilters),
        (client, of): (Slot, &mut ClientFilters),
        refused: &Bundle,
        until: Timestamp,
    ) {
        let known = on.has(client);
        let more = on.add(client, refused, until);
        of.n += more;
        self.n += more as usize;
        if !known {
            if of.agents.len() >= of.tidy_at.max(64) {
                of.agents.sort_unstable();
                of.agents.dedup();
                of.tidy_at = 2 * of.agents.len();
            }
            of.agents.push(agent);
        }
        self.heap.push(Reverse(Expiry {
            until,
            agent,
            client,
        }));
    }

    /// Whether filters ended by `now` that were not looked at.
    pub(crate) fn any_due(&self, now: Timestamp) -> bool {
        self.next().is_some_and(|until| until <= now)
    }

    /// Agents and clients whose filters may have ended by `now`, each once; at most so many.
    pub(crate) fn due(&mut self, now: Timestamp, most: u64) -> Vec<(Slot, Slot)> {
        let mut due = Vec::new();
        while let Some(Reverse(expiry)) = self.heap.peek()
            && expiry.until <= now
            && (due.len() as u64) < most
        {
            due.push((expiry.agent, expiry.client));
            self.heap.pop();
        }
        due.sort_unstable();
        due.dedup();
        due
    }

    /// Takes away what ended by `now`; says whether anything did.
    pub(crate) fn expire(
        &mut self,
        now: Timestamp,
        on: &mut AgentFilters,
        (client, of): (Slot, &mut ClientFilters),
    ) -> bool {
        let n = on.expire(now, client);
        of.n -= n;
        self.n -= n as usize;
        n > 0
    }

    /// Takes away all filters of a client on one agent; says whether there were any.
    pub(crate) fn forget(
        &mut self,
        on: &mut AgentFilters,
        (client, of): (Slot, &mut ClientFilters),
    ) -> bool {
        let n = on.forget(client);
        of.n -= n;
        self.n -= n as usize;
        n > 0
    }

    /// Takes away all filters on an agent that goes; `each` is told the client of each.
    pub(crate) fn forget_agent(&mut self, on: &mut AgentFilters, mut each: impl FnMut(Slot)) {
        self.n -= on.len();
        on.clients().for_each(&mut each);
        *on = AgentFilters::default();
    }

    /// Forgets the ends of filters that are gone, when they are next or most of what is kept.
    /// `on` finds the filters of an agent.
    pub(crate) fn sweep<'a>(&mut self, on: impl Fn(Slot) -> Option<&'a AgentFilters>) {
        let alive = |e: &Expiry| on(e.agent).is_some_and(|f| f.has_ending(e.client, e.until));
        if self.heap.len() > 1024 && self.heap.len() > 2 * self.n {
            self.heap.retain(|Reverse(expiry)| alive(expiry));
        }
        while let Some(Reverse(top)) = self.heap.peek()
            && !alive(top)
        {
            self.heap.pop();
        }
    }
}

impl ClientFilters {
    pub(crate) const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// One fewer: its agent is gone.
    pub(crate) const fn lose_one(&mut self) {
        self.n -= 1;
    }

    /// The agents with filters of the client, and perhaps some without; they are forgotten.
    pub(crate) fn take_agents(&mut self) -> Vec<Slot> {
        let mut agents = std::mem::take(&mut self.agents);
        self.tidy_at = 0;
        agents.sort_unstable();
        agents.dedup();
        agents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::bundle::Bundles;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    struct World {
        bundles: Bundles,
        expiries: Expiries,
        agent: AgentFilters,
        clients: Vec<ClientFilters>,
    }

    impl World {
        fn new(n: usize) -> Self {
            Self {
                bundles: Bundles::default(),
                expiries: Expiries::default(),
                agent: AgentFilters::default(),
                clients: (0..n).map(|_| ClientFilters::default()).collect(),
            }
        }

        fn bundle(&mut self, text: &str) -> Bundle {
            self.bundles.keep(&text.parse().unwrap())
        }

        fn decline(&mut self, client: u32, text: &str, until: u64) {
            let refused = self.bundle(text);
            let of = &mut self.clients[client as usize];
            let on = (0, &mut self.agent);
            self.expiries.add(on, (client, of), &refused, at(until));
        }

        fn blocked(&mut self, now: u64, client: u32, text: &str) -> Option<Timestamp> {
            let what = self.bundle(text);
            self.agent.blocked_until(at(now), client, &what.resources)
        }
    }

    #[test]
    fn a_filter_blocks_what_it_contains_until_it_ends() {
        let mut w = World::new(2);
        w.decline(0, "cpus:2", 5);
        assert_eq!(w.blocked(4, 0, "cpus:1"), Some(at(5)));
        assert_eq!(w.blocked(4, 0, "cpus:3"), None);
        assert_eq!(w.blocked(4, 1, "cpus:1"), None);
        assert_eq!(w.blocked(5, 0, "cpus:1"), None);
    }

    #[test]
    fn of_seventeen_filters_the_one_that_ends_first_goes() {
        let mut w = World::new(1);
        for i in 0..17 {
            w.decline(0, &format!("cpus:{}", i + 1), 100 - i);
        }
        assert_eq!(w.agent.len(), 16);
        assert_eq!(w.blocked(0, 0, "cpus:17"), None);
        assert_eq!(w.blocked(0, 0, "cpus:16"), Some(at(85)));
    }

    #[test]
    fn a_mask_knows_who_declined_everything_that_is_free() {
        let mut w = World::new(40);
        let everyone: FixedBitSet = (0..40).collect();
        for client in 0..40 {
            w.decline(client, "cpus:2", 5 + u64::from(client));
        }
        let free = w.bundle("cpus:2");
        w.agent.prepare(&free, 40);
        assert!(w.agent.masks_all(&everyone));
        for (agent, client) in w.expiries.due(at(5), u64::MAX) {
            assert_eq!(agent, 0);
            let of = &mut w.clients[client as usize];
            assert!(w.expiries.expire(at(5), &mut w.agent, (client, of)));
        }
        assert!(!w.agent.masks_all(&everyone) && !w.agent.masks(0) && w.agent.masks(1));
        let more = w.bundle("cpus:3");
        w.agent.prepare(&more, 40);
        assert!(!w.agent.masks(1));
    }

    #[test]
    fn ends_of_filters_that_are_gone_are_swept() {
        let mut w = World::new(1);
        for i in 0..3000 {
            w.decline(0, "cpus:1", 10 + i);
            w.expiries.forget(&mut w.agent, (0, &mut w.clients[0]));
        }
        let agent = &w.agent;
        w.expiries.sweep(|_| Some(agent));
        assert_eq!(w.expiries.next(), None);
    }
}
