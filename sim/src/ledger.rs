//! The cluster's books, kept a second time from nothing but what the master hears and says.
//!
//! The master has its own sums and the allocator a third set. Here every offer and launch that
//! passes the master's door is written down, and all three must agree after every step.

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::Allocator;
use allotment_master::core::Input;
use allotment_proto::allot::{agent_message, master_message};
use allotment_proto::{allot, convert, mesos, scheduler};
use allotment_types::{AgentId, Fixed, FrameworkId, Resources, TaskId};

use crate::host::Key;

#[derive(Debug)]
struct Offered {
    framework: FrameworkId,
    role: String,
    resources: Resources,
}

#[derive(Debug)]
struct Used {
    role: String,
    resources: Resources,
}

#[derive(Debug, Default)]
struct Account {
    total: Resources,
    offers: BTreeMap<String, Offered>,
    tasks: BTreeMap<Key, Used>,
}

/// What of a fact that the master takes in matters here. Most facts are pings and ticks: a copy of
/// each would cost more than the books.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A framework accepts or declines.
    Answer { stream: u64, offers: Vec<String> },
    /// An agent says what it has.
    Register {
        stream: u64,
        register: Box<allot::Register>,
    },
    /// A task of an agent is over; which, if its ids are any.
    Ended { stream: u64, task: Option<Key> },
    /// An agent leaves for good.
    Unregister { stream: u64 },
    /// A framework's stream is over.
    FrameworkGone { stream: u64 },
    /// An agent's stream is over.
    AgentGone { stream: u64 },
}

impl Heard {
    /// `None` for what changes no account.
    pub(crate) fn of(input: &Input) -> Option<Self> {
        match input {
            Input::FrameworkCall { conn, call } => {
                let named = call.accept.as_ref().map(|a| &a.offer_ids);
                let named = named.or_else(|| call.decline.as_ref().map(|d| &d.offer_ids))?;
                Some(Self::Answer {
                    stream: conn.0,
                    offers: named.iter().map(|id| id.value.clone()).collect(),
                })
            }
            Input::AgentMessage { conn, message } => Self::of_message(conn.0, message),
            Input::FrameworkClosed { conn } => Some(Self::FrameworkGone { stream: conn.0 }),
            Input::AgentClosed { conn } => Some(Self::AgentGone { stream: conn.0 }),
            Input::Tick
            | Input::FrameworkOpened { .. }
            | Input::AgentOpened { .. }
            | Input::Request { .. } => None,
        }
    }

    fn of_message(stream: u64, message: &allot::AgentMessage) -> Option<Self> {
        match message.message.as_ref()? {
            agent_message::Message::Register(register) => Some(Self::Register {
                stream,
                register: Box::new(register.clone()),
            }),
            agent_message::Message::Update(update) => convert::is_terminal(update.latest_state())
                .then(|| Self::Ended {
                    stream,
                    task: key(&update.framework_id, &update.status.task_id),
                }),
            agent_message::Message::Unregister(_) => Some(Self::Unregister { stream }),
            agent_message::Message::Pong(_)
            | agent_message::Message::ExecutorEnded(_)
            | agent_message::Message::ExecutorMessage(_) => None,
        }
    }
}

/// Offers and tasks per agent, as seen at the master's door.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<AgentId, Account>,
    agents: BTreeMap<u64, AgentId>,
    frameworks: BTreeMap<u64, FrameworkId>,
    /// Registrations that the master has not answered yet.
    registering: BTreeMap<u64, allot::Register>,
    /// Agents whose accounts changed since they were compared.
    touched: BTreeSet<AgentId>,
    /// How many cores each role may have at most.
    pub(crate) limits: BTreeMap<String, u64>,
}

