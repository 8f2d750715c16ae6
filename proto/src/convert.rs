//! From wire messages to pure types and back.
//!
//! Everything that comes from outside passes here once: numbers that no machine has, forms that
//! contradict themselves and texts that are no ids are refused with a sentence.
//!
//! - `resources`: what agents have and tasks ask.
//! - `lots`: reservations, volumes, revocable and shared resources within them.
//! - `view`: resources for people.

mod lots;
mod resources;
mod view;

use allotment_types::{
    AgentId, Attribute, AttributeValue, ExecutorId, FaultDomain, Fixed, FrameworkId,
};
use allotment_types::{IdError, OfferId, Ranges, TaskId, Timestamp};

use crate::mesos;

pub use lots::LotError;
pub use resources::{
    PIECES_MAX, ResourceError, amounts_from_wire, resources_from_wire, resources_to_old_wire,
    resources_to_wire,
};
pub use view::{amounts_view, resources_view};

macro_rules! wire_id {
    ($wire:ty, $pure:ty) => {
        impl TryFrom<&$wire> for $pure {
            type Error = IdError;

            fn try_from(wire: &$wire) -> Result<Self, IdError> {
                Self::parse(&wire.value)
            }
        }

        impl From<&$pure> for $wire {
            fn from(pure: &$pure) -> Self {
                Self {
                    value: pure.as_str().to_owned(),
                }
            }
        }
    };
}

wire_id!(mesos::AgentId, AgentId);
wire_id!(mesos::ExecutorId, ExecutorId);
wire_id!(mesos::FrameworkId, FrameworkId);
wire_id!(mesos::OfferId, OfferId);
wire_id!(mesos::TaskId, TaskId);

/// Reads an attribute of an agent.
///
/// # Errors
/// A sentence about what is wrong with it, without its name.
pub fn attribute_from_wire(wire: &mesos::Attribute) -> Result<Attribute, String> {
    use mesos::value::Type;
    let missing = |kind: &str| format!("says it is {kind} but carries no such value");
    let value = match wire.r#type() {
        Type::Text => {
            let text = wire.text.as_ref().ok_or_else(|| missing("a text"))?;
            AttributeValue::Text(text.value.clone())
        }
        Type::Scalar => {
            let scalar = wire.scalar.as_ref().ok_or_else(|| missing("a scalar"))?;
            AttributeValue::Scalar(Fixed::from_f64(scalar.value).map_err(|e| e.to_string())?)
        }
        Type::Ranges => {
            let ranges = &wire.ranges.as_ref().ok_or_else(|| missing("ranges"))?.range;
            if ranges.len() > PIECES_MAX || ranges.iter().any(|r| r.begin > r.end) {
                return Err("has malformed ranges".to_owned());
            }
            AttributeValue::Ranges(Ranges::new(ranges.iter().map(|r| (r.begin, r.end))))
        }
        Type::Set => {
            let set = wire.set.as_ref().ok_or_else(|| missing("a set"))?;
            AttributeValue::Set(set.item.clone())
        }
    };
    Ok(Attribute {
        name: wire.name.clone(),
        value,
    })
}

/// Where a machine says it stands.
pub fn domain_from_wire(wire: &mesos::DomainInfo) -> Option<FaultDomain> {
    let domain = wire.fault_domain.as_ref()?;
    Some(FaultDomain {
        region: domain.region.name.clone(),
        zone: domain.zone.name.clone(),
    })
}

/// Writes where a machine stands.
pub fn domain_to_wire(domain: &FaultDomain) -> mesos::DomainInfo {
    use mesos::domain_info::FaultDomain as Wire;
    use mesos::domain_info::fault_domain::{RegionInfo, ZoneInfo};
    mesos::DomainInfo {
        fault_domain: Some(Wire {
            region: RegionInfo {
                name: domain.region.clone(),
            },
            zone: ZoneInfo {
                name: domain.zone.clone(),
            },
        }),
    }
}

/// Writes an instant.
pub fn time_to_wire(at: Timestamp) -> mesos::TimeInfo {
    mesos::TimeInfo {
        nanoseconds: i64::try_from(at.as_nanos()).unwrap_or(i64::MAX),
    }
}

/// Writes a duration.
pub fn duration_to_wire(duration: std::time::Duration) -> mesos::DurationInfo {
    mesos::DurationInfo {
        nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
    }
}

/// Whether a task in this state will never run again, for a framework that is not partition
/// aware (Mesos' `protobuf::isTerminalState`).
pub fn is_terminal(state: mesos::TaskState) -> bool {
    use mesos::TaskState as S;
    match state {
        S::TaskFinished
        | S::TaskFailed
        | S::TaskKilled
        | S::TaskError
        | S::TaskLost
        | S::TaskDropped
        | S::TaskGone
        | S::TaskGoneByOperator => true,
        S::TaskStaging
        | S::TaskStarting
        | S::TaskRunning
        | S::TaskKilling
        | S::TaskUnreachable
        | S::TaskUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn an_update_has_the_bytes_that_mesos_writes() {
        // Field 1 (task id, itself field 1), field 2 (TASK_RUNNING = 1), field 11 (uuid).
        let status = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: "t".to_owned(),
            },
            state: mesos::TaskState::TaskRunning.into(),
            uuid: Some(vec![7; 2].into()),
            ..Default::default()
        };
        assert_eq!(
            status.encode_to_vec(),
            [0x0a, 3, 0x0a, 1, b't', 0x10, 1, 0x5a, 2, 7, 7]
        );
    }
}
