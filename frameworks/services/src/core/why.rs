//! Why an app does not run as it should, as sentences and numbers.
//!
//! An app that waits is held against every agent twice: against what the agent has in all (does
//! it fit any agent at all?) and against what is free there (does it fit now?). The nearest
//! agent is the one that lacks fewest kinds of resources, then the smallest part of what is
//! asked, then the first by id.

use allotment_types::{Fixed, Lot, Name, Resources, Shortfall, Timestamp, Value as Amount};
use serde_json::{Value, json};

use super::answer::Answer;
use super::app::App;
use super::constraint::{Peers, Place};
use super::id::AppId;
use super::instance::{Goal, Instance};
use super::place::required_ports;
use super::{Core, Link};

/// What an agent has and what of it is free.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRoom {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// It takes part in allocation.
    pub active: bool,
    /// What constraints see of it.
    pub place: Place,
    /// Everything it has.
    pub total: Resources,
    /// What nobody uses and what is only offered.
    pub free: Resources,
}

/// What an agent lacks for one more instance.
#[derive(Debug, Clone, PartialEq)]
struct Lack {
    shortfalls: Vec<Shortfall>,
    constraint: Option<String>,
}

impl Lack {
    fn of(app: &App, room: &AgentRoom, held: &Resources, peers: &Peers<'_>) -> Self {
        let mut shortfalls = held.shortfalls(&app.scalars());
        let ports = held.ports();
        let wanted = u64::try_from(app.port_definitions.len()).unwrap_or(u64::MAX);
        let required = required_ports(app);
        if !ports.contains(&required) {
            shortfalls.push(Shortfall {
                lot: Lot::PLAIN,
                name: Name::PORTS,
                asked: Amount::Ranges(required),
                held: Some(Amount::Ranges(ports))
                    .filter(|p| *p != Amount::Ranges(Default::default())),
            });
        } else if ports.count() < wanted {
            shortfalls.push(Shortfall {
                lot: Lot::PLAIN,
                name: Name::from("number of ports"),
                asked: Amount::Scalar(Fixed::units(wanted)),
                held: Some(Amount::Scalar(Fixed::units(ports.count()))),
            });
        }
        let judged = app.constraints.iter().map(|c| c.judge(&room.place, peers));
        Self {
            shortfalls,
            constraint: judged.filter_map(Result::err).next(),
        }
    }

    fn is_none(&self) -> bool {
        self.shortfalls.is_empty() && self.constraint.is_none()
    }

    /// Kinds that lack, then thousandths of what is asked that lack in all.
    fn distance(&self) -> (usize, u64) {
        let part = |s: &Shortfall| match (&s.asked, &s.held) {
            (Amount::Scalar(asked), Some(Amount::Scalar(held))) => {
                let missing = asked.saturating_sub(*held).thousandths();
                missing
                    .saturating_mul(1000)
                    .checked_div(asked.thousandths())
                    .unwrap_or(0)
            }
            _ => 1000,
        };
        let kinds = self.shortfalls.len() + usize::from(self.constraint.is_some());
        (kinds, self.shortfalls.iter().map(part).sum())
    }

    fn text(&self) -> String {
        let mut parts: Vec<String> = self.shortfalls.iter().map(Shortfall::to_string).collect();
        parts.extend(self.constraint.clone());
        parts.join("; ")
    }

    fn json(&self, room: &AgentRoom) -> Value {
        let lacks: Vec<Value> = self
            .shortfalls
            .iter()
            .map(|s| {
                json!({
                    "resource": s.name.as_str(),
                    "asked": amount(&s.asked),
                    "held": s.held.as_ref().map_or_else(|| json!(0), amount),
                    "unit": s.name.unit().trim(),
                })
            })
            .collect();
        json!({
            "agent": room.id,
            "hostname": room.hostname,
            "lacks": lacks,
            "constraint": self.constraint,
            "free": room.free.to_string(),
            "total": room.total.to_string(),
        })
    }
}

fn amount(value: &Amount) -> Value {
    match value {
        Amount::Scalar(number) => json!(number.as_f64()),
        other => json!(other.to_string()),
    }
}

