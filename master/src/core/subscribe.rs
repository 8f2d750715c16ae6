//! SUBSCRIBE: frameworks arrive and come back.

use allotment_proto::allot::Attempt;
use allotment_proto::{mesos, scheduler};
use allotment_types::FrameworkId;

use super::Core;
use super::attempts::Late;
use super::framework::{Checked, Framework, FrameworkState};
use super::io::ConnId;
use super::out::{About, event_of};
use super::timers::Timer;

/// What a process hears when another has taken its place; Mesos' words.
const FAILED_OVER: &str = "Framework failed over";

/// Why a SUBSCRIBE is refused.
enum Refused {
    /// The subscriber is told with an ERROR, after which it should not come again.
    ForGood(String),
    /// Nobody waits for an answer on this stream any more.
    Late(String),
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self::ForGood(message)
    }
}

impl Core {
    pub(super) fn on_subscribe(&mut self, conn: ConnId, call: scheduler::Call) {
        let Err(refused) = self.subscribe(conn, call) else {
            return;
        };
        self.framework_conns.remove(&conn);
        match refused {
            Refused::ForGood(message) => self.out.fail_framework(conn, message),
            // By an ERROR a subscriber knows that it is over, which this one is not.
            Refused::Late(reason) => self.out.close_framework(conn, reason),
        }
    }

    fn subscribe(&mut self, conn: ConnId, call: scheduler::Call) -> Result<(), Refused> {
        let subscribe = call
            .subscribe
            .ok_or_else(|| "the SUBSCRIBE call has no body".to_owned())?;
        let info = subscribe.framework_info;
        let wire_id = info.id.clone().filter(|id| !id.value.is_empty());
        if let (Some(outer), Some(inner)) = (&call.framework_id, &wire_id)
            && outer != inner
        {
            return Err(Refused::ForGood(format!(
                "the call names framework {} but its framework_info {}; name one",
                super::accept::truncated(&outer.value),
                super::accept::truncated(&inner.value)
            )));
        }
        let attempt = subscribe.attempt;
        let id = wire_id.or(call.framework_id);
        let id = id
            .filter(|id| !id.value.is_empty())
            .map(|id| FrameworkId::try_from(&id).map_err(|e| e.to_string()))
            .transpose()?
            .or_else(|| self.given_before(attempt.as_ref()?));
        let checked = Checked::new(&info).map_err(|e| e.to_string())?;
        let suppressed = checked
            .suppressed(&subscribe.suppressed_roles)
            .map_err(|e| e.to_string())?;
        let constraints =
            super::wants::constraints(&checked.roles, subscribe.offer_constraints.as_ref())
                .map_err(|e| e.to_string())?;
        let since = self.out.now;
        let connected = FrameworkState::Connected { conn, since };
        let id = match id {
            Some(id) if self.barred.contains(&id) => {
                return Err(Refused::ForGood(format!(
                    "Framework has been removed: {id} was torn down or did not come back within \
                     its failover_timeout; subscribe without an id to begin anew"
                )));
            }
            Some(id) if self.frameworks.contains_key(&id) => {
                self.resubscribe(conn, &id, info, checked, attempt.as_ref())?;
                id
            }
            given => {
                let id = match given {
                    // From before this registry; its agents will tell of its tasks.
                    Some(id) => id,
                    None => self.new_framework_id()?,
                };
                let framework = Framework::new(id.clone(), info, checked, connected);
                let name = framework.info.name.clone();
                let roles: Vec<&str> = framework.roles.iter().map(|r| r.as_str()).collect();
                let message = format!("framework {name} subscribed for role {}", roles.join(", "));
                self.out
                    .publish("framework-subscribed", About::framework(&id), message);
                self.frameworks.insert(id.clone(), framework);
                id
            }
        };
        self.framework_conns.insert(conn, Some(id.clone()));
        let Some(framework) = self.frameworks.get_mut(&id) else {
            return Ok(());
        };
        framework.suppressed = suppressed;
        framework.constraints = constraints;
        framework.attempts.take(attempt);
        framework.registered = true;
        self.allocator.add_framework(&id, framework.spec());
        self.out.persist(framework.record());
        let mut event = event_of(scheduler::event::Type::Subscribed);
        event.subscribed = Some(Box::new(scheduler::event::Subscribed {
            framework_id: (&id).into(),
            heartbeat_interval_seconds: Some(self.config.heartbeat_interval.as_secs_f64()),
            master_info: Some(self.config.info.clone()),
        }));
        self.out.send_framework(conn, event);
        let at = self.out.now + self.config.heartbeat_interval;
        self.timers.set(at, Timer::Heartbeat(conn));
        self.repeat_unacknowledged(&id);
        self.offers.want_round();
        Ok(())
    }

