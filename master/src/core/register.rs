//! Agents arrive and come back: from the first word on a stream to a place in the books.

use allotment_allocator::AgentSpec;
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message;
use allotment_proto::{allot, convert, mesos};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId, Timestamp};

use super::Core;
use super::agent::{Agent, AgentState};
use super::attempts::Late;
use super::checkin::Checkin;
use super::io::ConnId;
use super::out::About;
use super::task::KillWish;
use super::timers::Timer;

/// One stream of a registered agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) agent: AgentId,
    pub(super) last_heard: Timestamp,
    pub(super) ping_sequence: u64,
    pub(super) pings_unanswered: u32,
}

impl Core {
    pub(super) fn on_agent_message(&mut self, conn: ConnId, message: allot::AgentMessage) {
        self.out.counters.agent_messages += 1;
        let now = self.out.now;
        let agent = match self.agent_conns.get_mut(&conn) {
            // Closed a moment ago; this was still on its way.
            None => return,
            Some(None) => {
                if let Some(Said::Register(register)) = message.message {
                    self.on_register(conn, register);
                } else {
                    self.reject_agent(conn, "the first message must be `register`".to_owned());
                }
                return;
            }
            Some(Some(session)) => {
                session.last_heard = now;
                session.pings_unanswered = 0;
                session.agent.clone()
            }
        };
        match message.message {
            Some(Said::Update(update)) => self.on_status_update(conn, &agent, update),
            Some(Said::Pong(_)) => {}
            Some(Said::ExecutorEnded(ended)) => self.on_executor_ended(&agent, &ended),
            Some(Said::ExecutorMessage(message)) => self.on_executor_message(&agent, message),
            Some(Said::Unregister(_)) => self.on_unregister(conn, &agent),
            Some(Said::Register(_)) => {
                let reason = "a second `register` on one stream; open a new stream";
                self.drop_session(conn, &agent, reason);
            }
            None => {}
        }
    }

    fn reject_agent(&mut self, conn: ConnId, message: String) {
        self.agent_conns.remove(&conn);
        self.out.publish(
            "agent-rejected",
            About::default(),
            format!("an agent was turned away: {message}"),
        );
        let rejected = allot::Rejected {
            message: message.clone(),
        };
        self.out.send_agent(conn, Message::Rejected(rejected));
        self.out.close_agent(conn, message);
    }

    fn on_register(&mut self, conn: ConnId, register: allot::Register) {
        let checkin = match Checkin::new(register) {
            Ok(checkin) => checkin,
            Err(message) => return self.reject_agent(conn, message),
        };
        let id = match checkin.id.clone() {
            Some(id) => id,
            None => match self.new_agent_id() {
                Ok(id) => id,
                Err(message) => return self.reject_agent(conn, message),
            },
        };
        let mut checkin = checkin;
        if let Some(why) = self.comes_late(&id, checkin.attempt.as_ref()) {
            // Nobody is there any more who could be told.
            self.agent_conns.remove(&conn);
            self.out.close_agent(conn, why);
            return;
        }
        let known = self.agents.contains_key(&id);
        let kept = self.kept_total(&id, &checkin);
        if let Some(kept) = &kept {
            checkin.total = kept.clone();
            checkin.info.resources = convert::resources_to_wire(kept, None);
        }
        let mut returned = false;
        if known {
            returned = self.close_previous_session(&id);
            self.rescind_offers_of_agent(&id);
            self.end_missing_tasks(&id, &checkin.tasks);
        }
        let Checkin {
            info,
            url,
            wire_url,
            version,
            total,
            tasks,
            executors,
            frameworks,
            attempt,
            id: _,
        } = checkin;
        let changed = self.admit(&id, conn, info, url, wire_url, version, total);
        self.adopt_frameworks(frameworks, &tasks, &executors);
        let strays = self.adopt_tasks(&id, tasks, returned);
        self.adopt_executors(&id, executors);
        self.give_to_allocator(&id);
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        agent.attempts.take(attempt);
        if changed || returned {
            self.out.persist(agent.record());
        }
        let (kind, verb) = if known {
            self.out.counters.agent_reregistrations += 1;
            ("agent-reregistered", "is back")
        } else {
            self.out.counters.agent_registrations += 1;
            ("agent-registered", "registered")
        };
        let (hostname, total, n_tasks) = (&agent.hostname, &agent.total, agent.tasks.len());
        let message = format!("agent {hostname} {verb} with {total} and {n_tasks} tasks");
        self.out.publish(kind, About::agent(&id), message);
        let silence = self.config.agent_ping_interval * self.config.agent_ping_misses;
        let registered = allot::Registered {
            agent_id: (&id).into(),
            master_id: self.config.info.id.clone(),
            ping_timeout_seconds: silence.as_secs_f64(),
        };
        self.out.send_agent(conn, Message::Registered(registered));
        if kept.is_some() {
            self.apply_resources(&id);
        }
        self.kill_unwanted(&id, strays);
        self.drain(&id);
        self.note_return(&id);
        let session = Session {
            agent: id,
            last_heard: self.out.now,
            ping_sequence: 0,
            pings_unanswered: 0,
        };
        self.agent_conns.insert(conn, Some(session));
        let at = self.out.now + self.config.agent_ping_interval;
        self.timers.set(at, Timer::Ping(conn));
    }

