//! What operators see: plain rows and sums.

use std::collections::BTreeMap;

use allotment_proto::convert::{amounts_view, resources_view};
use allotment_proto::mesos::TaskState;
use allotment_proto::{VERSION, allot};
use allotment_types::{AgentId, FrameworkId, Resources, Role, TaskId, Timestamp};

use super::agent::{Agent, AgentState, print_attribute};
use super::framework::{Framework, FrameworkState};
use super::io::Refusal;
use super::metrics::Metrics;
use super::tally::Tally;
use super::task::{EndedTask, Task};
use super::{Completed, Core};

/// The most rows of one reply, so that it stays within a message.
const ROWS_MAX: usize = 30_000;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn agent_state(agent: &Agent) -> (&'static str, Timestamp) {
    match agent.state {
        AgentState::Registered { since, .. } => ("registered", since),
        AgentState::Disconnected { since, .. } => ("disconnected", since),
        AgentState::Recovering { since, .. } => ("recovering", since),
        AgentState::Unreachable { since } => ("unreachable", since),
    }
}

pub(super) fn framework_state(framework: &Framework) -> (&'static str, Timestamp) {
    match framework.state {
        FrameworkState::Connected { since, .. } => ("connected", since),
        FrameworkState::Disconnected { since, .. } => ("disconnected", since),
        FrameworkState::Recovered { since, .. } => ("recovered", since),
        FrameworkState::Removed { since } => ("removed", since),
    }
}

impl Core {
    /// Sums over the agents that the allocation module counts: total, allocated, offered.
    fn sums(&self) -> (Tally, Tally, Tally) {
        let mut sums = (Tally::default(), Tally::default(), Tally::default());
        for agent in self.agents.values().filter(|a| a.is_allocatable()) {
            sums.0.add(&agent.total);
            sums.1.add(&agent.once(&agent.allocated));
            sums.2.add(&agent.once(&agent.offered));
        }
        sums
    }

    pub(super) fn cluster_view(&self) -> allot::ClusterView {
        let (total, allocated, offered) = self.sums();
        let registered = self.agents.values().filter(|a| a.session().is_some());
        let frameworks = self.frameworks.values().filter(|f| !f.is_removed());
        allot::ClusterView {
            master_id: self.config.info.id.clone(),
            version: VERSION.to_owned(),
            started_at: self.started_at.as_secs_f64(),
            agents: count(registered.count()),
            frameworks: count(frameworks.count()),
            tasks_live: count(self.frameworks.values().map(Framework::tasks_live).sum()),
            offers_outstanding: count(self.offers.len()),
            total: resources_view(&total.to_resources()),
            allocated: resources_view(&allocated.to_resources()),
            offered: resources_view(&offered.to_resources()),
            recovering_agents: self.recovery.as_ref().map(|r| count(r.awaited())),
            recovering_until: self.recovery.as_ref().map(|r| r.until.as_secs_f64()),
        }
    }

    pub(super) fn agent_views(&self) -> Vec<allot::AgentView> {
        self.agents.values().map(|a| self.agent_view(a)).collect()
    }

    fn agent_view(&self, agent: &Agent) -> allot::AgentView {
        let (state, since) = agent_state(agent);
        let n_live = agent
            .tasks
            .iter()
            .filter_map(|(framework, task)| self.frameworks.get(framework)?.tasks.get(task))
            .filter(|task| !task.is_terminal())
            .count();
        let away = agent.wish.unavailability;
        allot::AgentView {
            id: agent.id.to_string(),
            hostname: agent.hostname.to_string(),
            url: agent.url.to_string(),
            state: state.to_owned(),
            since: since.as_secs_f64(),
            total: resources_view(&agent.total),
            allocated: resources_view(&agent.once(&agent.allocated)),
            offered: resources_view(&agent.once(&agent.offered)),
            free: resources_view(&agent.free()),
            attributes: agent.info.attributes.iter().map(print_attribute).collect(),
            tasks_live: count(n_live),
            version: agent.version.clone(),
            activity: Some(agent.activity(n_live).to_owned()),
            unavailable_from: away.map(|a| a.start.as_secs_f64()),
            unavailable_seconds: away.and_then(|a| a.duration).map(|d| d.as_secs_f64()),
            answers: self.answer_views(agent),
            domain: agent.domain().map(|domain| domain.to_string()),
        }
    }

