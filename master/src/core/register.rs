//! Agents arrive and come back: what they report is checked, then squared with what is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_allocator::{AgentSpec, Grant};
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, convert, mesos};
use allotment_types::{AgentId, FrameworkId, Resources, Role, TaskId, Timestamp};

use super::Core;
use super::accept::truncated;
use super::agent::{Agent, AgentState, attribute_fault, parse_url};
use super::framework::{Checked, Framework, FrameworkState};
use super::io::ConnId;
use super::out::About;
use super::task::{KillWish, Task, master_status};
use super::timers::Timer;
use super::updates::is_agents_state;

/// The most attributes of one agent.
const ATTRIBUTES_MAX: usize = 1000;

/// One stream of a registered agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) agent: AgentId,
    pub(super) last_heard: Timestamp,
    pub(super) ping_sequence: u64,
    pub(super) pings_unanswered: u32,
}

/// A task that an agent reports.
#[derive(Debug)]
struct Reported {
    name: String,
    role: Option<Role>,
    resources: Resources,
    state: TaskState,
}

/// A registration whose every part was checked on its own.
#[derive(Debug)]
struct Checkin {
    id: Option<AgentId>,
    info: mesos::AgentInfo,
    url: String,
    wire_url: mesos::Url,
    version: String,
    total: Resources,
    tasks: BTreeMap<(FrameworkId, TaskId), Reported>,
    frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
}

impl Checkin {
    fn new(register: allot::Register) -> Result<Self, String> {
        let info = register.agent;
        let bounded = |what: &str, text: &str, max: usize| {
            if text.is_empty() {
                return Err(format!("the agent's {what} is empty; set it"));
            }
            if text.len() > max || text.chars().any(char::is_control) {
                return Err(format!(
                    "the agent's {what} {:?} is too long or holds control characters; give at \
                     most {max} bytes",
                    truncated(text)
                ));
            }
            Ok(())
        };
        bounded("hostname", &info.hostname, 255)?;
        bounded("version", &register.version, 64)?;
        let id = info.id.as_ref().filter(|id| !id.value.is_empty());
        let id = id
            .map(AgentId::try_from)
            .transpose()
            .map_err(|e| e.to_string())?;
        let wire_url = parse_url(&register.url).ok_or_else(|| {
            format!(
                "the agent's url {:?} is no address; give `http://host:port`",
                truncated(&register.url)
            )
        })?;
        let total = convert::resources_from_wire(&info.resources)
            .map_err(|e| format!("the agent's resources are refused: {e}"))?;
        if total.is_empty() {
            return Err("the agent has no resources; give it some cpus and mem".to_owned());
        }
        if info.attributes.len() > ATTRIBUTES_MAX {
            return Err(format!(
                "the agent has {} attributes; at most {ATTRIBUTES_MAX} are accepted",
                info.attributes.len()
            ));
        }
        for attribute in &info.attributes {
            if let Some(fault) = attribute_fault(attribute) {
                let name = truncated(&attribute.name);
                return Err(format!("the agent's attribute {name:?} {fault}"));
            }
        }
        let mut frameworks = BTreeMap::new();
        for framework in register.frameworks {
            let id = framework
                .id
                .as_ref()
                .ok_or("a framework that the agent reports has no id")?;
            let id = FrameworkId::try_from(id).map_err(|e| e.to_string())?;
            frameworks.insert(id, framework);
        }
        let tasks = checked_tasks(register.tasks, &total, &frameworks)?;
        Ok(Self {
            id,
            info,
            url: register.url,
            wire_url,
            version: register.version,
            total,
            tasks,
            frameworks,
        })
    }
}