    /// Why a registration changes nothing: its stream is older than one that the agent has opened
    /// since, and so is what it says of tasks.
    fn comes_late(&self, id: &AgentId, attempt: Option<&allot::Attempt>) -> Option<String> {
        // An agent locks its folder: a process that another took over from has ended, and what it
        // said is old also while the other one has no stream.
        let taken = true;
        match self.agents.get(id)?.attempts.check(attempt, taken) {
            Ok(()) => None,
            Err(Late::Older { newest }) => Some(format!(
                "this is registration number {} of a process of agent {id} whose number {newest} \
                 came before it; its newer stream is the one that counts",
                attempt.map_or(0, |attempt| attempt.number)
            )),
            Err(Late::Replaced) => Some(format!(
                "another process of agent {id} has registered since; if both run, one of them has \
                 a copy of the other's --work-dir: stop both, and give one an empty folder"
            )),
        }
    }

    /// What a known agent has, when it reports the same amounts but was not told of the latest
    /// reservations and volumes: its session broke first. It is told again then.
    ///
    /// `None` when it is right: what its own settings declare has changed, or what runs there
    /// does not fit into what is believed here.
    fn kept_total(&self, id: &AgentId, checkin: &Checkin) -> Option<Resources> {
        let kept = &self.agents.get(id)?.total;
        if *kept == checkin.total || kept.declared() != checkin.total.declared() {
            return None;
        }
        let mut free = kept.clone();
        for reported in checkin.tasks.values() {
            if !convert::is_terminal(reported.state) {
                if !free.contains(&reported.resources) {
                    return None;
                }
                free.subtract(&reported.resources.unshared());
            }
        }
        Some(kept.clone())
    }