    /// The framework that this process already is: it subscribed without an id, and comes again
    /// before it heard the one that it was given.
    fn given_before(&self, attempt: &Attempt) -> Option<FrameworkId> {
        let mut there = self.frameworks.values().filter(|f| !f.is_removed());
        let framework = there.find(|framework| framework.attempts.is_of(attempt.process))?;
        Some(framework.id.clone())
    }

    /// A known framework comes back on a new stream; a stream that it still has is closed.
    fn resubscribe(
        &mut self,
        conn: ConnId,
        id: &FrameworkId,
        mut info: mesos::FrameworkInfo,
        checked: Checked,
        attempt: Option<&Attempt>,
    ) -> Result<(), Refused> {
        let framework = self
            .frameworks
            .get_mut(id)
            .ok_or_else(|| format!("framework {id} is gone"))?;
        if framework.registered && framework.info.principal != info.principal {
            return Err(Refused::ForGood(format!(
                "framework {id} belongs to principal {} and cannot be taken over by {}; subscribe \
                 with its principal",
                principal(framework.info.principal.as_deref()),
                principal(info.principal.as_deref())
            )));
        }
        // While nobody else is there a process goes on that gave way: it is better than nobody.
        let taken = framework.conn().is_some();
        match framework.attempts.check(attempt, taken) {
            Ok(()) => {}
            Err(Late::Older { newest }) => {
                let number = attempt.map_or(0, |attempt| attempt.number);
                return Err(Refused::Late(format!(
                    "this is SUBSCRIBE number {number} of a process whose number {newest} came \
                     before it; its newer stream is the one that counts"
                )));
            }
            Err(Late::Replaced) => return Err(Refused::ForGood(FAILED_OVER.to_owned())),
        }
        let previous = framework.state;
        if framework.registered {
            // Mesos ignores changes of these two: they are part of tasks that run.
            info.user.clone_from(&framework.info.user);
            info.checkpoint = framework.info.checkpoint;
        }
        info.id = Some(id.into());
        framework.info = info;
        framework.roles = checked.roles;
        framework.min_allocatable = checked.min_allocatable;
        framework.capabilities = checked.capabilities;
        framework.failover_timeout = checked.failover_timeout;
        framework.state = FrameworkState::Connected {
            conn,
            since: self.out.now,
        };
        let name = framework.info.name.clone();
        self.out.publish(
            "framework-reconnected",
            About::framework(id),
            format!(
                "framework {name} is back with {} tasks",
                framework.tasks.len()
            ),
        );
        match previous {
            FrameworkState::Connected { conn: old, .. } => {
                self.framework_conns.remove(&old);
                self.out.fail_framework(old, FAILED_OVER.to_owned());
            }
            FrameworkState::Disconnected { until, .. }
            | FrameworkState::Recovered { until, .. } => {
                self.timers.cancel(until, Timer::Failover(id.clone()));
            }
            // Its id is barred, so it cannot get here.
            FrameworkState::Removed { .. } => {}
        }
        // The new instance does not know the offers of the old one.
        self.withdraw_offers_of_framework(id);
        self.withdraw_inverse_offers_of_framework(id);
        Ok(())
    }