fn checked_tasks(
    records: Vec<allot::TaskRecord>,
    total: &Resources,
    frameworks: &BTreeMap<FrameworkId, mesos::FrameworkInfo>,
) -> Result<BTreeMap<(FrameworkId, TaskId), Reported>, String> {
    let mut tasks = BTreeMap::new();
    let mut free = total.clone();
    for record in records {
        let state = record.state();
        let framework = FrameworkId::try_from(&record.framework_id).map_err(|e| e.to_string())?;
        let task = TaskId::try_from(&record.task.task_id).map_err(|e| e.to_string())?;
        if !frameworks.contains_key(&framework) {
            return Err(format!(
                "the agent reports task {task} of framework {framework} without that framework"
            ));
        }
        if !is_agents_state(state) {
            return Err(format!(
                "the agent reports task {task} in state {}, which only a master may tell",
                state.as_str_name()
            ));
        }
        let resources = convert::resources_from_wire(&record.task.resources)
            .map_err(|e| format!("the agent reports task {task} with bad resources: {e}"))?;
        if !convert::is_terminal(state) {
            if !free.contains(&resources) {
                return Err(format!(
                    "the agent reports tasks that do not fit into it: task {task} holds \
                     {resources}, but beside the others only {free} of {total} is left"
                ));
            }
            free.subtract(&resources);
        }
        let role = record
            .task
            .resources
            .iter()
            .find_map(|r| r.allocation_info.as_ref()?.role.as_deref())
            .map(Role::parse)
            .transpose()
            .map_err(|e| e.to_string())?;
        let reported = Reported {
            name: record.task.name,
            role,
            resources,
            state,
        };
        if tasks.insert((framework, task.clone()), reported).is_some() {
            return Err(format!("the agent reports task {task} twice"));
        }
    }
    Ok(tasks)
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
        let known = self.agents.contains_key(&id);
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
            frameworks,
            id: _,
        } = checkin;
        let changed = self.admit(&id, conn, info, url, wire_url, version, total);
        self.adopt_frameworks(frameworks, &tasks);
        let strays = self.adopt_tasks(&id, tasks, returned);
        self.give_to_allocator(&id);
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
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
        self.kill_unwanted(&id, strays);
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
                let agent = Agent {
                    id: id.clone(),
                    info,
                    hostname,
                    url: url.into(),
                    wire_url: Some(wire_url),
                    version,
                    total,
                    state,
                    tasks: BTreeSet::new(),
                    offers: BTreeSet::new(),
                    allocated: Resources::EMPTY,
                    offered: Resources::EMPTY,
                };
                self.agents.insert(id.clone(), agent);
                true
            }
        }
    }

    /// What was believed to run there and is not reported is over.
    fn end_missing_tasks(
        &mut self,
        id: &AgentId,
        reported: &BTreeMap<(FrameworkId, TaskId), Reported>,
    ) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let missing: Vec<(FrameworkId, TaskId)> = agent
            .tasks
            .iter()
            .filter(|key| !reported.contains_key(key))
            .cloned()
            .collect();
        for (framework_id, task_id) in missing {
            let Some(framework) = self.frameworks.get(&framework_id) else {
                continue;
            };
            let Some(task) = framework.tasks.get(&task_id) else {
                continue;
            };
            let told = task.status.as_ref().map(|status| status.state());
            if told.is_some_and(convert::is_terminal) {
                // The update is known here; a framework that is away may still want to hear it.
                if framework.conn().is_some() || framework.is_removed() {
                    self.forget_task(&framework_id, &task_id);
                }
            } else if task.is_terminal() {
                let state = task.state;
                self.end_task(
                    &framework_id,
                    &task_id,
                    state,
                    Reason::AgentRestarted,
                    "the agent said so before it lost the details".to_owned(),
                );
            } else if task.status.is_none() && task.state == TaskState::TaskStaging {
                self.end_task(
                    &framework_id,
                    &task_id,
                    TaskState::TaskDropped,
                    Reason::AgentDisconnected,
                    "the launch never reached the agent: its session broke first".to_owned(),
                );
            } else {
                self.end_task(
                    &framework_id,
                    &task_id,
                    TaskState::TaskGone,
                    Reason::AgentRestarted,
                    "the agent came back without the task".to_owned(),
                );
            }
        }
    }

    /// Frameworks that only the agent knows: of an earlier registry, or removed meanwhile.
    fn adopt_frameworks(
        &mut self,
        frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
        tasks: &BTreeMap<(FrameworkId, TaskId), Reported>,
    ) {
        let needed: BTreeSet<&FrameworkId> = tasks.keys().map(|(framework, _)| framework).collect();
        for (id, info) in frameworks {
            if self.frameworks.contains_key(&id) || !needed.contains(&id) {
                continue;
            }
            let now = self.out.now;
            let checked = Checked::new(&info).unwrap_or_else(|_| Checked {
                roles: BTreeSet::from([Role::star()]),
                capabilities: super::framework::Capabilities::default(),
                failover_timeout: Duration::ZERO,
            });
            let state = if self.barred.contains(&id) {
                FrameworkState::Removed { since: now }
            } else {
                let until = now + checked.failover_timeout.max(self.config.agent_timeout);
                self.timers.set(until, Timer::Failover(id.clone()));
                FrameworkState::Recovered { since: now, until }
            };
            let framework = Framework::new(id.clone(), info, checked, state);
            self.allocator.add_framework(&id, framework.spec());
            self.allocator.deactivate_framework(&id);
            self.frameworks.insert(id, framework);
        }
    }

    /// Squares what is reported with what is believed; returns tasks that must not run there.
    fn adopt_tasks(
        &mut self,
        id: &AgentId,
        tasks: BTreeMap<(FrameworkId, TaskId), Reported>,
        was_unreachable: bool,
    ) -> Vec<(FrameworkId, TaskId)> {
        let mut strays = Vec::new();
        for ((framework_id, task_id), reported) in tasks {
            let Some(framework) = self.frameworks.get(&framework_id) else {
                continue;
            };
            match framework.tasks.get(&task_id) {
                Some(task) if task.agent != *id => strays.push((framework_id, task_id)),
                Some(_) => self.confirm_task(id, &framework_id, &task_id, &reported),
                None => {
                    self.adopt_task(id, &framework_id, task_id.clone(), reported);
                    if was_unreachable {
                        self.tell_returned(id, &framework_id, &task_id);
                    }
                }
            }
        }
        strays
    }

    fn confirm_task(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        reported: &Reported,
    ) {
        let now = self.out.now;
        let over = convert::is_terminal(reported.state);
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id) else {
            return;
        };
        if task.is_terminal() {
            return;
        }
        let returned = task.state == TaskState::TaskUnreachable;
        if task.grant.resources != reported.resources {
            // The agent knows best what it gave to the task.
            let held = framework.held.entry(task.grant.role.clone()).or_default();
            if task.holds {
                held.allocated.subtract(&task.grant.resources);
                held.allocated.add(&reported.resources);
                if let Some(agent) = self.agents.get_mut(agent_id) {
                    agent.allocated.subtract(&task.grant.resources);
                    agent.allocated.add(&reported.resources);
                }
            }
            task.grant.resources = reported.resources.clone();
        }
        if task.state != reported.state {
            task.state = reported.state;
            task.since = now;
        }
        if over {
            return self.release_task(framework_id, task_id);
        }
        if !returned {
            return;
        }
        task.holds = true;
        let held = framework.held.entry(task.grant.role.clone()).or_default();
        held.allocated.add(&task.grant.resources);
        if let Some(agent) = self.agents.get_mut(agent_id) {
            agent.allocated.add(&task.grant.resources);
        }
        self.tell_returned(agent_id, framework_id, task_id);
    }

    /// The framework was told, by this master or an earlier one, that the task's agent is
    /// unreachable; nothing else would tell it that the task lives.
    fn tell_returned(&mut self, agent_id: &AgentId, framework_id: &FrameworkId, task_id: &TaskId) {
        let now = self.out.now;
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(task) = framework.tasks.get_mut(task_id).filter(|t| t.holds) else {
            return;
        };
        let status = master_status(
            now,
            task_id.into(),
            Some(agent_id),
            task.state,
            Reason::AgentReregistered,
            "the agent is back with the task".to_owned(),
        );
        // Beside telling the framework, this replaces what `status` said of being unreachable.
        task.status = Some(Box::new(status.clone()));
        task.unacknowledged = false;
        framework.tell(&mut self.out, status);
    }

    fn adopt_task(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        task_id: TaskId,
        reported: Reported,
    ) {
        let now = self.out.now;
        let (Some(framework), Some(agent)) = (
            self.frameworks.get_mut(framework_id),
            self.agents.get_mut(agent_id),
        ) else {
            return;
        };
        let holds = !convert::is_terminal(reported.state);
        let role = reported
            .role
            .or_else(|| framework.roles.first().cloned())
            .unwrap_or_else(Role::star);
        if holds {
            let held = framework.held.entry(role.clone()).or_default();
            held.allocated.add(&reported.resources);
            agent.allocated.add(&reported.resources);
        }
        agent.tasks.insert((framework_id.clone(), task_id.clone()));
        let task = Task {
            name: reported.name,
            agent: agent_id.clone(),
            grant: Grant {
                framework: framework_id.clone(),
                role,
                resources: reported.resources,
            },
            state: reported.state,
            holds,
            since: now,
            launched_at: now,
            status: None,
            unacknowledged: false,
            kill: None,
        };
        framework.tasks.insert(task_id, task);
    }

    fn give_to_allocator(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let used = agent
            .tasks
            .iter()
            .filter_map(|(framework, task)| self.frameworks.get(framework)?.tasks.get(task))
            .filter(|task| task.holds)
            .map(|task| task.grant.clone())
            .collect();
        let total = agent.total.clone();
        self.allocator.add_agent(id, AgentSpec { total, used });
        self.allocator.set_agent_active(id, true);
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
