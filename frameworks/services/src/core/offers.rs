//! Offers: which instance goes where, what is declined.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use allotment_framework_sdk::api::{Call, Offer, TaskState};
use allotment_types::{AgentId, OfferId, Timestamp};

use super::Core;
use super::app::App;
use super::constraint::{Peers, Place};
use super::id::{AppId, InstanceId};
use super::instance::{Goal, Task};
use super::place::{self, Reason, Room};

/// The most launches of one turn, so that one turn stays short; more offers follow.
const LAUNCHES_MAX: usize = 2000;

impl Core {
    pub(super) fn on_offers(&mut self, now: Timestamp, offers: Vec<Offer>) {
        let mut rooms: Vec<Room> = Vec::with_capacity(offers.len());
        for offer in offers {
            let room = Room::new(offer);
            self.learn(&room.offer.agent, room.place.clone());
            rooms.push(room);
        }
        // Round robin over apps, so that a large app does not keep a small one waiting.
        let mut turns: VecDeque<(AppId, Vec<InstanceId>)> = self.waiting(now);
        let mut launches = 0;
        let mut starved = Vec::new();
        while let Some((app, mut ids)) = turns.pop_front() {
            let Some(id) = ids.pop() else {
                continue;
            };
            if launches >= LAUNCHES_MAX || !self.place_one(now, &app, &id, &mut rooms) {
                starved.push(app);
                continue;
            }
            launches += 1;
            turns.push_back((app, ids));
        }
        // What was placed may have made way for the rest (GROUP_BY over the next value).
        let constrained = |app: &AppId| {
            let state = self.apps.get(app);
            state.is_some_and(|state| !state.spec.constraints.is_empty())
        };
        if launches >= LAUNCHES_MAX || (launches > 0 && starved.iter().any(constrained)) {
            self.news = true;
        }
        self.answer_offers(rooms);
    }

    /// The instances that could be launched now, by app.
    fn waiting(&self, now: Timestamp) -> VecDeque<(AppId, Vec<InstanceId>)> {
        self.apps
            .iter()
            .filter(|(_, state)| state.funnel.since.is_some() && state.backoff.until(now).is_none())
            .map(|(app, _)| {
                let waiting = self.fleet(app).filter(|i| i.task.is_none());
                (app.clone(), waiting.map(|i| i.id.clone()).collect())
            })
            .collect()
    }

    /// Puts one instance on the room that fits and holds fewest of its app; says whether any did.
    fn place_one(
        &mut self,
        now: Timestamp,
        app: &AppId,
        id: &InstanceId,
        rooms: &mut [Room],
    ) -> bool {
        let Some(spec) = self.apps.get(app).map(|state| Arc::clone(&state.spec)) else {
            return false;
        };
        let config = spec.version_info.last_config_change_at;
        let mut places = Vec::new();
        let mut crowd: BTreeMap<&AgentId, u32> = BTreeMap::new();
        for instance in self.fleet(app).filter(|i| i.goal == Goal::Run) {
            if let Some(task) = &instance.task {
                *crowd.entry(&task.agent).or_insert(0) += 1;
                // Instances that are about to be replaced do not constrain (MARATHON-8771).
                if instance.config() == config && !instance.is_inactive() {
                    places.push(&task.place);
                }
            }
        }
        let peers = Peers {
            places,
            instances: spec.instances,
            seen: &self.seen,
        };
        let mut verdicts: Vec<(AgentId, Option<Reason>)> = Vec::new();
        let mut best: Option<(u32, usize)> = None;
        for (i, room) in rooms.iter().enumerate() {
            match place::fits(&spec, &room.left, &room.place, &peers) {
                Ok(()) => {
                    let here = crowd.get(&room.offer.agent).copied().unwrap_or(0);
                    if best.is_none_or(|(fewest, _)| here < fewest) {
                        best = Some((here, i));
                    }
                }
                Err(reason) => verdicts.push((room.offer.agent.clone(), Some(reason))),
            }
        }
        let chosen = best.map(|(_, i)| i);
        let Some(room) = chosen.and_then(|i| rooms.get_mut(i)) else {
            if let Some(state) = self.apps.get_mut(app) {
                for (agent, reason) in verdicts {
                    state.funnel.on_offer(now, &agent, reason);
                }
            }
            return false;
        };
        if let Some(state) = self.apps.get_mut(app) {
            state.funnel.on_offer(now, &room.offer.agent, None);
        }
        self.launch(now, &spec, id, room);
        true
    }

