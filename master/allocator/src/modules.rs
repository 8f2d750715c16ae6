//! The modules by name, each with its own configuration.
//!
//! A program that links a module of its own adds it here, and its name works wherever `drf` does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use allotment_types::{FaultDomain, Fixed, Name};
use serde::Deserialize;
use serde_json::Value;

use crate::{Allocator, Amounts, BestFit, Common, Drf, Placement, RandomSorter, Settings};

/// Makes a module that knows nothing yet: once whenever a master begins to decide.
pub type Make = Arc<dyn Fn() -> Box<dyn Allocator> + Send + Sync>;

/// Checks a configuration, and makes modules by it.
pub type Factory = fn(&Value) -> Result<Make, ModuleError>;

/// The name of the default module.
pub const DEFAULT: &str = "drf";

/// Why there is no such module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Nobody added one of this name.
    #[error("there is no allocation module {name:?}; there are {known}")]
    Unknown {
        /// What was asked.
        name: String,
        /// What there is.
        known: String,
    },
    /// The configuration does not read.
    #[error("the configuration of the allocation module cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// The configuration contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

/// Modules by name.
#[derive(Clone)]
pub struct Modules(BTreeMap<String, Factory>);

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for Modules {
    /// The shipped ones: `drf`, `random`, `best-fit`.
    fn default() -> Self {
        let mut modules = Self(BTreeMap::new());
        modules.add(DEFAULT, |config| {
            let settings = settings(config)?;
            Ok(Arc::new(move || Box::new(Drf::new(settings.clone()))))
        });
        modules.add("random", |config| {
            let settings = settings(config)?;
            Ok(Arc::new(move || {
                Box::new(RandomSorter::new(settings.clone()))
            }))
        });
        modules.add("best-fit", |config| {
            let settings = settings(config)?;
            Ok(Arc::new(move || Box::new(BestFit::new(settings.clone()))))
        });
        modules
    }
}

impl Modules {
    /// Adds a module, in place of another of that name.
    pub fn add(&mut self, name: &str, factory: Factory) {
        self.0.insert(name.to_owned(), factory);
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Makes modules of this name by this configuration; `null` is the default one.
    ///
    /// # Errors
    /// [`ModuleError`], with what was asked and what there is.
    pub fn make(&self, name: &str, config: &Value) -> Result<Make, ModuleError> {
        let Some(factory) = self.0.get(name) else {
            let known: Vec<&str> = self.names().collect();
            return Err(ModuleError::Unknown {
                name: name.chars().take(80).collect(),
                known: known.join(", "),
            });
        };
        factory(config)
    }
}

/// The configuration of the shipped modules, as JSON. What is left out keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The smallest bundles worth an offer, such as `[{"cpus": 0.01}, {"mem": 32}]`.
    min_allocatable: Option<Vec<BTreeMap<String, f64>>>,
    /// Names that do not count in shares, such as `["gpus"]`.
    share_excluded: Option<Vec<String>>,
    /// Whether agents with GPUs are kept from frameworks without the capability.
    filter_gpus: Option<bool>,
    /// The master's own place, `region/zone`.
    domain: Option<String>,
    /// `rotate`, `spread`, `pack` or `random`.
    placement: Option<String>,
    /// For whatever is random.
    seed: Option<u64>,
    /// From how many fruitless returns in a row on a framework steps aside.
    decline_patience: Option<u32>,
    /// For how many seconds it steps aside.
    aside_secs: Option<u64>,
    /// How many holes a role may have kept at once.
    holes_per_role: Option<u32>,
    /// For how many seconds a hole is kept.
    hole_timeout_secs: Option<u64>,
    /// After how many looks at a client on an agent a call ends, and the next one goes on.
    round_looks: Option<u64>,
}

/// Reads and checks the configuration of a shipped module.
///
/// # Errors
/// [`ModuleError`] for what does not read or cannot be meant.
pub fn settings(config: &Value) -> Result<Settings, ModuleError> {
    let config = match config {
        Value::Null => Config::default(),
        config => Config::deserialize(config).map_err(ModuleError::Unreadable)?,
    };
    let defaults = Settings::default();
    let settings = Settings {
        common: Common {
            min_allocatable: match &config.min_allocatable {
                Some(bundles) => bundles.iter().map(amounts).collect::<Result<_, _>>()?,
                None => defaults.common.min_allocatable,
            },
            share_excluded: names(config.share_excluded.unwrap_or_default()),
            filter_gpus: config.filter_gpus.unwrap_or(defaults.common.filter_gpus),
            domain: config.domain.as_deref().map(domain).transpose()?,
        },
        placement: match &config.placement {
            Some(name) => placement(name)?,
            None => defaults.placement,
        },
        seed: config.seed.unwrap_or(defaults.seed),
        decline_patience: config.decline_patience.unwrap_or(defaults.decline_patience),
        aside_for: secs(config.aside_secs, defaults.aside_for),
        holes_per_role: config.holes_per_role.unwrap_or(defaults.holes_per_role),
        hole_timeout: secs(config.hole_timeout_secs, defaults.hole_timeout),
        round_looks: config.round_looks.unwrap_or(defaults.round_looks),
    };
    validate(&settings)?;
    Ok(settings)
}

