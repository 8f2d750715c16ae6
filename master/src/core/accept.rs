//! ACCEPT and DECLINE: what becomes of offers.
//!
//! The operations of an ACCEPT are done one after the other on what its offers add up to: tasks
//! are `launch`'s, changes of resources `operations`'.

use std::time::Duration;

use allotment_allocator::{Grant, Recovery};
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::offer::{Operation, operation};
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{OperationState, TaskState};
use allotment_proto::{allot, convert, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, Resources, Role};

use super::Core;
use super::io::ConnId;
use super::offer_news::Fate;
use super::operations::{self, Asker, Conversion, OperationFault};
use super::out::{About, event_of};
use super::task::master_status;

/// How long an unused offer is withheld when the framework does not say (Mesos: 5 s). Without
/// it, the same framework, still lowest in dominant share, would get it back on every round.
const REFUSE_DEFAULT: Duration = Duration::from_secs(5);
/// The longest a filter lasts (Mesos: 365 days).
const REFUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the accepted offers add up to, and what is left of it.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) agent: AgentId,
    pub(super) role: Role,
    pub(super) rest: Resources,
    /// The shared volumes among it, of which any number of tasks may have a copy.
    pub(super) shared: Resources,
    n_offers: usize,
    /// How many tasks were launched, and what they use.
    pub(super) n_launched: usize,
    pub(super) used: Resources,
    /// Something was changed.
    converted: bool,
    /// The agent has not heard of what its resources have become.
    unsaid: bool,
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
        let mut pool = match self.pool_offers(id, &accept.offer_ids) {
            Ok(pool) => pool,
            Err(message) => return self.drop_operations(id, accept, &message),
        };
        for (at, operation) in accept.operations.into_iter().enumerate() {
            if operation.r#type() == operation::Type::Launch {
                self.tell_resources(&mut pool);
                let tasks = operation.launch.unwrap_or_default().task_infos;
                self.launch(id, &mut pool, tasks);
            } else if operation.r#type() == operation::Type::LaunchGroup
                && let Some(group) = &operation.launch_group
            {
                self.tell_resources(&mut pool);
                if let Err(fault) = self.launch_group(id, &mut pool, group.clone()) {
                    let role = pool.role.clone();
                    self.report_operation(conn, (id, &role), at, &operation, Err(fault));
                }
            } else {
                let outcome = self.operate(id, &mut pool, &operation);
                let role = pool.role.clone();
                self.report_operation(conn, (id, &role), at, &operation, outcome);
            }
        }
        self.tell_resources(&mut pool);
        let left_over = Recovery::Declined {
            refuse_for: refuse_for(accept.filters.as_ref()),
            used_some: pool.converted || pool.n_launched > 0,
        };
        let fate = Fate::Accepted {
            n_tasks: pool.n_launched,
        };
        self.note_offers(id, &pool.agent, fate, pool.n_offers, &pool.used);
        let rest = Grant {
            framework: id.clone(),
            role: pool.role,
            resources: pool.rest,
        };
        self.recover(&pool.agent, &rest, left_over);
    }

    /// The offers cannot be used. As in Mesos, those of the list that do exist are gone too.
    fn drop_operations(
        &mut self,
        id: &FrameworkId,
        accept: scheduler::call::Accept,
        message: &str,
    ) {
        for offer in &accept.offer_ids {
            let number = self.offers.number(&offer.value);
            if let Some(number) = number.filter(|n| self.owns_offer(id, *n)) {
                self.withdraw_offer(number);
            }
        }
        for operation in accept.operations {
            let Some(framework) = self.frameworks.get(id) else {
                return;
            };
            let group = operation.launch_group.map(|group| group.task_group.tasks);
            let tasks = operation.launch.unwrap_or_default().task_infos;
            for task in tasks.into_iter().chain(group.unwrap_or_default()) {
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
            if let Some(operation_id) = operation.id {
                let status = mesos::OperationStatus {
                    operation_id: Some(operation_id),
                    state: OperationState::OperationDropped.into(),
                    message: Some(format!("the operation was not done: {message}")),
                    ..Default::default()
                };
                self.tell_operation(id, status);
            }
        }
    }

    /// Changes resources of the pool; what they became.
    fn operate(
        &mut self,
        id: &FrameworkId,
        pool: &mut Pool,
        operation: &Operation,
    ) -> Result<Resources, OperationFault> {
        let gone = || OperationFault::Allocator("the agent or framework is gone".to_owned());
        let framework = self.frameworks.get(id).ok_or_else(gone)?;
        let agent = self.agents.get(&pool.agent).ok_or_else(gone)?;
        let asker = Asker {
            role: Some(&pool.role),
            principal: framework.info.principal.as_deref(),
            refinement: framework.capabilities.offers.reservation_refinement,
            shared: framework.capabilities.offers.shared,
        };
        let change = operations::conversion(operation, asker, &agent.total)?;
        let lacking = pool.rest.shortfalls(&change.from);
        if !lacking.is_empty() {
            return Err(OperationFault::lacking(&lacking));
        }
        if !change.from.shared().is_empty() {
            self.claim_shared(id, pool, &change.from)?;
        }
        let holder = Some((id, &pool.role));
        self.allocator
            .convert(&pool.agent, holder, &change.from, &change.to)
            .map_err(|error| OperationFault::Allocator(error.to_string()))?;
        let Conversion { from, to } = change;
        pool.rest.subtract(&from);
        pool.rest.add(&to);
        pool.shared.subtract(&from.shared());
        pool.shared.add(&to.shared());
        pool.converted = true;
        pool.unsaid = true;
        self.convert_agent(&pool.agent, &from, &to, Some(id));
        Ok(to)
    }

    /// Before a shared volume is destroyed: nobody else may have a copy, and this framework has
    /// one alone.
    fn claim_shared(
        &mut self,
        id: &FrameworkId,
        pool: &mut Pool,
        from: &Resources,
    ) -> Result<(), OperationFault> {
        let doomed = from.shared();
        let touches = |held: &Resources| {
            held.iter()
                .any(|(name, lot, _)| doomed.get(name, lot).is_some())
        };
        let Some(agent) = self.agents.get(&pool.agent) else {
            return Ok(());
        };
        if touches(&agent.allocated) {
            let volume = doomed.volumes().next();
            let name = volume.map_or_else(String::new, |(_, volume)| volume.id.clone());
            return Err(OperationFault::InUse(name));
        }
        for number in agent.offers.clone() {
            let offer = self.offers.get(number);
            if offer.is_some_and(|offer| touches(&offer.grant.resources)) {
                self.rescind_offer(number);
            }
        }
        // Several offers may have brought a copy each.
        let copies = pool
            .rest
            .filter(|name, lot| doomed.get(name, lot).is_some());
        let spare = Grant {
            framework: id.clone(),
            role: pool.role.clone(),
            resources: copies.minus(&doomed),
        };
        pool.rest.subtract(&spare.resources);
        self.recover(&pool.agent, &spare, Recovery::Rescinded);
        Ok(())
    }

    /// Writes into the books and the registry that resources of an agent became others.
    pub(super) fn convert_agent(
        &mut self,
        id: &AgentId,
        from: &Resources,
        to: &Resources,
        by: Option<&FrameworkId>,
    ) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        agent.convert(from, to);
        self.out.persist(agent.record());
        let message = format!("{from} of agent {} became {to}", agent.hostname);
        let about = About {
            agent: Some(id),
            framework: by,
            task: None,
        };
        self.out.publish("resources-converted", about, message);
    }

    fn tell_resources(&mut self, pool: &mut Pool) {
        if std::mem::take(&mut pool.unsaid) {
            self.apply_resources(&pool.agent);
        }
    }

    /// Tells the agent what its resources are now.
    pub(super) fn apply_resources(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        if let Some(session) = agent.session() {
            let total = convert::resources_to_wire(&agent.total, None);
            let apply = allot::ApplyResources { total };
            self.out.send_agent(session, Message::ApplyResources(apply));
        }
    }

    /// Says how an operation ended: under its id when it has one; else only when it was refused,
    /// where Mesos is silent.
    fn report_operation(
        &mut self,
        conn: ConnId,
        (id, role): (&FrameworkId, &Role),
        at: usize,
        operation: &Operation,
        outcome: Result<Resources, OperationFault>,
    ) {
        let kind = operation.r#type().as_str_name();
        let (state, message, converted) = match outcome {
            Ok(converted) => (OperationState::OperationFinished, None, converted),
            Err(fault) => {
                let message = format!(
                    "operation {} of the ACCEPT, {kind}, was not done: {fault}",
                    at + 1
                );
                let none = Resources::EMPTY;
                (OperationState::OperationError, Some(message), none)
            }
        };
        match (&operation.id, message) {
            (Some(operation_id), message) => {
                let framework = self.frameworks.get(id);
                let status = mesos::OperationStatus {
                    operation_id: Some(operation_id.clone()),
                    state: state.into(),
                    message,
                    converted_resources: framework
                        .map(|framework| framework.write(&converted, role))
                        .unwrap_or_default(),
                    ..Default::default()
                };
                self.tell_operation(id, status);
            }
            (None, Some(message)) => {
                let call = scheduler::call::Type::Accept;
                self.out.reject_call(conn, call, message);
            }
            (None, None) => {}
        }
    }

    fn tell_operation(&mut self, id: &FrameworkId, status: mesos::OperationStatus) {
        if let Some(conn) = self.frameworks.get(id).and_then(|f| f.conn()) {
            let mut event = event_of(scheduler::event::Type::UpdateOperationStatus);
            event.update_operation_status =
                Some(Box::new(scheduler::event::UpdateOperationStatus { status }));
            self.out.send_framework(conn, event);
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
        Ok(Pool {
            agent,
            role,
            shared: rest.shared(),
            rest,
            n_offers: ids.len(),
            n_launched: 0,
            used: Resources::EMPTY,
            converted: false,
            unsaid: false,
        })
    }
}

