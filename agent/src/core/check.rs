//! Checks of a running task, with Mesos' timings and rules (Mesos, `health-checks.md`).
//!
//! A *check* only reports what it finds, each time that changes. A *health check* also counts
//! failures: none count within the grace period before the first success, and so many in a row
//! end the task. The agent itself makes them, one at a time for each task and kind; how a probe is
//! made is left to the edge.

use std::time::Duration;

use allotment_proto::mesos::{self, check_info, check_status_info, health_check};
use allotment_types::Timestamp;

use super::enter::Command;

/// The longest of any of the times; a day of silence is no check.
const SECONDS_MAX: f64 = 86_400.0;

/// After how long a check that could not be tried is tried again, where its interval is longer:
/// what kept it from being tried, a launcher that is just being replaced, is over by then.
const NOT_MADE_PAUSE: Duration = Duration::from_secs(1);

/// Which of a task's two checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// It reports.
    Check,
    /// It ends the task when it fails too often.
    Health,
}

/// What to try: inside the task's container, or on this machine's loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Run it, as the task's user and behind its walls.
    Command(Box<Command>),
    /// `GET path`.
    Http {
        /// Over TLS; whose certificate it is does not matter, as in Mesos.
        tls: bool,
        /// Over IPv6.
        ipv6: bool,
        /// On which port.
        port: u16,
        /// Begins with a slash.
        path: String,
    },
    /// Connect.
    Tcp {
        /// Over IPv6.
        ipv6: bool,
        /// To which port.
        port: u16,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// The command ended by itself.
    Exited {
        /// Its exit code.
        code: i32,
        /// The end of what it wrote.
        output: String,
    },
    /// The answer's status.
    Http(u16),
    /// The port takes connections.
    Connected,
    /// Nobody listens there.
    Refused,
    /// No answer, as a clause.
    Failed(String),
    /// It could not be tried, for reasons that are not the task's, as a clause; so it says nothing
    /// about the task.
    NotMade(String),
}

/// What a task has to do about it.
#[derive(Debug, PartialEq)]
pub(super) enum Finding {
    /// Nothing that is news.
    Same,
    /// The check's result has changed; perhaps with what its command wrote.
    Status(mesos::CheckStatusInfo, Option<String>),
    /// It is healthy, for the first time or again.
    Healthy,
    /// It is not, and why; with `kill` it was so too often.
    Unhealthy { why: String, kill: bool },
}

/// One check of one task.
#[derive(Debug, Clone)]
pub(super) struct Checker {
    pub(super) which: Which,
    pub(super) probe: Probe,
    pub(super) timeout: Duration,
    delay: Duration,
    interval: Duration,
    health: Health,
    began: Timestamp,
    /// When the next probe is due; `None` while one is made, or before the task runs.
    due_at: Option<Timestamp>,
    last: Option<mesos::CheckStatusInfo>,
}

/// What a health check adds.
#[derive(Debug, Clone, Default)]
struct Health {
    grace: Duration,
    failures_max: u32,
    /// Statuses that are healthy; empty: 200 to 399.
    statuses: Vec<u32>,
    failures: u32,
    was_healthy: bool,
}

/// The checks that a task asks for.
///
/// # Errors
/// What cannot be checked, as a clause that follows "asks for".
pub(super) fn checks(info: &mesos::TaskInfo) -> Result<Vec<Checker>, String> {
    let check = info.check.as_deref().map(check).transpose()?;
    let health = info.health_check.as_deref().map(health).transpose()?;
    let checks: Vec<Checker> = check.into_iter().chain(health).collect();
    let own = info
        .command
        .as_ref()
        .and_then(|command| command.user.as_deref());
    for checker in &checks {
        if let Probe::Command(command) = &checker.probe
            && let Some(user) = &command.user
            && own != Some(user)
        {
            return Err(format!(
                "a check as user {user:?}; checks run as the task does, so set the user in the \
                 task's own command"
            ));
        }
    }
    Ok(checks)
}

