//! Clients: frameworks in their roles, and what they want there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_types::{FrameworkId, Name, Role, Timestamp};
use fixedbitset::FixedBitSet;

use super::agents::Agent;
use super::bundle::Bundle;
use super::filters::ClientFilters;
use super::order::Key;
use super::ranks::Rank;
use super::roles::Appetite;
use super::slab::Slot;
use super::sums::{Kinds, Sums};
use crate::{Capabilities, Constraints, Demand, MinAllocatable};

/// A framework.
#[derive(Debug)]
pub(crate) struct Framework {
    pub(crate) id: FrameworkId,
    /// Of its id.
    pub(crate) rank: Rank,
    /// It subscribed; others are known only from what agents say they run.
    pub(crate) known: bool,
    pub(crate) active: bool,
    pub(crate) capabilities: Capabilities,
    /// By role; one that was left stays until what is held in it is free.
    pub(crate) clients: BTreeMap<Role, Slot>,
}

/// A framework in one of its roles.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) framework: Slot,
    pub(crate) role: Slot,
    /// What it holds, as shares count it.
    pub(crate) held: Sums,
    /// On how many agents it holds something.
    pub(crate) holds: u32,
    /// Its place among the role's clients, when it takes offers.
    pub(crate) place: Option<Key>,
    /// Its appetite, as the role counted it when it began to take offers.
    pub(crate) listed: Option<Appetite>,
    pub(crate) filters: ClientFilters,
    /// What it wants; ends when it leaves the role.
    pub(crate) wish: Option<Box<Wish>>,
}

/// What a subscribed client wants, and how it behaves.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) suppressed: bool,
    /// The least it takes, by its own wish or as configured.
    pub(crate) least: Appetite,
    pub(crate) constraints: Option<Constrained>,
    pub(crate) demand: Option<Asked>,
    /// Grants to it.
    pub(crate) count: u64,
    /// The number of the grant that it got last, over all clients.
    pub(crate) served: u64,
    /// Fruitless returns in a row, and in which round the last one was counted.
    pub(crate) row: u32,
    pub(crate) row_round: Option<u64>,
    /// What it returned in the row, the latest last, and until when it steps aside from that.
    pub(crate) returned: Vec<(Bundle, Timestamp)>,
    /// The agent where a hole is kept for it.
    pub(crate) hole: Option<Slot>,
    /// No hole before this.
    pub(crate) cooling_until: Option<Timestamp>,
}

impl Wish {
    pub(crate) fn new(least: Appetite) -> Self {
        Self {
            suppressed: false,
            least,
            constraints: None,
            demand: None,
            count: 0,
            served: 0,
            row: 0,
            row_round: None,
            returned: Vec::new(),
            hole: None,
            cooling_until: None,
        }
    }

    /// What it takes at the least.
    pub(crate) fn appetite(&self) -> &Appetite {
        self.demand
            .as_ref()
            .map_or(&self.least, |asked| &asked.appetite)
    }
}

/// A demand.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) demand: Demand,
    /// Bundles not yet granted.
    pub(crate) left: u32,
    appetite: Appetite,
    /// When it was stated, as a count of demands.
    pub(crate) number: u64,
}

impl Asked {
    pub(crate) fn new(mut demand: Demand, number: u64, kinds: &mut Kinds) -> Self {
        demand.bundle.retain(|_, amount| !amount.is_zero());
        let mut scalars = demand.bundle.clone();
        // Ports are counted, not measured: no scalar speaks of them.
        scalars.remove(&Name::PORTS);
        Self {
            left: demand.count,
            appetite: Arc::new(vec![kinds.numbered(&scalars)]),
            demand,
            number,
        }
    }
}

/// Numbers the amounts of a list of smallest bundles.
pub(crate) fn least(min: &MinAllocatable, kinds: &mut Kinds) -> Appetite {
    let mut least: Vec<Vec<_>> = min
        .iter()
        .map(|amounts| {
            let mut amounts = kinds.numbered(amounts);
            amounts.retain(|(_, amount)| *amount > 0);
            amounts
        })
        .collect();
    least.sort();
    Arc::new(least)
}

/// Constraints, and what is known of agents by them: attributes never change while an agent is
/// registered.
#[derive(Debug)]
pub(crate) struct Constrained {
    pub(crate) constraints: Constraints,
    known: RefCell<Known>,
}

#[derive(Debug, Default)]
struct Known {
    checked: FixedBitSet,
    wanted: FixedBitSet,
}

impl Constrained {
    pub(crate) fn new(constraints: Constraints) -> Self {
        Self {
            constraints,
            known: RefCell::default(),
        }
    }

    /// Whether the client wants offers of the agent in this slot.
    pub(crate) fn wants(&self, slot: Slot, agent: &Agent) -> bool {
        let mut known = self.known.borrow_mut();
        let at = slot as usize;
        if !known.checked.contains(at) {
            known.checked.grow_and_insert(at);
            known.wanted.grow(at + 1);
            let wanted = self.constraints.wants(agent.described());
            known.wanted.set(at, wanted);
        }
        known.wanted.contains(at)
    }

    /// Another agent is in this slot now.
    pub(crate) fn forget(&self, slot: Slot) {
        let mut known = self.known.borrow_mut();
        if known.checked.contains(slot as usize) {
            known.checked.set(slot as usize, false);
        }
    }
}