/// Why the whole call is refused; its offers still stand then.
fn unsupported_operation(operations: &[Operation]) -> Option<String> {
    operations.iter().find_map(|operation| {
        let kind = operation.r#type();
        match kind {
            operation::Type::Launch if operation.launch.is_none() => {
                Some("a LAUNCH operation has no `launch`".to_owned())
            }
            operation::Type::LaunchGroup if operation.launch_group.is_none() => {
                Some("a LAUNCH_GROUP operation has no `launch_group`".to_owned())
            }
            operation::Type::Launch
            | operation::Type::LaunchGroup
            | operation::Type::Reserve
            | operation::Type::Unreserve
            | operation::Type::Create
            | operation::Type::Destroy => None,
            operation::Type::Unknown => Some(format!(
                "operation type {} is unknown; LAUNCH, LAUNCH_GROUP, RESERVE, UNRESERVE, CREATE and \
                 DESTROY are supported",
                operation.r#type.unwrap_or(0)
            )),
            operation::Type::GrowVolume
            | operation::Type::ShrinkVolume
            | operation::Type::CreateDisk
            | operation::Type::DestroyDisk => Some(format!(
                "not supported yet: operation {}; LAUNCH, LAUNCH_GROUP, RESERVE, UNRESERVE, CREATE \
                 and DESTROY are, and the offers still stand",
                kind.as_str_name()
            )),
        }
    })
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