fn check(info: &mesos::CheckInfo) -> Result<Checker, String> {
    let probe = match (info.r#type(), &info.http, &info.tcp) {
        (check_info::Type::Http, Some(http), _) => {
            http_probe((false, false), http.port, http.path())?
        }
        (check_info::Type::Tcp, _, Some(tcp)) => Probe::Tcp {
            ipv6: false,
            port: port(tcp.port)?,
        },
        (check_info::Type::Command, ..) => {
            command_probe(info.command.as_ref().map(|command| &command.command))?
        }
        _ => return Err(NO_TYPE.to_owned()),
    };
    let empty = status(&probe, None);
    Ok(Checker {
        which: Which::Check,
        probe,
        timeout: seconds("timeout_seconds", info.timeout_seconds())?,
        delay: seconds("delay_seconds", info.delay_seconds())?,
        interval: seconds("interval_seconds", info.interval_seconds())?,
        health: Health::default(),
        began: Timestamp::ZERO,
        due_at: None,
        last: Some(empty),
    })
}

fn health(info: &mesos::HealthCheck) -> Result<Checker, String> {
    let ipv6 = |protocol| protocol == mesos::network_info::Protocol::IPv6;
    let probe = match (info.r#type(), &info.http, &info.tcp) {
        (health_check::Type::Http, Some(http), _) => {
            let tls = match http.scheme() {
                "" | "http" => false,
                "https" => true,
                other => {
                    return Err(format!(
                        "a health check over {other:?}; the scheme is `http` or `https`"
                    ));
                }
            };
            http_probe((tls, ipv6(http.protocol())), http.port, http.path())?
        }
        (health_check::Type::Tcp, _, Some(tcp)) => Probe::Tcp {
            ipv6: ipv6(tcp.protocol()),
            port: port(tcp.port)?,
        },
        (health_check::Type::Command, ..) => command_probe(info.command.as_ref())?,
        _ => return Err(NO_TYPE.to_owned()),
    };
    let statuses = info.http.as_ref().map(|http| http.statuses.clone());
    Ok(Checker {
        which: Which::Health,
        probe,
        timeout: seconds("timeout_seconds", info.timeout_seconds())?,
        delay: seconds("delay_seconds", info.delay_seconds())?,
        interval: seconds("interval_seconds", info.interval_seconds())?,
        health: Health {
            grace: seconds("grace_period_seconds", info.grace_period_seconds())?,
            failures_max: info.consecutive_failures(),
            statuses: statuses.unwrap_or_default(),
            failures: 0,
            was_healthy: false,
        },
        began: Timestamp::ZERO,
        due_at: None,
        last: None,
    })
}

const NO_TYPE: &str = "a check without its type and the part of that name; set `type` and \
                       `command`, `http` or `tcp`";

fn command_probe(info: Option<&mesos::CommandInfo>) -> Result<Probe, String> {
    let command = Command::of(info.ok_or(NO_TYPE)?);
    let command = command.map_err(|what| format!("a check whose command {what}"))?;
    Ok(Probe::Command(Box::new(command)))
}

fn http_probe((tls, ipv6): (bool, bool), number: u32, path: &str) -> Result<Probe, String> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') || path.contains(|c: char| c.is_control() || c == ' ') {
        return Err(format!(
            "a check of the path {path:?}, which is none; begin it with a slash"
        ));
    }
    Ok(Probe::Http {
        tls,
        ipv6,
        port: port(number)?,
        path: path.to_owned(),
    })
}

fn port(number: u32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!(
            "a check of port {number}; ports are between 1 and 65535"
        )),
    }
}

fn seconds(name: &str, value: f64) -> Result<Duration, String> {
    if (0.0..=SECONDS_MAX).contains(&value) {
        return Ok(Duration::from_secs_f64(value));
    }
    Err(format!(
        "a check with {name} {value}; it must be between 0 and {SECONDS_MAX}"
    ))
}

