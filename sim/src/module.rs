//! Which allocation module a simulated master has, and how it is set.

use std::error::Error as _;
use std::fmt;

use allotment_allocator::modules::DEFAULT;
use allotment_allocator::{Allocator, Amounts, Drf, Make, Modules, Quota};
use allotment_types::{Resources, Role};
use serde_json::Value;

/// What one role is set to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoleSetting {
    pub(crate) role: Role,
    pub(crate) weight_thousandths: u64,
    pub(crate) quota: Quota,
}

/// A module and its settings; every new master makes its own.
#[derive(Clone, Default)]
pub(crate) struct Module {
    /// `None`: the default module as it is.
    make: Option<Make>,
    roles: Vec<RoleSetting>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.make.as_ref().map_or(DEFAULT, |_| "by name");
        f.debug_tuple("Module")
            .field(&name)
            .field(&self.roles)
            .finish()
    }
}

impl Module {
    /// A module by its name and configuration.
    ///
    /// # Errors
    /// With the names there are, or what is wrong with the configuration.
    pub(crate) fn new(name: &str, config: &Value, roles: Vec<RoleSetting>) -> Result<Self, String> {
        let make = Modules::default().make(name, config).map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        })?;
        Ok(Self {
            make: Some(make),
            roles,
        })
    }

    pub(crate) fn build(&self) -> Box<dyn Allocator> {
        let mut module: Box<dyn Allocator> = match &self.make {
            Some(make) => make(),
            None => Box::new(Drf::default()),
        };
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
