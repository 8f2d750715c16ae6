//! Operators of the cluster: what they order, again and again until a master has done it.

use std::time::Duration;

use allotment_master::core as master;
use allotment_proto::allot;
use allotment_proto::allot::set_agent_request::Activity;
use allotment_types::AgentId;

use super::{Checked, Happening, World};

/// How often an operator looks whether an order was carried out.
const PAUSE: Duration = Duration::from_millis(500);
/// How many looks later it is given again.
const PATIENCE: u32 = 8;

/// What an operator wants to be so; giving it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// The role of this framework has at most so many cores, or as many as it likes.
    Limit(usize, Option<u64>),
    /// The role of this framework counts so much.
    Weight(usize, u8),
    /// Nothing runs on this agent.
    Drain(AgentId),
    /// This agent is used again.
    Activate(AgentId),
}

/// An order that is taken back in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undo {
    /// The limit of this framework's role.
    Limit(usize),
    /// The oldest drain that stands.
    Drains,
}

impl World {
    /// An operator gives an order.
    pub(super) fn order(&mut self, order: Order) {
        if self.orders.is_empty() {
            self.queue.at(self.now() + PAUSE, Happening::Administer);
        }
        if let Order::Drain(agent) = &order {
            self.drained.push_back(agent.clone());
        }
        self.orders.push_back(order);
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Limit(framework) => self.order(Order::Limit(framework, None)),
            Undo::Drains => {
                if let Some(agent) = self.drained.pop_front() {
                    self.order(Order::Activate(agent));
                }
            }
        }
    }

    /// The first order is given, and given again when nobody answers.
    pub(super) fn administer(&mut self) -> Checked {
        let Some(order) = self.orders.front().cloned() else {
            return Ok(());
        };
        self.queue.at(self.now() + PAUSE, Happening::Administer);
        // A master that does not know a record stops: limits, weights and drains came later than
        // the older version, and operators are told to wait with what is new.
        if !self.masters_are_upgraded() {
            return Ok(());
        }
        if let Some((_, looks)) = &mut self.ordered {
            *looks += 1;
            if *looks < PATIENCE {
                return Ok(());
            }
        }
        let Some(request) = self.request_for(&order) else {
            self.orders.pop_front();
            return Ok(());
        };
        let Some(leader) = self.acting() else {
            return Ok(());
        };
        if let Order::Limit(framework, cpus) = order {
            // Until it is answered both the old and the new limit may hold.
            let name = self.role_name(framework);
            let old = self.limits.get(&name).copied();
            let lax = old.zip(cpus).map(|(old, new)| old.max(new));
            self.set_limit(name, lax);
        }
        let id = self.next_request();
        self.ordered = Some((id, 0));
        self.put(leader, master::Input::Request { id, request })
    }

    /// A master has carried the order out, or refused it.
    pub(super) fn on_ordered(&mut self, done: bool) {
        self.ordered = None;
        let order = self.orders.pop_front();
        let now = self.now();
        self.trace.note(now, || {
            let how = if done { "carried out" } else { "refused" };
            format!("order {how}: {order:?}")
        });
        if let Some(Order::Limit(framework, cpus)) = order
            && done
        {
            let name = self.role_name(framework);
            self.set_limit(name, cpus);
        }
    }

    fn set_limit(&mut self, role: String, cpus: Option<u64>) {
        match cpus {
            Some(cpus) => self.limits.insert(role, cpus),
            None => self.limits.remove(&role),
        };
        for node in &mut self.masters {
            if let Some(process) = &mut node.process {
                process.ledger.limits.clone_from(&self.limits);
            }
        }
    }

    fn role_name(&self, framework: usize) -> String {
        let node = self.frameworks.get(framework);
        let role = node.and_then(|node| node.config.roles.first());
        role.map(ToString::to_string).unwrap_or_default()
    }

    fn request_for(&self, order: &Order) -> Option<master::Request> {
        let activity = |agent: &AgentId, activity: Activity| {
            master::Request::SetAgent(allot::SetAgentRequest {
                agent: agent.to_string(),
                activity: activity.into(),
                grace_seconds: None,
            })
        };
        Some(match order {
            Order::Limit(framework, cpus) => {
                let limits = cpus.map(|cpus| allot::ScalarView {
                    name: "cpus".to_owned(),
                    value: f64::from(u32::try_from(cpus).unwrap_or(u32::MAX)),
                    ..Default::default()
                });
                master::Request::SetQuota(allot::SetQuotaRequest {
                    role: self.role_name(*framework),
                    guarantees: Vec::new(),
                    limits: limits.into_iter().collect(),
                    force: Some(true),
                })
            }
            Order::Weight(framework, weight) => {
                master::Request::SetWeight(allot::SetWeightRequest {
                    role: self.role_name(*framework),
                    weight: f64::from(*weight),
                })
            }
            Order::Drain(agent) => activity(agent, Activity::Drained),
            Order::Activate(agent) => activity(agent, Activity::Active),
        })
    }

    pub(super) fn operator_removes(&mut self, i: usize) -> Checked {
        let Some(id) = self.frameworks.get(i).and_then(|node| node.id.clone()) else {
            return Ok(());
        };
        if self.acting().is_none() {
            return Ok(());
        }
        // It is turned away for good, if it still is there to hear it.
        if let Some(node) = self.frameworks.get_mut(i) {
            node.removed = true;
        }
        self.operator(master::Request::RemoveFramework(
            allot::RemoveFrameworkRequest {
                framework_id: id.to_string(),
            },
        ))
    }

    pub(super) fn operator_kills(&mut self, pick: u32) -> Checked {
        let tasks = self.witness.running();
        let n = u32::try_from(tasks.len()).unwrap_or(u32::MAX).max(1);
        let Some((framework, task)) = tasks.into_iter().nth((pick % n) as usize) else {
            return Ok(());
        };
        self.operator(master::Request::KillTask(allot::KillTaskRequest {
            framework_id: Some(framework.to_string()),
            task_id: task.to_string(),
        }))
    }

    fn operator(&mut self, request: master::Request) -> Checked {
        let Some(leader) = self.acting() else {
            return Ok(());
        };
        let id = self.next_request();
        self.put(leader, master::Input::Request { id, request })
    }
}
