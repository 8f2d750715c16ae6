//! What a subscribed framework says, and the calls that are short.

use allotment_proto::allot::master_message::Message;
use allotment_proto::scheduler::call::{self, Type};
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, Role, TaskId};
use std::collections::BTreeSet;

use super::Core;
use super::accept::truncated;
use super::framework::own_roles;
use super::inverse::Said;
use super::io::{ConnId, Refusal};
use super::task::KillWish;

impl Core {
    pub(super) fn on_framework_call(&mut self, conn: ConnId, mut call: scheduler::Call) {
        self.out.counters.calls += 1;
        let kind = call.r#type();
        let id = match self.framework_conns.get(&conn) {
            // Closed a moment ago; this was still on its way.
            None => return,
            Some(None) => {
                if kind == Type::Subscribe {
                    self.on_subscribe(conn, call);
                } else {
                    let message = format!(
                        "the first call was {}; a stream begins with SUBSCRIBE",
                        kind.as_str_name()
                    );
                    self.framework_conns.remove(&conn);
                    self.out.fail_framework(conn, message);
                }
                return;
            }
            Some(Some(id)) => id.clone(),
        };
        let foreign = call.framework_id.take().filter(|f| f.value != id.as_str());
        let outcome = if let Some(foreign) = foreign {
            Err(format!(
                "the call names framework {} but this stream is framework {id}'s",
                truncated(&foreign.value)
            ))
        } else {
            self.dispatch(conn, &id, kind, call)
        };
        if let Err(message) = outcome {
            self.out.reject_call(conn, kind, message);
        }
    }

    fn dispatch(
        &mut self,
        conn: ConnId,
        id: &FrameworkId,
        kind: Type,
        call: scheduler::Call,
    ) -> Result<(), String> {
        let missing = || format!("the {} call has no body", kind.as_str_name());
        match kind {
            Type::Subscribe => Err(format!(
                "this stream is framework {id}'s already; subscribe on a new one"
            )),
            Type::Teardown => {
                self.remove_framework(id, "it was torn down by its own call");
                Ok(())
            }
            Type::Accept => {
                self.on_accept(conn, id, call.accept.ok_or_else(missing)?);
                Ok(())
            }
            Type::Decline => {
                self.on_decline(id, &call.decline.ok_or_else(missing)?);
                Ok(())
            }
            // pymesos sends REVIVE and SUPPRESS without a body.
            Type::Revive => self.on_revive(id, &call.revive.unwrap_or_default().roles),
            Type::Suppress => self.on_suppress(id, &call.suppress.unwrap_or_default().roles),
            Type::Kill => self.on_kill(id, *call.kill.ok_or_else(missing)?),
            Type::Acknowledge => self.on_acknowledge(id, call.acknowledge.ok_or_else(missing)?),
            Type::Reconcile => {
                self.on_reconcile(id, &call.reconcile.ok_or_else(missing)?);
                Ok(())
            }
            Type::Request => self.on_request_call(id, &call.request.unwrap_or_default().requests),
            Type::UpdateFramework => {
                self.on_update_framework(id, *call.update_framework.ok_or_else(missing)?)
            }
            Type::Message => self.on_message_call(id, *call.message.ok_or_else(missing)?),
            Type::Shutdown => self.on_shutdown_call(id, &*call.shutdown.ok_or_else(missing)?),
            Type::AcceptInverseOffers => {
                let accept = call.accept_inverse_offers.ok_or_else(missing)?;
                let (offers, filters) = (&accept.inverse_offer_ids, accept.filters.as_ref());
                self.on_inverse_answer(id, offers, filters, Said::Accepted);
                Ok(())
            }
            Type::DeclineInverseOffers => {
                let decline = call.decline_inverse_offers.ok_or_else(missing)?;
                let (offers, filters) = (&decline.inverse_offer_ids, decline.filters.as_ref());
                self.on_inverse_answer(id, offers, filters, Said::Declined);
                Ok(())
            }
            // Operations are done or refused at once, and their statuses carry no uuid.
            Type::AcknowledgeOperationStatus => {
                Err("no status of an operation awaits an acknowledgement".to_owned())
            }
            Type::ReconcileOperations => Err(
                "not supported yet: reconciling operations; those that were done show in the \
                 resources of offers"
                    .to_owned(),
            ),
            Type::Unknown => Err("the call's type is unknown to this master".to_owned()),
        }
    }

    /// REQUEST. As in Mesos nothing comes of it, unless it states a demand.
    fn on_request_call(
        &mut self,
        id: &FrameworkId,
        requests: &[mesos::Request],
    ) -> Result<(), String> {
        let framework = self.frameworks.get(id);
        let framework = framework.ok_or_else(|| format!("framework {id} is gone"))?;
        let mut demands = Vec::new();
        for request in requests {
            if let Some(demand) = &request.demand {
                if request.agent_id.is_some() {
                    return Err(
                        "a demand names an agent; leave agent_id out, and name hosts in offer \
                         constraints"
                            .to_owned(),
                    );
                }
                let demand = super::wants::demand(&framework.roles, request, demand);
                demands.push(demand.map_err(|e| e.to_string())?);
            }
        }
        for (role, demand) in demands {
            self.allocator.set_demand(id, &role, demand);
            self.offers.want_round();
        }
        Ok(())
    }

    fn on_revive(&mut self, id: &FrameworkId, names: &[String]) -> Result<(), String> {
        let (framework, roles) = self.own_roles(id, names)?;
        if roles.is_empty() {
            framework.suppressed.clear();
        }
        framework.suppressed.retain(|role| !roles.contains(role));
        self.allocator.revive(id, &roles);
        self.offers.want_round();
        Ok(())
    }

