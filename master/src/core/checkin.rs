//! What an agent says when it registers, each part checked on its own.

use std::collections::BTreeMap;

use allotment_allocator::Grant;
use allotment_proto::mesos::TaskState;
use allotment_proto::{allot, convert, mesos};
use allotment_types::{AgentId, ExecutorId, FrameworkId, Resources, Role, TaskId};

use super::accept::truncated;
use super::agent::{attribute_fault, parse_url};
use super::executors::{Executor, ExecutorKey};
use super::updates::is_agents_state;

/// The most attributes of one agent.
const ATTRIBUTES_MAX: usize = 1000;

/// A task that an agent reports.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) name: String,
    pub(super) executor: Option<ExecutorId>,
    pub(super) role: Option<Role>,
    pub(super) resources: Resources,
    pub(super) state: TaskState,
}

/// A registration whose every part was checked on its own.
#[derive(Debug)]
pub(super) struct Checkin {
    pub(super) id: Option<AgentId>,
    pub(super) info: mesos::AgentInfo,
    pub(super) url: String,
    pub(super) wire_url: mesos::Url,
    pub(super) version: String,
    pub(super) total: Resources,
    pub(super) tasks: BTreeMap<(FrameworkId, TaskId), Reported>,
    pub(super) executors: BTreeMap<ExecutorKey, Executor>,
    pub(super) frameworks: BTreeMap<FrameworkId, mesos::FrameworkInfo>,
    pub(super) attempt: Option<allot::Attempt>,
}

impl Checkin {
    pub(super) fn new(register: allot::Register) -> Result<Self, String> {
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
        let mut free = total.clone();
        let executors = checked_executors(register.executors, (&total, &mut free), &frameworks)?;
        let tasks = checked_tasks(register.tasks, (&total, free), &frameworks)?;
        Ok(Self {
            id,
            info,
            url: register.url,
            wire_url,
            version: register.version,
            total,
            tasks,
            executors,
            frameworks,
            attempt: register.attempt,
        })
    }
}

fn checked_tasks(
    records: Vec<allot::TaskRecord>,
    (total, mut free): (&Resources, Resources),
    frameworks: &BTreeMap<FrameworkId, mesos::FrameworkInfo>,
) -> Result<BTreeMap<(FrameworkId, TaskId), Reported>, String> {
    let mut tasks = BTreeMap::new();
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
            .map_err(|e| format!("the agent reports task {task} with bad resources: {e}"))?
            .naming_volumes_of(total);
        if !convert::is_terminal(state) {
            if !free.contains(&resources) {
                return Err(format!(
                    "the agent reports tasks that do not fit into it: task {task} holds \
                     {resources}, but beside the others only {free} of {total} is left"
                ));
            }
            // Shared volumes stay for the others.
            free.subtract(&resources.unshared());
        }
        let role = role_of(&record.task.resources)?;
        let executor = record.task.executor.as_ref().map(|e| &e.executor_id);
        let executor = executor.map(ExecutorId::try_from).transpose();
        let reported = Reported {
            name: record.task.name,
            executor: executor.map_err(|e| e.to_string())?,
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

/// The role that resources are allocated to.
fn role_of(resources: &[mesos::Resource]) -> Result<Option<Role>, String> {
    resources
        .iter()
        .find_map(|r| r.allocation_info.as_ref()?.role.as_deref())
        .map(Role::parse)
        .transpose()
        .map_err(|e| e.to_string())
}

fn checked_executors(
    records: Vec<allot::ExecutorRecord>,
    (total, free): (&Resources, &mut Resources),
    frameworks: &BTreeMap<FrameworkId, mesos::FrameworkInfo>,
) -> Result<BTreeMap<ExecutorKey, Executor>, String> {
    let mut executors = BTreeMap::new();
    for record in records {
        let info = record.executor;
        let framework = FrameworkId::try_from(&record.framework_id).map_err(|e| e.to_string())?;
        let id = ExecutorId::try_from(&info.executor_id).map_err(|e| e.to_string())?;
        if !frameworks.contains_key(&framework) {
            return Err(format!(
                "the agent reports executor {id} of framework {framework} without that framework"
            ));
        }
        let resources = convert::resources_from_wire(&info.resources)
            .map_err(|e| format!("the agent reports executor {id} with bad resources: {e}"))?
            .naming_volumes_of(total);
        if !free.contains(&resources) {
            return Err(format!(
                "the agent reports executors that do not fit into it: executor {id} holds \
                 {resources}, but beside the others only {free} of {total} is left"
            ));
        }
        free.subtract(&resources.unshared());
        let grant = Grant {
            framework: framework.clone(),
            role: role_of(&info.resources)?.unwrap_or_else(Role::star),
            resources,
        };
        let executor = Executor { info, grant };
        if executors
            .insert((framework, id.clone()), executor)
            .is_some()
        {
            return Err(format!("the agent reports executor {id} twice"));
        }
    }
    Ok(executors)
}
