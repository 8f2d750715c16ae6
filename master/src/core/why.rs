//! Why things stand as they do, in sentences.

use std::collections::BTreeMap;

use allotment_allocator::Unoffered;
use allotment_proto::allot;
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use super::Core;
use super::accept::truncated;
use super::agent::{Agent, AgentState};
use super::framework::{Framework, FrameworkState};
use super::io::Refusal;
use super::views::{agent_state, ended_view, scalars_of};

/// How many agents or tasks a sentence names before it only counts.
pub(super) const NAMED: usize = 3;

/// What there can be several of with one name.
const KINDS: [&str; 4] = ["framework", "agent", "task", "role"];

impl Core {
    pub(super) fn why(&self, request: &allot::WhyRequest) -> Result<allot::WhyResponse, Refusal> {
        let subject = request.subject.as_str();
        let kind = request.kind.as_deref();
        if let Some(kind) = kind.filter(|kind| !KINDS.contains(kind)) {
            return Err(Refusal::Invalid(format!(
                "there is no kind {:?}; ask for one of {}",
                truncated(kind),
                KINDS.join(", ")
            )));
        }
        let asked = |wanted: &str| kind.is_none_or(|kind| kind == wanted);
        if asked("framework")
            && let Some(framework) = self.find_framework(subject)
        {
            let lines = self.why_framework(framework);
            return Ok(respond("framework", &framework.id, lines));
        }
        let mut by_host = self.agents.values().filter(|a| &*a.hostname == subject);
        let by_id = AgentId::parse(subject).ok();
        let by_id = by_id.and_then(|id| self.agents.get(&id));
        if asked("agent")
            && let Some(agent) = by_id.or_else(|| by_host.next())
        {
            return Ok(respond("agent", &agent.id, self.why_agent(agent)));
        }
        let role = Role::parse(subject).ok();
        let mut views = self.role_views().into_iter();
        if asked("role")
            && let Some(view) =
                views.find(|view| role.as_ref().is_some_and(|r| r.as_str() == view.name))
        {
            return Ok(respond("role", &view.name, self.why_role(&view)));
        }
        if asked("task")
            && let Some(response) = self.why_task(subject)?
        {
            return Ok(response);
        }
        Err(Refusal::NotFound(format!(
            "no {} is called {:?}; see `allot framework list`, `allot node list`, `allot task \
             list` and `allot role list`",
            kind.unwrap_or("framework, agent, task or role"),
            truncated(subject)
        )))
    }

    /// By id, else by name; of several with one name, a connected one.
    fn find_framework(&self, subject: &str) -> Option<&Framework> {
        let by_id = FrameworkId::parse(subject).ok();
        if let Some(framework) = by_id.and_then(|id| self.frameworks.get(&id)) {
            return Some(framework);
        }
        let named = || self.frameworks.values().filter(|f| f.info.name == subject);
        named()
            .find(|f| f.conn().is_some())
            .or_else(|| named().next())
    }

    pub(super) fn hostname(&self, id: &AgentId) -> String {
        self.agents
            .get(id)
            .map_or_else(|| id.to_string(), |a| a.hostname.to_string())
    }

    fn why_framework(&self, framework: &Framework) -> Vec<String> {
        let now = self.out.now;
        let (allocated, offered) = framework.held_sums();
        let share = self.allocator.framework_share(&framework.id).as_f64() * 100.0;
        let name = &framework.info.name;
        let mut lines = vec![match framework.state {
            FrameworkState::Connected { .. } => format!("{name} is connected"),
            FrameworkState::Disconnected { since, until } => format!(
                "{name} disconnected {} ago; it is removed unless it is back within {}",
                span(since, now),
                span(now, until)
            ),
            FrameworkState::Recovered { until, .. } => format!(
                "{name} was not heard since this master started; it is removed unless it is back \
                 within {}",
                span(now, until)
            ),
            FrameworkState::Removed { since } => format!(
                "{name} was removed {} ago; what is left of its tasks ({}) is being killed",
                span(since, now),
                framework.tasks.len()
            ),
        }];
        lines.push(format!(
            "its {} {}; with what it is offered, its dominant share is {share:.1} %",
            holders(framework.tasks_live(), "live task"),
            allocated.to_resources()
        ));
        if !framework.offers.is_empty() {
            lines.push(format!(
                "its {} {}, still unanswered{}",
                holders(framework.offers.len(), "offer"),
                offered.to_resources(),
                self.oldest_offer(framework)
            ));
        }
        lines.extend(self.grouped(self.allocator.explain(now, &framework.id)));
        lines.extend(self.why_undecided());
        lines
    }

    /// That not everything is decided yet, while a round is under way.
    pub(super) fn why_undecided(&self) -> Option<String> {
        self.allocator.under_way().map(|round| round.to_string())
    }

    fn oldest_offer(&self, framework: &Framework) -> String {
        let oldest = framework.offers.first();
        let oldest = oldest.and_then(|number| self.offers.get(*number));
        oldest.map_or_else(String::new, |offer| {
            format!(
                "; the oldest is rescinded in {}",
                span(self.out.now, offer.expires_at)
            )
        })
    }