    fn on_suppress(&mut self, id: &FrameworkId, names: &[String]) -> Result<(), String> {
        let (framework, roles) = self.own_roles(id, names)?;
        if roles.is_empty() {
            framework.suppressed = framework.roles.clone();
        } else {
            framework.suppressed.extend(roles.iter().cloned());
        }
        self.allocator.suppress(id, &roles);
        Ok(())
    }

    fn own_roles(
        &mut self,
        id: &FrameworkId,
        names: &[String],
    ) -> Result<(&mut super::Framework, BTreeSet<Role>), String> {
        let framework = self
            .frameworks
            .get_mut(id)
            .ok_or_else(|| format!("framework {id} is gone"))?;
        let roles = own_roles(&framework.roles, names).map_err(|e| e.to_string())?;
        Ok((framework, roles))
    }

    fn on_kill(&mut self, id: &FrameworkId, kill: call::Kill) -> Result<(), String> {
        let task_id = TaskId::try_from(&kill.task_id).map_err(|e| e.to_string())?;
        let named = kill.agent_id.as_ref().map(AgentId::try_from).transpose();
        let named = named.map_err(|e| e.to_string())?;
        let task = self.frameworks.get(id).and_then(|f| f.tasks.get(&task_id));
        let Some(task) = task else {
            self.reconcile_one(id, kill.task_id, named.as_ref());
            return Ok(());
        };
        if let Some(named) = named
            && named != task.agent
        {
            return Err(format!(
                "task {task_id} is on agent {}, not on agent {named}; leave agent_id out or name \
                 that one",
                task.agent
            ));
        }
        if task.is_terminal() {
            self.reconcile_one(id, kill.task_id, None);
            return Ok(());
        }
        let wished = task.kill.is_some();
        let wish = KillWish {
            policy: kill.kill_policy,
        };
        if !self.kill_task(id, &task_id, wish) && !wished {
            // Nobody can be told now: say how things stand; the wish is kept for the agent. Said
            // once: whoever kills what it hears is running would ask for ever.
            self.reconcile_one(id, kill.task_id, None);
        }
        Ok(())
    }

    /// Asks the task's agent to kill it, now or when it is back; whether it was told now.
    pub(super) fn kill_task(&mut self, id: &FrameworkId, task_id: &TaskId, wish: KillWish) -> bool {
        let Some(task) = self
            .frameworks
            .get_mut(id)
            .and_then(|f| f.tasks.get_mut(task_id))
        else {
            return false;
        };
        let policy = wish.policy;
        task.kill = Some(wish);
        let Some(session) = self.agents.get(&task.agent).and_then(|a| a.session()) else {
            return false;
        };
        let kill = allot::Kill {
            framework_id: id.into(),
            task_id: task_id.into(),
            kill_policy: policy,
        };
        self.out.send_agent(session, Message::Kill(kill));
        true
    }

    fn on_acknowledge(&mut self, id: &FrameworkId, ack: call::Acknowledge) -> Result<(), String> {
        let task_id = TaskId::try_from(&ack.task_id).map_err(|e| e.to_string())?;
        let agent_id = AgentId::try_from(&ack.agent_id).map_err(|e| e.to_string())?;
        if ack.uuid.len() != 16 {
            return Err(format!(
                "the uuid has {} bytes; send the 16 bytes of the update",
                ack.uuid.len()
            ));
        }
        // Without a session the acknowledgement is dropped, as in Mesos: the agent repeats the
        // update when it is back, and the framework acknowledges again.
        let Some(session) = self.agents.get(&agent_id).and_then(|a| a.session()) else {
            return Ok(());
        };
        self.out.counters.acknowledgements += 1;
        self.out.send_agent(
            session,
            Message::Acknowledge(allot::Acknowledge {
                framework_id: id.into(),
                task_id: (&task_id).into(),
                uuid: ack.uuid.clone(),
            }),
        );
        let Some(framework) = self.frameworks.get_mut(id) else {
            return Ok(());
        };
        let Some(task) = framework.tasks.get_mut(&task_id) else {
            return Ok(());
        };
        let awaited = task.status.as_ref().and_then(|s| s.uuid.as_ref());
        if task.agent == agent_id && awaited == Some(&ack.uuid) {
            task.unacknowledged = false;
            let told = task.status.as_ref().map(|s| s.state());
            if told.is_some_and(allotment_proto::convert::is_terminal) {
                self.forget_task(id, &task_id);
            }
        }
        Ok(())
    }

    pub(super) fn operator_kill(
        &mut self,
        request: &allot::KillTaskRequest,
    ) -> Result<(), Refusal> {
        let nothing = || {
            Refusal::NotFound(format!(
                "no live task {} is known; `allot task list` shows those that are",
                truncated(&request.task_id)
            ))
        };
        let task_id = TaskId::parse(&request.task_id).map_err(|_| nothing())?;
        let wanted = |id: &FrameworkId| {
            request
                .framework_id
                .as_deref()
                .is_none_or(|wanted| wanted == id.as_str())
        };
        let owners: Vec<FrameworkId> = self
            .frameworks
            .values()
            .filter(|f| wanted(&f.id))
            .filter(|f| f.tasks.get(&task_id).is_some_and(|t| !t.is_terminal()))
            .map(|f| f.id.clone())
            .collect();
        match owners.as_slice() {
            [] => Err(nothing()),
            [owner] => {
                self.kill_task(owner, &task_id, KillWish::default());
                Ok(())
            }
            [first, second, ..] => Err(Refusal::Invalid(format!(
                "{} frameworks have a live task {task_id}, for example {first} and {second}; name \
                 the framework",
                owners.len()
            ))),
        }
    }
}