impl Ledger {
    /// Empty books for a cluster where roles are limited.
    pub(crate) fn new(limits: BTreeMap<String, u64>) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The master took in a fact.
    pub(crate) fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Answer { stream, offers } => {
                let Some(framework) = self.frameworks.get(&stream).cloned() else {
                    return;
                };
                for id in offers {
                    self.take_offers(|name, offer| *name == id && offer.framework == framework);
                }
            }
            Heard::Register { stream, register } => {
                self.registering.insert(stream, *register);
            }
            Heard::Ended { stream, task } => {
                if let Some(account) = self.account_of(stream)
                    && let Some(key) = task
                {
                    account.tasks.remove(&key);
                }
            }
            Heard::Unregister { stream } => {
                if let Some(agent) = self.agents.remove(&stream) {
                    self.accounts.remove(&agent);
                    self.touched.insert(agent);
                }
            }
            Heard::FrameworkGone { stream } => self.on_framework_gone(stream),
            Heard::AgentGone { stream } => self.on_agent_gone(stream),
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
        let role = role_of(&offer.resources);
        let has_cpus = resources.cpus() > Fixed::ZERO;
        let offered = Offered {
            framework,
            role: role.clone(),
            resources,
        };
        account.offers.insert(id.clone(), offered);
        self.touched.insert(agent);
        if has_cpus {
            self.check_limit(&role, id)
        } else {
            Ok(())
        }
    }

    /// No offer takes a role beyond its limit. More may be in use: it was before there was a
    /// limit, or came back with an agent. What is on agents that are away counts for nothing here,
    /// although it may for the master.
    fn check_limit(&self, role: &str, offer: &str) -> Result<(), String> {
        let Some(limit) = self.limits.get(role) else {
            return Ok(());
        };
        let here = self.agents.values().filter_map(|id| self.accounts.get(id));
        let mut sum = Resources::EMPTY;
        for account in here {
            let offers = account.offers.values().filter(|o| o.role == role);
            let tasks = account.tasks.values().filter(|t| t.role == role);
            let resources = offers.map(|o| &o.resources);
            for resources in resources.chain(tasks.map(|t| &t.resources)) {
                sum.add(resources);
            }
        }
        if sum.cpus() > Fixed::units(*limit) {
            return Err(format!(
                "no role exceeds its limit: with offer {offer} role {role} has {sum}, but may \
                 have {limit} cpus"
            ));
        }
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
                        let key = (framework.clone(), id);
                        account.tasks.insert(key, Used::of(task));
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
        self.touched.insert(id.clone());
        let account = self.accounts.entry(id).or_default();
        account.offers.clear();
        account.total = convert::resources_from_wire(&register.agent.resources).unwrap_or_default();
        account.tasks = register
            .tasks
            .iter()
            .filter(|record| !convert::is_terminal(record.state()))
            .filter_map(|record| {
                let key = key(&record.framework_id, &record.task.task_id)?;
                Some((key, Used::of(&record.task)))
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
            self.touched.insert(agent);
        }
    }

    /// The allocator's books must be these books: per agent, what is free there and what is held
    /// there make up the total, and what is held is what was offered and launched.
    ///
    /// # Errors
    /// With both sides in numbers.
    pub(crate) fn compare(&self, allocator: &dyn Allocator) -> Result<(), String> {
        let mut accounts = self.accounts.iter();
        accounts.try_for_each(|(agent, account)| account.compare(agent, allocator))
    }

    /// The same for these agents alone.
    ///
    /// # Errors
    /// With both sides in numbers.
    pub(crate) fn compare_some(
        &self,
        agents: &BTreeSet<AgentId>,
        allocator: &dyn Allocator,
    ) -> Result<(), String> {
        let mut accounts = agents
            .iter()
            .filter_map(|agent| Some((agent, self.accounts.get(agent)?)));
        accounts.try_for_each(|(agent, account)| account.compare(agent, allocator))
    }

    /// Agents whose accounts changed since this was asked.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<AgentId> {
        std::mem::take(&mut self.touched)
    }

    /// Tasks that should be alive on an agent.
    pub(crate) fn tasks(&self, agent: &AgentId) -> Vec<Key> {
        let account = self.accounts.get(agent);
        account
            .map(|a| a.tasks.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn account_of(&mut self, stream: u64) -> Option<&mut Account> {
        let agent = self.agents.get(&stream)?;
        if !self.touched.contains(agent) {
            self.touched.insert(agent.clone());
        }
        self.accounts.get_mut(agent)
    }

    fn take_offers(&mut self, gone: impl Fn(&String, &Offered) -> bool) {
        for (agent, account) in &mut self.accounts {
            let before = account.offers.len();
            account.offers.retain(|name, offer| !gone(name, offer));
            if account.offers.len() != before {
                self.touched.insert(agent.clone());
            }
        }
    }
}

impl Account {
    fn compare(&self, agent: &AgentId, allocator: &dyn Allocator) -> Result<(), String> {
        let free = allocator.free(agent);
        let mut held = Resources::EMPTY;
        for grant in allocator.held(agent) {
            held.add(&grant.resources.unshared());
        }
        if free.is_empty() && held.is_empty() {
            // Given up as unreachable: the allocator does not know it.
            return Ok(());
        }
        if free.plus(&held) != self.total {
            return Err(format!(
                "free + held = total: on agent {agent} {free} is free and {held} is held of {}",
                self.total
            ));
        }
        let left = self.left()?;
        if left != free {
            return Err(format!(
                "offered + allocated + free = total: on agent {agent} the allocator has {free} \
                 free, but what was offered and launched there leaves {left} of {}",
                self.total
            ));
        }
        Ok(())
    }

    /// What is neither offered nor in use.
    fn left(&self) -> Result<Resources, String> {
        let mut left = self.total.clone();
        let offered = self.offers.values().map(|o| &o.resources);
        for resources in offered.chain(self.tasks.values().map(|task| &task.resources)) {
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

impl Used {
    fn of(task: &mesos::TaskInfo) -> Self {
        Self {
            role: role_of(&task.resources),
            resources: convert::resources_from_wire(&task.resources).unwrap_or_default(),
        }
    }
}

/// For which role resources were handed out.
fn role_of(resources: &[mesos::Resource]) -> String {
    let mut roles = resources.iter().filter_map(|resource| {
        let info = resource.allocation_info.as_ref()?;
        info.role.clone()
    });
    roles.next().unwrap_or_default()
}

fn key(framework: &mesos::FrameworkId, task: &mesos::TaskId) -> Option<Key> {
    Some((
        FrameworkId::try_from(framework).ok()?,
        TaskId::try_from(task).ok()?,
    ))
}