    /// One sentence per kind of reason, however many agents share it.
    fn grouped(&self, reasons: Vec<Unoffered>) -> Vec<String> {
        let mut groups: BTreeMap<String, Vec<Unoffered>> = BTreeMap::new();
        for reason in reasons {
            let key = match &reason {
                Unoffered::Inactive => "0".to_owned(),
                Unoffered::Suppressed { role } => format!("1 {role}"),
                Unoffered::NoAgents => "2".to_owned(),
                Unoffered::Filtered { role, .. } => format!("3 {role}"),
                Unoffered::Behind { role, against, .. } => format!("4 {role} {against}"),
                Unoffered::TooSmall { .. } => "5".to_owned(),
                Unoffered::NothingFree { .. } => "6".to_owned(),
                Unoffered::AgentInactive { .. } => "7".to_owned(),
                Unoffered::Demand { role, .. } => format!("8 {role}"),
                other => format!("9 {}", other.sentence()),
            };
            groups.entry(key).or_default().push(reason);
        }
        groups
            .values()
            .filter_map(|group| self.group_sentence(group))
            .collect()
    }

    fn group_sentence(&self, group: &[Unoffered]) -> Option<String> {
        let agents: Vec<&AgentId> = group.iter().filter_map(Unoffered::agent).collect();
        let several = agents.len() != 1;
        let who = self.named_agents(&agents);
        let (have, are, go) = if several {
            ("have", "are", "go")
        } else {
            ("has", "is", "goes")
        };
        Some(match group.first()? {
            reason if reason.agent().is_none() => reason.to_string(),
            // Those that lack least come first.
            reason @ Unoffered::Demand { .. } => format!(
                "{who} {have} no room for the demand; the nearest: {}",
                reason.sentence()
            ),
            Unoffered::AgentInactive { .. } => format!("{who} {are} disconnected"),
            Unoffered::NothingFree { .. } => format!("{who} {have} nothing free"),
            Unoffered::TooSmall { .. } => format!(
                "{who} {have} less left than the smallest offer; the most is {}",
                largest_free(group)
            ),
            Unoffered::Filtered { role, .. } => {
                let untils = group.iter().filter_map(|reason| match reason {
                    Unoffered::Filtered { until, .. } => Some(*until),
                    _ => None,
                });
                let next = untils.min().unwrap_or(self.out.now);
                format!(
                    "{who} {have} something free, at most {}, which it declined in role {role}; \
                     the next filter ends in {}",
                    largest_free(group),
                    span(self.out.now, next)
                )
            }
            Unoffered::Behind {
                role,
                share,
                against,
                their_share,
                ..
            } => {
                let other = self
                    .frameworks
                    .get(against)
                    .map_or_else(|| against.to_string(), |f| f.info.name.clone());
                format!(
                    "{who} {go} to {other} first, whose dominant share is {:.1} % against {:.1} % \
                     in role {role}",
                    their_share.as_f64() * 100.0,
                    share.as_f64() * 100.0
                )
            }
            other => format!("{who}: {}", other.sentence()),
        })
    }

    fn named_agents(&self, agents: &[&AgentId]) -> String {
        let mut names: Vec<String> = agents
            .iter()
            .take(NAMED)
            .map(|id| self.hostname(id))
            .collect();
        match agents.len() {
            1 => format!("agent {}", names.join("")),
            n if n <= NAMED => format!("{n} agents ({})", names.join(", ")),
            n => {
                names.push("…".to_owned());
                format!("{n} agents ({})", names.join(", "))
            }
        }
    }

    fn why_agent(&self, agent: &Agent) -> Vec<String> {
        let now = self.out.now;
        let (state, since) = agent_state(agent);
        let mut first = format!(
            "agent {} is {state} since {} ago and has {}",
            agent.hostname,
            span(since, now),
            agent.total
        );
        match agent.state {
            AgentState::Disconnected { until, .. } | AgentState::Recovering { until, .. } => {
                let left = span(now, until);
                first.push_str(&format!("; it counts as unreachable in {left}"));
            }
            AgentState::Registered { .. } | AgentState::Unreachable { .. } => {}
        }
        let mut lines = vec![first, format!("{} is free", agent.free())];
        let mut by_framework: BTreeMap<&FrameworkId, (usize, Resources)> = BTreeMap::new();
        for (framework, task) in &agent.tasks {
            let found = self.frameworks.get(framework);
            let Some(task) = found.and_then(|f| f.tasks.get(task)) else {
                continue;
            };
            if task.holds {
                let sum = by_framework.entry(framework).or_default();
                sum.0 += 1;
                sum.1.add(&task.grant.resources);
            }
        }
        for ((framework, executor), held) in &agent.executors {
            let name = self.framework_name(framework);
            let held = &held.grant.resources;
            lines.push(format!("{name}: executor {executor} {held}"));
        }
        for (framework, (tasks, held)) in by_framework {
            let name = self.framework_name(framework);
            lines.push(format!("{name}: {} {held}", holders(tasks, "task")));
        }
        for number in &agent.offers {
            if let Some(offer) = self.offers.get(*number) {
                lines.push(format!(
                    "{} is offered to {}, which has not answered; it is rescinded in {}",
                    offer.grant.resources,
                    self.framework_name(&offer.grant.framework),
                    span(now, offer.expires_at)
                ));
            }
        }
        lines.extend(self.why_sharing_of_agent(&agent.id));
        lines
    }