    /// UPDATE_FRAMEWORK: a framework that stays connected wants something else.
    pub(super) fn on_update_framework(
        &mut self,
        id: &FrameworkId,
        update: scheduler::call::UpdateFramework,
    ) -> Result<(), String> {
        let mut info = update.framework_info;
        let checked = Checked::new(&info).map_err(|e| e.to_string())?;
        let suppressed = checked
            .suppressed(&update.suppressed_roles)
            .map_err(|e| e.to_string())?;
        let constraints =
            super::wants::constraints(&checked.roles, update.offer_constraints.as_ref())
                .map_err(|e| e.to_string())?;
        let framework = self
            .frameworks
            .get_mut(id)
            .ok_or_else(|| format!("framework {id} is gone"))?;
        if let Some(named) = info.id.as_ref().filter(|named| named.value != id.as_str()) {
            return Err(format!(
                "the framework_info names framework {} but this stream is framework {id}'s",
                super::accept::truncated(&named.value)
            ));
        }
        let old = &framework.info;
        for (field, same) in [
            ("user", old.user == info.user),
            ("principal", old.principal == info.principal),
            ("checkpoint", old.checkpoint() == info.checkpoint()),
        ] {
            if !same {
                return Err(format!(
                    "the update changes `{field}`, which stays as it was subscribed with; leave it \
                     as it is"
                ));
            }
        }
        info.id = Some(id.into());
        framework.info = info;
        framework.roles = checked.roles;
        framework.min_allocatable = checked.min_allocatable;
        framework.capabilities = checked.capabilities;
        framework.failover_timeout = checked.failover_timeout;
        framework.suppressed = suppressed;
        framework.constraints = constraints;
        self.allocator.add_framework(id, framework.spec());
        self.out.persist(framework.record());
        let name = &framework.info.name;
        let roles: Vec<&str> = framework.roles.iter().map(|r| r.as_str()).collect();
        let message = format!(
            "framework {name} changed what it wants; its roles are {}",
            roles.join(", ")
        );
        self.out
            .publish("framework-updated", About::framework(id), message);
        let gone: Vec<u64> = framework
            .offers
            .iter()
            .filter(|number| {
                let offer = self.offers.get(**number);
                offer.is_some_and(|offer| !framework.roles.contains(&offer.grant.role))
            })
            .copied()
            .collect();
        for number in gone {
            self.rescind_offer(number);
        }
        self.offers.want_round();
        Ok(())
    }

    fn new_framework_id(&mut self) -> Result<FrameworkId, String> {
        loop {
            let id = format!("{}-{:04}", self.config.info.id, self.next_framework);
            self.next_framework += 1;
            let id = FrameworkId::parse(&id).map_err(|e| e.to_string())?;
            // Somebody may have subscribed with an id that looks like one of ours.
            if !self.frameworks.contains_key(&id) && !self.barred.contains(&id) {
                return Ok(id);
            }
        }
    }

    pub(super) fn on_framework_mute(&mut self, conn: ConnId) {
        if self.framework_conns.get(&conn) == Some(&None) {
            self.framework_conns.remove(&conn);
            self.out
                .close_framework(conn, "no SUBSCRIBE came within 15 s".to_owned());
        }
    }

    pub(super) fn on_heartbeat(&mut self, conn: ConnId) {
        if self.framework_conns.contains_key(&conn) {
            self.out
                .send_framework(conn, event_of(scheduler::event::Type::Heartbeat));
            let at = self.out.now + self.config.heartbeat_interval;
            self.timers.set(at, Timer::Heartbeat(conn));
        }
    }
}

fn principal(principal: Option<&str>) -> String {
    principal.map_or_else(|| "nobody".to_owned(), super::accept::truncated)
}
