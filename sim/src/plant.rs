//! Faults planted in the system under test, to see that the checks find them.
//!
//! The cores stay as they are; what surrounds them does something wrong, as a careless edge, an
//! allocation module or a disk might. A plant is set by tests alone.

use std::collections::BTreeMap;

use allotment_master::core::registry::Record;
use allotment_master::core::{ConnId, Effect, Input};
use allotment_proto::allot::{MasterMessage, agent_message, master_message};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::{allot, convert, mesos, scheduler};

/// One planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Plant {
    /// An honest system.
    #[default]
    None,
    /// The module gives out what a framework gave back twice.
    FreedTwice,
    /// The module does not hear of limits.
    LimitIgnored,
    /// The module loses what a framework gives back.
    FreedNever,
    /// The module offers the same resources two times in one round.
    OfferedTwice,
    /// The module offers agents that are not connected.
    InactiveAgentOffered,
    /// The module forgets that a framework wants offers again.
    ReviveForgotten,
    /// The master takes an offer back and does not say so.
    RescindForgotten,
    /// The master acknowledges some terminal updates itself instead of passing them on.
    UpdateSwallowed,
    /// Some acknowledgements never reach their agent.
    AcknowledgementLost,
    /// Kills of some tasks never reach their agent.
    KillLost,
    /// Some launches never reach their agent.
    LaunchLost,
    /// Some launches reach a second agent.
    LaunchDoubled,
    /// Some offers go to another framework.
    OfferToStranger,
    /// The master tells what it decided before the write is durable.
    ToldBeforeWritten,
    /// What frameworks keep in the store is acknowledged and not written.
    StoreWriteLost,
    /// The admission of agents is not written.
    AgentWriteLost,
    /// The registration of frameworks is not written.
    FrameworkWriteLost,
    /// A master's disk acknowledges a write before it has it.
    AcknowledgedUnwritten,
    /// A master acts whether its lease is valid or not.
    LeaseIgnored,
    /// A master that was stopped believes that its lease did not go on meanwhile.
    LeaseFrozen,
    /// A master votes for everybody who asks.
    VoteGrantedTwice,
    /// Snapshots lack an agent.
    SnapshotIncomplete,
    /// A master whose disk is lost begins with an empty one under its old number.
    DiskEmptied,
    /// The master does not answer reconciliation.
    ReconciliationUnanswered,
    /// The master does not notice that a framework is gone.
    FrameworkLossUnnoticed,
    /// The master's timers stop, the failover timer among them.
    TimersForgotten,
    /// The master does not look which SUBSCRIBE of a framework's process came last.
    LateSubscribeHeard,
    /// A master that is asked to let another lead begins a new reign in the same term.
    LedTwice,
    /// Frameworks do not hear that their tasks became unreachable.
    AgentLossUntold,
    /// Agents do not hear that a framework is gone for good.
    ShutdownForgotten,
    /// An agent starts some tasks twice.
    StartedTwice,
    /// An old update of a task comes again after its last one.
    OldUpdateAgain,
    /// An agent that returns keeps one of its tasks to itself.
    TaskHidden,
    /// An agent does not report how some tasks ended.
    EndUnreported,
    /// An agent that is upgraded begins without what the older version wrote down.
    UpgradeForgets,
    /// The services framework acts on what it has not written yet.
    ServicesActEarly,
    /// The batch framework does not write that a job runs.
    BatchForgetsJobs,
    /// The batch framework acts on what it has not written yet.
    BatchActsEarly,
    /// The batch framework does not keep its id.
    IdForgotten,
}

