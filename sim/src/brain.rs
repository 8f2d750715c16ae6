//! What sits behind a framework's session: the elastic framework, or the cores of the two that
//! ship with Allotment.

use allotment_framework_sdk::{Call, Event, Task};
use allotment_master::core::registry::Registry;
use allotment_proto::allot;
use allotment_types::{FrameworkId, Timestamp};

use crate::batch::Batch;
use crate::elastic::Elastic;
use crate::fault::CrashPoint;
use crate::lab::Tenant;
use crate::services::{self, Services};

/// What a framework does to the world.
#[derive(Debug)]
pub(crate) enum Deed {
    /// Say this to the master.
    Call(Call),
    /// Make this durable in the masters' store; one at a time, repeated until it is.
    Commit(allot::StoreCommitRequest),
    /// The process dies here, and another begins.
    Die,
}

/// A framework.
#[derive(Debug)]
pub(crate) enum Brain {
    /// As simple as a framework can be.
    Elastic(Box<Elastic>),
    /// The services framework's core; its state lives in the masters' store.
    Services(Box<Services>),
    /// The batch framework's core; its state lives in a database of its own.
    Batch(Box<Batch>),
    /// A framework of the laboratory.
    Tenant(Box<Tenant>),
}

impl Brain {
    /// When [`Self::on_tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Elastic(brain) => brain.next_deadline(),
            Self::Services(brain) => brain.next_deadline(),
            Self::Batch(brain) => brain.next_deadline(),
            Self::Tenant(brain) => brain.next_deadline(),
        }
    }

    /// Time passed.
    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        match self {
            Self::Elastic(brain) => Ok(calls(brain.on_tick(now))),
            Self::Services(brain) => brain.on_tick(now),
            Self::Batch(brain) => brain.on_tick(now),
            Self::Tenant(brain) => Ok(calls(brain.on_tick(now))),
        }
    }

    /// The session says something.
    pub(crate) fn on_event(&mut self, now: Timestamp, event: &Event) -> Result<Vec<Deed>, String> {
        match self {
            Self::Elastic(brain) => Ok(calls(brain.on_event(now, event))),
            Self::Services(brain) => brain.on_event(now, event),
            Self::Batch(brain) => brain.on_event(now, event),
            Self::Tenant(brain) => Ok(calls(brain.on_event(now, event))),
        }
    }

    /// What was committed is durable.
    pub(crate) fn on_stored(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        match self {
            Self::Services(brain) => brain.on_stored(now),
            Self::Elastic(_) | Self::Batch(_) | Self::Tenant(_) => Ok(Vec::new()),
        }
    }

    /// The process dies in its next step that writes.
    pub(crate) fn die_at(&mut self, at: CrashPoint) {
        match self {
            Self::Elastic(_) | Self::Tenant(_) => {}
            Self::Services(brain) => brain.die_at(at),
            Self::Batch(brain) => brain.die_at(at),
        }
    }

    /// Whether another process can go on where this one died.
    pub(crate) fn keeps_state(&self) -> bool {
        match self {
            Self::Services(_) | Self::Batch(_) => true,
            Self::Elastic(_) | Self::Tenant(_) => false,
        }
    }

    /// The process died and another begins with what was durable. Returns the framework's id as
    /// it was kept.
    pub(crate) fn restart(
        &mut self,
        now: Timestamp,
        registry: &Registry,
    ) -> Result<Option<FrameworkId>, String> {
        match self {
            Self::Elastic(_) | Self::Tenant(_) => Ok(None),
            Self::Services(brain) => brain.restart(registry),
            Self::Batch(brain) => Ok(brain.restart(now)),
        }
    }

    /// Whether the masters' store has what a framework that lives from it must know of tasks that
    /// it launches now.
    pub(crate) fn check_kept(&self, launched: &[Task], registry: &Registry) -> Result<(), String> {
        match self {
            Self::Services(_) => services::check_kept(launched, registry),
            Self::Elastic(_) | Self::Batch(_) | Self::Tenant(_) => Ok(()),
        }
    }

    /// After everything settled: what was wanted is there.
    pub(crate) fn check_settled(&self) -> Result<(), String> {
        match self {
            Self::Elastic(brain) => brain.check_settled(),
            Self::Services(brain) => brain.check_settled(),
            Self::Batch(brain) => brain.check_settled(),
            Self::Tenant(_) => Ok(()),
        }
    }

    /// The batch framework, when it is one.
    #[cfg(test)]
    pub(crate) fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Batch(brain) => Some(brain),
            Self::Elastic(_) | Self::Services(_) | Self::Tenant(_) => None,
        }
    }

    /// The elastic framework, when it is one.
    pub(crate) fn elastic(&self) -> Option<&Elastic> {
        match self {
            Self::Elastic(brain) => Some(brain),
            Self::Services(_) | Self::Batch(_) | Self::Tenant(_) => None,
        }
    }

    /// The laboratory's framework, when it is one.
    pub(crate) fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Tenant(brain) => Some(brain),
            Self::Elastic(_) | Self::Services(_) | Self::Batch(_) => None,
        }
    }
}

fn calls(calls: Vec<Call>) -> Vec<Deed> {
    calls.into_iter().map(Deed::Call).collect()
}