impl Core {
    /// Why an app is as it is.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub(super) fn explain(&self, now: Timestamp, id: &AppId) -> Result<Answer, Answer> {
        let state = self
            .apps
            .get(id)
            .ok_or_else(|| Answer::no_app(id.as_str()))?;
        let app = &state.spec;
        let count = |test: &dyn Fn(&Instance) -> bool| self.fleet(id).filter(|i| test(i)).count();
        let ready = count(&Instance::is_ready);
        let waiting = count(&|i| i.task.is_none());
        let dying = count(&|i| i.goal == Goal::Stop);
        let mut lines = vec![format!(
            "{id} wants {} instances: {ready} run as they should, {waiting} wait for an offer, \
             {} are on their way",
            app.instances,
            self.fleet(id).count().saturating_sub(ready + waiting)
        )];
        let mut verdict = if waiting > 0 { "waiting" } else { "running" };
        let mut nearest = Value::Null;
        if app.instances == 0 {
            verdict = "suspended";
            lines.push("it is scaled to 0; scale it up to run it".to_owned());
        } else if waiting > 0 {
            lines.push(format!("each instance asks {}", asked(app)));
            if let Some(until) = state.backoff.until(now) {
                verdict = "delayed";
                lines.push(format!(
                    "its tasks ended {} times in a row; the next launch is tried in {:.1} s",
                    state.backoff.failures(),
                    until.since(now).as_secs_f64()
                ));
            }
            if let Link::Away { reason } = &self.link {
                verdict = "disconnected";
                lines.push(format!(
                    "no master is reachable at {}: {reason}",
                    self.settings.master
                ));
            } else if verdict == "waiting" {
                (verdict, nearest) = self.explain_room(app, &mut lines);
            }
        }
        if let Some(failure) = &state.last_failure {
            lines.push(format!(
                "the latest failure: {} on {} at {}{}{}",
                failure.state,
                failure.host,
                failure.timestamp,
                if failure.message.is_empty() { "" } else { ": " },
                failure.message
            ));
        }
        self.explain_health(id, &mut lines);
        if dying > 0 {
            lines.push(format!("{dying} instances are being killed"));
        }
        for deployment in self.deployments.values().filter(|d| d.locks(id)) {
            lines.push(format!(
                "deployment {} is at step {} of {}",
                deployment.id,
                deployment.step + 1,
                deployment.steps.len()
            ));
        }
        Ok(Answer::ok(json!({
            "app": id,
            "verdict": verdict,
            "lines": lines,
            "instances": app.instances,
            "ready": ready,
            "waiting": waiting,
            "asked": asked(app),
            "nearest": nearest,
            "processedOffersSummary": state.funnel.summary(),
        })))
    }

    /// Holds a waiting app against every agent.
    fn explain_room(&self, app: &App, lines: &mut Vec<String>) -> (&'static str, Value) {
        let Some(rooms) = &self.rooms else {
            lines.push("the master did not say what its agents have; try again".to_owned());
            return ("waiting", Value::Null);
        };
        let active: Vec<&AgentRoom> = rooms.iter().filter(|room| room.active).collect();
        if active.is_empty() {
            lines.push(match rooms.len() {
                0 => "no agent is registered with the master; start one with `allot agent`"
                    .to_owned(),
                n => format!("all {n} agents of the cluster are out of reach"),
            });
            return ("no-agents", Value::Null);
        }
        if app
            .accepted_resource_roles
            .as_ref()
            .is_some_and(|r| !r.iter().any(|r| r == "*"))
        {
            lines.push(format!(
                "it accepts only resources reserved for role {}, and none are; add \"*\" to \
                 acceptedResourceRoles",
                self.settings.role
            ));
            return ("fits-no-agent", Value::Null);
        }
        let places = self
            .fleet(&app.id)
            .filter(|i| i.goal == Goal::Run && !i.is_inactive());
        let peers = Peers {
            places: places
                .filter_map(|i| i.task.as_ref())
                .map(|task| &task.place)
                .collect(),
            instances: app.instances,
            seen: &self.seen,
        };
        let closest = |held: &dyn Fn(&AgentRoom) -> Resources, lonely: bool| {
            let none = Peers {
                places: Vec::new(),
                instances: app.instances,
                seen: &self.seen,
            };
            let peers = if lonely { &none } else { &peers };
            active
                .iter()
                .map(|room| (Lack::of(app, room, &held(room), peers), *room))
                .min_by(|(a, x), (b, y)| a.distance().cmp(&b.distance()).then(x.id.cmp(&y.id)))
        };
        let n = active.len();
        let agents = if n == 1 {
            "the only agent".to_owned()
        } else {
            format!("all {n} agents")
        };
        if let Some((lack, room)) = closest(&|room| room.total.clone(), true)
            && !lack.is_none()
        {
            lines.push(format!(
                "it fits no agent, not even an empty one ({agents} looked at); the nearest is {} \
                 ({}), which has in all: {}",
                room.hostname,
                room.id,
                lack.text()
            ));
            lines.push("shrink what the app asks, or add a larger agent".to_owned());
            return ("fits-no-agent", lack.json(room));
        }
        match closest(&|room| room.free.clone(), false) {
            Some((lack, room)) if !lack.is_none() => {
                lines.push(format!(
                    "it would fit an empty agent but fits none now ({agents} looked at); the \
                     nearest is {} ({}), where of what is free: {}",
                    room.hostname,
                    room.id,
                    lack.text()
                ));
                lines.push(
                    "it starts as soon as enough is given back; or add an agent, or shrink it"
                        .to_owned(),
                );
                ("fits-not-now", lack.json(room))
            }
            Some((lack, room)) => {
                lines.push(format!(
                    "it fits {} ({}) now and waits for the master to offer it; `allot why {}` \
                     tells why it does not, should this last",
                    room.hostname, room.id, self.settings.name
                ));
                ("waiting-for-offer", lack.json(room))
            }
            None => ("waiting", Value::Null),
        }
    }

    fn explain_health(&self, id: &AppId, lines: &mut Vec<String>) {
        let sick = self.fleet(id).filter_map(|instance| {
            let task = instance.task.as_ref()?;
            let check = task.health.iter().find(|check| !check.alive)?;
            let cause = check.last_failure_cause.as_deref()?;
            Some(format!(
                "{} on {} is not healthy: {cause}",
                task.id, task.host
            ))
        });
        lines.extend(sick.take(5));
    }
}

/// What one instance asks, for people.
fn asked(app: &App) -> String {
    let mut text = app.scalars().to_string();
    let required = required_ports(app);
    if !required.is_empty() {
        text.push_str(&format!("; ports:{required}"));
    } else if !app.port_definitions.is_empty() {
        text.push_str(&format!("; {} port(s)", app.port_definitions.len()));
    }
    for constraint in &app.constraints {
        text.push_str(&format!("; constraint {}", constraint.parts().join(" ")));
    }
    text
}