impl Plant {
    /// Every plant, the honest system left out.
    pub const ALL: [Self; 39] = [
        Self::FreedTwice,
        Self::FreedNever,
        Self::LimitIgnored,
        Self::OfferedTwice,
        Self::InactiveAgentOffered,
        Self::ReviveForgotten,
        Self::RescindForgotten,
        Self::UpdateSwallowed,
        Self::AcknowledgementLost,
        Self::KillLost,
        Self::LaunchLost,
        Self::LaunchDoubled,
        Self::OfferToStranger,
        Self::ToldBeforeWritten,
        Self::StoreWriteLost,
        Self::AgentWriteLost,
        Self::FrameworkWriteLost,
        Self::AcknowledgedUnwritten,
        Self::LeaseIgnored,
        Self::LeaseFrozen,
        Self::VoteGrantedTwice,
        Self::SnapshotIncomplete,
        Self::DiskEmptied,
        Self::ReconciliationUnanswered,
        Self::FrameworkLossUnnoticed,
        Self::TimersForgotten,
        Self::LateSubscribeHeard,
        Self::LedTwice,
        Self::AgentLossUntold,
        Self::ShutdownForgotten,
        Self::StartedTwice,
        Self::OldUpdateAgain,
        Self::TaskHidden,
        Self::EndUnreported,
        Self::UpgradeForgets,
        Self::ServicesActEarly,
        Self::BatchForgetsJobs,
        Self::BatchActsEarly,
        Self::IdForgotten,
    ];
}

/// Whether this one, of those named, is among the unlucky: one of `n`, always the same.
fn unlucky(name: &[u8], n: u8) -> bool {
    let sum = name
        .iter()
        .fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    sum.is_multiple_of(n)
}

/// Does the wrong at the master's door.
#[derive(Debug, Default)]
pub(crate) struct Saboteur {
    plant: Plant,
    /// The first update of each task, for [`Plant::OldUpdateAgain`].
    first: BTreeMap<String, Box<scheduler::Event>>,
}

/// The kind of a Raft message that answers a request for a vote.
const VOTE: u32 = 6;

impl Saboteur {
    pub(crate) fn new(plant: Plant) -> Self {
        Self {
            plant,
            first: BTreeMap::new(),
        }
    }

    /// What becomes of an effect. `stranger` is another connection of the same kind.
    pub(crate) fn effects(
        &mut self,
        effect: Effect,
        stranger: impl Fn(ConnId) -> Option<ConnId>,
    ) -> Vec<Effect> {
        match effect {
            Effect::ToFramework { conn, event } => self.event_to_framework(conn, event, stranger),
            Effect::ToAgent { conn, message } => self.order_to_agent(conn, message, stranger),
            other => vec![other],
        }
    }

    fn event_to_framework(
        &mut self,
        conn: ConnId,
        event: Box<scheduler::Event>,
        stranger: impl Fn(ConnId) -> Option<ConnId>,
    ) -> Vec<Effect> {
        let status = event.update.as_ref().map(|update| &update.status);
        let lost = match self.plant {
            Plant::RescindForgotten => event.rescind.is_some(),
            Plant::ReconciliationUnanswered => status.is_some_and(|status| {
                status.uuid.is_none() && status.reason() == Reason::Reconciliation
            }),
            Plant::AgentLossUntold => status.is_some_and(|status| {
                matches!(
                    status.state(),
                    TaskState::TaskUnreachable | TaskState::TaskLost
                )
            }),
            _ => false,
        };
        if lost {
            return Vec::new();
        }
        if self.plant == Plant::OfferToStranger
            && let Some(offers) = &event.offers
            && let Some(offer) = offers.offers.first()
            && unlucky(offer.id.value.as_bytes(), 8)
            && let Some(conn) = stranger(conn)
        {
            return vec![Effect::ToFramework { conn, event }];
        }
        if self.plant == Plant::OldUpdateAgain
            && let Some(status) = status.filter(|status| status.uuid.is_some())
        {
            let first = self.first.entry(status.task_id.value.clone());
            let first = first.or_insert_with(|| event.clone()).clone();
            if convert::is_terminal(status.state()) {
                return vec![
                    Effect::ToFramework { conn, event },
                    Effect::ToFramework { conn, event: first },
                ];
            }
        }
        vec![Effect::ToFramework { conn, event }]
    }

