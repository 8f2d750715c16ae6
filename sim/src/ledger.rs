//! The cluster's books, kept a second time from nothing but what the master hears and says.
//!
//! The master has its own sums and the allocator a third set. Here every offer and launch that
//! passes the master's door is written down, and all three must agree after every step.

use std::collections::BTreeMap;

use allotment_allocator::Allocator;
use allotment_master::core::Input;
use allotment_proto::allot::{agent_message, master_message};
use allotment_proto::{allot, convert, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, Resources, TaskId};

use crate::host::Key;

#[derive(Debug)]
struct Offered {
    framework: FrameworkId,
    resources: Resources,
}

#[derive(Debug, Default)]
struct Account {
    total: Resources,
    offers: BTreeMap<String, Offered>,
    tasks: BTreeMap<Key, Resources>,
}

/// Offers and tasks per agent, as seen at the master's door.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<AgentId, Account>,
    agents: BTreeMap<u64, AgentId>,
    frameworks: BTreeMap<u64, FrameworkId>,
    /// Registrations that the master has not answered yet.
    registering: BTreeMap<u64, allot::Register>,
}

impl Ledger {
    /// The master takes in a fact.
    pub(crate) fn on_input(&mut self, input: &Input) {
        match input {
            Input::FrameworkCall { conn, call } => self.on_call(conn.0, call),
            Input::AgentMessage { conn, message } => self.on_message(conn.0, message),
            Input::FrameworkClosed { conn } => self.on_framework_gone(conn.0),
            Input::AgentClosed { conn } => self.on_agent_gone(conn.0),
            Input::Tick
            | Input::FrameworkOpened { .. }
            | Input::AgentOpened { .. }
            | Input::Request { .. } => {}
        }
    }

    /// The master hears a framework.
    fn on_call(&mut self, stream: u64, call: &scheduler::Call) {
        let Some(framework) = self.frameworks.get(&stream).cloned() else {
            return;
        };
        let named = call.accept.as_ref().map(|a| &a.offer_ids);
        let named = named.or_else(|| call.decline.as_ref().map(|d| &d.offer_ids));
        for id in named.into_iter().flatten() {
            self.take_offers(|name, offer| *name == id.value && offer.framework == framework);
        }
    }

    /// The master hears an agent.
    fn on_message(&mut self, stream: u64, message: &allot::AgentMessage) {
        match &message.message {
            Some(agent_message::Message::Register(register)) => {
                self.registering.insert(stream, register.clone());
            }
            Some(agent_message::Message::Update(update)) => {
                if convert::is_terminal(update.latest_state())
                    && let Some(account) = self.account_of(stream)
                    && let Some(key) = key(&update.framework_id, &update.status.task_id)
                {
                    account.tasks.remove(&key);
                }
            }
            Some(agent_message::Message::Unregister(_)) => {
                if let Some(agent) = self.agents.remove(&stream) {
                    self.accounts.remove(&agent);
                }
            }
            Some(
                agent_message::Message::Pong(_)
                | agent_message::Message::ExecutorEnded(_)
                | agent_message::Message::ExecutorMessage(_),
            )
            | None => {}
        }
    }

    /// The master says something to a framework.
    ///
    /// # Errors
    /// When an offer exceeds what is left on its agent.
    pub(crate) fn on_event(&mut self, stream: u64, event: &scheduler::Event) -> Result<(), String> {
        if let Some(subscribed) = &event.subscribed
            && let Ok(id) = FrameworkId::try_from(&subscribed.framework_id)
        {
            self.frameworks.insert(stream, id);
        }
        if let Some(rescind) = &event.rescind {
            self.take_offers(|name, _| *name == rescind.offer_id.value);
        }
        for offer in event.offers.iter().flat_map(|o| &o.offers) {
            self.on_offer(stream, offer)?;
        }
        Ok(())
    }

    fn on_offer(&mut self, stream: u64, offer: &mesos::Offer) -> Result<(), String> {
        let id = &offer.id.value;
        let to = self.frameworks.get(&stream).ok_or_else(|| {
            format!("offer {id} goes to a stream over which no framework is subscribed")
        })?;
        if offer.framework_id.value != to.as_str() {
            return Err(format!(
                "a framework sees only its own: offer {id} of framework {} went to {to}",
                offer.framework_id.value
            ));
        }
        let framework = to.clone();
        let agent = AgentId::try_from(&offer.agent_id).map_err(|e| e.to_string())?;
        let resources =
            convert::resources_from_wire(&offer.resources).map_err(|e| e.to_string())?;
        let account = self
            .accounts
            .get_mut(&agent)
            .ok_or_else(|| format!("offer {id} is of agent {agent}, which is not registered"))?;
        let left = account.left()?;
        if !left.contains(&resources) {
            return Err(format!(
                "offered + allocated + free = total: offer {id} holds {resources} of agent \
                 {agent}, but only {left} of {} is neither offered nor in use",
                account.total
            ));
        }
        let offered = Offered {
            framework,
            resources,
        };
        account.offers.insert(id.clone(), offered);
        Ok(())
    }