    fn launch(&mut self, now: Timestamp, spec: &Arc<App>, id: &InstanceId, room: &mut Room) {
        let ports = place::choose_ports(spec, &room.left.ports(), &mut self.rng);
        let ask_at = now + self.settings.launch_timeout / 10;
        let Some(instance) = self.instance_mut(&spec.id, id) else {
            return;
        };
        let Some(task_id) = instance.id.task(instance.incarnation) else {
            return;
        };
        let host = room.offer.hostname.clone();
        instance.app = Arc::clone(spec);
        instance.task = Some(Task {
            id: task_id.clone(),
            agent: room.offer.agent.clone(),
            host: host.clone(),
            address: host_of(&room.offer.agent_url).unwrap_or_else(|| host.clone()),
            place: constrained_place(spec, &room.place),
            ports: ports.clone(),
            state: TaskState::TaskStaging,
            staged_at: now,
            started_at: None,
            heard: false,
            unconfirmed: false,
            ask_at: Some(ask_at),
            kill_again_at: None,
            unreachable_since: None,
            inactive: false,
            health: vec![super::health::CheckState::default(); spec.health_checks.len()],
        });
        room.left.subtract(&place::resources(spec, &ports));
        room.tasks
            .push(place::task(spec, id, task_id, &host, &ports));
        self.counters.launched += 1;
        self.save_instance(&spec.id, id);
        self.dirty.insert(spec.id.clone());
    }

    fn answer_offers(&mut self, rooms: Vec<Room>) {
        let refuse_for = Some(self.settings.decline_for);
        let mut declined: Vec<OfferId> = Vec::new();
        for room in rooms {
            if room.tasks.is_empty() {
                declined.push(room.offer.id);
                continue;
            }
            self.call(Call::Accept {
                agent: room.offer.agent,
                offers: vec![room.offer.id],
                tasks: room.tasks,
                refuse_for,
            });
        }
        if !declined.is_empty() {
            self.call(Call::Decline {
                offers: declined,
                refuse_for,
            });
        }
    }

    fn learn(&mut self, agent: &AgentId, place: Place) {
        if self.agents.get(agent) != Some(&place) {
            self.agents.insert(agent.clone(), place);
            self.recount_seen();
        }
    }

    pub(super) fn forget_agent(&mut self, agent: &AgentId) {
        if self.agents.remove(agent).is_some() {
            self.recount_seen();
        }
        for state in self.apps.values_mut() {
            state.funnel.forget(agent);
        }
    }

    fn recount_seen(&mut self) {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for place in self.agents.values() {
            for (field, value) in place.fields() {
                seen.entry(field.to_owned())
                    .or_default()
                    .insert(value.to_owned());
            }
        }
        self.seen = seen;
    }
}

/// Only what this app's constraints look at; the rest need not be kept.
fn constrained_place(spec: &App, place: &Place) -> Place {
    place.only(spec.constraints.iter().map(|c| c.field.as_str()))
}

/// The host of `http://host:port`.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next()?;
    let (host, _) = rest.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_from_an_agents_url() {
        assert_eq!(host_of("http://10.0.0.7:5051").as_deref(), Some("10.0.0.7"));
        assert_eq!(host_of("http://[::1]:5051").as_deref(), Some("::1"));
        assert_eq!(host_of(""), None);
    }
}
