//! What a round must look at.
//!
//! A round that granted nothing on an agent had found that nobody may be granted anything there.
//! That stays true until there is news: more is free on the agent, a client came to want offers,
//! a filter ended, or a quota leaves more than before. Everything else only takes away.

use fixedbitset::FixedBitSet;

use super::slab::Slot;

/// What changed since the last round.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Everything must be looked at.
    pub(crate) everything: bool,
    /// Active agents with something free.
    pub(crate) open: FixedBitSet,
    /// Agents where anybody may be granted something now.
    pub(crate) agents: FixedBitSet,
    /// Clients that may be granted something on any agent now.
    clients: FixedBitSet,
    n_clients: usize,
    /// Agents and clients whose filter there ended.
    pub(crate) pairs: Vec<(Slot, Slot)>,
    /// Agents where guarantees of others kept something from somebody.
    pub(crate) bound: FixedBitSet,
    /// Agents where less room may lead to another bundle, which no filter contains.
    pub(crate) tricky: FixedBitSet,
    /// Something changed that may let a hole be kept.
    pub(crate) holes: bool,
}

impl News {
    pub(crate) fn agent(&mut self, agent: Slot) {
        self.agents.grow_and_insert(agent as usize);
        self.holes = true;
    }

    pub(crate) fn client(&mut self, client: Slot) {
        self.clients.grow(client as usize + 1);
        if !self.clients.put(client as usize) {
            self.n_clients += 1;
        }
        self.holes = true;
    }

    /// Nothing about the agent or client in this slot any more.
    pub(crate) fn forget_client(&mut self, client: Slot) {
        if self.clients.contains(client as usize) {
            self.clients.set(client as usize, false);
            self.n_clients -= 1;
        }
    }

    pub(crate) fn set_open(&mut self, agent: Slot, open: bool) {
        let at = agent as usize;
        self.open.grow(at + 1);
        self.open.set(at, open);
        if !open {
            for set in [&mut self.agents, &mut self.bound, &mut self.tricky] {
                if set.contains(at) {
                    set.set(at, false);
                }
            }
        }
    }

    /// The clients with news, each once; there are none afterwards.
    pub(crate) fn take_clients(&mut self) -> Vec<Slot> {
        if self.n_clients == 0 {
            return Vec::new();
        }
        self.n_clients = 0;
        let clients: Vec<Slot> = self.clients.ones().map(slot).collect();
        self.clients.clear();
        clients
    }

    /// The agents with news; there are none afterwards.
    pub(crate) fn take_agents(&mut self) -> FixedBitSet {
        if self.agents.is_clear() {
            return FixedBitSet::new();
        }
        let agents = self.agents.clone();
        self.agents.clear();
        agents
    }

    /// Takes one agent; says whether it had news.
    pub(crate) fn take_agent(&mut self, agent: Slot) -> bool {
        let had = self.agents.contains(agent as usize);
        if had {
            self.agents.set(agent as usize, false);
        }
        had
    }

    /// Agents that were taken have news again, as far as something is free there.
    pub(crate) fn give_back(&mut self, agents: &FixedBitSet) {
        self.agents.union_with(agents);
        self.agents.intersect_with(&self.open);
    }

    /// Whether a round would look at anything.
    pub(crate) fn any(&self) -> bool {
        self.everything || !self.agents.is_clear() || self.n_clients > 0 || !self.pairs.is_empty()
    }

    /// Agents that were kept for guarantees are news.
    pub(crate) fn loosen(&mut self) {
        self.agents.union_with(&self.bound);
    }

    /// Agents where less may be more are news.
    pub(crate) fn trick(&mut self) {
        self.agents.union_with(&self.tricky);
    }
}

/// A slot that was an index.
pub(crate) fn slot(index: usize) -> Slot {
    Slot::try_from(index).unwrap_or(Slot::MAX)
}
