//! Whether one more instance fits an offer, and the task that results.

use std::collections::BTreeMap;

use allotment_framework_sdk::api::health_check::{HttpCheckInfo, TcpCheckInfo, Type};
use allotment_framework_sdk::api::{self, Command, Offer};
use allotment_types::{Fixed, Name, Ranges, Resources, TaskId};

use super::app::{App, CheckProtocol, HealthCheck};
use super::constraint::{Peers, Place};
use super::id::InstanceId;
use super::rng::Rng;

/// Why an offer was not used, in the order in which it is examined; Marathon's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The app takes only resources reserved for its role.
    UnfulfilledRole,
    /// A constraint stands against it.
    UnfulfilledConstraint,
    /// Too few cores.
    InsufficientCpus,
    /// Too little memory.
    InsufficientMemory,
    /// Too little disk.
    InsufficientDisk,
    /// Too few ports, or not the required ones.
    InsufficientPorts,
}

impl Reason {
    /// Every reason in order.
    pub const ALL: [Self; 6] = [
        Self::UnfulfilledRole,
        Self::UnfulfilledConstraint,
        Self::InsufficientCpus,
        Self::InsufficientMemory,
        Self::InsufficientDisk,
        Self::InsufficientPorts,
    ];

    /// Marathon's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnfulfilledRole => "UnfulfilledRole",
            Self::UnfulfilledConstraint => "UnfulfilledConstraint",
            Self::InsufficientCpus => "InsufficientCpus",
            Self::InsufficientMemory => "InsufficientMemory",
            Self::InsufficientDisk => "InsufficientDisk",
            Self::InsufficientPorts => "InsufficientPorts",
        }
    }
}

/// An offer and what is left of it.
#[derive(Debug)]
pub struct Room {
    /// The offer.
    pub offer: Offer,
    /// What constraints see of its agent.
    pub place: Place,
    /// Resources that no task of this turn took.
    pub left: Resources,
    /// What is launched on it.
    pub tasks: Vec<api::Task>,
}

impl Room {
    /// The whole offer.
    pub fn new(offer: Offer) -> Self {
        Self {
            place: Place::new(&offer.hostname, &offer.attributes),
            left: offer.resources.clone(),
            tasks: Vec::new(),
            offer,
        }
    }
}

/// Whether one more instance of `app` fits into `left` of an agent at `place`.
///
/// # Errors
/// The first [`Reason`] against it.
pub fn fits(app: &App, left: &Resources, place: &Place, peers: &Peers<'_>) -> Result<(), Reason> {
    // Reserved resources do not exist here yet, so everything offered is in role `*`.
    let roles = app.accepted_resource_roles.as_ref();
    if roles.is_some_and(|roles| !roles.iter().any(|role| role == "*")) {
        return Err(Reason::UnfulfilledRole);
    }
    if app
        .constraints
        .iter()
        .any(|c| c.judge(place, peers).is_err())
    {
        return Err(Reason::UnfulfilledConstraint);
    }
    for (name, asked, reason) in [
        (Name::CPUS, app.cpus, Reason::InsufficientCpus),
        (Name::MEM, app.mem, Reason::InsufficientMemory),
        (Name::DISK, app.disk, Reason::InsufficientDisk),
    ] {
        if left.scalar(&name) < asked {
            return Err(reason);
        }
    }
    if ports_fit(app, &left.ports()) {
        Ok(())
    } else {
        Err(Reason::InsufficientPorts)
    }
}

/// The host ports that the definitions insist on.
pub fn required_ports(app: &App) -> Ranges {
    let fixed = app
        .port_definitions
        .iter()
        .filter(|d| app.require_ports && d.port != 0);
    Ranges::new(fixed.map(|d| (u64::from(d.port), u64::from(d.port))))
}

fn ports_fit(app: &App, left: &Ranges) -> bool {
    let wanted = u64::try_from(app.port_definitions.len()).unwrap_or(u64::MAX);
    left.contains(&required_ports(app)) && left.count() >= wanted
}

/// Chooses host ports in the order of the definitions. The start is drawn, so that a port that
/// was just given back is not taken again at once.
pub fn choose_ports(app: &App, left: &Ranges, rng: &mut Rng) -> Vec<u16> {
    let free: Vec<u64> = left.difference(&required_ports(app)).numbers().collect();
    let start = rng.below(u64::try_from(free.len()).unwrap_or(1));
    let start = usize::try_from(start).unwrap_or(0);
    let mut drawn = free.iter().cycle().skip(start).take(free.len());
    app.port_definitions
        .iter()
        .filter_map(|definition| {
            if app.require_ports && definition.port != 0 {
                Some(definition.port)
            } else {
                drawn.next().and_then(|port| u16::try_from(*port).ok())
            }
        })
        .collect()
}

