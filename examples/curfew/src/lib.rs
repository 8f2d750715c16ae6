//! An allocation module that nobody at Allotment wrote: roles that are offered nothing by day.
//!
//! It leaves shares, quotas, reservations and everything else to the default module, and only
//! decides when some roles take part. That is all a module has to be: a value with an opinion
//! behind the trait [`Allocator`], told the time as an argument. `docs/allocator-modules.md`
//! walks through this file.

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::{Allocator, Around, Drf, FrameworkSpec, Round};
use allotment_types::{FrameworkId, Role, Timestamp};
use serde::Deserialize;

const DAY: u64 = 24 * 3600;

/// The settings, as JSON: `{"roles": ["batch"], "from_hour": 8, "to_hour": 20}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Roles that are offered nothing during the curfew.
    pub roles: BTreeSet<String>,
    /// The hour at which the curfew begins, in UTC.
    pub from_hour: u64,
    /// The hour at which it ends, later the same day.
    pub to_hour: u64,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not the JSON that is expected.
    #[error("the settings of the curfew cannot be read")]
    Json(#[from] serde_json::Error),
    /// A role that is none.
    #[error(transparent)]
    Role(#[from] allotment_types::role::RoleError),
    /// Hours that make no curfew.
    #[error("from_hour {from} must be before to_hour {to}, and that at most 24")]
    Hours {
        /// As given.
        from: u64,
        /// As given.
        to: u64,
    },
}

/// Settings that make sense.
#[derive(Debug, Clone)]
pub struct Rules {
    roles: BTreeSet<Role>,
    /// In seconds of the day.
    from: u64,
    to: u64,
}

impl Rules {
    /// Reads settings in JSON.
    ///
    /// # Errors
    /// [`SettingsError`] when they make no sense.
    pub fn parse(settings: &str) -> Result<Self, SettingsError> {
        let settings: Settings = serde_json::from_str(settings)?;
        let (from, to) = (settings.from_hour, settings.to_hour);
        if from >= to || to > 24 {
            return Err(SettingsError::Hours { from, to });
        }
        let roles: Result<_, _> = settings.roles.iter().map(|r| Role::parse(r)).collect();
        Ok(Self {
            roles: roles?,
            from: from * 3600,
            to: to * 3600,
        })
    }

    fn is_on(&self, now: Timestamp) -> bool {
        (self.from..self.to).contains(&(now.as_nanos() / 1_000_000_000 % DAY))
    }

    /// When the curfew next begins or ends.
    fn next_change(&self, now: Timestamp) -> Timestamp {
        let seconds = now.as_nanos() / 1_000_000_000;
        let (midnight, today) = (seconds - seconds % DAY, seconds % DAY);
        let hours = [self.from, self.to, self.from + DAY];
        let next = hours.into_iter().find(|at| *at > today);
        Timestamp::from_secs(midnight + next.unwrap_or(DAY))
    }
}

/// The default module with a curfew.
#[derive(Debug)]
pub struct Curfew {
    inner: Drf,
    rules: Rules,
    /// What frameworks themselves want, to be restored when the curfew ends.
    wanted: BTreeMap<FrameworkId, FrameworkSpec>,
    active: BTreeSet<FrameworkId>,
    /// Whether the inner module was last told that it is on.
    on: bool,
    /// When that changes.
    changes_at: Option<Timestamp>,
}

impl Curfew {
    /// A module that has been told nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            inner: Drf::default(),
            rules,
            wanted: BTreeMap::new(),
            active: BTreeSet::new(),
            on: false,
            changes_at: None,
        }
    }

    /// What the inner module is told that a framework wants.
    fn told(&self, wanted: &FrameworkSpec) -> FrameworkSpec {
        let mut told = wanted.clone();
        for (role, spec) in &mut told.roles {
            spec.suppressed |= self.on && self.rules.roles.contains(role);
        }
        told
    }
}

// What is not here the default module decides.
impl Around for Curfew {
    fn inner(&self) -> &dyn Allocator {
        &self.inner
    }

    fn inner_mut(&mut self) -> &mut dyn Allocator {
        &mut self.inner
    }

    fn add_framework(&mut self, framework: &FrameworkId, spec: FrameworkSpec) {
        self.inner.add_framework(framework, self.told(&spec));
        self.wanted.insert(framework.clone(), spec);
        self.active.insert(framework.clone());
    }

    fn deactivate_framework(&mut self, framework: &FrameworkId) {
        self.active.remove(framework);
        self.inner.deactivate_framework(framework);
    }

    fn remove_framework(&mut self, framework: &FrameworkId) {
        self.active.remove(framework);
        self.wanted.remove(framework);
        self.inner.remove_framework(framework);
    }

    fn suppress(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.note(framework, roles, true);
        self.inner.suppress(framework, roles);
    }

    fn revive(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>) {
        self.note(framework, roles, false);
        self.inner.revive(framework, roles);
        let held_back = self.held_back(framework);
        // No role at all would mean every role.
        if self.on && !held_back.is_empty() {
            // Whoever revives during the curfew is heard when it ends.
            self.inner.suppress(framework, &held_back);
        }
    }

    fn allocate(&mut self, now: Timestamp) -> Round {
        self.changes_at = Some(self.rules.next_change(now));
        let on = self.rules.is_on(now);
        if on != self.on {
            self.on = on;
            for framework in &self.active {
                if let Some(wanted) = self.wanted.get(framework)
                    && !self.held_back(framework).is_empty()
                {
                    self.inner.add_framework(framework, self.told(wanted));
                }
            }
        }
        self.inner.allocate(now)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        // Without anybody whom the curfew concerns there is nothing to wait for.
        let concerned = self.active.iter().any(|f| !self.held_back(f).is_empty());
        let changes_at = self.changes_at.filter(|_| concerned);
        let ends = [self.inner.next_deadline(), changes_at];
        ends.into_iter().flatten().min()
    }
}

impl Curfew {
    /// Keeps in mind what a framework wants itself; no role means all of its roles.
    fn note(&mut self, framework: &FrameworkId, roles: &BTreeSet<Role>, suppressed: bool) {
        if let Some(wanted) = self.wanted.get_mut(framework) {
            for (role, spec) in &mut wanted.roles {
                if roles.is_empty() || roles.contains(role) {
                    spec.suppressed = suppressed;
                }
            }
        }
    }

    fn held_back(&self, framework: &FrameworkId) -> BTreeSet<Role> {
        let wanted = self.wanted.get(framework);
        let roles = wanted.into_iter().flat_map(|wanted| wanted.roles.keys());
        roles
            .filter(|r| self.rules.roles.contains(*r))
            .cloned()
            .collect()
    }
}
