//! One framework: its registration, its state, its tasks, and what it holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_allocator::{Constraints, FrameworkSpec, MinAllocatable, RoleSpec};
use allotment_proto::mesos::framework_info::capability;
use allotment_proto::{convert, mesos};
use allotment_types::{FrameworkId, Resources, Role, TaskId, Timestamp};

use super::attempts::Attempts;
use super::io::ConnId;
use super::offer_news::OfferNews;
use super::out::Out;
use super::registry::{FrameworkRecord, Record};
use super::tally::Tally;
use super::task::{EndedTask, Task, state_for};
use super::wants::{self, WantError};

/// How many ended tasks of one framework are remembered (Mesos: 1,000).
const ENDED_KEPT: usize = 1000;

/// The most roles one framework may have; more is a mistake.
const ROLES_MAX: usize = 1000;

/// What a framework says it can deal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Capabilities {
    pub(super) partition_aware: bool,
    pub(super) task_killing_state: bool,
    pub(super) multi_role: bool,
    /// What matters to who is offered what.
    pub(super) offers: allotment_allocator::Capabilities,
}

/// A framework's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameworkState {
    /// It has a stream.
    Connected { conn: ConnId, since: Timestamp },
    /// It lost its stream and is removed at `until`.
    Disconnected { since: Timestamp, until: Timestamp },
    /// Known from the registry or from agents; not heard since this master started.
    Recovered { since: Timestamp, until: Timestamp },
    /// Gone for good; stays here until its last task is dead, so that nothing is offered twice.
    Removed { since: Timestamp },
}

/// What a framework holds in one role, over all agents.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) allocated: Tally,
    pub(super) offered: Tally,
}

#[derive(Debug)]
pub(super) struct Framework {
    pub(super) id: FrameworkId,
    /// With the id set.
    pub(super) info: mesos::FrameworkInfo,
    pub(super) roles: BTreeSet<Role>,
    pub(super) suppressed: BTreeSet<Role>,
    pub(super) constraints: BTreeMap<Role, Constraints>,
    pub(super) min_allocatable: BTreeMap<Role, MinAllocatable>,
    pub(super) capabilities: Capabilities,
    pub(super) failover_timeout: Duration,
    pub(super) state: FrameworkState,
    pub(super) attempts: Attempts,
    /// Whether the registry knows it; one that only an agent told of may still change its
    /// principal.
    pub(super) registered: bool,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    /// How many executors it has on all agents.
    pub(super) n_executors: usize,
    /// Numbers of its outstanding offers.
    pub(super) offers: BTreeSet<u64>,
    pub(super) offer_news: OfferNews,
    pub(super) held: BTreeMap<Role, Held>,
    /// Oldest first.
    pub(super) ended: VecDeque<EndedTask>,
}

/// Why a `FrameworkInfo` was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum InfoError {
    #[error("the framework names no role; set `roles` (with MULTI_ROLE) or `role`")]
    NoRoles,
    #[error(
        "`role` is set together with the MULTI_ROLE capability; name the roles in `roles` instead"
    )]
    RoleWithMultiRole,
    #[error("`roles` is set without the MULTI_ROLE capability; add the capability or use `role`")]
    RolesWithoutMultiRole,
    #[error("the framework names {0} roles; at most {ROLES_MAX} are accepted")]
    TooManyRoles(usize),
    #[error(transparent)]
    Role(#[from] allotment_types::role::RoleError),
    #[error("role {0} is named twice in `roles`; name it once")]
    RoleTwice(Role),
    #[error(transparent)]
    Want(#[from] WantError),
    #[error("suppressed role {0} is not among the framework's roles; suppress only its own")]
    SuppressedNotOwn(Role),
    #[error(
        "failover_timeout {0} is no duration; give seconds from 0 up, for example 604800 for a week"
    )]
    FailoverTimeout(String),
    #[error("{field} has {len} bytes; at most {max} are accepted")]
    TooLong {
        field: &'static str,
        len: usize,
        max: usize,
    },
}

/// What a `FrameworkInfo` says, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) roles: BTreeSet<Role>,
    pub(super) min_allocatable: BTreeMap<Role, MinAllocatable>,
    pub(super) capabilities: Capabilities,
    pub(super) failover_timeout: Duration,
}

impl Checked {
    pub(super) fn new(info: &mesos::FrameworkInfo) -> Result<Self, InfoError> {
        for (field, text) in [
            ("name", Some(&info.name)),
            ("user", Some(&info.user)),
            ("hostname", info.hostname.as_ref()),
            ("principal", info.principal.as_ref()),
            ("webui_url", info.webui_url.as_ref()),
        ] {
            let len = text.map_or(0, String::len);
            if len > 1024 {
                let max = 1024;
                return Err(InfoError::TooLong { field, len, max });
            }
        }
        let capabilities = capabilities(info);
        let names: Vec<&str> = if capabilities.multi_role {
            if info.role.is_some() {
                return Err(InfoError::RoleWithMultiRole);
            }
            info.roles.iter().map(String::as_str).collect()
        } else {
            if !info.roles.is_empty() {
                return Err(InfoError::RolesWithoutMultiRole);
            }
            vec![info.role.as_deref().unwrap_or("*")]
        };
        if names.len() > ROLES_MAX {
            return Err(InfoError::TooManyRoles(names.len()));
        }
        let mut roles = BTreeSet::new();
        for name in names {
            let role = Role::parse(name)?;
            if !roles.insert(role.clone()) {
                return Err(InfoError::RoleTwice(role));
            }
        }
        if roles.is_empty() {
            return Err(InfoError::NoRoles);
        }
        let seconds = info.failover_timeout();
        if seconds.is_nan() || seconds < 0.0 {
            return Err(InfoError::FailoverTimeout(seconds.to_string()));
        }
        // More than a duration can hold means for ever.
        let failover_timeout = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Ok(Self {
            min_allocatable: wants::min_allocatable(&roles, &info.offer_filters)?,
            roles,
            capabilities,
            failover_timeout,
        })
    }