impl Checker {
    /// The task runs.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.began = now;
        self.due_at = Some(now + self.delay);
    }

    /// The task runs on after a restart of the agent, and has had its grace.
    pub(super) fn resume(&mut self, now: Timestamp) {
        self.health.grace = Duration::ZERO;
        self.began = now;
        self.due_at = Some(now + self.delay.min(self.interval));
    }

    pub(super) const fn next_deadline(&self) -> Option<Timestamp> {
        self.due_at
    }

    /// Whether a probe is to be made now; it is under way from then on.
    pub(super) fn take_due(&mut self, now: Timestamp) -> bool {
        self.due_at.take_if(|at| *at <= now).is_some()
    }

    /// What the check found last; of a health check, nothing.
    pub(super) const fn last(&self) -> Option<&mesos::CheckStatusInfo> {
        self.last.as_ref()
    }

    pub(super) fn on_probed(&mut self, now: Timestamp, probed: &Probed) -> Finding {
        let pause = match probed {
            Probed::NotMade(_) => self.interval.min(NOT_MADE_PAUSE),
            _ => self.interval,
        };
        self.due_at = Some(now + pause);
        match (self.which, probed) {
            (_, Probed::NotMade(_)) => Finding::Same,
            (Which::Check, _) => {
                let found = status(&self.probe, Some(probed));
                if self.last.as_ref() == Some(&found) {
                    return Finding::Same;
                }
                self.last = Some(found);
                Finding::Status(found, said(probed))
            }
            (Which::Health, _) => self.on_health(now, probed),
        }
    }

    fn on_health(&mut self, now: Timestamp, probed: &Probed) -> Finding {
        let health = &mut self.health;
        let Some(why) = health.fault(probed) else {
            let is_news = !health.was_healthy || health.failures > 0;
            health.was_healthy = true;
            health.failures = 0;
            return if is_news {
                Finding::Healthy
            } else {
                Finding::Same
            };
        };
        if !health.was_healthy && now.since(self.began) <= health.grace && !health.grace.is_zero() {
            return Finding::Same;
        }
        health.failures += 1;
        Finding::Unhealthy {
            kill: health.failures >= health.failures_max,
            why: format!(
                "health check failed, {} of {} times in a row: {why}",
                health.failures, health.failures_max
            ),
        }
    }
}

impl Health {
    /// What is wrong with a result; `None`: nothing.
    fn fault(&self, probed: &Probed) -> Option<String> {
        match probed {
            Probed::Connected | Probed::NotMade(_) | Probed::Exited { code: 0, .. } => None,
            Probed::Exited { code, output } if output.is_empty() => {
                Some(format!("the command exited with {code}"))
            }
            Probed::Exited { code, output } => {
                Some(format!("the command exited with {code}: {output}"))
            }
            Probed::Http(status) => {
                let status = u32::from(*status);
                let good = if self.statuses.is_empty() {
                    (200..400).contains(&status)
                } else {
                    self.statuses.contains(&status)
                };
                (!good).then(|| format!("the answer was {status}"))
            }
            Probed::Refused => Some("nobody listens on the port".to_owned()),
            Probed::Failed(why) => Some(why.clone()),
        }
    }
}

/// What a check's result has to say beside its status.
fn said(probed: &Probed) -> Option<String> {
    match probed {
        Probed::Exited { output, .. } => (!output.is_empty()).then(|| output.clone()),
        Probed::Failed(why) | Probed::NotMade(why) => Some(format!("check failed: {why}")),
        Probed::Http(_) | Probed::Connected | Probed::Refused => None,
    }
}

/// As the wire shows it; empty before the first result and when there was none.
fn status(probe: &Probe, probed: Option<&Probed>) -> mesos::CheckStatusInfo {
    match probe {
        Probe::Command(_) => mesos::CheckStatusInfo {
            r#type: Some(check_info::Type::Command.into()),
            command: Some(check_status_info::Command {
                exit_code: match probed {
                    Some(Probed::Exited { code, .. }) => Some(*code),
                    _ => None,
                },
            }),
            ..Default::default()
        },
        Probe::Http { .. } => mesos::CheckStatusInfo {
            r#type: Some(check_info::Type::Http.into()),
            http: Some(check_status_info::Http {
                status_code: match probed {
                    Some(Probed::Http(status)) => Some((*status).into()),
                    _ => None,
                },
            }),
            ..Default::default()
        },
        Probe::Tcp { .. } => mesos::CheckStatusInfo {
            r#type: Some(check_info::Type::Tcp.into()),
            tcp: Some(check_status_info::Tcp {
                succeeded: match probed {
                    Some(Probed::Connected) => Some(true),
                    Some(Probed::Refused) => Some(false),
                    _ => None,
                },
            }),
            ..Default::default()
        },
    }
}
