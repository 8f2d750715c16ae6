//! From a user's JSON to an [`App`]: defaults, rules, and a sentence for all that is refused.
//!
//! Every known field of Marathon is read here. What is not supported yet is refused unless its
//! value means nothing (an empty list, `gpus: 0`); nothing is ignored in silence except the
//! fields that only answers carry (`tasksRunning`, `deployments`, …), so that what was read can
//! be sent back.

mod checks;
mod fetch;
mod ports;

use std::collections::BTreeMap;

use allotment_types::{Fixed, Role};
use serde_json::{Map, Value};

use super::answer::{Answer, Problems};
use super::app::{App, KillSelection, Network, Unreachable, UpgradeStrategy, VersionInfo};
use super::constraint::Constraint;
use super::id::{AppId, Version};
use super::json::{Fields, is_empty, kind};

/// The most instances of one app: each costs some memory even while it waits.
pub const INSTANCES_MAX: u64 = 100_000;
/// A hundred years in seconds: longer waits are mistakes, and sums of them must not overflow.
const SECONDS_MAX: u64 = 3_153_600_000;
/// With its references a definition must fit a value of the store (1 MiB).
const DEFINITION_LEN_MAX: usize = 512 * 1024;

/// Fields that answers carry and requests may send back.
const READ_ONLY: [&str; 10] = [
    "tasks",
    "tasksStaged",
    "tasksRunning",
    "tasksHealthy",
    "tasksUnhealthy",
    "deployments",
    "lastTaskFailure",
    "readinessCheckResults",
    "taskStats",
    "tasksStats",
];

/// Reads a complete definition. Port definitions with port 0 are left at 0.
///
/// # Errors
/// 422 with every problem and its path.
pub fn app(value: &Value, id: Option<&AppId>, role: &Role) -> Result<App, Answer> {
    let mut problems = Problems::default();
    let parsed = Fields::of("", value, &mut problems)
        .and_then(|fields| read_app(fields, id, role, &mut problems));
    match parsed {
        Some(app) if problems.is_empty() => {
            let len = serde_json::to_vec(&app).map_or(0, |bytes| bytes.len());
            if len > DEFINITION_LEN_MAX {
                return Err(Answer::invalid(
                    "/",
                    format!(
                        "the definition has {len} bytes, at most {DEFINITION_LEN_MAX} are kept; \
                         move large values to files"
                    ),
                ));
            }
            Ok(app)
        }
        _ => Err(problems.answer()),
    }
}

/// The JSON of `current` with the fields of `patch` put over it.
pub fn patched(current: &App, patch: &Map<String, Value>) -> Value {
    let mut whole = match serde_json::to_value(current) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for key in ["version", "versionInfo"] {
        whole.remove(key);
    }
    let given = |key: &str| patch.get(key).is_some_and(|v| !v.is_null());
    // Twins: giving one replaces the other.
    for (new, old) in [
        ("cmd", "args"),
        ("args", "cmd"),
        ("ports", "portDefinitions"),
        ("uris", "fetch"),
    ] {
        if given(new) {
            whole.remove(old);
        }
    }
    for (key, value) in patch {
        if !value.is_null() {
            whole.insert(key.clone(), value.clone());
        }
    }
    Value::Object(whole)
}