    pub(super) fn framework_name(&self, id: &FrameworkId) -> String {
        self.frameworks
            .get(id)
            .map_or_else(|| id.to_string(), |f| f.info.name.clone())
    }

    fn why_task(&self, subject: &str) -> Result<Option<allot::WhyResponse>, Refusal> {
        let request = allot::ListTasksRequest {
            task_id: Some(subject.to_owned()),
            ended: true,
            ..Default::default()
        };
        let views = self.task_views(&request)?;
        let Some(view) = views.first() else {
            return Ok(None);
        };
        let now = self.out.now.as_secs_f64();
        let mut lines = vec![format!(
            "task {} of {} is in state {} since {:.0} s ago, on agent {}",
            view.id,
            view.framework_name,
            view.state,
            (now - view.since).max(0.0),
            view.hostname
        )];
        if let Some(message) = view.message.as_ref().filter(|m| !m.is_empty()) {
            lines.push(message.clone());
        }
        if let Some(reason) = &view.reason {
            lines.push(format!("the reason given is {reason}"));
        }
        match (view.exit_code, view.exit_signal) {
            (Some(code), _) => lines.push(format!("its main process exited with {code}")),
            (None, Some(signal)) => {
                lines.push(format!("its main process was ended by signal {signal}"));
            }
            (None, None) => {}
        }
        let live = self
            .frameworks
            .values()
            .filter(|f| f.id.as_str() == view.framework_id)
            .flat_map(|f| f.tasks.iter())
            .find(|(id, _)| id.as_str() == view.id);
        if let Some((_, task)) = live {
            lines.push(format!("it holds {}", task.grant.resources));
            if task.kill.is_some() && !task.is_terminal() {
                lines.push("a kill was asked for and is under way".to_owned());
            }
            if task.unacknowledged {
                lines.push("its framework has not acknowledged the last update".to_owned());
            }
        }
        Ok(Some(respond("task", &view.id, lines)))
    }

    fn why_role(&self, view: &allot::RoleView) -> Vec<String> {
        let mut lines = vec![format!(
            "role {} has weight {} and a dominant share of {:.1} %",
            view.name,
            view.weight,
            view.dominant_share * 100.0
        )];
        if let Ok(role) = Role::parse(&view.name) {
            lines.extend(self.why_sharing_of_role(&role));
        }
        for framework in self.frameworks.values() {
            let Some(role) = framework.roles.iter().find(|r| r.as_str() == view.name) else {
                continue;
            };
            let held = framework.held.get(role);
            let (allocated, offered) = held
                .map(|h| (h.allocated.to_resources(), h.offered.to_resources()))
                .unwrap_or_default();
            let quiet = if framework.suppressed.contains(role) {
                "; it wants no offers at present"
            } else {
                ""
            };
            lines.push(format!(
                "{} holds {} and is offered {}{quiet}",
                framework.info.name,
                scalars_of(&allocated),
                scalars_of(&offered)
            ));
        }
        lines
    }

    /// The remembered tasks of one framework, newest last; for tests.
    #[doc(hidden)]
    pub fn ended_tasks(&self, framework: &FrameworkId) -> Vec<allot::TaskView> {
        let live = self.frameworks.get(framework);
        let live = live.map(|f| (&f.info.name, &f.ended));
        let done = self.completed.iter().find(|c| c.id == *framework);
        let found = live.or_else(|| done.map(|c| (&c.name, &c.ended)));
        found.map_or_else(Vec::new, |(name, ended)| {
            let view = |task| ended_view(framework, name, task);
            ended.iter().map(view).collect()
        })
    }
}

fn respond(kind: &str, id: &impl ToString, lines: Vec<String>) -> allot::WhyResponse {
    allot::WhyResponse {
        kind: kind.to_owned(),
        id: id.to_string(),
        lines,
    }
}

fn largest_free(group: &[Unoffered]) -> Resources {
    let frees = group.iter().filter_map(|reason| match reason {
        Unoffered::TooSmall { free, .. } | Unoffered::Filtered { free, .. } => Some(free),
        _ => None,
    });
    frees
        .max_by_key(|free| (free.cpus(), free.mem()))
        .cloned()
        .unwrap_or_default()
}

/// `1 task holds`, `2 tasks hold`.
fn holders(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what} holds"),
        n => format!("{n} {what}s hold"),
    }
}

/// `3 s`, `5 min`: whole seconds, milliseconds below one.
pub(super) fn span(from: Timestamp, to: Timestamp) -> String {
    let duration = to.since(from);
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