    pub(super) fn suppressed(&self, names: &[String]) -> Result<BTreeSet<Role>, InfoError> {
        own_roles(&self.roles, names)
    }
}

/// The named roles, each of which must be in `roles`.
pub(super) fn own_roles(
    roles: &BTreeSet<Role>,
    names: &[String],
) -> Result<BTreeSet<Role>, InfoError> {
    names
        .iter()
        .map(|name| {
            let role = Role::parse(name)?;
            if roles.contains(&role) {
                Ok(role)
            } else {
                Err(InfoError::SuppressedNotOwn(role))
            }
        })
        .collect()
}

fn capabilities(info: &mesos::FrameworkInfo) -> Capabilities {
    let has = |wanted| info.capabilities.iter().any(|c| c.r#type() == wanted);
    Capabilities {
        partition_aware: has(capability::Type::PartitionAware),
        task_killing_state: has(capability::Type::TaskKillingState),
        multi_role: has(capability::Type::MultiRole),
        offers: allotment_allocator::Capabilities {
            revocable: has(capability::Type::RevocableResources),
            shared: has(capability::Type::SharedResources),
            gpu: has(capability::Type::GpuResources),
            region_aware: has(capability::Type::RegionAware),
            reservation_refinement: has(capability::Type::ReservationRefinement),
        },
    }
}

impl Framework {
    pub(super) fn new(
        id: FrameworkId,
        mut info: mesos::FrameworkInfo,
        checked: Checked,
        state: FrameworkState,
    ) -> Self {
        info.id = Some((&id).into());
        Self {
            id,
            info,
            roles: checked.roles,
            suppressed: BTreeSet::new(),
            constraints: BTreeMap::new(),
            min_allocatable: checked.min_allocatable,
            capabilities: checked.capabilities,
            failover_timeout: checked.failover_timeout,
            state,
            attempts: Attempts::default(),
            registered: false,
            tasks: BTreeMap::new(),
            n_executors: 0,
            offers: BTreeSet::new(),
            offer_news: OfferNews::default(),
            held: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    pub(super) fn spec(&self) -> FrameworkSpec {
        let wanted = |role: &Role| RoleSpec {
            suppressed: self.suppressed.contains(role),
            min_allocatable: self.min_allocatable.get(role).cloned(),
            constraints: self.constraints.get(role).cloned(),
        };
        FrameworkSpec {
            roles: self.roles.iter().map(|r| (r.clone(), wanted(r))).collect(),
            capabilities: self.capabilities.offers,
        }
    }

    /// Writes resources in the form that this framework understands; with `role`, as allocated to
    /// it.
    pub(super) fn write(&self, resources: &Resources, role: &Role) -> Vec<mesos::Resource> {
        // Mesos: a framework without MULTI_ROLE never hears of allocation roles.
        let role = self.capabilities.multi_role.then(|| role.as_str());
        if self.capabilities.offers.reservation_refinement {
            convert::resources_to_wire(resources, role)
        } else {
            convert::resources_to_old_wire(resources, role)
        }
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.state {
            FrameworkState::Connected { conn, .. } => Some(conn),
            FrameworkState::Disconnected { .. }
            | FrameworkState::Recovered { .. }
            | FrameworkState::Removed { .. } => None,
        }
    }

    pub(super) fn is_removed(&self) -> bool {
        matches!(self.state, FrameworkState::Removed { .. })
    }

    /// Removed, and nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.is_removed() && self.tasks.is_empty() && self.n_executors == 0
    }

    /// Tells the framework, if it listens, in words it understands.
    pub(super) fn tell(&self, out: &mut Out, mut status: mesos::TaskStatus) {
        if let Some(conn) = self.conn() {
            let state = state_for(self.capabilities, status.state());
            status.set_state(state);
            out.update(conn, status);
        }
    }

    pub(super) fn remember(&mut self, task: EndedTask) {
        if self.ended.len() >= ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(task);
    }

    pub(super) fn record(&self) -> Record {
        let (disconnected_since, removed_at) = match self.state {
            FrameworkState::Connected { .. } => (None, None),
            FrameworkState::Disconnected { since, .. }
            | FrameworkState::Recovered { since, .. } => (Some(since.as_nanos()), None),
            FrameworkState::Removed { since } => (None, Some(since.as_nanos())),
        };
        Record::Framework(FrameworkRecord {
            info: self.info.clone(),
            disconnected_since,
            removed_at,
        })
    }

    /// Its sums over all roles: allocated, offered.
    pub(super) fn held_sums(&self) -> (Tally, Tally) {
        let (mut allocated, mut offered) = (Tally::default(), Tally::default());
        for held in self.held.values() {
            allocated.merge(&held.allocated);
            offered.merge(&held.offered);
        }
        (allocated, offered)
    }

    pub(super) fn tasks_live(&self) -> usize {
        self.tasks.values().filter(|t| !t.is_terminal()).count()
    }
}
