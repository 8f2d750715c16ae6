//! Between the typed [`crate::api`] and Mesos' wire messages.
//!
//! Everything a master sends is checked here once; what is malformed becomes a sentence. What a
//! refused event means for the session is left to [`crate::session`].

pub(crate) mod executors;
pub(crate) mod wants;

use std::fmt::Write as _;

use allotment_proto::mesos::task_status::Source;
use allotment_proto::{convert, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, OfferId, Role, TaskId};

use crate::api::{Call, Command, Offer, Task, Update, Uri};

/// The length of an update's uuid, as Mesos demands of acknowledgements.
const UUID_LEN: usize = 16;

/// Writes a call for the wire. `None` for a call that is no message by itself.
pub(crate) fn call(framework: &FrameworkId, call: &Call) -> scheduler::Call {
    use scheduler::call::Type;
    let mut wire = scheduler::Call {
        framework_id: Some(framework.into()),
        ..Default::default()
    };
    let kind = match call {
        Call::Accept {
            agent,
            offers,
            tasks,
            refuse_for,
        } => {
            let launch = mesos::offer::Operation {
                r#type: Some(mesos::offer::operation::Type::Launch.into()),
                launch: Some(mesos::offer::operation::Launch {
                    task_infos: tasks.iter().map(|t| task(agent, t)).collect(),
                }),
                ..Default::default()
            };
            wire.accept = Some(scheduler::call::Accept {
                offer_ids: offers.iter().map(Into::into).collect(),
                operations: if tasks.is_empty() {
                    Vec::new()
                } else {
                    vec![launch]
                },
                filters: filters(*refuse_for),
            });
            Type::Accept
        }
        Call::Operate {
            agent,
            offers,
            operations,
            refuse_for,
        } => {
            let operations = operations.iter().map(|o| wants::operation(agent, o));
            wire.accept = Some(scheduler::call::Accept {
                offer_ids: offers.iter().map(Into::into).collect(),
                operations: operations.collect(),
                filters: filters(*refuse_for),
            });
            Type::Accept
        }
        Call::Demand { role, demand } => {
            wire.request = Some(Box::new(scheduler::call::Request {
                requests: vec![wants::request(role, demand.as_ref())],
            }));
            Type::Request
        }
        // The session adds who the framework is.
        Call::Update { wants, .. } => {
            wire.update_framework = Some(Box::new(scheduler::call::UpdateFramework {
                offer_constraints: wants::constraints(wants),
                ..Default::default()
            }));
            Type::UpdateFramework
        }
        Call::AcceptInverse { offers, refuse_for } => {
            wire.accept_inverse_offers = Some(Box::new(scheduler::call::AcceptInverseOffers {
                inverse_offer_ids: offers.iter().map(Into::into).collect(),
                filters: filters(*refuse_for),
            }));
            Type::AcceptInverseOffers
        }
        Call::DeclineInverse { offers, refuse_for } => {
            wire.decline_inverse_offers = Some(Box::new(scheduler::call::DeclineInverseOffers {
                inverse_offer_ids: offers.iter().map(Into::into).collect(),
                filters: filters(*refuse_for),
            }));
            Type::DeclineInverseOffers
        }
        Call::Decline { offers, refuse_for } => {
            wire.decline = Some(scheduler::call::Decline {
                offer_ids: offers.iter().map(Into::into).collect(),
                filters: filters(*refuse_for),
            });
            Type::Decline
        }
        Call::Revive => {
            wire.revive = Some(scheduler::call::Revive::default());
            Type::Revive
        }
        Call::Suppress => {
            wire.suppress = Some(scheduler::call::Suppress::default());
            Type::Suppress
        }
        Call::Kill { task, agent, grace } => {
            wire.kill = Some(Box::new(scheduler::call::Kill {
                task_id: task.into(),
                agent_id: agent.as_ref().map(Into::into),
                kill_policy: grace.map(kill_policy),
            }));
            Type::Kill
        }
        Call::Message {
            agent,
            executor,
            data,
        } => {
            wire.message = Some(Box::new(scheduler::call::Message {
                agent_id: agent.into(),
                executor_id: executor.into(),
                data: data.clone(),
            }));
            Type::Message
        }
        Call::ShutdownExecutor { agent, executor } => {
            wire.shutdown = Some(Box::new(scheduler::call::Shutdown {
                agent_id: agent.into(),
                executor_id: executor.into(),
            }));
            Type::Shutdown
        }
        Call::Acknowledge { agent, task, uuid } => {
            wire.acknowledge = Some(scheduler::call::Acknowledge {
                agent_id: agent.into(),
                task_id: task.into(),
                uuid: uuid.clone(),
            });
            Type::Acknowledge
        }
        Call::Reconcile(tasks) => {
            let tasks = tasks
                .iter()
                .map(|(task, agent)| scheduler::call::reconcile::Task {
                    task_id: task.into(),
                    agent_id: agent.as_ref().map(Into::into),
                });
            wire.reconcile = Some(scheduler::call::Reconcile {
                tasks: tasks.collect(),
            });
            Type::Reconcile
        }
        Call::Teardown => Type::Teardown,
    };
    wire.set_type(kind);
    wire
}