    /// The master says something to an agent.
    ///
    /// # Errors
    /// When it makes other amounts of what the agent has.
    pub(crate) fn on_order(
        &mut self,
        stream: u64,
        message: &allot::MasterMessage,
    ) -> Result<(), String> {
        match &message.message {
            Some(master_message::Message::Registered(registered)) => {
                if let Some(register) = self.registering.remove(&stream)
                    && let Ok(id) = AgentId::try_from(&registered.agent_id)
                {
                    self.admit(stream, id, &register);
                }
            }
            Some(master_message::Message::Launch(launch)) => {
                let Some(Ok(framework)) = launch.framework.id.as_ref().map(FrameworkId::try_from)
                else {
                    return Ok(());
                };
                let Some(account) = self.account_of(stream) else {
                    return Ok(());
                };
                for task in &launch.tasks {
                    if let Ok(id) = TaskId::try_from(&task.task_id) {
                        let resources = convert::resources_from_wire(&task.resources);
                        let key = (framework.clone(), id);
                        account.tasks.insert(key, resources.unwrap_or_default());
                    }
                }
            }
            Some(master_message::Message::ApplyResources(apply)) => {
                let total = convert::resources_from_wire(&apply.total);
                let total = total.map_err(|e| e.to_string())?;
                if let Some(account) = self.account_of(stream) {
                    if total.declared() != account.total.declared() {
                        return Err(format!(
                            "reservations change no amounts: an agent with {} is told that it \
                             has {total}",
                            account.total
                        ));
                    }
                    account.total = total;
                }
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn admit(&mut self, stream: u64, id: AgentId, register: &allot::Register) {
        self.agents.retain(|_, agent| *agent != id);
        self.agents.insert(stream, id.clone());
        let account = self.accounts.entry(id).or_default();
        account.offers.clear();
        account.total = convert::resources_from_wire(&register.agent.resources).unwrap_or_default();
        account.tasks = register
            .tasks
            .iter()
            .filter(|record| !convert::is_terminal(record.state()))
            .filter_map(|record| {
                let resources = convert::resources_from_wire(&record.task.resources);
                let key = key(&record.framework_id, &record.task.task_id)?;
                Some((key, resources.unwrap_or_default()))
            })
            .collect();
    }

    /// A framework's stream is over: its offers are void.
    pub(crate) fn on_framework_gone(&mut self, stream: u64) {
        if let Some(framework) = self.frameworks.remove(&stream)
            && !self.frameworks.values().any(|f| *f == framework)
        {
            self.take_offers(|_, offer| offer.framework == framework);
        }
    }

    /// An agent's stream is over: its offers are void, its tasks stay.
    pub(crate) fn on_agent_gone(&mut self, stream: u64) {
        self.registering.remove(&stream);
        if let Some(agent) = self.agents.remove(&stream)
            && let Some(account) = self.accounts.get_mut(&agent)
        {
            account.offers.clear();
        }
    }

    /// The allocator's books must be these books: per agent, what is free there and what is held
    /// there make up the total, and what is held is what was offered and launched.
    ///
    /// # Errors
    /// With both sides in numbers.
    pub(crate) fn compare(&self, allocator: &dyn Allocator) -> Result<(), String> {
        for (agent, account) in &self.accounts {
            let free = allocator.free(agent);
            let mut held = Resources::EMPTY;
            for grant in allocator.held(agent) {
                held.add(&grant.resources.unshared());
            }
            if free.is_empty() && held.is_empty() {
                // Given up as unreachable: the allocator does not know it.
                continue;
            }
            if free.plus(&held) != account.total {
                return Err(format!(
                    "free + held = total: on agent {agent} {free} is free and {held} is held of \
                     {}",
                    account.total
                ));
            }
            let left = account.left()?;
            if left != free {
                return Err(format!(
                    "offered + allocated + free = total: on agent {agent} the allocator has \
                     {free} free, but what was offered and launched there leaves {left} of {}",
                    account.total
                ));
            }
        }
        Ok(())
    }

    /// Tasks that should be alive on an agent.
    pub(crate) fn tasks(&self, agent: &AgentId) -> Vec<Key> {
        let account = self.accounts.get(agent);
        account
            .map(|a| a.tasks.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn account_of(&mut self, stream: u64) -> Option<&mut Account> {
        self.accounts.get_mut(self.agents.get(&stream)?)
    }

    fn take_offers(&mut self, gone: impl Fn(&String, &Offered) -> bool) {
        for account in self.accounts.values_mut() {
            account.offers.retain(|name, offer| !gone(name, offer));
        }
    }
}

impl Account {
    /// What is neither offered nor in use.
    fn left(&self) -> Result<Resources, String> {
        let mut left = self.total.clone();
        let offered = self.offers.values().map(|o| &o.resources);
        for resources in offered.chain(self.tasks.values()) {
            if !left.contains(resources) {
                return Err(format!(
                    "nothing is given out twice: offers and tasks hold {resources} where only \
                     {left} of {} is left",
                    self.total
                ));
            }
            // Everybody may hold a copy of a shared volume.
            left.subtract(&resources.unshared());
        }
        Ok(left)
    }
}

fn key(framework: &mesos::FrameworkId, task: &mesos::TaskId) -> Option<Key> {
    Some((
        FrameworkId::try_from(framework).ok()?,
        TaskId::try_from(task).ok()?,
    ))
}
