//! `--allocator` and its settings: which allocation module decides, and how.
//!
//! Every setting can stand in `--allocator-config`; those that Mesos' master has flags for have
//! the same flags here. Each may be given once.

use std::path::Path;

use allotment_master::modules::{DEFAULT, Make, Modules};
use allotment_types::{FaultDomain, Resources};
use anyhow::Context as _;
use serde_json::{Map, Value};

use super::usage;

/// Flags of every role with a master in it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Flags {
    /// The allocation module: drf, random or best-fit
    #[arg(long, default_value = DEFAULT, value_name = "NAME")]
    allocator: String,
    /// Its settings: a file with JSON, or the JSON itself, such as '{"placement": "pack"}'
    #[arg(long, value_name = "FILE|JSON")]
    allocator_config: Option<String>,
    /// The smallest bundles worth an offer, any one of them, such as cpus:0.01|mem:32
    #[arg(long, value_name = "RESOURCES|...")]
    min_allocatable_resources: Option<String>,
    /// Resources that do not count in shares, such as gpus
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    fair_sharing_excluded_resource_names: Vec<String>,
    /// Whether agents with GPUs are offered only to frameworks with the capability GPU_RESOURCES
    /// [default: true]
    #[arg(long, value_name = "BOOL")]
    filter_gpu_resources: Option<bool>,
}

/// A module and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    name: String,
    config: Value,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            name: DEFAULT.to_owned(),
            config: Value::Null,
        }
    }
}

impl Flags {
    /// Reads the flags, and where the master stands, and checks that there is such a module.
    pub(crate) fn choice_in(self, domain: Option<&FaultDomain>) -> anyhow::Result<Choice> {
        let mut config = self.allocator_config.as_deref().map(read).transpose()?;
        if let Some(text) = &self.min_allocatable_resources {
            let bundles = text.split('|').map(bundle).collect::<Result<_, _>>()?;
            let flag = "--min-allocatable-resources";
            add(&mut config, flag, "min_allocatable", Value::Array(bundles))?;
        }
        if !self.fair_sharing_excluded_resource_names.is_empty() {
            let names = self.fair_sharing_excluded_resource_names.into();
            let flag = "--fair-sharing-excluded-resource-names";
            add(&mut config, flag, "share_excluded", names)?;
        }
        if let Some(filter) = self.filter_gpu_resources {
            let flag = "--filter-gpu-resources";
            add(&mut config, flag, "filter_gpus", filter.into())?;
        }
        if let Some(domain) = domain {
            let text = Value::String(domain.to_string());
            add(&mut config, "--domain", "domain", text)?;
        }
        let choice = Choice {
            name: self.allocator,
            config: config.unwrap_or_default(),
        };
        choice.make()?;
        Ok(choice)
    }
}

/// Adds what a flag says to the settings.
fn add(config: &mut Option<Value>, flag: &str, name: &str, value: Value) -> anyhow::Result<()> {
    let Value::Object(settings) = config.get_or_insert_with(|| Value::Object(Map::new())) else {
        return Err(usage(format!(
            "--allocator-config is no JSON object, so {flag} cannot be added to it; write {{...}}"
        )));
    };
    if settings.contains_key(name) {
        return Err(usage(format!(
            "{flag} and the setting {name:?} of --allocator-config say the same; give one of them"
        )));
    }
    settings.insert(name.to_owned(), value);
    Ok(())
}

/// One of the smallest bundles: `cpus:1;mem:32`.
fn bundle(text: &str) -> anyhow::Result<Value> {
    let refuse = |why: String| {
        usage(format!(
            "--min-allocatable-resources: {:?}: {why}; write bundles such as cpus:0.01|mem:32",
            text.chars().take(80).collect::<String>()
        ))
    };
    let resources: Resources = text.trim().parse().map_err(|e| refuse(format!("{e}")))?;
    let plain = resources.iter().all(|(_, lot, value)| {
        lot.is_plain() && matches!(value, allotment_types::Value::Scalar(_))
    });
    if !plain || resources.is_empty() {
        return Err(refuse(
            "only amounts say how much is worth an offer".to_owned(),
        ));
    }
    let amounts = resources
        .scalars()
        .map(|(name, amount)| (name.to_string(), Value::from(amount.as_f64())));
    Ok(Value::Object(amounts.collect()))
}