/// How a call is named on the wire and to people.
pub(crate) fn call_name(call: &Call) -> &'static str {
    match call {
        Call::Accept { .. } | Call::Operate { .. } => "ACCEPT",
        Call::Demand { .. } => "REQUEST",
        Call::Update { .. } => "UPDATE_FRAMEWORK",
        Call::AcceptInverse { .. } => "ACCEPT_INVERSE_OFFERS",
        Call::DeclineInverse { .. } => "DECLINE_INVERSE_OFFERS",
        Call::Decline { .. } => "DECLINE",
        Call::Revive => "REVIVE",
        Call::Suppress => "SUPPRESS",
        Call::Kill { .. } => "KILL",
        Call::Message { .. } => "MESSAGE",
        Call::ShutdownExecutor { .. } => "SHUTDOWN",
        Call::Acknowledge { .. } => "ACKNOWLEDGE",
        Call::Reconcile(_) => "RECONCILE",
        Call::Teardown => "TEARDOWN",
    }
}

fn filters(refuse_for: Option<std::time::Duration>) -> Option<mesos::Filters> {
    refuse_for.map(|time| mesos::Filters {
        refuse_seconds: Some(time.as_secs_f64()),
    })
}

fn kill_policy(grace: std::time::Duration) -> mesos::KillPolicy {
    mesos::KillPolicy {
        grace_period: Some(mesos::DurationInfo {
            nanoseconds: i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX),
        }),
    }
}

/// Writes a task that is to run on `agent` for the wire.
pub(crate) fn task(agent: &AgentId, task: &Task) -> mesos::TaskInfo {
    let (executor, data) = match &task.command {
        Command::InExecutor { executor, data } => {
            (Some(executors::executor(executor)), Some(data.clone()))
        }
        Command::Shell(_) | Command::Exec { .. } => (None, None),
    };
    mesos::TaskInfo {
        name: task.name.clone(),
        task_id: (&task.id).into(),
        agent_id: agent.into(),
        resources: convert::resources_to_wire(&task.resources, None),
        command: executors::command(&task.command, &task.env, &task.uris, task.user.as_ref()),
        executor: executor.map(Box::new),
        data,
        container: executors::container(task).map(Box::new),
        health_check: task.health_check.clone().map(Box::new),
        kill_policy: task.kill_grace.map(kill_policy),
        labels: (!task.labels.is_empty()).then(|| mesos::Labels {
            labels: task
                .labels
                .iter()
                .map(|(key, value)| mesos::Label {
                    key: key.clone(),
                    value: Some(value.clone()),
                })
                .collect(),
        }),
        discovery: task.discovery.clone().map(Box::new),
        ..Default::default()
    }
}

pub(super) fn uri(uri: &Uri) -> mesos::command_info::Uri {
    mesos::command_info::Uri {
        value: uri.value.clone(),
        executable: Some(uri.executable),
        // Said always: the wire's default is to unpack.
        extract: Some(uri.extract),
        cache: Some(uri.cache),
        output_file: uri.output_file.clone(),
    }
}

/// Reads an offer made to `framework` in one of `roles`.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(crate) fn offer(
    framework: &FrameworkId,
    roles: &[Role],
    wire: &mut mesos::Offer,
) -> Result<Offer, String> {
    let id = OfferId::try_from(&wire.id).map_err(|e| e.to_string())?;
    let refuse = |problem: String| format!("offer {id}: {problem}");
    if wire.framework_id.value != framework.as_str() {
        return Err(refuse(format!(
            "it is made to framework {:?}, but this is {framework}",
            wire.framework_id.value
        )));
    }
    let agent = AgentId::try_from(&wire.agent_id).map_err(|e| refuse(e.to_string()))?;
    let role = wire
        .allocation_info
        .as_ref()
        .and_then(|info| info.role.as_deref())
        .ok_or_else(|| refuse("it names no role".to_owned()))?;
    let role = roles
        .iter()
        .find(|ours| ours.as_str() == role)
        .ok_or_else(|| refuse(format!("it is made in role {role:?}, which is not ours")))?;
    let resources =
        convert::resources_from_wire(&wire.resources).map_err(|e| refuse(e.to_string()))?;
    let attributes = wire.attributes.iter().map(|attribute| {
        convert::attribute_from_wire(attribute)
            .map_err(|fault| format!("attribute {:?} {fault}", attribute.name))
    });
    let attributes: Result<Vec<_>, String> = attributes.collect();
    Ok(Offer {
        agent,
        hostname: std::mem::take(&mut wire.hostname),
        agent_url: agent_url(wire).ok_or_else(|| refuse("its agent has no address".to_owned()))?,
        role: role.clone(),
        resources,
        attributes: attributes.map_err(refuse)?,
        domain: wire.domain.as_ref().and_then(convert::domain_from_wire),
        unavailability: wire.unavailability.as_ref().map(wants::unavailability),
        id,
    })
}

