//! Which messages the protocol lets be lost or come twice.
//!
//! A stream loses nothing but its end. Yet updates are repeated until they are acknowledged, and
//! an offer that nobody answers ends by itself; those promises are put to the test by losing such
//! messages from the middle of a stream too. In the same way everything that may be said again
//! after a reconnection is sometimes said twice.

use allotment_proto::allot::{agent_message, master_message};
use allotment_proto::scheduler;

use crate::net::{Down, Up};

/// What may happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct May {
    pub(crate) be_lost: bool,
    pub(crate) come_twice: bool,
}

const NOTHING: May = May {
    be_lost: false,
    come_twice: false,
};
const BOTH: May = May {
    be_lost: true,
    come_twice: true,
};
const BE_LOST: May = May {
    be_lost: true,
    come_twice: false,
};
const COME_TWICE: May = May {
    be_lost: false,
    come_twice: true,
};

pub(crate) fn of_up(up: &Up) -> May {
    match up {
        Up::Opened | Up::Closed => NOTHING,
        Up::Call(call) => match call.r#type() {
            scheduler::call::Type::Acknowledge | scheduler::call::Type::Reconcile => BOTH,
            scheduler::call::Type::Kill => COME_TWICE,
            _ => NOTHING,
        },
        Up::Message(message) => match &message.message {
            Some(agent_message::Message::Update(_)) => BOTH,
            Some(agent_message::Message::Pong(_)) => BE_LOST,
            Some(_) | None => NOTHING,
        },
    }
}

pub(crate) fn of_down(down: &Down) -> May {
    match down {
        Down::Closed { .. } => NOTHING,
        Down::Event(event) => {
            if let Some(update) = &event.update {
                // What the master says of its own accord it says once.
                return if update.status.uuid.is_some() {
                    BOTH
                } else {
                    COME_TWICE
                };
            }
            if event.offers.is_some() || event.rescind.is_some() {
                return BE_LOST;
            }
            NOTHING
        }
        Down::Message(message) => match &message.message {
            Some(master_message::Message::Acknowledge(_)) => BOTH,
            Some(master_message::Message::Ping(_)) => BE_LOST,
            Some(master_message::Message::Launch(_) | master_message::Message::Kill(_)) => {
                COME_TWICE
            }
            Some(_) | None => NOTHING,
        },
    }
}