    pub(super) fn agent_view_of(&self, id: &AgentId) -> Result<allot::AgentView, Refusal> {
        let agent = self.agents.get(id);
        agent
            .map(|agent| self.agent_view(agent))
            .ok_or_else(|| Refusal::NotFound(format!("agent {id} is gone")))
    }

    pub(super) fn framework_views(&self) -> Vec<allot::FrameworkView> {
        let present = self.frameworks.values().filter(|f| !f.is_removed());
        present.map(|f| self.framework_view(f)).collect()
    }

    fn framework_view(&self, framework: &Framework) -> allot::FrameworkView {
        let (state, since) = framework_state(framework);
        let (allocated, offered) = framework.held_sums();
        allot::FrameworkView {
            id: framework.id.to_string(),
            name: framework.info.name.clone(),
            user: framework.info.user.clone(),
            roles: framework.roles.iter().map(ToString::to_string).collect(),
            state: state.to_owned(),
            since: since.as_secs_f64(),
            failover_timeout_seconds: framework.failover_timeout.as_secs_f64(),
            tasks_live: count(framework.tasks_live()),
            offers_outstanding: count(framework.offers.len()),
            allocated: resources_view(&allocated.to_resources()),
            offered: resources_view(&offered.to_resources()),
            webui_url: framework.info.webui_url.clone(),
            suppressed_roles: framework
                .suppressed
                .iter()
                .map(ToString::to_string)
                .collect(),
            dominant_share: self.allocator.framework_share(&framework.id).as_f64(),
        }
    }

    pub(super) fn role_views(&self) -> Vec<allot::RoleView> {
        #[derive(Default)]
        struct Row {
            frameworks: Vec<String>,
            allocated: Tally,
            offered: Tally,
        }
        let mut rows: BTreeMap<&Role, Row> = BTreeMap::new();
        for role in self.shares.weights.keys().chain(self.shares.quotas.keys()) {
            rows.entry(role).or_default();
        }
        for agent in self.agents.values() {
            for (_, lot, _) in agent.total.iter() {
                for reservation in lot.reservations() {
                    rows.entry(&reservation.role).or_default();
                }
            }
        }
        for framework in self.frameworks.values() {
            if !framework.is_removed() {
                for role in &framework.roles {
                    let row = rows.entry(role).or_default();
                    row.frameworks.push(framework.id.to_string());
                }
            }
            for (role, held) in &framework.held {
                if !held.allocated.is_empty() || !held.offered.is_empty() {
                    let row = rows.entry(role).or_default();
                    row.allocated.merge(&held.allocated);
                    row.offered.merge(&held.offered);
                }
            }
        }
        rows.into_iter()
            .map(|(role, row)| allot::RoleView {
                name: role.to_string(),
                weight: thousandths(self.allocator.weight(role)),
                frameworks: row.frameworks,
                allocated: resources_view(&row.allocated.to_resources()),
                offered: resources_view(&row.offered.to_resources()),
                dominant_share: self.allocator.role_share(role).as_f64(),
                guarantees: amounts_view(&self.allocator.quota(role).guarantees),
                limits: amounts_view(&self.allocator.quota(role).limits),
                consumed: amounts_view(&self.allocator.consumed(role)),
            })
            .collect()
    }

    /// One role, which may have nothing to show for itself.
    pub(super) fn role_view(&self, role: &Role) -> allot::RoleView {
        let mut views = self.role_views().into_iter();
        views
            .find(|view| view.name == role.as_str())
            .unwrap_or_else(|| allot::RoleView {
                name: role.to_string(),
                weight: thousandths(self.allocator.weight(role)),
                ..Default::default()
            })
    }