fn secs(given: Option<u64>, default: Duration) -> Duration {
    given.map_or(default, Duration::from_secs)
}

fn names(given: Vec<String>) -> BTreeSet<Name> {
    given.iter().map(|name| Name::from(name.as_str())).collect()
}

fn amounts(given: &BTreeMap<String, f64>) -> Result<Amounts, ModuleError> {
    let amount = |(name, amount): (&String, &f64)| {
        let amount = Fixed::from_f64(*amount).map_err(|e| {
            ModuleError::Invalid(format!("min_allocatable of {name} is {amount}: {e}"))
        })?;
        Ok((Name::from(name.as_str()), amount))
    };
    given.iter().map(amount).collect()
}

fn domain(text: &str) -> Result<FaultDomain, ModuleError> {
    let read: Result<FaultDomain, _> = text.parse();
    read.map_err(|e| ModuleError::Invalid(format!("domain: {e}")))
}

fn placement(name: &str) -> Result<Placement, ModuleError> {
    match name {
        "rotate" => Ok(Placement::Rotate),
        "spread" => Ok(Placement::Spread),
        "pack" => Ok(Placement::Pack),
        "random" => Ok(Placement::Random),
        other => Err(ModuleError::Invalid(format!(
            "placement is {:?}; it must be rotate, spread, pack or random",
            other.chars().take(80).collect::<String>()
        ))),
    }
}

fn validate(settings: &Settings) -> Result<(), ModuleError> {
    let refuse = |reason: String| Err(ModuleError::Invalid(reason));
    if settings.decline_patience == 0 {
        return refuse(
            "decline_patience is 0, so that everybody would always be aside; it must be 1 or more"
                .to_owned(),
        );
    }
    if settings.round_looks == 0 {
        return refuse(
            "round_looks is 0, so that no round would ever come to an end; it must be 1 or more"
                .to_owned(),
        );
    }
    if settings.holes_per_role > 0 && settings.hole_timeout.is_zero() {
        return refuse(format!(
            "hole_timeout_secs is 0 but holes_per_role is {}; keep holes for a while, or none",
            settings.holes_per_role
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(config: &Value) -> String {
        let error = Modules::default()
            .make("drf", config)
            .err()
            .expect("refused");
        match error {
            ModuleError::Unreadable(source) => source.to_string(),
            other => other.to_string(),
        }
    }

    #[test]
    fn the_shipped_modules_are_made_by_name() {
        let modules = Modules::default();
        assert_eq!(
            modules.names().collect::<Vec<_>>(),
            ["best-fit", "drf", "random"]
        );
        for name in modules.names() {
            modules
                .make(name, &Value::Null)
                .expect("the defaults are valid")();
        }
        let unknown = modules.make("fair", &Value::Null).err().expect("unknown");
        assert_eq!(
            unknown.to_string(),
            "there is no allocation module \"fair\"; there are best-fit, drf, random"
        );
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let settings = settings(&json!({
            "placement": "pack",
            "min_allocatable": [{"cpus": 1, "mem": 64}],
            "aside_secs": 5,
            "domain": "eu/a",
        }))
        .expect("valid");
        let expected = Settings {
            placement: Placement::Pack,
            aside_for: Duration::from_secs(5),
            common: Common {
                min_allocatable: vec![Amounts::from([
                    (Name::CPUS, Fixed::units(1)),
                    (Name::MEM, Fixed::units(64)),
                ])],
                domain: Some("eu/a".parse().expect("a region and a zone")),
                ..Common::default()
            },
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_values() {
        assert!(refused(&json!({"placment": "pack"})).contains("unknown field `placment`"));
        assert!(refused(&json!({"domain": "eu"})).contains("region/zone"));
        assert!(refused(&json!({"placement": "best"})).contains("\"best\"; it must be rotate"));
        assert!(refused(&json!({"min_allocatable": [{"cpus": -1}]})).contains("cpus is -1"));
        assert!(refused(&json!({"decline_patience": 0})).contains("it must be 1 or more"));
        assert!(refused(&json!({"round_looks": 0})).contains("it must be 1 or more"));
        assert_eq!(
            refused(&json!({"hole_timeout_secs": 0, "holes_per_role": 2})),
            "hole_timeout_secs is 0 but holes_per_role is 2; keep holes for a while, or none"
        );
    }
}