    fn new_agent_id(&mut self) -> Result<AgentId, String> {
        loop {
            let id = format!("{}-S{}", self.config.info.id, self.next_agent);
            self.next_agent += 1;
            let id = AgentId::parse(&id).map_err(|e| e.to_string())?;
            if !self.agents.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    /// From here until it is admitted, a known agent has no session: nothing can be said to it
    /// before `registered`. Whether it was unreachable, which the registry remembers.
    fn close_previous_session(&mut self, id: &AgentId) -> bool {
        let Some(agent) = self.agents.get_mut(id) else {
            return false;
        };
        let now = self.out.now;
        let gone = AgentState::Disconnected {
            since: now,
            until: now,
        };
        match std::mem::replace(&mut agent.state, gone) {
            AgentState::Registered { session, .. } => {
                self.agent_conns.remove(&session);
                self.out.close_agent(
                    session,
                    format!("agent {id} opened another session, which replaces this one"),
                );
                false
            }
            AgentState::Disconnected { until, .. } | AgentState::Recovering { until, .. } => {
                self.timers.cancel(until, Timer::AgentSilent(id.clone()));
                false
            }
            AgentState::Unreachable { since } => {
                let at = since + super::liveness::UNREACHABLE_KEPT;
                self.timers.cancel(at, Timer::AgentForgotten(id.clone()));
                true
            }
        }
    }

    /// Writes the agent into the books; whether the registry must hear of it.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one checked registration"
    )]
    fn admit(
        &mut self,
        id: &AgentId,
        session: ConnId,
        mut info: mesos::AgentInfo,
        url: String,
        wire_url: mesos::Url,
        version: String,
        total: Resources,
    ) -> bool {
        info.id = Some(id.into());
        let since = self.out.now;
        let state = AgentState::Registered { session, since };
        let hostname = info.hostname.as_str().into();
        match self.agents.get_mut(id) {
            Some(agent) => {
                let changed = agent.info != info || *agent.url != *url || agent.version != version;
                agent.info = info;
                agent.hostname = hostname;
                agent.url = url.into();
                agent.wire_url = Some(wire_url);
                agent.version = version;
                agent.total = total;
                agent.state = state;
                changed
            }
            None => {
                let mut agent = Agent::new(id.clone(), info, url, state);
                agent.wire_url = Some(wire_url);
                agent.version = version;
                agent.total = total;
                self.agents.insert(id.clone(), agent);
                true
            }
        }
    }

    fn give_to_allocator(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        // Every copy of a shared volume is told below.
        agent.unbacked.clear();
        let used = agent
            .tasks
            .iter()
            .filter_map(|(framework, task)| self.frameworks.get(framework)?.tasks.get(task))
            .filter(|task| task.holds)
            .map(|task| task.grant.clone())
            .chain(agent.executors.values().map(|e| e.grant.clone()))
            .filter(|grant| !grant.resources.is_empty())
            .collect();
        let total = agent.total.clone();
        let spec = AgentSpec {
            total,
            used,
            hostname: agent.hostname.to_string(),
            attributes: agent.attributes(),
            domain: agent.domain(),
        };
        let (offerable, away) = (agent.is_offerable(), agent.wish.unavailability);
        self.allocator.add_agent(id, spec);
        self.allocator.set_agent_active(id, offerable);
        self.allocator.set_unavailability(id, away);
        self.offers.want_round();
    }

    /// Kills what must not run there: tasks of removed frameworks, tasks that somebody wanted
    /// dead while the agent was away, and old runs of ids that run elsewhere now.
    fn kill_unwanted(&mut self, id: &AgentId, strays: Vec<(FrameworkId, TaskId)>) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let Some(session) = agent.session() else {
            return;
        };
        for (framework_id, task_id) in strays {
            let kill = allot::Kill {
                framework_id: (&framework_id).into(),
                task_id: (&task_id).into(),
                kill_policy: None,
            };
            self.out.send_agent(session, Message::Kill(kill));
        }
        let mut kills = Vec::new();
        let mut over = Vec::new();
        for (framework_id, task_id) in &agent.tasks {
            let Some(framework) = self.frameworks.get(framework_id) else {
                continue;
            };
            let Some(task) = framework.tasks.get(task_id) else {
                continue;
            };
            let key = (framework_id.clone(), task_id.clone());
            if task.is_terminal() {
                if framework.is_removed() {
                    over.push(key);
                }
            } else if let Some(wish) = &task.kill {
                kills.push((key, wish.clone()));
            } else if framework.is_removed() {
                kills.push((key, KillWish::default()));
            }
        }
        for ((framework_id, task_id), wish) in kills {
            self.kill_task(&framework_id, &task_id, wish);
        }
        for (framework_id, task_id) in over {
            self.forget_task(&framework_id, &task_id);
        }
    }
}