/// What a task with these ports uses.
pub fn resources(app: &App, ports: &[u16]) -> Resources {
    let ranges = ports
        .iter()
        .map(|port| (u64::from(*port), u64::from(*port)));
    app.scalars().with_ranges(Name::PORTS, Ranges::new(ranges))
}

/// The task to launch.
pub fn task(app: &App, instance: &InstanceId, id: TaskId, host: &str, ports: &[u16]) -> api::Task {
    let command = match (&app.cmd, app.args.as_deref()) {
        (None, Some([program, arguments @ ..])) => Command::Exec {
            program: program.clone(),
            arguments: arguments.to_vec(),
        },
        (cmd, _) => Command::Shell(cmd.clone().unwrap_or_default()),
    };
    let uris = app.fetch.iter().map(|file| api::Uri {
        value: file.uri.clone(),
        executable: file.executable,
        extract: file.extract,
        cache: file.cache,
        output_file: file.dest_path.clone(),
    });
    let mut labels = app.labels.clone();
    labels.insert(
        "MARATHON_INSTANCE_ID".to_owned(),
        instance.as_str().to_owned(),
    );
    api::Task {
        name: task_name(app),
        env: env(app, &id, host, ports),
        uris: uris.collect(),
        user: app.user.clone(),
        kill_grace: app
            .task_kill_grace_period_seconds
            .map(std::time::Duration::from_secs),
        labels,
        health_check: app
            .health_checks
            .iter()
            .find(|check| check.protocol.is_asked_by_agent())
            .and_then(|check| agents_check(check, ports)),
        ..api::Task::new(id, resources(app, ports), command)
    }
}

/// A health check as the agent understands it; `None` when the instance lacks its port.
fn agents_check(check: &HealthCheck, ports: &[u16]) -> Option<api::HealthCheck> {
    let index = check.port_index.unwrap_or(0);
    let port = check.port.or_else(|| ports.get(index).copied());
    // A double holds every number of seconds that an app may name.
    let seconds = |seconds: u64| u32::try_from(seconds).map(f64::from).ok();
    let mut wire = api::HealthCheck {
        delay_seconds: seconds(check.delay_seconds),
        interval_seconds: seconds(check.interval_seconds),
        timeout_seconds: seconds(check.timeout_seconds),
        grace_period_seconds: seconds(check.grace_period_seconds),
        consecutive_failures: Some(match check.max_consecutive_failures {
            // Never kill.
            0 => u32::MAX,
            n => n,
        }),
        ..Default::default()
    };
    match check.protocol {
        CheckProtocol::Http | CheckProtocol::Tcp => return None,
        CheckProtocol::Command => {
            wire.r#type = Some(Type::Command.into());
            wire.command = Some(api::CommandInfo {
                value: check.command.as_ref().map(|command| command.value.clone()),
                ..Default::default()
            });
        }
        CheckProtocol::MesosHttp | CheckProtocol::MesosHttps => {
            let tls = check.protocol == CheckProtocol::MesosHttps;
            wire.r#type = Some(Type::Http.into());
            wire.http = Some(HttpCheckInfo {
                scheme: Some(if tls { "https" } else { "http" }.to_owned()),
                port: port?.into(),
                path: check.path.clone(),
                ..Default::default()
            });
        }
        CheckProtocol::MesosTcp => {
            wire.r#type = Some(Type::Tcp.into());
            wire.tcp = Some(TcpCheckInfo {
                port: port?.into(),
                ..Default::default()
            });
        }
    }
    Some(wire)
}

/// The parts of the path from last to first, joined by dots, as Marathon names tasks.
fn task_name(app: &App) -> String {
    let mut parts: Vec<&str> = app
        .id
        .as_str()
        .split('/')
        .filter(|p| !p.is_empty())
        .collect();
    parts.reverse();
    parts.join(".")
}

/// Labels longer than this are left out of the environment, as in Marathon.
const LABEL_LEN_MAX: usize = 512;

