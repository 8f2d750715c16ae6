//! Which allocation module a simulated master has, and how it is set.

use allotment_allocator::{Allocator, Amounts, Drf, Quota};
use allotment_types::{Resources, Role};

/// The modules that ship, by name.
const NAMES: [&str; 1] = ["drf"];

/// What one role is set to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoleSetting {
    pub(crate) role: Role,
    pub(crate) weight_thousandths: u64,
    pub(crate) quota: Quota,
}

/// A module and its settings; every new master builds its own.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Module {
    roles: Vec<RoleSetting>,
}

impl Module {
    /// A module by its name.
    ///
    /// # Errors
    /// With the names there are.
    pub(crate) fn new(name: &str, roles: Vec<RoleSetting>) -> Result<Self, String> {
        if NAMES.contains(&name) {
            Ok(Self { roles })
        } else {
            Err(format!(
                "there is no allocation module {name:?}; there is {}",
                NAMES.join(", ")
            ))
        }
    }

    pub(crate) fn build(&self) -> Box<dyn Allocator> {
        let mut module: Box<dyn Allocator> = Box::new(Drf::default());
        for setting in &self.roles {
            module.set_weight(&setting.role, setting.weight_thousandths);
            if setting.quota != Quota::default() {
                module.set_quota(&setting.role, setting.quota.clone());
            }
        }
        module
    }
}

/// Amounts of every scalar.
pub(crate) fn amounts(resources: Option<&Resources>) -> Amounts {
    let scalars = resources.into_iter().flat_map(Resources::scalars);
    scalars
        .map(|(name, amount)| (name.clone(), amount))
        .collect()
}