impl Choice {
    /// What makes modules.
    pub(crate) fn make(&self) -> anyhow::Result<Make> {
        let made = Modules::default().make(&self.name, &self.config);
        made.map_err(|error| {
            let error = anyhow::Error::from(error);
            usage(format!("{error:#}"))
        })
    }
}

fn read(given: &str) -> anyhow::Result<Value> {
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        std::fs::read_to_string(Path::new(given)).with_context(|| {
            format!("cannot read {given:?} of --allocator-config; give a file, or JSON in {{}}")
        })?
    };
    serde_json::from_str(&text)
        .map_err(|error| usage(format!("--allocator-config is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Flags {
        fn nothing() -> Self {
            Self {
                allocator: DEFAULT.to_owned(),
                allocator_config: None,
                min_allocatable_resources: None,
                fair_sharing_excluded_resource_names: Vec::new(),
                filter_gpu_resources: None,
            }
        }
    }

    #[test]
    fn what_mesos_masters_have_flags_for_is_set_by_the_same_flags() {
        let flags = Flags {
            min_allocatable_resources: Some("cpus:1;mem:64|cpus:4".to_owned()),
            fair_sharing_excluded_resource_names: vec!["gpus".to_owned()],
            filter_gpu_resources: Some(false),
            ..Flags::nothing()
        };
        let domain: FaultDomain = "eu/a".parse().unwrap();
        let choice = flags.choice_in(Some(&domain)).unwrap();
        let expected = serde_json::json!({
            "min_allocatable": [{"cpus": 1.0, "mem": 64.0}, {"cpus": 4.0}],
            "share_excluded": ["gpus"],
            "filter_gpus": false,
            "domain": "eu/a",
        });
        assert_eq!(choice.config, expected);
    }

    #[test]
    fn a_setting_that_makes_no_sense_or_comes_twice_is_refused_in_words() {
        let told = |flags: Flags| format!("{:#}", flags.choice_in(None).unwrap_err());
        for bundles in ["", "cpus", "ports:[1-2]", "cpus:1||mem:1"] {
            let told = told(Flags {
                min_allocatable_resources: Some(bundles.to_owned()),
                ..Flags::nothing()
            });
            assert!(told.contains("cpus:0.01|mem:32"), "{told}");
        }
        let twice = told(Flags {
            allocator_config: Some(r#"{"filter_gpus": true}"#.to_owned()),
            filter_gpu_resources: Some(false),
            ..Flags::nothing()
        });
        assert!(twice.contains("give one of them"), "{twice}");
    }

    fn choose(name: &str, config: Option<&str>) -> Result<Choice, String> {
        let flags = Flags {
            allocator: name.to_owned(),
            allocator_config: config.map(str::to_owned),
            ..Flags::nothing()
        };
        flags.choice_in(None).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn modules_are_chosen_by_name_and_wrong_settings_are_refused_in_words() {
        for name in ["drf", "random", "best-fit"] {
            assert!(choose(name, None).is_ok(), "{name}");
        }
        assert!(choose("drf", Some(r#"{"placement": "pack"}"#)).is_ok());
        let told = choose("fair", None).unwrap_err();
        assert!(told.contains("there are best-fit, drf, random"), "{told}");
        let told = choose("drf", Some(r#"{"plaecment": "pack"}"#)).unwrap_err();
        assert!(told.contains("plaecment"), "{told}");
        let told = choose("drf", Some("/nowhere/settings.json")).unwrap_err();
        assert!(told.contains("/nowhere/settings.json"), "{told}");
        assert!(choose("drf", Some("{")).is_err());
    }
}