fn read_app(mut f: Fields<'_>, id: Option<&AppId>, role: &Role, p: &mut Problems) -> Option<App> {
    for key in READ_ONLY {
        f.any(key);
    }
    f.any("version");
    f.any("versionInfo");
    let id = read_id(&mut f, id, p);
    let instances = f.whole("instances", (0, INSTANCES_MAX), p).unwrap_or(1);
    let cpus = read_amount(&mut f, "cpus", 1.0, p);
    if cpus < Fixed::from_thousandths(1) {
        p.rule("/cpus", "must be at least 0.001");
    }
    let mem = read_amount(&mut f, "mem", 128.0, p);
    let disk = read_amount(&mut f, "disk", 0.0, p);
    refuse_unsupported(&mut f, p);
    let (cmd, args) = read_command(&mut f, p);
    let labels = read_labels(&mut f, "labels", p);
    let strategy = read_upgrade(&mut f, p);
    if labels
        .get("MARATHON_SINGLE_INSTANCE_APP")
        .map(String::as_str)
        == Some("true")
    {
        if instances > 1 {
            p.rule(
                "/instances",
                "must be 0 or 1 with the label MARATHON_SINGLE_INSTANCE_APP",
            );
        }
        if strategy.minimum_health_capacity > 0.0 || strategy.maximum_over_capacity > 0.0 {
            p.rule(
                "/upgradeStrategy",
                "both capacities must be 0 with the label MARATHON_SINGLE_INSTANCE_APP",
            );
        }
    }
    let require_ports = f.flag("requirePorts", p).unwrap_or(false);
    let port_definitions = ports::read(&mut f, p);
    let health_checks = checks::read(&mut f, port_definitions.len(), p);
    let own_role = f.text("role", p);
    if let Some(given) = &own_role
        && given != role.as_str()
    {
        p.rule(
            "/role",
            format!("role {given:?} is not served here; this framework runs apps in {role}"),
        );
    }
    let backoff_factor = f.number("backoffFactor", p).unwrap_or(1.15);
    if !(1.0..=1e6).contains(&backoff_factor) {
        p.rule("/backoffFactor", "must be at least 1 and at most 1000000");
    }
    let app = App {
        id: id?,
        accepted_resource_roles: read_accepted_roles(&mut f, role, p),
        args,
        backoff_factor,
        backoff_seconds: f.whole("backoffSeconds", (0, SECONDS_MAX), p).unwrap_or(1),
        cmd,
        constraints: read_constraints(&mut f, p),
        cpus,
        disk,
        env: read_env(&mut f, p),
        executor: String::new(),
        fetch: fetch::read(&mut f, p),
        gpus: 0,
        health_checks,
        instances: u32::try_from(instances).unwrap_or(u32::MAX),
        kill_selection: read_kill_selection(&mut f, p),
        labels,
        max_launch_delay_seconds: f
            .whole("maxLaunchDelaySeconds", (0, SECONDS_MAX), p)
            .unwrap_or(300),
        mem,
        networks: read_networks(&mut f, p),
        port_definitions,
        require_ports,
        role: own_role,
        task_kill_grace_period_seconds: f.whole("taskKillGracePeriodSeconds", (0, SECONDS_MAX), p),
        unreachable_strategy: read_unreachable(&mut f, p),
        upgrade_strategy: strategy,
        user: read_user(&mut f, p),
        version: Version::default(),
        version_info: VersionInfo::default(),
    };
    f.finish(p);
    Some(app)
}

fn read_id(f: &mut Fields<'_>, from_path: Option<&AppId>, p: &mut Problems) -> Option<AppId> {
    let given = f.text("id", p);
    let given = match given.map(|text| AppId::parse(&text)) {
        Some(Ok(id)) => Some(id),
        Some(Err(sentence)) => {
            p.rule("/id", sentence);
            return None;
        }
        None => None,
    };
    match (given, from_path) {
        (Some(given), Some(path)) if given != *path => {
            p.rule(
                "/id",
                format!("the body names {given} but the request {path}; make them equal or leave the id out"),
            );
            None
        }
        (Some(given), _) => Some(given),
        (None, Some(path)) => Some(path.clone()),
        (None, None) => {
            p.rule("/id", "is undefined; give the app a path such as /web");
            None
        }
    }
}

fn read_amount(f: &mut Fields<'_>, key: &'static str, default: f64, p: &mut Problems) -> Fixed {
    let number = f.number(key, p).unwrap_or(default);
    Fixed::from_f64(number).unwrap_or_else(|_| {
        p.rule(
            f.at(key),
            format!("must be between 0 and {}, got {number}", Fixed::MAX_UNITS),
        );
        Fixed::units(1)
    })
}