/// The environment of a task; the app's own variables win over generated ones.
pub fn env(app: &App, id: &TaskId, host: &str, ports: &[u16]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |key: String, value: String| {
        env.insert(key, value);
    };
    set("HOST".into(), host.to_owned());
    set("MESOS_TASK_ID".into(), id.as_str().to_owned());
    set("MARATHON_APP_ID".into(), app.id.as_str().to_owned());
    set("MARATHON_APP_VERSION".into(), app.version.to_string());
    for (name, amount) in [
        ("CPUS", app.cpus),
        ("MEM", app.mem),
        ("DISK", app.disk),
        ("GPUS", Fixed::ZERO),
    ] {
        // Scala's text of a double: always with a decimal point.
        set(
            format!("MARATHON_APP_RESOURCE_{name}"),
            format!("{:?}", amount.as_f64()),
        );
    }
    let mut names = Vec::new();
    for (key, value) in &app.labels {
        if key.len() >= LABEL_LEN_MAX || value.len() >= LABEL_LEN_MAX {
            continue;
        }
        let name = label_name(key);
        set(format!("MARATHON_APP_LABEL_{name}"), value.clone());
        names.push(name);
    }
    set("MARATHON_APP_LABELS".into(), names.join(" "));
    for (i, (port, definition)) in ports.iter().zip(&app.port_definitions).enumerate() {
        if i == 0 {
            set("PORT".into(), port.to_string());
        }
        set(format!("PORT{i}"), port.to_string());
        let number = if definition.port == 0 {
            *port
        } else {
            definition.port
        };
        set(format!("PORT_{number}"), port.to_string());
        if let Some(name) = &definition.name {
            set(format!("PORT_{}", label_name(name)), port.to_string());
        }
    }
    if !ports.is_empty() {
        let all: Vec<String> = ports.iter().map(u16::to_string).collect();
        set("PORTS".into(), all.join(","));
    }
    env.extend(app.env.clone());
    env
}

/// Upper case, runs of anything else than letters and digits as one `_`.
fn label_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for c in key.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_uppercase());
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::app;

    fn ports(text: &str) -> Ranges {
        text.parse::<Resources>().unwrap().ports()
    }

    fn nobody() -> BTreeMap<String, std::collections::BTreeSet<String>> {
        BTreeMap::new()
    }

    #[test]
    fn the_environment_has_marathons_variables_and_the_apps_own_win() {
        let mut app = app(r#"{"id":"/shop/web","cmd":"serve","cpus":0.5,"mem":64,
                "labels":{"HAProxy-Group.x":"a b"},"env":{"HOST":"mine","X":"1"},
                "portDefinitions":[{"port":10080,"name":"http"},{"port":0,"name":"admin-api"}]}"#);
        app.port_definitions[1].port = 10_001;
        let id = TaskId::parse("shop_web.instance-u._app.1").unwrap();
        let env = env(&app, &id, "h1", &[31_005, 31_006]);
        let lines: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        HOST=mine
        MARATHON_APP_ID=/shop/web
        MARATHON_APP_LABELS=HAPROXY_GROUP_X
        MARATHON_APP_LABEL_HAPROXY_GROUP_X=a b
        MARATHON_APP_RESOURCE_CPUS=0.5
        MARATHON_APP_RESOURCE_DISK=0.0
        MARATHON_APP_RESOURCE_GPUS=0.0
        MARATHON_APP_RESOURCE_MEM=64.0
        MARATHON_APP_VERSION=1970-01-01T00:00:00.000Z
        MESOS_TASK_ID=shop_web.instance-u._app.1
        PORT=31005
        PORT0=31005
        PORT1=31006
        PORTS=31005,31006
        PORT_10001=31006
        PORT_10080=31005
        PORT_ADMIN_API=31006
        PORT_HTTP=31005
        X=1
        ");
    }

    #[test]
    fn required_ports_must_be_in_the_offer() {
        let app = app(r#"{"id":"/a","cmd":"serve","requirePorts":true,"ports":[80,0]}"#);
        let seen = nobody();
        let peers = Peers {
            places: Vec::new(),
            instances: 1,
            seen: &seen,
        };
        let fit = |text: &str| {
            let left: Resources = format!("cpus:4; mem:512; {text}").parse().unwrap();
            fits(&app, &left, &Place::default(), &peers)
        };
        assert_eq!(fit("ports:[80-80, 90-90]"), Ok(()));
        assert_eq!(fit("ports:[80-80]"), Err(Reason::InsufficientPorts));
        assert_eq!(fit("ports:[90-99]"), Err(Reason::InsufficientPorts));
        let chosen = choose_ports(&app, &ports("ports:[80-80, 90-90]"), &mut Rng::new(1));
        assert_eq!(chosen, [80, 90]);
    }

    #[test]
    fn the_first_reason_in_marathons_order_is_told() {
        let app = app(r#"{"id":"/a","cmd":"serve","cpus":2,"mem":256,"disk":10}"#);
        let seen = nobody();
        let peers = Peers {
            places: Vec::new(),
            instances: 1,
            seen: &seen,
        };
        let fit = |text: &str| fits(&app, &text.parse().unwrap(), &Place::default(), &peers);
        assert_eq!(fit("mem:1"), Err(Reason::InsufficientCpus));
        assert_eq!(fit("cpus:2; mem:1"), Err(Reason::InsufficientMemory));
        assert_eq!(fit("cpus:2; mem:256"), Err(Reason::InsufficientDisk));
        assert_eq!(
            fit("cpus:2; mem:256; disk:10"),
            Err(Reason::InsufficientPorts)
        );
    }
}
