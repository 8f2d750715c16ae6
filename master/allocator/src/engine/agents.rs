//! Agents: what they have, who holds it, and where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_types::{AgentId, Attribute, FaultDomain, FrameworkId, Resources, Timestamp};

use super::bundle::Bundle;
use super::filters::AgentFilters;
use super::slab::Slot;
use super::sums::{Kinds, Scalars, Sums};
use crate::Unavailability;
use crate::constraint::Described;

/// An agent that registered.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    /// Counts registrations, from 0; never used twice.
    pub(crate) registration: u64,
    pub(crate) active: bool,
    pub(crate) total: Bundle,
    /// What nobody holds, shared lots left out: those are always free.
    pub(crate) free: Bundle,
    pub(crate) held: Vec<(Slot, Bundle)>,
    pub(crate) about: Box<About>,
    pub(crate) filters: AgentFilters,
    /// For which client a hole is kept here.
    pub(crate) hole: Option<Slot>,
    pub(crate) leaving: Option<Box<Leaving>>,
    /// Which shared lots were offered, in the round of that number.
    pub(crate) shared_given: Option<Box<(u64, Resources)>>,
}

/// What constraints look at.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) hostname: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) domain: Option<FaultDomain>,
}

/// An agent that will be away.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) unavailability: Unavailability,
    /// Who was asked to leave; with the time from which on they may be asked again, when they
    /// answered.
    pub(crate) asked: BTreeMap<FrameworkId, Option<Timestamp>>,
}

impl Agent {
    pub(crate) fn described(&self) -> Described<'_> {
        Described {
            hostname: &self.about.hostname,
            attributes: &self.about.attributes,
            domain: self.about.domain.as_ref(),
        }
    }

    /// Whether a round can offer something here.
    pub(crate) fn is_open(&self) -> bool {
        self.active && !self.free.is_empty()
    }

    pub(crate) fn held_by(&self, client: Slot) -> Option<&Bundle> {
        let found = self.held.iter().find(|(holder, _)| *holder == client);
        found.map(|(_, bundle)| bundle)
    }

    /// The shared lots of the agent.
    pub(crate) fn shared(&self) -> Resources {
        if self.total.shared {
            self.total.resources.filter(|_, lot| lot.is_shared())
        } else {
            Resources::EMPTY
        }
    }

    /// What a holding counts in shares: copies of a shared volume once.
    pub(crate) fn counted(&self, held: &Bundle, kinds: &Kinds) -> Counted {
        if !held.shared {
            return Counted::Plain(Arc::clone(held));
        }
        let mut sums = Sums::default();
        sums.add(held.scalars());
        let shared = held.resources.iter().filter(|(_, lot, _)| lot.is_shared());
        for (name, lot, _) in shared {
            if let Some(kind) = kinds.find(name)
                && let Some(allotment_types::Value::Scalar(once)) =
                    self.total.resources.get(name, lot)
            {
                sums.add(&[(kind, u128::from(once.thousandths()))]);
            }
        }
        Counted::Shared(sums)
    }
}

/// The scalars of a bundle, shared volumes counted once.
#[derive(Debug)]
pub(crate) enum Counted {
    Plain(Bundle),
    Shared(Sums),
}

impl Counted {
    pub(crate) fn scalars(&self) -> &Scalars {
        match self {
            Self::Plain(bundle) => bundle.scalars(),
            Self::Shared(sums) => sums.as_scalars(),
        }
    }
}
