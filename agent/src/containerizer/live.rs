//! The containers of this agent between the order to start them and the record of their end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::task::AbortHandle;

use super::wire::{Adopt, Resize};
use crate::core::{ContainerId, Nesting};

/// Containers by the number under which the launcher knows them.
#[derive(Debug, Default)]
pub(super) struct Live {
    n_numbers: u64,
    numbers: BTreeMap<ContainerId, u64>,
    containers: BTreeMap<u64, LiveContainer>,
}

/// One container.
#[derive(Debug)]
pub(super) struct LiveContainer {
    pub(super) id: ContainerId,
    pub(super) sandbox: PathBuf,
    /// The run of the default executor that it belongs to.
    run: Option<ContainerId>,
    /// The container that it is in.
    beside: Option<ContainerId>,
    /// Set while files are fetched.
    pub(super) fetch: Option<AbortHandle>,
    /// The launcher was asked for it, in this run or an earlier one.
    pub(super) launched: bool,
    pub(super) ended: bool,
    /// Bytes that its sandbox may hold; `None`: it is not measured.
    pub(super) disk_limit_bytes: Option<u64>,
    /// Its sandbox held more than the limit: both, in bytes.
    pub(super) disk_exceeded: Option<(u64, u64)>,
    /// The harshest thing that was asked of it, for a launcher that has to be told again.
    pub(super) asked: Asked,
    /// What it is to hold, where that changed before it was launched.
    pub(super) resized: Option<Resize>,
}

/// What was asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Run,
    Terminate,
    Destroy,
}

impl Live {
    /// Enters a container, already launched or not yet.
    pub(super) fn add(
        &mut self,
        id: &ContainerId,
        sandbox: PathBuf,
        launched: bool,
        (run, nested): (Option<&ContainerId>, Option<&Nesting>),
    ) {
        let number = self.n_numbers;
        self.n_numbers += 1;
        self.numbers.insert(id.clone(), number);
        let container = LiveContainer {
            id: id.clone(),
            sandbox,
            run: run.cloned(),
            beside: nested.map(|nesting| nesting.parent.clone()),
            fetch: None,
            launched,
            ended: false,
            disk_limit_bytes: None,
            disk_exceeded: None,
            asked: Asked::Run,
            resized: None,
        };
        self.containers.insert(number, container);
    }

    /// A container with its number.
    pub(super) fn get(&mut self, id: &ContainerId) -> Option<(u64, &mut LiveContainer)> {
        let number = *self.numbers.get(id)?;
        Some((number, self.containers.get_mut(&number)?))
    }

    /// Sandboxes to measure, with their limits.
    pub(super) fn with_disk_limit(&self) -> Vec<(ContainerId, PathBuf, u64)> {
        let live = self.containers.values();
        live.filter(|container| container.launched && !container.ended)
            .filter_map(|container| {
                let limit = container.disk_limit_bytes?;
                Some((container.id.clone(), container.sandbox.clone(), limit))
            })
            .collect()
    }

    /// Notes that a sandbox held too much; false when its container is over.
    pub(super) fn note_disk(&mut self, id: &ContainerId, exceeded: (u64, u64)) -> bool {
        match self.get(id) {
            Some((_, container)) if !container.ended => {
                container.disk_exceeded.get_or_insert(exceeded);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Notes what is asked of a container before anything is done about it.
    pub(super) fn ask(&mut self, id: &ContainerId, asked: Asked) {
        if let Some((_, container)) = self.get(id) {
            container.asked = container.asked.max(asked);
        }
    }

    /// A container that the launcher speaks of and that did not end before.
    pub(super) fn running(&mut self, number: u64) -> Option<&mut LiveContainer> {
        let container = self.containers.get_mut(&number);
        container.filter(|container| !container.ended)
    }

    /// Takes out a container.
    pub(super) fn remove(&mut self, id: &ContainerId) -> Option<(u64, LiveContainer)> {
        let number = self.numbers.remove(id)?;
        Some((number, self.containers.remove(&number)?))
    }

    /// Takes out all of them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = LiveContainer> + use<> {
        self.numbers.clear();
        std::mem::take(&mut self.containers).into_values()
    }

    /// What a launcher has to take up. Those whose end is not written down yet are among them:
    /// the journal must keep it until then.
    pub(super) fn to_adopt(&self) -> Vec<Adopt> {
        let launched = self.containers.iter().filter(|(_, c)| c.launched);
        launched
            .map(|(number, container)| Adopt {
                id: *number,
                name: container.id.as_str().to_owned(),
                parent: container.run.as_ref().map(|id| id.as_str().to_owned()),
                beside: container.beside.as_ref().map(|id| id.as_str().to_owned()),
            })
            .collect()
    }

    /// What was asked of running containers, for a launcher that may not have heard it.
    pub(super) fn asked(&self) -> Vec<(u64, Asked)> {
        let running = self
            .containers
            .iter()
            .filter(|(_, c)| c.launched && !c.ended);
        running.map(|(number, c)| (*number, c.asked)).collect()
    }

    /// Containers that were on their way to the launcher when that was lost: neither there nor
    /// being prepared.
    pub(super) fn stranded(&self) -> Vec<ContainerId> {
        let stranded = self
            .containers
            .values()
            .filter(|c| !c.launched && !c.ended && c.fetch.is_none());
        stranded.map(|container| container.id.clone()).collect()
    }
}