fn agent_url(wire: &mesos::Offer) -> Option<String> {
    let url = wire.url.as_ref()?;
    let address = &url.address;
    let host = address.hostname.as_deref().or(address.ip.as_deref())?;
    let port = u16::try_from(address.port).ok()?;
    let scheme = &url.scheme;
    // In one piece: an event may bring thousands.
    let mut text = String::with_capacity(scheme.len() + host.len() + "://[]:65535".len());
    let written = if host.contains(':') && !host.starts_with('[') {
        write!(text, "{scheme}://[{host}]:{port}")
    } else {
        write!(text, "{scheme}://{host}:{port}")
    };
    written.ok().map(|()| text)
}

/// Reads a status update.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(crate) fn update(wire: mesos::TaskStatus) -> Result<Update, String> {
    let task = TaskId::try_from(&wire.task_id).map_err(|e| format!("status update: {e}"))?;
    let refuse = |problem: String| format!("status update of task {task}: {problem}");
    let state = mesos::TaskState::try_from(wire.state)
        .map_err(|_| refuse(format!("state {} is not one of Mesos' states", wire.state)))?;
    let agent = match &wire.agent_id {
        Some(agent) => Some(AgentId::try_from(agent).map_err(|e| refuse(e.to_string()))?),
        None => None,
    };
    if let Some(uuid) = &wire.uuid {
        if uuid.len() != UUID_LEN {
            return Err(refuse(format!(
                "its uuid has {} bytes instead of {UUID_LEN}",
                uuid.len()
            )));
        }
        if agent.is_none() {
            return Err(refuse(
                "it wants an acknowledgement but names no agent".to_owned(),
            ));
        }
    }
    Ok(Update {
        state,
        agent,
        reason: wire
            .reason
            .and_then(|reason| mesos::task_status::Reason::try_from(reason).ok()),
        source: wire
            .source
            .and_then(|source| Source::try_from(source).ok())
            .unwrap_or(Source::Master),
        message: wire.message,
        exit: wire.exit,
        sandbox: wire.sandbox,
        healthy: wire.healthy,
        timestamp: wire.timestamp.filter(|t| t.is_finite()).unwrap_or_default(),
        uuid: wire.uuid,
        task,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn framework() -> FrameworkId {
        FrameworkId::parse("m-0000").unwrap()
    }

    #[test]
    fn an_exec_command_carries_its_own_name_as_the_first_argument() {
        let command = Command::Exec {
            program: "echo".to_owned(),
            arguments: vec!["a".to_owned()],
        };
        let agent = AgentId::parse("A1").unwrap();
        let wire = task(
            &agent,
            &Task::new(
                TaskId::parse("t").unwrap(),
                "cpus:1".parse().unwrap(),
                command,
            ),
        );
        let command = wire.command.unwrap();
        assert_eq!(command.arguments, ["echo", "a"]);
        assert_eq!(command.shell, Some(false));
    }

    #[test]
    fn accepting_nothing_is_a_decline_with_its_filter() {
        let call = call(
            &framework(),
            &Call::Accept {
                agent: AgentId::parse("A1").unwrap(),
                offers: vec![OfferId::parse("O1").unwrap()],
                tasks: Vec::new(),
                refuse_for: Some(Duration::from_millis(1500)),
            },
        );
        let accept = call.accept.unwrap();
        assert!(accept.operations.is_empty());
        assert_eq!(accept.filters.unwrap().refuse_seconds, Some(1.5));
    }

    #[test]
    fn an_update_that_cannot_be_acknowledged_is_refused() {
        let mut wire = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: "t".to_owned(),
            },
            state: mesos::TaskState::TaskRunning.into(),
            uuid: Some(vec![0; 3].into()),
            ..Default::default()
        };
        assert!(update(wire.clone()).unwrap_err().contains("3 bytes"));
        wire.uuid = Some(vec![0; 16].into());
        assert!(update(wire.clone()).unwrap_err().contains("names no agent"));
        wire.state = 99;
        assert!(update(wire).unwrap_err().contains("state 99"));
    }
}