fn refuse_unsupported(f: &mut Fields<'_>, p: &mut Problems) {
    let never = |_: &Value| false;
    let zero = |v: &Value| v.as_f64() == Some(0.0);
    let no = |v: &Value| *v == Value::Bool(false);
    f.unsupported("container", never, "containers (images, volumes, port mappings) are not supported yet; run a command of the host with cmd or args", p);
    f.unsupported(
        "ipAddress",
        never,
        "container networks are not supported yet; instances use the host's network",
        p,
    );
    f.unsupported(
        "gpus",
        zero,
        "gpus are not supported yet; leave the field out",
        p,
    );
    f.unsupported(
        "residency",
        never,
        "persistent volumes are not supported yet, so there is no residency",
        p,
    );
    f.unsupported(
        "secrets",
        is_empty,
        "secrets are not supported yet; leave the field out",
        p,
    );
    f.unsupported("resourceLimits", is_empty, "resource limits beside the request are not supported yet; cpus, mem and disk are the limits", p);
    f.unsupported(
        "executorResources",
        never,
        "resources for the executor are not supported yet; it costs the app nothing",
        p,
    );
    f.unsupported(
        "tty",
        no,
        "terminals are not supported yet; leave the field out",
        p,
    );
    f.unsupported(
        "check",
        never,
        "checks are not supported yet; use healthChecks with protocol HTTP or TCP",
        p,
    );
    f.unsupported(
        "readinessChecks",
        is_empty,
        "readiness checks are not supported yet; a deployment waits for healthChecks",
        p,
    );
    f.unsupported(
        "dependencies",
        is_empty,
        "dependencies are not supported yet; start the apps in order",
        p,
    );
    f.unsupported(
        "storeUrls",
        is_empty,
        "is no longer part of Marathon; use fetch",
        p,
    );
    f.unsupported(
        "executor",
        |v| matches!(v.as_str(), Some("" | "//cmd")),
        "custom executors are not supported yet; leave the field out",
        p,
    );
}

fn read_command(f: &mut Fields<'_>, p: &mut Problems) -> (Option<String>, Option<Vec<String>>) {
    let cmd = f.text("cmd", p);
    let args = f.texts("args", p).filter(|args| !args.is_empty());
    match (&cmd, &args) {
        (Some(_), Some(_)) => p.rule("/", "give cmd or args, not both"),
        (None, None) => p.rule("/", "give a command to run: cmd (a shell line) or args"),
        (Some(line), None) if line.chars().count() < 2 => {
            p.rule("/cmd", "must be longer than 1 character");
        }
        _ => {}
    }
    let nul = |text: &str| text.contains('\0');
    if cmd.as_deref().is_some_and(nul) {
        p.rule("/cmd", "must not hold the character NUL");
    }
    if let Some(args) = &args {
        if args.iter().any(|a| nul(a)) {
            p.rule("/args", "must not hold the character NUL");
        }
        if args.first().is_some_and(String::is_empty) {
            p.rule("/args(0)", "names the program and must not be empty");
        }
    }
    (cmd, args)
}

fn read_user(f: &mut Fields<'_>, p: &mut Problems) -> Option<String> {
    let user = f.text("user", p)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    if user.is_empty() || user.len() > 64 || !user.chars().all(plain) {
        p.rule("/user", "must be the name of a Unix user");
    }
    Some(user)
}

fn read_labels(
    f: &mut Fields<'_>,
    key: &'static str,
    p: &mut Problems,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, value) in f.object(key, p).into_iter().flatten() {
        match value {
            Value::String(text) => {
                labels.insert(name.clone(), text.clone());
            }
            other => p.shape(
                format!("{}/{name}", f.at(key)),
                format!("expected a string, got {}", kind(other)),
            ),
        }
    }
    labels
}

fn read_env(f: &mut Fields<'_>, p: &mut Problems) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in f.object("env", p).into_iter().flatten() {
        let at = format!("/env/{name}");
        if name.trim().is_empty() || name.contains(['=', '\0']) {
            p.rule(
                at.clone(),
                "the name of a variable must not be empty nor hold `=` or NUL",
            );
        }
        match value {
            Value::String(text) if text.contains('\0') => {
                p.rule(at, "must not hold the character NUL");
            }
            Value::String(text) => {
                env.insert(name.clone(), text.clone());
            }
            Value::Object(_) => p.rule(at, "secrets are not supported yet; give a text"),
            Value::Null => {}
            other => p.shape(at, format!("expected a string, got {}", kind(other))),
        }
    }
    env
}

fn read_upgrade(f: &mut Fields<'_>, p: &mut Problems) -> UpgradeStrategy {
    let mut strategy = UpgradeStrategy {
        minimum_health_capacity: 1.0,
        maximum_over_capacity: 1.0,
    };
    let Some(mut inner) = f.inner("upgradeStrategy", p) else {
        return strategy;
    };
    for (key, slot) in [
        (
            "minimumHealthCapacity",
            &mut strategy.minimum_health_capacity,
        ),
        ("maximumOverCapacity", &mut strategy.maximum_over_capacity),
    ] {
        if let Some(share) = inner.number(key, p) {
            if !(0.0..=1.0).contains(&share) {
                p.rule(
                    inner.at(key),
                    format!("must be between 0.0 and 1.0, got {share}"),
                );
            }
            *slot = share;
        }
    }
    inner.finish(p);
    strategy
}