    fn order_to_agent(
        &self,
        conn: ConnId,
        message: MasterMessage,
        stranger: impl Fn(ConnId) -> Option<ConnId>,
    ) -> Vec<Effect> {
        use master_message::Message as M;
        let lost = match (self.plant, &message.message) {
            (Plant::AcknowledgementLost, Some(M::Acknowledge(ack))) => unlucky(&ack.uuid, 8),
            (Plant::KillLost, Some(M::Kill(kill))) => unlucky(kill.task_id.value.as_bytes(), 2),
            (Plant::LaunchLost, Some(M::Launch(launch))) => has_unlucky_task(launch),
            (Plant::ShutdownForgotten, Some(M::ShutdownFramework(_))) => true,
            _ => false,
        };
        if lost {
            return Vec::new();
        }
        if self.plant == Plant::LaunchDoubled
            && let Some(M::Launch(launch)) = &message.message
            && has_unlucky_task(launch)
            && let Some(second) = stranger(conn)
        {
            return vec![
                Effect::ToAgent {
                    conn,
                    message: message.clone(),
                },
                Effect::ToAgent {
                    conn: second,
                    message,
                },
            ];
        }
        vec![Effect::ToAgent { conn, message }]
    }

    /// The acknowledgement that the master makes up instead of passing an update on.
    pub(crate) fn swallows(&self, input: &Input) -> Option<Effect> {
        let Input::AgentMessage { conn, message } = input else {
            return None;
        };
        let Some(agent_message::Message::Update(update)) = &message.message else {
            return None;
        };
        let status = &update.status;
        let uuid = status.uuid.clone()?;
        let chosen = self.plant == Plant::UpdateSwallowed
            && convert::is_terminal(status.state())
            && unlucky(status.task_id.value.as_bytes(), 8);
        chosen.then(|| Effect::ToAgent {
            conn: *conn,
            message: MasterMessage {
                term: None,
                message: Some(master_message::Message::Acknowledge(allot::Acknowledge {
                    framework_id: update.framework_id.clone(),
                    task_id: status.task_id.clone(),
                    uuid,
                })),
            },
        })
    }

    /// Whether the master's edge keeps a fact to itself.
    pub(crate) fn ignores(&self, input: &Input) -> bool {
        match self.plant {
            Plant::FrameworkLossUnnoticed => matches!(input, Input::FrameworkClosed { .. }),
            _ => false,
        }
    }

    /// What a framework says, as the master takes it.
    pub(crate) fn hears(&self, call: &mut scheduler::Call) {
        if self.plant == Plant::LateSubscribeHeard
            && let Some(subscribe) = &mut call.subscribe
        {
            subscribe.attempt = None;
        }
    }

    /// Whether a record reaches the disk.
    pub(crate) fn writes(&self, record: &Record) -> bool {
        match self.plant {
            Plant::StoreWriteLost => !matches!(record, Record::Store(_)),
            Plant::AgentWriteLost => !matches!(record, Record::Agent(_)),
            Plant::FrameworkWriteLost => !matches!(record, Record::Framework(_)),
            _ => true,
        }
    }

    /// Whether an agent says this, which may lose something on its way.
    pub(crate) fn says(&self, message: &mut allot::AgentMessage) -> bool {
        match (self.plant, &mut message.message) {
            (Plant::TaskHidden, Some(agent_message::Message::Register(register))) => {
                register.tasks.pop();
                true
            }
            (Plant::EndUnreported, Some(agent_message::Message::Update(update))) => {
                let status: &mesos::TaskStatus = &update.status;
                !(convert::is_terminal(status.state())
                    && unlucky(status.task_id.value.as_bytes(), 8))
            }
            _ => true,
        }
    }

    /// What becomes of a message between masters.
    pub(crate) fn votes(&self, message: &mut allot::RaftMessage) {
        if self.plant == Plant::VoteGrantedTwice && message.kind == VOTE {
            message.reject = None;
        }
    }

    /// Whether an agent starts a task twice.
    pub(crate) fn starts_twice(&self, task: &str) -> bool {
        self.plant == Plant::StartedTwice && unlucky(task.as_bytes(), 8)
    }

    pub(crate) fn is(&self, plant: Plant) -> bool {
        self.plant == plant
    }
}

fn has_unlucky_task(launch: &allot::Launch) -> bool {
    let mut tasks = launch.tasks.iter();
    tasks.any(|task| unlucky(task.task_id.value.as_bytes(), 8))
}
