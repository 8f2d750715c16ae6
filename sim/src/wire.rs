//! What an older version of Allotment has to say, and understands.
//!
//! That version is the first one with replicated masters: `proto/` as it stood before executors
//! that tasks share, operations on resources, inverse offers and constraints. Fields that it does
//! not know it neither sends nor reads, as any protobuf decoder does; of a message that is nothing
//! but such a field nothing is left. What it *decides* is the present version's: cores of back
//! then cannot be had. So this shows that everything which was added since may be absent, on
//! either end and at any time, and no more.

use allotment_proto::allot::{AgentMessage, MasterMessage, agent_message, master_message};
use allotment_proto::scheduler::{Call, Event, call};

use crate::net::{Down, Up};

/// What an older version says, or hears, of this; `None`: nothing.
pub(crate) fn older_up(mut up: Up) -> Option<Up> {
    let known = match &mut up {
        Up::Opened | Up::Closed => true,
        Up::Call(call) => older_call(call),
        Up::Message(message) => older_report(message),
    };
    known.then_some(up)
}

/// What an older version says, or hears, of this; `None`: nothing.
pub(crate) fn older_down(mut down: Down) -> Option<Down> {
    let known = match &mut down {
        Down::Closed { .. } => true,
        Down::Event(event) => older_event(event),
        Down::Message(message) => older_order(message),
    };
    known.then_some(down)
}

fn older_call(call: &mut Call) -> bool {
    use call::Type as T;
    let newer = matches!(
        call.r#type(),
        T::AcceptInverseOffers
            | T::DeclineInverseOffers
            | T::Shutdown
            | T::Message
            | T::UpdateFramework
            | T::AcknowledgeOperationStatus
            | T::ReconcileOperations
    );
    if let Some(subscribe) = &mut call.subscribe {
        subscribe.offer_constraints = None;
        subscribe.attempt = None;
        subscribe.framework_info.offer_filters.clear();
    }
    for request in call.request.iter_mut().flat_map(|r| &mut r.requests) {
        request.demand = None;
    }
    !newer
}

fn older_event(event: &mut Event) -> bool {
    for offer in event.offers.iter_mut().flat_map(|o| &mut o.offers) {
        offer.unavailability = None;
    }
    event.inverse_offers.is_none()
        && event.rescind_inverse_offer.is_none()
        && event.update_operation_status.is_none()
}

fn older_report(message: &mut AgentMessage) -> bool {
    use agent_message::Message as M;
    match &mut message.message {
        Some(M::ExecutorEnded(_) | M::ExecutorMessage(_)) => false,
        Some(M::Register(register)) => {
            register.executors.clear();
            register.attempt = None;
            true
        }
        Some(M::Update(_) | M::Pong(_) | M::Unregister(_)) | None => true,
    }
}

fn older_order(message: &mut MasterMessage) -> bool {
    use master_message::Message as M;
    match &mut message.message {
        Some(M::ApplyResources(_) | M::ExecutorMessage(_) | M::ShutdownExecutor(_)) => false,
        Some(M::Launch(launch)) => {
            launch.group_executor = None;
            launch.running_executors.clear();
            for task in &mut launch.tasks {
                task.limits.clear();
            }
            launch.framework.offer_filters.clear();
            true
        }
        Some(
            M::Registered(_)
            | M::Rejected(_)
            | M::Kill(_)
            | M::Acknowledge(_)
            | M::Ping(_)
            | M::ShutdownFramework(_),
        )
        | None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_proto::{allot, mesos, scheduler};

    #[test]
    fn an_older_version_hears_an_offer_without_what_came_since_and_no_inverse_offer() {
        let offer = mesos::Offer {
            unavailability: Some(mesos::Unavailability::default()),
            ..Default::default()
        };
        let event = Event {
            offers: Some(scheduler::event::Offers {
                offers: vec![offer],
            }),
            ..Default::default()
        };
        let Some(Down::Event(heard)) = older_down(Down::Event(Box::new(event))) else {
            panic!("nothing is left of an offer");
        };
        assert!(heard.offers.unwrap().offers[0].unavailability.is_none());
        let inverse = Event {
            inverse_offers: Some(scheduler::event::InverseOffers::default()),
            ..Default::default()
        };
        assert!(older_down(Down::Event(Box::new(inverse))).is_none());
    }

    #[test]
    fn an_older_agent_reports_no_executors() {
        let register = allot::Register {
            executors: vec![allot::ExecutorRecord::default()],
            attempt: Some(allot::Attempt::default()),
            ..Default::default()
        };
        let message = AgentMessage {
            message: Some(agent_message::Message::Register(register)),
        };
        let Some(Up::Message(said)) = older_up(Up::Message(Box::new(message))) else {
            panic!("nothing is left of a registration");
        };
        match said.message {
            Some(agent_message::Message::Register(register)) => {
                assert!(register.executors.is_empty());
                assert_eq!(register.attempt, None);
            }
            other => panic!("{other:?}"),
        }
    }
}