    pub(super) fn task_views(
        &self,
        request: &allot::ListTasksRequest,
    ) -> Result<Vec<allot::TaskView>, Refusal> {
        let wanted = Wanted::new(self, request)?;
        let mut rows = Vec::new();
        let mut ended = Vec::new();
        for framework in self.frameworks.values() {
            if !wanted.framework(&framework.id) {
                continue;
            }
            for (id, task) in &framework.tasks {
                if !wanted.task(id, task.agent.as_str()) {
                    continue;
                }
                let view = self.task_view(framework, id, task);
                if !task.is_terminal() {
                    rows.push(view);
                } else if request.ended {
                    ended.push(view);
                }
            }
            if request.ended {
                ended.extend(wanted.ended(&framework.id, &framework.info.name, &framework.ended));
            }
            if rows.len() + ended.len() > ROWS_MAX {
                return Err(Refusal::Exhausted(format!(
                    "more than {ROWS_MAX} tasks match; name a framework, an agent or a task"
                )));
            }
        }
        if request.ended {
            for Completed {
                id,
                name,
                ended: tasks,
            } in &self.completed
            {
                if wanted.framework(id) {
                    ended.extend(wanted.ended(id, name, tasks));
                }
            }
        }
        ended.sort_by(|a, b| b.since.total_cmp(&a.since));
        rows.append(&mut ended);
        rows.truncate(ROWS_MAX);
        Ok(rows)
    }

    pub(super) fn task_view(
        &self,
        framework: &Framework,
        id: &TaskId,
        task: &Task,
    ) -> allot::TaskView {
        let agent = self.agents.get(&task.agent);
        let status = task.status.as_deref();
        let exit = status.and_then(|s| s.exit.as_ref());
        allot::TaskView {
            id: id.to_string(),
            name: task.name.clone(),
            framework_id: framework.id.to_string(),
            framework_name: framework.info.name.clone(),
            agent_id: task.agent.to_string(),
            hostname: agent.map(|a| a.hostname.to_string()).unwrap_or_default(),
            agent_url: agent.map(|a| a.url.to_string()).unwrap_or_default(),
            state: task.state.as_str_name().to_owned(),
            since: task.since.as_secs_f64(),
            launched_at: task.launched_at.as_secs_f64(),
            resources: resources_view(&task.grant.resources),
            role: task.grant.role.to_string(),
            message: status.and_then(|s| s.message.clone()),
            reason: status
                .filter(|s| s.reason.is_some())
                .map(|s| s.reason().as_str_name().to_owned()),
            exit_code: exit.and_then(|e| e.code),
            exit_signal: exit.and_then(|e| e.signal),
            executor_id: task.executor.as_ref().map(ToString::to_string),
        }
    }

    /// Whether any live or remembered task id begins so, and which ids do.
    fn ids_beginning(&self, beginning: &str) -> Vec<TaskId> {
        let mut ids = std::collections::BTreeSet::new();
        let Ok(from) = TaskId::parse(beginning) else {
            return Vec::new();
        };
        for framework in self.frameworks.values() {
            let live = framework.tasks.range(from.clone()..).map(|(id, _)| id);
            ids.extend(
                live.take_while(|id| id.as_str().starts_with(beginning))
                    .cloned(),
            );
            ids.extend(ended_beginning(&framework.ended, beginning));
        }
        for completed in &self.completed {
            ids.extend(ended_beginning(&completed.ended, beginning));
        }
        ids.into_iter().collect()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let (total, allocated, _) = self.sums();
        let mut metrics = Metrics {
            uptime_secs: self.out.now.since(self.started_at).as_secs_f64(),
            counters: self.out.counters,
            outstanding_offers: u64::try_from(self.offers.len()).unwrap_or(u64::MAX),
            ..Metrics::default()
        };
        for agent in self.agents.values() {
            let counter = match agent.state {
                AgentState::Registered { .. } => &mut metrics.agents_active,
                AgentState::Disconnected { .. } | AgentState::Recovering { .. } => {
                    &mut metrics.agents_inactive
                }
                AgentState::Unreachable { .. } => &mut metrics.agents_unreachable,
            };
            *counter += 1;
        }
        let live = [
            (TaskState::TaskStaging, "staging"),
            (TaskState::TaskStarting, "starting"),
            (TaskState::TaskRunning, "running"),
            (TaskState::TaskKilling, "killing"),
            (TaskState::TaskUnreachable, "unreachable"),
        ];
        let mut by_state: BTreeMap<i32, u64> = BTreeMap::new();
        for framework in self.frameworks.values() {
            match framework.state {
                FrameworkState::Connected { .. } => metrics.frameworks_active += 1,
                FrameworkState::Disconnected { .. } | FrameworkState::Recovered { .. } => {
                    metrics.frameworks_inactive += 1;
                }
                FrameworkState::Removed { .. } => {}
            }
            for task in framework.tasks.values() {
                *by_state.entry(task.state.into()).or_default() += 1;
            }
        }
        metrics.tasks = live
            .into_iter()
            .map(|(state, name)| (name, by_state.get(&state.into()).copied().unwrap_or(0)))
            .collect();
        metrics.resources = total
            .to_resources()
            .scalars()
            .map(|(name, amount)| {
                let used = thousandths(allocated.get(name));
                (name.as_str().to_owned(), amount.as_f64(), used)
            })
            .collect();
        metrics
    }
}

