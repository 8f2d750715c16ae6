//! `healthChecks`: HTTP and TCP, asked by this framework; COMMAND and MESOS_…, asked by agents.

use serde_json::Value;

use super::super::answer::Problems;
use super::super::app::{CheckCommand, CheckProtocol, HealthCheck};
use super::super::json::Fields;
use super::SECONDS_MAX;

pub(super) fn read(f: &mut Fields<'_>, n_ports: usize, p: &mut Problems) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    for (i, value) in f.list("healthChecks", p).into_iter().flatten().enumerate() {
        if let Some(check) = read_check(i, value, n_ports, p) {
            checks.push(check);
        }
    }
    let n_agents = checks.iter().filter(|c| c.protocol.is_asked_by_agent());
    if n_agents.count() > 1 {
        p.rule(
            "/healthChecks",
            "at most one COMMAND or MESOS_... check: an agent performs one for each task",
        );
    }
    checks
}

fn read_check(i: usize, value: &Value, n_ports: usize, p: &mut Problems) -> Option<HealthCheck> {
    let at = format!("/healthChecks({i})");
    let mut c = Fields::of(at.clone(), value, p)?;
    let protocol = match c.text("protocol", p).as_deref() {
        None | Some("HTTP") => CheckProtocol::Http,
        Some("TCP") => CheckProtocol::Tcp,
        Some("COMMAND") => CheckProtocol::Command,
        Some("MESOS_HTTP") => CheckProtocol::MesosHttp,
        Some("MESOS_HTTPS") => CheckProtocol::MesosHttps,
        Some("MESOS_TCP") => CheckProtocol::MesosTcp,
        Some("HTTPS") => {
            p.rule(
                c.at("protocol"),
                "HTTPS health checks are not supported yet; use MESOS_HTTPS or HTTP",
            );
            CheckProtocol::Http
        }
        Some(other) => {
            p.rule(
                c.at("protocol"),
                format!(
                    "must be HTTP, TCP, COMMAND, MESOS_HTTP, MESOS_HTTPS or MESOS_TCP, got \
                     {other:?}"
                ),
            );
            CheckProtocol::Http
        }
    };
    let port = c.whole("port", (1, 65_535), p);
    let port_index = c.whole("portIndex", (0, 65_535), p);
    if port.is_some() && port_index.is_some() {
        p.rule(at.clone(), "give port or portIndex, not both");
    }
    let command = command(&mut c, protocol, p);
    let index = match (port, port_index) {
        _ if protocol == CheckProtocol::Command => None,
        (Some(_), _) => None,
        (None, index) => Some(usize::try_from(index.unwrap_or(0)).unwrap_or(usize::MAX)),
    };
    if let Some(index) = index
        && index >= n_ports
    {
        p.rule(
            c.at("portIndex"),
            format!("names port {index} but the app has {n_ports} ports"),
        );
    }
    let path = c.text("path", p);
    if let Some(path) = &path {
        if !protocol.has_path() {
            p.rule(c.at("path"), "only a health check over HTTP has a path");
        }
        if !path.starts_with('/') || path.chars().any(|ch| ch.is_whitespace() || ch.is_control()) {
            p.rule(c.at("path"), "must begin with `/` and hold no spaces");
        }
    }
    c.unsupported(
        "ipProtocol",
        |v| v.as_str() == Some("IPv4"),
        "only IPv4 is supported yet",
        p,
    );
    let check = HealthCheck {
        grace_period_seconds: c
            .whole("gracePeriodSeconds", (0, SECONDS_MAX), p)
            .unwrap_or(300),
        ignore_http1xx: c.flag("ignoreHttp1xx", p).unwrap_or(false),
        interval_seconds: c
            .whole("intervalSeconds", (1, SECONDS_MAX), p)
            .unwrap_or(60),
        max_consecutive_failures: c
            .whole("maxConsecutiveFailures", (0, 1_000_000), p)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(3),
        path: protocol
            .has_path()
            .then(|| path.unwrap_or_else(|| "/".to_owned())),
        command,
        port: port.and_then(|n| u16::try_from(n).ok()),
        port_index: index,
        protocol,
        timeout_seconds: c.whole("timeoutSeconds", (1, SECONDS_MAX), p).unwrap_or(20),
        delay_seconds: c.whole("delaySeconds", (0, SECONDS_MAX), p).unwrap_or(15),
    };
    c.finish(p);
    Some(check)
}

fn command(c: &mut Fields<'_>, protocol: CheckProtocol, p: &mut Problems) -> Option<CheckCommand> {
    let inner = c.inner("command", p);
    let is_command = protocol == CheckProtocol::Command;
    let Some(mut inner) = inner else {
        if is_command {
            p.rule(c.at("command"), "is undefined; give {\"value\": LINE}");
        }
        return None;
    };
    if !is_command {
        p.rule(c.at("command"), "only a COMMAND health check has one");
    }
    let value = inner.text("value", p).unwrap_or_default();
    if value.is_empty() {
        p.rule(inner.at("value"), "must not be empty");
    }
    inner.finish(p);
    Some(CheckCommand { value })
}