fn read_kill_selection(f: &mut Fields<'_>, p: &mut Problems) -> KillSelection {
    match f.text("killSelection", p).as_deref() {
        None | Some("YOUNGEST_FIRST") => KillSelection::YoungestFirst,
        Some("OLDEST_FIRST") => KillSelection::OldestFirst,
        Some(other) => {
            p.rule(
                "/killSelection",
                format!("must be YOUNGEST_FIRST or OLDEST_FIRST, got {other:?}"),
            );
            KillSelection::default()
        }
    }
}

fn read_unreachable(f: &mut Fields<'_>, p: &mut Problems) -> Unreachable {
    let immediate = Unreachable::After {
        inactive: 0,
        expunge: 0,
    };
    match f.any("unreachableStrategy") {
        None => immediate,
        Some(Value::String(word)) => {
            if word != "disabled" {
                p.rule(
                    "/unreachableStrategy",
                    format!("must be \"disabled\" or an object, got {word:?}"),
                );
            }
            Unreachable::Disabled
        }
        Some(value) => {
            let Some(mut inner) = Fields::of("/unreachableStrategy", value, p) else {
                return immediate;
            };
            let inactive = inner
                .whole("inactiveAfterSeconds", (0, SECONDS_MAX), p)
                .unwrap_or(0);
            let expunge = inner
                .whole("expungeAfterSeconds", (0, SECONDS_MAX), p)
                .unwrap_or(0);
            if inactive > expunge {
                p.rule(
                    "/unreachableStrategy",
                    format!(
                        "inactiveAfterSeconds ({inactive}) must not exceed expungeAfterSeconds ({expunge})"
                    ),
                );
            }
            inner.finish(p);
            Unreachable::After { inactive, expunge }
        }
    }
}

fn read_networks(f: &mut Fields<'_>, p: &mut Problems) -> Vec<Network> {
    for (i, network) in f.list("networks", p).into_iter().flatten().enumerate() {
        let Some(mut inner) = Fields::of(format!("/networks({i})"), network, p) else {
            continue;
        };
        let mode = inner.text("mode", p);
        if mode.as_deref() != Some("host") {
            p.rule(
                inner.at("mode"),
                "only the network mode \"host\" is supported yet",
            );
        }
        if i > 0 {
            p.rule(
                "/networks",
                "host networking cannot be combined with another network",
            );
        }
        inner.unsupported("name", |_| false, "a host network has no name", p);
        inner.unsupported(
            "labels",
            is_empty,
            "labels of networks are not supported yet",
            p,
        );
        inner.finish(p);
    }
    vec![Network {
        mode: "host".to_owned(),
    }]
}

fn read_constraints(f: &mut Fields<'_>, p: &mut Problems) -> Vec<Constraint> {
    let mut constraints = Vec::new();
    for (i, item) in f.list("constraints", p).into_iter().flatten().enumerate() {
        let at = format!("/constraints({i})");
        let parts: Option<Vec<String>> = item.as_array().and_then(|parts| {
            parts
                .iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect()
        });
        match parts.map(|parts| Constraint::new(&parts)) {
            Some(Ok(constraint)) => constraints.push(constraint),
            Some(Err(sentence)) => p.rule(at, sentence),
            None => p.shape(
                at,
                "expected an array of strings, such as [\"hostname\", \"UNIQUE\"]",
            ),
        }
    }
    constraints
}

fn read_accepted_roles(f: &mut Fields<'_>, role: &Role, p: &mut Problems) -> Option<Vec<String>> {
    let roles = f.texts("acceptedResourceRoles", p)?;
    if roles.is_empty() {
        p.rule(
            "/acceptedResourceRoles",
            "must not be empty; leave it out to accept all",
        );
    }
    for (i, given) in roles.iter().enumerate() {
        if given != "*" && given != role.as_str() {
            p.rule(
                format!("/acceptedResourceRoles({i})"),
                format!("must be \"*\" or this framework's role {role}, got {given:?}"),
            );
        }
    }
    Some(roles)
}
