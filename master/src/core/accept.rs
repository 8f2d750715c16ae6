//! ACCEPT: from offers to launched tasks.

use std::time::Duration;

use allotment_allocator::{Grant, Recovery};
use allotment_proto::allot::master_message::Message;
use allotment_proto::convert::{self, ResourceError};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::offer::operation;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, IdError, Resources, Role, Shortfall, TaskId};

use super::Core;
use super::framework::Framework;
use super::io::ConnId;
use super::offer_news::Fate;
use super::out::About;
use super::task::{Task, master_status};

/// How long an unused offer is withheld when the framework does not say (Mesos: 5 s). Without
/// it, the same framework, still lowest in dominant share, would get it back on every round.
const REFUSE_DEFAULT: Duration = Duration::from_secs(5);
/// The longest a filter lasts (Mesos: 365 days).
const REFUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest task name, in bytes.
const NAME_MAX: usize = 4096;

/// The most tasks of one framework that are live or await an acknowledgement: ten times what one
/// framework is known to run, and about 100 MB here.
const TASKS_MAX: usize = 100_000;

/// What the accepted offers add up to.
struct Pool {
    agent: AgentId,
    role: Role,
    rest: Resources,
}

/// Why a task was not launched.
#[derive(Debug, thiserror::Error)]
enum TaskFault {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(
        "task id {0} is in use by a live task of this framework; kill that one first or choose \
         another id"
    )]
    Live(TaskId),
    #[error(
        "task id {0} belongs to a task that ended but whose last update is not acknowledged yet; \
         acknowledge it first or choose another id"
    )]
    Unacknowledged(TaskId),
    #[error(
        "the framework has {TASKS_MAX} tasks that are live or whose end it has not acknowledged, \
         which is the most; acknowledge updates or let tasks end first"
    )]
    TooMany,
    #[error("the name has {0} bytes; at most {NAME_MAX} are accepted")]
    Name(usize),
    #[error("the task names agent {named} but its offers are of agent {offered}; name that one")]
    Agent { named: String, offered: AgentId },
    #[error(transparent)]
    Resources(#[from] ResourceError),
    #[error("the task asks for no resources; ask for some cpus or mem")]
    NoResources,
    #[error("the task's resources are allocated to role {named} but its offers to role {offered}")]
    Role { named: String, offered: Role },
    #[error("the task does not fit into what its offers have left: {0}; shrink it or decline")]
    TooBig(String),
    #[error("the task has no command; set `command.value`")]
    NoCommand,
    #[error("not supported yet: {0}")]
    Unsupported(&'static str),
}

pub(super) fn refuse_for(filters: Option<&mesos::Filters>) -> Duration {
    let seconds = filters.map_or(REFUSE_DEFAULT.as_secs_f64(), mesos::Filters::refuse_seconds);
    if seconds.is_nan() || seconds < 0.0 {
        return REFUSE_DEFAULT;
    }
    Duration::try_from_secs_f64(seconds).map_or(REFUSE_MAX, |d| d.min(REFUSE_MAX))
}

impl Core {
    pub(super) fn on_accept(
        &mut self,
        conn: ConnId,
        id: &FrameworkId,
        accept: scheduler::call::Accept,
    ) {
        if let Some(message) = unsupported_operation(&accept.operations) {
            let call = scheduler::call::Type::Accept;
            self.out.reject_call(conn, call, message);
            return;
        }
        let tasks = accept
            .operations
            .into_iter()
            .filter_map(|operation| operation.launch)
            .flat_map(|launch| launch.task_infos);
        let refuse = refuse_for(accept.filters.as_ref());
        match self.pool_offers(id, &accept.offer_ids) {
            Ok(pool) => {
                let n_offers = accept.offer_ids.len();
                self.launch(id, pool, n_offers, tasks, refuse);
            }
            Err(message) => {
                // As in Mesos, the offers of the list that do exist are gone too.
                for offer in &accept.offer_ids {
                    let number = self.offers.number(&offer.value);
                    if let Some(number) = number.filter(|n| self.owns_offer(id, *n)) {
                        self.withdraw_offer(number);
                    }
                }
                let Some(framework) = self.frameworks.get(id) else {
                    return;
                };
                for task in tasks {
                    self.out.counters.tasks_dropped += 1;
                    let agent = AgentId::try_from(&task.agent_id).ok();
                    let status = master_status(
                        self.out.now,
                        task.task_id,
                        agent.as_ref(),
                        TaskState::TaskDropped,
                        Reason::InvalidOffers,
                        format!("the task was not launched: {message}"),
                    );
                    framework.tell(&mut self.out, status);
                }
            }
        }
    }

    pub(super) fn on_decline(&mut self, id: &FrameworkId, decline: &scheduler::call::Decline) {
        let refuse = refuse_for(decline.filters.as_ref());
        for offer in &decline.offer_ids {
            // One that is gone was rescinded while the decline was on its way.
            let number = self.offers.number(&offer.value);
            if let Some(number) = number.filter(|n| self.owns_offer(id, *n))
                && let Some(offer) = self.take_offer(number)
            {
                let Grant {
                    framework,
                    resources,
                    ..
                } = &offer.grant;
                let fate = Fate::Declined { refuse_for: refuse };
                self.note_offers(framework, &offer.agent, fate, 1, resources);
                let declined = Recovery::Declined {
                    refuse_for: refuse,
                    used_some: false,
                };
                self.recover(&offer.agent, &offer.grant, declined);
            }
        }
    }

    fn owns_offer(&self, id: &FrameworkId, number: u64) -> bool {
        self.offers
            .get(number)
            .is_some_and(|offer| offer.grant.framework == *id)
    }

    /// Takes the offers off the books and adds them up, if all are good.
    fn pool_offers(&mut self, id: &FrameworkId, ids: &[mesos::OfferId]) -> Result<Pool, String> {
        let mut numbers = Vec::with_capacity(ids.len());
        let mut first: Option<(&AgentId, &Role)> = None;
        for offer_id in ids {
            let name = truncated(&offer_id.value);
            let number = self.offers.number(&offer_id.value);
            let offer = number
                .and_then(|number| self.offers.get(number))
                .filter(|offer| offer.grant.framework == *id);
            let (Some(number), Some(offer)) = (number, offer) else {
                return Err(format!(
                    "offer {name} is no longer outstanding; it may have been rescinded, so wait \
                     for the next offer"
                ));
            };
            if numbers.contains(&number) {
                return Err(format!("offer {name} is named twice; name it once"));
            }
            let (agent, role) = (&offer.agent, &offer.grant.role);
            let (first_agent, first_role) = *first.get_or_insert((agent, role));
            if first_agent != agent {
                return Err(format!(
                    "offer {name} is of agent {agent} but another one of agent {first_agent}; \
                     accept offers of one agent at a time"
                ));
            }
            if first_role != role {
                return Err(format!(
                    "offer {name} is for role {role} but another one for role {first_role}; \
                     accept offers of one role at a time"
                ));
            }
            numbers.push(number);
        }
        let Some((agent, role)) = first else {
            return Err("no offer is named; name at least one".to_owned());
        };
        let (agent, role) = (agent.clone(), role.clone());
        let mut rest = Resources::EMPTY;
        for number in numbers {
            if let Some(offer) = self.take_offer(number) {
                rest.add(&offer.grant.resources);
            }
        }
        Ok(Pool { agent, role, rest })
    }

    /// A framework that is not partition aware was told that its unreachable task is lost, so
    /// the id is its to use again; the old run is killed when its agent is back.
    fn give_up_lost(&mut self, id: &FrameworkId, task: &mesos::TaskId) {
        let Some(framework) = self.frameworks.get(id) else {
            return;
        };
        if framework.capabilities.partition_aware {
            return;
        }
        let Ok(task_id) = TaskId::try_from(task) else {
            return;
        };
        let task = framework.tasks.get(&task_id);
        if task.is_some_and(|task| task.state == TaskState::TaskUnreachable) {
            self.forget_task(id, &task_id);
        }
    }

    fn launch(
        &mut self,
        id: &FrameworkId,
        mut pool: Pool,
        n_offers: usize,
        tasks: impl Iterator<Item = mesos::TaskInfo>,
        refuse: Duration,
    ) {
        let now = self.out.now;
        let mut launched = Vec::new();
        let mut used = Resources::EMPTY;
        for mut info in tasks {
            self.give_up_lost(id, &info.task_id);
            let (Some(framework), Some(agent)) = (
                self.frameworks.get_mut(id),
                self.agents.get_mut(&pool.agent),
            ) else {
                break;
            };
            match validate(framework, &pool, &info) {
                Ok((task_id, resources)) => {
                    pool.rest.subtract(&resources);
                    used.add(&resources);
                    agent.allocated.add(&resources);
                    agent.tasks.insert((id.clone(), task_id.clone()));
                    let held = framework.held.entry(pool.role.clone()).or_default();
                    held.allocated.add(&resources);
                    // The agent hands the role back when it registers with this task.
                    for resource in &mut info.resources {
                        resource.allocation_info = Some(mesos::resource::AllocationInfo {
                            role: Some(pool.role.as_str().to_owned()),
                        });
                    }
                    self.out.counters.tasks_launched += 1;
                    self.out.publish(
                        "task-staging",
                        About {
                            agent: Some(&pool.agent),
                            framework: Some(id),
                            task: Some(&task_id),
                        },
                        format!(
                            "task {task_id} of {} goes to {} with {resources}",
                            framework.info.name, agent.hostname
                        ),
                    );
                    let task = Task {
                        name: info.name.clone(),
                        agent: pool.agent.clone(),
                        grant: Grant {
                            framework: id.clone(),
                            role: pool.role.clone(),
                            resources,
                        },
                        state: TaskState::TaskStaging,
                        holds: true,
                        since: now,
                        launched_at: now,
                        status: None,
                        unacknowledged: false,
                        kill: None,
                    };
                    framework.tasks.insert(task_id, task);
                    launched.push(info);
                }
                Err(fault) => {
                    self.out.counters.tasks_error += 1;
                    let about = TaskId::try_from(&info.task_id).ok();
                    self.out.publish(
                        "task-error",
                        About {
                            agent: Some(&pool.agent),
                            framework: Some(id),
                            task: about.as_ref(),
                        },
                        format!(
                            "task {} of {} was refused: {fault}",
                            truncated(&info.task_id.value),
                            framework.info.name
                        ),
                    );
                    let status = master_status(
                        now,
                        info.task_id,
                        Some(&pool.agent),
                        TaskState::TaskError,
                        Reason::TaskInvalid,
                        fault.to_string(),
                    );
                    framework.tell(&mut self.out, status);
                }
            }
        }
        let n_launched = launched.len();
        if n_launched > 0
            && let Some(framework) = self.frameworks.get(id)
            && let Some(session) = self.agents.get(&pool.agent).and_then(|a| a.session())
        {
            let launch = allot::Launch {
                framework: framework.info.clone(),
                tasks: launched,
            };
            self.out.send_agent(session, Message::Launch(launch));
        }
        let fate = Fate::Accepted {
            n_tasks: n_launched,
        };
        self.note_offers(id, &pool.agent, fate, n_offers, &used);
        let rest = Grant {
            framework: id.clone(),
            role: pool.role,
            resources: pool.rest,
        };
        let left_over = Recovery::Declined {
            refuse_for: refuse,
            used_some: n_launched > 0,
        };
        self.recover(&pool.agent, &rest, left_over);
    }
}

fn unsupported_operation(operations: &[mesos::offer::Operation]) -> Option<String> {
    operations.iter().find_map(|operation| {
        let kind = operation.r#type();
        match kind {
            operation::Type::Launch if operation.launch.is_some() => None,
            operation::Type::Launch => Some("a LAUNCH operation has no `launch`".to_owned()),
            operation::Type::Unknown => Some(format!(
                "operation type {} is unknown; only LAUNCH is supported",
                operation.r#type.unwrap_or(0)
            )),
            operation::Type::LaunchGroup
            | operation::Type::Reserve
            | operation::Type::Unreserve
            | operation::Type::Create
            | operation::Type::Destroy
            | operation::Type::GrowVolume
            | operation::Type::ShrinkVolume
            | operation::Type::CreateDisk
            | operation::Type::DestroyDisk => Some(format!(
                "not supported yet: operation {}; only LAUNCH is, and the offers still stand",
                kind.as_str_name()
            )),
        }
    })
}

/// The id and resources of a task that may be launched.
fn validate(
    framework: &Framework,
    pool: &Pool,
    info: &mesos::TaskInfo,
) -> Result<(TaskId, Resources), TaskFault> {
    let id = TaskId::try_from(&info.task_id)?;
    if let Some(task) = framework.tasks.get(&id) {
        return Err(if task.is_terminal() {
            TaskFault::Unacknowledged(id)
        } else {
            TaskFault::Live(id)
        });
    }
    if framework.tasks.len() >= TASKS_MAX {
        return Err(TaskFault::TooMany);
    }
    if info.name.len() > NAME_MAX {
        return Err(TaskFault::Name(info.name.len()));
    }
    if info.agent_id.value != pool.agent.as_str() {
        return Err(TaskFault::Agent {
            named: truncated(&info.agent_id.value),
            offered: pool.agent.clone(),
        });
    }
    if info.executor.is_some() {
        return Err(TaskFault::Unsupported(
            "custom executors; give the task a `command` and no `executor`",
        ));
    }
    if let Some(container) = &info.container {
        let image = container.mesos.as_ref().is_some_and(|m| m.image.is_some());
        if container.r#type() == mesos::container_info::Type::Docker
            || container.docker.is_some()
            || image
        {
            return Err(TaskFault::Unsupported(
                "container images; run a program of the agent's file system",
            ));
        }
    }
    let value = info.command.as_ref().and_then(|c| c.value.as_deref());
    if value.is_none_or(str::is_empty) {
        return Err(TaskFault::NoCommand);
    }
    let resources = convert::resources_from_wire(&info.resources)?;
    if resources.is_empty() {
        return Err(TaskFault::NoResources);
    }
    let named = info
        .resources
        .iter()
        .filter_map(|r| r.allocation_info.as_ref()?.role.as_deref())
        .find(|role| *role != pool.role.as_str());
    if let Some(named) = named {
        return Err(TaskFault::Role {
            named: truncated(named),
            offered: pool.role.clone(),
        });
    }
    let lacking = pool.rest.shortfalls(&resources);
    if !lacking.is_empty() {
        let lacking: Vec<String> = lacking.iter().map(Shortfall::to_string).collect();
        return Err(TaskFault::TooBig(lacking.join(", ")));
    }
    Ok((id, resources))
}

/// A text from outside as it may appear in a sentence: bounded, control characters escaped.
pub(super) fn truncated(text: &str) -> String {
    shortened(text, 100)
}

/// At most `max` characters, control characters escaped.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max * 4));
    for (i, c) in text.chars().enumerate() {
        if i >= max {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}