fn thousandths(amount: u64) -> f64 {
    allotment_types::Fixed::from_thousandths(amount).as_f64()
}

fn ended_beginning<'a>(
    ended: impl IntoIterator<Item = &'a EndedTask>,
    beginning: &str,
) -> impl Iterator<Item = TaskId> {
    ended
        .into_iter()
        .filter(move |task| task.id.as_str().starts_with(beginning))
        .map(|task| task.id.clone())
}

/// What a listing of tasks is narrowed to.
struct Wanted<'a> {
    framework: Option<&'a str>,
    agent: Option<&'a str>,
    task: Option<String>,
}

impl<'a> Wanted<'a> {
    fn new(core: &Core, request: &'a allot::ListTasksRequest) -> Result<Self, Refusal> {
        let task = match request.task_id.as_deref() {
            None => None,
            Some(asked) => {
                let ids = core.ids_beginning(asked);
                match ids.as_slice() {
                    [only] => Some(only.to_string()),
                    [first, second, ..] if first.as_str() != asked => {
                        return Err(Refusal::Invalid(format!(
                            "{} tasks begin with {asked:?}, for example {first} and {second}; \
                             give more of the id",
                            ids.len()
                        )));
                    }
                    // An exact id sorts before the longer ones that begin with it.
                    _ => Some(asked.to_owned()),
                }
            }
        };
        Ok(Self {
            framework: request.framework_id.as_deref(),
            agent: request.agent_id.as_deref(),
            task,
        })
    }

    fn framework(&self, id: &FrameworkId) -> bool {
        self.framework.is_none_or(|wanted| wanted == id.as_str())
    }

    fn task(&self, id: &TaskId, agent: &str) -> bool {
        self.agent.is_none_or(|wanted| wanted == agent)
            && self
                .task
                .as_deref()
                .is_none_or(|wanted| wanted == id.as_str())
    }

    fn ended(
        &self,
        framework: &FrameworkId,
        framework_name: &str,
        tasks: impl IntoIterator<Item = &'a EndedTask>,
    ) -> Vec<allot::TaskView> {
        tasks
            .into_iter()
            .filter(|task| self.task(&task.id, task.agent.as_str()))
            .map(|task| ended_view(framework, framework_name, task))
            .collect()
    }
}

pub(super) fn ended_view(
    framework: &FrameworkId,
    framework_name: &str,
    task: &EndedTask,
) -> allot::TaskView {
    allot::TaskView {
        id: task.id.to_string(),
        name: task.name.clone(),
        framework_id: framework.to_string(),
        framework_name: framework_name.to_owned(),
        agent_id: task.agent.to_string(),
        hostname: task.hostname.to_string(),
        agent_url: task.agent_url.to_string(),
        state: task.state.as_str_name().to_owned(),
        since: task.since.as_secs_f64(),
        launched_at: task.launched_at.as_secs_f64(),
        resources: resources_view(&task.grant.resources),
        role: task.grant.role.to_string(),
        message: task.message.clone(),
        reason: task.reason.map(|r| r.as_str_name().to_owned()),
        exit_code: task.exit.as_ref().and_then(|e| e.code),
        exit_signal: task.exit.as_ref().and_then(|e| e.signal),
        executor_id: task.executor.as_ref().map(ToString::to_string),
    }
}

/// Only the scalars, as sums over agents have them.
pub(super) fn scalars_of(resources: &Resources) -> Resources {
    let mut tally = Tally::default();
    tally.add(resources);
    tally.to_resources()
}
