//! `ports` and `portDefinitions`: twins of which one is given, or both alike.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::answer::Problems;
use super::super::app::PortDefinition;
use super::super::json::{Fields, kind};

/// The most ports of one instance.
const PORTS_MAX: usize = 1000;

pub(super) fn read(f: &mut Fields<'_>, p: &mut Problems) -> Vec<PortDefinition> {
    let legacy = f.list("ports", p).map(|list| {
        let mut numbers = Vec::new();
        for (i, value) in list.iter().enumerate() {
            match value.as_u64().and_then(|n| u16::try_from(n).ok()) {
                Some(port) => numbers.push(port),
                None => p.rule(format!("/ports({i})"), "must be a port between 0 and 65535"),
            }
        }
        numbers
    });
    let given = f.list("portDefinitions", p).map(|list| {
        let each = list.iter().enumerate();
        each.filter_map(|(i, v)| read_port(i, v, p))
            .collect::<Vec<_>>()
    });
    let plain = |port: u16, name: Option<&str>| PortDefinition {
        labels: BTreeMap::new(),
        name: name.map(str::to_owned),
        port,
        protocol: "tcp".to_owned(),
    };
    let definitions = match (given, legacy) {
        (Some(given), Some(legacy)) => {
            let ports: Vec<u16> = given.iter().map(|d| d.port).collect();
            if ports != legacy {
                p.rule(
                    "/ports",
                    "give ports or portDefinitions, not both with different ports",
                );
            }
            given
        }
        (Some(given), None) => given,
        (None, Some(legacy)) => legacy.into_iter().map(|port| plain(port, None)).collect(),
        (None, None) => vec![plain(0, Some("default"))],
    };
    if definitions.len() > PORTS_MAX {
        p.rule(
            "/portDefinitions",
            format!(
                "has {} ports, at most {PORTS_MAX} are accepted",
                definitions.len()
            ),
        );
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for definition in &definitions {
        if let Some(name) = &definition.name
            && !names.insert(name.clone())
        {
            p.rule(
                "/portDefinitions",
                format!("port names must be unique, {name:?} is given twice"),
            );
        }
        if definition.port != 0 && !numbers.insert(definition.port) {
            p.rule(
                "/portDefinitions",
                format!("ports must be unique, {} is given twice", definition.port),
            );
        }
    }
    definitions
}

fn read_port(i: usize, value: &Value, p: &mut Problems) -> Option<PortDefinition> {
    let mut inner = Fields::of(format!("/portDefinitions({i})"), value, p)?;
    let port = inner.whole("port", (0, 65_535), p).unwrap_or(0);
    let protocol = inner
        .text("protocol", p)
        .unwrap_or_else(|| "tcp".to_owned());
    if !matches!(protocol.as_str(), "tcp" | "udp" | "udp,tcp" | "tcp,udp") {
        p.rule(
            inner.at("protocol"),
            format!("must be tcp, udp or udp,tcp, got {protocol:?}"),
        );
    }
    let name = inner.text("name", p);
    if let Some(name) = &name {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
            p.rule(
                inner.at("name"),
                "must fully match regular expression '^[a-z0-9-]{1,63}$'",
            );
        }
    }
    let mut labels = BTreeMap::new();
    for (key, label) in inner.object("labels", p).into_iter().flatten() {
        match label.as_str() {
            Some(text) => {
                labels.insert(key.clone(), text.to_owned());
            }
            None => p.shape(
                format!("{}/{key}", inner.at("labels")),
                format!("expected a string, got {}", kind(label)),
            ),
        }
    }
    inner.finish(p);
    Some(PortDefinition {
        labels,
        name,
        port: u16::try_from(port).unwrap_or(0),
        protocol,
    })
}
