//! `--allocator` and `--allocator-config`: which allocation module decides, and how.

use std::path::Path;

use allotment_master::modules::{DEFAULT, Make, Modules};
use anyhow::Context as _;

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
}

/// A module and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    name: String,
    config: serde_json::Value,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            name: DEFAULT.to_owned(),
            config: serde_json::Value::Null,
        }
    }
}

impl Flags {
    /// Reads the flags and checks that there is such a module.
    pub(crate) fn choice(self) -> anyhow::Result<Choice> {
        let config = self.allocator_config.as_deref().map(read).transpose()?;
        let choice = Choice {
            name: self.allocator,
            config: config.unwrap_or_default(),
        };
        choice.make()?;
        Ok(choice)
    }
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

fn read(given: &str) -> anyhow::Result<serde_json::Value> {
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

    fn choose(name: &str, config: Option<&str>) -> Result<Choice, String> {
        let flags = Flags {
            allocator: name.to_owned(),
            allocator_config: config.map(str::to_owned),
        };
        flags.choice().map_err(|error| format!("{error:#}"))
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
